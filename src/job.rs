//! The vendor's way: kubeadm in a Job, on staged copies. What the Job is, how it fares, what kubeadm would lose, and what is put right afterwards.

use crate::digest;
use crate::time::UnixTime;

mod finish;
mod judge;
mod manifest;
mod unfit;
mod words;

pub use finish::{finish, repairs};
pub use judge::{Verdict, judge};
pub use manifest::{Orders, RENEWAL_UID, SCRIPT, manifest};
pub use unfit::unfit;
pub use words::tail;

/// A Job's name has at most 63 characters, for it becomes a label of its pods.
const LONGEST_NAME: usize = 63;

/// The Job of an attempt and its pods, as they were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenJob {
    /// The Job, if it is there.
    pub job: Option<JobObject>,
    /// Pods of this renewal's Jobs, also of Jobs that are gone.
    pub pods: Vec<JobPod>,
}

/// A Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobObject {
    /// `metadata.uid`.
    pub uid: String,
    /// The renewal that made it, by its label.
    pub renewal_uid: String,
    /// When it was created.
    pub created: UnixTime,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// How it fares.
    pub state: JobState,
}

/// How a Job fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It has not ended.
    Running,
    /// It has ended well.
    Complete,
    /// It has ended badly; the condition's reason and message.
    Failed(String),
}

/// A pod of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPod {
    /// Its name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// When it was created.
    pub created: UnixTime,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// How it fares.
    pub state: PodState,
}

/// How a pod of a Job fares. What it said is the end of its log, or what it wrote for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It has not started yet.
    Waiting,
    /// No node takes it.
    Unschedulable(String),
    /// Its container does not come into being: the image, a volume, the configuration.
    CannotStart(String),
    /// It runs.
    Running,
    /// It has ended well.
    Succeeded(String),
    /// It has ended badly, with this exit code.
    Failed(i64, String),
}

/// The name of an attempt's Job; no two attempts of all renewals have the same.
pub fn name(mesh: &str, renewal_uid: &str, attempt: u32) -> String {
    let own = &digest::sha256([renewal_uid, &attempt.to_string()])[..10];
    let end = format!("-certs-renew-{own}");
    let mesh: String = mesh.chars().take(LONGEST_NAME - end.len()).collect();
    format!("{}{end}", mesh.trim_end_matches('-'))
}

/// The name of the Job by which a person renews a mesh, as it is documented; of a mesh whose id is too long for that, as `meshcert runbook` has it.
pub fn documented_name(mesh: &str) -> String {
    let documented = format!("{mesh}-hosted-apiserver-certs-renew");
    if documented.len() <= LONGEST_NAME { documented } else { name(mesh, "", 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_short_enough_for_every_mesh_and_another_one_for_every_attempt() {
        let long = format!("{}-x", "m".repeat(38));
        for mesh in ["m", &long, &"long-".repeat(40)] {
            let first = name(mesh, "u", 1);
            assert!(first.len() <= LONGEST_NAME && !first.contains("--"), "{first}");
            assert_ne!(first, name(mesh, "u", 2));
            assert_ne!(first, name(mesh, "v", 1));
        }
        assert!(name("hosted-demo", "u", 1).starts_with("hosted-demo-certs-renew-"));
        assert_eq!(documented_name("demo"), "demo-hosted-apiserver-certs-renew");
        assert!(documented_name(&long).len() <= LONGEST_NAME);
    }
}
