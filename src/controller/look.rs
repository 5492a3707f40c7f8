//! Reads everything that a pass decides on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::api::ApiError;
use crate::cluster::lease::{LOCK_PREFIX, StoredLease};
use crate::cluster::material::{BACKUP, STAGED};
use crate::cluster::workloads::{Hints, Ports};
use crate::controller::queue::comes_this_far;
use crate::controller::{Acting, Actor, hindrance, prove};
use crate::digest;
use crate::job::{SeenJob, documented_name};
use crate::material::{Material, MeshSecrets, StoredSecret, assemble};
use crate::mesh::{Component, HostedMesh, MeshKey, SecretRole};
use crate::native::Obstacle;
use crate::policy::{Circumstances, Engine, Policy};
use crate::renewal::observed::{Holder, Lease, Observed, backup_name, staged_name};
use crate::renewal::step::{Hindrance, convince, grant};
use crate::renewal::{Digests, FORBIDDEN, Phase, REJECTED, Renewal, Status, StepRecord};
use crate::rollout::{Members, Serves, Target, Workload};
use crate::time::{DAY, UnixTime, in_words};

/// A clock that is further off than this would make certificates that are not valid yet.
const LARGEST_SKEW: i64 = 240;

impl Actor {
    /// Reads what the renewal's phase needs. `all` are the renewals of all namespaces that can be read, as they were a moment ago.
    pub(super) async fn look(
        &self,
        key: &MeshKey,
        renewal: &Renewal,
        all: &[Arc<Renewal>],
    ) -> Result<Observed, ApiError> {
        let (phase, namespace) = (renewal.status.phase, &*key.namespace);
        let now = self.around.clock.now();
        let secrets = self.api.mesh_secrets(namespace, &self.acting.naming.secret_names(&key.id)).await?;
        let mesh = assemble(&self.acting.naming, key, &secrets);
        let (mut backups, mut staged, mut staged_names) = ([None, None, None], MeshSecrets::default(), Vec::new());
        let terminal = phase.is_terminal();
        let ends = terminal && !renewal.status.cleaned_up;
        // Before the copies: those of a Job that is seen to be done are what it left.
        let job = match &renewal.status.job {
            Some(record) if phase == Phase::Staging || ends => {
                self.api.job(namespace, &record.name, &renewal.uid).await?
            }
            _ => SeenJob::default(),
        };
        // Once all is written, the copies matter only where somebody else has written since.
        let begun = (Phase::BackingUp..=Phase::Verifying).contains(&phase);
        let is_stored = phase > Phase::Committing && renewal.status.goal() == Some(&Digests::written(&mesh, &secrets));
        if ends || begun && !is_stored {
            let mut copies = self.api.copies_of(namespace, &renewal.uid).await?;
            let staged_ones = copies.keys().filter(|(kind, _)| kind == STAGED);
            staged_names = staged_ones.map(|(_, name)| name.clone()).collect();
            if let Some(attempt) = renewal.status.staged_attempt {
                let mut take = |name| copies.remove(&(STAGED.to_owned(), name));
                staged = SecretRole::ALL.map(|role| take(staged_name(renewal, role, attempt)));
            }
            backups = backups_of(renewal, copies);
        }
        let (mut lock, mut slots) = (Lease::default(), Vec::new());
        if begun || ends {
            // Names of Leases are shorter than mesh ids may be.
            let id = key.id.as_str();
            let id = if id.len() > 200 { digest::sha256([id]) } else { id.to_owned() };
            let name = format!("{LOCK_PREFIX}{id}");
            let stored = self.api.lease(namespace, &name).await?;
            lock = self.lease(namespace, name, stored, renewal, all).await?;
            if phase != Phase::Verifying {
                slots = self.slots(namespace, renewal, all, ends).await?;
            }
        }
        let mut tiers = match self.needed_tiers(renewal) {
            Some((tiers, ports)) => {
                let planned = renewal.status.plan.iter().flat_map(|plan| &plan.restarts);
                let kinds: Vec<_> = planned.map(|planned| (planned.name.as_str(), planned.kind)).collect();
                self.api.workloads(namespace, key.id.as_str(), &tiers, Hints { kinds: &kinds, ports }).await?
            }
            None => Ok(Vec::new()),
        };
        let members = match phase {
            Phase::Restarting => {
                let digest = renewal.status.goal().map(Digests::combined).unwrap_or_default();
                let tiers = tiers.as_deref_mut().unwrap_or_default();
                let former = (digest.as_str(), former_peer_end(renewal, &mesh));
                prove::members(&self.way, &mesh, &secrets, tiers, former, now).await
            }
            _ => Members::default(),
        };
        let resolved = tiers.as_deref().unwrap_or_default();
        // When something is stored counts by the clock by which pods are made.
        let stores = (Phase::Committing..=Phase::Verifying).contains(&phase) && !is_stored;
        let server_clock = if stores || phase == Phase::Preflight { self.api.server().await?.clock } else { None };
        let about = circumstances(renewal, &secrets, mesh.expiration, all, now);
        let mut obstacles = Vec::new();
        if phase == Phase::Preflight {
            obstacles = self.obstacles(key, server_clock, now).await?;
            // What is only thought of is judged with the rights of the one who asks, who need not be allowed to write.
            if !renewal.uid.is_empty() {
                obstacles.extend(self.unwritable(&secrets, resolved, key, now).await?);
                // Nor be where the pods' addresses lead.
                if self.acting.policy.has_time(&about, now) {
                    obstacles.extend(prove::out_of_reach(&self.way, namespace, resolved).await);
                }
            }
            obstacles.extend(prove::bar(&self.way, namespace, resolved).await);
        }
        let mut seen = Observed {
            about,
            others_under_way: others(all, renewal).any(|other| other.namespace == *namespace && comes_this_far(other)),
            policy: self.acting.policy.clone(),
            renewal: renewal.clone(),
            mesh,
            secrets,
            tiers,
            obstacles,
            watched_since: self.leading.borrow().unwrap_or(now),
            server_clock,
            backups,
            staged,
            job,
            staged_names,
            lock,
            slots,
            members,
            proof: None,
        };
        seen.proof = self.proof(&seen, now).await?;
        Ok(seen)
    }

    /// The workloads that the renewal's phase looks at, each tier in its place.
    fn needed_tiers(&self, renewal: &Renewal) -> Option<(Vec<Vec<Target>>, Ports)> {
        let all = &self.acting.tiers;
        let serves = |target: &&Target| target.serves != Serves::Nothing;
        match renewal.status.phase {
            Phase::Preflight | Phase::AwaitingApproval => Some((all.clone(), Ports::Named)),
            Phase::Auditing => {
                let apis = |target: &&Target| target.serves == Serves::KubeApiserver;
                Some((all.iter().map(|tier| tier.iter().filter(apis).cloned().collect()).collect(), Ports::Named))
            }
            Phase::Restarting => {
                let present = renewal.status.tier.as_ref().map_or(0, |tier| tier.index as usize);
                let mut tiers = vec![Vec::new(); all.len()];
                let tier = all.get(present)?;
                tiers[present].clone_from(tier);
                // etcd's members are asked for their health meanwhile.
                let asked = tier.iter().any(|target| target.serves == Serves::Etcd);
                Some((tiers, if asked { Ports::Named } else { Ports::Unread }))
            }
            Phase::Verifying => {
                let serving = all.iter().map(|tier| tier.iter().filter(serves).cloned().collect());
                Some((serving.collect(), Ports::Named))
            }
            _ => None,
        }
    }

    /// The slots, each renewal's in an order of its own, or all that look for one would run for the same. Whoever has one needs no other, and gives back all there may
    /// be in the end.
    async fn slots(
        &self,
        namespace: &str,
        renewal: &Renewal,
        all: &[Arc<Renewal>],
        ends: bool,
    ) -> Result<Vec<Lease>, ApiError> {
        let Acting { policy, timing, .. } = &self.acting;
        let stored = self.slots.of(&self.api, namespace, policy.max_concurrent, timing.busy).await?;
        let start = renewal.uid.bytes().map(usize::from).sum::<usize>() % stored.len().max(1);
        let mut slots = Vec::new();
        for (name, lease) in stored[start..].iter().chain(&stored[..start]).cloned() {
            slots.push(self.lease(namespace, name, lease, renewal, all).await?);
            if !ends && slots.last().is_some_and(|slot| slot.holder == Holder::Mine) {
                break;
            }
        }
        Ok(slots)
    }

    async fn lease(
        &self,
        namespace: &str,
        name: String,
        stored: Option<StoredLease>,
        renewal: &Renewal,
        all: &[Arc<Renewal>],
    ) -> Result<Lease, ApiError> {
        let holder = match &stored {
            Some(StoredLease { holder, .. }) if *holder == renewal.uid => Holder::Mine,
            Some(StoredLease { holder, .. }) if !holder.is_empty() => {
                // What the list said may be old, and a holder that cannot be read may be in the middle of its work.
                let alive = is_alive(holder, all.iter().map(AsRef::as_ref)) || {
                    let (fresh, unreadable) = self.api.renewals(namespace).await?;
                    unreadable.iter().any(|one| one.may_own(holder)) || is_alive(holder, &fresh)
                };
                if alive { Holder::Other } else { Holder::Free }
            }
            _ => Holder::Free,
        };
        Ok(Lease { name, holder, resource_version: stored.map(|lease| lease.resource_version) })
    }

    /// What stands in the way beside the certificates.
    async fn obstacles(
        &self,
        key: &MeshKey,
        server_clock: Option<UnixTime>,
        now: UnixTime,
    ) -> Result<Vec<Obstacle>, ApiError> {
        let mut found = Vec::new();
        if let Some(clock) = server_clock {
            let skew = now.seconds_until(clock).abs();
            if skew > LARGEST_SKEW {
                let message =
                    format!("the clocks of meshcert and of the API server differ by {}; correct them", in_words(skew));
                found.push(Obstacle { reason: "ClockSkew", message });
            }
        }
        let Policy { engine, job, .. } = &self.acting.policy;
        if *engine == Engine::Job
            && self.api.has_service_account(&key.namespace, &job.service_account).await? == Some(false)
        {
            let message = format!(
                "the Job's account {} is not in {}; create it, or name another one (policy.job.serviceAccount)",
                job.service_account, key.namespace
            );
            found.push(Obstacle { reason: "ServiceAccountMissing", message });
        }
        let job = documented_name(key.id.as_str());
        if self.api.is_job_active(&key.namespace, &job).await? {
            let message = format!("the Job {job} is renewing the same certificates; wait for its end");
            found.push(Obstacle { reason: "JobActive", message });
        }
        Ok(found)
    }

    /// What the API server would not take from meshcert: better known now than between two writes.
    async fn unwritable(
        &self,
        secrets: &MeshSecrets,
        tiers: &[Vec<Workload>],
        key: &MeshKey,
        now: UnixTime,
    ) -> Result<Vec<Obstacle>, ApiError> {
        let mut found = Vec::new();
        for secret in secrets.iter().flatten().filter(|secret| !secret.immutable) {
            found.extend(refusal(self.api.try_secret(&key.namespace, &secret.name).await)?);
        }
        for workload in tiers.iter().flatten() {
            found.extend(refusal(self.api.try_restart(&key.namespace, workload, now).await)?);
        }
        found.dedup();
        Ok(found)
    }
}

/// What the API server says where an old webhook may do something even for show: nothing is known then.
const NO_DRY_RUN: &str = "does not support dry run";

/// The obstacle that a trial met; one about what has just changed meets none.
fn refusal(trial: Result<(), ApiError>) -> Result<Option<Obstacle>, ApiError> {
    let Err(error) = trial else { return Ok(None) };
    match hindrance(&error).filter(|_| !error.message.contains(NO_DRY_RUN)) {
        Some(Hindrance::Forbidden) => Ok(Some(Obstacle { reason: FORBIDDEN, message: grant(&error.message) })),
        Some(Hindrance::Rejected) => Ok(Some(Obstacle { reason: REJECTED, message: convince(&error.message) })),
        Some(Hindrance::Unavailable) => Err(error),
        None => Ok(None),
    }
}

/// What was in force before, from the copies of a renewal: one that can be changed is none.
pub(super) fn backups_of(
    renewal: &Renewal,
    mut copies: BTreeMap<(String, String), StoredSecret>,
) -> [Option<Material>; 3] {
    SecretRole::ALL.map(|role| {
        let backup = copies.remove(&(BACKUP.to_owned(), backup_name(renewal, role)))?;
        backup.immutable.then_some(backup.material)
    })
}

/// When the certificate ends with which members of etcd that are not restarted yet talk to each other; on the way back they have one that lasts.
fn former_peer_end(renewal: &Renewal, mesh: &HostedMesh) -> Option<UnixTime> {
    let peer = mesh.certificates.iter().find(|found| found.component == Component::EtcdPeer)?;
    let plan = renewal.status.plan.as_ref().filter(|_| !renewal.status.rolling_back)?;
    let secret = mesh.secret_name(peer.secret_role);
    let former = plan.leaves.iter().find(|leaf| leaf.secret == *secret && leaf.key == *peer.key);
    former.map(|leaf| leaf.ends_at)
}

fn circumstances(
    renewal: &Renewal,
    secrets: &MeshSecrets,
    expiration: Option<UnixTime>,
    all: &[Arc<Renewal>],
    now: UnixTime,
) -> Circumstances {
    let same_mesh =
        |other: &&Renewal| other.namespace == renewal.namespace && other.spec.mesh_id == renewal.spec.mesh_id;
    let successes = others(all, renewal).filter(same_mesh).filter(|other| other.status.phase == Phase::Succeeded);
    let failures = others(all, renewal).filter(|other| has_failed(other, now) && !same_mesh(other));
    let mut failed: Vec<(&str, &str)> =
        failures.map(|other| (other.namespace.as_str(), other.spec.mesh_id.as_str())).collect();
    failed.sort_unstable();
    failed.dedup();
    Circumstances {
        expiration,
        paused: renewal.paused || secrets.iter().flatten().any(|secret| secret.paused),
        forced: renewal.forced(),
        last_success: successes.filter_map(|other| other.status.phase_since).max(),
        failed_meshes: failed.len() as u32,
    }
}

/// Whether a try within a day came to nothing: the last one, or one before that which is under way.
fn has_failed(renewal: &Renewal, now: UnixTime) -> bool {
    let Status { phase, phase_since, refused, attempt, steps, .. } = &renewal.status;
    let is_recent = |since: UnixTime| since.seconds_until(now) < DAY;
    let tried = |step: &&StepRecord| step.attempt < *attempt && step.name >= Phase::BackingUp;
    match phase {
        Phase::Failed => phase_since.is_some_and(is_recent),
        Phase::RolledBack => *refused && phase_since.is_some_and(is_recent),
        phase if phase.is_terminal() => false,
        _ => steps.iter().filter(tried).any(|step| is_recent(step.started_at)),
    }
}

/// All but this one.
fn others<'a>(all: &'a [Arc<Renewal>], renewal: &'a Renewal) -> impl Iterator<Item = &'a Renewal> {
    all.iter().map(|other| &**other).filter(|other| other.uid != renewal.uid)
}

/// Whether a Lease's holder is a renewal that is under way.
pub(super) fn is_alive<'a>(holder: &str, all: impl IntoIterator<Item = &'a Renewal>) -> bool {
    all.into_iter().any(|other| other.uid == holder && other.is_under_way())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::api::ErrorKind;

    #[test]
    fn a_trial_that_is_refused_is_an_obstacle_and_one_that_says_nothing_is_none() {
        let refused = |kind, message: &str| refusal(Err(ApiError { kind, message: message.to_owned() }));
        let reason = |kind, message| refused(kind, message).unwrap().map(|obstacle| obstacle.reason);
        assert_eq!(reason(ErrorKind::Forbidden, "patch secrets"), Some(FORBIDDEN));
        assert_eq!(reason(ErrorKind::Invalid, "422"), Some(REJECTED));
        assert_eq!(reason(ErrorKind::Invalid, r#"admission webhook "a.b" does not support dry run"#), None);
        assert_eq!(reason(ErrorKind::Conflict, "409"), None, "it has just changed");
        assert!(refused(ErrorKind::Unavailable, "500").is_err(), "it is looked at again");
        assert_eq!(refusal(Ok(())).unwrap(), None);
    }

    #[test]
    fn the_breaker_counts_what_came_to_nothing_within_a_day() {
        let now = UnixTime(100 * DAY);
        let renewal = |phase, attempt, change: &dyn Fn(&mut Status)| {
            let step =
                |attempt, name| StepRecord { name, attempt, started_at: now, finished_at: None, result: String::new() };
            let steps = vec![step(1, Phase::Preflight), step(1, Phase::BackingUp)];
            let mut status = Status { phase, attempt, steps, phase_since: Some(now), ..Status::default() };
            change(&mut status);
            Renewal { status, ..Renewal::default() }
        };
        let counts = |renewal: Renewal| has_failed(&renewal, now);
        assert!(counts(renewal(Phase::Failed, 1, &|_| ())));
        assert!(!counts(renewal(Phase::Failed, 1, &|status| status.phase_since = Some(now.plus(-DAY)))), "yesterday");
        assert!(counts(renewal(Phase::RolledBack, 1, &|status| status.refused = true)), "rolled back by itself");
        assert!(!counts(renewal(Phase::RolledBack, 1, &|_| ())), "a person rolled it back");
        assert!(counts(renewal(Phase::Restarting, 2, &|_| ())), "it is tried again");
        assert!(!counts(renewal(Phase::Restarting, 1, &|_| ())), "it is tried for the first time");
        assert!(!counts(renewal(Phase::Staging, 2, &|status| status.steps.truncate(1))), "it was only refused before");
        assert!(!counts(renewal(Phase::Succeeded, 2, &|_| ())));
    }
}
