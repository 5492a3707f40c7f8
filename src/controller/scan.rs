//! What the leader does beside renewals, every minute: asks for what is due, removes what is left over, looks at what endpoints serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::cluster::api::ApiError;
use crate::cluster::material::{BACKUP, Copy, STAGED};
use crate::controller::{Actor, Timing};
use crate::mesh::HostedMesh;
use crate::policy::{Mode, Policy};
use crate::renewal::{Phase, Renewal, Status, Trigger, name_for};
use crate::requests::{Asked, ask_beside};
use crate::time::UnixTime;

/// When a leader scans: soon after it has begun to lead, again when more has been read for the first time, and then by the clock.
pub(super) struct Schedule {
    timing: Timing,
    next: Option<Instant>,
    /// Sources that were read when it scanned last.
    read: Option<usize>,
}

impl Schedule {
    /// Of one that does not lead yet.
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, next: None, read: None }
    }

    /// Whether a leader that has read so many sources scans now. What was not read as a whole has no meshes: there is nothing to scan before.
    pub(super) fn is_due(&mut self, read: usize, now: Instant) -> bool {
        let next = *self.next.get_or_insert(now + self.timing.first_scan);
        let is_due = read > 0 && (now >= next || self.read.is_some_and(|known| read > known));
        if is_due {
            (self.next, self.read) = (Some(now + self.timing.scan), Some(read));
        }
        is_due
    }
}

impl Actor {
    /// Asks for what is due, removes what is left over, looks at what endpoints serve.
    pub(super) async fn scan(&self, meshes: &[Arc<HostedMesh>]) {
        // A failure shows in what follows, and the next scan asks again.
        let _ = self.introduced.get_or_try_init(|| self.introduce()).await;
        let mut ours = Vec::new();
        for namespace in &self.acting.namespaces {
            let here = ours.len();
            ours.extend(meshes.iter().filter(|mesh| *mesh.key.namespace == **namespace));
            if let Err(error) = self.ask_and_tidy(namespace, &ours[here..]).await {
                warn!(cluster = %self.acting.name, namespace, %error, "cannot look for what is due and what is left over");
            }
        }
        self.sweep(&ours).await;
    }

    /// Says once whether the API server is too old.
    async fn introduce(&self) -> Result<(), ApiError> {
        if let Some(warning) = self.api.server().await?.warning() {
            warn!(cluster = %self.acting.name, "{warning}");
        }
        Ok(())
    }

    async fn ask_and_tidy(&self, namespace: &str, meshes: &[&Arc<HostedMesh>]) -> Result<(), ApiError> {
        // Before the renewals: a copy whose renewal is made in the meantime is not left over.
        let copies = tokio::try_join!(self.api.copies(namespace, STAGED), self.api.copies(namespace, BACKUP));
        let (renewals, unreadable) = self.api.renewals(namespace).await?;
        for mesh in meshes {
            if let Err(error) = self.ask_if_due(mesh, &renewals).await {
                warn!(mesh = %mesh.key.id, %error, "cannot ask for a renewal");
            }
        }
        self.look_again(meshes, &renewals).await;
        // Only now: whoever may not list the copies still asks for what is due.
        let (mut staged, mut backups) = copies?;
        // One that cannot be read may need them.
        let is_known = |copy: &Copy| !unreadable.iter().any(|one| one.may_own(&copy.renewal_uid));
        staged.retain(is_known);
        backups.retain(is_known);
        self.tidy(namespace, &renewals, &staged).await?;
        self.prune_backups(namespace, &renewals, backups).await
    }

    async fn ask_if_due(&self, mesh: &HostedMesh, renewals: &[Renewal]) -> Result<(), ApiError> {
        let now = self.around.clock.now();
        let due = mesh.expiration.is_some_and(|end| self.acting.policy.due_from(end) <= now);
        if !due || self.acting.policy.mode == Mode::Observe {
            return Ok(());
        }
        if let Asked::Created(name) = ask_beside(&self.api, renewals, mesh, Trigger::Schedule).await? {
            info!(cluster = %self.acting.name, mesh = %mesh.key.id, renewal = name, "due: asked for a renewal");
        }
        Ok(())
    }

    /// Takes up what ended badly and whose mesh has other certificates by now, perhaps a person's: it decides what that means for it.
    async fn look_again(&self, meshes: &[&Arc<HostedMesh>], renewals: &[Renewal]) {
        let others: Vec<&Renewal> = renewals.iter().filter(|renewal| is_outdated(renewal, meshes)).collect();
        if others.is_empty() {
            return;
        }
        let all: Vec<Arc<Renewal>> =
            self.followed.view().renewals.iter().map(|known| Arc::clone(&known.renewal)).collect();
        for renewal in others {
            self.drive(renewal, &all).await;
        }
    }

    /// Removes staged copies whose renewal is gone.
    async fn tidy(&self, namespace: &str, renewals: &[Renewal], staged: &[Copy]) -> Result<(), ApiError> {
        for copy in staged {
            if !renewals.iter().any(|renewal| renewal.uid == copy.renewal_uid) {
                info!(namespace, name = copy.name, "removing a staged copy whose renewal is gone");
                self.api.delete_copy(namespace, &copy.name).await?;
            }
        }
        Ok(())
    }

    /// Removes backups beyond those that are kept.
    async fn prune_backups(&self, namespace: &str, renewals: &[Renewal], backups: Vec<Copy>) -> Result<(), ApiError> {
        let Policy { backups: most, lifetime, .. } = self.acting.policy;
        let oldest = self.around.clock.now().plus(-lifetime);
        for name in surplus(backups, renewals, most, oldest) {
            info!(namespace, name, "removing an old backup");
            self.api.delete_copy(namespace, &name).await?;
        }
        Ok(())
    }
}

/// Whether a renewal ended badly, and its mesh does not have the certificates any more that it was asked for.
fn is_outdated(renewal: &Renewal, meshes: &[&Arc<HostedMesh>]) -> bool {
    let Status { phase, cleaned_up, request_name, .. } = &renewal.status;
    let ended_badly = matches!(phase, Phase::Failed | Phase::Refused | Phase::RolledBack) && *cleaned_up;
    let of_mesh = meshes.iter().find(|mesh| mesh.key.id.as_str() == renewal.spec.mesh_id);
    ended_badly && !request_name.is_empty() && of_mesh.is_some_and(|mesh| name_for(mesh) != *request_name)
}

/// The names of the backups that may go: of each mesh all but the newest `most` sets, and of these what was in force before `oldest`, for it has ended by now; but
/// never the newest set, nor that of a renewal under way.
fn surplus(mut backups: Vec<Copy>, renewals: &[Renewal], most: usize, oldest: UnixTime) -> Vec<String> {
    backups.sort_by(|a, b| (&b.created, &b.renewal_uid).cmp(&(&a.created, &a.renewal_uid)));
    let mut kept: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // What stays leaves the list.
    backups.retain(|backup| {
        let renewal = renewals.iter().find(|renewal| renewal.uid == backup.renewal_uid);
        let is_needed = renewal.is_some_and(Renewal::is_under_way);
        // A label cuts what is long: whose it is the renewal knows, as long as there is one.
        let mesh = renewal.map_or(&backup.mesh, |renewal| &renewal.spec.mesh_id);
        let kept = kept.entry(mesh.clone()).or_default();
        if is_needed || kept.contains(&backup.renewal_uid) {
            return false;
        }
        let is_old = UnixTime::parse_rfc_3339(&backup.created).is_some_and(|created| created < oldest);
        let has_room = kept.is_empty() || kept.len() < most && !is_old;
        if has_room {
            kept.push(backup.renewal_uid.clone());
        }
        !has_room
    });
    backups.into_iter().map(|backup| backup.name).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::renewal::Spec;

    #[test]
    fn the_newest_backups_of_each_mesh_stay_and_those_that_are_needed() {
        let backup = |mesh: &str, uid: &str, day: u32| {
            let name = format!("{mesh}-{uid}-{day}");
            Copy { name, mesh: mesh.into(), renewal_uid: uid.into(), created: format!("2026-01-{day:02}T00:00:00Z") }
        };
        let mut running = Renewal { uid: "a".to_owned(), ..Renewal::default() };
        running.status.phase = Phase::Committing;
        let all = || {
            let sets = [("one", "a", 1), ("one", "b", 2), ("one", "c", 3), ("one", "d", 4), ("two", "e", 1)];
            sets.into_iter().flat_map(|(mesh, uid, day)| [backup(mesh, uid, day), backup(mesh, uid, day)]).collect()
        };
        let surplus = |renewals: &[Renewal], most| super::surplus(all(), renewals, most, UnixTime(0));
        assert_eq!(surplus(&[], 2), ["one-b-2", "one-b-2", "one-a-1", "one-a-1"], "whole sets, the oldest");
        assert_eq!(surplus(&[running], 2), ["one-b-2", "one-b-2"], "not what is under way");
        assert_eq!(surplus(&[], 9), [""; 0]);
        let of = |uid: &str, mesh: &str| {
            let spec = Spec { mesh_id: mesh.to_owned(), ..Spec::default() };
            Renewal { uid: uid.to_owned(), spec, ..Renewal::default() }
        };
        let long = [of("a", "one-and-more"), of("d", "one-and-other")];
        assert_eq!(surplus(&long, 1), ["one-b-2", "one-b-2"], "whose names differ behind what a label holds");
        let later = |day| UnixTime::parse_rfc_3339(&format!("2026-01-{day:02}T00:00:00Z")).unwrap();
        assert_eq!(super::surplus(all(), &[], 9, later(3)), ["one-b-2", "one-b-2", "one-a-1", "one-a-1"], "by age");
        let newest = ["one-c-3", "one-c-3", "one-b-2", "one-b-2", "one-a-1", "one-a-1"];
        assert_eq!(super::surplus(all(), &[], 9, later(30)), newest, "however old");
    }

    #[test]
    fn it_scans_once_something_is_read_and_when_more_is_and_by_the_clock() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let due = |timing: Timing, asked: &[(u64, usize)]| {
            let mut schedule = Schedule::new(timing);
            let seconds = asked.iter().filter(|(seconds, read)| schedule.is_due(*read, at(*seconds)));
            seconds.map(|(seconds, _)| *seconds).collect::<Vec<_>>()
        };
        let asked = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (63, 2), (64, 2), (70, 2), (124, 2)];
        assert_eq!(due(Timing::DEFAULT, &asked), [2, 4, 64, 124]);
        let patient = Timing { first_scan: Duration::from_secs(10), ..Timing::DEFAULT };
        assert_eq!(due(patient, &[(0, 1), (4, 2), (9, 2), (10, 2), (11, 2), (12, 3), (71, 3), (72, 3)]), [10, 12, 72]);
    }
}
