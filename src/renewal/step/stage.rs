//! Making the new material beside the live one: in process, or by kubeadm in a Job.

use crate::job::{self, Orders, Verdict};
use crate::mesh::SecretRole;
use crate::policy::Engine;
use crate::renewal::observed::{self, Observed};
use crate::renewal::step::commit::staged_changed;
use crate::renewal::step::journal::{self, Retry, fail, note};
use crate::renewal::step::prepare::{no_longer, replanned};
use crate::renewal::step::{Effect, Next, held};
use crate::renewal::{Digests, JobRecord, Phase, Status};
use crate::time::{UnixTime, in_words};

/// What the Job's deadline leaves out: making its pod, and the pod's end.
const GRACE: i64 = 120;

pub(super) fn staging(seen: &Observed, now: UnixTime) -> Next {
    if let Some(next) = no_longer(seen, now).or_else(|| held(seen, now)) {
        return next;
    }
    let sealed = seen.sealed();
    if let [Some(kube), Some(etcd), Some(admin)] = &sealed
        && is_over(seen)
    {
        let mut status = journal::enter(seen, Phase::Auditing, &made(seen), now);
        status.target = Some(Digests::over([kube, etcd, admin]));
        return status.into();
    }
    if let Some(next) = replanned(seen, now) {
        return next;
    }
    match seen.renewal.status.plan.as_ref().map(|plan| plan.engine) {
        Some(Engine::Job) => in_a_job(seen, now),
        Some(Engine::Native) | None => in_process(seen),
    }
}

fn in_process(seen: &Observed) -> Next {
    // Another engine was at work before the policy changed.
    if let Some(next) = end_job(seen) {
        return next;
    }
    for role in SecretRole::ALL {
        let name = staged_name(seen, role);
        match &seen.staged[role as usize] {
            None => return Next::Act(Effect::Stage { role, name }),
            Some(copy) if !copy.immutable => return Next::Act(Effect::DeleteCopy(name)),
            Some(_) => {}
        }
    }
    note(&seen.renewal, "JobPodRemains", "the pod of a Job that made the material before is awaited")
}

fn in_a_job(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    let Observed { renewal, policy, .. } = seen;
    let attempt = status.staged_attempt.unwrap_or(1);
    let name = job::name(&renewal.spec.mesh_id, &renewal.uid, attempt);
    let Some(record) = status.job.as_ref().filter(|record| record.name == name) else {
        let job = JobRecord { name, asked_at: now, completed_at: None, said: String::new(), repairs: Vec::new() };
        return Next::from(Status { job: Some(job), ..status.clone() });
    };
    if record.completed_at.is_some() {
        return seal(seen, now);
    }
    let is_missing = |role: &SecretRole| seen.staged[*role as usize].is_none();
    if let Some(role) = SecretRole::ALL.into_iter().find(is_missing) {
        // The Job may have written what is gone, and would not write it again.
        if seen.job.job.as_ref().is_some_and(|job| job.renewal_uid == renewal.uid) {
            return staged_changed(seen, now);
        }
        let name = staged_name(seen, role);
        return Next::Act(Effect::PrepareCopy { name, material: seen.written(role) });
    }
    match job::judge(&name, &renewal.uid, &seen.job, &policy.job, now) {
        // A pod of a former Job would write into the copies beside this one's.
        Verdict::Absent => end_pods(seen, now).unwrap_or_else(|| {
            let staged = SecretRole::ALL.map(|role| staged_name(seen, role));
            let orders =
                Orders { name: &name, renewal_uid: &renewal.uid, mesh: &seen.mesh, staged, policy: &policy.job };
            overdue(seen, "the Job is not there", now)
                .unwrap_or_else(|| Next::Act(Effect::StartJob(Box::new(job::manifest(&orders)))))
        }),
        Verdict::Working(reason, words) => {
            overdue(seen, &words, now).unwrap_or_else(|| note(&seen.renewal, reason, &words))
        }
        Verdict::Failed(reason, message) => fail(seen, reason, &message, Retry::Later, now),
        Verdict::Complete(said) => {
            let repairs = job::repairs(&seen.mesh, &seen.staged, policy);
            let job = JobRecord { completed_at: Some(now), said, repairs, ..record.clone() };
            Next::from(Status { job: Some(job), ..status.clone() })
        }
    }
}

/// The Job has done its work: it and its pods go, and nobody writes the copies any more.
fn seal(seen: &Observed, now: UnixTime) -> Next {
    if let Some(next) = end_job(seen).or_else(|| end_pods(seen, now)) {
        return next;
    }
    for role in SecretRole::ALL {
        match &seen.staged[role as usize] {
            None => return staged_changed(seen, now),
            Some(copy) if !copy.immutable => {
                let resource_version = copy.resource_version.clone();
                return Next::Act(Effect::Seal { role, name: copy.name.clone(), resource_version });
            }
            Some(_) => {}
        }
    }
    Next::Wait
}

/// Whether neither the Job nor a pod of it is there any more.
fn is_over(seen: &Observed) -> bool {
    seen.job.job.is_none() && seen.job.pods.is_empty()
}

/// Removes the Job, if it is this renewal's.
pub(super) fn end_job(seen: &Observed) -> Option<Next> {
    let (record, job) = (seen.renewal.status.job.as_ref()?, seen.job.job.as_ref()?);
    let ours = job.renewal_uid == seen.renewal.uid && !job.deleting;
    ours.then(|| Next::Act(Effect::DeleteJob { name: record.name.clone(), uid: job.uid.clone() }))
}

/// Waits for the pods of Jobs that are gone, and ends those that nobody else will.
fn end_pods(seen: &Observed, now: UnixTime) -> Option<Next> {
    let is_orphan = seen.job.job.is_none();
    if let Some(pod) = seen.job.pods.iter().find(|pod| is_orphan && !pod.deleting) {
        return Some(Next::Act(Effect::DeletePod { name: pod.name.clone(), uid: pod.uid.clone() }));
    }
    let pod = seen.job.pods.first().map(|pod| pod.name.as_str());
    let words = match pod {
        Some(pod) => format!("the pod {pod} of the Job ends; if its node is gone: kubectl delete pod {pod} --force"),
        None if is_orphan => return None,
        None => "the Job is being deleted".to_owned(),
    };
    Some(overdue(seen, &words, now).unwrap_or_else(|| note(&seen.renewal, "JobPodRemains", &words)))
}

/// The end of patience with the whole of it.
fn overdue(seen: &Observed, words: &str, now: UnixTime) -> Option<Next> {
    let longest = seen.policy.job.deadline + GRACE;
    let begun = seen.renewal.status.job.as_ref().map_or(now, |job| job.completed_at.unwrap_or(job.asked_at));
    let since = seen.counted_from(begun);
    let message = format!("no new material within {}: {words}; nothing was touched", in_words(longest));
    (since.seconds_until(now) > longest).then(|| fail(seen, "JobOverdue", &message, Retry::Later, now))
}

fn staged_name(seen: &Observed, role: SecretRole) -> String {
    observed::staged_name(&seen.renewal, role, seen.renewal.status.staged_attempt.unwrap_or(1))
}

/// What was done, for the journal.
fn made(seen: &Observed) -> String {
    match seen.renewal.status.job.as_ref().filter(|job| job.completed_at.is_some()) {
        None => "the new material is made".to_owned(),
        Some(job) if job.repairs.is_empty() => format!("the Job {} made the new material", job.name),
        Some(job) => format!("the Job {} made the new material; put right: {}", job.name, job.repairs.join("; ")),
    }
}
