//! Follows the renewals of a namespace, or of all: a list in pages, then a watch that is taken up again wherever it was cut.

use std::convert::Infallible;
use std::sync::Arc;

use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use crate::cluster::lines::Lines;
use crate::cluster::renewals::Object;
use crate::cluster::request::{self, Asked, Resource};
use crate::cluster::secrets::{LIST_DEADLINE, WATCH_SECONDS, backoff, encode, undecodable};
use crate::ports::{SourceError, SourceErrorReason};
use crate::renewal::{GROUP, PLURAL, Renewal, VERSION};

/// Objects per page: a renewal's journal and plan take some ten kilobytes.
const PAGE: usize = 200;
/// Beyond so many renewals of one source the list is cut off, and says so.
pub const MOST_RENEWALS: usize = 5_000;

/// One step of following renewals.
pub enum RenewalEvent {
    /// A full list: what it does not hold is gone.
    Listed {
        /// The renewals that can be read.
        renewals: Vec<Renewal>,
        /// Whether there are more than [`MOST_RENEWALS`].
        cut_off: bool,
    },
    /// A renewal was added or changed.
    Applied(Box<Renewal>),
    /// A renewal was deleted.
    Deleted {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The watch is alive.
    Alive,
    /// An object that cannot be read; by name and reason.
    Unreadable(String),
    /// A request failed; it is tried again.
    Failed(SourceError),
}

/// Nobody listens any more: the end of following.
struct Closed;

/// Follows the renewals of a namespace, or of all, until nobody listens; failures are events, and tried again with backoff.
pub async fn follow(client: Client, namespace: Option<Arc<str>>, events: Sender<RenewalEvent>) {
    let place = namespace.as_ref().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let path = format!("/apis/{GROUP}/{VERSION}{place}/{PLURAL}");
    let follower = Follower { client, namespace, path, events };
    // An error can only say that the receiver is gone, which is how following ends.
    let _: Result<Infallible, Closed> = follower.run().await;
}

struct Follower {
    client: Client,
    namespace: Option<Arc<str>>,
    path: String,
    events: Sender<RenewalEvent>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: Meta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Brief {
    metadata: Meta,
    code: u16,
    message: String,
}

impl Follower {
    async fn run(self) -> Result<Infallible, Closed> {
        let mut failures = 0;
        loop {
            match self.list().await? {
                Ok(version) => {
                    failures = 0;
                    self.watch_on(version, &mut failures).await?;
                }
                Err(error) => self.fail(error, &mut failures).await?,
            }
        }
    }

    /// Reads all pages; the version from which to watch.
    async fn list(&self) -> Result<Result<String, SourceError>, Closed> {
        let asked = self.asked("list");
        let (mut renewals, mut next) = (Vec::new(), String::new());
        loop {
            let token = if next.is_empty() { String::new() } else { format!("&continue={}", encode(&next)) };
            let uri = format!("{}?limit={PAGE}{token}", self.path);
            let bytes = match request::get(&self.client, &uri, &asked, LIST_DEADLINE, Vec::new()).await {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Err(error)),
            };
            let Page { metadata, items } = match serde_json::from_slice(&bytes) {
                Ok(page) => page,
                Err(error) => return Ok(Err(undecodable(&asked, &error))),
            };
            for item in items {
                renewals.extend(self.read(item).await?);
            }
            next = metadata.next;
            let cut_off = renewals.len() >= MOST_RENEWALS && !next.is_empty();
            if next.is_empty() || cut_off {
                self.send(RenewalEvent::Listed { renewals, cut_off }).await?;
                return Ok(Ok(metadata.resource_version));
            }
        }
    }

    /// Watches, takes a cut watch up again, and returns when only a new list helps.
    async fn watch_on(&self, mut version: String, failures: &mut u32) -> Result<(), Closed> {
        loop {
            match self.watch(&mut version, failures).await? {
                Ok(()) => {}
                Err(error) if error.reason == SourceErrorReason::Gone => return Ok(()),
                Err(error) => self.fail(error, failures).await?,
            }
        }
    }

    /// One watch request, until it ends. `version` moves with every event.
    async fn watch(&self, version: &mut String, failures: &mut u32) -> Result<Result<(), SourceError>, Closed> {
        let asked = self.asked("watch");
        let uri = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            self.path,
            encode(version)
        );
        let body = match request::open(&self.client, &uri, &asked, LIST_DEADLINE).await {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        self.send(RenewalEvent::Alive).await?;
        let mut lines = Lines::new(body);
        loop {
            match lines.next(&asked).await {
                Ok(Some(line)) => {
                    *failures = 0;
                    if let Err(error) = self.take_line(&line, version, &asked).await? {
                        return Ok(Err(error));
                    }
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
        let decoded = serde_json::from_slice::<Event<'_>>(line)
            .and_then(|event| Ok((serde_json::from_str::<Brief>(event.object.get())?, event)));
        let (Brief { metadata, code, message }, Event { kind, object }) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Err(undecodable(asked, &error))),
        };
        match kind {
            "ERROR" => {
                let status = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                return Ok(Err(request::refused(asked, status, &message)));
            }
            "BOOKMARK" => self.send(RenewalEvent::Alive).await?,
            "DELETED" => {
                let Meta { namespace, name, .. } = metadata;
                self.send(RenewalEvent::Deleted { namespace, name }).await?;
            }
            _ => {
                if let Some(renewal) = self.read(object).await? {
                    self.send(RenewalEvent::Applied(Box::new(renewal))).await?;
                }
            }
        }
        if !metadata.resource_version.is_empty() {
            *version = metadata.resource_version;
        }
        Ok(Ok(()))
    }

    /// A renewal; what somebody wrote by hand past the schema is told and left out.
    async fn read(&self, object: &RawValue) -> Result<Option<Renewal>, Closed> {
        match serde_json::from_str::<Object>(object.get()) {
            Ok(object) => Ok(Some(object.into())),
            Err(error) => {
                let name = serde_json::from_str::<Brief>(object.get()).unwrap_or_default().metadata.name;
                self.send(RenewalEvent::Unreadable(format!("{name}: {error}"))).await?;
                Ok(None)
            }
        }
    }

    async fn send(&self, event: RenewalEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    async fn fail(&self, error: SourceError, failures: &mut u32) -> Result<(), Closed> {
        self.send(RenewalEvent::Failed(error)).await?;
        sleep(backoff(*failures)).await;
        *failures = failures.saturating_add(1);
        Ok(())
    }

    fn asked(&self, verb: &'static str) -> Asked<'_> {
        Asked { verb, resource: Resource::Renewals, namespace: self.namespace.as_deref() }
    }
}
