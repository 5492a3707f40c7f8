//! Following renewals on a Kubernetes API that forbids, does not know, forgets and breaks off.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use meshcert::clock::SystemClock;
use meshcert::cluster::connect::Connection;
use meshcert::follower::{Followed, Followers, Scope, View};
use meshcert::renewal::Phase;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;

/// Status and body of the next answers; a watch with none left stays open.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    script.asked.lock().unwrap().push(request.uri().to_string());
    let next = script.answers.lock().unwrap().pop_front();
    match next {
        Some((status, body)) => Response::builder().status(status).body(Body::from(body)).unwrap(),
        None => std::future::pending().await,
    }
}

fn mk_renewal(name: &str, version: u32, phase: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string() },
            "spec": { "meshId": name }, "status": { "phase": phase } })
}

fn mk_list(items: &[Value], version: &str, next: &str) -> (u16, String) {
    (200, json!({ "metadata": { "resourceVersion": version, "continue": next }, "items": items }).to_string())
}

fn mk_watch(events: &[(&str, Value)]) -> (u16, String) {
    let lines = events.iter().map(|(kind, object)| format!("{}\n", json!({ "type": kind, "object": object })));
    (200, lines.collect())
}

fn mk_refusal(code: u16, message: &str) -> (u16, String) {
    (code, json!({ "kind": "Status", "code": code, "message": message }).to_string())
}

struct Following {
    followed: Arc<Followed>,
    script: Script,
    _followers: Followers,
    _kubeconfig: NamedTempFile,
}

async fn mk_following(answers: Vec<(u16, String)>) -> Following {
    let script = Script { answers: Arc::new(Mutex::new(answers.into())), ..Script::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(script.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let kubeconfig = NamedTempFile::new().unwrap();
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: '{server}'}}}}], \
         users: [{{name: c, user: {{}}}}], contexts: [{{name: c, context: {{cluster: c, user: c}}}}]}}"
    );
    std::fs::write(kubeconfig.path(), text).unwrap();
    let followed = Arc::new(Followed::default());
    let mut followers = Followers::new(Arc::clone(&followed), Arc::new(SystemClock));
    followers.reconcile([Scope {
        cluster: "cp-1".into(),
        connection: Connection::file(kubeconfig.path().to_owned(), None),
        namespaces: Some(vec!["ns".to_owned()]),
    }]);
    Following { followed, script, _followers: followers, _kubeconfig: kubeconfig }
}

impl Following {
    async fn until(&self, wished: impl Fn(&View) -> bool) -> Arc<View> {
        let mut changes = self.followed.changes();
        let arrived = async {
            loop {
                let view = self.followed.view();
                if wished(&view) {
                    return view;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), arrived).await.unwrap()
    }
}

fn phases(view: &View) -> Vec<(&str, Phase)> {
    view.renewals.iter().map(|known| (&*known.renewal.name, known.renewal.status.phase)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_listed_and_the_watch_is_taken_up_again_where_it_was_cut() {
    let following = mk_following(vec![
        mk_list(&[mk_renewal("a", 1, "Pending")], "5", "more&more"),
        mk_list(&[mk_renewal("b", 2, "Pending"), json!({ "metadata": { "name": "odd" }, "spec": 7 })], "5", ""),
        mk_watch(&[("MODIFIED", mk_renewal("a", 6, "Staging")), ("ADDED", mk_renewal("c", 7, "Pending"))]),
        mk_watch(&[
            ("BOOKMARK", json!({ "metadata": { "resourceVersion": "9" } })),
            ("DELETED", mk_renewal("b", 10, "Pending")),
        ]),
    ])
    .await;
    let view = following.until(|view| phases(view).len() == 2 && view.renewals[1].renewal.name == "c").await;
    assert_eq!(phases(&view), [("a", Phase::Staging), ("c", Phase::Pending)]);
    following.until(|_| following.script.asked.lock().unwrap().len() >= 4).await;
    let asked = following.script.asked.lock().unwrap().clone();
    let path = "/apis/meshcert.dev/v1alpha1/namespaces/ns/certificaterenewals";
    assert!(asked.iter().all(|uri| uri.starts_with(path)), "{asked:?}");
    assert!(asked[1].ends_with("limit=200&continue=more%26more"), "{asked:?}");
    assert!(asked[2].ends_with("resourceVersion=5") && asked[3].ends_with("resourceVersion=7"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forbidden_or_unknown_is_said_with_its_remedy_and_tried_again() {
    let following = mk_following(vec![
        mk_refusal(403, "certificaterenewals is forbidden"),
        mk_refusal(404, "the server could not find the requested resource"),
        mk_list(&[mk_renewal("a", 1, "Pending")], "1", ""),
    ])
    .await;
    let failing = |words: &'static str| {
        move |view: &View| view.obstacle("cp-1", "ns").is_some_and(|failure| failure.contains(words))
    };
    let view = following.until(failing("grant the verbs list and watch on certificaterenewals.meshcert.dev")).await;
    assert!(!view.sources[0].listed && view.renewals.is_empty());
    following.until(failing("meshcert crd | kubectl apply -f -")).await;
    let view = following.until(|view| view.sources[0].listed).await;
    assert_eq!((phases(&view), view.obstacle("cp-1", "ns")), (vec![("a", Phase::Pending)], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_gone_is_listed_again_and_an_outage_takes_nothing_away() {
    let following = mk_following(vec![
        mk_list(&[mk_renewal("a", 1, "Pending")], "1", ""),
        mk_watch(&[("ERROR", json!({ "kind": "Status", "code": 410, "message": "too old" }))]),
        mk_list(&[mk_renewal("a", 8, "Succeeded")], "8", ""),
        mk_refusal(500, "etcd is away"),
    ])
    .await;
    let view = following.until(|view| view.obstacle("cp-1", "ns").is_some()).await;
    assert_eq!(phases(&view), [("a", Phase::Succeeded)]);
}
