//! The observing plane: one task per source follows its Secrets and publishes what they add up to.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cluster::connect::Connection;
use crate::ports::Clock;
use crate::secret::Selection;

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
    running: BTreeMap<Arc<str>, (ClusterSpec, CancellationToken)>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        Self { registry, clock, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Makes the running tasks those of `specs`: new clusters start, removed ones stop and take their series along, changed ones start again, all others go on
    /// undisturbed.
    pub fn reconcile(&mut self, specs: Vec<ClusterSpec>) {
        let wanted: BTreeMap<Arc<str>, ClusterSpec> =
            specs.into_iter().map(|spec| (Arc::clone(&spec.name), spec)).collect();
        self.running.retain(|name, (spec, stop)| {
            let stays = wanted.get(name) == Some(spec);
            if !stays {
                info!(cluster = %name, "no longer observing");
                stop.cancel();
                self.registry.remove(name);
            }
            stays
        });
        for (name, spec) in wanted {
            if self.running.contains_key(&name) {
                continue;
            }
            info!(cluster = %name, connection = ?spec.connection, namespaces = ?spec.namespaces, "observing");
            let stop = CancellationToken::new();
            for source in self.registry.add(&spec) {
                let (spec, clock, stop) = (spec.clone(), Arc::clone(&self.clock), stop.clone());
                let registry = Arc::clone(&self.registry);
                self.tasks.spawn(async move {
                    // Whoever is stopped has nothing to finish: all it knows is rebuilt from the cluster.
                    let _ = stop.run_until_cancelled(source::run(spec, source, registry, clock)).await;
                });
            }
            self.running.insert(name, (spec, stop));
        }
    }

    /// Waits until a task panics, which must end the process; tasks that were stopped are cleared away meanwhile.
    pub async fn failed(&mut self) -> tokio::task::JoinError {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) => return error,
                Some(Ok(())) => {}
                None => std::future::pending().await,
            }
        }
    }
}
