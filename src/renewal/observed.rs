//! What a pass of the protocol looks at: everything is read again, nothing is remembered but the journal.

use crate::digest;
use crate::job::SeenJob;
use crate::material::{Material, MeshSecrets, StoredSecret};
use crate::mesh::{HostedMesh, SecretRole};
use crate::native::{self, Obstacle};
use crate::policy::{Circumstances, Policy};
use crate::renewal::Renewal;
use crate::rollout::{Members, Workload};
use crate::time::UnixTime;

/// The state of a renewal's world.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The renewal.
    pub renewal: Renewal,
    /// The rules.
    pub policy: Policy,
    /// What the rules look at.
    pub about: Circumstances,
    /// The mesh as its Secrets show it.
    pub mesh: HostedMesh,
    /// The live Secrets.
    pub secrets: MeshSecrets,
    /// The workloads to restart, tier by tier; a sentence where one cannot be resolved.
    pub tiers: Result<Vec<Vec<Workload>>, String>,
    /// What stands in the way beside the certificates themselves: a clock, the documented Job.
    pub obstacles: Vec<Obstacle>,
    /// Since when this process leads.
    pub watched_since: UnixTime,
    /// The API server's clock, where it counts and was shown.
    pub server_clock: Option<UnixTime>,
    /// Backups that this renewal made.
    pub backups: [Option<Material>; 3],
    /// Staged copies of this attempt, the immutable ones and those that the Job still writes.
    pub staged: MeshSecrets,
    /// The Job that the journal names, and the pods of this renewal's Jobs, where they count.
    pub job: SeenJob,
    /// Names of all staged copies of this renewal.
    pub staged_names: Vec<String>,
    /// The mesh's lock.
    pub lock: Lease,
    /// The slots of which a renewal needs one.
    pub slots: Vec<Lease>,
    /// Whether another renewal of the namespace has not come to the shared workloads yet.
    pub others_under_way: bool,
    /// How etcd's members are, where they were asked.
    pub members: Members,
    /// What the endpoints showed, where they were asked.
    pub proof: Option<Vec<Unproven>>,
}

/// A Lease whose holder is a renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub holder: Holder,
    /// `metadata.resourceVersion`, if the object exists.
    pub resource_version: Option<String>,
}

/// Who holds a Lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, or a renewal that has ended or is gone.
    #[default]
    Free,
    /// This renewal.
    Mine,
    /// Another unfinished one.
    Other,
}

/// Something that could not be proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// Endpoint or action, and what happened.
    pub message: String,
    /// Whether the new credentials themselves were refused (x509, 401) where it is asked how the former ones fare.
    pub refusal: Option<Refusal>,
}

/// What became of the former credentials, at the same pod at that time, where the new ones were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They were taken: the new ones are worse, which waiting does not heal.
    OfNew,
    /// There was no answer.
    Unclear,
}

impl Observed {
    /// From when a deadline counts that began then: before this process led there may have been nobody who went on.
    pub fn counted_from(&self, begun: UnixTime) -> UnixTime {
        begun.max(self.watched_since)
    }

    /// Whether the present phase has waited for its proof as long as `verifyDeadline` says.
    pub fn proof_is_overdue(&self, now: UnixTime) -> bool {
        let is_overdue = |since| self.counted_from(since).seconds_until(now) >= self.policy.verify_deadline;
        self.renewal.status.phase_since.is_some_and(is_overdue)
    }

    /// Now, by the clock by which pods are created; our own where the API server shows none.
    pub fn created_now(&self, now: UnixTime) -> UnixTime {
        self.server_clock.unwrap_or(now)
    }

    /// A live Secret.
    pub fn live(&self, role: SecretRole) -> Option<&StoredSecret> {
        self.secrets[role as usize].as_ref()
    }

    /// What the staged copies hold, once nobody can change them any more.
    pub fn sealed(&self) -> [Option<Material>; 3] {
        let sealed =
            |copy: &Option<StoredSecret>| copy.as_ref().filter(|copy| copy.immutable).map(|copy| copy.material.clone());
        [sealed(&self.staged[0]), sealed(&self.staged[1]), sealed(&self.staged[2])]
    }

    /// The entries of a live Secret that a renewal writes.
    pub fn written(&self, role: SecretRole) -> Material {
        native::written(&self.mesh, &self.secrets, role)
    }

    /// The entries of a live Secret that no renewal changes.
    pub fn fixed(&self, role: SecretRole) -> Material {
        self.live(role).map(|secret| secret.material.fixed()).unwrap_or_default()
    }

    /// The digest of what a live Secret holds where another material has entries.
    pub fn live_digest(&self, role: SecretRole, like: &Material) -> String {
        self.live(role).map(|secret| secret.material.same_entries(like).digest()).unwrap_or_default()
    }
}

/// The name of a backup.
pub fn backup_name(renewal: &Renewal, role: SecretRole) -> String {
    copy_name(renewal, role, "backup")
}

/// The name of a staged copy.
pub fn staged_name(renewal: &Renewal, role: SecretRole, attempt: u32) -> String {
    copy_name(renewal, role, &format!("a{attempt}-staged"))
}

/// No template of a mesh's Secrets matches it, and another renewal of the same name has others.
fn copy_name(renewal: &Renewal, role: SecretRole, kind: &str) -> String {
    let what = match role {
        SecretRole::KubeCerts => "kube",
        SecretRole::EtcdCerts => "etcd",
        SecretRole::AdminKubeconfig => "admin",
    };
    let name: String = renewal.name.chars().take(200).collect();
    let own = &digest::sha256([&renewal.uid])[..6];
    format!("{name}-{own}-{kind}-{what}")
}
