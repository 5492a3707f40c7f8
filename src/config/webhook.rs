//! `webhook`: who may ask for renewals, and how alerts name their mesh.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, TlsConfig, invalid};

/// Who may ask for renewals over HTTP: whoever has one of the configured credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookConfig {
    /// An address of its own, such as `0.0.0.0:9795`; absent: the path `/webhook` of the main one.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// TLS of that address; absent: as the main one's.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// File with a bearer token; read again when it changes.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// User and password.
    #[serde(default)]
    pub basic_auth: Option<BasicAuthConfig>,
    /// Client certificates of the listener's `clientCaFile`, by a common name, DNS name, e-mail address or URI in them; empty: any of that CA.
    #[serde(default)]
    pub client_certificates: Option<Vec<String>>,
    /// Who tells a process with the role `webhook` alone which meshes there are.
    #[serde(default)]
    pub meshes_from: Option<MeshesFromConfig>,
    /// Alerts that may ask; any other is ignored.
    #[serde(default = "default_alert_names")]
    pub alert_names: Vec<String>,
    /// The labels by which an alert names its mesh.
    #[serde(default)]
    pub labels: LabelsConfig,
}

/// An observing process, whose API tells the meshes: so the webhook needs no right on Secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshesFromConfig {
    /// Its main address, such as `https://meshcert-observe.meshcert.svc:9794`.
    pub url: String,
    /// The CA of its certificate; https needs it.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate, where the observing process has a `clientCaFile`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// File with a bearer token, where a proxy in front of it wants one.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
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
    /// The files of the listener on which notifications come; `main`: those of the main one.
    pub fn tls<'a>(&'a self, main: Option<&'a TlsConfig>) -> Option<&'a TlsConfig> {
        self.tls.as_ref().or(main)
    }

    pub(super) fn check(&self, main: Option<&TlsConfig>) -> Result<(), ConfigError> {
        if self.bearer_token_file.is_none() && self.basic_auth.is_none() && self.client_certificates.is_none() {
            let message =
                "name a bearerTokenFile, basicAuth or clientCertificates: nobody may ask without a credential";
            return Err(invalid("webhook", message.to_owned()));
        }
        if self.tls.is_some() && self.listen.is_none() {
            let message = "needs webhook.listen; on the main address the tls of the document holds";
            return Err(invalid("webhook.tls", message.to_owned()));
        }
        let knows_clients = self.tls(main).is_some_and(|tls| tls.client_ca_file.is_some());
        if self.client_certificates.is_some() && !knows_clients {
            let message = "needs the clientCaFile of webhook.tls (with webhook.listen) or of tls";
            return Err(invalid("webhook.clientCertificates", message.to_owned()));
        }
        if let Some(from) = &self.meshes_from {
            from.check()?;
        }
        if self.alert_names.is_empty() {
            return Err(invalid("webhook.alertNames", "name at least one alert".to_owned()));
        }
        Ok(())
    }
}

impl MeshesFromConfig {
    /// The address, taken apart.
    ///
    /// # Errors
    /// It is no `http` or `https` address of a host.
    pub fn uri(&self) -> Result<Uri, ConfigError> {
        let refuse = || {
            // Not repeated: it may hold a password.
            let message = "write http:// or https://, a host, and perhaps a port; a token belongs in bearerTokenFile";
            invalid("webhook.meshesFrom.url", message.to_owned())
        };
        let uri: Uri = self.url.parse().map_err(|_| refuse())?;
        let fits = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
            && uri.path() == "/";
        if fits { Ok(uri) } else { Err(refuse()) }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.uri()?.scheme_str() == Some("https") && self.ca_file.is_none() {
            let message = "is needed with https: nobody is believed unverified";
            return Err(invalid("webhook.meshesFrom.caFile", message.to_owned()));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(invalid("webhook.meshesFrom", "certFile and keyFile belong together".to_owned()));
        }
        Ok(())
    }
}
