//! Workloads, pods and Services, decoded as far as a restart and its proof need them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::cluster::workloads::ports::{self, Container, ServicePort};
use crate::cluster::workloads::selector::Selector;
use crate::job::tail;
use crate::rollout::{DIGEST_ANNOTATION, Health, Kind, PARTITION_BEFORE, Pod, RESTARTED_AT, Target, Workload};
use crate::time::UnixTime;

/// Labels, annotations.
pub(super) type Map = BTreeMap<String, String>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: String,
    uid: String,
    resource_version: String,
    generation: i64,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: Map,
    #[serde(deserialize_with = "or_default")]
    annotations: Map,
    #[serde(deserialize_with = "or_default")]
    owner_references: Vec<Owner>,
}

/// What an object belongs to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    kind: String,
    name: String,
    uid: String,
    /// Whether it is the one that looks after it; at most one does.
    #[serde(deserialize_with = "or_default")]
    controller: bool,
}

/// A Deployment, StatefulSet or DaemonSet.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadObject {
    pub(super) metadata: Metadata,
    pub(super) spec: WorkloadSpec,
    status: WorkloadStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WorkloadSpec {
    replicas: Option<u32>,
    pub(super) selector: Selector,
    /// The Service of a StatefulSet.
    #[serde(deserialize_with = "or_default")]
    pub(super) service_name: String,
    template: Template,
    #[serde(deserialize_with = "or_default")]
    update_strategy: UpdateStrategy,
    /// Of a Deployment.
    #[serde(deserialize_with = "or_default")]
    paused: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: TemplateMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateMetadata {
    #[serde(deserialize_with = "or_default")]
    annotations: Map,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UpdateStrategy {
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    rolling_update: RollingUpdate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RollingUpdate {
    partition: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WorkloadStatus {
    observed_generation: i64,
    replicas: u32,
    updated_replicas: u32,
    available_replicas: u32,
    desired_number_scheduled: u32,
    current_number_scheduled: u32,
    updated_number_scheduled: u32,
    number_available: u32,
    current_revision: String,
    update_revision: String,
}

/// A pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodObject {
    pub(super) metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "or_default")]
    init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "or_default")]
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    #[serde(deserialize_with = "or_default")]
    state: States,
    #[serde(deserialize_with = "or_default")]
    last_state: States,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct States {
    waiting: Option<Said>,
    terminated: Option<Said>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "or_default")]
    message: String,
}

impl Said {
    /// In words; `None` where nothing is wrong with it.
    fn words(&self) -> Option<String> {
        let is_fine = matches!(self.reason.as_str(), "" | "ContainerCreating" | "PodInitializing" | "Completed");
        (!is_fine).then(|| format!("{} {}", self.reason, tail(&self.message)).trim_end().to_owned())
    }
}

/// A Service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceObject {
    pub(super) metadata: Metadata,
    pub(super) spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<ServicePort>,
}

/// Go writes `null` for what is empty.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl WorkloadObject {
    /// The workload with its pods, which listen where these Services say.
    pub(super) fn read<'a>(
        &self,
        target: &Target,
        kind: Kind,
        services: &[&ServiceObject],
        pods: impl Iterator<Item = &'a PodObject>,
    ) -> Workload {
        let Self { metadata, spec, status } = self;
        let [wanted, updated, available, replicas] = match kind {
            Kind::DaemonSet => [
                status.desired_number_scheduled,
                status.updated_number_scheduled,
                status.number_available,
                status.current_number_scheduled,
            ],
            Kind::StatefulSet | Kind::Deployment => {
                [spec.replicas.unwrap_or(1), status.updated_replicas, status.available_replicas, status.replicas]
            }
        };
        let restarted_at = spec.template.metadata.annotations.get(RESTARTED_AT);
        Workload {
            target: target.clone(),
            kind,
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            observed: status.observed_generation >= metadata.generation,
            wanted,
            updated,
            available,
            replicas,
            digest: spec.template.metadata.annotations.get(DIGEST_ANNOTATION).cloned(),
            restarted_at: restarted_at.and_then(|text| UnixTime::parse_rfc_3339(text)),
            partition: spec.update_strategy.rolling_update.partition.unwrap_or(0),
            partition_before: metadata.annotations.get(PARTITION_BEFORE).and_then(|text| text.parse().ok()),
            on_delete: spec.update_strategy.kind == "OnDelete",
            paused: spec.paused,
            revised: kind == Kind::StatefulSet && status.current_revision != status.update_revision,
            pods: pods
                .filter(|pod| !pod.has_ended() && pod.belongs_to(kind, metadata))
                .map(|pod| pod.read(target, services))
                .collect(),
        }
    }

    /// Names under which its Service may be found.
    pub(super) fn service_names(&self) -> impl Iterator<Item = &str> {
        let (own, governing) = (self.metadata.name.as_str(), self.spec.service_name.as_str());
        [own, governing].into_iter().take(if governing.is_empty() || governing == own { 1 } else { 2 })
    }
}

impl PodObject {
    /// Whether it is this workload's, and not another's whose selector means the same labels. A Deployment has its pods by way of ReplicaSets, which are not read:
    /// their names are its own and the hash of the template.
    fn belongs_to(&self, kind: Kind, workload: &Metadata) -> bool {
        let Some(owner) = self.metadata.owner_references.iter().find(|owner| owner.controller) else { return false };
        let is_replica_set =
            |hash: &String| owner.kind == "ReplicaSet" && owner.name == format!("{}-{hash}", workload.name);
        owner.uid == workload.uid
            || kind == Kind::Deployment && self.metadata.labels.get("pod-template-hash").is_some_and(is_replica_set)
    }

    /// A pod that ran to its end (evicted, drained) is no member any more.
    fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    fn read(&self, target: &Target, services: &[&ServiceObject]) -> Pod {
        let Self { metadata, spec, status } = self;
        let ready = status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
        let containers: Vec<&Container> = spec.containers.iter().chain(&spec.init_containers).collect();
        let listeners = target.serves.listeners().iter();
        Pod {
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            ip: Some(status.pod_ip.clone()).filter(|ip| !ip.is_empty()),
            ports: listeners.map(|listener| (*listener, ports::find(*listener, services, &containers))).collect(),
            created: metadata.creation_timestamp.as_deref().and_then(UnixTime::parse_rfc_3339).unwrap_or(UnixTime(0)),
            ready,
            deleting: metadata.deletion_timestamp.is_some(),
            digest: metadata.annotations.get(DIGEST_ANNOTATION).cloned(),
            health: Health::Unknown,
            problem: if ready { None } else { status.problem() },
        }
    }
}

/// Why a pod of this status does not start; `None` where it may yet.
pub(in crate::cluster) fn problem(status: &serde_json::Value) -> Option<String> {
    PodStatus::deserialize(status).ok()?.problem()
}

impl PodStatus {
    /// Why the pod does not become ready.
    fn problem(&self) -> Option<String> {
        for container in self.init_container_statuses.iter().chain(&self.container_statuses) {
            let ContainerStatus { state, last_state } = container;
            // Why it waits, and what it said at its end before: of a crash only that tells why.
            let said = [&state.waiting, &state.terminated, &last_state.terminated].into_iter().flatten();
            let words: Vec<String> = said.filter_map(Said::words).collect();
            if !words.is_empty() {
                return Some(words.join("; "));
            }
        }
        let unscheduled = |condition: &&Condition| condition.kind == "PodScheduled" && condition.status == "False";
        let condition = self.conditions.iter().find(unscheduled)?;
        Some(format!("{}: {}", condition.reason, tail(&condition.message)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_does_not_start_says_why() {
        let problem = |status| serde_json::from_value::<PodStatus>(status).unwrap().problem();
        let waiting = json!({ "containerStatuses": [{ "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }] });
        assert_eq!(problem(waiting).as_deref(), Some("ImagePullBackOff no such image"));
        let key = "MC4CAQAwBQYDK2VwBCIEIAnYl0Gx6ZJkCkCkCkCkCkCkCkCkCkCkCkCkCkCkCkCk";
        let said = format!("cannot start\n-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\nkey={key}\n");
        let ended =
            json!({ "containerStatuses": [{ "lastState": { "terminated": { "reason": "Error", "message": said } } }] });
        let words = problem(ended).unwrap();
        assert!(words.starts_with("Error cannot start") && !words.contains(&key[..12]), "{words}");
        let crashed = json!({ "containerStatuses": [{
            "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } },
            "lastState": { "terminated": { "reason": "Error", "message": "x509: certificate has expired or is not yet valid" } },
        }] });
        let words = "CrashLoopBackOff back-off 10s; Error x509: certificate has expired or is not yet valid";
        assert_eq!(problem(crashed).as_deref(), Some(words));
        let pending = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" }] });
        assert_eq!(problem(pending).as_deref(), Some("Unschedulable: 0/1 nodes"));
        let creating = json!({ "containerStatuses": [{ "state": { "waiting": { "reason": "ContainerCreating" } } }], "initContainerStatuses": null });
        assert_eq!(problem(creating), None);
    }

    #[test]
    fn a_pod_is_its_owners_and_not_whoevers_selector_means_it() {
        let pod = |name: &str, owners| {
            let labels = json!({ "pod-template-hash": "abc" });
            let pod = json!({ "metadata": { "name": name, "labels": labels, "ownerReferences": owners } });
            serde_json::from_value::<PodObject>(pod).unwrap()
        };
        let owner =
            |kind, uid, controller| json!([{ "kind": kind, "name": "m-abc", "uid": uid, "controller": controller }]);
        let pods = [
            pod("own", owner("StatefulSet", "u", json!(true))),
            pod("another's", owner("StatefulSet", "v", json!(true))),
            pod("a Deployment's", owner("ReplicaSet", "r", json!(true))),
            pod(
                "another Deployment's",
                json!([{ "kind": "ReplicaSet", "name": "m-two-abc", "uid": "r", "controller": true }]),
            ),
            pod("a Job's", owner("Job", "j", json!(true))),
            pod("not looked after", owner("StatefulSet", "u", json!(null))),
            pod("nobody's", json!(null)),
        ];
        let names = |kind| {
            let object: WorkloadObject =
                serde_json::from_value(json!({ "metadata": { "name": "m", "uid": "u" } })).unwrap();
            let read = object.read(&crate::rollout::default_tiers()[0][0], kind, &[], pods.iter());
            read.pods.into_iter().map(|pod| pod.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Kind::StatefulSet), ["own"]);
        assert_eq!(names(Kind::DaemonSet), ["own"]);
        assert_eq!(names(Kind::Deployment), ["own", "a Deployment's"]);
    }

    #[test]
    fn a_workload_is_read_where_go_writes_null_or_nothing() {
        let object = json!({
            "metadata": { "name": "m-etcd", "uid": "u", "generation": 2, "annotations": null, "creationTimestamp": null },
            "spec": { "selector": { "matchLabels": { "app": "m" } }, "template": { "metadata": { "creationTimestamp": null } }, "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } },
            "status": { "observedGeneration": 2, "availableReplicas": 1 },
        });
        let object: WorkloadObject = serde_json::from_value(object).unwrap();
        let read = object.read(&crate::rollout::default_tiers()[0][0], Kind::StatefulSet, &[], std::iter::empty());
        assert_eq!((read.wanted, read.available, read.observed, read.on_delete), (1, 1, true, true));
        assert_eq!(object.service_names().collect::<Vec<_>>(), ["m-etcd"]);
    }
}
