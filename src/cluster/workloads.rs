//! Workloads and their pods, of whatever kind they are, and their restart.

use serde_json::{Value, json};

use crate::cluster::api::{Api, ApiError};
use crate::rollout::{DIGEST_ANNOTATION, Kind, PARTITION_BEFORE, Pod, RESTARTED_AT, Target, Workload};
use crate::time::UnixTime;

fn path(namespace: &str, kind: Kind, name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/{}/{name}", kind.plural())
}

impl Api {
    /// The workloads of a mesh, tier by tier; in words, which one is missing.
    ///
    /// # Errors
    /// A request failed.
    pub async fn workloads(
        &self,
        namespace: &str,
        mesh: &str,
        tiers: &[Vec<Target>],
    ) -> Result<Result<Vec<Vec<Workload>>, String>, ApiError> {
        let mut found = Vec::new();
        for tier in tiers {
            let mut workloads = Vec::new();
            for target in tier {
                let name = target.name.replace("{mesh}", mesh);
                match self.workload(namespace, &name, target).await? {
                    Some(workload) => workloads.push(workload),
                    None if target.optional => {}
                    None => {
                        return Ok(Err(format!(
                            "there is no StatefulSet, Deployment or DaemonSet {name} in {namespace}; correct policy.restartTiers, or make it optional there"
                        )));
                    }
                }
            }
            found.push(workloads);
        }
        Ok(Ok(found))
    }

    async fn workload(&self, namespace: &str, name: &str, target: &Target) -> Result<Option<Workload>, ApiError> {
        for kind in Kind::ALL {
            if let Some(object) = self.get::<Value>(&path(namespace, kind, name)).await? {
                let selector = selector(&object["spec"]["selector"]);
                let pods = self.list(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")).await?;
                return Ok(Some(read(target.clone(), kind, &object, &pods)));
            }
        }
        Ok(None)
    }

    /// Has new pods made: annotations on the pod template, on the version that was read. With a partition, member by member from there on.
    ///
    /// # Errors
    /// The request failed; a conflict where it has changed.
    pub async fn restart(
        &self,
        namespace: &str,
        workload: &Workload,
        digest: &str,
        now: UnixTime,
        partition: Option<u32>,
    ) -> Result<(), ApiError> {
        let annotations = json!({ DIGEST_ANNOTATION: digest, RESTARTED_AT: now });
        let mut patch = json!({
            "metadata": { "resourceVersion": workload.resource_version },
            "spec": { "template": { "metadata": { "annotations": annotations } } },
        });
        if let Some(partition) = partition {
            let before = workload.partition_before.unwrap_or(workload.partition);
            patch["metadata"]["annotations"] = json!({ PARTITION_BEFORE: before.to_string() });
            patch["spec"]["updateStrategy"] =
                json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": partition } });
        }
        self.merge(&path(namespace, workload.kind, &workload.name), &patch).await
    }

    /// Lets the next member go; the last time, what was before is restored.
    ///
    /// # Errors
    /// As [`Api::restart`].
    pub async fn set_partition(
        &self,
        namespace: &str,
        workload: &Workload,
        partition: u32,
        last: bool,
    ) -> Result<(), ApiError> {
        let mut patch = json!({
            "metadata": { "resourceVersion": workload.resource_version },
            "spec": { "updateStrategy": { "rollingUpdate": { "partition": partition } } },
        });
        if last {
            patch["metadata"]["annotations"] = json!({ PARTITION_BEFORE: null });
        }
        self.merge(&path(namespace, workload.kind, &workload.name), &patch).await
    }

    /// Ends one pod.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        self.delete(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), Some(uid)).await
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn read(target: Target, kind: Kind, object: &Value, pods: &[Value]) -> Workload {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let [wanted, updated, available, replicas] = match kind {
        Kind::DaemonSet => [
            &status["desiredNumberScheduled"],
            &status["updatedNumberScheduled"],
            &status["numberAvailable"],
            &status["currentNumberScheduled"],
        ]
        .map(number),
        Kind::StatefulSet | Kind::Deployment => {
            let wanted = if spec["replicas"].is_null() { 1 } else { number(&spec["replicas"]) };
            let counted = [&status["updatedReplicas"], &status["availableReplicas"], &status["replicas"]].map(number);
            [wanted, counted[0], counted[1], counted[2]]
        }
    };
    Workload {
        target,
        kind,
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
        resource_version: text(&metadata["resourceVersion"]),
        observed: status["observedGeneration"].as_i64() >= metadata["generation"].as_i64(),
        wanted,
        updated,
        available,
        replicas,
        digest: spec["template"]["metadata"]["annotations"][DIGEST_ANNOTATION].as_str().map(str::to_owned),
        partition: number(&spec["updateStrategy"]["rollingUpdate"]["partition"]),
        partition_before: metadata["annotations"][PARTITION_BEFORE].as_str().and_then(|text| text.parse().ok()),
        on_delete: spec["updateStrategy"]["type"] == "OnDelete",
        pods: pods.iter().filter(|pod| !has_ended(pod)).map(read_pod).collect(),
    }
}

/// A pod that ran to its end (evicted, drained) is no member any more.
fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn read_pod(pod: &Value) -> Pod {
    let (metadata, status) = (&pod["metadata"], &pod["status"]);
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    Pod {
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
        ip: status["podIP"].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned),
        created: metadata["creationTimestamp"].as_str().and_then(UnixTime::parse_rfc_3339).unwrap_or(UnixTime(0)),
        ready,
        deleting: metadata["deletionTimestamp"].is_string(),
        digest: metadata["annotations"][DIGEST_ANNOTATION].as_str().map(str::to_owned),
        problem: if ready { None } else { problem(conditions, status) },
    }
}

/// Why a pod does not become ready, as its status says.
pub(super) fn problem(conditions: &[Value], status: &Value) -> Option<String> {
    let containers = ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|kind| status[kind].as_array().into_iter().flatten());
    for container in containers {
        for state in
            [&container["state"]["waiting"], &container["state"]["terminated"], &container["lastState"]["terminated"]]
        {
            let reason = text(&state["reason"]);
            if !reason.is_empty()
                && reason != "ContainerCreating"
                && reason != "PodInitializing"
                && reason != "Completed"
            {
                let said: String = text(&state["message"]).chars().take(300).collect();
                return Some(format!("{reason} {said}").trim_end().to_owned());
            }
        }
    }
    let unscheduled =
        conditions.iter().find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    unscheduled.map(|condition| format!("{}: {}", text(&condition["reason"]), text(&condition["message"])))
}

/// A label selector for a query.
fn selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut terms: Vec<String> = labels.map(|(key, value)| format!("{key}={}", text(value))).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = text(&expression["key"]);
        let values: Vec<String> = expression["values"].as_array().into_iter().flatten().map(text).collect();
        let values = values.join(",");
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key,
        });
    }
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    terms.join(",").bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_query() {
        let both = json!({ "matchLabels": { "app": "a" }, "matchExpressions": [{ "key": "x", "operator": "NotIn", "values": ["1", "2"] }] });
        assert_eq!(selector(&both), "app%3Da%2Cx%20notin%20%281%2C2%29");
    }

    #[test]
    fn a_pod_that_does_not_start_says_why() {
        let waiting = json!({ "containerStatuses": [{ "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }] });
        assert_eq!(problem(&[], &waiting).as_deref(), Some("ImagePullBackOff no such image"));
        let pending =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" });
        assert_eq!(problem(&[pending], &json!({})).as_deref(), Some("Unschedulable: 0/1 nodes"));
        let creating = json!({ "containerStatuses": [{ "state": { "waiting": { "reason": "ContainerCreating" } } }] });
        assert_eq!(problem(&[], &creating), None);
    }
}
