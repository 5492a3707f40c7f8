//! Secrets with their keys: reading a mesh's, writing what a renewal writes, and the copies beside them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::jobs::of_renewal;
use crate::cluster::renewals::{MESH, label_value};
use crate::job::RENEWAL_UID;
use crate::material::{Material, MeshSecrets, StoredSecret};
use crate::name::Encoded;
use crate::secret::{PAUSED, pauses};

/// Type of backup Secrets.
pub const BACKUP: &str = "meshcert.dev/backup";
/// Type of staged Secrets.
pub const STAGED: &str = "meshcert.dev/staged";

/// A backup or staged copy, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its name.
    pub name: String,
    /// The mesh's id, cut to a label's length.
    pub mesh: String,
    /// `metadata.uid` of the renewal that made it.
    pub renewal_uid: String,
    /// When it was created, RFC 3339.
    pub created: String,
}

#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, Zeroizing<String>>,
    #[serde(default)]
    immutable: bool,
    #[serde(default, rename = "type")]
    kind: String,
}

/// What is read of a copy where its content does not matter.
#[derive(Deserialize)]
struct Described {
    metadata: Description,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    creation_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl From<Secret> for StoredSecret {
    fn from(Secret { metadata, data, immutable, .. }: Secret) -> Self {
        Self {
            paused: metadata.annotations.get(PAUSED).is_some_and(|value| pauses(value)),
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            immutable,
            material: decoded(data),
        }
    }
}

/// Whether a copy can still be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// By nobody.
    Closed,
    /// By the Job that makes the new material.
    Open,
}

#[derive(Serialize)]
struct Data<'a>(BTreeMap<&'a str, Zeroizing<String>>);

/// The type of a Secret, and nothing else of it.
#[derive(Default, Deserialize)]
struct Kind {
    #[serde(rename = "type", default)]
    kind: String,
}

fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets")
}

fn path(namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(namespace))
}

fn encoded(material: &Material) -> Data<'_> {
    Data(material.entries().map(|(key, bytes)| (key, Zeroizing::new(STANDARD.encode(bytes)))).collect())
}

fn decoded(data: BTreeMap<String, Zeroizing<String>>) -> Material {
    // What is no base64 cannot come from an API server; it counts as empty.
    data.into_iter()
        .map(|(key, text)| (key, Zeroizing::new(STANDARD.decode(text.as_bytes()).unwrap_or_default())))
        .collect()
}

impl Api {
    /// A live Secret with its content.
    ///
    /// # Errors
    /// The request failed.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<StoredSecret>, ApiError> {
        let secret: Option<Secret> = self.get(&path(namespace, name)).await?;
        Ok(secret.map(StoredSecret::from))
    }

    /// A mesh's live Secrets, by their names.
    ///
    /// # Errors
    /// A request failed.
    pub async fn mesh_secrets(&self, namespace: &str, names: &[Box<str>; 3]) -> Result<MeshSecrets, ApiError> {
        let mut secrets = MeshSecrets::default();
        for (secret, name) in secrets.iter_mut().zip(names) {
            *secret = self.secret(namespace, name).await?;
        }
        Ok(secrets)
    }

    /// All backups and staged copies of a renewal, by type and name.
    ///
    /// # Errors
    /// The request failed.
    pub async fn copies_of(
        &self,
        namespace: &str,
        renewal_uid: &str,
    ) -> Result<BTreeMap<(String, String), StoredSecret>, ApiError> {
        let path = format!("{}?{}", collection(namespace), of_renewal(renewal_uid));
        let copies: Vec<Secret> = self.list(&path).await?;
        Ok(copies
            .into_iter()
            .map(|copy| ((copy.kind.clone(), copy.metadata.name.clone()), StoredSecret::from(copy)))
            .collect())
    }

    /// Copies of a type in a namespace.
    ///
    /// # Errors
    /// The request failed.
    pub async fn copies(&self, namespace: &str, kind: &str) -> Result<Vec<Copy>, ApiError> {
        let selector = format!("type={kind}");
        let path = format!("{}?fieldSelector={}", collection(namespace), Encoded(&selector));
        let copies: Vec<Described> = self.list_metadata(&path).await?;
        let copy = |Described { metadata: Description { name, mut labels, creation_timestamp } }| Copy {
            name,
            mesh: labels.remove(MESH).unwrap_or_default(),
            renewal_uid: labels.remove(RENEWAL_UID).unwrap_or_default(),
            created: creation_timestamp,
        };
        Ok(copies.into_iter().map(copy).collect())
    }

    /// Creates a copy that nobody owns: garbage collection must take neither the new keys nor the way back.
    ///
    /// # Errors
    /// The request failed.
    pub async fn create_copy(
        &self,
        namespace: &str,
        name: &str,
        (kind, seal): (&str, Seal),
        (mesh, renewal_uid): (&str, &str),
        material: &Material,
    ) -> Result<(), ApiError> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind, "immutable": seal == Seal::Closed,
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": { MESH: label_value(mesh), RENEWAL_UID: renewal_uid },
            },
        });
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            secret: &'a serde_json::Value,
            data: Data<'a>,
        }
        let whole = Whole { secret: &secret, data: encoded(material) };
        match self.create(&collection(namespace), &whole).await {
            // One that was made a moment ago is seen by the next look; any other Secret of the name is in the way until somebody removes it.
            Err(error) if error.kind == ErrorKind::Conflict => {
                let stored = self.get::<Kind>(&path(namespace, name)).await?.unwrap_or_default();
                let message = format!("a Secret {name} exists and is no copy of type {kind}; delete it");
                let is_other = !stored.kind.is_empty() && stored.kind != kind;
                Err(if is_other { ApiError { kind: ErrorKind::Invalid, message } } else { error })
            }
            other => other.map(drop),
        }
    }

    /// Writes entries of a live Secret, on the version that was read.
    ///
    /// # Errors
    /// The request failed; a conflict where it has changed.
    pub async fn write_entries(
        &self,
        namespace: &str,
        name: &str,
        resource_version: &str,
        material: &Material,
    ) -> Result<(), ApiError> {
        self.write(namespace, name, resource_version, material, Seal::Open).await
    }

    /// Tries whether a live Secret could be written.
    ///
    /// # Errors
    /// It could not, or the request failed.
    pub async fn try_secret(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        self.try_merge(&path(namespace, name), &json!({})).await
    }

    /// Writes entries of a copy, on the version that was read, and closes it for good.
    ///
    /// # Errors
    /// As [`Api::write_entries`].
    pub async fn seal(
        &self,
        namespace: &str,
        name: &str,
        resource_version: &str,
        material: &Material,
    ) -> Result<(), ApiError> {
        self.write(namespace, name, resource_version, material, Seal::Closed).await
    }

    async fn write(
        &self,
        namespace: &str,
        name: &str,
        resource_version: &str,
        material: &Material,
        seal: Seal,
    ) -> Result<(), ApiError> {
        #[derive(Serialize)]
        struct Patch<'a> {
            metadata: serde_json::Value,
            data: Data<'a>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            immutable: bool,
        }
        let metadata = json!({ "resourceVersion": resource_version });
        let patch = Patch { metadata, data: encoded(material), immutable: seal == Seal::Closed };
        self.merge(&path(namespace, name), &patch).await
    }

    /// Deletes a copy; a Secret of another type is never touched.
    ///
    /// # Errors
    /// The request failed.
    pub async fn delete_copy(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let secret: Option<Secret> = self.get(&path(namespace, name)).await?;
        match secret.filter(|secret| secret.kind == STAGED || secret.kind == BACKUP) {
            Some(secret) => self.delete(&path(namespace, name), Some(&secret.metadata.uid)).await,
            None => Ok(()),
        }
    }
}
