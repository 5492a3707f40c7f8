//! The daemon in this process, on an embedded cluster.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meshcert::app::acting::Roles;
use meshcert::app::{self, Sources};
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::{Connection, connect};
use meshcert::crd;
use meshcert::demo::{self, Demo, Options, Scenario};
use meshcert::renewal::Renewal;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client::{Client, put};

/// Nothing takes longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An embedded cluster that knows renewals.
pub struct Cluster {
    pub demo: Demo,
    pub api: Api,
    pub folder: TempDir,
}

impl Cluster {
    pub async fn start(scenario: Scenario, meshes: Option<usize>) -> Self {
        let options = Options {
            scenario,
            meshes,
            listen: "127.0.0.1:0".parse().unwrap(),
            pace: Duration::from_millis(5),
            clock: Arc::new(SystemClock),
        };
        let demo = demo::start(options).await.unwrap();
        let folder = TempDir::new().unwrap();
        let path = put(folder.path(), "kubeconfig", &demo.kubeconfig());
        let api = Api::new(connect(&Connection::file(path, None)).await.unwrap());
        api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd::definition()).await.unwrap();
        Self { demo, api, folder }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes a file beside the others.
    pub fn put(&self, name: &str, text: &str) -> String {
        put(self.folder.path(), name, text).display().to_string()
    }

    /// The configuration's clusters: this one, as its administrator.
    pub fn clusters(&self) -> String {
        format!("clusters: [{{name: demo, kubeconfig: '{}'}}]\n", self.path("kubeconfig"))
    }

    pub async fn renewals(&self) -> Vec<Renewal> {
        let (renewals, unreadable) = self.api.renewals("istio-system").await.unwrap();
        assert_eq!(unreadable, []);
        renewals
    }

    pub async fn names(&self) -> Vec<String> {
        self.renewals().await.into_iter().map(|renewal| renewal.name).collect()
    }
}

/// A running `meshcert serve`.
pub struct Served {
    pub main: SocketAddr,
    /// The webhook's own address.
    pub webhook: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub const OBSERVE_AND_WEBHOOK: Roles = Roles { webhook: true, ..Roles::OBSERVE };

impl Served {
    /// Starts it with this configuration and waits until it answers.
    pub async fn start(config: &Path, roles: Roles) -> Self {
        Self::try_start(config, roles).await.unwrap()
    }

    /// The same, or why it does not start.
    pub async fn try_start(config: &Path, roles: Roles) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let main = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (listening, opened) = oneshot::channel();
        let sources = Sources { config: Some(config.to_owned()), ..Sources::default() };
        let until = async move {
            // A test that ended has dropped its end: that is a stop too.
            let _ = stopped.await;
        };
        let mut task = tokio::spawn(app::serve(sources, roles, listener, until, |at| {
            let _ = listening.send(at.webhook);
        }));
        tokio::select! {
            webhook = opened => match webhook {
                Ok(webhook) => Ok(Self { main, webhook, stop: Some(stop), task }),
                Err(_) => Err(format!("{:#}", task.await.unwrap().unwrap_err())),
            },
            ended = &mut task => Err(format!("{:#}", ended.unwrap().unwrap_err())),
        }
    }

    /// Waits until it is ready.
    pub async fn ready(self) -> Self {
        self.ready_for(&Client::default()).await
    }

    pub async fn ready_for(self, client: &Client) -> Self {
        eventually("it is ready", async || {
            client.get(self.main, "/-/ready").await.is_ok_and(|(status, _)| status == 200)
        })
        .await;
        self
    }

    /// The value of a series, as the text says it.
    pub async fn metric(&self, client: &Client, series: &str) -> Option<String> {
        let (_, text) = client.get(self.main, "/metrics").await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
    }

    /// Ends as SIGTERM would end it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap().unwrap();
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "waited for this in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What Alertmanager sends about meshes, at the least.
pub fn notification(meshes: &[&str]) -> String {
    let alert = |mesh: &&str| {
        format!(
            r#"{{"status":"firing","labels":{{"alertname":"MspiderHostedKubeAPICertExpiration","mesh_cluster":"demo","mesh_namespace":"istio-system","mesh_id":"{mesh}"}}}}"#
        )
    };
    let alerts: Vec<String> = meshes.iter().map(alert).collect();
    format!(r#"{{"version":"4","status":"firing","alerts":[{}]}}"#, alerts.join(","))
}
