//! `webhook`: who may ask for renewals, and how alerts name their mesh.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, invalid};

/// Who may ask for renewals over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookConfig {
    /// File with a bearer token; read again when it changes.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// User and password.
    #[serde(default)]
    pub basic_auth: Option<BasicAuthConfig>,
    /// Alerts that may ask; any other is ignored.
    #[serde(default = "default_alert_names")]
    pub alert_names: Vec<String>,
    /// The labels by which an alert names its mesh.
    #[serde(default)]
    pub labels: LabelsConfig,
}

/// User and password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicAuthConfig {
    /// The user.
    pub username: String,
    /// File with the password; read again when it changes.
    pub password_file: PathBuf,
}

/// Names of labels; one that an alert lacks matches every mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelsConfig {
    /// The cluster.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// The mesh's id.
    pub mesh: String,
}

impl Default for LabelsConfig {
    fn default() -> Self {
        let [cluster, namespace, mesh] = ["mesh_cluster", "mesh_namespace", "mesh_id"].map(str::to_owned);
        Self { cluster, namespace, mesh }
    }
}

fn default_alert_names() -> Vec<String> {
    vec!["MspiderHostedKubeAPICertExpiration".to_owned()]
}

impl WebhookConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.bearer_token_file.is_none() && self.basic_auth.is_none() {
            let message = "name a bearerTokenFile or basicAuth: nobody may ask without a credential";
            return Err(invalid("webhook", message.to_owned()));
        }
        if self.alert_names.is_empty() {
            return Err(invalid("webhook.alertNames", "name at least one alert".to_owned()));
        }
        Ok(())
    }
}
