//! `CertificateRenewal` objects.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cluster::api::{Api, ApiError, ErrorKind, WHOLE};
use crate::renewal::{FINALIZER, GROUP, PLURAL, Renewal, Spec, Status, VERSION};
use crate::secret::{PAUSED, pauses};
use crate::time::UnixTime;

/// The label of what belongs to a mesh: its [`label_value`].
pub(super) const MESH: &str = "meshcert.dev/mesh";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    generation: i64,
    creation_timestamp: Option<UnixTime>,
    deletion_timestamp: Option<UnixTime>,
    finalizers: Vec<String>,
    annotations: std::collections::BTreeMap<String, String>,
}

impl From<Object> for Renewal {
    fn from(object: Object) -> Self {
        let Object { metadata, spec, status } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            created: metadata.creation_timestamp,
            deleting: metadata.deletion_timestamp.is_some(),
            finalizer: metadata.finalizers.iter().any(|one| one == FINALIZER),
            other_finalizers: metadata.finalizers.into_iter().filter(|one| one != FINALIZER).collect(),
            paused: metadata.annotations.get(PAUSED).is_some_and(|value| pauses(value)),
            spec,
            status,
        }
    }
}

/// A renewal that somebody wrote past the schema: it may be in the middle of its work, but nobody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Unreadable {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `metadata.uid`; empty where not even that can be read.
    pub uid: String,
    /// What is wrong.
    #[serde(skip)]
    pub why: String,
}

impl Unreadable {
    /// Whether this is the one that has taken or made something.
    pub fn may_own(&self, uid: &str) -> bool {
        self.uid.is_empty() || self.uid == uid
    }
}

/// Its name, and what is wrong with it.
impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.why)
    }
}

/// A renewal, or what there is to say of one that cannot be read.
pub(super) fn read(object: &RawValue) -> Result<Renewal, Unreadable> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Named {
        metadata: Unreadable,
    }
    serde_json::from_str::<Object>(object.get()).map(Into::into).map_err(|error| {
        let Named { metadata } = serde_json::from_str(object.get()).unwrap_or_default();
        Unreadable { why: error.to_string(), ..metadata }
    })
}

fn collection(namespace: &str) -> String {
    format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}")
}

fn path(namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(namespace))
}

impl Api {
    /// All renewals of a namespace that can be read, and those that cannot.
    ///
    /// # Errors
    /// The request failed; [`ErrorKind::NotFound`] where the cluster does not know the kind.
    pub async fn renewals(&self, namespace: &str) -> Result<(Vec<Renewal>, Vec<Unreadable>), ApiError> {
        let all = self.list_with(&collection(namespace), WHOLE, read).await?;
        let (mut readable, mut unreadable) = (Vec::with_capacity(all.len()), Vec::new());
        for one in all {
            match one {
                Ok(renewal) => readable.push(renewal),
                Err(why) => unreadable.push(why),
            }
        }
        Ok((readable, unreadable))
    }

    /// One renewal.
    ///
    /// # Errors
    /// The request failed, or what is stored cannot be read.
    pub async fn renewal(&self, namespace: &str, name: &str) -> Result<Option<Renewal>, ApiError> {
        let stored = self.get::<Box<RawValue>>(&path(namespace, name)).await?;
        stored.as_deref().map(read).transpose().map_err(|unreadable| {
            let message = format!("the renewal {namespace}/{unreadable}; correct the object, or delete it");
            ApiError { kind: ErrorKind::Unavailable, message }
        })
    }

    /// Asks for a renewal; `false` where an object of the name is there already.
    ///
    /// # Errors
    /// The request failed.
    pub async fn create_renewal(&self, namespace: &str, name: &str, spec: &Spec) -> Result<bool, ApiError> {
        let labels = json!({ MESH: label_value(&spec.mesh_id) });
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "CertificateRenewal",
            "metadata": { "name": name, "namespace": namespace, "labels": labels }, "spec": spec,
        });
        match self.create(&collection(namespace), &object).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the journal, on the version that was read.
    ///
    /// # Errors
    /// The request failed; [`ErrorKind::Conflict`] where it has changed.
    pub async fn write_status(&self, renewal: &Renewal, status: &Status) -> Result<(), ApiError> {
        let Renewal { name, namespace, resource_version, spec, .. } = renewal;
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "CertificateRenewal",
            "metadata": { "name": name, "namespace": namespace, "resourceVersion": resource_version },
            "spec": spec, "status": status,
        });
        self.replace(&format!("{}/status", path(namespace, name)), &object).await.map(drop)
    }

    /// Sets or removes the finalizer, on the version that was read.
    ///
    /// # Errors
    /// As [`Api::write_status`].
    pub async fn set_finalizer(&self, renewal: &Renewal, set: bool) -> Result<(), ApiError> {
        // A merge patch replaces the list: those of others stay in it.
        let own = set.then(|| FINALIZER.to_owned());
        let finalizers: Vec<String> = renewal.other_finalizers.iter().cloned().chain(own).collect();
        let patch = json!({ "metadata": { "resourceVersion": renewal.resource_version, "finalizers": finalizers } });
        self.merge(&path(&renewal.namespace, &renewal.name), &patch).await
    }

    /// Changes what is asked, or the annotations.
    ///
    /// # Errors
    /// As [`Api::write_status`].
    pub async fn change_renewal(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        self.merge(&path(namespace, name), patch).await
    }
}

impl Api {
    /// Keeps meshcert's hands off a mesh: the annotation on one of its Secrets.
    ///
    /// # Errors
    /// The request failed.
    pub async fn pause(&self, namespace: &str, secret: &str) -> Result<(), ApiError> {
        let patch = json!({ "metadata": { "annotations": { PAUSED: "true" } } });
        self.merge(&format!("/api/v1/namespaces/{namespace}/secrets/{secret}"), &patch).await
    }
}

/// A label's value has at most 63 characters; a longer mesh id is cut, for the label only helps to look for it.
pub fn label_value(mesh: &str) -> String {
    mesh.chars().take(63).collect::<String>().trim_end_matches('-').to_owned()
}
