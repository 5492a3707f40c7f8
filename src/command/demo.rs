//! `meshcert demo`: an embedded cluster with hosted meshes, the daemon on top, and an alert that is answered.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tracing::{info, warn};

use crate::app::acting::Roles;
use crate::app::{self, Sources, process};
use crate::cert::issue::KeyType;
use crate::cli::{DemoArgs, Outcome};
use crate::clock::SystemClock;
use crate::cluster::api::Api;
use crate::cluster::connect::{Connection, connect};
use crate::controller::Timing;
use crate::crd;
use crate::demo::{self, Demo, Options};
use crate::metrics::Observed;
use crate::observer::Registry;
use crate::policy::{Engine, Mode};
use crate::ports::Clock;
use crate::time::DAY;

/// Of the name of each demo's folder, before its process's number.
const PREFIX: &str = "meshcert-demo-";
/// Between two steps of a rollout: slow enough to be watched.
const PACE: Duration = Duration::from_millis(300);
/// Alertmanager waits before it notifies; people look at the page meanwhile.
const GROUP_WAIT: Duration = Duration::from_secs(5);
/// Nobody else uses this cluster.
const TIMING: Timing = Timing {
    busy: Duration::from_millis(200),
    idle: Duration::from_millis(500),
    scan: Duration::from_secs(10),
    // All that is due here was due before the start, when an alert would have fired long ago: Alertmanager goes first, and the clock finds nothing left to ask for.
    first_scan: Duration::from_secs(10),
    lease: Duration::from_secs(2),
};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be listened on, or a file cannot be written.
pub fn run(args: DemoArgs) -> anyhow::Result<Outcome> {
    args.logging.start();
    process::run(async {
        let signals = process::Signals::new()?;
        let options = Options {
            scenario: args.scenario,
            meshes: args.meshes,
            listen: args.api_listen,
            pace: PACE,
            clock: Arc::new(SystemClock),
        };
        let demo = demo::start(options).await?;
        let files = Files::write(&args, &demo)?;
        install(&files.kubeconfig).await?;
        let mut stdout = io::stdout();
        writeln!(stdout, "meshcert: {} hosted meshes in an embedded cluster", demo.meshes)?;
        writeln!(stdout, "meshcert: kubernetes API on http://{}", demo.address)?;
        if args.api_only {
            writeln!(
                stdout,
                "meshcert: try  meshcert serve --roles observe,webhook,act --config {}",
                files.config.display()
            )?;
            stdout.flush()?;
            signals.stop().await;
            return Ok(());
        }
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}; choose another address with --listen", args.listen))?;
        let address = listener.local_addr()?;
        let path = files.kubeconfig.display();
        writeln!(stdout, "meshcert: page on http://{address}/")?;
        writeln!(stdout, "meshcert: metrics on http://{address}/metrics")?;
        writeln!(stdout, "meshcert: webhook on http://{address}/webhook, bearer token {}", files.token)?;
        writeln!(
            stdout,
            "meshcert: try  curl -H 'Authorization: Bearer {}' --data @- http://{address}/webhook <<< '{}'",
            files.token,
            notification("MESH")
        )?;
        writeln!(stdout, "meshcert: try  kubectl --kubeconfig {path} get crn -w")?;
        writeln!(stdout, "meshcert: or   meshcert status --kubeconfig {path}")?;
        stdout.flush()?;
        let sources = Sources { config: Some(files.config.clone()), ..Sources::default() };
        let roles = Roles { observe: true, webhook: true, act: true, timing: TIMING };
        let (token, mode) = (files.token.clone(), args.mode);
        app::serve(sources, roles, listener, signals.stop(), |listening| {
            if mode != Mode::Observe {
                tokio::spawn(alert(Arc::clone(listening.registry), address, token));
            }
        })
        .await
    })?;
    Ok(Outcome::Fine)
}

/// Teaches the embedded cluster what a renewal is.
async fn install(kubeconfig: &Path) -> anyhow::Result<()> {
    let client = connect(&Connection::file(kubeconfig.to_owned(), None)).await?;
    Api::new(client).create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd::definition()).await?;
    Ok(())
}

/// Plays Prometheus and Alertmanager: notifies of every mesh that ends soon, one group each.
async fn alert(registry: Arc<Registry>, address: SocketAddr, token: String) {
    tokio::time::sleep(GROUP_WAIT).await;
    let now = SystemClock.now();
    let clusters = registry.clusters();
    let due = clusters.iter().flat_map(|cluster| cluster.snapshot.meshes());
    let mut due: Vec<_> =
        due.filter(|mesh| mesh.expiration.is_some_and(|end| now.seconds_until(end) < 30 * DAY)).collect();
    due.sort_by_key(|mesh| mesh.expiration);
    for mesh in due {
        let id = mesh.key.id.as_str();
        info!("alert MspiderHostedKubeAPICertExpiration fires for {id}; Alertmanager notifies");
        match post(address, &token, notification(id)).await {
            Ok(answer) => info!("the webhook answers: {}", answer.trim_end()),
            Err(error) => warn!("the webhook does not answer: {error:#}"),
        }
    }
}

/// As Alertmanager sends it, version 4.
fn notification(mesh: &str) -> String {
    let labels = json!({ "alertname": "MspiderHostedKubeAPICertExpiration", "severity": "warning", "mesh_cluster": "demo", "mesh_namespace": "istio-system", "mesh_id": mesh });
    json!({
        "version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing", "receiver": "meshcert",
        "groupLabels": {}, "commonLabels": labels, "commonAnnotations": {}, "externalURL": "",
        "alerts": [{ "status": "firing", "labels": labels, "annotations": {} }],
    })
    .to_string()
}

async fn post(address: SocketAddr, token: &str, body: String) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post("/webhook")
        .header("host", address.to_string())
        .header("authorization", format!("Bearer {token}"));
    let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
    let status = response.status();
    let text = String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned();
    connection.abort();
    if status.is_success() { Ok(text) } else { bail!("{status}: {text}") }
}

/// The files of this run; those that nobody asked for are removed at the end.
struct Files {
    folder: PathBuf,
    kubeconfig: PathBuf,
    config: PathBuf,
    token: String,
    /// Held as long as the process lives.
    _lock: fs::File,
}

impl Files {
    fn write(args: &DemoArgs, demo: &Demo) -> anyhow::Result<Self> {
        let temporary = std::env::temp_dir();
        remove_left_over(&temporary);
        let folder = temporary.join(format!("{PREFIX}{}", std::process::id()));
        // What an earlier process of this number left behind.
        let _ = fs::remove_dir_all(&folder);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let lock = fs::File::open(&folder)?;
        lock.try_lock().with_context(|| format!("another demo uses {}", folder.display()))?;
        let kubeconfig = args.kubeconfig_out.clone().unwrap_or_else(|| folder.join("kubeconfig"));
        let token = args.webhook_token.clone().unwrap_or_else(random_token);
        let config = folder.join("meshcert.yaml");
        let token_file = folder.join("token");
        let files = Self { folder, kubeconfig, config, token, _lock: lock };
        let mut policy = json!({ "mode": args.mode, "maxConcurrent": 2, "engine": args.engine });
        if args.engine == Engine::Job {
            // The demo's keys are on P-256; kubeadm would not keep them so, and would be passed over.
            policy["keyType"] = json!(KeyType::Rsa2048);
        }
        // JSON is YAML.
        let config = json!({
            "clusters": [{ "name": "demo", "kubeconfig": files.kubeconfig }],
            "policy": policy,
            "webhook": { "bearerTokenFile": token_file },
        });
        put(&files.kubeconfig, &demo.kubeconfig())?;
        put(&token_file, &files.token)?;
        put(&files.config, &format!("{config:#}\n"))?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Whoever removed it before did the same.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Removes the files of demos that were killed. One in another container may have a number that is nobody's here, but it holds the lock of its folder.
fn remove_left_over(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let process = number.and_then(|number| Pid::from_raw(number.try_into().ok()?));
        let is_dead = process.is_some_and(|process| test_kill_process(process) == Err(Errno::SRCH));
        let is_free = || fs::File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok());
        // A link leads elsewhere.
        if is_dead && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_free() {
            // Another demo may do the same at this moment, and what is somebody else's stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn random_token() -> String {
    format!("{:032x}", rand::random::<u128>())
}
