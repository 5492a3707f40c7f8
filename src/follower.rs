//! Follows the renewals of every cluster for those who show them or act on them: reads and remembers, and disturbs nobody where it may not read.

use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cluster::connect::{Connection, connect};
use crate::cluster::feed::backoff;
use crate::cluster::renewal_watch::{RenewalEvent, follow};
use crate::ports::{Clock, SourceError, SourceErrorReason};
use crate::tasks::{Tasks, resume_panic};

mod followed;

pub use crate::cluster::renewals::Unreadable;
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
    tasks: Tasks<Scope>,
}

impl Followers {
    /// Nothing is followed yet.
    pub fn new(followed: Arc<Followed>, clock: Arc<dyn Clock>) -> Self {
        Self { followed, clock, tasks: Tasks::default() }
    }

    /// Makes what is followed that of `scopes`; of two that name the same cluster the last one counts.
    pub fn reconcile(&mut self, scopes: impl IntoIterator<Item = Scope>) {
        let Self { followed, clock, tasks } = self;
        let wanted = scopes.into_iter().map(|scope| (Arc::clone(&scope.cluster), scope)).collect();
        let start = |scope: &Scope| {
            let namespaces = match &scope.namespaces {
                None => vec![None],
                Some(namespaces) => namespaces.iter().map(|name| Some(name.as_str().into())).collect(),
            };
            let sources = sources(&scope.cluster, namespaces, followed, clock).into_iter();
            sources.map(|source| source.run(scope.connection.clone())).collect()
        };
        tasks.reconcile(wanted, |scope, _| followed.remove(&scope.cluster), start);
    }

    /// Waits until a task panics, which must end the process.
    pub async fn failed(&mut self) -> tokio::task::JoinError {
        self.tasks.failed().await
    }
}

/// Follows the renewals of one cluster on this client, until the tasks end.
pub fn follow_all(
    client: &Client,
    cluster: &Arc<str>,
    namespaces: &[String],
    clock: &Arc<dyn Clock>,
    tasks: &mut JoinSet<()>,
) -> Arc<Followed> {
    let followed = Arc::new(Followed::default());
    let namespaces: Vec<_> = namespaces.iter().map(|name| Some(name.as_str().into())).collect();
    for source in sources(cluster, namespaces, &followed, clock) {
        tasks.spawn(source.follow(client.clone()));
    }
    followed
}

/// The sources of a cluster, of which nothing is known yet.
fn sources(
    cluster: &Arc<str>,
    namespaces: Vec<Option<Arc<str>>>,
    followed: &Arc<Followed>,
    clock: &Arc<dyn Clock>,
) -> Vec<Source> {
    followed.add(cluster, &namespaces);
    let source = |(index, namespace)| Source {
        cluster: Arc::clone(cluster),
        namespace,
        index,
        followed: Arc::clone(followed),
        clock: Arc::clone(clock),
        said: None,
    };
    namespaces.into_iter().enumerate().map(source).collect()
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
        self.follow(client).await;
    }

    async fn follow(mut self, client: Client) {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let mut following = JoinSet::new();
        following.spawn(follow(client, self.namespace.clone(), sender));
        while let Some(event) = events.recv().await {
            self.take(event);
        }
        // Following never ends by itself: a panic in it is one of this task.
        if let Some(Err(error)) = following.join_next().await {
            resume_panic(error);
        }
    }

    fn take(&mut self, event: RenewalEvent) {
        let Self { cluster, index, .. } = &*self;
        let now = self.clock.now();
        match event {
            RenewalEvent::Listed { renewals, unreadable, cut_off } => {
                unreadable.iter().for_each(|one| self.warn(one));
                info!(%cluster, namespace = self.namespace.as_deref(), renewals = renewals.len(), "renewals listed");
                self.followed.change(cluster, *index, |source| source.list(renewals, unreadable, cut_off, now));
                self.said = None;
            }
            RenewalEvent::Applied(renewal) => {
                self.followed.change(cluster, *index, |source| source.apply(*renewal, now));
            }
            RenewalEvent::Deleted { namespace, name } => {
                self.followed.change(cluster, *index, |source| source.delete(&namespace, &name, now));
            }
            RenewalEvent::Alive => {
                self.followed.change(cluster, *index, |source| source.succeed(now));
                self.said = None;
            }
            RenewalEvent::Unreadable(unreadable) => {
                self.warn(&unreadable);
                self.followed.change(cluster, *index, |source| source.lose(unreadable, now));
            }
            // A watch that only has to start again, with a list, is no failure.
            RenewalEvent::Failed(error) if error.reason == SourceErrorReason::Gone => {}
            RenewalEvent::Failed(error) => self.fail(&error),
        }
    }

    fn warn(&self, unreadable: &Unreadable) {
        let Unreadable { namespace, name, why, .. } = unreadable;
        warn!(cluster = %self.cluster, namespace, name, why, "a renewal cannot be read and is passed over; correct it, or delete it");
    }

    fn fail(&mut self, error: &SourceError) {
        if self.said.as_ref() != Some(&error.message) {
            warn!(cluster = %self.cluster, reason = error.reason.as_str(), %error, "cannot follow renewals");
            self.said = Some(error.message.clone());
        }
        self.followed.change(&self.cluster, self.index, |source| source.fail(&error.message));
    }
}
