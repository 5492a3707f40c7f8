//! A real Prometheus with the rules of `alerts/` scrapes the daemon's exposition; a real Alertmanager delivers what fires, grouped and inhibited.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, missing_docs, reason = "a test may")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

const DAY: i64 = 86_400;

/// Mesh and seconds until its first certificate ends.
type Meshes = Arc<Mutex<Vec<(&'static str, i64)>>>;

/// Receiver and body of what Alertmanager delivered.
type Notifications = Arc<Mutex<Vec<(String, Value)>>>;

fn tool(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("MESHCERT_REQUIRE_TOOLS").is_none(), "{name} is missing: run `make tools`");
    eprintln!("SKIPPED: {name} is missing; `make tools` builds it");
    None
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(tool: &Path, arguments: &[String]) -> Self {
        Self(Command::new(tool).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[expect(clippy::disallowed_methods, reason = "the Prometheus under test asks the system's clock too")]
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

async fn exporter(meshes: Meshes) -> SocketAddr {
    let start = now();
    let page = move |State(meshes): State<Meshes>| async move {
        let name = "meshcert_hosted_kube_api_certificate_expiration_timestamp_seconds";
        let mut text = String::from("meshcert_build_info 1\n");
        for (mesh, left) in meshes.lock().unwrap().iter() {
            let end = start + left;
            text +=
                &format!("{name}{{mesh_cluster=\"cp\",mesh_namespace=\"istio-system\",mesh_id=\"{mesh}\"}} {end}\n");
        }
        text
    };
    serve(Router::new().route("/metrics", get(page)).with_state(meshes)).await
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn get_json(address: &str, path: &str) -> Option<Value> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", address).body(String::new()).unwrap();
    let body = sender.send_request(request).await.ok()?.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

/// What fires, as `mesh severity` with `expired` where it is said.
async fn firing(prometheus: &str) -> BTreeSet<String> {
    let answer = get_json(prometheus, "/api/v1/alerts").await.unwrap_or_default();
    let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
    alerts.iter().filter(|alert| alert["state"] == "firing").map(|alert| outline(&alert["labels"])).collect()
}

fn outline(labels: &Value) -> String {
    let severity = if labels["expired"] == "true" { "expired" } else { labels["severity"].as_str().unwrap_or("") };
    format!("{} {severity}", labels["mesh_id"].as_str().unwrap_or("-"))
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(90), waiting).await.is_ok(), "{what}");
}

/// The rules with waiting times of nothing, so that the test need not wait; expressions and thresholds are untouched.
fn impatient_rules(folder: &Path) -> String {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/meshcert.rules.yaml")).unwrap();
    let lines = text.lines().map(|line| if line.trim_start().starts_with("for: ") { "        for: 0s" } else { line });
    let path = folder.join("rules.yaml");
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    path.display().to_string()
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
async fn alerts_fire_for_exactly_the_meshes_that_end_and_reach_their_receivers() {
    let (Some(prometheus), Some(alertmanager)) = (tool("prometheus"), tool("alertmanager")) else { return };
    let folder = TempDir::new().unwrap();
    let meshes: Meshes =
        Arc::new(Mutex::new(vec![("soon", 20 * DAY), ("critical", 3 * DAY), ("over", -2 * DAY), ("fine", 300 * DAY)]));
    // Two replicas export the same.
    let replicas = [exporter(Arc::clone(&meshes)).await, exporter(Arc::clone(&meshes)).await];

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
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
         scrape_configs: [{{job_name: meshcert, static_configs: [{{targets: ['{}', '{}']}}]}}]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager_address}']}}]}}]}}\n",
        impatient_rules(folder.path()),
        replicas[0],
        replicas[1],
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

    let expected: BTreeSet<String> =
        ["soon warning", "critical warning", "critical critical", "over warning", "over expired"]
            .map(str::to_owned)
            .into();
    until("exactly these fire", || async { firing(&prometheus_address).await == expected }).await;

    // One notification per mesh; the warnings of those that are critical or over are inhibited.
    let delivered = |receiver: &str| -> BTreeSet<String> {
        let all = notifications.lock().unwrap();
        let bodies = all.iter().filter(|(to, _)| to == receiver).map(|(_, body)| body);
        bodies
            .flat_map(|body| body["alerts"].as_array().cloned().unwrap_or_default())
            .map(|alert| outline(&alert["labels"]))
            .collect()
    };
    let on_call: BTreeSet<String> = ["critical critical", "over expired"].map(str::to_owned).into();
    let team: BTreeSet<String> = ["soon warning"].map(str::to_owned).into();
    until("they reach their receivers", || async { delivered("on-call") == on_call && delivered("team") == team })
        .await;
    for (_, body) in notifications.lock().unwrap().iter() {
        assert_eq!(body["version"], "4");
        assert_eq!(body["groupLabels"].as_object().unwrap().len(), 4, "{body}");
        assert_eq!(body["alerts"].as_array().unwrap().len(), 1, "two replicas page once: {body}");
    }

    // A deleted mesh's series and alerts go.
    meshes.lock().unwrap().retain(|(mesh, _)| *mesh != "over");
    let fewer: BTreeSet<String> = expected.iter().filter(|alert| !alert.starts_with("over")).cloned().collect();
    until("the deleted mesh is silent", || async { firing(&prometheus_address).await == fewer }).await;
}
