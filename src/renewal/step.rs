//! The protocol: from what is seen to the one thing that is done next. Pure; at most one mutation per pass, each fenced by the resourceVersion on which it
//! was decided. Whoever is killed anywhere goes on with the next pass.

use serde_json::Value;

use crate::material::Material;
use crate::mesh::SecretRole;
use crate::native::Obstacle;
use crate::policy::Mode;
use crate::renewal::observed::{Holder, Lease, Observed};
use crate::renewal::{ALREADY_RUNNING, FORBIDDEN, NO_SLOT, Phase, REJECTED, Renewal, ReplacedLeaf, Status};
use crate::time::UnixTime;

mod commit;
mod finish;
mod journal;
mod prepare;
mod restart;
mod stage;

/// What is done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The journal is written, and nothing else.
    Journal(Box<Status>),
    /// The journal says what is waited for, and nothing else is to be done until something changes.
    Note(Box<Status>),
    /// One mutation.
    Act(Effect),
    /// Nothing, until something changes or its time comes.
    Wait,
}

/// A status is an entry of the journal, unless it is said to be a note.
impl From<Status> for Next {
    fn from(status: Status) -> Self {
        Self::Journal(Box::new(status))
    }
}

/// A mutation.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Makes the Lease this renewal's, if it still is as it was seen.
    TakeLease(Lease),
    /// Leaves it to others.
    ReleaseLease(Lease),
    /// Sets or removes the finalizer.
    SetFinalizer(bool),
    /// Creates an immutable Secret with what a live one holds.
    BackUp {
        /// Its name.
        name: String,
        /// What it holds.
        material: Material,
    },
    /// Makes the new material of one Secret in process, into an immutable Secret beside it.
    Stage {
        /// Of which Secret.
        role: SecretRole,
        /// The name of the staged copy.
        name: String,
    },
    /// Creates a staged copy for the Job to write: with what the live Secret holds in those entries.
    PrepareCopy {
        /// The name of the staged copy.
        name: String,
        /// What it holds.
        material: Material,
    },
    /// Creates the Job.
    StartJob(Box<Value>),
    /// Removes the Job and its pods.
    DeleteJob {
        /// Its name.
        name: String,
        /// Its uid: another Job of the name is not meant.
        uid: String,
    },
    /// Puts right what the Job wrote into a staged copy, and makes it immutable.
    Seal {
        /// Of which Secret.
        role: SecretRole,
        /// The name of the staged copy.
        name: String,
        /// On which it was decided.
        resource_version: String,
    },
    /// Writes entries of a live Secret.
    Commit {
        /// The live Secret.
        name: String,
        /// On which the write was decided.
        resource_version: String,
        /// What is written.
        material: Material,
    },
    /// Has a workload start new pods.
    Restart {
        /// Tier and position in it.
        at: (usize, usize),
        /// Stepped member by member, from this partition on.
        partition: Option<u32>,
        /// Of the certificates, for the template's annotation.
        digest: String,
    },
    /// Lets the next member of a StatefulSet go, or restores what was before (then the last).
    SetPartition {
        /// Tier and position in it.
        at: (usize, usize),
        /// The partition.
        partition: u32,
        /// Whether this ends the stepping.
        last: bool,
    },
    /// Ends a pod that its controller does not replace.
    DeletePod {
        /// Its name.
        name: String,
        /// Its uid: another pod of the name is not meant.
        uid: String,
    },
    /// Removes a staged copy.
    DeleteCopy(String),
}

/// Decides.
pub fn step(seen: &Observed, now: UnixTime) -> Next {
    let status = &seen.renewal.status;
    match status.phase {
        Phase::Pending => prepare::pending(seen, now),
        Phase::Preflight => prepare::preflight(seen, now),
        Phase::AwaitingApproval => prepare::awaiting_approval(seen, now),
        Phase::BackingUp => prepare::backing_up(seen, now),
        Phase::Staging => stage::staging(seen, now),
        Phase::Auditing => prepare::auditing(seen, now),
        // What is given back is not taken again.
        Phase::Committing => {
            let before = commit::gone(seen, now).or_else(|| commit::stopped(seen, now));
            before.or_else(|| held(seen, now)).unwrap_or_else(|| commit::committing(seen, now))
        }
        Phase::Restarting => held(seen, now).unwrap_or_else(|| restart::restarting(seen, now)),
        Phase::Verifying => held(seen, now).unwrap_or_else(|| restart::verifying(seen, now)),
        Phase::Succeeded | Phase::RolledBack | Phase::Failed | Phase::Refused | Phase::Superseded => {
            finish::terminal(seen, now)
        }
    }
}

/// Whether nothing but a login is left between the staged set and the first write.
pub fn is_about_to_commit(seen: &Observed, now: UnixTime) -> bool {
    seen.renewal.status.phase == Phase::Auditing && prepare::unfit(seen, now).is_none()
}

/// Why the API server did not carry out an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// A right is missing.
    Forbidden,
    /// The request is taken for wrong, perhaps by an admission webhook.
    Rejected,
    /// It may pass.
    Unavailable,
}

/// What that means: what no repetition changes ends the attempt; anything else is tried again by the next pass, as long as the phase's deadline allows.
pub fn prevented(seen: &Observed, hindrance: Hindrance, what: &str, now: UnixTime) -> Next {
    let phase = seen.renewal.status.phase;
    match hindrance {
        Hindrance::Unavailable if phase.is_terminal() => Next::Wait,
        _ if phase.is_terminal() => journal::left_over(&seen.renewal, what),
        Hindrance::Forbidden => refused(seen, FORBIDDEN, &grant(what), now),
        Hindrance::Rejected => refused(seen, REJECTED, &convince(what), now),
        Hindrance::Unavailable if phase == Phase::Restarting => restart::overdue(seen, what, now),
        Hindrance::Unavailable => journal::note(&seen.renewal, "Unavailable", what),
    }
}

/// The end of an attempt, for something must not be done.
fn refused(seen: &Observed, reason: &str, message: &str, now: UnixTime) -> Next {
    commit::unless_written(seen, journal::fail_status(seen, reason, message, journal::Retry::Later, now)).into()
}

/// What it means that something may not even be looked at: it is waited for the right. Nothing is known then, so nothing is ended either.
pub fn unseen(renewal: &Renewal, what: &str) -> Next {
    if renewal.status.phase.is_terminal() {
        return Next::Wait;
    }
    journal::note(renewal, FORBIDDEN, &grant(what))
}

/// A missing right, with its remedy.
pub fn grant(what: &str) -> String {
    format!("{what}; grant meshcert this right in the namespace (docs/OPERATIONS.md lists them)")
}

/// A rejected request, with its remedy.
pub fn convince(what: &str) -> String {
    format!("{what}; correct that, and it is tried again")
}

/// What it means that the engine made nothing: nothing live was touched, and what preflight did not see may pass.
pub fn engine_failed(seen: &Observed, obstacle: &Obstacle, now: UnixTime) -> Status {
    journal::fail_status(seen, obstacle.reason, &obstacle.message, journal::Retry::Later, now)
}

/// Takes the lock, and a slot where one is needed; `None` once they are held.
fn held(seen: &Observed, now: UnixTime) -> Option<Next> {
    match seen.lock.holder {
        Holder::Mine => {}
        Holder::Free => return Some(Next::Act(Effect::TakeLease(seen.lock.clone()))),
        // A way back waits: nobody asks for it again.
        Holder::Other if seen.renewal.status.commits.is_empty() && !seen.renewal.status.rolling_back => {
            return Some(journal::end(
                seen,
                Phase::Superseded,
                ALREADY_RUNNING,
                "another renewal of this mesh is under way",
                now,
            ));
        }
        Holder::Other => {
            return Some(journal::note(
                &seen.renewal,
                "Locked",
                "another renewal of this mesh is under way; it is waited for",
            ));
        }
    }
    if !needs_slot(seen) || seen.slots.iter().any(|slot| slot.holder == Holder::Mine) {
        return None;
    }
    Some(match seen.slots.iter().find(|slot| slot.holder == Holder::Free) {
        Some(free) => Next::Act(Effect::TakeLease(free.clone())),
        None => journal::note(&seen.renewal, NO_SLOT, "as many renewals as policy.maxConcurrent allows are under way"),
    })
}

/// Leaves slot and lock to others, one at a time.
fn give_back(seen: &Observed) -> Option<Next> {
    leave_slot(seen).or_else(|| released(&seen.lock))
}

/// Leaves the slot to others.
fn leave_slot(seen: &Observed) -> Option<Next> {
    seen.slots.iter().find_map(released)
}

/// Leaves a Lease to others, if it is this renewal's.
fn released(lease: &Lease) -> Option<Next> {
    (lease.holder == Holder::Mine).then(|| Next::Act(Effect::ReleaseLease(lease.clone())))
}

/// Restarting what all meshes share, and proving, hinders nobody; neither does waiting for a Secret that is gone.
fn needs_slot(seen: &Observed) -> bool {
    match seen.renewal.status.phase {
        // A retry has little left to restart.
        Phase::Restarting => {
            restart::has_own_left(seen) && Some(seen.renewal.status.attempt) == seen.renewal.status.staged_attempt
        }
        Phase::Committing => commit::missing(seen).is_empty(),
        phase => phase < Phase::Restarting,
    }
}

/// The leaves of the mesh as they are now.
fn present_leaves(seen: &Observed) -> Vec<ReplacedLeaf> {
    let leaf = |found: &crate::mesh::MeshCertificate| ReplacedLeaf {
        secret: seen.mesh.secret_name(found.secret_role).to_owned(),
        key: found.key.to_string(),
        serial_number: found.certificate.serial_number.to_string(),
    };
    seen.mesh.leaves().map(leaf).collect()
}

/// Whether a person's consent is there, or not needed.
fn is_approved(seen: &Observed) -> bool {
    let digest = seen.renewal.status.plan.as_ref().map(|plan| &plan.digest);
    let agreed = seen.renewal.spec.approval.as_ref().is_some_and(|approval| Some(&approval.plan_digest) == digest);
    agreed || seen.policy.mode == Mode::Auto
}
