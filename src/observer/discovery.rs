//! Clusters that announce themselves by labelled Secrets, and come and go while meshcert runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client};
use tracing::warn;
use zeroize::Zeroizing;

use crate::cluster::connect::Connection;
use crate::observer::ClusterSpec;
use crate::ports::{SourceError, SourceErrorReason};
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
const DEADLINE: Duration = Duration::from_secs(30);

/// Where to look, and what the clusters found have in common.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// Namespace of the Secrets.
    pub namespace: String,
    /// Also take Istio's remote secrets.
    pub istio_remote_secrets: bool,
    /// Namespaces to watch in the clusters; `None` for all.
    pub namespaces: Option<Vec<String>>,
    /// Which of their Secrets are read.
    pub selection: Arc<Selection>,
}

impl Discovery {
    /// Looks again and again and hands over the clusters found; a look that fails changes nothing.
    pub async fn run(self, client: Client, mut found: impl FnMut(Vec<ClusterSpec>)) {
        loop {
            match self.look(&client).await {
                Ok(specs) => found(specs),
                Err(error) => warn!(%error, "no cluster is added or removed"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// The Secrets cannot be listed.
    pub async fn look(&self, client: &Client) -> Result<Vec<ClusterSpec>, SourceError> {
        let Self { namespace, .. } = self;
        let error = |reason, message| Err(SourceError { reason, message });
        match tokio::time::timeout(DEADLINE, self.list(&Api::namespaced(client.clone(), namespace))).await {
            Ok(Ok(specs)) => Ok(specs),
            Ok(Err(cause)) => error(
                SourceErrorReason::Unreachable,
                format!(
                    "cannot list the cluster Secrets in namespace {namespace}: {cause}; grant list on secrets there"
                ),
            ),
            Err(_) => error(
                SourceErrorReason::Timeout,
                format!("listing the cluster Secrets in namespace {namespace} took too long"),
            ),
        }
    }

    async fn list(&self, secrets: &Api<Secret>) -> kube::Result<Vec<ClusterSpec>> {
        let mut found = BTreeMap::new();
        for secret in secrets.list(&ListParams::default().labels(LABEL)).await? {
            self.take(&secret, &mut found);
        }
        if self.istio_remote_secrets {
            for secret in secrets.list(&ListParams::default().labels(ISTIO_LABEL)).await? {
                self.take_istio(&secret, &mut found);
            }
        }
        if found.len() > MOST_CLUSTERS {
            warn!(found = found.len(), most = MOST_CLUSTERS, "too many cluster Secrets; the last by name are left out");
        }
        Ok(found.into_values().take(MOST_CLUSTERS).collect())
    }

    fn take(&self, secret: &Secret, found: &mut BTreeMap<String, ClusterSpec>) {
        let secret_name = secret.metadata.name.clone().unwrap_or_default();
        let label =
            secret.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).filter(|name| !name.is_empty());
        // A Secret without the key still makes a cluster: one that is down and says why.
        let text = secret.data.as_ref().and_then(|data| data.get(KEY)).map(|bytes| bytes.0.clone()).unwrap_or_default();
        self.add(label.unwrap_or(&secret_name).clone(), &secret_name, KEY, text, found);
    }

    fn take_istio(&self, secret: &Secret, found: &mut BTreeMap<String, ClusterSpec>) {
        let secret_name = secret.metadata.name.clone().unwrap_or_default();
        for (key, bytes) in secret.data.iter().flatten() {
            self.add(key.clone(), &secret_name, key, bytes.0.clone(), found);
        }
    }

    fn add(&self, name: String, secret: &str, key: &str, text: Vec<u8>, found: &mut BTreeMap<String, ClusterSpec>) {
        if found.contains_key(&name) {
            warn!(cluster = %name, %secret, "two Secrets name the same cluster; the first by name counts");
            return;
        }
        let spec = ClusterSpec {
            name: name.as_str().into(),
            connection: Connection::Document {
                origin: format!("Secret {}/{secret}, key {key}", self.namespace).into(),
                text: Arc::new(Zeroizing::new(text)),
            },
            namespaces: self.namespaces.clone(),
            selection: Arc::clone(&self.selection),
        };
        found.insert(name, spec);
    }
}
