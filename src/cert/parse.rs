//! Reads certificates out of an entry's bytes, in every shape that people store.

use std::collections::HashSet;
use std::sync::Arc;

use crate::cert::{Entry, Name};

/// What is kept of a certificate beside its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// Nothing.
    Facts,
    /// Its DER form, for the verification of signatures.
    Der,
}

/// An entry larger than this is not read; a Secret as a whole is limited to 1 MiB by Kubernetes.
pub const MAX_ENTRY_BYTES: usize = 4 << 20;

/// Why an entry's base64 could not be turned into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLargeOrInvalid {
    /// Over [`MAX_ENTRY_BYTES`].
    TooLarge,
    /// No base64.
    Invalid,
}

/// Shares equal names between certificates: thousands of leaves have one issuer.
#[derive(Debug, Default)]
pub struct NamePool(HashSet<Arc<Name>>);

impl NamePool {
    /// The shared form of a name.
    pub fn share(&mut self, name: Name) -> Arc<Name> {
        if let Some(known) = self.0.get(&name) {
            return Arc::clone(known);
        }
        let name = Arc::new(name);
        self.0.insert(Arc::clone(&name));
        name
    }

    /// Forgets names that nobody uses any more.
    pub fn shrink(&mut self) {
        self.0.retain(|name| Arc::strong_count(name) > 1);
    }
}

/// Reads one entry: PEM bundle, DER or kubeconfig, whichever it is.
pub fn read_entry(_bytes: &[u8], _retain: Retain, _names: &mut NamePool) -> Entry {
    todo!()
}
