//! The Secrets that are read: their identity, which of them count, and what was found in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use zeroize::Zeroizing;

use crate::cert::{Entry, parse};
use crate::mesh::{MeshId, Naming, SecretRole};

/// Namespace and name of a Secret within its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The annotation that keeps meshcert's hands off a mesh, on any of its Secrets or on a renewal.
pub const PAUSED: &str = "meshcert.dev/paused";

/// Whether the annotation with this value keeps hands off: anything but a clear no does.
pub fn pauses(value: &str) -> bool {
    value != "false"
}

/// Whether an entry holds a private key by its key: it is never read.
pub fn is_private_key(key: &str) -> bool {
    key.ends_with(".key")
}

/// Whether an entry of a mesh's Secret with this role is read.
pub fn reads_of_mesh(role: SecretRole, key: &str) -> bool {
    match role {
        SecretRole::AdminKubeconfig => !is_private_key(key),
        SecretRole::KubeCerts | SecretRole::EtcdCerts => key.ends_with(".crt"),
    }
}

/// Whether a key promises a certificate by its name: under another one a Secret may hold what it likes. `privkey.pem` and `server-key.pem` promise a private one.
pub fn promises_certificate(key: &str) -> bool {
    let ends_in = |ends: &[&str]| ends.iter().any(|end| key.ends_with(end));
    ends_in(&[".crt", ".cert", ".cer", ".pem", ".der", "config"]) && !ends_in(&["key.pem", "key.der"])
}

/// Whether an entry's key promises a certificate that the entry does not hold, without anything in it that says why. A kubeconfig needs none.
pub fn owes_certificate(key: &str, entry: &Entry) -> bool {
    let Entry { certificates, problems, kubeconfig } = entry;
    promises_certificate(key) && certificates.is_empty() && problems.is_empty() && kubeconfig.is_none()
}

/// A Secret's metadata, as far as it decides whether the Secret is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretMeta {
    /// Namespace and name.
    pub reference: SecretRef,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub resource_version: Box<str>,
    /// `type`, such as `kubernetes.io/tls`.
    pub secret_type: Box<str>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether [`PAUSED`] keeps hands off.
    pub paused: bool,
}

/// A Secret with the bytes of the entries that are wanted; wiped when dropped, for a kubeconfig embeds a private key.
pub struct RawSecret {
    /// Its metadata.
    pub meta: SecretMeta,
    /// Why it is read.
    pub class: Class,
    /// The wanted entries.
    pub entries: Vec<RawEntry>,
}

/// Key and bytes of an entry, or why its base64 could not be decoded.
pub type RawEntry = (Box<str>, Result<Zeroizing<Vec<u8>>, parse::TooLargeOrInvalid>);

/// What a Secret is read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// One of a hosted mesh's three Secrets.
    Mesh(MeshId, SecretRole),
    /// Another certificate Secret, by the rule with this index.
    Other(usize),
}

/// What was found in a Secret; has no place for a private key. Labels are dropped: they only select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFacts {
    /// Namespace and name.
    pub reference: SecretRef,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub resource_version: Box<str>,
    /// Whether remediation is paused on this Secret.
    pub paused: bool,
    /// Why it is read.
    pub class: Class,
    /// The entries read, sorted by key.
    pub entries: Box<[SecretEntry]>,
}

impl SecretFacts {
    /// Number of certificates in its entries.
    pub fn certificates(&self) -> usize {
        self.entries.iter().map(|entry| entry.entry.certificates.len()).sum()
    }
}

/// One entry of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEntry {
    /// Key in `data`.
    pub key: Box<str>,
    /// Digest of the bytes: an entry whose bytes are unchanged is not parsed again.
    pub digest: [u8; 32],
    /// What they hold.
    pub entry: Arc<Entry>,
}

/// A rule for other certificate Secrets; everything that is given must match.
#[derive(Clone, Debug)]
pub struct SecretRule {
    /// `type` must equal this.
    pub secret_type: Option<String>,
    /// Namespaces; empty means every watched one.
    pub namespaces: Vec<String>,
    /// Labels that must be present with these values.
    pub match_labels: BTreeMap<String, String>,
    /// The Secret's whole name must match.
    pub name: Option<Regex>,
    /// The whole key must match.
    pub key: Regex,
}

/// Decides which Secrets and entries are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Namespaces where hosted meshes live; `None` means every one.
    pub mesh_namespaces: Option<Vec<String>>,
    /// Name templates of a mesh's Secrets.
    pub naming: Naming,
    /// Rules for other Secrets, first match wins.
    pub rules: Vec<SecretRule>,
}

/// Why a Secret is not read, in words for `explain`.
pub type NotRead = String;

impl Selection {
    /// What a Secret is read as, or why it is not.
    ///
    /// # Errors
    /// A sentence that says which condition it fails.
    pub fn classify(&self, meta: &SecretMeta) -> Result<Class, NotRead> {
        let in_mesh_namespace =
            self.mesh_namespaces.as_ref().is_none_or(|all| all.iter().any(|n| **n == *meta.reference.namespace));
        let mesh = self.naming.classify(&meta.reference.name);
        if let Some((id, role)) = &mesh
            && in_mesh_namespace
        {
            return Ok(Class::Mesh(id.clone(), *role));
        }
        if let Some(index) = self.rules.iter().position(|rule| rule.matches(meta)) {
            return Ok(Class::Other(index));
        }
        Err(match mesh {
            Some(_) => format!(
                "its name is that of a hosted mesh's Secret, but namespace {} is not among the cluster's namespaces",
                meta.reference.namespace
            ),
            None => format!(
                "its name matches no mesh Secret template and none of the {} secretRules matches its type, namespace, labels and name",
                self.rules.len()
            ),
        })
    }

    /// Whether an entry of a Secret of this class is read.
    pub fn reads_key(&self, class: &Class, key: &str) -> bool {
        match class {
            Class::Mesh(_, role) => reads_of_mesh(*role, key),
            Class::Other(index) => {
                !is_private_key(key) && self.rules.get(*index).is_some_and(|rule| rule.key.is_match(key))
            }
        }
    }

    /// What has to be kept of a certificate of this class.
    pub fn retain(class: &Class) -> parse::Retain {
        match class {
            Class::Mesh(..) => parse::Retain::Der,
            Class::Other(_) => parse::Retain::Facts,
        }
    }
}

/// Regular expressions are equal when their texts are.
impl PartialEq for SecretRule {
    fn eq(&self, other: &Self) -> bool {
        let Self { secret_type, namespaces, match_labels, name, key } = self;
        (secret_type, namespaces, match_labels) == (&other.secret_type, &other.namespaces, &other.match_labels)
            && name.as_ref().map(Regex::as_str) == other.name.as_ref().map(Regex::as_str)
            && key.as_str() == other.key.as_str()
    }
}

impl SecretRule {
    fn matches(&self, meta: &SecretMeta) -> bool {
        self.secret_type.as_ref().is_none_or(|wanted| **wanted == *meta.secret_type)
            && (self.namespaces.is_empty() || self.namespaces.iter().any(|n| **n == *meta.reference.namespace))
            && self.match_labels.iter().all(|(key, value)| meta.labels.get(key) == Some(value))
            && self.name.as_ref().is_none_or(|name| name.is_match(&meta.reference.name))
    }
}
