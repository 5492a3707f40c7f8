//! How a Job fares, in one verdict: whatever is wrong is noticed at once, and said with the remedy.

use crate::job::{JobState, PodState, SeenJob};
use crate::policy::JobPolicy;
use crate::time::UnixTime;

/// How a Job fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none.
    Absent,
    /// It goes on: a code and words for what is waited for.
    Working(&'static str, String),
    /// It has ended well, and said this.
    Complete(String),
    /// It has failed, or will not get anywhere: a code and words.
    Failed(&'static str, String),
}

/// A node may be on its way; a pod that found none for so long waits for a person.
const UNSCHEDULABLE: i64 = 60;
/// A Job makes its pod within moments.
const WITHOUT_POD: i64 = 20;
/// With which the script ends where the account may not write the staged copies.
const MAY_NOT_WRITE: i64 = 3;
/// The way out that needs no pod.
const OTHERWISE: &str = "or set policy.engine: native, which needs no pod";

/// Judges the Job `name`, which this renewal made.
pub fn judge(name: &str, renewal_uid: &str, seen: &SeenJob, policy: &JobPolicy, now: UnixTime) -> Verdict {
    let Some(job) = &seen.job else { return Verdict::Absent };
    if job.renewal_uid != renewal_uid {
        let message = format!("the Job {name} is not this renewal's; look who made it, and delete it");
        return Verdict::Failed("JobForeign", message);
    }
    let said = seen.pods.iter().find_map(|pod| match &pod.state {
        PodState::Succeeded(said) => Some(said.clone()),
        _ => None,
    });
    if job.state == JobState::Complete {
        return Verdict::Complete(said.unwrap_or_default());
    }
    if let Some(verdict) = seen.pods.iter().find_map(|pod| hopeless(name, policy, pod.created, &pod.state, now)) {
        return verdict;
    }
    if let JobState::Failed(why) = &job.state {
        let message = format!("the Job {name} failed: {why}; its pod's events say more, {OTHERWISE}");
        return Verdict::Failed("JobFailed", message);
    }
    let waits = job.created.seconds_until(now);
    match seen.pods.first().map(|pod| &pod.state) {
        None if waits >= WITHOUT_POD => {
            let message =
                format!("the Job {name} has no pod yet: kubectl describe job {name} says why (quota, admission)");
            Verdict::Working("JobWithoutPod", message)
        }
        Some(PodState::Unschedulable(why)) => {
            Verdict::Working("JobUnschedulable", format!("no node takes the pod of the Job {name}: {why}"))
        }
        // Each further step of a pod would be a write of the journal more.
        _ => Verdict::Working("JobRunning", format!("the Job {name} makes the new material")),
    }
}

/// What waiting does not heal.
fn hopeless(name: &str, policy: &JobPolicy, created: UnixTime, state: &PodState, now: UnixTime) -> Option<Verdict> {
    let JobPolicy { image, service_account, .. } = policy;
    Some(match state {
        PodState::CannotStart(why) => {
            let message = format!(
                "the pod of the Job {name} does not start: {why}; see to the image {image} (policy.job.image), {OTHERWISE}"
            );
            Verdict::Failed("JobImage", message)
        }
        PodState::Unschedulable(why) if created.seconds_until(now) >= UNSCHEDULABLE => {
            let message = format!("no node takes the pod of the Job {name}: {why}; make room for it, {OTHERWISE}");
            Verdict::Failed("JobUnschedulable", message)
        }
        PodState::Failed(MAY_NOT_WRITE, said) => {
            let message = format!(
                "the Job's account {service_account} could not write the staged copies, and nothing was touched; let it get and patch Secrets in this namespace (policy.job.serviceAccount), {OTHERWISE}: {said}"
            );
            Verdict::Failed("JobForbidden", message)
        }
        PodState::Failed(code, said) => {
            let message = format!("the Job {name} failed with exit code {code}: {said}");
            Verdict::Failed("JobFailed", message)
        }
        PodState::Waiting | PodState::Unschedulable(_) | PodState::Running | PodState::Succeeded(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobObject, JobPod};

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn mk_seen(state: JobState, pod: Option<PodState>, age: i64) -> SeenJob {
        let created = NOW.plus(-age);
        let job = JobObject { uid: "j".to_owned(), renewal_uid: "u".to_owned(), created, deleting: false, state };
        let pods =
            pod.map(|state| JobPod { name: "p".to_owned(), uid: "q".to_owned(), created, deleting: false, state });
        SeenJob { job: Some(job), pods: pods.into_iter().collect() }
    }

    fn verdict(seen: &SeenJob) -> (&'static str, String) {
        match judge("n", "u", seen, &JobPolicy::default(), NOW) {
            Verdict::Absent => ("Absent", String::new()),
            Verdict::Working(reason, message) | Verdict::Failed(reason, message) => (reason, message),
            Verdict::Complete(said) => ("Complete", said),
        }
    }

    fn is_over(seen: &SeenJob) -> bool {
        matches!(judge("n", "u", seen, &JobPolicy::default(), NOW), Verdict::Failed(..) | Verdict::Complete(_))
    }

    #[test]
    fn every_way_in_which_a_job_fares_has_its_code_and_what_is_hopeless_ends_at_once() {
        use PodState::{CannotStart, Failed, Running, Succeeded, Unschedulable, Waiting};
        let text = |text: &str| text.to_owned();
        for (state, pod, age, reason, words, over) in [
            (JobState::Running, None, 0, "JobRunning", "makes the new material", false),
            (JobState::Running, None, 30, "JobWithoutPod", "quota, admission", false),
            (JobState::Running, Some(Waiting), 0, "JobRunning", "makes the new material", false),
            (JobState::Running, Some(Running), 0, "JobRunning", "makes the new material", false),
            (JobState::Running, Some(Succeeded(text("x"))), 0, "JobRunning", "", false),
            (JobState::Running, Some(Unschedulable(text("0/3"))), 5, "JobUnschedulable", "0/3", false),
            (JobState::Running, Some(Unschedulable(text("0/3"))), 60, "JobUnschedulable", "make room", true),
            (JobState::Running, Some(CannotStart(text("ErrImagePull"))), 1, "JobImage", "policy.job.image", true),
            (JobState::Running, Some(Failed(3, text("Forbidden"))), 1, "JobForbidden", "mspider-mcpc", true),
            (JobState::Running, Some(Failed(1, text("no CA"))), 1, "JobFailed", "exit code 1: no CA", true),
            (
                JobState::Failed(text("BackoffLimitExceeded")),
                Some(Failed(1, text("no CA"))),
                1,
                "JobFailed",
                "no CA",
                true,
            ),
            (JobState::Failed(text("DeadlineExceeded")), None, 300, "JobFailed", "DeadlineExceeded", true),
            (JobState::Complete, Some(Succeeded(text("MISSING!"))), 9, "Complete", "MISSING!", true),
            (JobState::Complete, None, 9, "Complete", "", true),
        ] {
            let seen = mk_seen(state, pod, age);
            let (found, said) = verdict(&seen);
            assert_eq!((found, is_over(&seen)), (reason, over), "{seen:?}");
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_job_of_the_name_that_somebody_else_made_is_not_ours() {
        let mut seen = mk_seen(JobState::Complete, None, 1);
        seen.job.as_mut().unwrap().renewal_uid = "another".to_owned();
        assert_eq!(verdict(&seen).0, "JobForeign");
        assert_eq!(judge("n", "u", &SeenJob::default(), &JobPolicy::default(), NOW), Verdict::Absent);
    }
}
