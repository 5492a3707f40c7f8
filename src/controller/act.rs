//! Carries out what the protocol decides: exactly one mutation each.

use crate::cluster::api::{Api, ApiError};
use crate::cluster::material::{BACKUP, STAGED, Seal};
use crate::job;
use crate::material::Material;
use crate::native::{self, Obstacle};
use crate::renewal::Status;
use crate::renewal::observed::Observed;
use crate::renewal::step::{Effect, engine_failed};
use crate::rollout::Workload;
use crate::time::UnixTime;

/// Why it was not done.
pub(super) enum Failure {
    /// The request failed.
    Api(ApiError),
    /// No new material could be made: what the journal says to that.
    Engine(Box<Status>),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// What is done, for the log.
pub(super) fn words(effect: &Effect) -> String {
    match effect {
        Effect::TakeLease(lease) => format!("took {}", lease.name),
        Effect::ReleaseLease(lease) => format!("released {}", lease.name),
        Effect::SetFinalizer(true) => "set the finalizer".to_owned(),
        Effect::SetFinalizer(false) => "removed the finalizer".to_owned(),
        Effect::BackUp { name, .. } => format!("backed up into {name}"),
        Effect::Stage { name, .. } => format!("made new material in {name}"),
        Effect::PrepareCopy { name, .. } => format!("made {name} for the Job"),
        Effect::StartJob(job) => format!("created the Job {}", job["metadata"]["name"].as_str().unwrap_or_default()),
        Effect::DeleteJob { name, .. } => format!("removed the Job {name}"),
        Effect::Seal { name, .. } => format!("closed {name}"),
        Effect::Commit { name, .. } => format!("wrote {name}"),
        Effect::Restart { at: (tier, _), .. } => format!("restarted a workload of tier {tier}"),
        Effect::SetPartition { partition, .. } => format!("set the partition {partition}"),
        Effect::DeletePod { name, .. } => format!("ended pod {name}"),
        Effect::DeleteCopy(name) => format!("removed {name}"),
    }
}

pub(super) async fn act(api: &Api, seen: &Observed, effect: Effect, now: UnixTime) -> Result<(), Failure> {
    let renewal = &seen.renewal;
    let namespace = &renewal.namespace;
    let owner = (renewal.spec.mesh_id.as_str(), renewal.uid.as_str());
    match effect {
        Effect::TakeLease(lease) => {
            let version = lease.resource_version.as_deref();
            api.hold_lease(namespace, &lease.name, version, Some(&renewal.uid)).await?;
        }
        Effect::ReleaseLease(lease) => {
            let version = lease.resource_version.as_deref();
            api.hold_lease(namespace, &lease.name, version, None).await?;
        }
        Effect::SetFinalizer(set) => api.set_finalizer(renewal, set).await?,
        Effect::BackUp { name, material } => {
            api.create_copy(namespace, &name, (BACKUP, Seal::Closed), owner, &material).await?;
        }
        Effect::Stage { role, name } => {
            let (mesh, secrets, policy) = (seen.mesh.clone(), seen.secrets.clone(), seen.policy.clone());
            let renew = move || native::renew(&mesh, &secrets, role, &policy, now, &mut rand::rng());
            let material = apart(seen, renew, now).await?;
            api.create_copy(namespace, &name, (STAGED, Seal::Closed), owner, &material).await?;
        }
        Effect::PrepareCopy { name, material } => {
            api.create_copy(namespace, &name, (STAGED, Seal::Open), owner, &material).await?;
        }
        Effect::StartJob(job) => api.create_job(namespace, &job).await?,
        Effect::DeleteJob { name, uid } => api.delete_job(namespace, &name, &uid).await?,
        Effect::Seal { role, name, resource_version } => {
            let (mesh, live, staged) = (seen.mesh.clone(), seen.secrets.clone(), seen.staged.clone());
            let policy = seen.policy.clone();
            let finish = move || job::finish(&mesh, &live, &staged, role, &policy, now, &mut rand::rng());
            let material = apart(seen, finish, now).await?;
            api.seal(namespace, &name, &resource_version, &material).await?;
        }
        Effect::Commit { name, resource_version, material } => {
            api.write_entries(namespace, &name, &resource_version, &material).await?;
        }
        Effect::Restart { at, partition, digest } => {
            if let Some(workload) = workload(seen, at) {
                // By the clock by which pods are made and commits are dated: by it other renewals tell whether this was for them too.
                let restarted_at = api.server().await?.clock.unwrap_or(now);
                api.restart(namespace, workload, &digest, restarted_at, partition).await?;
            }
        }
        Effect::SetPartition { at, partition, last } => {
            if let Some(workload) = workload(seen, at) {
                api.set_partition(namespace, workload, partition, last).await?;
            }
        }
        Effect::DeletePod { name, uid } => api.delete_pod(namespace, &name, &uid).await?,
        Effect::DeleteCopy(name) => api.delete_copy(namespace, &name).await?,
    }
    Ok(())
}

/// What an engine makes, on a thread of its own: RSA keys take tens of milliseconds each.
async fn apart(
    seen: &Observed,
    make: impl FnOnce() -> Result<Material, Obstacle> + Send + 'static,
    now: UnixTime,
) -> Result<Material, Failure> {
    match tokio::task::spawn_blocking(make).await {
        Ok(Ok(material)) => Ok(material),
        Ok(Err(obstacle)) => Err(Failure::Engine(Box::new(engine_failed(seen, &obstacle, now)))),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn workload(seen: &Observed, (tier, position): (usize, usize)) -> Option<&Workload> {
    seen.tiers.as_ref().ok()?.get(tier)?.get(position)
}
