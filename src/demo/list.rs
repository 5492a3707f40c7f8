//! Lists in pages and watches.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep_until};

use crate::demo::api::{Api, json_response, raw_response};
use crate::demo::call::{Call, Form};
use crate::demo::kinds::{DEFINITIONS, Kind};
use crate::demo::selector::{Selector, field};
use crate::demo::status::Failure;
use crate::demo::store::{Change, Dependents, Key, Object, Store};
use crate::demo::table;
use crate::demo::write::deletion;
use crate::ports::Clock;

/// Between two bookmarks of a quiet watch.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);
/// A watch ends after this, if it does not ask for less.
const LONGEST_WATCH: u64 = 1800;

/// Which objects a list or watch is about.
#[derive(Clone)]
struct Filter {
    resource: String,
    namespace: Option<String>,
    labels: Selector,
    fields: Selector,
}

impl Filter {
    fn of(call: &Call) -> Result<Self, Failure> {
        let selector = |name: &str| Selector::parse(call.query.get(name).map_or("", String::as_str));
        let (labels, fields) = (selector("labelSelector")?, selector("fieldSelector")?);
        if let Some(unknown) = fields.keys().find(|field| !call.kind.selects_by(field)) {
            return Err(Failure::bad_request(format!("field label not supported: {unknown}")));
        }
        Ok(Self { resource: call.kind.resource(), namespace: call.namespace.clone(), labels, fields })
    }

    fn about(&self, key: &Key) -> bool {
        *key.0 == *self.resource && self.namespace.as_ref().is_none_or(|namespace| *key.1 == **namespace)
    }

    fn takes(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.matches(|key| labels[key].as_str()) && self.fields.matches(|path| field(object, path))
    }
}

/// Answers a list, or a page of one.
pub(super) fn list(api: &Api, call: &Call) -> Result<Response, Failure> {
    let filter = Filter::of(call)?;
    let limit = match call.query.get("limit").map(|limit| limit.parse::<usize>()) {
        None | Some(Ok(0)) => usize::MAX,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => return Err(Failure::bad_request("limit: it is no number")),
    };
    let listing = api.store.list(&filter.resource, filter.namespace.as_deref());
    check_version(call, listing.version)?;
    // A token names the version of the first page and the object after which the next one begins.
    let token = call.query.get("continue").map(|token| parse_token(token)).transpose()?;
    let version = token.as_ref().map_or(listing.version, |(version, ..)| *version);
    if api.store.since(version).is_none() {
        return Err(Failure::gone());
    }
    let after = |key: &Key| {
        token.as_ref().is_none_or(|(_, namespace, name)| (&*key.1, &*key.2) > (namespace.as_str(), name.as_str()))
    };
    let mut matching = listing.objects.into_iter().filter(|(key, object)| after(key) && filter.takes(&object.value));
    let page: Vec<(Key, Object)> = matching.by_ref().take(limit).collect();
    let remaining = matching.count();
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let Some(((_, namespace, name), _)) = page.last().filter(|_| remaining > 0) {
        metadata["continue"] = json!(format!("{version}_{namespace}_{name}"));
        metadata["remainingItemCount"] = json!(remaining);
    }
    let objects = page.iter().map(|(_, object)| &*object.value);
    match call.form {
        Form::Whole => {}
        Form::Table => {
            let objects: Vec<&Value> = objects.collect();
            return Ok(json_response(StatusCode::OK, &table::table(&call.kind, &objects, metadata, api.clock.now())));
        }
        Form::Metadata => {
            let (kind, items) = ("PartialObjectMetadataList", objects.map(table::metadata).collect::<Vec<_>>());
            let list = json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items });
            return Ok(json_response(StatusCode::OK, &list));
        }
    }
    // Joined from stored JSON: a page of thousands of Secrets is not serialized anew. Metadata stand first, as the API server writes them.
    let size = page.iter().map(|(_, object)| object.listed.len() + 1).sum::<usize>();
    let mut body = Vec::with_capacity(size + 256);
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
        call.kind.kind,
        call.kind.api_version()
    );
    body.extend_from_slice(head.as_bytes());
    // Items of built-in kinds do not say what they are, custom ones do.
    let custom = api.schema(&call.kind).is_some();
    for (index, (_, object)) in page.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        match custom {
            true => body.extend_from_slice(&object.json()),
            false => body.extend_from_slice(&object.listed),
        }
    }
    body.extend_from_slice(b"]}");
    Ok(raw_response(StatusCode::OK, body.into()))
}

fn parse_token(token: &str) -> Result<(u64, String, String), Failure> {
    let mut parts = token.splitn(3, '_');
    let mut next = || parts.next().ok_or_else(|| Failure::bad_request("continue: the token is not one of this API"));
    let version = next()?.parse().map_err(|_| Failure::bad_request("continue: the token is not one of this API"))?;
    Ok((version, next()?.to_owned(), next()?.to_owned()))
}

/// Refuses a list of another version than this one, which is the only one that can be listed.
fn check_version(call: &Call, now: u64) -> Result<(), Failure> {
    let parameter = |name: &str| call.query.get(name).map_or("", String::as_str);
    let (version, matching) = (parameter("resourceVersion"), parameter("resourceVersionMatch"));
    let forbidden = |why: &str| Err(Failure::invalid(format!("resourceVersionMatch: Forbidden: {why}")));
    match (matching, version) {
        ("", "") => return Ok(()),
        ("Exact" | "NotOlderThan", "") => return forbidden("it is forbidden unless resourceVersion is provided"),
        ("Exact", "0") => return forbidden("Exact is forbidden for resourceVersion 0"),
        ("" | "Exact" | "NotOlderThan", _) => {}
        _ => {
            return Err(Failure::invalid(format!(
                "resourceVersionMatch: Unsupported value: {matching:?}: supported values: \"Exact\", \"NotOlderThan\""
            )));
        }
    }
    match version.parse::<u64>() {
        Err(_) => Err(Failure::bad_request(format!("resourceVersion: {version:?} is no version of this API"))),
        Ok(version) if version > now => Err(Failure::too_new(version, now)),
        Ok(version) if matching == "Exact" && version < now => Err(Failure::gone()),
        Ok(_) => Ok(()),
    }
}

/// Deletes what a list would show.
pub(super) fn delete_collection(api: &Api, call: &Call, body: &[u8]) -> Result<Response, Failure> {
    let filter = Filter::of(call)?;
    let (_, dry) = deletion(call, body)?;
    let listing = api.store.list(&filter.resource, filter.namespace.as_deref());
    for (key, object) in listing.objects {
        // Whatever is gone meanwhile is what was wanted.
        if filter.takes(&object.value) && !dry {
            let _ = api.store.delete(&key, Dependents::Go, |_| Ok(()));
        }
    }
    Ok(json_response(
        StatusCode::OK,
        &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }),
    ))
}

/// Answers a watch: a stream of events until its time is over, the client goes, or the history has moved on.
pub(super) fn watch(api: &Api, call: Call) -> Result<Response, Failure> {
    let seconds = call.query.get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(LONGEST_WATCH);
    let from = call.query.get("resourceVersion").map_or("", String::as_str);
    let initial = call.is("sendInitialEvents") || matches!(from, "" | "0");
    let version = if initial {
        None
    } else {
        Some(
            from.parse()
                .map_err(|_| Failure::bad_request(format!("resourceVersion: {from:?} is no version of this API")))?,
        )
    };
    let (lines, receiver) = mpsc::channel(64);
    let watcher = Watcher {
        filter: Filter::of(&call)?,
        versions: api.store.versions(),
        store: Arc::clone(&api.store),
        clock: Arc::clone(&api.clock),
        kind: call.kind.clone(),
        form: call.form,
        bookmarks: call.is("allowWatchBookmarks"),
        ends_initial: call.is("sendInitialEvents"),
        lines,
    };
    let deadline = Instant::now() + Duration::from_secs(seconds.min(LONGEST_WATCH));
    // It ends with the client: sending fails once the receiver is dropped.
    tokio::spawn(async move {
        tokio::select! {
            () = sleep_until(deadline) => {}
            () = watcher.lines.closed() => {}
            _ = watcher.run(version) => {}
        }
    });
    let mut response = Response::new(Body::new(Lines(receiver)));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

struct Watcher {
    filter: Filter,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    versions: watch::Receiver<u64>,
    kind: Kind,
    form: Form,
    bookmarks: bool,
    ends_initial: bool,
    lines: mpsc::Sender<Bytes>,
}

impl Watcher {
    /// Sends events; `None` means that nobody listens or that it is over.
    async fn run(&self, from: Option<u64>) -> Option<()> {
        let mut version = match from {
            Some(version) => version,
            None => self.send_initial().await?,
        };
        // What has been deleted and made again since is another kind: this one's versions are none of its own.
        let changes = self.store.since(version).map(|(changes, _)| changes).unwrap_or_default();
        if changes.iter().any(|change| self.is_kinds_end(change)) {
            return self.send_gone().await;
        }
        let mut versions = self.versions.clone();
        let mut bookmarks = interval(BOOKMARK_INTERVAL);
        bookmarks.reset();
        loop {
            let Some((changes, now)) = self.store.since(version) else {
                return self.send_gone().await;
            };
            for change in changes {
                if let Some(event) = self.event(&change) {
                    self.send(event).await?;
                }
                if self.is_kinds_end(&change) {
                    return None;
                }
            }
            version = now;
            tokio::select! {
                changed = versions.changed() => changed.ok()?,
                _ = bookmarks.tick(), if self.bookmarks => self.bookmark(version, json!({})).await?,
            }
        }
    }

    async fn send_initial(&self) -> Option<u64> {
        let listing = self.store.list(&self.filter.resource, self.filter.namespace.as_deref());
        for (_, object) in listing.objects.iter().filter(|(_, object)| self.filter.takes(&object.value)) {
            self.send(self.line("ADDED", &object.value)).await?;
        }
        if self.ends_initial {
            self.bookmark(listing.version, json!({ "k8s.io/initial-events-end": "true" })).await?;
        }
        Some(listing.version)
    }

    /// Whether the definition of what is watched is gone with this change.
    fn is_kinds_end(&self, change: &Change) -> bool {
        let (resource, _, name) = &change.key;
        change.after.is_none()
            && **resource == *DEFINITIONS
            && **name == *format!("{}.{}", self.kind.plural, self.kind.group)
    }

    /// The event that a change is for this watch: what leaves the selection is deleted for it, what enters is added.
    fn event(&self, change: &Change) -> Option<Value> {
        if !self.filter.about(&change.key) {
            return None;
        }
        let taken =
            |object: &Option<Object>| object.as_ref().filter(|object| self.filter.takes(&object.value)).cloned();
        match (taken(&change.before), taken(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(self.line("ADDED", &after.value)),
            (Some(_), Some(after)) => Some(self.line("MODIFIED", &after.value)),
            (Some(before), None) => {
                // The last state, at the version of its end.
                let last = change.after.as_ref().map_or(&before.value, |after| &after.value);
                let mut object = Value::clone(last);
                object["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(self.line("DELETED", &object))
            }
        }
    }

    fn line(&self, event: &str, object: &Value) -> Value {
        match self.form {
            Form::Whole => json!({ "type": event, "object": object }),
            Form::Metadata => json!({ "type": event, "object": table::metadata(object) }),
            Form::Table => {
                let table = table::table(&self.kind, &[object], json!({}), self.clock.now());
                json!({ "type": event, "object": table })
            }
        }
    }

    async fn bookmark(&self, version: u64, annotations: Value) -> Option<()> {
        let metadata =
            json!({ "resourceVersion": version.to_string(), "annotations": annotations, "creationTimestamp": null });
        let object = json!({ "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata });
        self.send(json!({ "type": "BOOKMARK", "object": object })).await
    }

    async fn send_gone(&self) -> Option<()> {
        self.send(json!({ "type": "ERROR", "object": Failure::gone().body() })).await
    }

    async fn send(&self, line: Value) -> Option<()> {
        self.lines.send(Bytes::from(format!("{line}\n"))).await.ok()
    }
}

/// A body of lines as they come.
struct Lines(mpsc::Receiver<Bytes>);

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
