//! The configuration file: what may stand in it, its defaults, and what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_saphyr::UserMessageFormatter;

use crate::mesh::Naming;
use crate::name::{LABEL, is_label, is_subdomain, is_taken};
use crate::rollout::Reach;
use crate::secret::SecretRule;

pub use duration::Duration;
pub use policy::PolicyConfig;
pub use tls::TlsConfig;
pub use webhook::{MeshesFromConfig, WebhookConfig};

mod duration;
mod policy;
mod tls;
mod webhook;

/// `meshcert.yaml`. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Control plane clusters. Empty: the current kubeconfig context, or the cluster this process runs in.
    pub clusters: Vec<ClusterConfig>,
    /// Further clusters from labelled Secrets; they come and go while meshcert runs.
    pub cluster_secrets: Option<ClusterSecretsConfig>,
    /// Name templates of a mesh's Secrets.
    pub naming: NamingConfig,
    /// Rules for other certificate Secrets, exported under x509-certificate-exporter's names; the first that matches counts.
    pub secret_rules: Vec<SecretRuleConfig>,
    /// When a certificate counts as expiring, and what is done about it.
    pub policy: PolicyConfig,
    /// TLS of the main address; absent: HTTP.
    pub tls: Option<TlsConfig>,
    /// Who may ask for renewals over HTTP; absent: nobody.
    pub webhook: Option<WebhookConfig>,
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
    /// A kubeconfig for each role, with the rights of that role alone; a role that has none here takes `kubeconfig`.
    #[serde(default)]
    pub kubeconfigs: Option<KubeconfigsConfig>,
    /// Namespaces in which hosted meshes live; `["*"]` watches all, which needs a ClusterRole.
    #[serde(default = "default_namespaces")]
    pub namespaces: Vec<String>,
    /// How the role `act` reaches the pods whose certificates it looks at: `direct` by their addresses, `portForward` through the API server, `auto` directly with the
    /// service account of a pod of this cluster and else by port-forward.
    #[serde(default)]
    pub reach: Reach,
}

/// Paths of kubeconfig files; a process reads those of its own roles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubeconfigsConfig {
    /// Lists and watches Secrets.
    pub observe: Option<PathBuf>,
    /// Creates and reads renewals.
    pub webhook: Option<PathBuf>,
    /// Renews and restarts; also watches in a process without the role `observe`.
    pub act: Option<PathBuf>,
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

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration cannot be read")]
    Read(#[source] std::io::Error),
    /// It is not what the schema says.
    #[error("{path}: {message}")]
    Invalid {
        /// Path within the document, such as `clusters[0].name`.
        path: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}

pub(crate) fn default_namespaces() -> Vec<String> {
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

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, is no YAML of the schema, or holds values that cannot work.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(ConfigError::Read)?;
        Self::parse(&text)
    }

    /// Reads and checks a configuration text. One without content is refused: a disk that is full, or a copy under way, leaves such a file, and it would
    /// replace all that is configured by the defaults.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        // By way of a JSON value, so that an error can name its path within the document.
        let document: serde_json::Value = serde_saphyr::from_str(text)
            .map_err(|error| invalid("the document", error.render_with_formatter(&UserMessageFormatter)))?;
        if document.is_null() {
            return Err(invalid("the document", "is empty; write `{}` if the defaults are meant".to_owned()));
        }
        let config: Self = serde_path_to_error::deserialize(document)
            .map_err(|error| invalid(&error.path().to_string(), error.inner().to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The JSON schema of the file.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }

    /// The templates as the core takes them.
    ///
    /// # Errors
    /// A template that cannot work.
    pub fn naming(&self) -> Result<Naming, ConfigError> {
        let NamingConfig { kube_certs, etcd_certs, admin_kubeconfig } = &self.naming;
        Naming::new([kube_certs, etcd_certs, admin_kubeconfig]).map_err(|error| invalid("naming", error.to_string()))
    }

    /// The rules as the core takes them.
    ///
    /// # Errors
    /// A regular expression that does not compile.
    pub fn rules(&self) -> Result<Vec<SecretRule>, ConfigError> {
        self.secret_rules.iter().enumerate().map(|(index, rule)| rule.compile(index)).collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Self { clusters, cluster_secrets, naming: _, secret_rules: _, policy, tls, webhook } = self;
        let mut twins = BTreeMap::new();
        for (index, cluster) in clusters.iter().enumerate() {
            let path = format!("clusters[{index}]");
            check_name(&format!("{path}.name"), &cluster.name)?;
            if is_taken(&cluster.name) {
                let message = format!("{:?} is the name of a source that is no cluster's; take another", cluster.name);
                return Err(invalid(&format!("{path}.name"), message));
            }
            if let Some(twin) = twins.insert(&cluster.name, index) {
                let message = format!("{:?} is the name of clusters[{twin}] already; give each its own", cluster.name);
                return Err(invalid(&format!("{path}.name"), message));
            }
            let outside = cluster.kubeconfig.is_some() || cluster.context.is_some() || cluster.kubeconfigs.is_some();
            if cluster.in_cluster && outside {
                let message = "inCluster excludes kubeconfig, kubeconfigs and context; keep one of them";
                return Err(invalid(&path, message.to_owned()));
            }
            check_namespaces(&format!("{path}.namespaces"), &cluster.namespaces)?;
        }
        if let Some(secrets) = cluster_secrets {
            check_namespace("clusterSecrets.namespace", &secrets.namespace)?;
            check_namespaces("clusterSecrets.namespaces", &secrets.namespaces)?;
        }
        policy.compile()?;
        if let Some(webhook) = webhook {
            webhook.check(tls.as_ref())?;
        }
        self.naming()?;
        self.rules()?;
        Ok(())
    }
}

impl SecretRuleConfig {
    fn compile(&self, index: usize) -> Result<SecretRule, ConfigError> {
        let path = |field: &str| format!("secretRules[{index}].{field}");
        let whole = |field: &str, pattern: &str| {
            // Alone first: what closes the group around it would no longer be about the whole.
            Regex::new(pattern)
                .and_then(|_| Regex::new(&format!("^(?:{pattern})$")))
                .map_err(|error| invalid(&path(field), format!("{pattern:?} is no regular expression: {error}")))
        };
        for (place, namespace) in self.namespaces.iter().enumerate() {
            check_namespace(&path(&format!("namespaces[{place}]")), namespace)?;
        }
        if self.secret_type.as_deref() == Some("") {
            let message = "no Secret has an empty type; leave it out for every one";
            return Err(invalid(&path("type"), message.to_owned()));
        }
        for (key, value) in &self.match_labels {
            check_label(&path("matchLabels"), key, value)?;
        }
        Ok(SecretRule {
            secret_type: self.secret_type.clone(),
            namespaces: self.namespaces.clone(),
            match_labels: self.match_labels.clone(),
            name: self.name.as_deref().map(|name| whole("name", name)).transpose()?,
            key: whole("key", &self.key)?,
        })
    }
}

/// What stands for all namespaces, alone.
pub const ALL: &str = "*";

/// The namespaces as the core takes them: `None` for all.
pub fn namespaces(names: &[String]) -> Option<Vec<String>> {
    (names != [ALL]).then(|| names.to_vec())
}

const NAME: &str = "1 to 63 letters, digits, '-', '_' or '.', and begin and end with a letter or digit";

fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    name.len() <= 63 && name.chars().all(inner) && name.starts_with(edge) && name.ends_with(edge)
}

fn check_name(path: &str, name: &str) -> Result<(), ConfigError> {
    if is_name(name) { Ok(()) } else { Err(invalid(path, format!("{name:?} must be {NAME}"))) }
}

/// What Kubernetes takes as a label (`k8s.io/apimachinery/pkg/util/validation`).
fn check_label(path: &str, key: &str, value: &str) -> Result<(), ConfigError> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_name(name) || !prefix.is_none_or(is_subdomain) {
        return Err(invalid(path, format!("{key:?} is no label: behind a domain and '/', if any, it must be {NAME}")));
    }
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(invalid(path, format!("{value:?} is no label's value: it must be empty, or {NAME}")))
}

fn check_namespaces(path: &str, names: &[String]) -> Result<(), ConfigError> {
    let message = if names.is_empty() {
        "name at least one namespace, or [\"*\"] for all"
    } else if names == [ALL] {
        return Ok(());
    } else if names.iter().any(|name| name == ALL) {
        "\"*\" means all namespaces and stands alone"
    } else {
        return names.iter().enumerate().try_for_each(|(i, name)| check_namespace(&format!("{path}[{i}]"), name));
    };
    Err(invalid(path, message.to_owned()))
}

fn check_namespace(path: &str, name: &str) -> Result<(), ConfigError> {
    if is_label(name) { Ok(()) } else { Err(invalid(path, format!("{name:?} must be a namespace's name: {LABEL}"))) }
}

fn invalid(path: &str, message: String) -> ConfigError {
    let path = if path == "." { "the document" } else { path };
    ConfigError::Invalid { path: path.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::DAY;

    fn error_of(text: &str) -> String {
        Config::parse(text).expect_err("the text is invalid").to_string()
    }

    #[test]
    fn the_defaults_are_asked_for_by_an_empty_object_and_never_by_an_empty_file() {
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
        for text in ["", " \n", "# nothing\n", "---\n", "null"] {
            assert_eq!(error_of(text), "the document: is empty; write `{}` if the defaults are meant");
        }
        assert_eq!(Config::default().policy.renew_before, Duration(30 * DAY));
    }

    #[test]
    fn everything_can_be_said_and_written_back() {
        let text = "
clusters:
  - {name: cp-1, inCluster: true, namespaces: [istio-system]}
  - {name: cp-2, kubeconfig: /etc/meshcert/cp-2.yaml, context: admin, namespaces: ['*'], reach: portForward}
clusterSecrets: {namespace: meshcert, istioRemoteSecrets: true}
naming: {kubeCerts: 'x-{mesh}-kube'}
secretRules:
  - {type: kubernetes.io/tls, matchLabels: {app: web, 'example.com/x_y': ''}, name: 'web-.*', key: 'tls\\.crt|ca\\.crt'}
policy: {renewBefore: 45d}
";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.clusters[1].namespaces, ["*"]);
        assert_eq!(namespaces(&config.clusters[1].namespaces), None);
        assert_eq!((config.clusters[0].reach, config.clusters[1].reach), (Reach::Auto, Reach::PortForward));
        assert_eq!(config.policy.renew_before, Duration(45 * DAY));
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(Config::parse(&written).unwrap(), config);
    }

    #[test]
    fn an_error_names_the_path_and_what_is_allowed() {
        for (text, path, remedy) in [
            ("polcy: {}", "polcy", "expected one of `clusters`"),
            ("clusters: [{name: a, kubecfg: b}]", "clusters[0].kubecfg", "`kubeconfig`"),
            ("clusters: [{name: a, reach: far}]", "clusters[0].reach", "`portForward`"),
            ("clusters: [{name: ''}]", "clusters[0].name", "1 to 63 letters"),
            ("clusters: [{name: clusterSecrets}]", "clusters[0].name", "take another"),
            ("clusters: [{name: a}, {name: a}]", "clusters[1].name", "clusters[0] already"),
            ("clusters: [{name: a, inCluster: true, context: b}]", "clusters[0]", "keep one"),
            ("clusters: [{name: a, namespaces: []}]", "clusters[0].namespaces", "[\"*\"] for all"),
            ("clusters: [{name: a, namespaces: ['*', b]}]", "clusters[0].namespaces", "stands alone"),
            ("clusters: [{name: a, namespaces: [a, Istio_System]}]", "clusters[0].namespaces[1]", "small letters"),
            ("clusters: [{name: a, namespaces: [a/b]}]", "clusters[0].namespaces[0]", "\"a/b\" must be"),
            ("clusters: [{name: a, namespaces: [../x]}]", "clusters[0].namespaces[0]", "\"../x\" must be"),
            ("clusters: [{name: a, namespaces: [é]}]", "clusters[0].namespaces[0]", "\"é\" must be"),
            ("clusterSecrets: {namespace: ''}", "clusterSecrets.namespace", "1 to 63 small letters"),
            ("clusterSecrets: {namespace: '*'}", "clusterSecrets.namespace", "\"*\" must be"),
            ("clusterSecrets: {namespace: a, namespaces: [B]}", "clusterSecrets.namespaces[0]", "\"B\" must be"),
            ("policy: {renewBefore: soon}", "policy.renewBefore", "30d"),
            ("policy: {renewBefore: 0s}", "policy.renewBefore", "longer than 0s"),
            ("naming: {kubeCerts: certs}", "naming", "{mesh} exactly once"),
            ("secretRules: [{key: '('}]", "secretRules[0].key", "no regular expression"),
            ("secretRules: [{key: 'a)|(b'}]", "secretRules[0].key", "no regular expression"),
            ("secretRules: [{type: ''}]", "secretRules[0].type", "leave it out"),
            ("secretRules: [{namespaces: ['*']}]", "secretRules[0].namespaces[0]", "\"*\" must be"),
            ("secretRules: [{matchLabels: {'bad key!': x}}]", "secretRules[0].matchLabels", "\"bad key!\" is no label"),
            ("secretRules: [{matchLabels: {'A.b/c': x}}]", "secretRules[0].matchLabels", "\"A.b/c\" is no label"),
            ("secretRules: [{matchLabels: {a: 'b c'}}]", "secretRules[0].matchLabels", "\"b c\" is no label's value"),
            ("webhook: {}", "webhook", "clientCertificates"),
            ("webhook: {clientCertificates: []}", "webhook.clientCertificates", "clientCaFile"),
            ("webhook: {bearerTokenFile: t, tls: {certFile: c, keyFile: k}}", "webhook.tls", "webhook.listen"),
            ("webhook: {bearerTokenFile: t, listen: here}", "webhook.listen", "socket address"),
            ("tls: {certFile: c}", "tls", "keyFile"),
            ("clusters: [{name: a, inCluster: true, kubeconfigs: {act: k}}]", "clusters[0]", "keep one"),
            ("webhook: {bearerTokenFile: t, meshesFrom: {url: 'https://a:1'}}", "webhook.meshesFrom.caFile", "https"),
            ("webhook: {bearerTokenFile: t, meshesFrom: {url: 'ftp://a'}}", "webhook.meshesFrom.url", "https://"),
            ("webhook: {bearerTokenFile: t, meshesFrom: {url: 'http://a/b'}}", "webhook.meshesFrom.url", "a host"),
            ("webhook: {bearerTokenFile: t, meshesFrom: {url: 'http://u:p@a'}}", "webhook.meshesFrom.url", "a host"),
            (
                "webhook: {bearerTokenFile: t, meshesFrom: {url: 'http://a', keyFile: k}}",
                "webhook.meshesFrom",
                "belong together",
            ),
            ("a: [", "the document", ""),
        ] {
            let error = error_of(text);
            assert!(error.starts_with(path), "{text}: {error}");
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }

    #[test]
    fn an_error_speaks_to_whoever_wrote_the_file() {
        for (text, words) in [
            ("policy: {}\npolicy: {}", "policy"),
            ("policy: {}\n---\npolicy: {}", "document"),
            ("a: *b", "unknown value"),
        ] {
            let error = error_of(text);
            assert!(error.contains(words), "{error}");
            for ours in ["Options", "from_str", "_multiple", "Policy"] {
                assert!(!error.contains(ours), "{error}");
            }
        }
    }

    #[test]
    fn the_schema_accepts_what_is_accepted_and_refuses_unknown_fields() {
        let schema = serde_json::to_value(Config::schema()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(validator.is_valid(&serde_json::to_value(Config::default()).unwrap()));
        assert!(!validator.is_valid(&serde_json::json!({ "polcy": {} })));
        assert!(!validator.is_valid(&serde_json::json!({ "policy": { "renewBefore": "soon" } })));
    }
}
