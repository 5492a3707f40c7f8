//! The observing plane against a scripted Kubernetes API on loopback: lists, watches, failures, and the daemon as a process.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

use std::collections::VecDeque;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http_body_util::BodyExt;
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::Connection;
use meshcert::cluster::secrets::{Scope, follow};
use meshcert::demo::{self, Options, Scenario};
use meshcert::mesh::Naming;
use meshcert::metrics::Observed;
use meshcert::observer::{ClusterSpec, Registry, Supervisor};
use meshcert::ports::SecretEvent;
use meshcert::secret::Selection;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// What the fake answers to the next list or watch.
enum Answer {
    Status(u16, Value),
    /// A watch: these lines, then open until the sender is dropped.
    Watch(mpsc::UnboundedReceiver<String>),
    /// Bytes as they are, with status 200.
    Raw(String),
}

#[derive(Clone, Default)]
struct Script {
    lists: Arc<Mutex<VecDeque<Answer>>>,
    watches: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let uri = request.uri().to_string();
    if uri.contains("selfsubjectaccessreviews") {
        return Response::new(Body::from(r#"{"status":{"allowed":false}}"#));
    }
    // This cluster knows no renewals; the observing plane must not mind.
    if uri.starts_with("/apis/") {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    }
    let queue = if uri.contains("watch=true") { &script.watches } else { &script.lists };
    script.seen.lock().unwrap().push(uri);
    let next = queue.lock().unwrap().pop_front();
    match next {
        Some(Answer::Status(code, body)) => {
            Response::builder().status(code).body(Body::from(body.to_string())).unwrap()
        }
        Some(Answer::Raw(text)) => Response::new(Body::from(text)),
        Some(Answer::Watch(lines)) => {
            let frames = http_body_util::StreamBody::new(futures_of(lines));
            Response::new(Body::new(frames.map_err(|never: std::convert::Infallible| match never {})))
        }
        // Nothing is scripted: the client waits, as it does for a busy server.
        None => std::future::pending().await,
    }
}

/// The receiver as a stream of frames.
fn futures_of(
    lines: mpsc::UnboundedReceiver<String>,
) -> impl futures_core::Stream<Item = Result<hyper::body::Frame<hyper::body::Bytes>, std::convert::Infallible>> {
    struct Lines(mpsc::UnboundedReceiver<String>);
    impl futures_core::Stream for Lines {
        type Item = Result<hyper::body::Frame<hyper::body::Bytes>, std::convert::Infallible>;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            self.0.poll_recv(context).map(|line| line.map(|line| Ok(hyper::body::Frame::data(line.into()))))
        }
    }
    Lines(lines)
}

impl Script {
    fn list(&self, answer: Answer) {
        self.lists.lock().unwrap().push_back(answer);
    }

    fn watch(&self) -> mpsc::UnboundedSender<String> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watches.lock().unwrap().push_back(Answer::Watch(receiver));
        sender
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }
}

fn mk_secret(name: &str, version: u32) -> Value {
    json!({ "metadata": { "name": name, "namespace": "istio-system", "uid": name, "resourceVersion": version.to_string() },
            "type": "Opaque", "data": { "ca.crt": "" } })
}

fn mk_list(names: &[&str], version: &str, next: &str) -> Answer {
    let items: Vec<Value> = names.iter().map(|name| mk_secret(name, 1)).collect();
    // `continue` stands before the items, as the API server writes it.
    Answer::Raw(format!(
        r#"{{"kind":"SecretList","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":{}}}"#,
        Value::Array(items)
    ))
}

fn mk_event(kind: &str, name: &str, version: u32) -> String {
    format!("{}\n", json!({ "type": kind, "object": mk_secret(name, version) }))
}

fn mk_kubeconfig(server: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    write!(
        file,
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: '{server}'}}}}], \
         users: [{{name: c, user: {{}}}}], contexts: [{{name: c, context: {{cluster: c, user: c}}}}]}}"
    )
    .unwrap();
    file
}

fn mk_spec(name: &str, kubeconfig: &NamedTempFile) -> ClusterSpec {
    ClusterSpec {
        name: name.into(),
        connection: Connection::file(kubeconfig.path().to_owned(), None),
        namespaces: Some(vec!["istio-system".to_owned()]),
        selection: mk_selection(),
    }
}

fn mk_selection() -> Arc<Selection> {
    let mesh_namespaces = Some(vec!["istio-system".to_owned()]);
    Arc::new(Selection { mesh_namespaces, naming: Naming::default(), rules: Vec::new() })
}

/// Waits for a condition; every change of what is published is a chance to hold.
async fn until(registry: &Registry, what: &str, condition: impl Fn(&Registry) -> bool) {
    let mut changes = registry.changes();
    let waiting = async {
        while !condition(registry) {
            let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok(), "{what}");
}

fn meshes(registry: &Registry) -> Vec<String> {
    let all = registry.clusters();
    let of = |cluster: &meshcert::metrics::exposition::ClusterSnapshot| {
        cluster.snapshot.meshes().map(|mesh| format!("{}/{}", cluster.name, mesh.key.id)).collect::<Vec<_>>()
    };
    let mut ids: Vec<String> = all.iter().flat_map(of).collect();
    ids.sort();
    ids
}

fn up(registry: &Registry, source: &str) -> bool {
    registry.sources().iter().any(|health| &*health.source == source && health.up)
}

fn errors(registry: &Registry, reason: &str) -> u64 {
    registry
        .sources()
        .iter()
        .flat_map(|health| health.errors.clone())
        .filter(|(name, _)| *name == reason)
        .map(|(_, n)| n)
        .sum()
}

struct Observing {
    registry: Arc<Registry>,
    supervisor: Supervisor,
}

fn observe(specs: Vec<ClusterSpec>) -> Observing {
    let registry = Arc::new(Registry::default());
    let mut supervisor = Supervisor::new(Arc::clone(&registry), Arc::new(SystemClock));
    supervisor.reconcile(specs);
    Observing { registry, supervisor }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_joined_and_nothing_is_shown_before_the_last() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs", "noise"], "5", "t/1"));
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    // The second page is asked for and not answered: nothing of the first is shown, and nobody calls it ready.
    until(&registry, "the second page is asked for", |_| {
        script.requests().iter().any(|uri| uri.contains("continue=t%2F1"))
    })
    .await;
    assert_eq!(meshes(&registry), Vec::<String>::new());
    assert!(registry.ready().is_err() && !up(&registry, "one/istio-system"));
    assert!(script.requests()[0].contains("type%21%3Dhelm.sh%2Frelease.v1"), "{:?}", script.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_too_large_is_asked_for_in_halves() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs"], "5", "t/1"));
    let large = || Answer::Raw(" ".repeat((16 << 20) + 1));
    script.list(large());
    script.list(mk_list(&["b-kube-certs"], "5", "t/2"));
    script.list(mk_list(&["c-kube-certs"], "5", ""));
    let watch = script.watch();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "listed", |r| meshes(r) == ["one/a", "one/b", "one/c"] && up(r, "one/istio-system")).await;
    let asked = || {
        let lists = script.requests().into_iter().filter(|uri| !uri.contains("watch=true"));
        lists.map(|uri| uri.split_once("limit=").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(asked(), ["250", "250&continue=t%2F1", "125&continue=t%2F1", "125&continue=t%2F2"]);
    // One object that is too large by itself cannot be halved: that is said.
    let halves = [250, 125, 62, 31, 15, 7, 3, 1];
    halves.iter().for_each(|_| script.list(large()));
    script.watches.lock().unwrap().push_back(Answer::Status(410, json!({ "message": "too old" })));
    drop(watch);
    until(&registry, "given up", |r| errors(r, "too_large") == 1 && !up(r, "one/istio-system")).await;
    assert_eq!(asked()[4..12], halves.map(|limit| limit.to_string()));
    assert!(registry.failures()[0].1.contains("larger than 16 MiB"), "{:?}", registry.failures());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_secrets_are_listed_in_pages_that_fit() {
    let options = Options {
        scenario: Scenario::Healthy,
        meshes: Some(1),
        listen: "127.0.0.1:0".parse().unwrap(),
        pace: Duration::from_millis(5),
        clock: Arc::new(SystemClock),
    };
    let demo = demo::start(options).await.unwrap();
    let client = kube::Client::new(demo.router(), "istio-system");
    let api = Api::new(client.clone());
    let bytes = "QUFB".repeat(250_000);
    for number in 0..24 {
        let secret =
            json!({ "metadata": { "name": format!("large-{number}-kube-certs") }, "data": { "ca.crt": bytes } });
        api.create("/api/v1/namespaces/istio-system/secrets", &secret).await.unwrap();
    }
    let scope = Scope { namespace: Some("istio-system".into()), selection: mk_selection() };
    let (sender, mut events) = mpsc::channel(1);
    let following = tokio::spawn(follow(client, scope, sender));
    let mut sizes = Vec::new();
    loop {
        match events.recv().await.unwrap() {
            SecretEvent::Page(secrets) => {
                let large = secrets.iter().filter(|secret| secret.meta.reference.name.starts_with("large-"));
                sizes.push(large.count());
            }
            SecretEvent::ListFinished => break,
            SecretEvent::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
    following.abort();
    assert_eq!(sizes.iter().sum::<usize>(), 24);
    // A million characters each.
    assert!(sizes.iter().all(|size| *size < 17), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_by_the_watch_and_deletions_take_exactly_one_mesh() {
    let script = Script::default();
    script.list(mk_list(&["mesh-1-kube-certs"], "5", "t"));
    script.list(mk_list(&["mesh-101-kube-certs"], "5", ""));
    let watch = script.watch();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "listed", |r| meshes(r) == ["one/mesh-1", "one/mesh-101"] && r.ready().is_ok()).await;
    // An event may arrive in pieces.
    let event = mk_event("ADDED", "b-etcd-certs", 6);
    let (head, tail) = event.split_at(20);
    watch.send(head.to_owned()).unwrap();
    watch.send(tail.to_owned()).unwrap();
    until(&registry, "added", |r| meshes(r).contains(&"one/b".to_owned())).await;
    watch.send(mk_event("DELETED", "mesh-1-kube-certs", 7)).unwrap();
    until(&registry, "deleted", |r| meshes(r) == ["one/b", "one/mesh-101"]).await;
    // The watch is cut: it is taken up again where it was.
    let again = script.watch();
    drop(watch);
    until(&registry, "resumed", |_| {
        script.requests().iter().any(|uri| uri.contains("watch=true") && uri.ends_with("resourceVersion=7"))
    })
    .await;
    let bookmark = json!({ "type": "BOOKMARK", "object": { "metadata": { "resourceVersion": "90" } } });
    again.send(format!("{bookmark}\n")).unwrap();
    let third = script.watch();
    drop(again);
    until(&registry, "resumed at the bookmark", |_| {
        script.requests().iter().any(|uri| uri.ends_with("resourceVersion=90"))
    })
    .await;
    // Cut in the middle of an event: half of one is none, and the whole of it comes by the next watch.
    let event = mk_event("ADDED", "c-etcd-certs", 91);
    third.send(event[..event.len() / 2].to_owned()).unwrap();
    let fourth = script.watch();
    drop(third);
    let resumed = || script.requests().iter().filter(|uri| uri.ends_with("resourceVersion=90")).count();
    until(&registry, "resumed at the bookmark again", |_| resumed() == 2).await;
    assert_eq!(meshes(&registry), ["one/b", "one/mesh-101"]);
    fourth.send(event).unwrap();
    until(&registry, "added after the cut", |r| meshes(r).contains(&"one/c".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_gone_means_a_new_list_without_a_gap() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs", "b-kube-certs"], "5", ""));
    let watch = script.watch();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "listed", |r| meshes(r).len() == 2).await;
    let gone = json!({ "type": "ERROR", "object": { "kind": "Status", "code": 410, "message": "too old" } });
    watch.send(format!("{gone}\n")).unwrap();
    until(&registry, "listed anew", |_| script.requests().iter().filter(|uri| !uri.contains("watch")).count() == 2)
        .await;
    // While the new list is awaited, the old data stand and the source is not down.
    assert_eq!(meshes(&registry).len(), 2);
    assert!(up(&registry, "one/istio-system"));
    assert_eq!(errors(&registry, "gone"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_give_nothing_but_errors_mean_a_new_list() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs"], "5", ""));
    let error = json!({ "type": "ERROR", "object": { "kind": "Status", "code": 500, "message": "no leader" } });
    for line in [format!("{error}\n"), "no event\n".to_owned()] {
        script.watches.lock().unwrap().push_back(Answer::Raw(line));
    }
    script.list(mk_list(&["b-kube-certs"], "9", ""));
    let open = script.watch();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "listed anew", |r| meshes(r) == ["one/b"] && errors(r, "decode") == 1).await;
    assert!(errors(&registry, "server") == 1 && !up(&registry, "one/istio-system"), "the watch is no better for that");
    open.send(mk_event("ADDED", "c-kube-certs", 10)).unwrap();
    until(&registry, "up", |r| meshes(r) == ["one/b", "one/c"] && up(r, "one/istio-system")).await;
    let watches: Vec<String> = script.requests().into_iter().filter(|uri| uri.contains("watch=true")).collect();
    let from: Vec<&str> = watches.iter().map(|uri| uri.rsplit_once("resourceVersion=").unwrap().1).collect();
    assert_eq!(from, ["5", "5", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_held_back_is_told_and_lists_do_for_it() {
    let script = Script::default();
    let watches: Vec<_> = (0..3).map(|_| script.watch()).collect();
    for version in ["5", "9"] {
        script.list(mk_list(&["a-kube-certs"], version, ""));
    }
    let client = kube::Client::new(script.router(), "istio-system");
    let scope = Scope { namespace: Some("istio-system".into()), selection: mk_selection() };
    let (sender, mut events) = mpsc::channel(1);
    let following = tokio::spawn(follow(client, scope, sender));
    let begun = tokio::time::Instant::now();
    let mut next = async || match events.recv().await.unwrap() {
        SecretEvent::ListStarted => "list".to_owned(),
        SecretEvent::ListFinished => "listed".to_owned(),
        SecretEvent::Alive => "alive".to_owned(),
        SecretEvent::Failed(error) => format!("{}: {error}", error.reason.as_str()),
        _ => "secrets".to_owned(),
    };
    let silent = "timeout: watch secrets in namespace istio-system: nothing arrived for 150 s, not even a bookmark; \
                  look for a proxy on the way that holds the watch back";
    for expected in ["list", "secrets", "listed", "alive", silent, "list", "secrets", "listed", silent] {
        assert_eq!(next().await, expected);
    }
    assert!(begun.elapsed() < Duration::from_secs(310), "{:?}", begun.elapsed());
    // A bookmark each minute keeps a watch open on which nothing else happens.
    for version in 10..20 {
        let bookmark =
            json!({ "type": "BOOKMARK", "object": { "metadata": { "resourceVersion": version.to_string() } } });
        watches[2].send(format!("{bookmark}\n")).unwrap();
        assert_eq!(next().await, "alive");
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    assert_eq!(script.requests().len(), 5, "{:?}", script.requests());
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_end_without_a_line_mean_a_new_list_and_are_told() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs"], "5", ""));
    (0..2).for_each(|_| script.watches.lock().unwrap().push_back(Answer::Raw(String::new())));
    script.list(mk_list(&["b-kube-certs"], "9", ""));
    let _held = script.watch();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "listed anew", |r| meshes(r) == ["one/b"] && errors(r, "unreachable") == 1).await;
    let (_, why) = &registry.failures()[0];
    assert!(why.contains("ended again before anything arrived, not even a bookmark"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_version_is_gone_before_its_end_has_failed() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs"], "5", "t"));
    script.list(Answer::Status(410, json!({ "message": "the continue token has expired" })));
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "counted", |r| errors(r, "gone") == 1).await;
    assert!(!up(&registry, "one/istio-system"));
    assert!(registry.ready().is_ok(), "failed once is ready");
    assert_eq!(registry.failures().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_list_lacks_is_gone() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs", "b-kube-certs"], "5", ""));
    script.watches.lock().unwrap().push_back(Answer::Status(410, json!({ "message": "too old" })));
    script.list(mk_list(&["b-kube-certs"], "9", ""));
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "the vanished mesh is gone", |r| meshes(r) == ["one/b"]).await;
    until(&registry, "counted as a new list", |r| r.sources()[0].resyncs == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_cluster_is_down_and_disturbs_no_other() {
    let good = Script::default();
    good.list(mk_list(&["a-kube-certs"], "5", ""));
    let _watch = good.watch();
    let bad = Script::default();
    bad.list(Answer::Status(403, json!({ "message": "secrets is forbidden" })));
    bad.list(Answer::Raw("this is no JSON".to_owned()));
    bad.list(Answer::Status(500, json!({})));
    let (good_file, bad_file) = (mk_kubeconfig(&good.serve().await), mk_kubeconfig(&bad.serve().await));
    let nowhere = mk_kubeconfig("http://127.0.0.1:1");
    let specs = vec![mk_spec("bad", &bad_file), mk_spec("good", &good_file), mk_spec("nowhere", &nowhere)];
    let Observing { registry, mut supervisor } = observe(specs);
    until(&registry, "the good one is listed", |r| meshes(r) == ["good/a"]).await;
    until(&registry, "each failure is counted by its reason", |r| {
        ["forbidden", "decode", "server", "unreachable"].iter().all(|reason| errors(r, reason) >= 1)
    })
    .await;
    assert!(up(&registry, "good/istio-system") && !up(&registry, "bad/istio-system"));
    assert!(registry.ready().is_ok(), "listed or failed once is ready");
    // A cluster that is removed takes its series and health along; the others keep theirs.
    supervisor.reconcile(vec![mk_spec("good", &good_file)]);
    assert_eq!(registry.sources().len(), 1);
    assert_eq!(meshes(&registry), ["good/a"]);
    supervisor.reconcile(vec![]);
    assert_eq!(meshes(&registry), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_no_longer_answers_goes_down_keeps_what_it_knew_and_comes_up_again() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs"], "5", ""));
    let watch = script.watch();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
    until(&registry, "up", |r| up(r, "one/istio-system")).await;
    watch.send(mk_event("MODIFIED", "a-kube-certs", 6)).unwrap();
    script.watches.lock().unwrap().push_back(Answer::Status(403, json!({ "message": "no longer" })));
    drop(watch);
    until(&registry, "down", |r| !up(r, "one/istio-system")).await;
    assert_eq!((meshes(&registry), errors(&registry, "forbidden")), (vec!["one/a".to_owned()], 1));
    let _again = script.watch();
    until(&registry, "up again", |r| up(r, "one/istio-system") && r.failures().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_cluster_is_shown_until_it_has_been_listed_in_the_new_way() {
    type Way = fn(&NamedTempFile) -> Connection;
    let file: Way = |kubeconfig| Connection::file(kubeconfig.path().to_owned(), None);
    let document: Way = |kubeconfig| {
        let text = Arc::new(Zeroizing::new(std::fs::read(kubeconfig.path()).unwrap()));
        Connection::Document { origin: "Secret ns/one".into(), text }
    };
    for way in [file, document] {
        let (script, elsewhere) = (Script::default(), Script::default());
        let (kubeconfig, other) = (mk_kubeconfig(&script.serve().await), mk_kubeconfig(&elsewhere.serve().await));
        let with = |token: &str| {
            let text = std::fs::read_to_string(&kubeconfig).unwrap();
            let head = text.split("user: {").next().unwrap();
            let text = format!(
                "{head}user: {{token: {token}}}}}], contexts: [{{name: c, context: {{cluster: c, user: c}}}}]}}"
            );
            std::fs::write(&kubeconfig, text).unwrap();
            ClusterSpec { connection: way(&kubeconfig), ..mk_spec("one", &kubeconfig) }
        };
        script.list(Answer::Status(500, json!({})));
        script.list(mk_list(&["a-kube-certs", "b-kube-certs"], "5", ""));
        let _watch = script.watch();
        let Observing { registry, mut supervisor } = observe(vec![with("first")]);
        until(&registry, "listed", |r| meshes(r) == ["one/a", "one/b"] && up(r, "one/istio-system")).await;
        let known_at = registry.sources()[0].last_success;
        // As long as it is not listed, nobody takes what is shown for all there is.
        let stands = |ids: &[&str]| {
            assert_eq!(meshes(&registry), ids);
            assert!(!up(&registry, "one/istio-system") && registry.read("one").is_empty());
            assert_eq!(errors(&registry, "server"), 1);
        };
        supervisor.reconcile(vec![with("second")]);
        stands(&["one/a", "one/b"]);
        script.list(Answer::Status(401, json!({ "message": "Unauthorized" })));
        until(&registry, "refused", |r| errors(r, "unauthorized") == 1).await;
        stands(&["one/a", "one/b"]);
        assert_eq!(registry.sources()[0].last_success, known_at);
        script.list(mk_list(&["b-kube-certs", "c-kube-certs"], "9", ""));
        let _watch = script.watch();
        until(&registry, "the new list is in force", |r| meshes(r) == ["one/b", "one/c"]).await;
        until(&registry, "it is all there is", |r| up(r, "one/istio-system") && r.read("one").len() == 1).await;
        let mut read_otherwise = with("second");
        let naming = Naming::new(["{mesh}-certs", "{mesh}-etcd", "{mesh}-admin"]).unwrap();
        read_otherwise.selection = Arc::new(Selection { naming, ..Selection::clone(&mk_selection()) });
        supervisor.reconcile(vec![read_otherwise]);
        stands(&["one/b", "one/c"]);
        // Of another cluster nothing is known, nor is what was known of this one true of it.
        supervisor.reconcile(vec![ClusterSpec { connection: way(&other), ..mk_spec("one", &other) }]);
        assert_eq!((meshes(&registry), errors(&registry, "server")), (Vec::new(), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_no_time_is_told_by_its_answer_and_asked_again_later() {
    for (code, reason) in [(429, "throttled"), (503, "server")] {
        let script = Script::default();
        script.list(Answer::Status(code, json!({ "message": "not now" })));
        let kubeconfig = mk_kubeconfig(&script.serve().await);
        let Observing { registry, supervisor: _running } = observe(vec![mk_spec("one", &kubeconfig)]);
        until(&registry, reason, |r| errors(r, reason) == 1 && !up(r, "one/istio-system")).await;
        let (_, why) = &registry.failures()[0];
        assert!(why.contains(&format!("the API server answered {code} ")) && why.contains("not now"), "{why}");
        script.list(mk_list(&["a-kube-certs"], "5", ""));
        until(&registry, "listed", |r| meshes(r) == ["one/a"] && up(r, "one/istio-system")).await;
        assert_eq!(errors(&registry, reason), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_names_in_two_clusters_both_stand() {
    let scripts = [Script::default(), Script::default()];
    let mut files = Vec::new();
    let mut watches = Vec::new();
    for script in &scripts {
        script.list(mk_list(&["a-kube-certs"], "5", ""));
        watches.push(script.watch());
        files.push(mk_kubeconfig(&script.serve().await));
    }
    let Observing { registry, supervisor: _running } =
        observe(vec![mk_spec("one", &files[0]), mk_spec("two", &files[1])]);
    until(&registry, "both", |r| meshes(r) == ["one/a", "two/a"]).await;
}

/// A process that is killed if the test ends before it does.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", address).body(String::new()).unwrap();
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_serves_what_it_sees_and_ends_cleanly_when_asked() {
    let script = Script::default();
    script.list(mk_list(&["a-kube-certs"], "5", ""));
    let _watch = script.watch();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    // Bound and let go again, so that the daemon can be told a free port.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let daemon = Command::new(env!("CARGO_BIN_EXE_meshcert"))
        .args(["serve", "--listen", &address, "--log-format", "json", "--kubeconfig"])
        .arg(kubeconfig.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut daemon = Process(daemon);
    let started = std::time::Duration::from_secs(30);
    let page = tokio::time::timeout(started, async {
        loop {
            match get(&address, "/-/ready").await {
                Some((200, _)) => break get(&address, "/metrics").await.unwrap().1,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
    .unwrap();
    assert!(
        page.contains(
            r#"meshcert_hosted_mesh_info{mesh_cluster="default",mesh_namespace="istio-system",mesh_id="a"} 1"#
        ),
        "{page}"
    );
    assert!(page.contains(r#"meshcert_source_up{source="default/istio-system"} 1"#), "{page}");
    let asked = Command::new("kill").args(["-TERM", &daemon.0.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let ended = tokio::task::spawn_blocking(move || {
        let mut log = String::new();
        std::io::Read::read_to_string(&mut daemon.0.stderr.take().unwrap(), &mut log).unwrap();
        (daemon.0.wait().unwrap(), log)
    });
    let (status, log) = tokio::time::timeout(started, ended).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "no JSON: {line}");
    }
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let observing = lines.into_iter().find(|line| line["message"] == "observing").unwrap();
    assert_eq!(observing["namespaces"], "istio-system", "as in the configuration");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_which_cluster_it_could_not_read_and_what_the_server_leaves_out() {
    let script = Script::default();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let nowhere = mk_kubeconfig("http://127.0.0.1:1");
    let cluster = |name: &str, file: &NamedTempFile| json!({ "name": name, "kubeconfig": file.path() });
    let clusters = [cluster("nowhere", &nowhere), cluster("here", &kubeconfig)];
    let mut config = NamedTempFile::with_suffix(".yaml").unwrap();
    write!(config, "{}", json!({ "clusters": clusters })).unwrap();
    let explain = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshcert"));
        command.args(["explain", "istio-system/a-kube-certs", "--config"]).arg(config.path());
        let output = command.output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), out, err)
    };
    for (kind, verdict) in [
        ("Opaque", "in cluster here: counted"),
        ("helm.sh/release.v1", "not counted: Secrets of the type helm.sh/release.v1 are not asked for"),
    ] {
        let mut secret = mk_secret("a-kube-certs", 1);
        secret["type"] = kind.into();
        let list = json!({ "kind": "SecretList", "metadata": { "resourceVersion": "5" }, "items": [secret] });
        script.list(Answer::Raw(list.to_string()));
        let (code, out, err) = explain();
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(out.contains(verdict), "{out}");
        assert!(err.contains("cluster nowhere") && !err.contains("cluster here"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_explain_know_the_clusters_that_secrets_announce() {
    let script = Script::default();
    let kubeconfig = mk_kubeconfig(&script.serve().await);
    let mut config = NamedTempFile::with_suffix(".yaml").unwrap();
    let clusters = json!([{ "name": "here", "kubeconfig": kubeconfig.path() }]);
    write!(config, "{}", json!({ "clusters": clusters, "clusterSecrets": { "namespace": "meshcert" } })).unwrap();
    let meshcert = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshcert"));
        let output = command.args(arguments).arg("--config").arg(config.path()).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (out, err)
    };
    let announce = || {
        let document = std::fs::read(kubeconfig.path()).unwrap();
        let document = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, document);
        let labels = json!({ "meshcert.dev/cluster": "there" });
        let secret = json!({ "metadata": { "name": "c", "labels": labels }, "data": { "kubeconfig": document } });
        script.list(Answer::Raw(json!({ "metadata": {}, "items": [secret] }).to_string()));
    };
    let lists = || (0..2).for_each(|_| script.list(mk_list(&["a-kube-certs"], "5", "")));
    announce();
    lists();
    let (out, err) = meshcert(&["explain", "istio-system/a-kube-certs"]);
    assert!(out.contains("in cluster here: counted") && out.contains("in cluster there: counted"), "{out}{err}");
    announce();
    lists();
    let (out, err) = meshcert(&["status"]);
    assert!(out.contains("here ") && out.contains("there "), "{out}{err}");
    for (code, message, words) in [
        (403, "secrets is forbidden", "403 Forbidden: secrets is forbidden; grant the verb list on secrets there"),
        (404, "not here", "404 Not Found: not here\n"),
    ] {
        script.list(Answer::Status(code, json!({ "message": message })));
        script.list(mk_list(&["a-kube-certs"], "5", ""));
        let (out, err) = meshcert(&["status"]);
        let said = format!("list cluster Secrets in namespace meshcert: the API server answered {words}");
        assert!(out.contains("here ") && err.contains(&said), "{out}{err}");
    }
}
