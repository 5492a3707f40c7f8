//! Clusters that announce themselves by labelled Secrets, and come and go while meshcert runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;
use zeroize::Zeroizing;

use crate::cluster::connect::{Connection, connect};
use crate::cluster::secrets::labelled;
use crate::name::is_taken;
use crate::observer::ClusterSpec;
use crate::observer::registry::{Registry, SourceState};
use crate::ports::{Clock, SourceError, SourceErrorReason};
use crate::secret::Selection;

/// The label of a cluster's Secret; its value is the cluster's name, or else the Secret's own name is.
pub const LABEL: &str = "meshcert.dev/cluster";
/// The label of Istio's remote secrets; each of their keys is a cluster's name.
pub const ISTIO_LABEL: &str = "istio/multiCluster=true";
/// The key under which a labelled Secret holds its kubeconfig.
pub const KEY: &str = "kubeconfig";

/// More clusters than this are refused.
const MOST_CLUSTERS: usize = 100;
/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(15);

/// Where to look, and what the clusters found have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// The cluster that has the Secrets.
    pub home: Connection,
    /// Namespace of the Secrets.
    pub namespace: String,
    /// Also take Istio's remote secrets.
    pub istio_remote_secrets: bool,
    /// Names of the configured clusters, which win over those found.
    pub configured: BTreeSet<Arc<str>>,
    /// Namespaces to watch in the clusters; `None` for all.
    pub namespaces: Option<Vec<String>>,
    /// Which of their Secrets are read.
    pub selection: Arc<Selection>,
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Found {
    /// The clusters, by name.
    pub clusters: BTreeMap<Arc<str>, ClusterSpec>,
    /// Which are not among them, and why.
    pub left_out: BTreeSet<String>,
    /// Those of them that are not observed otherwise.
    pub missed: Vec<String>,
}

/// How looking goes, for those who read it.
pub(super) struct Progress {
    pub(super) registry: Arc<Registry>,
    pub(super) source: Arc<SourceState>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Discovery {
    /// Looks again and again and hands over the clusters found; a look that fails changes nothing. What stays the same is said once.
    pub(super) async fn run(self, progress: Progress, found: watch::Sender<Vec<ClusterSpec>>) {
        let client = loop {
            match connect(&self.home).await {
                Ok(client) => break client,
                Err(error) => progress.fail(&error),
            }
            sleep(INTERVAL).await;
        };
        let mut said = BTreeSet::new();
        loop {
            match self.look(&client).await {
                Ok(Found { clusters, left_out, missed }) => {
                    progress.succeed(clusters.len() as u64, &missed);
                    for why in left_out.difference(&said) {
                        warn!(why, "a cluster in a Secret is left out");
                    }
                    said = left_out;
                    hand_over(&found, clusters.into_values().collect());
                }
                Err(error) => progress.fail(&error),
            }
            sleep(INTERVAL).await;
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// The Secrets cannot be listed.
    pub async fn look(&self, client: &Client) -> Result<Found, SourceError> {
        let mut found = Found::default();
        for secret in labelled(client, &self.namespace, LABEL).await? {
            self.take(&secret, &mut found);
        }
        if self.istio_remote_secrets {
            for secret in labelled(client, &self.namespace, ISTIO_LABEL).await? {
                self.take_istio(&secret, &mut found);
            }
        }
        let all = found.clusters.len();
        while found.clusters.len() > MOST_CLUSTERS {
            found.clusters.pop_last();
        }
        if all > MOST_CLUSTERS {
            found.leave_out(format!("of {all} clusters all but the first {MOST_CLUSTERS} by name"), false);
        }
        Ok(found)
    }

    fn take(&self, secret: &Secret, found: &mut Found) {
        let secret_name = secret.metadata.name.clone().unwrap_or_default();
        let label =
            secret.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).filter(|name| !name.is_empty());
        // A Secret without the key still makes a cluster: one that is down and says why.
        let text = secret.data.as_ref().and_then(|data| data.get(KEY)).map(|bytes| bytes.0.clone()).unwrap_or_default();
        self.add(label.unwrap_or(&secret_name), &secret_name, KEY, text, found);
    }

    fn take_istio(&self, secret: &Secret, found: &mut Found) {
        let secret_name = secret.metadata.name.clone().unwrap_or_default();
        for (key, bytes) in secret.data.iter().flatten() {
            self.add(key, &secret_name, key, bytes.0.clone(), found);
        }
    }

    fn add(&self, name: &str, secret: &str, key: &str, text: Vec<u8>, found: &mut Found) {
        let is_configured = self.configured.contains(name);
        let taken = if is_taken(name) {
            "a source that is no cluster's"
        } else if is_configured {
            "the configured one"
        } else if found.clusters.contains_key(name) {
            "the first Secret by name"
        } else {
            let spec = ClusterSpec {
                name: name.into(),
                connection: Connection::Document {
                    origin: format!("Secret {}/{secret}, key {key}", self.namespace).into(),
                    text: Arc::new(Zeroizing::new(text)),
                },
                namespaces: self.namespaces.clone(),
                selection: Arc::clone(&self.selection),
            };
            found.clusters.insert(Arc::clone(&spec.name), spec);
            return;
        };
        let why = format!("{name} of Secret {}/{secret}: {taken} has this name", self.namespace);
        found.leave_out(why, is_configured);
    }
}

impl Found {
    fn leave_out(&mut self, why: String, is_observed: bool) {
        if !is_observed {
            self.missed.push(why.clone());
        }
        self.left_out.insert(why);
    }
}

impl Progress {
    /// Where any is missed, it does not look healthy.
    fn succeed(&self, clusters: u64, missed: &[String]) {
        let now = self.clock.now();
        self.registry.record(&self.source, |health| {
            health.objects = clusters;
            health.listed = true;
            health.overflowed = !missed.is_empty();
            health.succeed(now);
            if health.overflowed {
                let message = format!("not all clusters are observed: {}", missed.join("; "));
                health.fail(&SourceError { reason: SourceErrorReason::TooLarge, message });
            }
        });
    }

    fn fail(&self, error: &SourceError) {
        let mut is_news = false;
        self.registry.record(&self.source, |health| {
            is_news = health.message.as_ref() != Some(&error.message);
            health.fail(error);
        });
        if is_news {
            let reason = error.reason.as_str();
            warn!(source = %self.source.name, reason, %error, "no cluster in a Secret is added or removed");
        }
    }
}

/// Wakes whoever waits for other clusters than before.
pub(super) fn hand_over(found: &watch::Sender<Vec<ClusterSpec>>, clusters: Vec<ClusterSpec>) {
    found.send_if_modified(|known| {
        let changed = *known != clusters;
        *known = clusters;
        changed
    });
}
