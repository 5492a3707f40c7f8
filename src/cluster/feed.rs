//! What following has in common, whatever is followed: events for whoever listens, and a watch that is taken up again wherever it was cut.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use crate::cluster::decode::Undecodable;
use crate::cluster::feed::lines::Lines;
use crate::cluster::request::{self, Asked, Resource};
use crate::name::Encoded;
use crate::ports::{SourceError, SourceErrorReason};

mod lines;

/// For the headers, and again for the body, of an answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// After this the server ends a watch, and it is taken up again.
const WATCH_SECONDS: u64 = 290;
/// One that ends sooner is not taken up at once.
const SHORTEST_WATCH: Duration = Duration::from_millis(500);
/// The first and the longest wait before a failed request is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(30));
/// After so many barren watches in a row there is a list: taken up from the same version, the next one would bring nothing either.
const MOST_BARREN: u32 = 2;
/// What is strange about a barren watch, and the usual cause.
const HELD_BACK: &str = "not even a bookmark; look for a proxy on the way that holds the watch back";

/// What is followed: how its listener is told, and what the lines of its watch mean.
pub(super) trait Subject {
    /// What the listener gets.
    type Event;
    const RESOURCE: Resource;
    /// Failed requests in a row after which lists have to do for the watch that is not to be had.
    const RELIST_AFTER: u32;

    /// The watch is alive.
    fn alive() -> Self::Event;

    /// A request failed; it is tried again.
    fn failed(error: SourceError) -> Self::Event;

    /// # Errors
    /// It is not what a Kubernetes API sends.
    fn line(&self, line: &[u8]) -> Result<Line<Self::Event>, Undecodable>;
}

/// A line of a watch.
pub(super) enum Line<E> {
    /// What happened, and the version up to which all is seen; empty: no further than before.
    Event(E, String),
    /// The watch ends: status code and message.
    Error(u16, String),
}

/// What has failed in a row. A line of a watch ends the row, a list does not: where watches fail again and again, lists come ever more slowly.
#[derive(Default)]
pub(super) struct Trouble {
    /// Failed requests.
    failures: u32,
    /// Watches that were open and brought nothing, or nothing but an error; counted anew after a list that had to do for them.
    barren: u32,
    /// How the last of those ended. It is said after that list, which mends no watch.
    replaced: Option<SourceError>,
}

/// Nobody listens any more: the end of following.
pub(super) struct Closed;

/// One subject, followed in a namespace or in all.
pub(super) struct Feed<S: Subject> {
    pub(super) client: Client,
    pub(super) namespace: Option<Arc<str>>,
    /// Path and query, up to where parameters can be added: it ends with `?` or `&`.
    pub(super) path: String,
    pub(super) subject: S,
    pub(super) events: Sender<S::Event>,
}

impl<S: Subject> Feed<S> {
    /// Watches, takes a cut watch up again, and returns when a new list is wanted.
    pub(super) async fn watch_on(&self, mut version: String, trouble: &mut Trouble) -> Result<(), Closed> {
        if let Some(error) = trouble.replaced.clone() {
            self.fail(error, trouble).await?;
        }
        loop {
            let begun = Instant::now();
            let ended = self.watch(&mut version, trouble).await?;
            let is_gone = match ended {
                Ok(()) => false,
                Err(error) if error.reason == SourceErrorReason::Gone => {
                    self.send(S::failed(error)).await?;
                    true
                }
                Err(error) if trouble.barren >= MOST_BARREN => {
                    *trouble = Trouble { barren: 0, replaced: Some(error), ..*trouble };
                    return Ok(());
                }
                Err(error) => {
                    self.fail(error, trouble).await?;
                    if trouble.failures >= S::RELIST_AFTER {
                        return Ok(());
                    }
                    continue;
                }
            };
            // What ends as soon as it has begun would be asked for without a pause.
            if begun.elapsed() < SHORTEST_WATCH {
                sleep(SHORTEST_WATCH).await;
            }
            if is_gone {
                return Ok(());
            }
        }
    }

    /// One watch request, until it ends. `version` moves with every event.
    async fn watch(&self, version: &mut String, trouble: &mut Trouble) -> Result<Result<(), SourceError>, Closed> {
        let asked = self.asked("watch");
        let uri = format!(
            "{}watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            self.path,
            Encoded(version)
        );
        let body = match request::open(&self.client, &uri, request::JSON, &asked, DEADLINE).await {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        // After a barren one only a line shows that a watch is alive.
        if trouble.barren == 0 && trouble.replaced.is_none() {
            self.send(S::alive()).await?;
        }
        // Until a line proves otherwise.
        trouble.barren += 1;
        let mut lines = Lines::new(body);
        loop {
            match lines.next(&asked).await {
                Ok(Some(line)) => {
                    if let Err(error) = self.take_line(&line, version, &asked).await? {
                        return Ok(Err(error));
                    }
                    *trouble = Trouble::default();
                }
                // The first may have been cut early, as where an API server is replaced.
                Ok(None) if trouble.barren >= MOST_BARREN => {
                    let message = format!("{asked}: ended again before anything arrived, {HELD_BACK}");
                    return Ok(Err(SourceError { reason: SourceErrorReason::Unreachable, message }));
                }
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    async fn take_line(
        &self,
        line: &[u8],
        version: &mut String,
        asked: &Asked<'_>,
    ) -> Result<Result<(), SourceError>, Closed> {
        if line.trim_ascii().is_empty() {
            return Ok(Ok(()));
        }
        let (event, seen) = match self.subject.line(line) {
            Err(error) => return Ok(Err(undecodable(asked, &error))),
            Ok(Line::Error(code, message)) => {
                let status = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                return Ok(Err(request::refused(asked, status, &message)));
            }
            Ok(Line::Event(event, seen)) => (event, seen),
        };
        self.send(event).await?;
        if !seen.is_empty() {
            *version = seen;
        }
        Ok(Ok(()))
    }

    pub(super) async fn send(&self, event: S::Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// Says that a request failed, and waits before the next one.
    pub(super) async fn fail(&self, error: SourceError, trouble: &mut Trouble) -> Result<(), Closed> {
        self.send(S::failed(error)).await?;
        sleep(backoff(trouble.failures)).await;
        trouble.failures = trouble.failures.saturating_add(1);
        Ok(())
    }

    pub(super) fn asked(&self, verb: &'static str) -> Asked<'_> {
        Asked { verb, resource: S::RESOURCE, namespace: self.namespace.as_deref() }
    }
}

/// The wait after `failures` failures in a row: doubled each time, between half of it and all of it, so that many do not come back at once.
pub(crate) fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1 << failures.min(16)).min(longest);
    let random = RandomState::new().hash_one(failures) as u32;
    full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

pub(super) fn undecodable(asked: &Asked<'_>, place: &Undecodable) -> SourceError {
    SourceError {
        reason: SourceErrorReason::Decode,
        message: format!(
            "{asked}: the answer is not what a Kubernetes API sends ({place}); look at what answers at the kubeconfig's address"
        ),
    }
}
