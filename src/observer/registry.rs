//! What all sources have published, for those who read it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::inventory::Snapshot;
use crate::metrics::exposition::ClusterSnapshot;
use crate::metrics::{Observed, SourceHealth};
use crate::name::CLUSTER_SECRETS;
use crate::observer::ClusterSpec;
use crate::observer::health::Health;
use crate::ports::SourceErrorReason;

/// All sources and the present snapshots of all clusters.
pub struct Registry {
    sources: Mutex<BTreeMap<Arc<str>, Vec<Arc<SourceState>>>>,
    clusters: ArcSwap<Vec<ClusterSnapshot>>,
    changes: watch::Sender<u64>,
}

/// One source: a namespace of a cluster, a cluster as a whole, or the Secrets that announce clusters.
pub struct SourceState {
    /// `CLUSTER/NAMESPACE`, or `CLUSTER` where all namespaces are watched; `clusterSecrets`.
    pub name: Arc<str>,
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// The namespace; `None` for all.
    pub namespace: Option<Arc<str>>,
    health: Mutex<Health>,
    /// Absent before the first full list: nothing partial is shown. Until then that of a former source of the same cluster and namespace.
    snapshot: Mutex<Option<Snapshot>>,
}

/// No cluster is called so.
const NO_CLUSTER: &str = "";

impl Default for Registry {
    fn default() -> Self {
        Self { sources: Mutex::default(), clusters: ArcSwap::default(), changes: watch::Sender::new(0) }
    }
}

impl Registry {
    /// Announces changes of what is published or of a source's health; the number has no meaning but to differ.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What failed last at each source that is down, as (source, message).
    pub fn failures(&self) -> Vec<(Arc<str>, String)> {
        let message =
            |source: &Arc<SourceState>| Some((Arc::clone(&source.name), lock(&source.health).message.clone()?));
        lock(&self.sources).values().flatten().filter_map(message).collect()
    }

    /// What the sources of a cluster hold that have been read as a whole; not what was handed on to the others.
    pub fn read(&self, cluster: &str) -> Vec<Snapshot> {
        let is_read = |source: &&Arc<SourceState>| lock(&source.health).listed;
        let sources = lock(&self.sources);
        let read = sources.get(cluster).into_iter().flatten().filter(is_read);
        read.filter_map(|source| lock(&source.snapshot).clone()).collect()
    }

    /// The sources of a cluster; those that there were of it are replaced, and hand on what they know.
    pub(super) fn add(&self, spec: &ClusterSpec) -> Vec<Arc<SourceState>> {
        let source = |namespace: Option<&String>| {
            let name =
                namespace.map_or_else(|| spec.name.to_string(), |namespace| format!("{}/{namespace}", spec.name));
            self.source(name.into(), &spec.name, namespace.map(|namespace| namespace.as_str().into()))
        };
        let sources = match &spec.namespaces {
            None => vec![source(None)],
            Some(namespaces) => namespaces.iter().map(|namespace| source(Some(namespace))).collect(),
        };
        lock(&self.sources).insert(Arc::clone(&spec.name), sources.clone());
        self.compose(&spec.name);
        sources
    }

    /// The source that is no cluster's: the Secrets that announce clusters.
    pub(super) fn add_discovery(&self) -> Arc<SourceState> {
        let source = self.source(CLUSTER_SECRETS.into(), &NO_CLUSTER.into(), None);
        lock(&self.sources).insert(Arc::clone(&source.cluster), vec![Arc::clone(&source)]);
        self.changes.send_modify(|number| *number += 1);
        source
    }

    /// A source that begins with what the present one of its cluster and namespace knows.
    fn source(&self, name: Arc<str>, cluster: &Arc<str>, namespace: Option<Arc<str>>) -> Arc<SourceState> {
        let sources = lock(&self.sources);
        let former = sources.get(cluster).into_iter().flatten().find(|former| former.namespace == namespace);
        let health = former.map(|former| lock(&former.health).handed_on()).unwrap_or_default();
        let snapshot = former.and_then(|former| lock(&former.snapshot).clone());
        let (cluster, health, snapshot) = (Arc::clone(cluster), health.into(), snapshot.into());
        Arc::new(SourceState { name, cluster, namespace, health, snapshot })
    }

    pub(super) fn remove_discovery(&self) {
        self.remove(NO_CLUSTER);
    }

    pub(super) fn remove(&self, cluster: &str) {
        lock(&self.sources).remove(cluster);
        self.compose(cluster);
    }

    pub(super) fn publish(&self, source: &SourceState, snapshot: Snapshot) {
        *lock(&source.snapshot) = Some(snapshot);
        self.compose(&source.cluster);
    }

    pub(super) fn record(&self, source: &SourceState, change: impl FnOnce(&mut Health)) {
        change(&mut lock(&source.health));
        self.changes.send_modify(|number| *number += 1);
    }

    /// Joins the snapshots of a cluster's sources; the other clusters' keep their identity, so that nothing of them is rendered again.
    fn compose(&self, cluster: &str) {
        // Held until the result is stored, so that two sources cannot overwrite each other's.
        let sources = lock(&self.sources);
        let mut clusters: Vec<ClusterSnapshot> =
            self.clusters.load().iter().filter(|known| *known.name != *cluster).cloned().collect();
        if let Some((name, sources)) = sources.get_key_value(cluster) {
            let shards = sources.iter().flat_map(|source| lock(&source.snapshot).clone().unwrap_or_default().shards);
            let snapshot = Arc::new(Snapshot { shards: shards.collect() });
            clusters.push(ClusterSnapshot { name: Arc::clone(name), snapshot });
            clusters.sort_by(|a, b| a.name.cmp(&b.name));
        }
        self.clusters.store(Arc::new(clusters));
        drop(sources);
        self.changes.send_modify(|number| *number += 1);
    }
}

impl Observed for Registry {
    fn clusters(&self) -> Vec<ClusterSnapshot> {
        self.clusters.load().to_vec()
    }

    fn sources(&self) -> Vec<SourceHealth> {
        let health = |source: &Arc<SourceState>| {
            let Health { up, last_success, objects, resyncs, errors, message, .. } = lock(&source.health).clone();
            let errors =
                SourceErrorReason::ALL.map(|reason| (reason.as_str(), errors.get(&reason).copied().unwrap_or(0)));
            SourceHealth {
                source: Arc::clone(&source.name),
                up,
                last_success,
                objects,
                errors: errors.to_vec(),
                resyncs,
                message,
            }
        };
        lock(&self.sources).values().flatten().map(health).collect()
    }

    fn ready(&self) -> Result<(), String> {
        let waiting = |source: &&Arc<SourceState>| {
            let health = lock(&source.health);
            !health.listed && !health.failed
        };
        match lock(&self.sources).values().flatten().find(waiting) {
            Some(source) => Err(format!("the first list of {} is not complete", source.name)),
            None => Ok(()),
        }
    }
}

/// What these locks guard is replaced whole: a panic elsewhere cannot leave it half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
