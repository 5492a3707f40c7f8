//! Follows the Secrets of a namespace, or of all: pages of a list, then a watch that is taken up again wherever it was cut.

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

pub use crate::cluster::decode::Explained;
use crate::cluster::decode::{self, Page, Undecodable};
use crate::cluster::feed::{Closed, DEADLINE, Feed, Line, Subject, Trouble, undecodable};
use crate::cluster::material::{BACKUP, STAGED};
use crate::cluster::request::{self, Asked, Resource};
use crate::name::Encoded;
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

/// Objects per page; fewer where they are large.
const PAGE: usize = 250;
/// Types that hold no certificate, or that are meshcert's own copies; left out by the server.
pub const NOISE: [&str; 9] = [
    "helm.sh/release.v1",
    "kubernetes.io/service-account-token",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/dockercfg",
    "kubernetes.io/basic-auth",
    "kubernetes.io/ssh-auth",
    "bootstrap.kubernetes.io/token",
    STAGED,
    BACKUP,
];

/// Follows a scope until nobody listens; failures are events, and tried again with backoff.
pub async fn follow(client: Client, scope: Scope, events: Sender<SecretEvent>) {
    let Scope { namespace, selection } = &scope;
    let subject = Secrets(Arc::clone(selection));
    let feed = Feed { namespace: namespace.clone(), path: scope.path(), client, subject, events };
    // An error can only say that the receiver is gone, which is how following ends.
    let _: Result<Infallible, Closed> = feed.run().await;
}

/// Reads one Secret, to explain it; `None` where it does not exist.
///
/// # Errors
/// It cannot be read.
pub async fn explain(client: &Client, scope: &Scope, name: &str) -> Result<Option<Explained>, SourceError> {
    let asked = Asked { verb: "list", resource: Resource::Secrets, namespace: scope.namespace.as_deref() };
    let namespace = scope.namespace.as_ref().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let selector = format!("metadata.name={name}");
    let uri = format!("/api/v1{namespace}/secrets?fieldSelector={}", Encoded(&selector));
    let bytes = request::get(client, &uri, &asked, DEADLINE, Vec::new()).await?;
    let found = decode::explained(&bytes, &scope.selection).map_err(|error| undecodable(&asked, &error))?;
    Ok(found.map(|found| match scope.noise().find(|kind| **kind == *found.meta.secret_type) {
        Some(kind) => Explained { secret: Err(format!("Secrets of the type {kind} are not asked for")), ..found },
        None => found,
    }))
}

/// The Secrets of a namespace that have a label, whole.
///
/// # Errors
/// They cannot be read.
pub async fn labelled(client: &Client, namespace: &str, label: &str) -> Result<Vec<Secret>, SourceError> {
    #[derive(Deserialize)]
    struct List {
        items: Option<Vec<Secret>>,
    }
    let asked = Asked { verb: "list", resource: Resource::ClusterSecrets, namespace: Some(namespace) };
    let uri = format!("/api/v1/namespaces/{namespace}/secrets?labelSelector={}", Encoded(label));
    let bytes = Zeroizing::new(request::get(client, &uri, &asked, DEADLINE, Vec::new()).await?);
    let list: List = serde_json::from_slice(&bytes).map_err(|error| undecodable(&asked, &error.into()))?;
    Ok(list.items.unwrap_or_default())
}

/// A page on its way, with its bytes for the next one's room.
type Decoding = tokio::task::JoinHandle<(Result<Page, Undecodable>, Vec<u8>)>;

/// What is left of a page once its Secrets are passed on.
struct Delivered {
    version: String,
    next: Option<String>,
    buffer: Vec<u8>,
}

struct Secrets(Arc<Selection>);

impl Subject for Secrets {
    type Event = SecretEvent;
    const RESOURCE: Resource = Resource::Secrets;
    /// Their lists are large, and what was read last stays.
    const RELIST_AFTER: u32 = u32::MAX;

    fn alive() -> SecretEvent {
        SecretEvent::Alive
    }

    fn failed(error: SourceError) -> SecretEvent {
        SecretEvent::Failed(error)
    }

    fn line(&self, line: &[u8]) -> Result<Line<SecretEvent>, Undecodable> {
        Ok(match decode::line(line, &self.0)? {
            decode::Line::Error(code, message) => Line::Error(code, message),
            decode::Line::Applied(reference, secret, seen) => {
                Line::Event(SecretEvent::Applied(reference, secret), seen)
            }
            decode::Line::Deleted(reference, seen) => Line::Event(SecretEvent::Deleted(reference), seen),
            decode::Line::Bookmark(seen) => Line::Event(SecretEvent::Alive, seen),
        })
    }
}

impl Feed<Secrets> {
    async fn run(self) -> Result<Infallible, Closed> {
        let mut trouble = Trouble::default();
        loop {
            self.send(SecretEvent::ListStarted).await?;
            let version = match self.list().await? {
                Ok(version) => version,
                Err(error) => {
                    self.fail(error, &mut trouble).await?;
                    continue;
                }
            };
            self.send(SecretEvent::ListFinished).await?;
            self.watch_on(version, &mut trouble).await?;
        }
    }

    /// Reads all pages; the version from which to watch.
    async fn list(&self) -> Result<Result<String, SourceError>, Closed> {
        let asked = self.asked("list");
        let mut decoding: Option<Decoding> = None;
        let mut buffer = Vec::new();
        let mut next: Option<String> = None;
        let mut limit = PAGE;
        loop {
            let token = next.take().map(|token| format!("&continue={}", Encoded(&token))).unwrap_or_default();
            let bytes = loop {
                let uri = format!("{}limit={limit}{token}", self.path);
                let room = std::mem::take(&mut buffer);
                match request::get(&self.client, &uri, &asked, DEADLINE, room).await {
                    Ok(bytes) => break bytes,
                    // A token goes on with any limit.
                    Err(error) if error.reason == SourceErrorReason::TooLarge && limit > 1 => limit /= 2,
                    Err(error) => return Ok(Err(error)),
                }
            };
            next = decode::peek_continue(&bytes);
            let selection = Arc::clone(&self.subject.0);
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
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // It ended with the runtime, and so does whoever listens.
                Err(_) => return Err(Closed),
            },
        };
        let Page { secrets, resource_version, next } = page;
        self.send(SecretEvent::Page(secrets)).await?;
        Ok(Ok(Delivered { version: resource_version, next, buffer }))
    }
}

impl Scope {
    /// Path and field selector; further parameters may follow.
    fn path(&self) -> String {
        let namespace = self.namespace.as_ref().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        let selector: Vec<String> = self.noise().map(|kind| format!("type!={kind}")).collect();
        format!("/api/v1{namespace}/secrets?fieldSelector={}&", Encoded(&selector.join(",")))
    }

    /// The types that the server leaves out: noise, unless a rule names it.
    fn noise(&self) -> impl Iterator<Item = &'static str> {
        let named = |kind: &str| self.selection.rules.iter().any(|rule| rule.secret_type.as_deref() == Some(kind));
        NOISE.into_iter().filter(move |kind| !named(kind))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_panic_while_a_page_is_decoded_is_one_of_whoever_follows() {
        let client = Client::try_from(kube::Config::new(http::Uri::from_static("http://127.0.0.1:1"))).unwrap();
        let (events, _listener) = mpsc::channel(1);
        let selection = Selection { mesh_namespaces: None, naming: Default::default(), rules: Vec::new() };
        let scope = Scope { namespace: None, selection: Arc::new(selection) };
        let subject = Secrets(Arc::clone(&scope.selection));
        let feed = Feed { namespace: None, path: scope.path(), client, subject, events };
        let following = tokio::spawn(async move {
            let decoding = spawn_blocking(|| panic!("on purpose"));
            let _ = feed.deliver(decoding, &feed.asked("list")).await;
        });
        assert!(following.await.is_err_and(|error| error.is_panic()));
    }
}
