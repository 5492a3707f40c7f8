//! Server-sent events: which mesh, renewal or source has changed. What it is now, whoever listens asks again.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, interval_at};

use crate::follower::{Known, SourceHealth, View};
use crate::inventory::{Shard, Snapshot};
use crate::mesh::{HostedMesh, MeshKey};
use crate::metrics::exposition::ClusterSnapshot;
use crate::renewal::Phase;
use crate::server::{App, sentence};

/// Who listens takes up a connection for hours: most of the server's connections stay free for scrapes.
const MOST_SUBSCRIBERS: usize = 64;
/// Frames that may wait for a client; one that lags further behind is cut off, connects again, and asks for everything.
const BUFFER: usize = 32;
/// Shorter than any usual proxy's patience, and than the server's own with an idle connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Changes that come thick and fast are told together.
const PAUSE: Duration = Duration::from_millis(150);
/// Beyond so many, one event says that much has changed.
const MOST_CHANGES: usize = 50;

/// Those who listen.
#[derive(Debug)]
pub(super) struct Feed {
    /// `None` once it is closed.
    subscribers: Mutex<Option<Vec<mpsc::Sender<Bytes>>>>,
}

/// Why nobody more can listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Full,
    Closed,
}

/// Something that has changed; its name is the event's type.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Change<'a> {
    /// A mesh's Secrets.
    Mesh { cluster: &'a str, namespace: &'a str, id: &'a str },
    /// A renewal; without a phase it is gone.
    Renewal { cluster: &'a str, namespace: &'a str, name: &'a str, mesh: &'a str, phase: Option<Phase> },
    /// How well a source can be read.
    Sources {},
    /// Very much at once.
    Everything {},
}

/// A client's stream: what is published, and a heartbeat meanwhile.
struct Stream {
    frames: mpsc::Receiver<Bytes>,
    heartbeat: Interval,
}

/// What was there when the subscribers were told last.
#[derive(Default)]
struct Seen {
    clusters: Vec<ClusterSnapshot>,
    view: Arc<View>,
    up: Vec<(Arc<str>, bool)>,
}

/// Answers `/api/v1/events`.
pub(super) async fn subscribe(State(app): State<Arc<App>>) -> Response {
    match app.feed.subscribe() {
        Ok(frames) => {
            let heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
            // Proxies that gather an answer before they pass it on are asked not to.
            let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
            (head, [("x-accel-buffering", "no")], Body::new(Stream { frames, heartbeat })).into_response()
        }
        Err(Refused::Full) => sentence(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("{MOST_SUBSCRIBERS} clients listen already; ask /api/v1/renewals from time to time instead"),
        ),
        Err(Refused::Closed) => sentence(StatusCode::SERVICE_UNAVAILABLE, "meshcert is stopping"),
    }
}

/// Tells the subscribers of every change, as long as something can change.
pub async fn announce(app: Arc<App>, mut observed: watch::Receiver<u64>) {
    let mut followed = app.followed.changes();
    let mut before = Seen::of(&app);
    loop {
        let changed = tokio::select! {
            changed = observed.changed() => changed,
            changed = followed.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let now = Seen::of(&app);
        app.feed.publish(&changes(&before, &now));
        before = now;
        tokio::time::sleep(PAUSE).await;
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self { subscribers: Mutex::new(Some(Vec::new())) }
    }
}

impl Feed {
    fn subscribe(&self) -> Result<mpsc::Receiver<Bytes>, Refused> {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let subscribers = subscribers.as_mut().ok_or(Refused::Closed)?;
        subscribers.retain(|subscriber| !subscriber.is_closed());
        if subscribers.len() >= MOST_SUBSCRIBERS {
            return Err(Refused::Full);
        }
        let (sender, receiver) = mpsc::channel(BUFFER);
        // The channel is empty and its receiver is here.
        let _ = sender.try_send(Bytes::from_static(b"retry: 3000\n\n"));
        subscribers.push(sender);
        Ok(receiver)
    }

    /// Hands the changes to everyone; whoever has no room for them is cut off.
    fn publish(&self, changes: &[Change<'_>]) {
        if changes.is_empty() {
            return;
        }
        let mut text = String::new();
        for change in changes {
            // Writing to a String cannot fail, and these values have nothing that JSON cannot say.
            let data = serde_json::to_string(change).unwrap_or_default();
            let _ = write!(text, "event: {}\ndata: {data}\n\n", change.name());
        }
        let frame = Bytes::from(text);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(subscribers) = subscribers.as_mut() {
            subscribers.retain(|subscriber| subscriber.try_send(frame.clone()).is_ok());
        }
    }

    /// Ends all streams; nobody can listen any more.
    pub(super) fn close(&self) {
        *self.subscribers.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Poll::Ready(frame) = self.frames.poll_recv(cx) {
            return Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))));
        }
        ready!(self.heartbeat.poll_tick(cx));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": alive\n\n")))))
    }
}

impl Change<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Mesh { .. } => "mesh",
            Self::Renewal { .. } => "renewal",
            Self::Sources {} => "sources",
            Self::Everything {} => "everything",
        }
    }
}

impl Seen {
    fn of(app: &App) -> Self {
        let sources = app.observed.sources();
        Self {
            clusters: app.observed.clusters(),
            view: app.followed.view(),
            up: sources.into_iter().map(|source| (source.source, source.up)).collect(),
        }
    }
}

fn changes<'a>(before: &'a Seen, now: &'a Seen) -> Vec<Change<'a>> {
    let mut all = Vec::new();
    for name in before.clusters.iter().chain(&now.clusters).map(|cluster| &*cluster.name).collect::<HashSet<_>>() {
        let of = |seen: &'a Seen| seen.clusters.iter().find(|cluster| *cluster.name == *name);
        let meshes = changed_meshes(of(before).map(|found| &*found.snapshot), of(now).map(|found| &*found.snapshot));
        all.extend(meshes.into_iter().map(|key| Change::Mesh {
            cluster: name,
            namespace: &key.namespace,
            id: key.id.as_str(),
        }));
    }
    changed_renewals(&before.view, &now.view, &mut all);
    if before.up != now.up || readable(&before.view) != readable(&now.view) {
        all.push(Change::Sources {});
    }
    if all.len() > MOST_CHANGES { vec![Change::Everything {}] } else { all }
}

/// The meshes that are not the same in both; a shard that is the same is not looked into.
fn changed_meshes<'a>(before: Option<&'a Snapshot>, now: Option<&'a Snapshot>) -> Vec<&'a MeshKey> {
    let addresses = |snapshot: Option<&'a Snapshot>| -> HashSet<*const Shard> {
        snapshot.iter().flat_map(|snapshot| &snapshot.shards).map(Arc::as_ptr).collect()
    };
    let fresh =
        |one: Option<&'a Snapshot>, other: Option<&'a Snapshot>| -> BTreeMap<&'a MeshKey, &'a Arc<HostedMesh>> {
            let known = addresses(other);
            let shards = one.into_iter().flat_map(|snapshot| &snapshot.shards);
            shards.filter(|shard| !known.contains(&Arc::as_ptr(shard))).flat_map(|shard| &shard.meshes).collect()
        };
    let (old, new) = (fresh(before, now), fresh(now, before));
    let is_same = |key: &MeshKey, mesh: &Arc<HostedMesh>| old.get(key).is_some_and(|known| Arc::ptr_eq(known, mesh));
    let altered = new.iter().filter(|(key, mesh)| !is_same(key, mesh)).map(|(key, _)| *key);
    altered.chain(old.keys().filter(|key| !new.contains_key(*key)).copied()).collect()
}

fn changed_renewals<'a>(before: &'a View, now: &'a View, all: &mut Vec<Change<'a>>) {
    let index = |view: &'a View| -> BTreeMap<_, _> {
        let key = |known: &'a Known| (&*known.cluster, &*known.renewal.namespace, &*known.renewal.name);
        view.renewals.iter().map(|known| (key(known), &known.renewal)).collect()
    };
    let (old, new) = (index(before), index(now));
    for ((cluster, namespace, name), renewal) in &new {
        if !old.get(&(*cluster, *namespace, *name)).is_some_and(|known| Arc::ptr_eq(known, renewal)) {
            let (mesh, phase) = (&*renewal.spec.mesh_id, Some(renewal.status.phase));
            all.push(Change::Renewal { cluster, namespace, name, mesh, phase });
        }
    }
    for ((cluster, namespace, name), renewal) in &old {
        if !new.contains_key(&(*cluster, *namespace, *name)) {
            all.push(Change::Renewal { cluster, namespace, name, mesh: &renewal.spec.mesh_id, phase: None });
        }
    }
}

/// How well sources can be read, whenever they last were.
fn readable(view: &View) -> Vec<SourceHealth> {
    let timeless = |source: &SourceHealth| SourceHealth { last_success: None, ..source.clone() };
    view.sources.iter().map(timeless).collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn mk_change(name: &str) -> Change<'_> {
        Change::Renewal { cluster: "cp-1", namespace: "istio-system", name, mesh: "demo", phase: Some(Phase::Staging) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_hears_changes_and_a_heartbeat_meanwhile_until_the_feed_is_closed() {
        let feed = Feed::default();
        let frames = feed.subscribe().unwrap();
        let mut stream = Stream { frames, heartbeat: interval_at(Instant::now() + HEARTBEAT, HEARTBEAT) };
        let mut next = async || {
            let frame = stream.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
            frame.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        assert_eq!(next().await.unwrap(), "retry: 3000\n\n");
        feed.publish(&[mk_change("demo-1"), Change::Sources {}]);
        assert_eq!(
            next().await.unwrap(),
            "event: renewal\ndata: {\"cluster\":\"cp-1\",\"namespace\":\"istio-system\",\"name\":\"demo-1\",\"mesh\":\"demo\",\"phase\":\"Staging\"}\n\nevent: sources\ndata: {}\n\n"
        );
        let start = Instant::now();
        assert_eq!((next().await.unwrap(), start.elapsed()), (": alive\n\n".to_owned(), HEARTBEAT));
        feed.close();
        assert_eq!(next().await, None);
        assert_eq!(feed.subscribe().unwrap_err(), Refused::Closed);
    }

    #[tokio::test]
    async fn a_client_that_lags_behind_is_cut_off_and_disturbs_no_other() {
        let feed = Feed::default();
        let (mut slow, mut quick) = (feed.subscribe().unwrap(), feed.subscribe().unwrap());
        for _ in 0..=BUFFER {
            feed.publish(&[Change::Sources {}]);
            while quick.try_recv().is_ok() {}
        }
        let mut heard = 0;
        while slow.recv().await.is_some() {
            heard += 1;
        }
        assert_eq!(heard, BUFFER, "what was buffered, and then the end");
        feed.publish(&[Change::Sources {}]);
        assert!(quick.recv().await.is_some());
    }

    #[test]
    fn clients_beyond_the_limit_are_refused_until_one_leaves() {
        let feed = Feed::default();
        let mut all: Vec<_> = (0..MOST_SUBSCRIBERS).map(|_| feed.subscribe().unwrap()).collect();
        assert_eq!(feed.subscribe().unwrap_err(), Refused::Full);
        all.pop();
        assert!(feed.subscribe().is_ok());
    }

    #[test]
    fn a_change_names_what_changed_and_very_many_are_one() {
        let mesh = |id: &str| {
            let key = MeshKey { namespace: "ns".into(), id: id.parse().unwrap() };
            let secrets = [None, None, None];
            Arc::new(HostedMesh::assemble(crate::mesh::Naming::default().secret_names(&key.id), key, secrets))
        };
        let shard = |meshes: &[&Arc<HostedMesh>]| {
            let meshes = meshes.iter().map(|mesh| (mesh.key.clone(), Arc::clone(mesh))).collect();
            Arc::new(Shard { meshes, others: BTreeMap::new() })
        };
        let seen = |shards: Vec<Arc<Shard>>| Seen {
            clusters: vec![ClusterSnapshot { name: "cp-1".into(), snapshot: Arc::new(Snapshot { shards }) }],
            ..Seen::default()
        };
        let (a, b, c) = (mesh("a"), mesh("b"), mesh("c"));
        let untouched = shard(&[&c]);
        let before = seen(vec![shard(&[&a, &b]), Arc::clone(&untouched)]);
        let after = seen(vec![shard(&[&a, &mesh("b"), &mesh("d")]), untouched]);
        let ids = |before, after| -> Vec<String> {
            let names = |change| match change {
                Change::Mesh { id, .. } => id.to_owned(),
                other => other.name().to_owned(),
            };
            changes(before, after).into_iter().map(names).collect()
        };
        assert_eq!(ids(&before, &after), ["b", "d"]);
        assert_eq!(ids(&after, &before), ["b", "d"], "one that is gone has changed too");
        assert_eq!(ids(&after, &after), Vec::<String>::new());
        let many: Vec<_> = (0..=MOST_CHANGES).map(|index| mesh(&format!("m{index}"))).collect();
        assert_eq!(ids(&before, &seen(vec![shard(&many.iter().collect::<Vec<_>>())])), ["everything"]);
    }
}
