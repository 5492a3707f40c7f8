//! After the end: giving back what was taken, trying again, rolling back.

use crate::renewal::observed::{Holder, Observed};
use crate::renewal::step::journal::{self, note};
use crate::renewal::step::{Effect, Next, restart, stage};
use crate::renewal::{Phase, Tier};
use crate::time::UnixTime;

pub(super) fn terminal(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    if !status.cleaned_up {
        return clean_up(seen);
    }
    let committed = status.before.is_some() && status.committed_at.is_some() && status.phase != Phase::RolledBack;
    if seen.renewal.spec.rollback && !status.rolling_back && committed {
        let ended = status.plan.iter().flat_map(|plan| &plan.leaves).find(|leaf| leaf.ends_at <= now);
        return match ended {
            Some(leaf) => {
                let message =
                    format!("no rollback: the former {} of {} has ended at {}", leaf.key, leaf.secret, leaf.ends_at);
                note(&seen.renewal, "RollbackRefused", &message)
            }
            None => {
                Next::Journal(Box::new(restart::turn_round(seen, "a person asks for the former certificates", now)))
            }
        };
    }
    let asked_again = seen.renewal.generation != status.observed_generation;
    if asked_again
        && matches!(status.phase, Phase::Failed | Phase::Refused | Phase::RolledBack)
        && !seen.renewal.spec.rollback
    {
        return again(seen, now);
    }
    match status.next_attempt_at {
        Some(at) if now < at => Next::Wait(Some(at)),
        Some(_) if !seen.renewal.spec.rollback => again(seen, now),
        _ => Next::Wait(None),
    }
}

/// The lock first: whatever else cannot be done, the mesh is free for another renewal.
fn clean_up(seen: &Observed) -> Next {
    let partial = seen.renewal.is_partial();
    let slot = seen.slots.iter().find(|slot| slot.holder == Holder::Mine);
    if let Some(slot) = slot {
        return Next::Act(Effect::ReleaseLease(slot.clone()));
    }
    if !partial && seen.lock.holder == Holder::Mine {
        return Next::Act(Effect::ReleaseLease(seen.lock.clone()));
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
    Next::Journal(Box::new(status))
}

/// The next attempt: from the start, or where the live Secrets stand.
fn again(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    let mut next = if status.phase == Phase::Failed && status.committed_at.is_some() && status.reason != "ForeignOwner"
    {
        let mut next = journal::enter(seen, Phase::Restarting, "tried again", now);
        next.tier = Some(Tier { index: 0, since: now });
        next
    } else if seen.renewal.is_partial() {
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
    next.attempt = status.attempt + 1;
    if let Some(record) = next.steps.last_mut() {
        record.attempt = next.attempt;
    }
    Next::Journal(Box::new(next))
}
