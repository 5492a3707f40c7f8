//! What endpoints serve, looked at every minute whether or not anything is being renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tracing::warn;

use crate::cert::{CertFingerprint, Certificate};
use crate::cluster::workloads::Roster;
use crate::controller::Actor;
use crate::controller::prove::{Spot, spots};
use crate::controller::reach::abreast;
use crate::mesh::{HostedMesh, MeshKey};
use crate::metrics::renewals::EndpointState;
use crate::renewal::observed::Observed;
use crate::time::UnixTime;

/// Endpoints of a cluster that are asked at the same time.
const ABREAST: usize = 32;

/// Endpoints of which a sweep says that they fell silent.
const MOST_SAID: usize = 5;

/// What endpoints showed when they were asked last.
#[derive(Default)]
pub(super) struct Memory {
    /// Sweeps so far.
    sweeps: u64,
    /// By the pod's uid and the port: in which sweep it was asked, and the certificate if it showed one.
    asked: BTreeMap<(String, u16), (u64, Option<Shown>)>,
    /// What the proofs of renewals have shown since the last sweep ended: one that began before them knows less.
    proven: BTreeMap<MeshKey, Vec<EndpointState>>,
    /// What stood in the way last time; said once.
    said: Vec<String>,
}

/// A certificate that was shown.
#[derive(Clone, Copy)]
struct Shown {
    fingerprint: CertFingerprint,
    not_after: UnixTime,
}

impl Actor {
    /// Looks at every endpoint of these meshes; where that costs the API server a request each, at some, those first that were not asked for the longest time.
    pub(super) async fn sweep(&self, meshes: &[&Arc<HostedMesh>]) {
        let rosters = self.rosters(meshes).await;
        let mut all: Vec<(&HostedMesh, Spot)> = Vec::new();
        for mesh in meshes {
            let Some(roster) = rosters.get(&*mesh.key.namespace) else { continue };
            // A mesh without its workloads is told by its renewal.
            let tiers = roster.serving(mesh.key.id.as_str(), &self.acting.tiers);
            all.extend(spots(&tiers).into_iter().map(|spot| (&***mesh, spot)));
        }
        drop(rosters);
        let chosen = self.memory().begin(all.iter().map(|(_, spot)| key(spot)), self.way.asked_per_sweep());
        let mut asked = Vec::with_capacity(chosen.len());
        for position in &chosen {
            let (mesh, spot) = &all[*position];
            asked.push(spot.served(&self.way, &mesh.key.namespace).boxed());
        }
        let answers = abreast(ABREAST, asked).await;
        let mut silent = Vec::new();
        let mut memory = self.memory();
        for (position, served) in chosen.iter().zip(answers) {
            let (mesh, spot) = &all[*position];
            if memory.proven.contains_key(&mesh.key) {
                continue;
            }
            let shown = match served {
                Ok(Certificate { fingerprint, not_after, .. }) => Some(Shown { fingerprint, not_after }),
                Err(error) => {
                    silent.extend(memory.is_news(&key(spot)).then(|| (mesh.key.id.as_str(), error.message)));
                    None
                }
            };
            memory.learn(key(spot), shown);
        }
        let others = all.iter().filter(|(mesh, _)| !memory.proven.contains_key(&mesh.key));
        let mut states: Vec<_> = others.filter_map(|(mesh, spot)| memory.state(mesh, spot)).collect();
        states.extend(std::mem::take(&mut memory.proven).into_values().flatten());
        self.around.metrics.endpoints(&self.acting.name, states);
        drop(memory);
        for (mesh, message) in silent.iter().take(MOST_SAID) {
            warn!(cluster = %self.acting.name, mesh, "an endpoint shows no certificate: {message}");
        }
        if silent.len() > MOST_SAID {
            warn!(cluster = %self.acting.name, "{} more endpoints show no certificate", silent.len() - MOST_SAID);
        }
    }

    /// Takes over what the proof of a renewal has shown: nobody is to read until the next sweep that a renewed mesh serves old certificates.
    pub(super) fn learn_proof(&self, seen: &Observed) {
        let Ok(tiers) = &seen.tiers else { return };
        let mut memory = self.memory();
        let mut states = Vec::new();
        for spot in spots(tiers) {
            if let Some(Certificate { fingerprint, not_after, .. }) = spot.stored(&seen.mesh) {
                memory.learn(key(&spot), Some(Shown { fingerprint: *fingerprint, not_after: *not_after }));
            }
            states.extend(memory.state(&seen.mesh, &spot));
        }
        memory.proven.insert(seen.mesh.key.clone(), states.clone());
        self.around.metrics.endpoints_of(&self.acting.name, &seen.mesh.key, states);
    }

    /// What was proven under an earlier leadership is no news any more.
    pub(super) fn forget_proofs(&self) {
        self.memory().proven.clear();
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The meshes' namespaces; those that cannot be read are left out and said.
    async fn rosters<'a>(&self, meshes: &[&'a Arc<HostedMesh>]) -> BTreeMap<&'a str, Roster> {
        let mut namespaces: Vec<&str> = meshes.iter().map(|mesh| &*mesh.key.namespace).collect();
        namespaces.dedup();
        let (mut rosters, mut to_say) = (BTreeMap::new(), Vec::new());
        for namespace in namespaces {
            if rosters.contains_key(namespace) {
                continue;
            }
            match self.api.roster(namespace).await {
                Ok(roster) => {
                    to_say
                        .extend(roster.services_withheld.clone().map(|why| format!("usual ports are assumed: {why}")));
                    rosters.insert(namespace, roster);
                }
                Err(error) => to_say.push(format!("endpoints are not looked at: {}", error.message)),
            }
        }
        let said = std::mem::replace(&mut self.memory().said, to_say.clone());
        for message in to_say.iter().filter(|message| !said.contains(message)) {
            warn!(cluster = %self.acting.name, "{message}");
        }
        rosters
    }
}

fn key(spot: &Spot) -> (String, u16) {
    (spot.pod.uid.clone(), spot.port())
}

impl Memory {
    /// Another sweep, over all that is there; what is not there any more is forgotten. Positions of those that were not asked for the longest time, so many
    /// at most, in their order.
    fn begin(&mut self, there: impl Iterator<Item = (String, u16)>, most: usize) -> Vec<usize> {
        let there: Vec<_> = there.collect();
        let known: BTreeSet<_> = there.iter().collect();
        self.asked.retain(|key, _| known.contains(key));
        self.sweeps += 1;
        let last = |key| self.asked.get(key).map_or(0, |(sweep, _)| *sweep);
        let mut chosen: Vec<(u64, usize)> = there.iter().map(last).zip(0..).collect();
        chosen.sort_unstable();
        chosen.truncate(most);
        let mut positions: Vec<usize> = chosen.into_iter().map(|(_, position)| position).collect();
        positions.sort_unstable();
        positions
    }

    /// Whether it would be new that an endpoint shows nothing.
    fn is_news(&self, key: &(String, u16)) -> bool {
        !matches!(self.asked.get(key), Some((_, None)))
    }

    fn learn(&mut self, key: (String, u16), shown: Option<Shown>) {
        self.asked.insert(key, (self.sweeps, shown));
    }

    /// What is exported of an endpoint: what it showed last, against what is stored now.
    fn state(&self, mesh: &HostedMesh, spot: &Spot) -> Option<EndpointState> {
        let (_, shown) = self.asked.get(&key(spot))?;
        let differs = |shown: &Shown| spot.stored(mesh).is_some_and(|stored| stored.fingerprint != shown.fingerprint);
        Some(EndpointState {
            namespace: mesh.key.namespace.to_string(),
            mesh: mesh.key.id.to_string(),
            endpoint: spot.name(),
            not_after: shown.map(|shown| shown.not_after),
            stale: shown.as_ref().is_some_and(differs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_key(number: u16) -> (String, u16) {
        ("pod".to_owned(), number)
    }

    #[test]
    fn everyone_is_asked_in_turn_and_newcomers_first() {
        let mut memory = Memory::default();
        let mut rounds = Vec::new();
        for there in [4, 4, 5, 5] {
            let chosen = memory.begin((0..there).map(mk_key), 2);
            for position in &chosen {
                memory.learn(mk_key(*position as u16), None);
            }
            rounds.push(chosen);
        }
        assert_eq!(rounds, [vec![0, 1], vec![2, 3], vec![0, 4], vec![1, 2]]);
        assert!(memory.is_news(&mk_key(9)) && !memory.is_news(&mk_key(3)), "it is said once");
        memory.begin([mk_key(3)].into_iter(), 2);
        assert_eq!(memory.asked.len(), 1, "what is gone is forgotten");
    }
}
