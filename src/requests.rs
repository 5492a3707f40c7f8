//! Asking for a renewal: whoever asks for the same certificates gets the same object.

use std::sync::Arc;

use tracing::warn;

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::mesh::HostedMesh;
use crate::renewal::{Phase, ROLLBACK_REFUSED, Renewal, Spec, Trigger, name_for};

pub use desk::{Answer, Desk, Facts, Knowledge, Known, Place};

mod desk;
pub mod told;

/// What is observed of a cluster.
#[derive(Clone, Default)]
pub struct Sight {
    /// Its meshes.
    pub meshes: Vec<Arc<HostedMesh>>,
    /// How many of its sources have been read as a whole; of the others no mesh is shown.
    pub read: usize,
}

/// What is observed of a cluster, by its name, at any time.
pub type Sights = Arc<dyn Fn(&str) -> Sight + Send + Sync>;

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A renewal was made.
    Created(String),
    /// There is one already, in this phase.
    Exists(String, Phase),
    /// The one that there is, is being deleted: ask again later.
    Deleting(String),
}

/// Beyond so many renewals of the same certificates somebody restores old ones in a loop.
const MOST_REPEATS: u32 = 20;

/// Whether what is known of certificates is of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// It is.
    Current,
    /// They may have been replaced meanwhile.
    Doubtful,
}

/// Asks for the renewal of a mesh's present certificates.
///
/// # Errors
/// The request failed, nothing is known to be stored.
pub async fn ask(api: &Api, mesh: &HostedMesh, trigger: Trigger) -> Result<Asked, ApiError> {
    let (renewals, _) = api.renewals(&mesh.key.namespace).await?;
    ask_beside(api, &renewals, mesh, trigger).await
}

/// The same, with the namespace's renewals at hand.
///
/// # Errors
/// The request failed, nothing is known to be stored.
pub async fn ask_beside(
    api: &Api,
    renewals: &[Renewal],
    mesh: &HostedMesh,
    trigger: Trigger,
) -> Result<Asked, ApiError> {
    let spec = Spec { mesh_id: mesh.key.id.to_string(), trigger, ..Spec::default() };
    ask_among(api, renewals, &mesh.key.namespace, &name_for(mesh), &spec, Certainty::Current).await
}

/// The same, under the name of what is replaced.
async fn ask_among(
    api: &Api,
    renewals: &[Renewal],
    namespace: &str,
    base: &str,
    spec: &Spec,
    certainty: Certainty,
) -> Result<Asked, ApiError> {
    // Whoever asks while a renewal is under way gets that one, whatever certificates are in force half-way.
    let of_mesh = |renewal: &&Renewal| renewal.spec.mesh_id == spec.mesh_id && renewal.is_under_way();
    if let Some(running) = renewals.iter().find(of_mesh) {
        if running.deleting {
            return Ok(Asked::Deleting(running.name.clone()));
        }
        return Ok(Asked::Exists(running.name.clone(), running.status.phase));
    }
    // A person may have named the one about these certificates otherwise.
    let about_these = |renewal: &&Renewal| {
        let is_named = renewal.spec.mesh_id == spec.mesh_id && renewal.status.request_name == base;
        is_named && !renewal.deleting && !is_done_with(renewal) && !asks_for_nothing(renewal)
    };
    if let Some(known) = renewals.iter().find(about_these) {
        return Ok(Asked::Exists(known.name.clone(), known.status.phase));
    }
    for number in 1..=MOST_REPEATS {
        let name = if number == 1 { base.to_owned() } else { format!("{base}-r{number}") };
        let known = match renewals.iter().find(|renewal| renewal.name == name) {
            Some(known) => Some(known.clone()),
            None if api.create_renewal(namespace, &name, spec).await? => return Ok(Asked::Created(name)),
            None => api.renewal(namespace, &name).await?,
        };
        match known {
            None => return Ok(Asked::Deleting(name)),
            Some(known) if known.deleting => return Ok(Asked::Deleting(name)),
            Some(known)
                if known.spec.mesh_id == spec.mesh_id && is_done_with(&known) && certainty == Certainty::Doubtful =>
            {
                let message =
                    format!("{name} is done, and whether its certificates are in force again cannot be read now");
                return Err(ApiError { kind: ErrorKind::Unavailable, message });
            }
            Some(known) if known.spec.mesh_id != spec.mesh_id => {
                let (ours, theirs) = (&spec.mesh_id, &known.spec.mesh_id);
                warn!(
                    namespace,
                    name,
                    "the renewal's name is taken for {theirs}: another one is used for {ours}; delete it if nobody needs it"
                );
            }
            Some(known) if asks_for_nothing(&known) => {}
            // These certificates are in force again although they were replaced: somebody restored them.
            Some(known) if is_done_with(&known) => {}
            Some(known) => return Ok(Asked::Exists(name, known.status.phase)),
        }
    }
    let message = format!(
        "the names {base} to {base}-r{MOST_REPEATS} are taken, by renewals whose certificates somebody has restored since or by other meshes: look who makes them, and delete those that nobody needs"
    );
    Err(ApiError { kind: ErrorKind::Invalid, message })
}

/// Whether a renewal replaced its certificates, or was rolled back by a person: in both cases another one is meant.
fn is_done_with(known: &Renewal) -> bool {
    match known.status.phase {
        Phase::Succeeded | Phase::Superseded => true,
        Phase::RolledBack => known.wants_back(),
        _ => false,
    }
}

/// Whether a renewal only asked to put back what it never replaced: it is in nobody's way.
fn asks_for_nothing(known: &Renewal) -> bool {
    let Renewal { spec, status, .. } = known;
    spec.rollback && status.phase == Phase::Refused && status.reason == ROLLBACK_REFUSED
}
