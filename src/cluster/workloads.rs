//! Workloads and their pods, of whatever kind they are, and their restart.

use serde_json::{Value, json};

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::workloads::objects::{PodObject, ServiceObject, WorkloadObject};
use crate::rollout::{DIGEST_ANNOTATION, Kind, PARTITION_BEFORE, RESTARTED_AT, Serves, Target, Workload};
use crate::time::UnixTime;

mod objects;
mod ports;
mod roster;
mod selector;

pub(super) use objects::problem;
pub use roster::Roster;

/// A list of pods.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Pods {
    #[serde(deserialize_with = "objects::or_default")]
    items: Vec<PodObject>,
}

fn path(namespace: &str, kind: Kind, name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/{}/{name}", kind.plural())
}

/// What is known of workloads, and what is wanted of them, beside their names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// Of which kinds they were: these are tried first.
    pub kinds: &'a [(&'a str, Kind)],
    /// Whether it matters where their pods listen.
    pub ports: Ports,
}

/// Where the pods of a workload listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// As their Services say, which are read.
    #[default]
    Named,
    /// Of no interest.
    Unread,
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
        hints: Hints<'_>,
    ) -> Result<Result<Vec<Vec<Workload>>, String>, ApiError> {
        let mut found = Vec::new();
        for tier in tiers {
            let mut workloads = Vec::new();
            for target in tier {
                let name = target.name.replace("{mesh}", mesh);
                match self.workload(namespace, &name, target, hints).await? {
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

    async fn workload(
        &self,
        namespace: &str,
        name: &str,
        target: &Target,
        Hints { kinds, ports }: Hints<'_>,
    ) -> Result<Option<Workload>, ApiError> {
        let known = kinds.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let others = Kind::ALL.into_iter().filter(|kind| Some(*kind) != known);
        for kind in known.into_iter().chain(others) {
            if let Some(object) = self.get::<WorkloadObject>(&path(namespace, kind, name)).await? {
                let selector = object.spec.selector.query();
                let pods = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
                let pods = self.get::<Pods>(&pods).await?.unwrap_or_default().items;
                let services = match ports {
                    Ports::Named => self.services(namespace, &object, target).await?,
                    Ports::Unread => Vec::new(),
                };
                let services: Vec<&ServiceObject> = services.iter().collect();
                return Ok(Some(object.read(target, kind, &services, pods.iter())));
            }
        }
        Ok(None)
    }

    /// The Services that lead to a workload whose endpoints are looked at; none where they may not be read.
    async fn services(
        &self,
        namespace: &str,
        object: &WorkloadObject,
        target: &Target,
    ) -> Result<Vec<ServiceObject>, ApiError> {
        let mut found = Vec::new();
        for name in object.service_names().filter(|_| target.serves != Serves::Nothing) {
            match self.get(&format!("/api/v1/namespaces/{namespace}/services/{name}")).await {
                Ok(service) => found.extend::<Option<ServiceObject>>(service),
                Err(error) if error.kind == ErrorKind::Forbidden => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
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
        let patch = restart_patch(workload, digest, now, partition);
        self.merge(&path(namespace, workload.kind, &workload.name), &patch).await
    }

    /// Tries whether that could be done.
    ///
    /// # Errors
    /// As [`Api::restart`].
    pub async fn try_restart(&self, namespace: &str, workload: &Workload, now: UnixTime) -> Result<(), ApiError> {
        let patch = restart_patch(workload, "tried", now, None);
        self.try_merge(&path(namespace, workload.kind, &workload.name), &patch).await
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

fn restart_patch(workload: &Workload, digest: &str, now: UnixTime, partition: Option<u32>) -> Value {
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
    patch
}
