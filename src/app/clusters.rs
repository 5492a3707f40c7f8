//! Which clusters there are, and how each role reaches them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::app::acting::Roles;
use crate::cluster::connect::{Connection, connect};
use crate::config::{self, ClusterConfig, Config, ConfigError, KubeconfigsConfig};
use crate::observer::ClusterSpec;
use crate::observer::discovery::Discovery;
use crate::ports::SourceError;
use crate::requests::Place;
use crate::secret::Selection;

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

/// On whose behalf a cluster is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plane {
    /// Watching Secrets.
    Observe,
    /// Asking for renewals.
    Webhook,
    /// Renewing.
    Act,
}

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
                kubeconfigs: None,
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
/// A name template or rule that cannot work, or a kubeconfig that is missing.
pub(super) fn clusters(config: &Config, ways: &Ways, plane: Plane) -> Result<Vec<ClusterSpec>, ConfigError> {
    config
        .clusters
        .iter()
        .map(|cluster| {
            let selection = selection(config, &cluster.namespaces)?;
            Ok(ClusterSpec {
                name: cluster.name.as_str().into(),
                connection: ways.to(cluster, plane)?,
                namespaces: watched(&selection),
                selection: Arc::new(selection),
            })
        })
        .collect()
}

/// The clusters to observe at this moment: the configured ones and those that Secrets announce; and why these could not be looked for.
///
/// # Errors
/// The configuration cannot work.
pub async fn clusters_now(config: &Config, plane: Plane) -> anyhow::Result<(Vec<ClusterSpec>, Option<SourceError>)> {
    let ways = Ways::default();
    let mut all = clusters(config, &ways, plane)?;
    let Some(discovery) = discovery(config, &ways, plane)? else { return Ok((all, None)) };
    let found = match connect(&discovery.home).await {
        Ok(client) => discovery.look(&client).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(found) => {
            all.extend(found.clusters.into_values());
            Ok((all, None))
        }
        Err(error) => Ok((all, Some(error))),
    }
}

/// How clusters are found in Secrets, if the configuration asks for it.
pub(super) fn discovery(config: &Config, ways: &Ways, plane: Plane) -> anyhow::Result<Option<Discovery>> {
    let Some(secrets) = &config.cluster_secrets else { return Ok(None) };
    let home = config.clusters.first().context("clusterSecrets needs a cluster in which the Secrets are")?;
    let selection = selection(config, &secrets.namespaces)?;
    Ok(Some(Discovery {
        home: ways.to(home, plane)?,
        namespace: secrets.namespace.clone(),
        istio_remote_secrets: secrets.istio_remote_secrets,
        configured: config.clusters.iter().map(|cluster| cluster.name.as_str().into()).collect(),
        namespaces: watched(&selection),
        selection: Arc::new(selection),
    }))
}

fn selection(config: &Config, namespaces: &[String]) -> Result<Selection, ConfigError> {
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

/// The clusters of a configuration, as a plane uses their API.
///
/// # Errors
/// A kubeconfig is missing.
pub(super) fn places(config: &Config, ways: &Ways, plane: Plane) -> Result<Vec<Place>, ConfigError> {
    let place = |cluster: &ClusterConfig| {
        Ok(Place {
            name: cluster.name.as_str().into(),
            connection: ways.to(cluster, plane)?,
            namespaces: config::namespaces(&cluster.namespaces),
        })
    };
    config.clusters.iter().map(place).collect()
}

/// A plane and the cluster that it reaches.
pub(super) type Goal = (Plane, String);

/// How each plane of a process reaches each cluster, as its kubeconfigs were when they were read; where nothing was, as they are.
#[derive(Default, PartialEq)]
pub struct Ways(pub(super) BTreeMap<Goal, Connection>);

impl Ways {
    /// Those of a process with these roles, with the kubeconfigs as they are now.
    ///
    /// # Errors
    /// A kubeconfig is missing.
    pub(super) fn read(config: &Config, roles: Roles) -> Result<Self, ConfigError> {
        let planes = [roles.watching(), roles.webhook.then_some(Plane::Webhook), roles.act.then_some(Plane::Act)];
        let mut ways = BTreeMap::new();
        for plane in planes.into_iter().flatten() {
            for cluster in &config.clusters {
                ways.insert((plane, cluster.name.clone()), connection(cluster, plane)?);
            }
        }
        Ok(Self(ways))
    }

    /// # Errors
    /// A kubeconfig is missing.
    pub(super) fn to(&self, cluster: &ClusterConfig, plane: Plane) -> Result<Connection, ConfigError> {
        self.0.get(&(plane, cluster.name.clone())).map_or_else(|| connection(cluster, plane), |way| Ok(way.clone()))
    }
}

/// A cluster with a kubeconfig for each role is never reached by way of what else there may be: that could be another cluster, or another role's rights.
fn connection(cluster: &ClusterConfig, plane: Plane) -> Result<Connection, ConfigError> {
    let context = cluster.context.clone();
    let own = cluster.kubeconfigs.as_ref().and_then(|all| plane.choose(all));
    Ok(match (own.or(cluster.kubeconfig.as_ref()), cluster.in_cluster) {
        (_, true) => Connection::InCluster,
        (Some(path), false) => Connection::file(path.clone(), context),
        (None, false) if cluster.kubeconfigs.is_some() => {
            let path = format!("clusters[{}].kubeconfigs.{}", cluster.name, plane.as_str());
            let message = "is missing, and there is no kubeconfig for all roles; name the file of this role".to_owned();
            return Err(ConfigError::Invalid { path, message });
        }
        (None, false) => Connection::current(context),
    })
}

impl Plane {
    /// The role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Webhook => "webhook",
            Self::Act => "act",
        }
    }

    fn choose(self, all: &KubeconfigsConfig) -> Option<&PathBuf> {
        match self {
            Self::Observe => all.observe.as_ref(),
            Self::Webhook => all.webhook.as_ref(),
            Self::Act => all.act.as_ref(),
        }
    }
}
