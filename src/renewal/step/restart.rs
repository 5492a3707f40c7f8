//! Restarting the consumers and proving that they use what is stored.

use crate::renewal::observed::{Observed, Refusal};
use crate::renewal::step::commit::{adopted, changed_beside, stores};
use crate::renewal::step::journal::{self, Retry, end, ended, fail, go, note, set_condition};
use crate::renewal::step::{Effect, Next, leave_slot};
use crate::renewal::{COALESCING, FOREIGN_OWNER, Intent, Phase, Status, Tier, TooOften};
use crate::rollout::{Members, Progress, Workload};
use crate::time::{DAY, UnixTime, in_words};

/// Shared workloads wait this long for other renewals, so that they restart once for all.
const COALESCE: i64 = 15 * 60;
/// A workload whose template has to be written more often has another owner. Its status changes its version too, so this is no small number.
const MOST_RESTARTS: u32 = 8;

pub(super) fn restarting(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    if let Some(next) = undone(seen, now).or_else(|| unguarded(seen)) {
        return next;
    }
    let tiers = match &seen.tiers {
        Ok(tiers) => tiers,
        Err(message) => return overdue(seen, message, now),
    };
    let (Some(goal), Some(since)) = (status.goal(), status.committed_at) else {
        return fail(seen, "JournalIncomplete", "the journal lacks the target", Retry::Never, now);
    };
    let index = status.tier.as_ref().map_or(0, |tier| tier.index as usize);
    // It is needed no more, whether or not there is anything left to restart.
    if (index >= tiers.len() || only_shared_is_left(seen))
        && let Some(next) = leave_slot(seen)
    {
        return next;
    }
    let Some(tier) = tiers.get(index) else {
        return go(seen, Phase::Verifying, "every pod is new and ready", now);
    };
    let digest = goal.combined();
    let (mut waiting, mut coalescing) = (Vec::new(), None);
    for (position, workload) in tier.iter().enumerate() {
        let at = (index, position);
        match progress(seen, workload, &digest, since) {
            Progress::Done => {}
            Progress::NotBegun if workload.target.shared && waits_for_others(seen, now) => {
                coalescing = Some(&workload.name)
            }
            Progress::NotBegun => {
                // A pod of since then carries our annotation and its template does not any more: it was restarted, and somebody rewrites the template.
                if workload.pods.iter().any(|pod| pod.digest.as_ref() == Some(&digest) && pod.created >= since) {
                    waiting.push(format!("{}: another controller rewrites its pod template", workload.name));
                    continue;
                }
                // A template that another controller rewrites is not written for ever.
                match Intent::next(&status.restarts, &workload.name, &workload.resource_version, MOST_RESTARTS) {
                    Ok(None) => {
                        let partition = workload.is_stepped().then_some(workload.wanted);
                        return Next::Act(Effect::Restart { at, partition, digest });
                    }
                    Ok(Some(restarts)) => return Next::from(Status { restarts, ..status.clone() }),
                    Err(TooOften) => waiting.push(format!(
                        "{}: another controller rewrites its pod template, or changes it faster than it can be written",
                        workload.name
                    )),
                }
            }
            Progress::Partition(partition) => {
                let last = workload.is_all_new(&digest, since);
                return Next::Act(Effect::SetPartition { at, partition, last });
            }
            Progress::DeletePod(name, uid) => return Next::Act(Effect::DeletePod { name, uid }),
            Progress::Rolling(words) => waiting.push(format!("{}: {words}", workload.name)),
        }
    }
    if !waiting.is_empty() {
        return overdue(seen, &waiting.join("; "), now);
    }
    if let Some(name) = coalescing {
        let message = format!("{name} is shared: it restarts once the other renewals have come this far");
        return note(&seen.renewal, COALESCING, &message);
    }
    let mut next = status.clone();
    next.tier = Some(Tier { index: index as u32 + 1, since: now });
    next.into()
}

fn progress(seen: &Observed, workload: &Workload, digest: &str, since: UnixTime) -> Progress {
    let members = if workload.target.serves.is_clustered() { seen.members } else { Members::Healthy };
    workload.progress(digest, since, members)
}

/// What all meshes share comes last in its tier, and restarts once for all that are on their way.
fn waits_for_others(seen: &Observed, now: UnixTime) -> bool {
    let since = seen.renewal.status.tier.as_ref().map_or(now, |tier| tier.since);
    has_own_left(seen) || (seen.others_under_way && since.seconds_until(now) < COALESCE)
}

/// When the first of the leaves that were in force before ends.
pub(super) fn former_end(status: &Status) -> Option<UnixTime> {
    status.plan.as_ref()?.leaves.iter().map(|leaf| leaf.ends_at).min()
}

/// What of the present tier is not restarted yet, as far as it is known.
fn left(seen: &Observed) -> Option<Vec<&Workload>> {
    let status = &seen.renewal.status;
    let index = status.tier.as_ref().map_or(0, |tier| tier.index as usize);
    let (tiers, digest, since) = (seen.tiers.as_ref().ok()?, status.goal()?.combined(), status.committed_at?);
    let tier = tiers.get(index).map_or(&[][..], Vec::as_slice);
    Some(tier.iter().filter(|workload| progress(seen, workload, &digest, since) != Progress::Done).collect())
}

/// Whether the mesh itself has something that is to be restarted in the present tier.
pub(super) fn has_own_left(seen: &Observed) -> bool {
    left(seen).is_none_or(|left| left.iter().any(|workload| !workload.target.shared))
}

/// Whether all that is left of the present tier is what all meshes share.
fn only_shared_is_left(seen: &Observed) -> bool {
    left(seen).is_some_and(|left| !left.is_empty() && left.iter().all(|workload| workload.target.shared))
}

pub(super) fn verifying(seen: &Observed, now: UnixTime) -> Next {
    if let Some(next) = undone(seen, now).or_else(|| unguarded(seen)) {
        return next;
    }
    let status = &seen.renewal.status;
    let Some(unproven) = &seen.proof else { return Next::Wait };
    let first_end = former_end(status);
    if unproven.is_empty() {
        if status.rolling_back {
            return rolled_back(seen, first_end, now);
        }
        let message = "every endpoint serves the stored certificates, and the API was used with them";
        return end(seen, Phase::Succeeded, Phase::Succeeded.as_str(), message, now);
    }
    let words: Vec<&str> = unproven.iter().map(|one| one.message.as_str()).collect();
    let words = words.join("; ");
    if !seen.proof_is_overdue(now) {
        return note(&seen.renewal, "Verifying", &words);
    }
    let old_is_good = first_end.is_some_and(|end| now.seconds_until(end) >= DAY);
    if !status.rolling_back && old_is_good && unproven.iter().any(|one| one.refusal == Some(Refusal::OfNew)) {
        let mut status = turn_round(seen, &format!("the new certificates are refused: {words}"), now);
        status.refused = true;
        return status.into();
    }
    let message = format!(
        "not proven within {}: {words}; the certificates stay as they are",
        in_words(seen.policy.verify_deadline)
    );
    fail(seen, "Unproven", &message, Retry::Later, now)
}

/// The way leads back to what was in force before.
pub(super) fn turn_round(seen: &Observed, why: &str, now: UnixTime) -> Status {
    let mut status = journal::enter(seen, Phase::Committing, why, now);
    status.rolling_back = true;
    status.commits.clear();
    status.restarts.clear();
    status.committed_at = None;
    status.tier = None;
    set_condition(&mut status, "Committed", "False", now);
    status
}

/// What was refused once is refused again, at the price of an outage: only when the former certificates have ended nothing is lost by trying.
fn rolled_back(seen: &Observed, first_end: Option<UnixTime>, now: UnixTime) -> Next {
    let message = "the former certificates are in force again, and served by every endpoint";
    let (retry, message) = match first_end {
        _ if seen.renewal.wants_back() => (Retry::Never, message.to_owned()),
        Some(end) if seen.renewal.status.refused => {
            let again = seen.renewal.command("renew");
            let words = format!("{message}; tried again when they end, {end}, or by a person: {again}");
            (Retry::At(end), words)
        }
        _ => (Retry::Later, message.to_owned()),
    };
    ended(seen, Phase::RolledBack, Phase::RolledBack.as_str(), &message, retry, now)
}

/// Somebody wrote the live Secrets after the commit: good certificates are taken over, anything else ends this.
fn undone(seen: &Observed, now: UnixTime) -> Option<Next> {
    let goal = seen.renewal.status.goal()?;
    if let Some(objection) = changed_beside(seen) {
        return Some(fail(seen, FOREIGN_OWNER, &objection.message, Retry::Never, now));
    }
    if stores(seen, Some(goal)) {
        return None;
    }
    if let Some(adopted) = adopted(seen, now) {
        return Some(adopted);
    }
    let message = "somebody else changed the Secrets after the commit; meshcert writes no more: look who manages them, then retry";
    Some(fail(seen, FOREIGN_OWNER, message, Retry::Never, now))
}

/// What is tried again has given its finalizer back: without one it could vanish in the middle.
fn unguarded(seen: &Observed) -> Option<Next> {
    (!seen.renewal.finalizer && !seen.renewal.deleting).then_some(Next::Act(Effect::SetFinalizer(true)))
}

/// Waits within the tier's deadline.
pub(super) fn overdue(seen: &Observed, words: &str, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    let since = seen.counted_from(status.tier.as_ref().map_or(now, |tier| tier.since));
    // What is shared may have waited for others first.
    let patience = if only_shared_is_left(seen) { COALESCE } else { 0 };
    if since.seconds_until(now) < seen.policy.restart_deadline + patience {
        return note(&seen.renewal, "Restarting", words);
    }
    let stored = if status.rolling_back { "former" } else { "new" };
    let message = format!(
        "not restarted within {}: {words}; the {stored} certificates stay, and nothing is restarted a second time",
        in_words(seen.policy.restart_deadline)
    );
    fail(seen, "RestartStuck", &message, Retry::Later, now)
}
