//! The roles beside observing: which clusters are acted on, and who may ask.

use std::sync::Arc;

use tracing::{info, warn};

use crate::app::clusters::{Plane, Ways};
use crate::config::{self, Config, ConfigError, WebhookConfig};
use crate::controller::{self, Acting, Surroundings, Timing};
use crate::metrics::renewals::RenewalMetrics;
use crate::notification::Mapping;
use crate::requests::Desk;
use crate::server::Webhook;
use crate::tasks::Tasks;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Watches certificates.
    pub observe: bool,
    /// Takes Alertmanager's notifications.
    pub webhook: bool,
    /// Renews and restarts.
    pub act: bool,
    /// How often the acting plane looks.
    pub timing: Timing,
}

impl Roles {
    /// Observing alone.
    pub const OBSERVE: Self = Self { observe: true, webhook: false, act: false, timing: Timing::DEFAULT };
    /// Taking notifications alone.
    pub const WEBHOOK: Self = Self { observe: false, webhook: true, ..Self::OBSERVE };

    /// As which plane this process watches Secrets, if it does: a webhook alone has no right to.
    pub fn watching(self) -> Option<Plane> {
        match self {
            Self { observe: true, .. } => Some(Plane::Observe),
            Self { act: true, .. } => Some(Plane::Act),
            _ => None,
        }
    }
}

/// The clusters of a configuration, as the acting plane takes them. Where all namespaces are watched, nothing is acted on: a person names those in which
/// meshcert may write.
///
/// # Errors
/// A value that cannot work.
pub fn acting(config: &Config, ways: &Ways, timing: Timing) -> Result<Vec<Acting>, ConfigError> {
    let identity = format!("{}-{}", host(), std::process::id());
    let named = |cluster: &&config::ClusterConfig| {
        let named = config::namespaces(&cluster.namespaces).is_some();
        if !named {
            warn!(
                cluster = cluster.name,
                "not acting here: name the namespaces in which meshcert may renew instead of \"*\""
            );
        }
        named
    };
    let acting = config.clusters.iter().filter(named).map(|cluster| {
        Ok(Acting {
            name: cluster.name.as_str().into(),
            connection: ways.to(cluster, Plane::Act)?,
            reach: cluster.reach,
            namespaces: cluster.namespaces.clone(),
            naming: config.naming()?,
            policy: config.policy.compile()?,
            tiers: config.policy.restart_tiers.clone(),
            timing,
            identity: identity.clone(),
        })
    });
    acting.collect()
}

/// The pod's name, where there is one.
fn host() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "meshcert".to_owned())
}

/// Who may ask.
pub(super) fn webhook(config: &WebhookConfig, desk: &Arc<Desk>, metrics: &Arc<RenewalMetrics>) -> Webhook {
    let config = config.clone();
    let WebhookConfig { listen, bearer_token_file, basic_auth, client_certificates, alert_names, labels, .. } = config;
    Webhook {
        apart: listen.is_some(),
        bearer_token: bearer_token_file,
        basic: basic_auth.map(|basic| (basic.username, basic.password_file)),
        client_certificates,
        mapping: Mapping { alert_names, labels: [labels.cluster, labels.namespace, labels.mesh] },
        desk: Arc::clone(desk),
        metrics: Arc::clone(metrics),
    }
}

/// The acting tasks, one per cluster.
pub struct Crew {
    around: Surroundings,
    tasks: Tasks<Acting>,
}

impl Crew {
    /// Nobody acts yet.
    pub fn new(around: Surroundings) -> Self {
        Self { around, tasks: Tasks::default() }
    }

    /// Makes those who act those that are wanted: where one is ended, whoever comes next goes on.
    pub fn reconcile(&mut self, wanted: Vec<Acting>) {
        let Self { around, tasks } = self;
        let wanted = wanted.into_iter().map(|acting| (Arc::clone(&acting.name), acting)).collect();
        let ended = |acting: &Acting, _: Option<&Acting>| {
            info!(cluster = %acting.name, "no longer acting");
            around.metrics.remove(&acting.name);
        };
        let start = |acting: &Acting| {
            let (mode, namespaces) = (acting.policy.mode.as_str(), acting.namespaces.join(","));
            info!(cluster = %acting.name, %mode, %namespaces, "acting");
            vec![controller::run(acting.clone(), around.clone())]
        };
        tasks.reconcile(wanted, ended, start);
    }

    /// Waits until a task panics, which must end the process.
    pub async fn failed(&mut self) -> tokio::task::JoinError {
        self.tasks.failed().await
    }
}
