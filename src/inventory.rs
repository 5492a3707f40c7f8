//! All that is known of one cluster's certificates, cut into shards so that a change costs one shard, whatever the size.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::{HostedMesh, MeshKey};
use crate::secret::{SecretFacts, SecretRef};

/// An immutable view of a cluster's inventory; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The shards; one that did not change is the same `Arc` as in the snapshot before.
    pub shards: Vec<Arc<Shard>>,
}

/// A part of the inventory: the meshes and the other Secrets whose names hash to it.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    /// Hosted meshes.
    pub meshes: BTreeMap<MeshKey, Arc<HostedMesh>>,
    /// Other certificate Secrets.
    pub others: BTreeMap<SecretRef, Arc<SecretFacts>>,
}
