//! The composition root: puts the parts of the daemon together, in named stages.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::app::acting::{Crew, Roles};
use crate::clock::SystemClock;
use crate::cluster::connect::{Connection, connect};
use crate::config::{self, ClusterConfig, Config};
use crate::controller::Surroundings;
use crate::metrics::renewals::RenewalMetrics;
use crate::metrics::{Metrics, Observed};
use crate::observer::discovery::Discovery;
use crate::observer::{ClusterSpec, Registry, Supervisor};
use crate::ports::Clock;
use crate::requests::Desk;
use crate::secret::Selection;
use crate::server::{self, App, Limits};

pub mod acting;
pub mod process;

/// Which clusters to look at: the configuration file and the flags that override it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The kubeconfig of the only cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Its context.
    pub context: Option<String>,
    /// Namespaces of hosted meshes.
    pub namespaces: Vec<String>,
}

/// How often the configuration file is looked at; a ConfigMap's change takes a minute to arrive anyway.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Between being unready and refusing connections: time for a load balancer to look away.
const NOTICE: Duration = Duration::from_secs(1);
/// The name of the cluster where none is configured.
const DEFAULT_CLUSTER: &str = "default";

impl Sources {
    /// The configuration, with the flags' overrides; without a file the defaults.
    ///
    /// # Errors
    /// The file cannot be read or is invalid.
    pub fn load(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::load(path).with_context(|| path.display().to_string())?,
            None => Config::default(),
        };
        if self.kubeconfig.is_some() || self.context.is_some() || config.clusters.is_empty() {
            let first = config.clusters.first();
            let namespaces = first.map(|cluster| cluster.namespaces.clone());
            let reach = first.map(|cluster| cluster.reach).unwrap_or_default();
            config.clusters = vec![ClusterConfig {
                name: self.context.clone().unwrap_or_else(|| DEFAULT_CLUSTER.to_owned()),
                in_cluster: false,
                kubeconfig: self.kubeconfig.clone(),
                context: self.context.clone(),
                namespaces: namespaces.unwrap_or_else(config::default_namespaces),
                reach,
            }];
        }
        if !self.namespaces.is_empty() {
            for cluster in &mut config.clusters {
                cluster.namespaces.clone_from(&self.namespaces);
            }
        }
        Ok(config)
    }
}

/// The clusters of a configuration, as the observing plane takes them.
///
/// # Errors
/// A name template or rule that cannot work.
pub fn clusters(config: &Config) -> Result<Vec<ClusterSpec>, config::ConfigError> {
    config
        .clusters
        .iter()
        .map(|cluster| {
            let selection = selection(config, &cluster.namespaces)?;
            Ok(ClusterSpec {
                name: cluster.name.as_str().into(),
                connection: connection(cluster),
                namespaces: watched(&selection),
                selection: Arc::new(selection),
            })
        })
        .collect()
}

fn selection(config: &Config, namespaces: &[String]) -> Result<Selection, config::ConfigError> {
    Ok(Selection { mesh_namespaces: config::namespaces(namespaces), naming: config.naming()?, rules: config.rules()? })
}

/// The meshes' namespaces and those that a rule names.
fn watched(selection: &Selection) -> Option<Vec<String>> {
    let mut all = selection.mesh_namespaces.clone()?;
    all.extend(selection.rules.iter().flat_map(|rule| rule.namespaces.iter().cloned()));
    all.sort();
    all.dedup();
    Some(all)
}

fn connection(cluster: &ClusterConfig) -> Connection {
    match (&cluster.kubeconfig, cluster.in_cluster) {
        (_, true) => Connection::InCluster,
        (Some(path), false) => Connection::File { path: path.clone(), context: cluster.context.clone() },
        (None, false) => Connection::Current { context: cluster.context.clone() },
    }
}

/// Runs the daemon until `stop` resolves; `listening` is called once requests are answered.
///
/// # Errors
/// The configuration cannot be used at start, or a task that must not end has ended.
pub async fn serve(
    sources: Sources,
    roles: Roles,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    listening: impl FnOnce(&Arc<Registry>),
) -> anyhow::Result<()> {
    let mut config = sources.load()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let registry = Arc::new(Registry::default());
    let observed: Arc<dyn Observed> = Arc::clone(&registry) as _;
    let renewals = Arc::new(RenewalMetrics::default());
    let shown = (roles.act || roles.webhook).then(|| Arc::clone(&renewals));
    let metrics = Arc::new(Metrics::new(Arc::clone(&observed), shown));
    metrics.config_accepted(clock.now());
    let app = App::new(observed, Arc::clone(&metrics), Arc::clone(&clock), config.policy.renew_before.0);

    let mut supervisor = Supervisor::new(Arc::clone(&registry), Arc::clone(&clock));
    let (discovered, mut discoveries) = tokio::sync::watch::channel(Vec::new());
    let mut discovery = start_discovery(&config, &discovered)?;
    supervisor.reconcile(clusters(&config)?);
    let meshes = acting::meshes(&registry);
    let desk = Arc::new(Desk::new(Arc::clone(&meshes), Arc::clone(&clock)));
    let mut crew = Crew::new(Surroundings { clock: Arc::clone(&clock), meshes, metrics: Arc::clone(&renewals) });
    let decide = |config: &Config, crew: &mut Crew| -> anyhow::Result<()> {
        if roles.act {
            crew.reconcile(acting::acting(config, roles.timing)?);
        }
        let connections = config.clusters.iter().map(|cluster| (cluster.name.as_str().into(), connection(cluster)));
        desk.set(connections.collect(), config.policy.renew_before.0);
        let webhook = config.webhook.as_ref().filter(|_| roles.webhook);
        app.set_webhook(webhook.map(|webhook| acting::webhook(webhook, &desk, &renewals)));
        Ok(())
    };
    decide(&config, &mut crew)?;

    let shutdown = CancellationToken::new();
    let server = server::serve(listener, server::router(Arc::clone(&app)), Limits::default(), shutdown.clone());
    let server = tokio::spawn(server);
    let rendering = tokio::spawn(render_ahead(Arc::clone(&app), registry.changes()));
    listening(&registry);

    tokio::pin!(stop);
    let mut reload = tokio::time::interval(RELOAD_INTERVAL);
    let failure = loop {
        tokio::select! {
            () = &mut stop => break None,
            error = supervisor.failed() => break Some(anyhow::Error::new(error).context("a source's task ended")),
            error = crew.failed() => break Some(anyhow::Error::new(error).context("an acting task ended")),
            Ok(()) = discoveries.changed() => {
                supervisor.reconcile(joined(&config, &discoveries.borrow_and_update())?);
            }
            _ = reload.tick() => match sources.load() {
                Ok(new) if new == config => {}
                Ok(new) => {
                    config = new;
                    discovery = start_discovery(&config, &discovered)?;
                    supervisor.reconcile(joined(&config, &discoveries.borrow())?);
                    decide(&config, &mut crew)?;
                    app.set_renew_before(config.policy.renew_before.0);
                    metrics.config_accepted(clock.now());
                    info!("configuration reloaded");
                }
                Err(error) => {
                    metrics.config_refused();
                    error!(error = format!("{error:#}"), "the changed configuration is refused, the former stays in force");
                }
            },
        }
    };
    info!("shutting down");
    app.stop();
    drop(discovery);
    tokio::time::sleep(NOTICE).await;
    rendering.abort();
    shutdown.cancel();
    server.await.context("the server's task ended")?;
    failure.map_or(Ok(()), Err)
}

/// The configured and the discovered clusters; a configured one wins over a discovered one of its name.
fn joined(config: &Config, discovered: &[ClusterSpec]) -> Result<Vec<ClusterSpec>, config::ConfigError> {
    let mut all = discovered.to_vec();
    all.extend(clusters(config)?);
    Ok(all)
}

/// Starts looking for clusters in Secrets, if the configuration asks for it; dropping the guard ends it.
fn start_discovery(
    config: &Config,
    discovered: &tokio::sync::watch::Sender<Vec<ClusterSpec>>,
) -> anyhow::Result<Option<tokio::task::JoinSet<()>>> {
    let Some(secrets) = &config.cluster_secrets else {
        discovered.send_if_modified(|known| !std::mem::take(known).is_empty());
        return Ok(None);
    };
    let home = config.clusters.first().context("clusterSecrets needs a cluster in which the Secrets are")?;
    let connection = connection(home);
    let selection = selection(config, &secrets.namespaces)?;
    let discovery = Discovery {
        namespace: secrets.namespace.clone(),
        istio_remote_secrets: secrets.istio_remote_secrets,
        namespaces: watched(&selection),
        selection: Arc::new(selection),
    };
    let discovered = discovered.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let client = loop {
            match connect(&connection).await {
                Ok(client) => break client,
                Err(error) => error!(%error, "cannot look for clusters in Secrets"),
            }
            tokio::time::sleep(RELOAD_INTERVAL).await;
        };
        let found = |specs: Vec<ClusterSpec>| {
            discovered.send_if_modified(|known| {
                let changed = *known != specs;
                *known = specs;
                changed
            });
        };
        discovery.run(client, found).await;
    });
    Ok(Some(tasks))
}

/// Renders after changes, so that a scrape finds it done; changes that come thick and fast are rendered together.
async fn render_ahead(app: Arc<App>, mut changes: tokio::sync::watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        app.refresh().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
