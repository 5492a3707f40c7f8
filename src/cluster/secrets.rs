//! Follows the Secrets of a namespace, or of all: pages of a list, then a watch that is taken up again wherever it was cut.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc::Sender;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

pub use crate::cluster::decode::Explained;
use crate::cluster::decode::{self, Line, Page};
use crate::cluster::lines::Lines;
use crate::cluster::request::{self, Asked, Resource};
use crate::ports::{SecretEvent, SourceError, SourceErrorReason};
use crate::secret::Selection;

/// Which Secrets to follow.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The namespace; `None` for all, which needs a ClusterRole.
    pub namespace: Option<Arc<str>>,
    /// Which of them are read.
    pub selection: Arc<Selection>,
}

/// Objects per page.
const PAGE: usize = 500;
/// For the headers, and again for the body, of a page.
pub(super) const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// After this the server ends a watch, and it is taken up again.
pub(super) const WATCH_SECONDS: u64 = 290;
/// The first and the longest wait before a failed request is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(30));
/// Types that hold no certificate, or that are meshcert's own copies; left out by the server.
const NOISE: [&str; 9] = [
    "helm.sh/release.v1",
    "kubernetes.io/service-account-token",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/dockercfg",
    "kubernetes.io/basic-auth",
    "kubernetes.io/ssh-auth",
    "bootstrap.kubernetes.io/token",
    "meshcert.dev/staged",
    "meshcert.dev/backup",
];

/// Nobody listens any more: the end of following.
struct Closed;

/// Follows a scope until nobody listens; failures are events, and tried again with backoff.
pub async fn follow(client: Client, scope: Scope, events: Sender<SecretEvent>) {
    let follower = Follower { path: scope.path(), client, scope, events };
    // An error can only say that the receiver is gone, which is how following ends.
    let _: Result<std::convert::Infallible, Closed> = follower.run().await;
}

/// Reads one Secret, to explain it; `None` where it does not exist.
///
/// # Errors
/// It cannot be read.
pub async fn explain(client: &Client, scope: &Scope, name: &str) -> Result<Option<Explained>, SourceError> {
    let asked = Asked { verb: "list", resource: Resource::Secrets, namespace: scope.namespace.as_deref() };
    let namespace = scope.namespace.as_ref().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let selector = encode(&format!("metadata.name={name}"));
    let uri = format!("/api/v1{namespace}/secrets?fieldSelector={selector}");
    let bytes = request::get(client, &uri, &asked, LIST_DEADLINE, Vec::new()).await?;
    decode::explained(&bytes, &scope.selection).map_err(|error| undecodable(&asked, &error))
}

/// A page on its way, with its bytes for the next one's room.
type Decoding = tokio::task::JoinHandle<(Result<Page, serde_json::Error>, Vec<u8>)>;

/// What is left of a page once its Secrets are passed on.
struct Delivered {
    version: String,
    next: Option<String>,
    buffer: Vec<u8>,
}

struct Follower {
    client: Client,
    scope: Scope,
    path: String,
    events: Sender<SecretEvent>,
}

impl Follower {
    async fn run(self) -> Result<std::convert::Infallible, Closed> {
        let mut failures = 0;
        loop {
            self.send(SecretEvent::ListStarted).await?;
            let version = match self.list().await? {
                Ok(version) => version,
                Err(error) => {
                    self.fail(error, &mut failures).await?;
                    continue;
                }
            };
            failures = 0;
            self.send(SecretEvent::ListFinished).await?;
            self.watch_on(version, &mut failures).await?;
        }
    }

    /// Reads all pages; the version from which to watch.
    async fn list(&self) -> Result<Result<String, SourceError>, Closed> {
        let asked = self.asked("list");
        let mut decoding: Option<Decoding> = None;
        let mut buffer = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let token = next.take().map(|token| format!("&continue={}", encode(&token))).unwrap_or_default();
            let uri = format!("{}&limit={PAGE}{token}", self.path);
            let room = std::mem::take(&mut buffer);
            let bytes = match request::get(&self.client, &uri, &asked, LIST_DEADLINE, room).await {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Err(error)),
            };
            next = decode::peek_continue(&bytes);
            let selection = Arc::clone(&self.scope.selection);
            let this = spawn_blocking(move || (decode::page(&bytes, &selection), bytes));
            // At most two pages are in memory: the one being decoded and the one being fetched.
            let before = decoding.replace(this);
            if let Some(before) = before {
                match self.deliver(before, &asked).await? {
                    Err(error) => return Ok(Err(error)),
                    Ok(delivered) => buffer = delivered.buffer,
                }
            }
            if next.is_none()
                && let Some(last) = decoding.take()
            {
                match self.deliver(last, &asked).await? {
                    Err(error) => return Ok(Err(error)),
                    Ok(Delivered { next: Some(token), buffer: room, .. }) => (next, buffer) = (Some(token), room),
                    Ok(Delivered { version, next: None, .. }) => return Ok(Ok(version)),
                }
            }
        }
    }

    /// Passes a decoded page on.
    async fn deliver(&self, decoding: Decoding, asked: &Asked<'_>) -> Result<Result<Delivered, SourceError>, Closed> {
        let (page, buffer) = match decoding.await {
            Ok((Ok(page), buffer)) => (page, buffer),
            Ok((Err(error), _)) => return Ok(Err(undecodable(asked, &error))),
            Err(_) => return Err(Closed),
        };
        let Page { secrets, resource_version, next } = page;
        self.send(SecretEvent::Page(secrets)).await?;
        Ok(Ok(Delivered { version: resource_version, next, buffer }))
    }

    /// Watches, takes a cut watch up again, and returns when only a new list helps.
    async fn watch_on(&self, mut version: String, failures: &mut u32) -> Result<(), Closed> {
        loop {
            match self.watch(&mut version, failures).await? {
                Ok(()) => {}
                Err(error) if error.reason == SourceErrorReason::Gone => {
                    self.send(SecretEvent::Failed(error)).await?;
                    return Ok(());
                }
                Err(error) => self.fail(error, failures).await?,
            }
        }
    }

    /// One watch request, until it ends. `version` moves with every event.
    async fn watch(&self, version: &mut String, failures: &mut u32) -> Result<Result<(), SourceError>, Closed> {
        let asked = self.asked("watch");
        let uri = format!(
            "{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            self.path,
            encode(version)
        );
        let body = match request::open(&self.client, &uri, &asked, LIST_DEADLINE).await {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        self.send(SecretEvent::Alive).await?;
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
        let (event, seen) = match decode::line(line, &self.scope.selection) {
            Err(error) => return Ok(Err(undecodable(asked, &error))),
            Ok(Line::Error(code, message)) => {
                let status = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                return Ok(Err(request::refused(asked, status, &message)));
            }
            Ok(Line::Applied(reference, secret, seen)) => (SecretEvent::Applied(reference, secret), seen),
            Ok(Line::Deleted(reference, seen)) => (SecretEvent::Deleted(reference), seen),
            Ok(Line::Bookmark(seen)) => (SecretEvent::Alive, seen),
        };
        self.send(event).await?;
        if !seen.is_empty() {
            *version = seen;
        }
        Ok(Ok(()))
    }

    async fn send(&self, event: SecretEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    async fn fail(&self, error: SourceError, failures: &mut u32) -> Result<(), Closed> {
        self.send(SecretEvent::Failed(error)).await?;
        sleep(backoff(*failures)).await;
        *failures = failures.saturating_add(1);
        Ok(())
    }

    fn asked(&self, verb: &'static str) -> Asked<'_> {
        Asked { verb, resource: Resource::Secrets, namespace: self.scope.namespace.as_deref() }
    }
}

impl Scope {
    /// Path and field selector, up to the point where further parameters follow.
    fn path(&self) -> String {
        let namespace = self.namespace.as_ref().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        let named = |kind: &str| self.selection.rules.iter().any(|rule| rule.secret_type.as_deref() == Some(kind));
        let noise = NOISE.iter().filter(|kind| !named(kind));
        let selector: Vec<String> = noise.map(|kind| format!("type!={kind}")).collect();
        format!("/api/v1{namespace}/secrets?fieldSelector={}", encode(&selector.join(",")))
    }
}

/// The wait after `failures` failures in a row: doubled each time, between half of it and all of it, so that many do not come back at once.
pub(crate) fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1 << failures.min(16)).min(longest);
    let random = RandomState::new().hash_one(failures) as u32;
    full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

pub(super) fn undecodable(asked: &Asked<'_>, error: &serde_json::Error) -> SourceError {
    // Its own words could quote the answer, which holds Secrets.
    let place = format!("line {}, column {}", error.line(), error.column());
    SourceError {
        reason: SourceErrorReason::Decode,
        message: format!("{asked}: the answer is not what a Kubernetes API sends ({place})"),
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986 section 2.3).
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
