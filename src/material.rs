//! What a mesh's Secrets hold, private keys included: for the acting plane alone, wiped when dropped, shown by nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::cert::parse::{NamePool, read_entry};
use crate::digest;
use crate::mesh::{HostedMesh, MeshKey, Naming, SecretRole};
use crate::secret::{Class, SecretEntry, SecretFacts, SecretRef, Selection, reads_of_mesh};

/// Entries of a Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Material(BTreeMap<String, Zeroizing<Vec<u8>>>);

/// Shows the keys' names, never their content.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, Zeroizing<Vec<u8>>)> for Material {
    fn from_iter<T: IntoIterator<Item = (String, Zeroizing<Vec<u8>>)>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl Material {
    /// The bytes of an entry.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|bytes| bytes.as_slice())
    }

    /// Adds or replaces an entry.
    pub fn insert(&mut self, key: &str, bytes: Zeroizing<Vec<u8>>) {
        self.0.insert(key.to_owned(), bytes);
    }

    /// All entries, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
    }

    /// The entries that another one has too, with the content that they have here.
    pub fn same_entries(&self, other: &Self) -> Self {
        self.0
            .iter()
            .filter(|(key, _)| other.0.contains_key(*key))
            .map(|(key, bytes)| (key.clone(), bytes.clone()))
            .collect()
    }

    /// The entries that no renewal changes, whatever certificates there are: CAs and service account keys, by kubeadm's names.
    pub fn fixed(&self) -> Self {
        let is_fixed = |key: &str| {
            let stem = key.rsplit_once('.').map_or(key, |(stem, _)| stem);
            matches!(stem, "ca" | "sa") || stem.ends_with("-ca")
        };
        self.0.iter().filter(|(key, _)| is_fixed(key)).map(|(key, bytes)| (key.clone(), bytes.clone())).collect()
    }

    /// These entries, and the others of `below`.
    pub fn over(&self, below: &Self) -> Self {
        below.0.iter().chain(&self.0).map(|(key, bytes)| (key.clone(), bytes.clone())).collect()
    }

    /// SHA-256 over keys and content.
    pub fn digest(&self) -> String {
        digest::sha256(self.0.iter().flat_map(|(key, bytes)| [key.as_bytes(), bytes.as_slice()]))
    }
}

/// A Secret of the mesh with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSecret {
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`: what a write is fenced by.
    pub resource_version: String,
    /// Whether the API server refuses changes of its data.
    pub immutable: bool,
    /// Whether the annotation [`PAUSED`](crate::secret::PAUSED) keeps hands off.
    pub paused: bool,
    /// Its data.
    pub material: Material,
}

/// The Secrets of a mesh, indexed by [`SecretRole`].
pub type MeshSecrets = [Option<StoredSecret>; 3];

/// The mesh that these contents make.
pub fn assemble(naming: &Naming, key: &MeshKey, secrets: &MeshSecrets) -> HostedMesh {
    HostedMesh::assemble(naming.secret_names(&key.id), key.clone(), facts(key, secrets))
}

/// The mesh as it would be with other contents.
pub fn assemble_like(mesh: &HostedMesh, secrets: &MeshSecrets) -> HostedMesh {
    HostedMesh::assemble(mesh.secret_names.clone(), mesh.key.clone(), facts(&mesh.key, secrets))
}

fn facts(key: &MeshKey, secrets: &MeshSecrets) -> [Option<Arc<SecretFacts>>; 3] {
    let mut names = NamePool::default();
    SecretRole::ALL.map(|role| {
        let secret = secrets[role as usize].as_ref()?;
        let class = Class::Mesh(key.id.clone(), role);
        let read = secret.material.entries().filter(|(name, _)| reads_of_mesh(role, name));
        let entries = read.map(|(name, bytes)| SecretEntry {
            key: name.into(),
            digest: [0; 32],
            entry: Arc::new(read_entry(bytes, Selection::retain(&class), &mut names)),
        });
        Some(Arc::new(SecretFacts {
            entries: entries.collect(),
            reference: SecretRef { namespace: Arc::clone(&key.namespace), name: secret.name.as_str().into() },
            uid: secret.uid.as_str().into(),
            resource_version: secret.resource_version.as_str().into(),
            paused: secret.paused,
            class,
        }))
    })
}

/// The Secrets as they would be with other content in some entries.
pub fn overlay(secrets: &MeshSecrets, content: &[Material; 3]) -> MeshSecrets {
    SecretRole::ALL.map(|role| {
        let secret = secrets[role as usize].clone()?;
        Some(StoredSecret { material: content[role as usize].over(&secret.material), ..secret })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_material(entries: &[(&str, &str)]) -> Material {
        entries.iter().map(|(key, text)| ((*key).to_owned(), Zeroizing::new(text.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn a_digest_is_over_the_entries_that_are_compared() {
        let live = mk_material(&[("a.crt", "1"), ("ca.crt", "9")]);
        let backup = mk_material(&[("a.crt", "1")]);
        assert_ne!(live.digest(), backup.digest());
        assert_eq!(live.same_entries(&backup).digest(), backup.digest());
        assert_eq!(backup.over(&live), live);
        assert_eq!(mk_material(&[("a.crt", "2")]).over(&live).get("a.crt"), Some(&b"2"[..]));
    }

    #[test]
    fn nothing_shows_the_content() {
        let text = format!("{:?}", mk_material(&[("a.key", "t0ps3cret")]));
        assert_eq!(text, r#"{"a.key"}"#);
    }
}
