//! A real Prometheus with the rules of `alerts/` scrapes `meshcert demo` and a second replica; a real Alertmanager delivers what fires, grouped and inhibited.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use serde_json::Value;
use support::daemon::{Demo, Process};
use support::prometheus::{free_address, get_json};
use support::rules::impatient_rules;
use support::tools;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Receiver and body of what Alertmanager delivered.
type Notifications = Arc<Mutex<Vec<(String, Value)>>>;

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// What fires.
async fn firing(prometheus: &str) -> BTreeSet<String> {
    let answer = get_json(prometheus, "/api/v1/alerts").await.unwrap_or_default();
    let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
    alerts.iter().filter(|alert| alert["state"] == "firing").map(|alert| outline(&alert["labels"])).collect()
}

/// `alert mesh severity`, the severity being `expired` where the labels say so.
fn outline(labels: &Value) -> String {
    let text = |label: &str| labels[label].as_str().unwrap_or("-").to_owned();
    let severity = if labels["expired"] == "true" { "expired".to_owned() } else { text("severity") };
    format!("{} {} {severity}", text("alertname"), text("mesh_id"))
}

/// Waits until what is seen is what is expected; says both where that does not come.
async fn until<F: Future<Output = BTreeSet<String>>>(what: &str, expected: &BTreeSet<String>, see: impl Fn() -> F) {
    let start = tokio::time::Instant::now();
    loop {
        let seen = see().await;
        if seen == *expected {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{what}: saw {seen:#?}, expected {expected:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

fn alertmanager_config(folder: &Path, capture: SocketAddr) -> String {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/alertmanager/alertmanager.yaml"))
            .unwrap();
    let text = text
        .replace("127.0.0.1:9095", &capture.to_string())
        .replace("group_wait: 30s", "group_wait: 3s")
        .replace("group_interval: 5m", "group_interval: 1s");
    let path = folder.join("alertmanager.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_delivered_renewed_and_resolved() {
    let (Some(prometheus), Some(alertmanager)) = (tools::built("prometheus"), tools::built("alertmanager")) else {
        return;
    };
    let demo = Demo::start(&["--scenario", "expiring", "--meshes", "1", "--api-only"]);
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let token = file("token", "s3cret\n".to_owned());
    let config = format!(
        "clusters: [{{name: demo, kubeconfig: '{}'}}]\npolicy: {{mode: auto}}\nwebhook: {{bearerTokenFile: '{token}'}}\n",
        demo.kubeconfig.display()
    );
    let (meshcert, alertmanager_address, prometheus_address) = (free_address(), free_address(), free_address());
    let arguments =
        ["serve", "--roles", "observe,webhook", "--listen", &meshcert, "--config", &file("meshcert.yaml", config)];
    let _meshcert = Process::start(Path::new(env!("CARGO_BIN_EXE_meshcert")), &arguments.map(str::to_owned));
    let config = format!(
        "route: {{receiver: meshcert, group_by: [mesh_id], group_wait: 1s, group_interval: 1s}}\n\
         receivers: [{{name: meshcert, webhook_configs: [{{url: 'http://{meshcert}/webhook', http_config: {{authorization: {{credentials_file: '{token}'}}}}}}]}}]\n"
    );
    let _alertmanager = Process::start(
        &alertmanager,
        &[
            format!("--config.file={}", file("alertmanager.yaml", config)),
            format!("--storage.path={}", folder.path().join("alertmanager").display()),
            format!("--web.listen-address={alertmanager_address}"),
            "--cluster.listen-address=".to_owned(),
        ],
    );
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
         scrape_configs: [{{job_name: meshcert, static_configs: [{{targets: ['{meshcert}']}}]}}]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager_address}']}}]}}]}}\n",
        impatient_rules(folder.path()),
    );
    let _prometheus = Process::start(
        &prometheus,
        &[
            format!("--config.file={}", file("prometheus.yaml", config)),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={prometheus_address}"),
        ],
    );
    let renewals = || async {
        let table = demo.kubectl(&[
            "get",
            "crn",
            "-o",
            "jsonpath={range .items[*]}{.spec.trigger} {.status.phase}{\"\\n\"}{end}",
        ]);
        table.lines().map(str::to_owned).collect()
    };
    // Whoever acts would ask as soon as it has read the mesh; it is to be the alert, so nobody acts before.
    until("Alertmanager asked", &set(&["Alert "]), renewals).await;
    let acting = ["serve", "--roles", "act", "--listen", "127.0.0.1:0", "--config"].map(str::to_owned);
    let config = [folder.path().join("meshcert.yaml").display().to_string()];
    let _acting = Process::start(Path::new(env!("CARGO_BIN_EXE_meshcert")), &[&acting[..], &config].concat());
    until("the mesh is renewed", &set(&["Alert Succeeded"]), renewals).await;
    until("the alert is over", &BTreeSet::new(), || firing(&prometheus_address)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire_for_exactly_the_meshes_that_end_and_reach_their_receivers() {
    let (Some(prometheus), Some(alertmanager)) = (tools::built("prometheus"), tools::built("alertmanager")) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let demo = Demo::start(&["--scenario", "mixed"]);
    // A second replica exports the same.
    let replica = free_address();
    let _replica = Process::start(
        Path::new(env!("CARGO_BIN_EXE_meshcert")),
        &["serve", "--listen", &replica, "--kubeconfig", &demo.kubeconfig.display().to_string()].map(str::to_owned),
    );

    let notifications: Notifications = Arc::default();
    let take = |receiver: &'static str| {
        post(move |State(all): State<Notifications>, body: axum::Json<Value>| async move {
            all.lock().unwrap().push((receiver.to_owned(), body.0));
        })
    };
    let capture = Router::new().route("/on-call", take("on-call")).route("/team", take("team"));
    let capture = serve(capture.with_state(Arc::clone(&notifications))).await;

    let (alertmanager_address, prometheus_address) = (free_address(), free_address());
    let _alertmanager = Process::start(
        &alertmanager,
        &[
            format!("--config.file={}", alertmanager_config(folder.path(), capture)),
            format!("--storage.path={}", folder.path().join("alertmanager").display()),
            format!("--web.listen-address={alertmanager_address}"),
            "--cluster.listen-address=".to_owned(),
        ],
    );
    // An alert that is sent before Alertmanager listens comes again only after a minute, and an inhibiting one would then come too late.
    until("Alertmanager listens", &set(&["listens"]), || async {
        let listens = get_json(&alertmanager_address, "/api/v2/status").await.is_some();
        if listens { set(&["listens"]) } else { BTreeSet::new() }
    })
    .await;
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
         scrape_configs: [{{job_name: meshcert, static_configs: [{{targets: ['{}', '{}']}}]}}]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager_address}']}}]}}]}}\n",
        impatient_rules(folder.path()),
        demo.address,
        replica,
    );
    let config_file = folder.path().join("prometheus.yaml");
    std::fs::write(&config_file, config).unwrap();
    let _prometheus = Process::start(
        &prometheus,
        &[
            format!("--config.file={}", config_file.display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={prometheus_address}"),
        ],
    );

    let expected = set(&[
        "MspiderHostedKubeAPICertExpiration hosted-demo warning",
        "MspiderHostedKubeAPICertExpiration hosted-critical warning",
        "MspiderHostedKubeAPICertExpiration hosted-critical critical",
        "MspiderHostedKubeAPICertExpiration hosted-expired warning",
        "MspiderHostedKubeAPICertExpiration hosted-expired expired",
        "MeshcertMeshSecretMissing hosted-incomplete critical",
        "MeshcertCertificateInvalid hosted-broken warning",
    ]);
    until("exactly these fire", &expected, || firing(&prometheus_address)).await;

    // One notification per mesh; the warnings of those that are critical or over are inhibited.
    let delivered = |receiver: &str| -> BTreeSet<String> {
        let all = notifications.lock().unwrap();
        let bodies = all.iter().filter(|(to, _)| to == receiver).map(|(_, body)| body);
        bodies
            .flat_map(|body| body["alerts"].as_array().cloned().unwrap_or_default())
            .map(|alert| outline(&alert["labels"]))
            .collect()
    };
    let on_call = set(&[
        "MspiderHostedKubeAPICertExpiration hosted-critical critical",
        "MspiderHostedKubeAPICertExpiration hosted-expired expired",
        "MeshcertMeshSecretMissing hosted-incomplete critical",
    ]);
    let team = set(&[
        "MspiderHostedKubeAPICertExpiration hosted-demo warning",
        "MeshcertCertificateInvalid hosted-broken warning",
    ]);
    until("those of on-call reach it", &on_call, || async { delivered("on-call") }).await;
    until("those of the team reach it", &team, || async { delivered("team") }).await;
    for (_, body) in notifications.lock().unwrap().iter() {
        assert_eq!(body["version"], "4");
        for alert in body["alerts"].as_array().unwrap() {
            let description = alert["annotations"]["description"].as_str().unwrap();
            let about_the_end = alert["labels"]["alertname"] == "MspiderHostedKubeAPICertExpiration";
            assert!(!about_the_end || description.contains(" in Secret hosted-"), "{description}");
        }
        assert_eq!(body["groupLabels"].as_object().unwrap().len(), 4, "{body}");
        assert_eq!(body["alerts"].as_array().unwrap().len(), 1, "two replicas page once: {body}");
    }

    // A deleted mesh's series and alerts go.
    let secrets = ["kube-certs", "etcd-certs", "apiserver-admin-kubeconfig"].map(|end| format!("hosted-expired-{end}"));
    demo.kubectl(&["delete", "secret", &secrets[0], &secrets[1], &secrets[2]]);
    let fewer = expected.iter().filter(|alert| !alert.contains("hosted-expired")).cloned().collect();
    until("the deleted mesh is silent", &fewer, || firing(&prometheus_address)).await;
}
