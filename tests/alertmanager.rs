//! A real Alertmanager, configured as `deploy/alertmanager/remediation.yaml` says, delivers over mutual TLS.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/client.rs"]
mod client;
#[path = "support/served.rs"]
mod served;
#[path = "support/mod.rs"]
mod support;

use std::path::Path;

use client::{Ca, Client};
use meshcert::demo::Scenario;
use serde_json::json;
use served::{Cluster, OBSERVE_AND_WEBHOOK, Served, eventually};
use support::daemon::Process;
use support::tools;

fn free_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn alertmanager_asks_over_mutual_tls_once_it_has_the_right_certificate() {
    let Some(alertmanager) = tools::built("alertmanager") else { return };
    let cluster = Cluster::start(Scenario::Expiring, Some(1)).await;
    let (servers, clients, others) = (Ca::new("servers"), Ca::new("clients"), Ca::new("others"));
    let pair = servers.server();
    let (crt, key) = (cluster.put("server.crt", &pair.certificate), cluster.put("server.key", &pair.key));
    let ca = cluster.put("clients.crt", &clients.pem);
    let config = cluster.clusters()
        + &format!(
            "webhook: {{listen: '127.0.0.1:0', tls: {{certFile: '{crt}', keyFile: '{key}', clientCaFile: '{ca}'}}, clientCertificates: [alertmanager]}}\n"
        );
    let served = Served::start(cluster.put("meshcert.yaml", &config).as_ref(), OBSERVE_AND_WEBHOOK).await.ready().await;

    // The example as it is shipped, with this test's addresses and files, and without its patience.
    let own = |pair: &client::Pair| {
        cluster.put("tls.crt", &pair.certificate);
        cluster.put("tls.key", &pair.key);
    };
    own(&others.issue("alertmanager", &[], 10));
    cluster.put("ca.crt", &servers.pem);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/alertmanager/remediation.yaml");
    let text = std::fs::read_to_string(example).unwrap();
    let text = text
        .replace("meshcert-webhook.meshcert.svc:9795", &format!("localhost:{}", served.webhook.unwrap().port()))
        .replace("/etc/alertmanager/meshcert", &cluster.folder.path().display().to_string())
        .replace("group_wait: 30s", "group_wait: 1s")
        .replace("group_interval: 5m", "group_interval: 1s");
    let address = free_address();
    let _alertmanager = Process::start(
        &alertmanager,
        &[
            format!("--config.file={}", cluster.put("alertmanager.yaml", &text)),
            format!("--storage.path={}", cluster.path("alertmanager")),
            format!("--web.listen-address={address}"),
            "--cluster.listen-address=".to_owned(),
        ],
    );
    let plain = Client::default();
    let labels = json!({ "alertname": "MspiderHostedKubeAPICertExpiration", "severity": "warning", "mesh_cluster": "demo", "mesh_namespace": "istio-system", "mesh_id": "expiring-1" });
    let alerts = json!([{ "labels": labels }]).to_string();
    let json_body = [("content-type", "application/json")];
    eventually("Alertmanager takes the alert", async || {
        let taken = plain.send(address, "POST", "/api/v2/alerts", &json_body, alerts.clone()).await;
        taken.is_ok_and(|(status, _)| status == 200)
    })
    .await;

    let refused = r#"meshcert_tls_handshake_failures_total{listener="webhook",reason="client_certificate"}"#;
    eventually("the certificate of another CA is refused", async || {
        served.metric(&plain, refused).await.is_some_and(|count| count != "0")
    })
    .await;
    assert_eq!(cluster.names().await, Vec::<String>::new());
    own(&clients.issue("alertmanager", &[], 10));
    eventually("it asks with the right one", async || cluster.names().await.len() == 1).await;
    let accepted = r#"meshcert_notifications_total{outcome="accepted"}"#;
    eventually("and is answered", async || served.metric(&plain, accepted).await.is_some_and(|count| count != "0"))
        .await;
}
