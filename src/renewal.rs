//! `CertificateRenewal`: what is asked, and the journal of what was done. The protocol itself is in [`step`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::material::{Material, MeshSecrets};
use crate::mesh::{HostedMesh, SecretRole};
use crate::native;
use crate::plan::Plan;
use crate::policy::{Hold, Policy};
use crate::time::UnixTime;

pub mod observed;
pub mod step;

/// API group of the kind.
pub const GROUP: &str = "meshcert.dev";
/// API version of the kind.
pub const VERSION: &str = "v1alpha1";
/// Plural of the kind.
pub const PLURAL: &str = "certificaterenewals";
/// The reason where a right is missing.
pub const FORBIDDEN: &str = "Forbidden";
/// The reason where the API server takes a request for wrong, which no repetition changes.
pub const REJECTED: &str = "Rejected";
/// The reason where as many renewals as may be are under way.
pub const NO_SLOT: &str = "NoSlot";
/// The reason where the workloads that all meshes share wait, to be restarted once for all that are on their way.
pub const COALESCING: &str = "Coalescing";
/// `status.reason` of one that slipped in while another one of its mesh was under way.
pub const ALREADY_RUNNING: &str = "AlreadyRunning";
/// `status.reason` where there is none of the mesh's Secrets.
pub const NO_SUCH_MESH: &str = "NoSuchMesh";
/// `status.reason` where a person asks for a rollback that cannot be.
pub const ROLLBACK_REFUSED: &str = "RollbackRefused";
/// `status.reason` where somebody else writes what a renewal writes.
pub const FOREIGN_OWNER: &str = "ForeignOwner";
/// The reason where a Secret of the mesh is gone.
pub const SECRET_MISSING: &str = "SecretMissing";
/// Set from before the first commit until the end: the object cannot vanish in between.
pub const FINALIZER: &str = "meshcert.dev/commit";

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The mesh, as in the names of its Secrets.
    #[schemars(regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"), length(max = 200))]
    pub mesh_id: String,
    /// Who asks.
    #[serde(default)]
    pub trigger: Trigger,
    /// Renew although nothing is within `renewBefore` yet, or something else speaks against it that a person may override.
    /// Counts once the spec was changed after the creation: whoever may only create may not insist.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// When a person asked (again): any change of the spec has a failed or refused renewal tried at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<UnixTime>,
    /// Put back what was in force before this renewal, from its backups. Counts like `force`; one that has not begun is refused with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
    /// The plan that a person has agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Trigger {
    /// An Alertmanager notification.
    Alert,
    /// The clock.
    Schedule,
    /// A person.
    #[default]
    Manual,
}

/// Consent to one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// `status.plan.digest` as it was read; another plan needs another consent.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub plan_digest: String,
}

/// Where a renewal stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Waits for the policy to allow it.
    #[default]
    Pending,
    /// Looks whether it can succeed, and makes a plan.
    Preflight,
    /// Waits for a person's consent.
    AwaitingApproval,
    /// Takes the mesh's lock and a slot, and copies what will be replaced.
    BackingUp,
    /// Makes the new material beside the live one.
    Staging,
    /// Judges the new material.
    Auditing,
    /// Replaces the live Secrets.
    Committing,
    /// Restarts the consumers, tier by tier.
    Restarting,
    /// Proves that every endpoint serves what is stored, and that the API can be used.
    Verifying,
    /// Proven.
    Succeeded,
    /// The old certificates are back, proven.
    RolledBack,
    /// Something went wrong; `status.message` says what, and what is in force.
    Failed,
    /// It cannot or must not be done; nothing was touched.
    Refused,
    /// Another renewal has replaced the certificates that this one was about.
    Superseded,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 14] = [
        Self::Pending,
        Self::Preflight,
        Self::AwaitingApproval,
        Self::BackingUp,
        Self::Staging,
        Self::Auditing,
        Self::Committing,
        Self::Restarting,
        Self::Verifying,
        Self::Succeeded,
        Self::RolledBack,
        Self::Failed,
        Self::Refused,
        Self::Superseded,
    ];

    /// Its name, as in the status and in the label `phase`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Preflight => "Preflight",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::BackingUp => "BackingUp",
            Self::Staging => "Staging",
            Self::Auditing => "Auditing",
            Self::Committing => "Committing",
            Self::Restarting => "Restarting",
            Self::Verifying => "Verifying",
            Self::Succeeded => "Succeeded",
            Self::RolledBack => "RolledBack",
            Self::Failed => "Failed",
            Self::Refused => "Refused",
            Self::Superseded => "Superseded",
        }
    }

    /// Whether nothing happens any more, unless it is tried again.
    pub fn is_terminal(self) -> bool {
        self >= Self::Succeeded
    }

    /// Whether a renewal in this phase is held up for this reason: by policy, for want of a slot, or of a right before its work begins, by a
    /// rollback that a person has to take back.
    pub fn is_held(self, reason: &str) -> bool {
        let by_policy = Hold::ALL.iter().any(|hold| hold.as_str() == reason);
        match self {
            phase if phase.is_terminal() => false,
            Self::Pending | Self::AwaitingApproval if reason == FORBIDDEN => true,
            Self::Pending if reason == ROLLBACK_REFUSED => true,
            _ => by_policy || reason == NO_SLOT,
        }
    }
}

/// The journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// The stable code of why it stands there.
    pub reason: String,
    /// The same in words, with the remedy where a person is needed.
    pub message: String,
    /// `metadata.generation` that this status is about.
    pub observed_generation: i64,
    /// Counts from 1.
    pub attempt: u32,
    /// When the phase was entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<UnixTime>,
    /// When it is tried again, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<UnixTime>,
    /// The leaves that are to be replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<ReplacedLeaf>,
    /// The name under which alerts and the clock ask for their renewal; a person may have named this one otherwise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_name: String,
    /// What is going to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Digests of the material in force before, by Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Digests>,
    /// Digests of what no renewal changes, as it was before: CAs and service account keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Digests>,
    /// Digests of the audited material that the live Secrets are to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Digests>,
    /// The attempt whose staged copies count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_attempt: Option<u32>,
    /// The Job of the attempt, written down before it is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobRecord>,
    /// Writes to the live Secrets: written down before each, so that none is repeated unknowingly.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commits: Vec<Intent>,
    /// Restarts for the material in `target`, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<Intent>,
    /// When the live Secrets were seen to hold the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<UnixTime>,
    /// Whether the way leads back to what was in force before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rolling_back: bool,
    /// Whether it does because the new certificates were refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The tier that is being restarted, from 0, and since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// The signal after the renewal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<UnixTime>,
    /// Ends that were failures, since a person asked for another try.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Whether locks, slots and staged Secrets of a terminal phase are gone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cleaned_up: bool,
    /// What was done, oldest first; the last attempts only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRecord>,
    /// `Ready` (proven), `Committed`, in the manner of the API conventions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A leaf that is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplacedLeaf {
    /// The Secret's name.
    pub secret: String,
    /// The key in it.
    pub key: String,
    /// Its serial number, hexadecimal.
    pub serial_number: String,
}

/// SHA-256 over the content of each Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Digests {
    /// Of `{mesh}-kube-certs`.
    pub kube_certs: String,
    /// Of `{mesh}-etcd-certs`.
    pub etcd_certs: String,
    /// Of `{mesh}-apiserver-admin-kubeconfig`.
    pub admin_kubeconfig: String,
}

impl Status {
    /// What the live Secrets are to hold: the new material, or on the way back the former.
    pub fn goal(&self) -> Option<&Digests> {
        if self.rolling_back { self.before.as_ref() } else { self.target.as_ref() }
    }

    /// Whether live Secrets hold, wholly or in part, what this made: something can be put back.
    pub fn has_written(&self) -> bool {
        let written = self.committed_at.is_some() || !self.commits.is_empty() || self.rolling_back;
        self.before.is_some() && written && self.phase != Phase::RolledBack
    }

    /// Whether nothing came of it because it was asked for before it was due, or while another one was under way, or to put back what it never replaced: whoever
    /// asked is told, and it must not hide the one that matters.
    pub fn is_moot(&self) -> bool {
        match self.phase {
            Phase::Refused => [Hold::NotDue.as_str(), ROLLBACK_REFUSED, NO_SUCH_MESH].contains(&self.reason.as_str()),
            Phase::Superseded => self.reason == ALREADY_RUNNING,
            _ => false,
        }
    }
}

impl Digests {
    /// Over what each Secret holds, in the order of [`SecretRole::ALL`].
    pub fn over(contents: [&Material; 3]) -> Self {
        let [kube_certs, etcd_certs, admin_kubeconfig] = contents.map(Material::digest);
        Self { kube_certs, etcd_certs, admin_kubeconfig }
    }

    /// Over the entries of the live Secrets that a renewal writes.
    pub fn written(mesh: &HostedMesh, secrets: &MeshSecrets) -> Self {
        Self::over(SecretRole::ALL.map(|role| native::written(mesh, secrets, role)).each_ref())
    }

    /// That of one Secret.
    pub fn of(&self, role: SecretRole) -> &str {
        match role {
            SecretRole::KubeCerts => &self.kube_certs,
            SecretRole::EtcdCerts => &self.etcd_certs,
            SecretRole::AdminKubeconfig => &self.admin_kubeconfig,
        }
    }

    /// One short digest of all three, for the annotation of pod templates.
    pub fn combined(&self) -> String {
        let all = [&self.kube_certs, &self.etcd_certs, &self.admin_kubeconfig];
        digest::sha256(all.map(String::as_bytes)).chars().take(32).collect()
    }
}

/// A Job that makes new material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    /// Its name.
    pub name: String,
    /// Since when it is wanted.
    pub asked_at: UnixTime,
    /// When it was seen to have ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<UnixTime>,
    /// What kubeadm skipped although it ended well, in its words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// What was put right in what it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<String>,
}

/// The intent to write a live Secret or a workload's template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The object's name.
    pub name: String,
    /// Its `resourceVersion` on which the write was decided.
    pub resource_version: String,
    /// How often it was decided.
    pub times: u32,
}

impl Intent {
    /// The intent to write an object as it is now; `None` where just that is written down already. Too many times mean that somebody else owns the object.
    ///
    /// # Errors
    /// It was written `most` times already.
    pub fn next(known: &[Self], name: &str, resource_version: &str, most: u32) -> Result<Option<Vec<Self>>, TooOften> {
        let before = known.iter().find(|intent| intent.name == name);
        let times = match before {
            Some(intent) if intent.resource_version == resource_version => return Ok(None),
            Some(intent) if intent.times >= most => return Err(TooOften),
            Some(intent) => intent.times + 1,
            None => 1,
        };
        let mut all: Vec<Self> = known.iter().filter(|intent| intent.name != name).cloned().collect();
        all.push(Self { name: name.to_owned(), resource_version: resource_version.to_owned(), times });
        Ok(Some(all))
    }
}

/// An object was written as often as can be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOften;

/// Progress within the tiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tier {
    /// Index into the configured tiers.
    pub index: u32,
    /// When it began.
    pub since: UnixTime,
}

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// The phase.
    pub name: Phase,
    /// The attempt.
    pub attempt: u32,
    /// When it began.
    pub started_at: UnixTime,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixTime>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A condition (Kubernetes API conventions, "Typical status properties").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The stable code.
    pub reason: String,
    /// In words.
    pub message: String,
    /// When `status` changed last.
    pub last_transition_time: UnixTime,
}

/// A renewal as it is stored, with the metadata that the protocol needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Renewal {
    /// Its name.
    pub name: String,
    /// Its namespace, that of the mesh's Secrets.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Option<UnixTime>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether [`FINALIZER`] stands.
    pub finalizer: bool,
    /// Finalizers of others.
    pub other_finalizers: Vec<String>,
    /// Whether the annotation [`PAUSED`](crate::secret::PAUSED) keeps hands off.
    pub paused: bool,
    /// What is asked.
    pub spec: Spec,
    /// The journal.
    pub status: Status,
}

impl Renewal {
    /// What a person types for this mesh.
    pub fn command(&self, verb: &str) -> String {
        format!("meshcert {verb} {} -n {}", self.spec.mesh_id, self.namespace)
    }

    /// Whether its spec has changed since the journal was written: a person asks for something.
    pub fn is_asked(&self) -> bool {
        self.generation != self.status.observed_generation
    }

    /// Whether a person insists. Only a change of the spec says so, for it takes another right than to create: a webhook that was taken over has not that one.
    pub fn forced(&self) -> bool {
        self.spec.force && self.is_changed()
    }

    /// Whether a person wants back what was in force before, likewise.
    pub fn wants_back(&self) -> bool {
        self.spec.rollback && self.is_changed()
    }

    /// Whether the spec is another one than it was created with: the API server counts from 1, whatever is sent.
    fn is_changed(&self) -> bool {
        self.generation > 1
    }

    /// When it is tried again, if it is: what was not due yet, once the policy of now says so.
    pub fn next_attempt_at(&self, policy: &Policy) -> Option<UnixTime> {
        let Status { reason, ends_at, next_attempt_at, .. } = &self.status;
        let is_early = reason == Hold::NotDue.as_str();
        ends_at.filter(|_| is_early).map(|end| policy.due_from(end)).or(*next_attempt_at)
    }

    /// Whether some live Secrets may hold the new certificates and others the old ones, and nothing goes on by itself.
    pub fn is_partial(&self) -> bool {
        let Status { phase, commits, committed_at, .. } = &self.status;
        *phase == Phase::Failed && !commits.is_empty() && committed_at.is_none()
    }

    /// Whether its lock and slot are its own: until it has ended. What an end leaves to clean up harms nobody, and may never be allowed to go.
    pub fn is_under_way(&self) -> bool {
        !self.status.phase.is_terminal() || self.is_partial()
    }

    /// How much it counts among the renewals of its mesh: one that is under way is not hidden by another that was turned away because of it; else the newest.
    pub fn rank(&self) -> (bool, Option<UnixTime>, &str) {
        (self.is_under_way(), self.created, &self.name)
    }

    /// Whether something would stay half done if nobody acted any more: staged copies, Secrets that do not belong together, consumers of the old certificates.
    pub fn needs_somebody(&self) -> bool {
        let Status { phase, cleaned_up, .. } = &self.status;
        let works = (Phase::Staging..=Phase::Verifying).contains(phase);
        self.finalizer || works || (phase.is_terminal() && !cleaned_up)
    }
}

/// The name of the request to replace exactly these certificates: whoever asks for it, asks for the same object.
pub fn name_for(mesh: &HostedMesh) -> String {
    let uids = mesh.secrets.iter().flatten().map(|secret| secret.uid.to_string());
    let serials = mesh.leaves().map(|leaf| leaf.certificate.serial_number.to_string());
    let hash = digest::sha256(uids.chain(serials));
    // A name has at most 253 characters; what is cut off is still in the hash by way of the Secrets' uids.
    let id: String = mesh.key.id.as_str().chars().take(200).collect();
    format!("{}-{}", id.trim_end_matches('-'), &hash[..10])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_needs_somebody_from_its_first_copy_until_it_has_cleaned_up() {
        let needs = |phase, cleaned_up, finalizer| {
            let status = Status { phase, cleaned_up, ..Status::default() };
            Renewal { status, finalizer, ..Renewal::default() }.needs_somebody()
        };
        let found: Vec<_> = Phase::ALL.into_iter().filter(|phase| needs(*phase, true, false)).collect();
        let works = [Phase::Staging, Phase::Auditing, Phase::Committing, Phase::Restarting, Phase::Verifying];
        assert_eq!(found, works);
        assert!(needs(Phase::Failed, false, false), "its copies and leases are still there");
        assert!(needs(Phase::Failed, true, true), "some Secrets are new and others old");
        assert!(!needs(Phase::Succeeded, true, false));
    }

    #[test]
    fn whoever_may_only_create_neither_insists_nor_rolls_back() {
        let spec = Spec { force: true, rollback: true, ..Spec::default() };
        let asks = |generation| {
            let renewal = Renewal { generation, spec: spec.clone(), ..Renewal::default() };
            (renewal.forced(), renewal.wants_back())
        };
        assert_eq!([1, 2].map(asks), [(false, false), (true, true)]);
        let plain = Renewal { generation: 2, ..Renewal::default() };
        assert!(!plain.forced() && !plain.wants_back());
    }

    #[test]
    fn what_was_not_due_is_tried_when_the_policy_of_now_says_so() {
        let (end, noted) = (UnixTime(1_000_000), Some(UnixTime(5)));
        let tried = |reason: &str, renew_before| {
            let status =
                Status { reason: reason.to_owned(), ends_at: Some(end), next_attempt_at: noted, ..Status::default() };
            Renewal { status, ..Renewal::default() }.next_attempt_at(&Policy { renew_before, ..Policy::default() })
        };
        assert_eq!(tried("NotDue", 1000), Some(UnixTime(999_001)), "the first second in which less is left");
        assert_eq!(tried("NotDue", 2000), Some(UnixTime(998_001)));
        assert_eq!(tried("SecretMissing", 1000), noted);
    }
}
