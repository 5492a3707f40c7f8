//! Replacing the live Secrets. From the first write on the way leads forward, or back by a rollback as a whole.

use crate::audit::{Objection, audit};
use crate::material::{self, Material, MeshSecrets};
use crate::mesh::{HostedMesh, SecretRole};
use crate::plan::Plan;
use crate::renewal::observed::Observed;
use crate::renewal::step::finish::too_late;
use crate::renewal::step::journal::{self, Retry, end, fail, fail_status, note, set_condition};
use crate::renewal::step::prepare::withdrawn;
use crate::renewal::step::restart::turn_round;
use crate::renewal::step::{Effect, Next, leave_slot};
use crate::renewal::{Digests, FOREIGN_OWNER, Intent, Phase, ROLLBACK_REFUSED, SECRET_MISSING, Status, Tier, TooOften};
use crate::time::UnixTime;

/// etcd's first: in any mixture of old and new everything works, but a client should not be newer than what it talks to.
const ORDER: [SecretRole; 3] = [SecretRole::EtcdCerts, SecretRole::KubeCerts, SecretRole::AdminKubeconfig];
/// What keeps even former material from being put back.
const FATAL: [&str; 4] = ["LeafMissing", "WrongCa", "KeyMismatch", "UnreadableKey"];
/// A Secret that had to be written more often has another owner.
const MOST_WRITES: u32 = 5;

/// Before the first write, what speaks against it by now.
pub(super) fn stopped(seen: &Observed, now: UnixTime) -> Option<Next> {
    let status = &seen.renewal.status;
    if status.commits.is_empty() && !status.rolling_back { withdrawn(seen, now) } else { None }
}

pub(super) fn committing(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    let Some((goal, content)) = goal(seen) else {
        return without_copies(seen, now);
    };
    if seen.renewal.deleting && !seen.renewal.finalizer {
        return end(seen, Phase::Superseded, "Deleted", "it was deleted before anything was written", now);
    }
    if !seen.renewal.finalizer {
        return Next::Act(Effect::SetFinalizer(true));
    }
    let differs = |role: &SecretRole| seen.live_digest(*role, &content[*role as usize]) != goal.of(*role);
    let Some(role) = ORDER.into_iter().find(differs) else {
        return committed(seen, now);
    };
    if let Some(name) = missing(seen).first() {
        // That may take long: others go on meanwhile.
        if let Some(next) = leave_slot(seen) {
            return next;
        }
        let message = format!("the Secret {name} is gone; restore it, and the renewal goes on");
        return note(&seen.renewal, SECRET_MISSING, &message);
    }
    // Somebody else wrote: what passes the audit becomes the target, else ours is finished.
    if is_foreign(seen)
        && let Some(adopted) = adopted(seen, now)
    {
        return adopted;
    }
    let Some(live) = seen.live(role) else { return Next::Wait };
    if status.rolling_back
        && let Some(message) = too_late(seen, now)
    {
        return no_way_back(seen, &message, now);
    }
    // The CAs may have been replaced while this waited: what does not fit any more is not written.
    if let Some(plan) = &status.plan {
        let (_, mut objections) = objections(seen, plan, &content, now);
        objections.retain(|one| !status.rolling_back || FATAL.contains(&one.reason));
        if !objections.is_empty() {
            let all: Vec<&str> = objections.iter().map(|one| one.message.as_str()).collect();
            let message = format!("what is to be written does not fit the live Secrets any more: {}", all.join("; "));
            return unless_written(seen, fail_status(seen, "AuditFailed", &message, Retry::Never, now)).into();
        }
    }
    match Intent::next(&status.commits, &live.name, &live.resource_version, MOST_WRITES) {
        Ok(None) => Next::Act(Effect::Commit {
            name: live.name.clone(),
            resource_version: live.resource_version.clone(),
            material: content[role as usize].clone(),
        }),
        Ok(Some(commits)) => Next::from(Status { commits, ..status.clone() }),
        Err(TooOften) => {
            let message = format!(
                "{} was changed back {MOST_WRITES} times: somebody else manages it; stop them, then retry",
                live.name
            );
            unless_written(seen, fail_status(seen, FOREIGN_OWNER, &message, Retry::Never, now)).into()
        }
    }
}

/// What there is to do without the copies: all that is left to do with them is to compare, and that the journal can do; or the way leads back.
fn without_copies(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    if stores(seen, status.goal()) {
        return committed(seen, now);
    }
    if stores(seen, status.before.as_ref()) && !status.rolling_back {
        return staged_changed(seen, now);
    }
    let backed_up = seen.backups.iter().all(Option::is_some);
    if !status.rolling_back && backed_up {
        if let Some(message) = too_late(seen, now) {
            return no_way_back(seen, &message, now);
        }
        let why = "the staged Secrets are gone, or are others: what was in force before is put back";
        return turn_round(seen, why, now).into();
    }
    let message = "the backed-up Secrets are gone; restore them, or the mesh's Secrets by hand";
    fail(seen, "MaterialMissing", message, Retry::Later, now)
}

/// What is against writing this into the live Secrets as they are, and the mesh that would be there then.
pub(super) fn objections(
    seen: &Observed,
    plan: &Plan,
    content: &[Material; 3],
    now: UnixTime,
) -> (HostedMesh, Vec<Objection>) {
    let after = material::overlay(&seen.secrets, content);
    let mesh = material::assemble_like(&seen.mesh, &after);
    let mut objections = audit(plan, &seen.secrets, &after, &mesh, now);
    objections.extend(changed_beside(seen));
    (mesh, objections)
}

/// The end of the way back, where what was in force before has ended meanwhile: the new certificates stay where they are whole, and a mixture is left to a
/// renewal that makes all of it new.
fn no_way_back(seen: &Observed, message: &str, now: UnixTime) -> Next {
    let is_whole = stores(seen, seen.renewal.status.target.as_ref());
    let renew = seen.renewal.command("renew");
    let rest = format!("; the Secrets hold new and former certificates: {renew} makes all of them new");
    let message = if is_whole { message.to_owned() } else { format!("{message}{rest}") };
    let retry = if seen.renewal.wants_back() { Retry::Never } else { Retry::Later };
    let mut status = fail_status(seen, ROLLBACK_REFUSED, &message, retry, now);
    status.committed_at = is_whole.then(|| seen.created_now(now));
    status.commits.clear();
    status.rolling_back = false;
    status.into()
}

fn committed(seen: &Observed, now: UnixTime) -> Next {
    let what = if seen.renewal.status.rolling_back { "the former" } else { "the new" };
    stored(seen, &format!("{what} certificates are stored"), now).into()
}

/// The journal once the live Secrets hold what is to be used from now on: everything is to be restarted for it.
fn stored(seen: &Observed, message: &str, now: UnixTime) -> Status {
    let mut status = journal::enter(seen, Phase::Restarting, message, now);
    status.committed_at = Some(seen.created_now(now));
    status.tier = Some(Tier { index: 0, since: now });
    set_condition(&mut status, "Committed", "True", now);
    status
}

/// The names of the mesh's Secrets that are not there.
pub(super) fn missing(seen: &Observed) -> Vec<&str> {
    let missing = SecretRole::ALL.into_iter().filter(|role| seen.live(*role).is_none());
    missing.map(|role| seen.mesh.secret_name(role)).collect()
}

/// Without its Secrets there is no mesh, and nothing half written.
pub(super) fn gone(seen: &Observed, now: UnixTime) -> Option<Next> {
    let message = "the mesh's Secrets are gone, all of them; what they held before is in the backups of this renewal";
    (missing(seen).len() == SecretRole::ALL.len()).then(|| end(seen, Phase::Superseded, SECRET_MISSING, message, now))
}

/// What the live Secrets are to hold, as it was journalled: copies that hold anything else count as gone.
pub(super) fn goal(seen: &Observed) -> Option<(&Digests, [Material; 3])> {
    let status = &seen.renewal.status;
    let digests = status.goal()?;
    match if status.rolling_back { seen.backups.clone() } else { seen.sealed() } {
        [Some(kube), Some(etcd), Some(admin)] => {
            let content = [kube, etcd, admin];
            (Digests::over(content.each_ref()) == *digests).then_some((digests, content))
        }
        _ => None,
    }
}

/// Whether the live Secrets hold just this.
pub(super) fn stores(seen: &Observed, digests: Option<&Digests>) -> bool {
    digests == Some(&Digests::written(&seen.mesh, &seen.secrets))
}

/// The end of an attempt whose copies somebody removed or replaced before anything was written; the next one makes its own.
pub(super) fn staged_changed(seen: &Observed, now: UnixTime) -> Next {
    let message = "somebody removed or replaced the staged Secrets before they were used; nothing was touched";
    let mut status = fail_status(seen, "StagedChanged", message, Retry::Later, now);
    // What was intended was not done: nothing is half written.
    status.commits.clear();
    status.into()
}

/// The same end, where the live Secrets are still what this phase has found: what was intended was not done then either.
pub(super) fn unless_written(seen: &Observed, mut end: Status) -> Status {
    let status = &seen.renewal.status;
    let found = if status.rolling_back { &status.target } else { &status.before };
    if status.phase == Phase::Committing && stores(seen, found.as_ref()) {
        end.commits.clear();
    }
    end
}

/// Whether a live Secret holds neither what was before nor what is to be.
pub(super) fn is_foreign(seen: &Observed) -> bool {
    let status = &seen.renewal.status;
    let (Some(before), Some(target)) = (&status.before, &status.target) else { return false };
    SecretRole::ALL.into_iter().any(|role| {
        let Some(backup) = &seen.backups[role as usize] else { return false };
        let live = seen.live_digest(role, backup);
        seen.live(role).is_some() && live != before.of(role) && live != target.of(role)
    })
}

/// What somebody else changed of that which no renewal changes: new leaves do not make up for it, and whoever trusts the former CAs or accounts is cut off.
pub(super) fn changed_beside(seen: &Observed) -> Option<Objection> {
    let fixed = seen.renewal.status.fixed.as_ref()?;
    let is_changed = |role: &SecretRole| seen.live(*role).is_some() && seen.fixed(*role).digest() != fixed.of(*role);
    let changed = SecretRole::ALL.into_iter().filter(is_changed);
    let names: Vec<&str> = changed.map(|role| seen.mesh.secret_name(role)).collect();
    let message = format!(
        "somebody else changed CAs or service account keys (ca.*, *-ca.*, sa.*) in {}; restore them, or make a new renewal for what is there",
        names.join(", ")
    );
    (!names.is_empty()).then_some(Objection { reason: "OtherEntryChanged", message })
}

/// What becomes of it where somebody else's certificates are stored, and are good: they stay.
pub(super) fn adopted(seen: &Observed, now: UnixTime) -> Option<Next> {
    let plan = seen.renewal.status.plan.as_ref()?;
    let backups = seen.backups.clone().map(Option::unwrap_or_default);
    let before: MeshSecrets = material::overlay(&seen.secrets, &backups);
    if changed_beside(seen).is_some() || !audit(plan, &before, &seen.secrets, &seen.mesh, now).is_empty() {
        return None;
    }
    if seen.renewal.wants_back() {
        let message = "somebody else's certificates are stored, and are good: they are kept, and nothing is put back";
        return Some(end(seen, Phase::Superseded, "Replaced", message, now));
    }
    let message = "somebody else's certificates are stored, and are good: they are kept";
    let mut status = stored(seen, message, now);
    status.target = Some(Digests::written(&seen.mesh, &seen.secrets));
    status.restarts.clear();
    status.rolling_back = false;
    Some(status.into())
}
