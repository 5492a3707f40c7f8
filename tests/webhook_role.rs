//! The role `webhook` alone: what it may not do, whom it believes, and what it answers where it does not know.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/client.rs"]
mod client;
#[path = "support/served.rs"]
mod served;

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use client::{Ca, Client};
use meshcert::app::acting::Roles;
use meshcert::cluster::api::{Api, ErrorKind};
use meshcert::cluster::connect::{Connection, connect};
use meshcert::demo::{Grant, Scenario};
use meshcert::renewal::{Phase, Spec, Status, Trigger};
use serde_json::{Value, json};
use served::{Cluster, OBSERVE_AND_WEBHOOK, Served, eventually, notification};
use tokio::net::TcpListener;

const BEARER: [(&str, &str); 1] = [("authorization", "Bearer t0ken")];
const WATCH: Grant = Grant { group: "", resource: "secrets", verbs: &["list", "watch"] };
const ASK: Grant = Grant { group: "meshcert.dev", resource: "certificaterenewals", verbs: &["get", "list", "create"] };

/// A cluster in which each role has a kubeconfig and its rights.
async fn mk_cluster(meshes: usize) -> Cluster {
    let cluster = Cluster::start(Scenario::Expiring, Some(meshes)).await;
    for (role, grants) in [("observe", [WATCH]), ("webhook", [ASK])] {
        cluster.demo.restrict(role, &grants);
        cluster.put(role, &cluster.demo.kubeconfig().replace("user: {}", &format!("user: {{token: {role}}}")));
    }
    cluster.put("token", "t0ken");
    cluster
}

/// A configuration for all roles; `from` is where the meshes are told.
fn configure(cluster: &Cluster, name: &str, from: &str) -> PathBuf {
    let (observe, webhook, token) = (cluster.path("observe"), cluster.path("webhook"), cluster.path("token"));
    let text = format!(
        "clusters: [{{name: demo, kubeconfigs: {{observe: '{observe}', webhook: '{webhook}'}}}}]\n\
         webhook: {{bearerTokenFile: '{token}', meshesFrom: {from}}}\n"
    );
    PathBuf::from(cluster.put(name, &text))
}

async fn mk_webhook(cluster: &Cluster, teller: SocketAddr) -> Served {
    // A file of its own: a process takes over what changes in it.
    let config = configure(cluster, &format!("webhook-{}.yaml", teller.port()), &format!("{{url: 'http://{teller}'}}"));
    Served::start(&config, Roles::WEBHOOK).await.ready().await
}

async fn post(served: &Served, body: &str) -> (u16, String) {
    Client::default().post(served.main, &BEARER, body.to_owned()).await.unwrap()
}

/// Somebody who tells what a test wants.
async fn mk_teller(answer: impl Fn() -> Option<Response> + Clone + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(move || {
        let answer = answer();
        async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn tells(brief: &Value) -> impl Fn() -> Option<Response> + Clone + Send + Sync + 'static {
    let text = brief.to_string();
    move || Some(Response::new(Body::from(text.clone())))
}

fn mk_brief(complete: bool, namespace: &str, id: &str) -> Value {
    let mesh = json!({ "cluster": "demo", "namespace": namespace, "id": id, "expiration": "2020-01-01T00:00:00Z", "renewalName": format!("{id}-0123456789") });
    json!({ "complete": complete, "meshes": [mesh] })
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_without_any_right_on_secrets() {
    let cluster = mk_cluster(3).await;
    let plain = Client::default();
    let config = configure(&cluster, "observe.yaml", "{url: 'http://127.0.0.1:1'}");
    let observe = Served::start(&config, Roles::OBSERVE).await.ready().await;
    let webhook = mk_webhook(&cluster, observe.main).await;
    let up = r#"meshcert_source_up{source="webhook.meshesFrom"}"#;
    eventually("the meshes are told", async || webhook.metric(&plain, up).await.as_deref() == Some("1")).await;
    let (status, words) = post(&webhook, &notification(&["expiring-1"])).await;
    assert!(status == 200 && words.contains("demo/istio-system/expiring-1: asked for a renewal"), "{words}");
    // It is the name that whoever sees the certificates gives.
    let seeing = Served::start(&config, OBSERVE_AND_WEBHOOK).await.ready().await;
    let (status, words) = post(&seeing, &notification(&["expiring-1"])).await;
    assert!(status == 200 && words.contains("is there already, Pending"), "{words}");
    let (status, words) = post(&webhook, &notification(&["expiring-1"])).await;
    assert!(status == 200 && words.contains("is there already, Pending"), "{words}");
    assert_eq!(cluster.names().await.len(), 1);
    // Alerts that were cut off mean every mesh.
    let cut = notification(&["expiring-1"]).replacen('{', r#"{"truncatedAlerts":7,"#, 1);
    assert_eq!(post(&webhook, &cut).await.0, 200);
    assert_eq!(cluster.names().await.len(), 3);

    // It watches nothing, and was refused nothing.
    let (_, text) = plain.get(webhook.main, "/metrics").await.unwrap();
    assert!(!text.contains("meshcert_source_up{source=\"demo"), "{text}");
    assert!(text.contains(r#"meshcert_source_objects{source="webhook.meshesFrom"} 3"#), "{text}");
    let right = |verb: &str| {
        format!(
            r#"meshcert_excess_permission{{mesh_cluster="demo",mesh_namespace="istio-system",role="webhook",resource="secrets",verb="{verb}"}}"#
        )
    };
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
        eventually(verb, async || webhook.metric(&plain, &right(verb)).await.as_deref() == Some("0")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_it_should_not_have_are_seen() {
    let cluster = mk_cluster(1).await;
    let too_much = Grant { group: "", resource: "secrets", verbs: &["list", "watch", "patch"] };
    let approving = Grant { group: "meshcert.dev", resource: "certificaterenewals", verbs: &["patch"] };
    cluster.demo.restrict("webhook", &[ASK, WATCH, approving]);
    cluster.demo.restrict("observe", &[too_much]);
    let plain = Client::default();
    let config = configure(&cluster, "observe.yaml", "{url: 'http://127.0.0.1:1'}");
    let observe = Served::start(&config, Roles::OBSERVE).await.ready().await;
    let webhook = mk_webhook(&cluster, observe.main).await;
    for (served, role, resource, verb, value) in [
        (&observe, "observe", "secrets", "patch", "1"),
        (&observe, "observe", "secrets", "create", "0"),
        (&webhook, "webhook", "secrets", "list", "1"),
        (&webhook, "webhook", "secrets", "get", "0"),
        (&webhook, "webhook", "certificaterenewals", "patch", "1"),
        (&webhook, "webhook", "certificaterenewals", "update", "0"),
    ] {
        let series = format!(
            r#"meshcert_excess_permission{{mesh_cluster="demo",mesh_namespace="istio-system",role="{role}",resource="{resource}",verb="{verb}"}}"#
        );
        eventually(&series, async || served.metric(&plain, &series).await.as_deref() == Some(value)).await;
    }
    // Observing is watching: that it lists is no excess.
    let (_, text) = plain.get(observe.main, "/metrics").await.unwrap();
    assert!(!text.contains(r#"role="observe",resource="secrets",verb="list""#), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_learns_over_mutual_tls() {
    let cluster = mk_cluster(1).await;
    let (servers, clients) = (Ca::new("servers"), Ca::new("clients"));
    let (pair, own) = (servers.server(), clients.issue("webhook", &[], 10));
    let (crt, key) = (cluster.put("tls.crt", &pair.certificate), cluster.put("tls.key", &pair.key));
    let (ca, client_ca) = (cluster.put("servers.crt", &servers.pem), cluster.put("clients.crt", &clients.pem));
    let (own_crt, own_key) = (cluster.put("own.crt", &own.certificate), cluster.put("own.key", &own.key));
    let config =
        cluster.clusters() + &format!("tls: {{certFile: '{crt}', keyFile: '{key}', clientCaFile: '{client_ca}'}}\n");
    let observe = Served::start(cluster.put("observe.yaml", &config).as_ref(), Roles::OBSERVE).await;
    let observe = observe.ready_for(&Client::tls(&servers.pem, None)).await;
    let url = format!("https://localhost:{}", observe.main.port());
    let plain = Client::default();
    for (from, reason) in [
        (format!("{{url: '{url}', caFile: '{ca}', certFile: '{own_crt}', keyFile: '{own_key}'}}"), None),
        (format!("{{url: '{url}', caFile: '{ca}'}}"), Some("forbidden")),
        (format!("{{url: '{url}', caFile: '{client_ca}'}}"), Some("unreachable")),
        (format!("{{url: 'http://{}'}}", observe.main), Some("unreachable")),
    ] {
        let config = configure(&cluster, &format!("webhook-{}.yaml", reason.unwrap_or("none")), &from);
        let webhook = Served::start(&config, Roles::WEBHOOK).await.ready().await;
        let up = webhook.metric(&plain, r#"meshcert_source_up{source="webhook.meshesFrom"}"#).await;
        let (status, words) = post(&webhook, &notification(&["expiring-1"])).await;
        let Some(reason) = reason else {
            assert_eq!((up.as_deref(), status), (Some("1"), 200), "{words}");
            continue;
        };
        assert_eq!((up.as_deref(), status), (Some("0"), 503), "{from}: {words}");
        let errors = format!(r#"meshcert_source_errors_total{{source="webhook.meshesFrom",reason="{reason}"}}"#);
        assert_eq!(webhook.metric(&plain, &errors).await.as_deref(), Some("1"), "{from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_is_not_told_it_does_not_guess() {
    let cluster = mk_cluster(1).await;
    let plain = Client::default();
    let huge = || {
        let endless = http_body_util::StreamBody::new(Endless);
        Some(Response::new(Body::new(endless)))
    };
    let status = |code: u16| move || Some(Response::builder().status(code).body(Body::empty()).unwrap());
    let odd = json!({ "complete": true, "meshes": [{ "cluster": "demo", "namespace": "../../secrets", "id": "a", "expiration": null, "renewalName": "a-0" }] });
    for (what, teller, reason) in [
        ("down", "127.0.0.1:1".parse().unwrap(), "unreachable"),
        ("garbage", mk_teller(tells(&json!("garbage"))).await, "decode"),
        ("names that lead elsewhere", mk_teller(tells(&odd)).await, "decode"),
        ("huge", mk_teller(huge).await, "too_large"),
        ("failing", mk_teller(status(500)).await, "server"),
        ("closed", mk_teller(status(401)).await, "unauthorized"),
        ("slow", mk_teller(|| None).await, "timeout"),
    ] {
        let webhook = mk_webhook(&cluster, teller).await;
        let errors = format!(r#"meshcert_source_errors_total{{source="webhook.meshesFrom",reason="{reason}"}}"#);
        assert_eq!(webhook.metric(&plain, &errors).await.as_deref(), Some("1"), "{what}");
        let (status, words) = post(&webhook, &notification(&["expiring-1"])).await;
        assert!(status == 503 && words.contains("send it again"), "{what}: {words}");
        let unavailable = r#"meshcert_notifications_total{outcome="unavailable"}"#;
        assert_eq!(webhook.metric(&plain, unavailable).await.as_deref(), Some("1"), "{what}");
    }
    assert_eq!(cluster.names().await, Vec::<String>::new());
}

/// A body without end.
struct Endless;

impl futures_core::Stream for Endless {
    type Item = Result<hyper::body::Frame<hyper::body::Bytes>, std::convert::Infallible>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(vec![b' '; 1 << 20].into()))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_not_told_means_all_where_all_are_told_and_a_second_try_where_not() {
    let cluster = mk_cluster(1).await;
    let whole = mk_webhook(&cluster, mk_teller(tells(&mk_brief(true, "istio-system", "known"))).await).await;
    let part = mk_webhook(&cluster, mk_teller(tells(&mk_brief(false, "istio-system", "other"))).await).await;
    let elsewhere = mk_webhook(&cluster, mk_teller(tells(&mk_brief(true, "kube-system", "stray"))).await).await;
    assert_eq!(post(&part, &notification(&["nobody"])).await.0, 503);
    // What is known is asked for, though it comes with what is not.
    let (status, words) = post(&part, &notification(&["nobody", "other"])).await;
    assert_eq!(status, 503, "{words}");
    assert!(words.contains("demo/istio-system/other: asked for a renewal, other-0123456789"), "{words}");
    assert!(words.contains("demo/istio-system/nobody: it is not known, and not every cluster can be read"), "{words}");
    assert_eq!(post(&part, &notification(&["other"])).await.0, 200);
    assert_eq!(post(&whole, &notification(&["nobody"])).await.0, 200);
    let (status, words) = post(&elsewhere, &notification(&["stray"])).await;
    assert_eq!((status, words.as_str()), (200, "there is no hosted mesh\n"), "a namespace that is not configured");
    assert_eq!(cluster.names().await, ["known-0123456789", "other-0123456789"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_done_is_repeated_only_on_facts_of_now() {
    let cluster = mk_cluster(1).await;
    let whole = mk_webhook(&cluster, mk_teller(tells(&mk_brief(true, "istio-system", "known"))).await).await;
    let part = mk_webhook(&cluster, mk_teller(tells(&mk_brief(false, "istio-system", "known"))).await).await;
    assert_eq!(post(&whole, &notification(&["known"])).await.0, 200);
    let renewal = cluster.renewals().await.pop().unwrap();
    let mut status = renewal.status.clone();
    (status.phase, status.cleaned_up) = (Phase::Succeeded, true);
    cluster.api.write_status(&renewal, &status).await.unwrap();
    assert_eq!(post(&part, &notification(&["known"])).await.0, 503);
    assert_eq!(cluster.names().await.len(), 1);
    assert_eq!(post(&whole, &notification(&["known"])).await.0, 200);
    assert_eq!(cluster.names().await, ["known-0123456789", "known-0123456789-r2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_meshs_renewal_has_taken_is_no_answer() {
    let cluster = mk_cluster(1).await;
    let webhook = mk_webhook(&cluster, mk_teller(tells(&mk_brief(true, "istio-system", "known"))).await).await;
    let other = Spec { mesh_id: "expiring-1".to_owned(), ..Spec::default() };
    assert!(cluster.api.create_renewal("istio-system", "known-0123456789", &other).await.unwrap());
    let (status, words) = post(&webhook, &notification(&["known"])).await;
    assert!(status == 200 && words.contains("asked for a renewal, known-0123456789-r2"), "{words}");
    let about: Vec<_> =
        cluster.renewals().await.into_iter().map(|renewal| (renewal.name, renewal.spec.mesh_id)).collect();
    assert!(about.contains(&("known-0123456789-r2".to_owned(), "known".to_owned())), "{about:?}");
    // Where all are taken the answer says so.
    let webhook = mk_webhook(&cluster, mk_teller(tells(&mk_brief(true, "istio-system", "barred"))).await).await;
    for number in 1..=20 {
        let name = if number == 1 { "barred-0123456789".to_owned() } else { format!("barred-0123456789-r{number}") };
        assert!(cluster.api.create_renewal("istio-system", &name, &other).await.unwrap());
    }
    let (status, words) = post(&webhook, &notification(&["barred"])).await;
    let taken = "the names barred-0123456789 to barred-0123456789-r20 are taken";
    assert!(status == 503 && words.contains(taken), "{words}");
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/certificaterenewals.meshcert.dev";
    cluster.api.delete(definition, None).await.unwrap();
    let (status, words) = post(&webhook, &notification(&["barred"])).await;
    assert!(status == 503 && words.contains("has no CustomResourceDefinition"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_stored_is_never_said_to_be() {
    let cluster = mk_cluster(1).await;
    let teller = mk_teller(tells(&mk_brief(true, "istio-system", "known"))).await;
    let webhook = mk_webhook(&cluster, teller).await;
    let body = notification(&["known"]);
    cluster.demo.restrict("webhook", &[Grant { verbs: &["get", "list"], ..ASK }]);
    let why = "the request was not stored: meshcert may not";
    let (status, words) = post(&webhook, &body).await;
    let lacks = format!("demo/istio-system/known: {why} create certificaterenewals.meshcert.dev in istio-system\n");
    assert_eq!((status, words), (503, lacks));
    cluster.demo.restrict("webhook", &[]);
    let (status, words) = post(&webhook, &body).await;
    assert!(status == 503 && words.contains(&format!("{why} list certificaterenewals")), "{words}");
    assert_eq!(cluster.names().await, Vec::<String>::new());
    cluster.demo.restrict("webhook", &[ASK]);
    assert_eq!(post(&webhook, &body).await.0, 200);
    // One that is being deleted is no request any more.
    let renewal = cluster.renewals().await.pop().unwrap();
    cluster.api.set_finalizer(&renewal, true).await.unwrap();
    let path = "/apis/meshcert.dev/v1alpha1/namespaces/istio-system/certificaterenewals/known-0123456789";
    cluster.api.delete(path, None).await.unwrap();
    let (status, words) = post(&webhook, &body).await;
    assert!(status == 503 && words.contains("is being deleted"), "{words}");

    // An API that never answers: there is an answer all the same.
    let silent = mk_teller(|| None).await;
    let text = std::fs::read_to_string(cluster.path("webhook")).unwrap();
    cluster.put("webhook", &text.replace(&cluster.demo.address.to_string(), &silent.to_string()));
    let webhook = mk_webhook(&cluster, teller).await;
    let (status, words) = post(&webhook, &body).await;
    assert!(status == 503 && words.contains("in time"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_makes_one_renewal_for_each_mesh() {
    let cluster = mk_cluster(1).await;
    let meshes: Vec<String> = (0..60).map(|number| format!("mesh-{number}")).collect();
    let told: Vec<Value> =
        meshes.iter().flat_map(|id| mk_brief(true, "istio-system", id)["meshes"].as_array().unwrap().clone()).collect();
    let teller = mk_teller(tells(&json!({ "complete": true, "meshes": told }))).await;
    let (one, two) = (mk_webhook(&cluster, teller).await, mk_webhook(&cluster, teller).await);
    let names: Vec<&str> = meshes.iter().map(String::as_str).collect();
    let all = notification(&names);
    let client = Client::default();
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (client, all) = (client.clone(), all.clone());
        let address = if number % 2 == 0 { one.main } else { two.main };
        flood.spawn(async move { client.post(address, &BEARER, all).await.unwrap().0 });
    }
    let answers = flood.join_all().await;
    assert!(answers.iter().all(|status| matches!(status, 200 | 503)), "{answers:?}");
    // Those that were too many are sent again, as Alertmanager does.
    for served in [&one, &two] {
        eventually("the last is taken", async || post(served, &all).await.0 == 200).await;
    }
    assert_eq!(cluster.names().await.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_somebody_who_tells_or_its_own_kubeconfig_it_does_not_start() {
    let cluster = mk_cluster(1).await;
    let token = cluster.path("token");
    let untold = format!("{}webhook: {{bearerTokenFile: '{token}'}}\n", cluster.clusters());
    let why = Served::try_start(cluster.put("a.yaml", &untold).as_ref(), Roles::WEBHOOK).await.err().unwrap();
    assert!(why.contains("webhook.meshesFrom"), "{why}");
    assert!(Served::try_start(cluster.put("a.yaml", &untold).as_ref(), OBSERVE_AND_WEBHOOK).await.is_ok());
    let others = format!(
        "clusters: [{{name: cp-1, kubeconfigs: {{act: '{}'}}}}]\nwebhook: {{bearerTokenFile: '{token}'}}\n",
        cluster.path("kubeconfig")
    );
    let why = Served::try_start(cluster.put("b.yaml", &others).as_ref(), OBSERVE_AND_WEBHOOK).await.err().unwrap();
    assert!(why.contains("clusters[cp-1].kubeconfigs.observe: is missing"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_it_over_can_neither_force_nor_roll_back() {
    let cluster = mk_cluster(1).await;
    // Nothing is due.
    let policy = format!("{}policy: {{mode: auto, renewBefore: 10d, urgentBefore: 1d}}\n", cluster.clusters());
    let act = Roles { act: true, ..Roles::OBSERVE };
    let _acting = Served::start(cluster.put("act.yaml", &policy).as_ref(), act).await.ready().await;
    let taken_over = Api::new(connect(&Connection::file(cluster.path("webhook").into(), None)).await.unwrap());
    for (name, force, reason, why) in [
        ("forced", true, "NotDue", "whoever may only create may not insist"),
        ("put-back", false, "RollbackRefused", "this renewal has not begun"),
    ] {
        let mesh_id = "expiring-1".to_owned();
        let spec = Spec { mesh_id, trigger: Trigger::Alert, force, rollback: !force, ..Spec::default() };
        assert!(taken_over.create_renewal("istio-system", name, &spec).await.unwrap());
        let insists = json!({ "spec": { "force": true, "requestedAt": "2026-11-28T20:00:00+08:00" } });
        let refused = taken_over.change_renewal("istio-system", name, &insists).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Forbidden, "{refused}");
        eventually(name, async || {
            let renewal = taken_over.renewal("istio-system", name).await.unwrap().unwrap();
            let Status { phase, reason: said, message, .. } = &renewal.status;
            *phase == Phase::Refused && said == reason && message.contains(why)
        })
        .await;
    }
    let etcd = "/apis/apps/v1/namespaces/istio-system/statefulsets/expiring-1-etcd";
    let etcd = cluster.api.get::<Value>(etcd).await.unwrap().unwrap();
    assert_eq!(etcd["metadata"]["generation"], 1, "nothing is restarted");
    // A person who may change it insists.
    let insists = json!({ "spec": { "requestedAt": "2026-11-28T20:00:00+08:00" } });
    cluster.api.change_renewal("istio-system", "forced", &insists).await.unwrap();
    eventually("it is renewed", async || {
        let renewal = cluster.api.renewal("istio-system", "forced").await.unwrap().unwrap();
        renewal.status.phase == Phase::Succeeded
    })
    .await;
}
