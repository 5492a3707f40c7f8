//! All that is known of one cluster's certificates, cut into shards so that a change costs one shard, whatever the size.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::sync::Arc;

use crate::mesh::{HostedMesh, MeshKey, Naming};
use crate::secret::{Class, SecretFacts, SecretRef};

/// A namespace's Secrets are in each of so many shards.
const NEIGHBOURS: usize = 8;
/// Objects per shard before the number of shards doubles: few enough that one change is cheap to render, enough that the text compresses.
const OBJECTS_PER_SHARD: usize = 256;

/// Fewer meshes than this are assembled sooner than threads are started.
const WORTH_A_THREAD: usize = 16;
/// More than the processors of a usual pod does no harm.
const THREADS: usize = 4;

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

/// The inventory of one cluster; owned by one task, read through [`Snapshot`]s.
#[derive(Debug)]
pub struct Inventory {
    naming: Naming,
    mesh_secrets: HashMap<MeshKey, [Option<Arc<SecretFacts>>; 3]>,
    /// Meshes whose Secrets changed since the last snapshot.
    unassembled: BTreeSet<MeshKey>,
    shards: Vec<Arc<Shard>>,
    len: usize,
    certificates: usize,
}

impl Snapshot {
    /// All meshes, in no particular order.
    pub fn meshes(&self) -> impl Iterator<Item = &Arc<HostedMesh>> {
        self.shards.iter().flat_map(|shard| shard.meshes.values())
    }

    /// All other certificate Secrets, in no particular order.
    pub fn others(&self) -> impl Iterator<Item = &Arc<SecretFacts>> {
        self.shards.iter().flat_map(|shard| shard.others.values())
    }
}

impl Inventory {
    /// An empty inventory.
    pub fn new(naming: Naming) -> Self {
        Self {
            naming,
            mesh_secrets: HashMap::new(),
            unassembled: BTreeSet::new(),
            shards: vec![Arc::default()],
            len: 0,
            certificates: 0,
        }
    }

    /// Number of Secrets held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of certificates held.
    pub fn certificates(&self) -> usize {
        self.certificates
    }

    /// Whether no Secret is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is known of a Secret.
    pub fn get(&self, reference: &SecretRef) -> Option<&Arc<SecretFacts>> {
        let as_mesh = self.mesh_place(reference).and_then(|(key, role)| self.mesh_secrets.get(&key)?[role].as_ref());
        as_mesh.or_else(|| self.shards[self.shard_of_secret(reference)].others.get(reference))
    }

    /// Takes a Secret's present facts in place of what was known of it.
    ///
    /// Facts that differ in nothing but the resourceVersion change nothing, so that a touched label renders no series anew.
    pub fn apply(&mut self, facts: SecretFacts) {
        if let Some(known) = self.get(&facts.reference) {
            if same_content(known, &facts) {
                return;
            }
            if std::mem::discriminant(&known.class) != std::mem::discriminant(&facts.class) {
                self.delete(&facts.reference);
            }
        }
        let facts = Arc::new(facts);
        self.certificates += facts.certificates();
        let before = match &facts.class {
            Class::Mesh(id, role) => {
                let key = MeshKey { namespace: Arc::clone(&facts.reference.namespace), id: id.clone() };
                let secrets = self.mesh_secrets.entry(key.clone()).or_default();
                let before = secrets[*role as usize].replace(facts);
                self.unassembled.insert(key);
                before
            }
            Class::Other(_) => {
                let reference = facts.reference.clone();
                let shard = self.shard_of_secret(&reference);
                Arc::make_mut(&mut self.shards[shard]).others.insert(reference, facts)
            }
        };
        match before {
            Some(before) => self.certificates -= before.certificates(),
            None => {
                self.len += 1;
                self.grow();
            }
        }
    }

    /// Forgets a Secret; a mesh goes with its last one.
    pub fn delete(&mut self, reference: &SecretRef) {
        if let Some((key, role)) = self.mesh_place(reference)
            && let Some(secrets) = self.mesh_secrets.get_mut(&key)
            && let Some(gone) = secrets[role].take()
        {
            self.certificates -= gone.certificates();
            if secrets.iter().all(Option::is_none) {
                self.mesh_secrets.remove(&key);
            }
            self.unassembled.insert(key);
            self.len -= 1;
            return;
        }
        let shard = self.shard_of_secret(reference);
        // Looked up first: `make_mut` copies the shard, and a reader would take the copy for a change.
        if self.shards[shard].others.contains_key(reference)
            && let Some(gone) = Arc::make_mut(&mut self.shards[shard]).others.remove(reference)
        {
            self.certificates -= gone.certificates();
            self.len -= 1;
        }
    }

    /// Forgets every Secret for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&SecretRef) -> bool) {
        let mesh_secrets = self.mesh_secrets.values().flatten().flatten().map(|facts| &facts.reference);
        let others = self.shards.iter().flat_map(|shard| shard.others.keys());
        let gone: Vec<SecretRef> = mesh_secrets.chain(others).filter(|reference| !keep(reference)).cloned().collect();
        for reference in gone {
            self.delete(&reference);
        }
    }

    /// The present state; assembles the meshes whose Secrets changed since the last one.
    pub fn snapshot(&mut self) -> Snapshot {
        let keys: Vec<MeshKey> = std::mem::take(&mut self.unassembled).into_iter().collect();
        let meshes = self.assemble(&keys);
        for (key, mesh) in keys.into_iter().zip(meshes) {
            let index = self.shard_of_mesh(&key);
            let shard = Arc::make_mut(&mut self.shards[index]);
            match mesh {
                Some(mesh) => shard.meshes.insert(key, Arc::new(mesh)),
                None => shard.meshes.remove(&key),
            };
        }
        Snapshot { shards: self.shards.clone() }
    }

    /// The meshes of these keys, `None` where the last Secret is gone; many of them on several threads, for each costs several signatures.
    fn assemble(&self, keys: &[MeshKey]) -> Vec<Option<HostedMesh>> {
        let one = |key: &MeshKey| {
            let secrets = self.mesh_secrets.get(key)?;
            Some(HostedMesh::assemble(self.naming.secret_names(&key.id), key.clone(), secrets.clone()))
        };
        if keys.len() < WORTH_A_THREAD {
            return keys.iter().map(one).collect();
        }
        std::thread::scope(|scope| {
            let part = |keys| scope.spawn(move || <[MeshKey]>::iter(keys).map(one).collect::<Vec<_>>());
            let parts: Vec<_> = keys.chunks(keys.len().div_ceil(THREADS)).map(part).collect();
            parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    }

    /// The mesh and the index of the role that a Secret of this name has, if it is one.
    fn mesh_place(&self, reference: &SecretRef) -> Option<(MeshKey, usize)> {
        let (id, role) = self.naming.classify(&reference.name)?;
        Some((MeshKey { namespace: Arc::clone(&reference.namespace), id }, role as usize))
    }

    fn shard_of_mesh(&self, key: &MeshKey) -> usize {
        self.shard(fnv1a(&key.namespace, key.id.as_str()))
    }

    /// The series of a namespace's Secrets resemble each other and are compressed together; in a part of the shards, so that none is filled by one namespace.
    fn shard_of_secret(&self, reference: &SecretRef) -> usize {
        let parts = (self.shards.len() / NEIGHBOURS).max(1) as u64;
        let part = fnv1a("", &reference.name) % parts;
        self.shard(fnv1a(&reference.namespace, "") + part * NEIGHBOURS as u64)
    }

    fn shard(&self, hash: u64) -> usize {
        // The number of shards is a power of two.
        hash as usize & (self.shards.len() - 1)
    }

    /// Doubles the shards once they are full; amortized over the Secrets that came since, a constant each.
    fn grow(&mut self) {
        if self.len <= self.shards.len() * OBJECTS_PER_SHARD {
            return;
        }
        let wider = vec![Arc::default(); self.shards.len() * 2];
        for shard in std::mem::replace(&mut self.shards, wider) {
            let Shard { meshes, others } = Arc::unwrap_or_clone(shard);
            for (key, mesh) in meshes {
                let at = self.shard_of_mesh(&key);
                Arc::make_mut(&mut self.shards[at]).meshes.insert(key, mesh);
            }
            for (reference, facts) in others {
                let at = self.shard_of_secret(&reference);
                Arc::make_mut(&mut self.shards[at]).others.insert(reference, facts);
            }
        }
    }
}

fn same_content(known: &SecretFacts, new: &SecretFacts) -> bool {
    let SecretFacts { reference, uid, resource_version: _, paused, class, entries } = known;
    (reference, uid, paused, class, entries) == (&new.reference, &new.uid, &new.paused, &new.class, &new.entries)
}

/// 64-bit FNV-1a over both texts with a separator: stable between runs, so that the order of series is too.
fn fnv1a(namespace: &str, name: &str) -> u64 {
    let bytes = namespace.bytes().chain(std::iter::once(b'/')).chain(name.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The low bits of FNV mix poorly for short texts.
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::SecretRole;

    fn mk_ref(name: &str) -> SecretRef {
        SecretRef { namespace: "istio-system".into(), name: name.into() }
    }

    fn mk_facts(name: &str, version: &str, paused: bool) -> SecretFacts {
        let class = match Naming::default().classify(name) {
            Some((id, role)) => Class::Mesh(id, role),
            None => Class::Other(0),
        };
        SecretFacts {
            reference: mk_ref(name),
            uid: "u".into(),
            resource_version: version.into(),
            paused,
            class,
            entries: Box::default(),
        }
    }

    fn mesh_ids(snapshot: &Snapshot) -> Vec<String> {
        let mut ids: Vec<_> = snapshot.meshes().map(|mesh| mesh.key.id.to_string()).collect();
        ids.sort();
        ids
    }

    #[test]
    fn deleting_a_secret_leaves_the_one_whose_name_it_begins() {
        let mut inventory = Inventory::new(Naming::default());
        for name in ["mesh-1-kube-certs", "mesh-101-kube-certs", "web", "web-1"] {
            inventory.apply(mk_facts(name, "1", false));
        }
        inventory.delete(&mk_ref("mesh-1-kube-certs"));
        inventory.delete(&mk_ref("web"));
        let snapshot = inventory.snapshot();
        assert_eq!(mesh_ids(&snapshot), ["mesh-101"]);
        assert_eq!(snapshot.others().map(|facts| &*facts.reference.name).collect::<Vec<_>>(), ["web-1"]);
        assert_eq!(inventory.len(), 2);
    }

    #[test]
    fn a_mesh_stands_until_its_last_secret_goes() {
        let mut inventory = Inventory::new(Naming::default());
        inventory.apply(mk_facts("a-kube-certs", "1", false));
        inventory.apply(mk_facts("a-etcd-certs", "1", false));
        inventory.delete(&mk_ref("a-kube-certs"));
        let snapshot = inventory.snapshot();
        let mesh = snapshot.meshes().next().expect("one Secret is left");
        assert!(mesh.secrets[SecretRole::KubeCerts as usize].is_none());
        assert!(mesh.secrets[SecretRole::EtcdCerts as usize].is_some());
        inventory.delete(&mk_ref("a-etcd-certs"));
        assert_eq!(inventory.snapshot().meshes().count(), 0);
        assert!(inventory.is_empty());
    }

    #[test]
    fn a_change_touches_one_shard_and_a_new_version_alone_none() {
        let mut inventory = Inventory::new(Naming::default());
        for n in 0..2_000 {
            inventory.apply(mk_facts(&format!("web-{n}"), "1", false));
        }
        let before = inventory.snapshot();
        assert_eq!(before.shards.len(), 8);
        inventory.apply(mk_facts("web-7", "2", false));
        inventory.delete(&mk_ref("unknown"));
        let changed =
            |a: &Snapshot, b: &Snapshot| a.shards.iter().zip(&b.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        let touched = inventory.snapshot();
        assert_eq!(changed(&before, &touched), 0);
        inventory.apply(mk_facts("web-7", "3", true));
        assert_eq!(changed(&touched, &inventory.snapshot()), 1);
    }

    #[test]
    fn nothing_is_lost_when_the_shards_double() {
        let mut inventory = Inventory::new(Naming::default());
        for n in 0..1_000 {
            inventory.apply(mk_facts(&format!("m{n}-kube-certs"), "1", false));
            inventory.apply(mk_facts(&format!("web-{n}"), "1", false));
        }
        let snapshot = inventory.snapshot();
        assert_eq!((snapshot.meshes().count(), snapshot.others().count()), (1_000, 1_000));
        assert!((0..1_000).all(|n| inventory.get(&mk_ref(&format!("web-{n}"))).is_some()));
        inventory.retain(|reference| &*reference.name == "web-3");
        assert_eq!(inventory.len(), 1);
        assert_eq!(inventory.snapshot().meshes().count(), 0);
    }

    #[test]
    fn a_secret_that_changes_its_class_stands_once() {
        let mut inventory = Inventory::new(Naming::default());
        let mut facts = mk_facts("a-kube-certs", "1", false);
        facts.class = Class::Other(0);
        inventory.apply(facts);
        inventory.apply(mk_facts("a-kube-certs", "2", false));
        let snapshot = inventory.snapshot();
        assert_eq!((snapshot.meshes().count(), snapshot.others().count(), inventory.len()), (1, 0, 1));
    }
}
