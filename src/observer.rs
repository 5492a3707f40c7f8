//! The observing plane: one task per source follows its Secrets and publishes what they add up to.

use std::sync::Arc;

use tracing::info;

use crate::cluster::connect::Connection;
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

/// Starts and stops the tasks of the clusters as the configuration says.
pub struct Supervisor {
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    tasks: Tasks<ClusterSpec>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        Self { registry, clock, tasks: Tasks::default() }
    }

    /// Makes the observed clusters those of `specs`: those that go take their series along.
    pub fn reconcile(&mut self, specs: Vec<ClusterSpec>) {
        let Self { registry, clock, tasks } = self;
        let wanted = specs.into_iter().map(|spec| (Arc::clone(&spec.name), spec)).collect();
        let ended = |name: &str| {
            info!(cluster = name, "no longer observing");
            registry.remove(name);
        };
        let start = |spec: &ClusterSpec| {
            let namespaces = spec.namespaces.as_ref().map_or_else(|| "*".to_owned(), |names| names.join(","));
            info!(cluster = %spec.name, connection = ?spec.connection, %namespaces, "observing");
            let sources = registry.add(spec).into_iter();
            sources.map(|source| source::run(spec.clone(), source, Arc::clone(registry), Arc::clone(clock))).collect()
        };
        tasks.reconcile(wanted, ended, start);
    }

    /// Waits until a task panics, which must end the process.
    pub async fn failed(&mut self) -> tokio::task::JoinError {
        self.tasks.failed().await
    }
}
