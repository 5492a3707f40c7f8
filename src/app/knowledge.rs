//! What this process knows of the meshes: what it sees itself, or what an observing process tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::config::{ConfigError, MeshesFromConfig};
use crate::metrics::exposition::ClusterSnapshot;
use crate::metrics::{Observed, SourceHealth};
use crate::name::MESHES_FROM;
use crate::observer::Registry;
use crate::ports::SourceErrorReason;
use crate::requests::told::{Learner, Teller};
use crate::requests::{Facts, Known, Sight, Sights};

/// All that is known.
pub(super) struct Knowledge {
    registry: Arc<Registry>,
    told: ArcSwapOption<Learner>,
}

impl Knowledge {
    /// What is observed, and nothing told.
    pub(super) fn new(registry: &Arc<Registry>) -> Arc<Self> {
        Arc::new(Self { registry: Arc::clone(registry), told: ArcSwapOption::empty() })
    }

    /// From now on what is told counts, or what is observed.
    pub(super) fn listen(&self, learner: Option<Arc<Learner>>) {
        self.told.store(learner);
    }

    /// What is observed of a cluster.
    pub(super) fn sights(&self) -> Sights {
        let registry = Arc::clone(&self.registry);
        Arc::new(move |cluster| {
            let read = registry.read(cluster);
            Sight { meshes: read.iter().flat_map(|snapshot| snapshot.meshes().cloned()).collect(), read: read.len() }
        })
    }

    /// The meshes of clusters.
    pub(super) fn facts(&self, clusters: &[Arc<str>]) -> Result<Facts, String> {
        if let Some(learner) = self.told.load_full() {
            let told = learner.known()?;
            let of = |cluster: &Arc<str>| {
                let meshes = told.meshes.get(&**cluster).into_iter().flatten();
                (Arc::clone(cluster), meshes.cloned().map(Known::Told).collect())
            };
            return Ok(Facts { complete: told.complete, meshes: clusters.iter().map(of).collect() });
        }
        let mut meshes: BTreeMap<Arc<str>, Vec<Known>> = BTreeMap::new();
        for known in self.registry.clusters().into_iter().filter(|known| clusters.contains(&known.name)) {
            meshes.entry(known.name).or_default().extend(known.snapshot.meshes().cloned().map(Known::Seen));
        }
        let complete = self.registry.sources().iter().all(|source| source.up);
        Ok(Facts { complete, meshes })
    }
}

/// What is told is one more source.
impl Observed for Knowledge {
    fn clusters(&self) -> Vec<ClusterSnapshot> {
        self.registry.clusters()
    }

    fn sources(&self) -> Vec<SourceHealth> {
        let mut all = self.registry.sources();
        all.extend(self.told.load().as_ref().map(|learner| {
            let health = learner.health();
            let count = |reason: SourceErrorReason| health.errors.get(&reason).copied().unwrap_or(0);
            SourceHealth {
                source: MESHES_FROM.into(),
                up: health.up,
                last_success: health.last_success,
                objects: health.meshes,
                errors: SourceErrorReason::ALL.map(|reason| (reason.as_str(), count(reason))).to_vec(),
                resyncs: 0,
                message: health.failure,
            }
        }));
        all
    }

    fn ready(&self) -> Result<(), String> {
        self.registry.ready()?;
        match &*self.told.load() {
            Some(learner) if !learner.health().asked => {
                Err(format!("{} has not been asked for the meshes yet", learner.teller().url))
            }
            _ => Ok(()),
        }
    }
}

/// Whom to ask.
pub(super) fn teller(config: &MeshesFromConfig) -> Result<Teller, ConfigError> {
    let url = config.uri()?;
    let MeshesFromConfig { url: _, ca_file, cert_file, key_file, bearer_token_file } = config.clone();
    Ok(Teller { url, ca: ca_file, identity: cert_file.zip(key_file), bearer_token: bearer_token_file })
}
