//! An embedded Kubernetes API with hosted meshes in it: for seeing meshcert at work, and for its tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::demo::access::Access;
use crate::demo::api::Api;
use crate::demo::forward::Nodes;
use crate::demo::schema::Schemas;
use crate::demo::store::Store;
use crate::demo::workloads::Controllers;
use crate::ports::Clock;

pub use access::Grant;
pub use stand_in::{Data, Hosted, StandIn};

mod access;
mod admission;
mod api;
mod apply;
mod call;
mod discovery;
mod endpoints;
mod forward;
mod hosted;
mod hosted_api;
mod jobs;
mod kinds;
mod kubeadm;
mod list;
mod openapi;
mod patch;
mod pki;
mod scale;
mod schema;
mod selector;
mod stand_in;
mod status;
mod store;
mod table;
mod workloads;
mod write;

/// What state the meshes are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// One of each: healthy, expiring, critical, expired, incomplete, broken.
    Mixed,
    /// All have most of a year left.
    Healthy,
    /// All end within the month.
    Expiring,
    /// All have ended.
    Expired,
    /// Each has something else that is wrong.
    Broken,
    /// Many, of which three in ten end within the month.
    Fleet,
}

/// What to start.
pub struct Options {
    /// State of the meshes.
    pub scenario: Scenario,
    /// How many; `None` for as many as the scenario tells apart.
    pub meshes: Option<usize>,
    /// Address of the API; loopback only.
    pub listen: SocketAddr,
    /// Between two steps of a rollout.
    pub pace: Duration,
    /// The time of the certificates.
    pub clock: Arc<dyn Clock>,
}

/// A running embedded API; it ends when dropped.
pub struct Demo {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many meshes there are.
    pub meshes: usize,
    api: Arc<Api>,
    router: axum::Router,
    _tasks: JoinSet<()>,
}

/// Makes the meshes and serves the API.
///
/// # Errors
/// The address is not on loopback or cannot be listened on.
pub async fn start(options: Options) -> anyhow::Result<Demo> {
    let Options { scenario, meshes, listen, pace, clock } = options;
    if !listen.ip().is_loopback() {
        bail!(
            "the embedded API asks nobody who they are: --api-listen must be a loopback address, such as 127.0.0.1:0, not {listen}"
        );
    }
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let store = Arc::new(Store::new(Arc::clone(&clock)));
    let filling = Arc::clone(&store);
    let now = clock.now();
    let meshes = tokio::task::spawn_blocking(move || hosted::fill(&filling, scenario, meshes, now)).await??;
    let nodes = Arc::new(Nodes::default());
    let mut controllers = Controllers::new(Arc::clone(&store), Arc::clone(&clock), pace, Arc::clone(&nodes));
    controllers.settle().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(controllers.run());
    let api = Arc::new(Api { store, clock, access: Access::default(), nodes, schemas: Schemas::default() });
    let router = api::router(Arc::clone(&api));
    let served = router.clone();
    tasks.spawn(async move {
        // It serves until it is aborted.
        let _ = axum::serve(listener, served).await;
    });
    Ok(Demo { address, meshes, api, router, _tasks: tasks })
}

impl Demo {
    /// From now on whoever shows this token may do only this.
    pub fn restrict(&self, token: &str, grants: &[Grant]) {
        self.api.access.restrict(token, grants);
    }

    /// The API itself, for those in the same process.
    pub fn router(&self) -> axum::Router {
        self.router.clone()
    }

    /// A kubeconfig for the embedded API.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1
kind: Config
current-context: meshcert-demo
clusters:
- name: meshcert-demo
  cluster: {{server: 'http://{}'}}
users:
- name: meshcert-demo
  user: {{}}
contexts:
- name: meshcert-demo
  context: {{cluster: meshcert-demo, user: meshcert-demo, namespace: istio-system}}
",
            self.address
        )
    }
}
