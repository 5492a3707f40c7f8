//! Follows the renewals of every cluster for those who show them: reads and remembers, acts on nothing, and disturbs nobody where it may not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cluster::connect::{Connection, connect};
use crate::cluster::feed::backoff;
use crate::cluster::renewal_watch::{RenewalEvent, follow};
use crate::ports::{Clock, SourceError, SourceErrorReason};

mod followed;

pub use followed::{Followed, Known, SourceHealth, View};

/// Events in flight between a connection and what is remembered; a full channel slows the connection down, nothing is dropped.
const EVENTS: usize = 16;

/// A cluster whose renewals are followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// The value of `mesh_cluster`.
    pub cluster: Arc<str>,
    /// How it is reached.
    pub connection: Connection,
    /// Namespaces of hosted meshes; `None` for all, which needs a ClusterRole.
    pub namespaces: Option<Vec<String>>,
}

/// The following tasks, one per namespace of a cluster.
pub struct Followers {
    followed: Arc<Followed>,
    clock: Arc<dyn Clock>,
    running: BTreeMap<Arc<str>, (Scope, CancellationToken)>,
    tasks: JoinSet<()>,
}

impl Followers {
    /// Nothing is followed yet.
    pub fn new(followed: Arc<Followed>, clock: Arc<dyn Clock>) -> Self {
        Self { followed, clock, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Makes what is followed that of `scopes`; of two that name the same cluster the last one counts.
    pub fn reconcile(&mut self, scopes: impl IntoIterator<Item = Scope>) {
        let wanted: BTreeMap<Arc<str>, Scope> =
            scopes.into_iter().map(|scope| (Arc::clone(&scope.cluster), scope)).collect();
        self.running.retain(|cluster, (scope, stop)| {
            let stays = wanted.get(cluster) == Some(scope);
            if !stays {
                stop.cancel();
                self.followed.remove(cluster);
            }
            stays
        });
        for (cluster, scope) in wanted {
            if self.running.contains_key(&cluster) {
                continue;
            }
            let stop = CancellationToken::new();
            let namespaces = match &scope.namespaces {
                None => vec![None],
                Some(namespaces) => namespaces.iter().map(|name| Some(name.as_str().into())).collect(),
            };
            self.followed.add(&cluster, &namespaces);
            for (index, namespace) in namespaces.into_iter().enumerate() {
                let (followed, clock, stop) = (Arc::clone(&self.followed), Arc::clone(&self.clock), stop.clone());
                let source = Source { cluster: Arc::clone(&cluster), namespace, index, followed, clock, said: None };
                let connection = scope.connection.clone();
                self.tasks.spawn(async move {
                    // What is stopped has nothing to finish: all it knows is read again.
                    let _ = stop.run_until_cancelled(source.run(connection)).await;
                });
            }
            self.running.insert(cluster, (scope, stop));
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

/// One namespace of a cluster, or all of them.
struct Source {
    cluster: Arc<str>,
    namespace: Option<Arc<str>>,
    index: usize,
    followed: Arc<Followed>,
    clock: Arc<dyn Clock>,
    /// The failure that was logged last: a right that is missing for weeks is said once.
    said: Option<String>,
}

impl Source {
    async fn run(mut self, connection: Connection) {
        let mut failures = 0;
        let client = loop {
            match connect(&connection).await {
                Ok(client) => break client,
                Err(error) => self.fail(&error),
            }
            sleep(backoff(failures)).await;
            failures += 1;
        };
        let (sender, mut events) = mpsc::channel(EVENTS);
        let mut following = JoinSet::new();
        following.spawn(follow(client, self.namespace.clone(), sender));
        while let Some(event) = events.recv().await {
            self.take(event);
        }
        // Following never ends by itself: a panic in it is one of this task.
        if let Some(Err(error)) = following.join_next().await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    fn take(&mut self, event: RenewalEvent) {
        let Self { cluster, index, .. } = &*self;
        let now = self.clock.now();
        match event {
            RenewalEvent::Listed { renewals, cut_off } => {
                info!(%cluster, namespace = self.namespace.as_deref(), renewals = renewals.len(), "renewals listed");
                self.followed.change(cluster, *index, |source| source.list(renewals, cut_off, now));
                self.said = None;
            }
            RenewalEvent::Applied(renewal) => {
                self.followed.change(cluster, *index, |source| source.apply(*renewal, now));
            }
            RenewalEvent::Deleted { namespace, name } => {
                self.followed.change(cluster, *index, |source| source.delete(&namespace, &name, now));
            }
            RenewalEvent::Alive => self.followed.change(cluster, *index, |source| source.succeed(now)),
            RenewalEvent::Unreadable(what) => warn!(%cluster, "a renewal cannot be read and is not shown: {what}"),
            // A watch that only has to start again, with a list, is no failure.
            RenewalEvent::Failed(error) if error.reason == SourceErrorReason::Gone => {}
            RenewalEvent::Failed(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &SourceError) {
        if self.said.as_ref() != Some(&error.message) {
            warn!(cluster = %self.cluster, reason = error.reason.as_str(), %error, "cannot show renewals");
            self.said = Some(error.message.clone());
        }
        self.followed.change(&self.cluster, self.index, |source| source.fail(&error.message));
    }
}
