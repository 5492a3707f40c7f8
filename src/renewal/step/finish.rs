//! After the end: giving back what was taken, trying again, rolling back.

use crate::mesh::SecretRole;
use crate::renewal::observed::Observed;
use crate::renewal::step::journal::{self, end, note};
use crate::renewal::step::{Effect, Next, commit, give_back, leave_slot, prepare, restart, stage};
use crate::renewal::{Digests, FOREIGN_OWNER, Phase, ROLLBACK_REFUSED, Tier, name_for};
use crate::time::UnixTime;

pub(super) fn terminal(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    if !status.cleaned_up {
        return clean_up(seen);
    }
    let is_other = !status.request_name.is_empty() && status.request_name != name_for(&seen.mesh);
    if seen.renewal.is_partial() {
        if let Some(gone) = commit::gone(seen, now) {
            return gone;
        }
        if is_other && is_overwritten(seen) {
            return end(seen, Phase::Superseded, "Replaced", prepare::REPLACED, now);
        }
    }
    let wants_back = seen.renewal.wants_back();
    if wants_back && !status.rolling_back && status.has_written() {
        return match objection(seen, now) {
            Some(message) => note(&seen.renewal, ROLLBACK_REFUSED, &message),
            None => restart::turn_round(seen, "a person asks for the former certificates", now).into(),
        };
    }
    if is_other && is_done_by_others(seen, now) {
        return end(seen, Phase::Superseded, "Replaced", prepare::REPLACED, now);
    }
    // What is stored has ended by now: whoever is restarted for it has nothing that works.
    if wants_back
        && hangs_on_its_way_back(seen)
        && let Some(message) = too_late(seen, now)
    {
        let message = format!("{message}; to make new ones: {}", seen.renewal.command("renew"));
        return note(&seen.renewal, ROLLBACK_REFUSED, &message);
    }
    let may_try = match status.phase {
        // Whoever wants the former certificates wants no other try at new ones.
        Phase::Failed if wants_back => status.rolling_back && status.reason != FOREIGN_OWNER,
        Phase::Failed | Phase::Refused | Phase::RolledBack => !wants_back,
        _ => false,
    };
    if !may_try {
        return Next::Wait;
    }
    // Nothing was tried yet: other certificates are looked at as if for the first time.
    let starts_anew = seen.renewal.is_asked() || (is_other && status.phase == Phase::Refused);
    match seen.renewal.next_attempt_at(&seen.policy) {
        _ if starts_anew => again(seen, now),
        Some(at) if now < at => Next::Wait,
        // A pause holds what goes on by itself, but for the way back: `meshcert rollback` pauses the mesh.
        Some(_) if !seen.about.paused || wants_back => again(seen, now),
        _ => Next::Wait,
    }
}

/// What is against putting back what was in force before.
fn objection(seen: &Observed, now: UnixTime) -> Option<String> {
    let status = &seen.renewal.status;
    if let Some(message) = too_late(seen, now) {
        return Some(message);
    }
    let missing = commit::missing(seen);
    if !missing.is_empty() {
        return Some(format!("no rollback: {} is gone; restore it, and ask again", missing.join(", ")));
    }
    let is_known = |role: SecretRole| {
        let digest = seen.written(role).digest();
        [&status.before, &status.target].into_iter().flatten().any(|known| known.of(role) == digest)
    };
    let others = SecretRole::ALL.into_iter().filter(|role| !is_known(*role));
    let names: Vec<&str> = others.map(|role| seen.mesh.secret_name(role)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "no rollback: somebody else has replaced the certificates in {} since; what to put back is in the backups of this renewal",
            names.join(", ")
        )
    })
}

/// Whether what was in force before has ended: it is never put back then, however long ago somebody asked.
pub(super) fn too_late(seen: &Observed, now: UnixTime) -> Option<String> {
    let mut leaves = seen.renewal.status.plan.iter().flat_map(|plan| &plan.leaves);
    let leaf = leaves.find(|leaf| leaf.ends_at <= now)?;
    Some(format!("no rollback: the former {} of {} has ended at {}", leaf.key, leaf.secret, leaf.ends_at))
}

/// Whether the mesh has other certificates, good for long, than those that this failed to bring. After a quarrel about the Secrets a person has to say so.
fn is_done_by_others(seen: &Observed, now: UnixTime) -> bool {
    let status = &seen.renewal.status;
    let ended_badly = match status.phase {
        Phase::Failed => status.reason != FOREIGN_OWNER && !seen.renewal.is_partial(),
        Phase::RolledBack => !seen.renewal.wants_back(),
        _ => false,
    };
    let is_whole = commit::missing(seen).is_empty();
    let is_due = seen.about.expiration.is_none_or(|end| seen.policy.due_from(end) <= now);
    // Whoever comes to nothing on his way back has brought the new ones before.
    let is_brought = status.phase == Phase::Failed && commit::stores(seen, status.target.as_ref());
    ended_badly && is_whole && !is_due && !is_brought && !commit::stores(seen, status.goal())
}

/// Whether nothing of what was half written is in force any more, so that whoever renews mixes nothing. A mesh that does not fit together may be in the
/// middle of a person's work: then, and after a quarrel about the Secrets, a person has to say so.
fn is_overwritten(seen: &Observed) -> bool {
    let status = &seen.renewal.status;
    let is_ours = |role: &SecretRole| {
        let digest = seen.written(*role).digest();
        let is = |known: &Option<Digests>| known.as_ref().is_some_and(|known| known.of(*role) == digest);
        seen.live(*role).is_none() || (is(&status.target) && !is(&status.before))
    };
    let is_calm = seen.mesh.findings.is_empty() && status.reason != FOREIGN_OWNER;
    let is_settled = is_calm || seen.renewal.is_asked();
    is_settled && !SecretRole::ALL.iter().any(is_ours)
}

/// The lock first: whatever else cannot be done, the mesh is free for another renewal.
fn clean_up(seen: &Observed) -> Next {
    let partial = seen.renewal.is_partial();
    let given_back = if partial { leave_slot(seen) } else { give_back(seen) };
    if let Some(next) = given_back {
        return next;
    }
    if !partial && seen.renewal.finalizer {
        return Next::Act(Effect::SetFinalizer(false));
    }
    if let Some(next) = stage::end_job(seen) {
        return next;
    }
    if !partial && let Some(name) = seen.staged_names.first() {
        return Next::Act(Effect::DeleteCopy(name.clone()));
    }
    let mut status = seen.renewal.status.clone();
    status.cleaned_up = true;
    status.message = journal::without_left_over(&status.message).to_owned();
    if hangs_on_its_way_back(seen) && !seen.renewal.wants_back() {
        // However often it was tried: then the former certificates have ended, and nothing is lost.
        status.next_attempt_at = status.next_attempt_at.or(restart::former_end(&status));
    }
    status.into()
}

/// Whether it has stored the former certificates and could not prove them.
fn hangs_on_its_way_back(seen: &Observed) -> bool {
    let status = &seen.renewal.status;
    let is_stored = status.committed_at.is_some() && status.reason != FOREIGN_OWNER;
    status.phase == Phase::Failed && status.rolling_back && is_stored
}

/// The next attempt: from the start, or where the live Secrets stand.
fn again(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    let failed = status.phase == Phase::Failed;
    let is_asked = seen.renewal.is_asked();
    // As after `RolledBack`: what is in force is what there was at the beginning.
    let begins_anew = hangs_on_its_way_back(seen)
        && !seen.renewal.wants_back()
        && (is_asked || too_late(seen, now).is_some())
        && commit::stores(seen, status.before.as_ref());
    // A person wants the new certificates after all, and they are still what is stored.
    let is_taken_back = is_asked && status.rolling_back && !status.refused && !seen.renewal.wants_back();
    let stays = is_taken_back && status.committed_at.is_none() && commit::stores(seen, status.target.as_ref());
    let is_stored = status.committed_at.is_some() && status.reason != FOREIGN_OWNER && !begins_anew;
    let mut next = if failed && (is_stored || stays) {
        let mut next = journal::enter(seen, Phase::Restarting, "tried again", now);
        next.tier = Some(Tier { index: 0, since: now });
        if stays {
            (next.rolling_back, next.committed_at) = (false, Some(now));
        }
        if is_asked {
            // A person has stopped whoever rewrote the templates.
            next.restarts.iter_mut().for_each(|intent| intent.times = 0);
        }
        next
    } else if seen.renewal.is_partial() || (failed && status.rolling_back && status.committed_at.is_none()) {
        let mut next = journal::enter(seen, Phase::Committing, "tried again", now);
        next.commits.iter_mut().for_each(|intent| intent.times = 0);
        next
    } else {
        let mut next = journal::enter(seen, Phase::Pending, "tried again", now);
        next.commits.clear();
        next.restarts.clear();
        (next.target, next.committed_at, next.tier) = (None, None, None);
        (next.rolling_back, next.refused) = (false, false);
        next.job = None;
        next
    };
    if is_asked {
        next.failures = 0;
    }
    journal::next_attempt(&mut next);
    next.into()
}
