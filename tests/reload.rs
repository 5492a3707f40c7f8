//! What changes under a running process: its policy, and its credentials.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/client.rs"]
mod client;
#[path = "support/served.rs"]
mod served;

use client::Client;
use meshcert::app::acting::Roles;
use meshcert::demo::Scenario;
use meshcert::renewal::{Phase, Spec};
use serde_json::json;
use served::{Cluster, OBSERVE_AND_WEBHOOK, Served, eventually, notification};

const ALL: Roles = Roles { webhook: true, act: true, ..Roles::OBSERVE };
const READ: &str = r#"meshcert_renewals_last_read_successful{mesh_cluster="demo"}"#;
const UP: &str = r#"meshcert_source_up{source="demo/istio-system"}"#;
const RELOADED: &str = "meshcert_config_last_reload_successful";

async fn is_in(cluster: &Cluster, name: &str, phase: Phase, reason: &str) -> bool {
    let renewal = cluster.api.renewal("istio-system", name).await.unwrap().unwrap();
    renewal.status.phase == phase && renewal.status.reason == reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_relaxed_lets_go_on_what_waits() {
    let cluster = Cluster::start(Scenario::Expiring, Some(1)).await;
    let configure =
        |mode: &str| cluster.put("config.yaml", &format!("{}policy: {{mode: {mode}}}\n", cluster.clusters()));
    let spec = Spec { mesh_id: "expiring-1".to_owned(), ..Spec::default() };
    assert!(cluster.api.create_renewal("istio-system", "asked", &spec).await.unwrap());
    let acting = Roles { act: true, ..Roles::OBSERVE };
    let _served = Served::start(configure("observe").as_ref(), acting).await;
    eventually("it waits", async || is_in(&cluster, "asked", Phase::Pending, "ObserveOnly").await).await;
    configure("approve");
    eventually("it is planned", async || is_in(&cluster, "asked", Phase::AwaitingApproval, "AwaitingApproval").await)
        .await;
    configure("auto");
    eventually("it is renewed", async || is_in(&cluster, "asked", Phase::Succeeded, "Succeeded").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_is_replaced_before_its_end_is_taken_up_by_every_role() {
    let cluster = Cluster::start(Scenario::Expiring, Some(2)).await;
    let kubeconfig = |token: &str| cluster.demo.kubeconfig().replace("user: {}", &format!("user: {{token: {token}}}"));
    let own = cluster.put("own", &kubeconfig("first"));
    let config = format!(
        "clusters: [{{name: demo, kubeconfig: '{own}'}}]\npolicy: {{mode: observe}}\nwebhook: {{bearerTokenFile: '{}'}}\n",
        cluster.put("token", "t0ken")
    );
    let served = Served::start(cluster.put("config.yaml", &config).as_ref(), ALL).await.ready().await;
    let client = Client::default();
    let ask = async |mesh: &str| {
        let bearer = [("authorization", "Bearer t0ken")];
        client.post(served.main, &bearer, notification(&[mesh])).await.unwrap().0
    };
    let shows = async |series: &str, value: &str| {
        eventually(&format!("{series} {value}"), async || {
            served.metric(&client, series).await.as_deref() == Some(value)
        })
        .await;
    };
    eventually("it asks", async || ask("expiring-1").await == 200).await;
    shows(READ, "1").await;

    // What is half written costs nothing.
    cluster.put("own", "clusters: {");
    shows(RELOADED, "0").await;
    assert_eq!(ask("expiring-1").await, 200);
    cluster.put("own", &kubeconfig("first"));
    shows(RELOADED, "1").await;
    // Nor does what leads to another cluster.
    let elsewhere = Cluster::start(Scenario::Expiring, Some(3)).await;
    cluster.put("own", &elsewhere.demo.kubeconfig());
    shows(RELOADED, "0").await;
    assert_eq!(ask("expiring-1").await, 200);
    shows(READ, "1").await;
    cluster.put("own", &kubeconfig("second"));
    shows(RELOADED, "1").await;
    cluster.demo.restrict("first", &[]);
    eventually("the webhook asks", async || ask("expiring-2").await == 200).await;
    let name = cluster.names().await.into_iter().find(|name| name.starts_with("expiring-2")).unwrap();
    eventually("who acts sees it", async || is_in(&cluster, &name, Phase::Pending, "ObserveOnly").await).await;
    shows(READ, "1").await;
    let secret = "/api/v1/namespaces/istio-system/secrets/expiring-2-kube-certs";
    cluster.api.merge(secret, &json!({ "data": { "front-proxy-client.crt": "AAAA" } })).await.unwrap();
    eventually("whoever watches sees it", async || {
        let (_, text) = client.get(served.main, "/metrics").await.unwrap();
        text.contains("unreadable") || text.contains("front-proxy-client.crt\",reason=")
    })
    .await;
    shows(UP, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_in_force_whatever_is_wrong_with_one_of_the_kubeconfigs() {
    let (one, two) =
        (Cluster::start(Scenario::Expiring, Some(1)).await, Cluster::start(Scenario::Expiring, Some(1)).await);
    let (good, broken) = (one.put("good", &one.demo.kubeconfig()), one.put("broken", &two.demo.kubeconfig()));
    let configure = |mode: &str| {
        one.put(
            "config.yaml",
            &format!(
                "clusters: [{{name: one, kubeconfig: '{good}'}}, {{name: two, kubeconfig: '{broken}'}}]\npolicy: {{mode: {mode}}}\n"
            ),
        )
    };
    let served = Served::start(configure("approve").as_ref(), Roles { act: true, ..Roles::OBSERVE }).await;
    let client = Client::default();
    let reloaded = async |value: &str| {
        eventually(value, async || served.metric(&client, RELOADED).await.as_deref() == Some(value)).await;
    };
    reloaded("1").await;
    one.put("broken", "clusters: {");
    reloaded("0").await;
    configure("observe");
    let spec = Spec { mesh_id: "expiring-1".to_owned(), ..Spec::default() };
    assert!(one.api.create_renewal("istio-system", "asked", &spec).await.unwrap());
    eventually("nobody acts", async || {
        let asked = one.api.renewal("istio-system", "asked").await.unwrap().unwrap();
        asked.status.reason == "ObserveOnly"
    })
    .await;
    assert_eq!(served.metric(&client, RELOADED).await.as_deref(), Some("0"), "and somebody is told");
    one.put("broken", &two.demo.kubeconfig());
    reloaded("1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_do_not_work_take_no_series_along() {
    let cluster = Cluster::start(Scenario::Expiring, Some(1)).await;
    cluster.demo.restrict("useless", &[]);
    let kubeconfig = |token: &str| cluster.demo.kubeconfig().replace("user: {}", &format!("user: {{token: {token}}}"));
    let (own, token) = (cluster.put("own", &kubeconfig("good")), cluster.put("token", "t0ken"));
    let config = format!("clusters: [{{name: demo, kubeconfig: '{own}'}}]\nwebhook: {{bearerTokenFile: '{token}'}}\n");
    let served = Served::start(cluster.put("config.yaml", &config).as_ref(), OBSERVE_AND_WEBHOOK).await.ready().await;
    let client = Client::default();
    let signal = r#"meshcert_hosted_kube_api_certificate_expiration_timestamp_seconds{mesh_cluster="demo",mesh_namespace="istio-system",mesh_id="expiring-1"}"#;
    let end = served.metric(&client, signal).await;
    assert!(end.is_some());
    cluster.put("own", &kubeconfig("useless"));
    eventually("it is down", async || served.metric(&client, UP).await.as_deref() == Some("0")).await;
    eventually("it has been refused", async || {
        let refused = r#"meshcert_source_errors_total{source="demo/istio-system",reason="forbidden"}"#;
        served.metric(&client, refused).await.is_some_and(|count| count != "0")
    })
    .await;
    assert_eq!(served.metric(&client, signal).await, end);
    // Which meshes there are besides is not known.
    let bearer = [("authorization", "Bearer t0ken")];
    assert_eq!(client.post(served.main, &bearer, notification(&["other"])).await.unwrap().0, 503);
    cluster.put("own", &kubeconfig("better"));
    eventually("it is up", async || served.metric(&client, UP).await.as_deref() == Some("1")).await;
    assert_eq!(served.metric(&client, signal).await, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_asks_in_a_cluster_that_a_kubeconfig_leads_to_unasked() {
    let (cluster, elsewhere) =
        (Cluster::start(Scenario::Expiring, Some(1)).await, Cluster::start(Scenario::Expiring, Some(1)).await);
    let own = cluster.put("own", &cluster.demo.kubeconfig());
    let token = cluster.put("token", "t0ken");
    let config = format!("clusters: [{{name: demo, kubeconfig: '{own}'}}]\nwebhook: {{bearerTokenFile: '{token}'}}\n");
    let served = Served::start(cluster.put("config.yaml", &config).as_ref(), OBSERVE_AND_WEBHOOK).await.ready().await;
    let client = Client::default();
    cluster.put("own", &elsewhere.demo.kubeconfig());
    eventually("it is refused", async || served.metric(&client, RELOADED).await.as_deref() == Some("0")).await;
    // Nobody has asked before: the way is looked for now.
    let bearer = [("authorization", "Bearer t0ken")];
    let (status, _) = client.post(served.main, &bearer, notification(&["expiring-1"])).await.unwrap();
    assert_eq!((status, elsewhere.names().await), (503, Vec::new()));
    cluster.put("own", &cluster.demo.kubeconfig());
    eventually("it asks", async || {
        client.post(served.main, &bearer, notification(&["expiring-1"])).await.unwrap().0 == 200
    })
    .await;
    assert_eq!((cluster.names().await.len(), elsewhere.names().await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_out_of_one_kubeconfig_are_reloaded_and_a_slow_plugin_is_waited_for_by_nobody() {
    let (one, two) =
        (Cluster::start(Scenario::Expiring, Some(1)).await, Cluster::start(Scenario::Expiring, Some(1)).await);
    // Longer than a notification is waited for.
    let plugin =
        "sleep 1.5; echo '{kind: ExecCredential, apiVersion: client.authentication.k8s.io/v1, status: {token: t}}'";
    let kubeconfig = |user: &str| {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: one, users: [{{name: {user}, user: {{exec: {{command: sh, args: ['-c', \"{plugin}\"], \
             apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}}}}}}], \
             clusters: [{{name: one, cluster: {{server: 'http://{}'}}}}, {{name: two, cluster: {{server: 'http://{}'}}}}], \
             contexts: [{{name: one, context: {{cluster: one, user: {user}}}}}, {{name: two, context: {{cluster: two, user: {user}}}}}]}}",
            one.demo.address, two.demo.address
        )
    };
    let (both, token) = (one.put("both", &kubeconfig("me")), one.put("token", "t0ken"));
    let configure = |policy: &str| {
        let clusters = ["one", "two"].map(|name| format!("{{name: {name}, kubeconfig: '{both}', context: {name}}}"));
        let text =
            format!("clusters: [{}]\nwebhook: {{bearerTokenFile: '{token}'}}\npolicy: {policy}\n", clusters.join(", "));
        one.put("config.yaml", &text)
    };
    let served = Served::start(configure("{}").as_ref(), OBSERVE_AND_WEBHOOK).await;
    let client = Client::default();
    let is_read = async |name: &str| {
        let series = format!(r#"meshcert_source_up{{source="{name}/istio-system"}}"#);
        served.metric(&client, &series).await.as_deref() == Some("1")
    };
    eventually("both are read", async || is_read("one").await && is_read("two").await).await;
    let ask = async || {
        client.post(served.main, &[("authorization", "Bearer t0ken")], notification(&["expiring-1"])).await.unwrap().0
    };
    assert_eq!(ask().await, 503, "it answers before the plugin does");
    eventually("it asks", async || ask().await == 200).await;
    let accepted = "meshcert_config_last_reload_success_timestamp_seconds";
    for (policy, user) in [("{renewBefore: 20d}", "me"), ("{renewBefore: 20d}", "you")] {
        let before = served.metric(&client, accepted).await;
        configure(policy);
        one.put("both", &kubeconfig(user));
        eventually("it is taken", async || served.metric(&client, accepted).await != before).await;
        assert_eq!(served.metric(&client, RELOADED).await.as_deref(), Some("1"));
    }
}
