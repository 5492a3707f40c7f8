//! `tls`: what a listener shows, and which clients it knows.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Files of a listener, PEM; read again when they change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate, followed by the CAs between it and what clients trust.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// CAs of clients. With it `/metrics`, the page and the API are for clients with a certificate of these CAs; the health endpoints are for everybody.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}
