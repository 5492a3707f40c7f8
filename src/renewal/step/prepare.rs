//! Everything before the first commit: nothing live is touched.

use crate::audit::Objection;
use crate::mesh::SecretRole;
use crate::native::{self, Obstacle};
use crate::plan::{Plan, staying};
use crate::policy::{Hold, Mode};
use crate::renewal::observed::{Holder, Observed, Refusal, backup_name};
use crate::renewal::step::commit::{self, objections, staged_changed};
use crate::renewal::step::journal::{self, Retry, end, ended, fail, fail_status, go, note, refuse};
use crate::renewal::step::stage::end_job;
use crate::renewal::step::{Effect, Next, give_back, held, is_approved, present_leaves};
use crate::renewal::{Digests, NO_SUCH_MESH, Phase, ROLLBACK_REFUSED, SECRET_MISSING, Status, name_for};
use crate::rollout::{Serves, Workload};
use crate::time::{DAY, UnixTime};

/// New certificates must outlast `renewBefore` by this, or renewing would never end.
const MARGIN: i64 = 7 * DAY;
/// What preflight found out is looked at again after so many seconds.
const STALE: i64 = 5 * 60;
pub(super) const REPLACED: &str = "somebody else has replaced the certificates that this renewal was about";

const NOTHING_TO_PUT_BACK: &str = "no rollback: nothing was written yet, and nothing is as long as spec.rollback asks for what is in force; take it back, and this goes on";
const NEVER_BEGAN: &str = "no rollback: this renewal has not begun, so there is nothing that it could put back";
const OTHER_PLAN: &str = "what the plan was about has changed";
/// Why `spec.force` may stand there in vain.
const CREATED_WITH_FORCE: &str = "spec.force does not count yet: it came with the creation, and whoever may only create may not insist; any change of the spec makes it count";

pub(super) fn pending(seen: &Observed, now: UnixTime) -> Next {
    // What an earlier attempt has backed up is in force no more: other certificates are another renewal's.
    if seen.renewal.status.before.is_some() && present_leaves(seen) != seen.renewal.status.certificates {
        return end(seen, Phase::Superseded, "Replaced", REPLACED, now);
    }
    let Status { before, plan, .. } = &seen.renewal.status;
    if seen.renewal.spec.rollback && before.is_none() && plan.is_none() {
        // As if it had not been asked for: it bars nobody from renewing.
        let rollback = seen.renewal.command("rollback");
        let message = format!("{NEVER_BEGAN}; to put back what another renewal replaced: {rollback}");
        return ended(seen, Phase::Refused, ROLLBACK_REFUSED, &message, Retry::Never, now);
    }
    if seen.renewal.wants_back() {
        return note(&seen.renewal, ROLLBACK_REFUSED, NOTHING_TO_PUT_BACK);
    }
    match holds(seen, now) {
        Some((Hold::NotDue, _)) if commit::missing(seen).len() == SecretRole::ALL.len() => {
            let message = format!(
                "there is no hosted mesh {} here: none of the Secrets {} exists; correct spec.meshId in a new one, or restore them",
                seen.renewal.spec.mesh_id,
                seen.mesh.secret_names.join(", ")
            );
            refuse(seen, NO_SUCH_MESH, &message, Retry::Never, now)
        }
        Some((hold @ Hold::NotDue, message)) => {
            let due = seen.about.expiration.map(|end| seen.policy.due_from(end));
            refuse(seen, hold.as_str(), &message, due.map_or(Retry::Never, Retry::At), now)
        }
        Some((hold, _)) if may_agree_meanwhile(seen, hold) => {
            go(seen, Phase::Preflight, "a person may agree to the plan before the policy allows it", now)
        }
        Some((hold, message)) => note(&seen.renewal, hold.as_str(), &message),
        None => go(seen, Phase::Preflight, "the policy allows it", now),
    }
}

/// Whether it waits for what passes by itself, and for a person: a window that opens without the consent would be lost.
fn may_agree_meanwhile(seen: &Observed, hold: Hold) -> bool {
    let passes = matches!(hold, Hold::OutsideWindow | Hold::Cooldown);
    passes && seen.policy.mode == Mode::Approve && !is_approved(seen)
}

/// What the policy has against it, with the command that overrides it where one does.
fn holds(seen: &Observed, now: UnixTime) -> Option<(Hold, String)> {
    let (hold, message) = seen.policy.holds(&seen.about, now)?;
    Some(match hold {
        Hold::NotDue | Hold::BreakerOpen => (hold, format!("{message}; {}", insist(seen, "to renew all the same"))),
        _ => (hold, message),
    })
}

/// How a person insists, and why it was in vain where somebody has tried.
fn insist(seen: &Observed, purpose: &str) -> String {
    let command = seen.renewal.command("renew");
    if seen.renewal.spec.force && !seen.renewal.forced() {
        return format!("{CREATED_WITH_FORCE}; {purpose}: {command} --force");
    }
    format!("{purpose}: {command} --force, or spec.force")
}

pub(super) fn preflight(seen: &Observed, now: UnixTime) -> Next {
    for role in SecretRole::ALL {
        let name = seen.mesh.secret_name(role);
        match seen.live(role) {
            None => {
                let message = format!("the Secret {name} does not exist; restore it first");
                return refuse(seen, SECRET_MISSING, &message, Retry::Later, now);
            }
            Some(secret) if secret.immutable => {
                let message = format!("the Secret {name} is immutable; replace it by one that is not");
                return refuse(seen, "SecretImmutable", &message, Retry::Later, now);
            }
            Some(_) => {}
        }
    }
    let mut obstacles = native::obstacles(&seen.mesh, &seen.secrets, now);
    obstacles.extend(seen.obstacles.iter().cloned());
    if let Some(first) = obstacles.first() {
        let all: Vec<&str> = obstacles.iter().map(|obstacle| obstacle.message.as_str()).collect();
        return refuse(seen, first.reason, &all.join("; "), Retry::Later, now);
    }
    let tiers = match &seen.tiers {
        Ok(tiers) => tiers,
        Err(message) => return refuse(seen, "WorkloadUnresolved", message, Retry::Later, now),
    };
    if let Some(message) = unready(seen, tiers, now) {
        return refuse(seen, "WorkloadUnready", &message, Retry::Later, now);
    }
    if has_time(seen, now)
        && let Some(message) = held_back(tiers)
    {
        let message = format!("{message}; {}", insist(seen, "or insist"));
        return refuse(seen, "RolloutHeld", &message, Retry::Later, now);
    }
    if has_time(seen, now)
        && let Some(Obstacle { reason, message }) = native::unprovable(&seen.mesh, &seen.secrets)
    {
        let message = format!("{message}; correct it first; {}", insist(seen, "or insist"));
        return refuse(seen, reason, &message, Retry::Later, now);
    }
    if seen.mesh.leaves().next().is_none() {
        return refuse(seen, "NoCertificates", "no certificate was found in the mesh's Secrets", Retry::Later, now);
    }
    let plan = Plan::make(&seen.renewal.uid, &seen.mesh, tiers, &seen.policy, now);
    let least = seen.policy.renew_before + MARGIN;
    if now.seconds_until(plan.ends_at) < least {
        let why = match staying(&seen.mesh, &seen.policy, now).find(|found| found.effective_not_after == plan.ends_at) {
            Some(found) => {
                let (place, position) = (seen.mesh.place_of(found), &found.position);
                format!(
                    "for {place}, {position} ends then, which no renewal replaces, not being the first of its entry; take it out or replace it first"
                )
            }
            None => "for a CA ends; that is within renewBefore, so a new CA has to be made first".to_owned(),
        };
        let message = format!("renewing now would only reach {}, {why}", plan.ends_at);
        // A CA that is extended under its key changes no leaf: nothing else would tell.
        return refuse(seen, "TargetUnreachable", &message, Retry::Later, now);
    }
    let phase = if seen.policy.mode == Mode::Approve { Phase::AwaitingApproval } else { Phase::BackingUp };
    let mut status = journal::enter(seen, phase, "the plan is made", now);
    status.certificates = present_leaves(seen);
    status.request_name = name_for(&seen.mesh);
    status.ends_at = None;
    status.plan = Some(plan);
    status.into()
}

fn has_time(seen: &Observed, now: UnixTime) -> bool {
    seen.policy.has_time(&seen.about, now)
}

/// Where a rollout of etcd or of the hosted API does not come to its end, a restart also ends the pods that still work. What is scaled away loses nothing by
/// waiting either, and fails for certain, which would count against other meshes.
fn unready(seen: &Observed, tiers: &[Vec<Workload>], now: UnixTime) -> Option<String> {
    let has_time = has_time(seen, now);
    let serving = tiers.iter().flatten().filter(|workload| workload.target.serves != Serves::Nothing);
    let stands_in_the_way = |workload: &&Workload| has_time || (workload.is_off() && !seen.about.forced);
    let unready: Vec<String> = serving.filter(stands_in_the_way).filter_map(Workload::unready).collect();
    let remedy = "a restart would end what still works, and prove nothing: repair it first";
    (!unready.is_empty()).then(|| format!("{}; {remedy}; {}", unready.join("; "), insist(seen, "or insist")))
}

/// A rollout that somebody holds back would not come to its end, or a restart would let out what they keep.
fn held_back(tiers: &[Vec<Workload>]) -> Option<String> {
    let held: Vec<String> = tiers.iter().flatten().filter_map(Workload::held_back).collect();
    (!held.is_empty()).then(|| held.join("; "))
}

pub(super) fn awaiting_approval(seen: &Observed, now: UnixTime) -> Next {
    if let Some(next) = no_longer(seen, now) {
        return next;
    }
    let (Ok(tiers), Some(known)) = (&seen.tiers, &seen.renewal.status.plan) else {
        return go(seen, Phase::Preflight, "the workloads have to be looked at again", now);
    };
    let plan = Plan::make(&seen.renewal.uid, &seen.mesh, tiers, &seen.policy, now);
    if plan.digest != known.digest {
        return go(seen, Phase::Preflight, OTHER_PLAN, now);
    }
    if is_approved(seen) && is_stale(seen, now) {
        return go(seen, Phase::Preflight, "approved; what may stand in the way by now is looked at again", now);
    }
    if is_approved(seen) {
        return go(seen, Phase::BackingUp, "approved", now);
    }
    let agreed = seen.renewal.spec.approval.as_ref().map(|approval| &approval.plan_digest);
    let other = agreed.map(|digest| format!("spec.approval is about another plan ({digest}); ")).unwrap_or_default();
    let then = holds(seen, now).map(|(_, message)| format!("; once that is done: {message}")).unwrap_or_default();
    let approve = seen.renewal.command("approve");
    let message = format!("{other}look at the plan, then: {approve} --digest {}{then}", known.digest);
    note(&seen.renewal, "AwaitingApproval", &message)
}

pub(super) fn backing_up(seen: &Observed, now: UnixTime) -> Next {
    if let Some(next) = no_longer(seen, now).or_else(|| replanned(seen, now)) {
        return next;
    }
    let has = |holder| seen.slots.iter().any(|slot| slot.holder == holder);
    if is_stale(seen, now) && has(Holder::Free) && !has(Holder::Mine) {
        return start_over(
            seen,
            Phase::Preflight,
            "its turn; what may stand in the way by now is looked at again",
            now,
        );
    }
    if let Some(next) = held(seen, now) {
        return next;
    }
    for role in SecretRole::ALL {
        let written = seen.written(role);
        match &seen.backups[role as usize] {
            None => {
                return Next::Act(Effect::BackUp { name: backup_name(&seen.renewal, role), material: written });
            }
            Some(backup) if *backup != written => {
                let name = backup_name(&seen.renewal, role);
                let message = format!(
                    "{name} holds something else than the live Secret, which has changed since; if that is meant, delete {name}, and it goes on"
                );
                return fail(seen, "BackupDiffers", &message, Retry::Later, now);
            }
            Some(_) => {}
        }
    }
    let mut status = journal::enter(seen, Phase::Staging, "what is in force is backed up", now);
    status.staged_attempt = Some(status.attempt);
    status.target = None;
    status.before = Some(Digests::written(&seen.mesh, &seen.secrets));
    status.fixed = Some(Digests::over(SecretRole::ALL.map(|role| seen.fixed(role)).each_ref()));
    status.into()
}

pub(super) fn auditing(seen: &Observed, now: UnixTime) -> Next {
    if let Some(next) = unfit(seen, now) {
        return next;
    }
    let Some(proof) = &seen.proof else { return Next::Wait };
    let of = |refusal| {
        let those = proof.iter().filter(|one| one.refusal == Some(refusal));
        those.map(|one| one.message.as_str()).collect::<Vec<_>>().join("; ")
    };
    let (refused, unclear) = (of(Refusal::OfNew), of(Refusal::Unclear));
    if !refused.is_empty() {
        return login_refused(seen, "still takes", &refused, now);
    }
    // Who does not answer, or takes the former credentials no more, proves nothing: that may be what this is to heal.
    if unclear.is_empty() {
        return go(seen, Phase::Committing, "the new material is good", now);
    }
    if seen.proof_is_overdue(now) {
        return login_refused(seen, "does not say whether it takes", &unclear, now);
    }
    note(&seen.renewal, Phase::Auditing.as_str(), &unclear)
}

/// The end of an attempt whose credentials the hosted API knows already that it will not take. What it goes by may change without us, and does when one of
/// the present certificates ends: at last there is nothing to lose, and nothing to compare with.
fn login_refused(seen: &Observed, takes: &str, words: &str, now: UnixTime) -> Next {
    let [kube, _, admin] = &seen.mesh.secret_names;
    let message = format!(
        "the hosted API refuses the new admin kubeconfig and {takes} that of {admin}, nothing was touched: {words}; correct what it takes clients by (--client-ca-file has to be ca.crt of {kube}; its node's clock), then: {}",
        seen.renewal.command("renew")
    );
    let mut status = fail_status(seen, "LoginRefused", &message, Retry::Later, now);
    let ends = status.plan.iter().flat_map(|plan| &plan.leaves).map(|leaf| leaf.ends_at);
    status.next_attempt_at = status.next_attempt_at.or(ends.filter(|end| *end > now).min());
    status.into()
}

/// What is against the staged set without asking anybody.
pub(super) fn unfit(seen: &Observed, now: UnixTime) -> Option<Next> {
    if let Some(next) = no_longer(seen, now).or_else(|| held(seen, now)) {
        return Some(next);
    }
    let (Some(plan), Some(target)) = (&seen.renewal.status.plan, &seen.renewal.status.target) else {
        let message = "the journal lacks the plan or the target";
        return Some(fail(seen, "JournalIncomplete", message, Retry::Later, now));
    };
    let staged = seen.sealed().map(Option::unwrap_or_default);
    if Digests::over(staged.each_ref()) != *target {
        return Some(staged_changed(seen, now));
    }
    let (mesh, mut objections) = objections(seen, plan, &staged, now);
    if let Some(end) = mesh.expiration.filter(|end| now.seconds_until(*end) < seen.policy.renew_before) {
        let message =
            format!("the first of all that the hosted API needs would end at {end}, and be due again at once");
        objections.push(Objection { reason: "TargetMissed", message });
    }
    if objections.is_empty() {
        return None;
    }
    let all: Vec<String> = objections.iter().map(|one| format!("{} ({})", one.message, one.reason)).collect();
    let mut message = format!("the new material is not good enough, nothing was touched: {}", all.join("; "));
    if let Some(job) = seen.renewal.status.job.as_ref().filter(|job| !job.said.is_empty()) {
        message.push_str(&format!("; kubeadm said: {}", job.said));
    }
    Some(fail(seen, "AuditFailed", &message, Retry::Never, now))
}

/// Whether nothing is made yet, and the policy would have it made otherwise than the plan says, which somebody may have agreed to.
pub(super) fn replanned(seen: &Observed, now: UnixTime) -> Option<Next> {
    let known = seen.renewal.status.plan.as_ref()?;
    let plan = Plan::make(&seen.renewal.uid, &seen.mesh, &[], &seen.policy, now);
    (!plan.makes_as(known)).then(|| start_over(seen, Phase::Preflight, OTHER_PLAN, now))
}

/// Whether the certificates are still those that this is about, and it may still go on.
pub(super) fn no_longer(seen: &Observed, now: UnixTime) -> Option<Next> {
    if present_leaves(seen) != seen.renewal.status.certificates {
        return Some(end(seen, Phase::Superseded, "Replaced", REPLACED, now));
    }
    withdrawn(seen, now)
}

/// What the policy, or a person who has agreed before, has against it by now. Nothing was touched yet: it starts over once it may.
pub(super) fn withdrawn(seen: &Observed, now: UnixTime) -> Option<Next> {
    let waits = seen.renewal.status.phase == Phase::AwaitingApproval;
    if seen.renewal.wants_back() {
        return Some(start_over(seen, Phase::Pending, NOTHING_TO_PUT_BACK, now));
    }
    match holds(seen, now) {
        Some((hold, _)) if waits && may_agree_meanwhile(seen, hold) => None,
        Some((hold, message)) if waits && !is_approved(seen) => Some(note(&seen.renewal, hold.as_str(), &message)),
        Some((hold, message)) => Some(start_over(seen, Phase::Pending, &format!("{}: {message}", hold.as_str()), now)),
        None if waits || is_approved(seen) => None,
        None => Some(start_over(seen, Phase::Preflight, "the approval is gone", now)),
    }
}

/// Whether it has waited, since preflight, for so long that a rollout may hang or a right be gone that was there.
fn is_stale(seen: &Observed, now: UnixTime) -> bool {
    seen.renewal.status.phase_since.is_some_and(|since| since.seconds_until(now) >= STALE)
}

/// Gives back what was taken, and begins again: what was made on former facts is made anew.
fn start_over(seen: &Observed, phase: Phase, message: &str, now: UnixTime) -> Next {
    if let Some(next) = end_job(seen).or_else(|| give_back(seen)) {
        return next;
    }
    if let Some(name) = seen.staged_names.first() {
        return Next::Act(Effect::DeleteCopy(name.clone()));
    }
    if seen.renewal.finalizer {
        return Next::Act(Effect::SetFinalizer(false));
    }
    let mut status = journal::enter(seen, phase, message, now);
    if status.staged_attempt == Some(status.attempt) {
        status.job = None;
        journal::next_attempt(&mut status);
    }
    status.into()
}
