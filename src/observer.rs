//! The observing plane: one task per source follows its Secrets and publishes what they add up to.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::cluster::connect::Connection;
use crate::observer::discovery::{Discovery, Progress, hand_over};
use crate::ports::Clock;
use crate::secret::Selection;
use crate::tasks::Tasks;

pub mod discovery;
mod health;
mod registry;
mod source;

pub use registry::{Registry, SourceState};

/// A cluster to observe.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSpec {
    /// The value of `mesh_cluster`.
    pub name: Arc<str>,
    /// How it is reached.
    pub connection: Connection,
    /// Namespaces to watch; `None` for all.
    pub namespaces: Option<Vec<String>>,
    /// Which Secrets are read.
    pub selection: Arc<Selection>,
}

/// Starts and stops the tasks of the clusters, and the one that looks for clusters, as the configuration says.
pub struct Supervisor {
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    tasks: Tasks<ClusterSpec>,
    discovery: Tasks<Discovery>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        Self { registry, clock, tasks: Tasks::default(), discovery: Tasks::default() }
    }

    /// Makes the observed clusters those of `specs`: those that go take their series along; those that are only reached or read in another way keep them until
    /// they have been listed in that way.
    pub fn reconcile(&mut self, specs: Vec<ClusterSpec>) {
        let Self { registry, clock, tasks, discovery: _ } = self;
        let wanted = specs.into_iter().map(|spec| (Arc::clone(&spec.name), spec)).collect();
        let ended = |former: &ClusterSpec, next: Option<&ClusterSpec>| {
            let stays = next.is_some_and(|next| next.connection.leads_where_does(&former.connection));
            if !stays {
                info!(cluster = %former.name, "no longer observing");
                registry.remove(&former.name);
            }
        };
        let start = |spec: &ClusterSpec| {
            let namespaces = spec.namespaces.as_ref().map_or_else(|| "*".to_owned(), |names| names.join(","));
            info!(cluster = %spec.name, connection = ?spec.connection, %namespaces, "observing");
            let sources = registry.add(spec).into_iter();
            sources.map(|source| source::run(spec.clone(), source, Arc::clone(registry), Arc::clone(clock))).collect()
        };
        tasks.reconcile(wanted, ended, start);
    }

    /// Looks for clusters as the discovery says, and tells of others than before; without one there are none.
    pub fn discover(&mut self, discovery: Option<Discovery>, found: &watch::Sender<Vec<ClusterSpec>>) {
        if discovery.is_none() {
            hand_over(found, Vec::new());
        }
        let Self { registry, clock, tasks: _, discovery: tasks } = self;
        let wanted = discovery.into_iter().map(|discovery| ("".into(), discovery)).collect();
        let start = |discovery: &Discovery| {
            let (registry, clock) = (Arc::clone(registry), Arc::clone(clock));
            let progress = Progress { source: registry.add_discovery(), registry, clock };
            vec![discovery.clone().run(progress, found.clone())]
        };
        let ended = |_: &Discovery, next: Option<&Discovery>| {
            if next.is_none() {
                registry.remove_discovery();
            }
        };
        tasks.reconcile(wanted, ended, start);
    }

    /// Waits until a task panics, which must end the process.
    pub async fn failed(&mut self) -> tokio::task::JoinError {
        tokio::select! {
            error = self.tasks.failed() => error,
            error = self.discovery.failed() => error,
        }
    }
}
