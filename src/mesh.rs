//! Hosted meshes: their ids, the names of their Secrets, and what their certificates add up to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::cert::{Certificate, Position, ProblemReason, Role};
use crate::secret::SecretFacts;
use crate::time::UnixTime;

mod assemble;

/// The id of a hosted mesh: `^[a-z]([-a-z0-9]*[a-z0-9])?$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId(Arc<str>);

/// A text that is no mesh id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no mesh id: lower-case letters, digits and hyphens, starting with a letter, not ending with a hyphen"
)]
pub struct InvalidMeshId(pub String);

impl FromStr for MeshId {
    type Err = InvalidMeshId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let starts = bytes.first().is_some_and(u8::is_ascii_lowercase);
        let ends = bytes.last().is_some_and(|b| *b != b'-');
        let all = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if starts && ends && all { Ok(Self(text.into())) } else { Err(InvalidMeshId(text.to_owned())) }
    }
}

impl MeshId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The three Secrets of a hosted mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretRole {
    /// `{mesh}-kube-certs`.
    KubeCerts,
    /// `{mesh}-etcd-certs`.
    EtcdCerts,
    /// `{mesh}-apiserver-admin-kubeconfig`.
    AdminKubeconfig,
}

impl SecretRole {
    /// All roles, in the order of a commit's reading.
    pub const ALL: [Self; 3] = [Self::KubeCerts, Self::EtcdCerts, Self::AdminKubeconfig];

    /// The label value of `secret_role`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KubeCerts => "kube-certs",
            Self::EtcdCerts => "etcd-certs",
            Self::AdminKubeconfig => "admin-kubeconfig",
        }
    }
}

/// Name templates of a mesh's Secrets; each holds `{mesh}` exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    templates: [(SecretRole, String, String); 3],
}

/// A name template that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNaming {
    /// No or several placeholders.
    #[error("the template {0:?} must hold {{mesh}} exactly once")]
    Placeholder(String),
    /// Nothing but the placeholder: every Secret would match.
    #[error("the template {0:?} must hold more than {{mesh}}, or every Secret would match it")]
    Bare(String),
    /// Two roles with one template.
    #[error("two Secrets of a mesh cannot have the same name template {0:?}")]
    Twice(String),
}

impl Default for Naming {
    fn default() -> Self {
        let suffix = |role, text: &str| (role, String::new(), text.to_owned());
        Self {
            templates: [
                suffix(SecretRole::KubeCerts, "-kube-certs"),
                suffix(SecretRole::EtcdCerts, "-etcd-certs"),
                suffix(SecretRole::AdminKubeconfig, "-apiserver-admin-kubeconfig"),
            ],
        }
    }
}

impl Naming {
    /// From the three templates, in the order of [`SecretRole::ALL`].
    ///
    /// # Errors
    /// A template without exactly one `{mesh}`, with nothing else, or used twice.
    pub fn new(templates: [&str; 3]) -> Result<Self, InvalidNaming> {
        let mut parts = Vec::with_capacity(3);
        for (role, template) in SecretRole::ALL.into_iter().zip(templates) {
            let Some((prefix, suffix)) = template.split_once("{mesh}").filter(|(_, rest)| !rest.contains("{mesh}"))
            else {
                return Err(InvalidNaming::Placeholder(template.to_owned()));
            };
            if prefix.is_empty() && suffix.is_empty() {
                return Err(InvalidNaming::Bare(template.to_owned()));
            }
            if parts.iter().any(|(_, p, s)| p == prefix && s == suffix) {
                return Err(InvalidNaming::Twice(template.to_owned()));
            }
            parts.push((role, prefix.to_owned(), suffix.to_owned()));
        }
        let templates: [_; 3] = parts.try_into().map_err(|_| InvalidNaming::Placeholder(String::new()))?;
        Ok(Self { templates })
    }

    /// The mesh and role that a Secret's name stands for. Where several templates match, the longest one counts.
    pub fn classify(&self, secret_name: &str) -> Option<(MeshId, SecretRole)> {
        self.templates
            .iter()
            .filter_map(|(role, prefix, suffix)| {
                let id = secret_name.strip_prefix(prefix.as_str())?.strip_suffix(suffix.as_str())?;
                Some((prefix.len() + suffix.len(), id.parse().ok()?, *role))
            })
            .max_by_key(|(length, ..)| *length)
            .map(|(_, id, role)| (id, role))
    }

    /// The names of a mesh's Secrets, indexed by [`SecretRole`].
    pub fn secret_names(&self, mesh: &MeshId) -> [Box<str>; 3] {
        SecretRole::ALL.map(|role| self.secret_name(mesh, role).into())
    }

    /// The name of a mesh's Secret.
    pub fn secret_name(&self, mesh: &MeshId, role: SecretRole) -> String {
        let (_, prefix, suffix) = &self.templates[role as usize];
        format!("{prefix}{mesh}{suffix}")
    }
}

/// Namespace and id of a mesh within its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshKey {
    /// Namespace of its Secrets.
    pub namespace: Arc<str>,
    /// Its id.
    pub id: MeshId,
}

/// A hosted mesh as its Secrets show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostedMesh {
    /// Which.
    pub key: MeshKey,
    /// Its Secrets, indexed by [`SecretRole`].
    pub secrets: [Option<Arc<SecretFacts>>; 3],
    /// The names its Secrets have or should have, indexed by [`SecretRole`].
    pub secret_names: [Box<str>; 3],
    /// Its certificates, by Secret, key and position.
    pub certificates: Vec<MeshCertificate>,
    /// What is wrong with it whatever the time; see [`HostedMesh::findings_at`] for all.
    pub findings: Vec<Finding>,
    /// The signal: the earliest moment at which a certificate that the hosted API needs stops working, the min over its leaves of min(leaf, the CAs above it).
    pub expiration: Option<UnixTime>,
}

/// One certificate of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshCertificate {
    /// The Secret.
    pub secret_role: SecretRole,
    /// Key in the Secret.
    pub key: Box<str>,
    /// Where in the entry.
    pub position: Position,
    /// Its facts.
    pub certificate: Certificate,
    /// What it is for.
    pub component: Component,
    /// Fingerprint of the CA above it whose key verifies its signature, if that CA is among the mesh's Secrets.
    pub signed_by: Option<crate::cert::CertFingerprint>,
    /// min(its `not_after`, those of the CAs above it).
    pub effective_not_after: UnixTime,
    /// False for a kubeconfig's entries outside the current context, and for what stands beside a kubeconfig: whatever is wrong with them harms nobody, and
    /// no renewal replaces them.
    pub in_use: bool,
}

impl MeshCertificate {
    /// Whether the hosted API fails when it ends: a leaf that is in use.
    pub fn needed(&self) -> bool {
        self.in_use && self.certificate.role == Role::Leaf
    }

    /// Whether it is the one of its entry that is replaced where the entry is written.
    pub fn is_first(&self) -> bool {
        matches!(self.position, Position::Index(0) | Position::User(_, 0))
    }
}

/// What a certificate is for, named as kubeadm names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `apiserver.crt`.
    Apiserver,
    /// `apiserver-kubelet-client.crt`.
    ApiserverKubeletClient,
    /// `apiserver-etcd-client.crt`.
    ApiserverEtcdClient,
    /// `front-proxy-client.crt`.
    FrontProxyClient,
    /// etcd's `server.crt`.
    EtcdServer,
    /// etcd's `peer.crt`.
    EtcdPeer,
    /// etcd's `healthcheck-client.crt`.
    EtcdHealthcheckClient,
    /// The admin kubeconfig's client certificate.
    Admin,
    /// The Kubernetes CA.
    Ca,
    /// The front-proxy CA.
    FrontProxyCa,
    /// The etcd CA.
    EtcdCa,
    /// Anything else found in a mesh's Secrets.
    Other,
}

/// Something that is wrong with a mesh's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The Secret.
    pub secret_role: SecretRole,
    /// Key in the Secret; empty where the Secret itself is meant.
    pub key: Box<str>,
    /// Where in the entry.
    pub position: Position,
    /// The stable code.
    pub reason: Reason,
    /// A sentence for a person.
    pub message: String,
}

/// Stable codes of findings; the label value of `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A part of an entry could not be read.
    Unreadable(ProblemReason),
    /// One of the three Secrets does not exist.
    SecretMissing,
    /// A leaf or CA that kubeadm makes is not there.
    CertificateMissing,
    /// No CA of the mesh verifies the signature.
    WrongCa,
    /// The leaf outlives the CA that signed it.
    CaEndsBeforeLeaf,
    /// The CA has ended.
    CaExpired,
    /// The certificate has ended.
    Expired,
    /// Its validity has not begun.
    NotYetValid,
    /// The API server's certificate lacks the name that its clients use.
    SanMissing,
    /// The kubeconfig trusts another CA than the mesh's.
    KubeconfigWrongCa,
    /// The kubeconfig points to another server.
    KubeconfigWrongServer,
    /// RSA below 2048 bits.
    WeakKey,
}

impl Reason {
    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable(reason) => reason.as_str(),
            Self::SecretMissing => "secret_missing",
            Self::CertificateMissing => "certificate_missing",
            Self::WrongCa => "wrong_ca",
            Self::CaEndsBeforeLeaf => "ca_ends_before_leaf",
            Self::CaExpired => "ca_expired",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::SanMissing => "san_missing",
            Self::KubeconfigWrongCa => "kubeconfig_wrong_ca",
            Self::KubeconfigWrongServer => "kubeconfig_wrong_server",
            Self::WeakKey => "weak_key",
        }
    }

    /// Whether it is exported as `meshcert_certificate_invalid`: a missing Secret has a metric of its own, an end is told by the signal, and the rest is advice.
    pub fn breaks(self) -> bool {
        !matches!(self, Self::SecretMissing | Self::Expired | Self::CaExpired | Self::CaEndsBeforeLeaf | Self::WeakKey)
    }
}

impl Component {
    /// The label value of `component`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apiserver => "apiserver",
            Self::ApiserverKubeletClient => "apiserver-kubelet-client",
            Self::ApiserverEtcdClient => "apiserver-etcd-client",
            Self::FrontProxyClient => "front-proxy-client",
            Self::EtcdServer => "etcd-server",
            Self::EtcdPeer => "etcd-peer",
            Self::EtcdHealthcheckClient => "etcd-healthcheck-client",
            Self::Admin => "admin",
            Self::Ca => "ca",
            Self::FrontProxyCa => "front-proxy-ca",
            Self::EtcdCa => "etcd-ca",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests;
