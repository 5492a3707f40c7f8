//! Controllers for Deployments, StatefulSets, DaemonSets and Jobs: pods come, become ready, and are replaced as Kubernetes replaces them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::demo::endpoints::Endpoints;
use crate::demo::forward::Nodes;
use crate::demo::jobs;
use crate::demo::store::{Dependents, Key, Object, Store};
use crate::ports::Clock;

/// Resources with pods.
const WORKLOADS: [&str; 4] = ["apps/deployments", "apps/statefulsets", "apps/daemonsets", "batch/jobs"];
/// An image whose name contains this cannot be pulled.
const MISSING_IMAGE: &str = "missing";

/// The controllers of one embedded API.
pub(super) struct Controllers {
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
    /// Between two steps of a rollout.
    pub(super) pace: Duration,
    /// What listens for the pods.
    pub(super) endpoints: Endpoints,
    /// Pod templates by revision: a StatefulSet makes pods below its partition from the old one.
    revisions: BTreeMap<String, Value>,
}

impl Controllers {
    pub(super) fn new(store: Arc<Store>, clock: Arc<dyn Clock>, pace: Duration, nodes: Arc<Nodes>) -> Self {
        let endpoints = Endpoints::new(Arc::clone(&store), Arc::clone(&clock), nodes);
        Self { store, clock, pace, endpoints, revisions: BTreeMap::new() }
    }

    /// Runs everything to rest at once: a cluster that has been up for long.
    pub(super) async fn settle(&mut self) {
        let mut unsettled: BTreeSet<Key> = self.all().collect();
        while !unsettled.is_empty() {
            unsettled = self.pass(unsettled).await;
        }
    }

    /// Follows the store for ever.
    pub(super) async fn run(mut self) {
        let mut versions = self.store.versions();
        let mut seen = *versions.borrow_and_update();
        let mut unsettled: BTreeSet<Key> = self.all().collect();
        loop {
            if unsettled.is_empty() && versions.changed().await.is_err() {
                return;
            }
            sleep(self.pace).await;
            match self.store.since(seen) {
                Some((changes, now)) => {
                    seen = now;
                    unsettled.extend(changes.iter().filter_map(|change| {
                        self.touched(&change.key, change.before.as_ref().or(change.after.as_ref()))
                    }));
                }
                None => {
                    seen = *versions.borrow_and_update();
                    unsettled = self.all().collect();
                }
            }
            unsettled = self.pass(unsettled).await;
        }
    }

    fn all(&self) -> impl Iterator<Item = Key> {
        WORKLOADS
            .into_iter()
            .flat_map(|resource| self.store.list(resource, None).objects)
            .map(|(key, _)| key)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The workload that a change is about: itself, or the owner of a pod.
    fn touched(&self, key: &Key, object: Option<&Object>) -> Option<Key> {
        if WORKLOADS.contains(&&*key.0) {
            return Some(key.clone());
        }
        let owner = &object?.value["metadata"]["ownerReferences"][0];
        let resource =
            WORKLOADS.into_iter().find(|resource| owner["kind"] == kind_of(resource)).filter(|_| &*key.0 == "/pods")?;
        Some((resource.into(), Arc::clone(&key.1), owner["name"].as_str()?.into()))
    }

    /// One step of each; those that need another remain.
    async fn pass(&mut self, unsettled: BTreeSet<Key>) -> BTreeSet<Key> {
        self.endpoints.stop_those_without_pod();
        let mut remaining = BTreeSet::new();
        for key in unsettled {
            let Some(workload) = self.store.get(&key) else { continue };
            if self.step(&key, &workload.value).await {
                remaining.insert(key);
            }
        }
        remaining
    }

    /// One step of a workload; whether there is more to do.
    async fn step(&mut self, key: &Key, workload: &Value) -> bool {
        let mut pods = Pods::of(&self.store, key, workload);
        let waiting: Vec<Key> = pods
            .0
            .iter()
            .filter(|pod| pod.value["status"]["phase"] == "Pending")
            .map(|pod| pod_key(&key.1, &pod.value))
            .collect();
        let started = !waiting.is_empty();
        for pod in waiting {
            self.start(&pod).await;
        }
        if started {
            pods = Pods::of(&self.store, key, workload);
        }
        if &*key.0 == "batch/jobs" {
            return jobs::step(self, key, workload, &pods).await;
        }
        let revision = revision(&workload["spec"]["template"]);
        self.revisions.insert(revision.clone(), workload["spec"]["template"].clone());
        let moved = match &*key.0 {
            "apps/deployments" => self.roll_deployment(key, workload, &pods, &revision),
            "apps/statefulsets" => self.roll_stateful_set(key, workload, &pods, &revision),
            _ => self.roll_daemon_set(key, workload, &pods, &revision),
        };
        let pods = Pods::of(&self.store, key, workload);
        self.write_status(key, workload, &pods, &revision);
        moved || pods.0.iter().any(|pod| pod.value["status"]["phase"] == "Pending" && !is_stuck(&pod.value))
    }

    /// One more new pod than wanted at a time, and an old one goes when a new one is ready (maxSurge 1, maxUnavailable 0).
    fn roll_deployment(&self, key: &Key, workload: &Value, pods: &Pods, revision: &str) -> bool {
        let wanted = replicas(workload);
        let (new, old): (Vec<_>, Vec<_>) = pods.0.iter().partition(|pod| is_of(&pod.value, revision));
        if new.len() < wanted && pods.0.len() <= wanted {
            let serial = *self.store.versions().borrow();
            let name = format!("{}-{revision}-{:05x}", key.2, serial.wrapping_mul(40_503) % 0xf_ffff);
            self.create_pod(key, workload, &name, &workload["spec"]["template"], revision);
            return true;
        }
        // Of the old ones, those first that do not come up.
        let old = old.iter().find(|pod| !is_ready(&pod.value)).or(old.first());
        let surplus = if new.len() > wanted { new.last() } else { old };
        let ready = pods.0.iter().filter(|pod| is_ready(&pod.value)).count();
        let spare = surplus.filter(|pod| {
            ready > wanted || (ready == wanted && !is_ready(&pod.value)) || new.len() > wanted || wanted == 0
        });
        spare.is_some_and(|pod| self.delete_pod(key, &pod.value))
    }

    /// From the highest ordinal down to the partition, each after all others are ready.
    fn roll_stateful_set(&self, key: &Key, workload: &Value, pods: &Pods, revision: &str) -> bool {
        let wanted = replicas(workload);
        let strategy = &workload["spec"]["updateStrategy"];
        let partition = strategy["rollingUpdate"]["partition"].as_u64().map_or(0, |partition| partition as usize);
        let current = workload["status"]["currentRevision"]
            .as_str()
            .and_then(|name| name.rsplit('-').next())
            .unwrap_or(revision)
            .to_owned();
        let at = |ordinal: usize| {
            let name = format!("{}-{ordinal}", key.2);
            pods.0.iter().find(|pod| pod.value["metadata"]["name"] == name.as_str())
        };
        for ordinal in 0..wanted {
            if at(ordinal).is_none() {
                let revision =
                    if ordinal < partition && self.revisions.contains_key(&current) { &current } else { revision };
                let template = self.revisions.get(revision).unwrap_or(&workload["spec"]["template"]);
                self.create_pod(key, workload, &format!("{}-{ordinal}", key.2), template, revision);
                return true;
            }
        }
        if let Some(surplus) = pods.0.iter().find(|pod| ordinal(&pod.value).is_none_or(|ordinal| ordinal >= wanted)) {
            return self.delete_pod(key, &surplus.value);
        }
        let rolls = strategy["type"] != "OnDelete";
        let stale = (partition..wanted).rev().filter_map(at).find(|pod| !is_of(&pod.value, revision)).filter(|_| rolls);
        let Some(stale) = stale else { return false };
        let others_ready = pods
            .0
            .iter()
            .all(|pod| is_ready(&pod.value) || pod.value["metadata"]["uid"] == stale.value["metadata"]["uid"]);
        others_ready && self.delete_pod(key, &stale.value)
    }

    fn roll_daemon_set(&self, key: &Key, workload: &Value, pods: &Pods, revision: &str) -> bool {
        match pods.0.first() {
            None => {
                self.create_pod(
                    key,
                    workload,
                    &format!("{}-{revision}", key.2),
                    &workload["spec"]["template"],
                    revision,
                );
                true
            }
            Some(pod) if !is_of(&pod.value, revision) => self.delete_pod(key, &pod.value),
            Some(_) => false,
        }
    }

    /// Creates a pod of a template, owned by its workload.
    pub(super) fn create_pod(&self, key: &Key, workload: &Value, name: &str, template: &Value, revision: &str) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"].clone(), "spec": template["spec"].clone(),
            "status": { "phase": "Pending" },
        });
        let metadata = &mut pod["metadata"];
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(&*key.1);
        let label = if &*key.0 == "apps/deployments" { "pod-template-hash" } else { "controller-revision-hash" };
        metadata["labels"][label] = json!(revision);
        metadata["ownerReferences"] = json!([{
            "apiVersion": workload["apiVersion"], "kind": kind_of(&key.0), "name": &*key.2,
            "uid": workload["metadata"]["uid"], "controller": true,
        }]);
        // Only this controller makes pods of this name; one that is there already is as good.
        let _ = self.store.create(("/pods".into(), Arc::clone(&key.1), name.into()), pod);
    }

    fn delete_pod(&self, key: &Key, pod: &Value) -> bool {
        self.store.delete(&pod_key(&key.1, pod), Dependents::Go, |_| Ok(())).is_ok()
    }

    /// Starts a pending pod: its image is there or not, then it listens and is ready.
    async fn start(&mut self, key: &Key) {
        let Some(pod) = self.store.get(key) else { return };
        let image = pod.value["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        let started = self.clock.now().to_string();
        let waits = |reason: &str, message: String| {
            let waiting = json!({ "waiting": { "reason": reason, "message": message } });
            json!({ "phase": "Pending", "containerStatuses": [container(&pod.value, false, &waiting)] })
        };
        let status = if self.no_node_takes_pods() {
            let message = "0/1 nodes are available: 1 node(s) were unschedulable.";
            json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message }] })
        } else if image.contains(MISSING_IMAGE) {
            waits("ImagePullBackOff", format!("Back-off pulling image {image:?}"))
        } else {
            match self.endpoints.start(&pod.value).await {
                Err(error) => waits("ContainerCreating", format!("{error:#}")),
                Ok(address) => json!({
                    "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "hostIP": "127.0.0.1", "startTime": started,
                    "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": started }],
                    "containerStatuses": [container(&pod.value, true, &json!({ "running": { "startedAt": started } }))],
                }),
            }
        };
        self.set_status(key, status);
    }

    /// Whether there are nodes, and all are cordoned. Without any, pods run all the same.
    fn no_node_takes_pods(&self) -> bool {
        let nodes = self.store.list("/nodes", None).objects;
        !nodes.is_empty() && nodes.iter().all(|(_, node)| node.value["spec"]["unschedulable"] == true)
    }

    /// Writes a status; an object that is gone needs none.
    pub(super) fn set_status(&self, key: &Key, status: Value) {
        let _ = self.store.update(key, |current| {
            let mut next = current.clone();
            next["status"] = status;
            Ok(next)
        });
    }

    fn write_status(&self, key: &Key, workload: &Value, pods: &Pods, revision: &str) {
        let count = |filter: &dyn Fn(&Value) -> bool| pods.0.iter().filter(|pod| filter(&pod.value)).count();
        let total = pods.0.len();
        let updated = count(&|pod| is_of(pod, revision));
        let ready = count(&is_ready);
        let generation = &workload["metadata"]["generation"];
        let status = match &*key.0 {
            "apps/deployments" => json!({
                "observedGeneration": generation, "replicas": total, "updatedReplicas": updated, "readyReplicas": ready,
                "availableReplicas": ready, "unavailableReplicas": replicas(workload).saturating_sub(ready),
                "conditions": [
                    { "type": "Available", "status": if ready >= replicas(workload) { "True" } else { "False" } },
                    { "type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" },
                ],
            }),
            "apps/statefulsets" => {
                let complete = updated == total && total == replicas(workload);
                let update = format!("{}-{revision}", key.2);
                let before = workload["status"]["currentRevision"].as_str().map(str::to_owned);
                let current = if complete { update.clone() } else { before.unwrap_or_else(|| update.clone()) };
                json!({
                    "observedGeneration": generation, "replicas": total, "updatedReplicas": updated, "currentReplicas": total - updated,
                    "readyReplicas": ready, "availableReplicas": ready, "currentRevision": current, "updateRevision": update,
                })
            }
            _ => json!({
                "observedGeneration": generation, "desiredNumberScheduled": 1, "currentNumberScheduled": total, "updatedNumberScheduled": updated,
                "numberReady": ready, "numberAvailable": ready, "numberMisscheduled": 0,
            }),
        };
        self.set_status(key, status);
    }
}

/// The pods of a workload, oldest first.
pub(super) struct Pods(pub(super) Vec<Object>);

impl Pods {
    fn of(store: &Store, key: &Key, workload: &Value) -> Self {
        let uid = &workload["metadata"]["uid"];
        let mut pods: Vec<Object> = store
            .list("/pods", Some(&key.1))
            .objects
            .into_iter()
            .map(|(_, object)| object)
            .filter(|object| object.value["metadata"]["ownerReferences"][0]["uid"] == *uid)
            .collect();
        pods.sort_by_key(|pod| pod.value["metadata"]["uid"].as_str().map(str::to_owned));
        Self(pods)
    }
}

pub(super) fn pod_key(namespace: &Arc<str>, pod: &Value) -> Key {
    ("/pods".into(), Arc::clone(namespace), pod["metadata"]["name"].as_str().unwrap_or_default().into())
}

pub(super) fn container(pod: &Value, ready: bool, state: &Value) -> Value {
    let spec = &pod["spec"]["containers"][0];
    json!({ "name": spec["name"], "image": spec["image"], "imageID": "", "restartCount": 0, "ready": ready, "started": ready, "state": state })
}

fn kind_of(resource: &str) -> &'static str {
    match resource {
        "apps/deployments" => "Deployment",
        "apps/statefulsets" => "StatefulSet",
        "apps/daemonsets" => "DaemonSet",
        _ => "Job",
    }
}

fn revision(template: &Value) -> String {
    format!("{:08x}", crc32fast::hash(template.to_string().as_bytes()))
}

fn replicas(workload: &Value) -> usize {
    workload["spec"]["replicas"].as_u64().map_or(1, |replicas| replicas as usize)
}

fn ordinal(pod: &Value) -> Option<usize> {
    pod["metadata"]["name"].as_str()?.rsplit('-').next()?.parse().ok()
}

fn is_of(pod: &Value, revision: &str) -> bool {
    ["pod-template-hash", "controller-revision-hash"].iter().any(|label| pod["metadata"]["labels"][label] == revision)
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"][0]["status"] == "True"
}

fn is_stuck(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["waiting"].is_object()
}
