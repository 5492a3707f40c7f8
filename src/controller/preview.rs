//! What would become of a renewal that began now.

use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::api::{Api, ApiError};
use crate::controller::reach::Way;
use crate::controller::{Acting, Actor, Surroundings};
use crate::mesh::MeshKey;
use crate::plan::Plan;
use crate::policy::Mode;
use crate::ports::Clock;
use crate::renewal::step::{Next, step};
use crate::renewal::{Phase, Renewal, Spec};

/// What preflight comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// What would be done.
    Planned(Box<Plan>),
    /// It would be refused: the stable code, and what is wrong with its remedy.
    Refused(String, String),
}

/// Takes a renewal that is stored nowhere through its preflight, whatever the mode. Reads alone, with the rights of the one who asks; whether the acting process comes to the pods is
/// for that one to find out.
///
/// # Errors
/// Something could not be read.
pub async fn preview(
    api: Api,
    acting: Acting,
    key: &MeshKey,
    force: bool,
    clock: Arc<dyn Clock>,
) -> Result<Outlook, ApiError> {
    let now = clock.now();
    let actor = onlooker(api, acting, clock);
    let mut renewal = Renewal {
        namespace: key.namespace.to_string(),
        spec: Spec { mesh_id: key.id.to_string(), force, ..Spec::default() },
        // As after a person's change of the spec: what is insisted on here counts.
        generation: 2,
        ..Renewal::default()
    };
    for phase in [Phase::Pending, Phase::Preflight] {
        renewal.status.phase = phase;
        // What only waits, for a window or because of a pause, is looked at all the same.
        let Next::Journal(status) = step(&actor.look(key, &renewal, &[]).await?, now) else { continue };
        renewal.status = *status;
        if renewal.status.phase == Phase::Refused {
            break;
        }
    }
    let status = renewal.status;
    Ok(match status.plan {
        // It has no digest: that belongs to a renewal that can be approved.
        Some(plan) => Outlook::Planned(Box::new(Plan { digest: String::new(), ..plan })),
        None => Outlook::Refused(status.reason, status.message),
    })
}

/// Where a failed renewal goes on if a person asks for it again; `None` where it would begin anew, or not go on. Reads alone.
///
/// # Errors
/// Something could not be read.
pub async fn resumption(
    api: Api,
    acting: Acting,
    key: &MeshKey,
    failed: &Renewal,
    clock: Arc<dyn Clock>,
) -> Result<Option<Phase>, ApiError> {
    let now = clock.now();
    let mut asked = Renewal { generation: failed.generation + 1, ..failed.clone() };
    // What is left over is cleaned up before.
    (asked.spec.rollback, asked.status.cleaned_up) = (false, true);
    let goes_on = |phase: &Phase| (Phase::Committing..=Phase::Verifying).contains(phase);
    Ok(match step(&onlooker(api, acting, clock).look(key, &asked, &[]).await?, now) {
        Next::Journal(status) => Some(status.phase).filter(goes_on),
        _ => None,
    })
}

/// Who looks and does nothing.
fn onlooker(api: Api, mut acting: Acting, clock: Arc<dyn Clock>) -> Actor {
    let around = Surroundings { clock, sights: Arc::new(|_| Default::default()), metrics: Arc::default() };
    let (_, leading) = watch::channel(None);
    // What would be done is asked also where nobody does it.
    acting.policy.mode = Mode::Auto;
    Actor::new(acting, around, api, Way::Direct, leading, Arc::default())
}
