//! The configuration file: what may stand in it, its defaults, and what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::mesh::{InvalidNaming, Naming};
use crate::secret::SecretRule;
use crate::time::DAY;

/// `meshcert.yaml`. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
pub struct Config {
    /// Control plane clusters. Empty: the current kubeconfig context, or the cluster this process runs in.
    pub clusters: Vec<ClusterConfig>,
    /// Further clusters from labelled Secrets; they come and go while meshcert runs.
    pub cluster_secrets: Option<ClusterSecretsConfig>,
    /// Name templates of a mesh's Secrets.
    pub naming: NamingConfig,
    /// Rules for other certificate Secrets, exported under x509-certificate-exporter's names; the first that matches counts.
    pub secret_rules: Vec<SecretRuleConfig>,
    /// When a certificate counts as expiring.
    pub policy: PolicyConfig,
}

/// One control plane cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterConfig {
    /// The value of the label `mesh_cluster`.
    pub name: String,
    /// Use the service account of the pod.
    #[serde(default)]
    pub in_cluster: bool,
    /// Path of a kubeconfig file; absent and not `inCluster`: the current one (`KUBECONFIG`, `~/.kube/config`).
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; absent: its current one.
    #[serde(default)]
    pub context: Option<String>,
    /// Namespaces in which hosted meshes live; `["*"]` watches all, which needs a ClusterRole.
    #[serde(default = "default_namespaces")]
    pub namespaces: Vec<String>,
}

/// Clusters from Secrets in meshcert's own namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSecretsConfig {
    /// Namespace of the Secrets, in the first configured cluster.
    pub namespace: String,
    /// Also take Istio's remote secrets (`istio/multiCluster: "true"`), for observing only.
    #[serde(default)]
    pub istio_remote_secrets: bool,
    /// Namespaces in which the hosted meshes of these clusters live.
    #[serde(default = "default_namespaces")]
    pub namespaces: Vec<String>,
}

/// Name templates; each holds `{mesh}` once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NamingConfig {
    /// The kube PKI.
    pub kube_certs: String,
    /// The etcd PKI.
    pub etcd_certs: String,
    /// The admin kubeconfig.
    pub admin_kubeconfig: String,
}

/// A rule for other certificate Secrets; everything that is given must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRuleConfig {
    /// The Secret's `type`, such as `kubernetes.io/tls`.
    #[serde(rename = "type", default)]
    pub secret_type: Option<String>,
    /// Namespaces; empty: every watched one. A namespace named here is watched too.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Labels that must be there with these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Regular expression for the Secret's whole name.
    #[serde(default)]
    pub name: Option<String>,
    /// Regular expression for the whole key; keys that end in `.key` are never read.
    #[serde(default = "default_key")]
    pub key: String,
}

/// When certificates are due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// A certificate with less time left than this is expiring.
    pub renew_before: Duration,
}

/// A length of time in whole seconds, written as Prometheus does: `30d`, `1h30m`, `90s`; units y, w, d, h, m, s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what the schema says.
    #[error("{path}: {message}")]
    Invalid {
        /// Path within the document, such as `clusters[0].name`.
        path: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}

fn default_namespaces() -> Vec<String> {
    vec!["istio-system".to_owned()]
}

fn default_key() -> String {
    "tls\\.crt".to_owned()
}

impl Default for NamingConfig {
    fn default() -> Self {
        Self {
            kube_certs: "{mesh}-kube-certs".to_owned(),
            etcd_certs: "{mesh}-etcd-certs".to_owned(),
            admin_kubeconfig: "{mesh}-apiserver-admin-kubeconfig".to_owned(),
        }
    }
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { renew_before: Duration(30 * DAY) }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, is no YAML of the schema, or holds values that cannot work.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads and checks a configuration text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(_text: &str) -> Result<Self, ConfigError> {
        todo!()
    }

    /// The templates as the core takes them.
    ///
    /// # Errors
    /// A template that cannot work.
    pub fn naming(&self) -> Result<Naming, InvalidNaming> {
        let NamingConfig { kube_certs, etcd_certs, admin_kubeconfig } = &self.naming;
        Naming::new([kube_certs, etcd_certs, admin_kubeconfig])
    }

    /// The rules as the core takes them.
    ///
    /// # Errors
    /// A regular expression that does not compile.
    pub fn rules(&self) -> Result<Vec<SecretRule>, ConfigError> {
        todo!()
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        todo!()
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Self, D::Error> {
        todo!()
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^([0-9]+(y|w|d|h|m|s))+$" })
    }
}
