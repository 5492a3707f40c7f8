//! What endpoints serve, looked at every minute whether or not anything is being renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use tracing::warn;

use crate::cert::{CertFingerprint, Certificate};
use crate::cluster::workloads::Roster;
use crate::controller::Actor;
use crate::controller::prove::{Spot, spots};
use crate::controller::reach::abreast;
use crate::mesh::HostedMesh;
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
        // There is one sweep at a time.
        let mut memory = std::mem::take(&mut *self.memory.lock().unwrap_or_else(PoisonError::into_inner));
        let rosters = self.rosters(meshes, &mut memory).await;
        let mut all: Vec<(&HostedMesh, Spot)> = Vec::new();
        for mesh in meshes {
            let Some(roster) = rosters.get(&*mesh.key.namespace) else { continue };
            // A mesh without its workloads is told by its renewal.
            let tiers = roster.serving(mesh.key.id.as_str(), &self.acting.tiers);
            all.extend(spots(&tiers).into_iter().map(|spot| (&***mesh, spot)));
        }
        drop(rosters);
        memory.begin(all.iter().map(|(_, spot)| key(spot)).collect());
        let chosen = memory.longest_unasked(all.iter().map(|(_, spot)| key(spot)), self.way.asked_per_sweep());
        let mut asked = Vec::with_capacity(chosen.len());
        for position in &chosen {
            let (mesh, spot) = &all[*position];
            asked.push(spot.served(&self.way, &mesh.key.namespace).boxed());
        }
        let mut silent = Vec::new();
        for (position, served) in chosen.iter().zip(abreast(ABREAST, asked).await) {
            let (mesh, spot) = &all[*position];
            let shown = match served {
                Ok(Certificate { fingerprint, not_after, .. }) => Some(Shown { fingerprint, not_after }),
                Err(error) => {
                    silent.extend(memory.is_news(&key(spot)).then(|| (mesh.key.id.as_str(), error.message)));
                    None
                }
            };
            memory.learn(key(spot), shown);
        }
        for (mesh, message) in silent.iter().take(MOST_SAID) {
            warn!(cluster = %self.acting.name, mesh, "an endpoint shows no certificate: {message}");
        }
        if silent.len() > MOST_SAID {
            warn!(cluster = %self.acting.name, "{} more endpoints show no certificate", silent.len() - MOST_SAID);
        }
        let states = all.iter().filter_map(|(mesh, spot)| memory.state(mesh, spot)).collect();
        self.around.metrics.endpoints(&self.acting.name, states);
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }

    /// Takes over what the proof of a renewal has shown: nobody is to read until the next sweep that a renewed mesh serves old certificates.
    pub(super) fn learn_proof(&self, seen: &Observed) {
        let Ok(tiers) = &seen.tiers else { return };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states = Vec::new();
        for spot in spots(tiers) {
            if let Some(Certificate { fingerprint, not_after, .. }) = spot.stored(&seen.mesh) {
                memory.learn(key(&spot), Some(Shown { fingerprint: *fingerprint, not_after: *not_after }));
            }
            states.extend(memory.state(&seen.mesh, &spot));
        }
        drop(memory);
        self.around.metrics.endpoints_of(&self.acting.name, &seen.mesh.key, states);
    }

    /// The meshes' namespaces; those that cannot be read are left out and said.
    async fn rosters<'a>(&self, meshes: &[&'a Arc<HostedMesh>], memory: &mut Memory) -> BTreeMap<&'a str, Roster> {
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
        for message in to_say.iter().filter(|message| !memory.said.contains(message)) {
            warn!(cluster = %self.acting.name, "{message}");
        }
        memory.said = to_say;
        rosters
    }
}

fn key(spot: &Spot) -> (String, u16) {
    (spot.pod.uid.clone(), spot.port())
}

impl Memory {
    /// Another sweep; what is not there any more is forgotten.
    fn begin(&mut self, there: BTreeSet<(String, u16)>) {
        self.sweeps += 1;
        self.asked.retain(|key, _| there.contains(key));
    }

    /// Positions of those that were not asked for the longest time, so many at most, in their order.
    fn longest_unasked(&self, all: impl Iterator<Item = (String, u16)>, most: usize) -> Vec<usize> {
        let mut chosen: Vec<(u64, usize)> = all
            .enumerate()
            .map(|(position, key)| (self.asked.get(&key).map_or(0, |(sweep, _)| *sweep), position))
            .collect();
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
            let all = || (0..there).map(mk_key);
            memory.begin(all().collect());
            let chosen = memory.longest_unasked(all(), 2);
            for position in &chosen {
                memory.learn(mk_key(*position as u16), None);
            }
            rounds.push(chosen);
        }
        assert_eq!(rounds, [vec![0, 1], vec![2, 3], vec![0, 4], vec![1, 2]]);
        assert!(memory.is_news(&mk_key(9)) && !memory.is_news(&mk_key(3)), "it is said once");
        memory.begin([mk_key(3)].into());
        assert_eq!(memory.asked.len(), 1, "what is gone is forgotten");
    }
}
