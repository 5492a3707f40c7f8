//! The acting plane of one cluster: leads, follows the renewals, takes them step by step, and asks for those that are due.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::connect::{Connection, connect};
use crate::controller::pass::Passed;
use crate::controller::queue::{Dozing, Sleep, Wait};
use crate::controller::reach::Way;
use crate::controller::slots::Slots;
use crate::follower::{Followed, SourceHealth, Unreadable, View, follow_all};
use crate::mesh::{MeshKey, Naming};
use crate::metrics::renewals::{RenewalMetrics, RenewalState};
use crate::policy::Policy;
use crate::ports::Clock;
use crate::renewal::step::Hindrance;
use crate::renewal::{Phase, Renewal};
use crate::requests::Sights;
use crate::rollout::{Reach, Target};
use crate::time::UnixTime;

mod act;
mod leader;
mod login;
mod look;
mod pass;
mod preview;
mod proof;
mod prove;
mod queue;
mod reach;
mod scan;
mod slots;
mod sweep;

pub use preview::{Outlook, preview, resumption};

/// How often things are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// While a renewal is under way.
    pub busy: Duration,
    /// Otherwise.
    pub idle: Duration,
    /// For what is due, what is left over, and what endpoints serve.
    pub scan: Duration,
    /// Before the first of these looks, once a process leads and knows the meshes.
    pub first_scan: Duration,
    /// How long others wait after the leader's last sign of life.
    pub lease: Duration,
}

impl Timing {
    /// For a cluster that others use too.
    pub const DEFAULT: Self = Self {
        busy: Duration::from_secs(1),
        idle: Duration::from_secs(5),
        scan: Duration::from_secs(60),
        // Whoever is started because something has ended already must not wait, and whoever is restarted again and again must come to it at all.
        first_scan: Duration::ZERO,
        lease: Duration::from_secs(15),
    };
}

/// A cluster to act on.
#[derive(Clone, Debug, PartialEq)]
pub struct Acting {
    /// The value of `mesh_cluster`.
    pub name: Arc<str>,
    /// How it is reached.
    pub connection: Connection,
    /// How its pods are reached.
    pub reach: Reach,
    /// Namespaces of hosted meshes; the first one holds the leader's Lease.
    pub namespaces: Vec<String>,
    /// Names of the meshes' Secrets.
    pub naming: Naming,
    /// The rules.
    pub policy: Policy,
    /// The workloads to restart.
    pub tiers: Vec<Vec<Target>>,
    /// How often things are looked at.
    pub timing: Timing,
    /// Who this process is, among those that may lead.
    pub identity: String,
}

/// What is the same for all clusters.
#[derive(Clone)]
pub struct Surroundings {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is observed.
    pub sights: Sights,
    /// What is counted.
    pub metrics: Arc<RenewalMetrics>,
}

/// What an error means for an effect; `None` where somebody was faster, and what is there now decides.
fn hindrance(error: &ApiError) -> Option<Hindrance> {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::Conflict => None,
        ErrorKind::Forbidden => Some(Hindrance::Forbidden),
        ErrorKind::Invalid => Some(Hindrance::Rejected),
        ErrorKind::Unavailable => Some(Hindrance::Unavailable),
    }
}

/// More passes than a whole renewal of a mesh with many members takes without waiting.
const MOST_PASSES: u32 = 200;
/// Conflicts in a row after which nobody is faster any more: something answers so, whatever is asked.
const MOST_CONFLICTS: u32 = 5;
/// Renewals that are looked at at the same time: each has its Secrets in memory meanwhile.
const ABREAST: usize = 32;

/// Connects, and acts until it is dropped.
pub async fn run(acting: Acting, around: Surroundings) {
    let client = loop {
        match connect(&acting.connection).await {
            Ok(client) => break client,
            Err(error) => {
                error!(cluster = %acting.name, %error, "cannot act");
                // Without this there would be no series that an alert could look at.
                around.metrics.unreadable(&acting.name);
            }
        }
        sleep(acting.timing.idle).await;
    };
    run_on(Api::new(client), acting, around).await;
}

/// Acts on this API until it is dropped, whatever the connection says.
pub async fn run_on(api: Api, acting: Acting, around: Surroundings) {
    let (lead, leading) = watch::channel(None);
    let mut tasks = JoinSet::new();
    let home = acting.namespaces.first().cloned().unwrap_or_default();
    let Acting { identity, timing, .. } = acting.clone();
    tasks.spawn(leader::elect(api.clone(), home, identity, timing.lease, Arc::clone(&around.clock), lead));
    let followed = follow_all(api.client(), &acting.name, &acting.namespaces, &around.clock, &mut tasks);
    let way = Way::new(acting.reach, &acting.connection, &api);
    let actor = Arc::new(Actor::new(acting, around, api, way, leading, followed));
    tokio::select! {
        () = actor.work() => {}
        // The others never end by themselves: a panic in them is one of this task.
        Some(Err(error)) = tasks.join_next() => {
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

struct Actor {
    acting: Acting,
    around: Surroundings,
    api: Api,
    way: Way,
    leading: watch::Receiver<Option<UnixTime>>,
    followed: Arc<Followed>,
    /// Whether the API server has said what it is.
    introduced: OnceCell<()>,
    slots: Slots,
    dozing: Dozing,
    /// What endpoints showed.
    memory: Mutex<sweep::Memory>,
}

impl Actor {
    fn new(
        acting: Acting,
        around: Surroundings,
        api: Api,
        way: Way,
        leading: watch::Receiver<Option<UnixTime>>,
        followed: Arc<Followed>,
    ) -> Self {
        let (introduced, slots, dozing, memory) = Default::default();
        Self { acting, around, api, way, leading, followed, introduced, slots, dozing, memory }
    }

    async fn work(self: Arc<Self>) {
        let timing = self.acting.timing;
        let mut leading = self.leading.clone();
        let mut changes = self.followed.changes();
        let mut schedule = scan::Schedule::new(timing);
        let mut scans = JoinSet::new();
        loop {
            let leads = leading.borrow_and_update().is_some();
            changes.mark_unchanged();
            let view = self.followed.view();
            // Whoever has not seen the failures of a namespace cannot know whether the breaker is open; one that cannot be read holds up no other.
            let is_known = view.sources.iter().all(|source| source.listed || source.failure.is_some());
            self.around.metrics.leader(&self.acting.name, leads);
            self.show(&view);
            let mut busy = false;
            if leads && is_known {
                let sight = (self.around.sights)(&self.acting.name);
                while scans.try_join_next().is_some() {}
                if scans.is_empty() && schedule.is_due(sight.read, Instant::now()) {
                    // Endpoints that do not answer must not keep renewals waiting.
                    let actor = Arc::clone(&self);
                    let meshes = sight.meshes;
                    scans.spawn(async move { actor.scan(&meshes).await });
                }
                busy = self.drive_all(&view).await || sight.read == 0;
            }
            if !leads {
                schedule = scan::Schedule::new(timing);
                scans.abort_all();
                self.forget_proofs();
            }
            // What changes is looked at soon, and what changes often not each time.
            let rest = if is_known { timing.busy } else { Duration::ZERO };
            tokio::select! {
                () = sleep(if busy { timing.busy } else { timing.idle }) => {}
                () = async { sleep(rest).await; let _ = changes.changed().await; } => {}
                Ok(()) = leading.changed() => {}
            }
        }
    }

    fn leads(&self) -> bool {
        self.leading.borrow().is_some()
    }

    /// Exports the newest renewal of each mesh, and whether all can be read. Before the first answer there is nothing to say.
    fn show(&self, view: &View) {
        let is_read = |source: &SourceHealth| source.listed && source.is_readable();
        if view.sources.iter().all(|source| !source.listed && source.failure.is_none()) {
            return;
        }
        let states = view.by_mesh().into_iter().map(|((_, namespace, mesh), renewal)| RenewalState {
            namespace: namespace.to_owned(),
            mesh: mesh.to_owned(),
            phase: renewal.status.phase,
            reason: renewal.status.reason.clone(),
            retry: renewal.status.next_attempt_at,
            since: renewal.status.phase_since,
        });
        self.around.metrics.renewals(&self.acting.name, states.collect(), view.sources.iter().all(is_read));
    }

    /// Takes every unfinished renewal whose turn it is as far as it goes; whether one is under way.
    async fn drive_all(self: &Arc<Self>, view: &View) -> bool {
        let all: Arc<[Arc<Renewal>]> = view.renewals.iter().map(|known| Arc::clone(&known.renewal)).collect();
        let mut driving = JoinSet::new();
        let mut busy = false;
        // A panic about one renewal has been printed, and is no reason to stop the others.
        let mut ended = |result: Result<bool, JoinError>| busy |= result.unwrap_or(true);
        let unreadable: Vec<&Unreadable> = view.sources.iter().flat_map(|source| source.unreadable.values()).collect();
        for renewal in self.in_turn(&all, &unreadable).await {
            if driving.len() >= ABREAST
                && let Some(result) = driving.join_next().await
            {
                ended(result);
            }
            let (actor, all) = (Arc::clone(self), Arc::clone(&all));
            driving.spawn(async move { actor.drive(&renewal, &all).await });
        }
        while let Some(result) = driving.join_next().await {
            ended(result);
        }
        busy
    }

    /// Takes one renewal as far as it goes; whether it is under way.
    async fn drive(&self, renewal: &Renewal, all: &[Arc<Renewal>]) -> bool {
        let (namespace, name) = (&renewal.namespace, &renewal.name);
        let Ok(mesh) = renewal.spec.mesh_id.parse() else {
            warn!(namespace, name, "spec.meshId is no mesh id; delete the object");
            return false;
        };
        let key = MeshKey { namespace: namespace.as_str().into(), id: mesh };
        let mut conflicts = 0;
        for _ in 0..MOST_PASSES {
            if !self.leads() {
                return false;
            }
            match self.pass(&key, renewal, all).await {
                Ok(Passed::Moved) => conflicts = 0,
                Ok(Passed::Waits) => return true,
                Ok(Passed::Rests) => return false,
                // Somebody was faster: what is there now decides.
                Err(error) if error.kind == ErrorKind::Conflict && conflicts + 1 < MOST_CONFLICTS => conflicts += 1,
                Err(error) => {
                    warn!(namespace, name, %error, "the renewal waits");
                    // A right is not granted within a second.
                    let phase = renewal.status.phase;
                    let lasts = match error.kind {
                        ErrorKind::Forbidden => phase < Phase::BackingUp || phase.is_terminal(),
                        ErrorKind::Invalid => phase.is_terminal(),
                        _ => false,
                    };
                    if Wait::of(renewal).is_some() || lasts {
                        self.doze(renewal, Sleep::Deep);
                    }
                    return true;
                }
            }
        }
        true
    }

    /// Tells of a new phase: log, Event, metrics.
    async fn entered(&self, renewal: &Renewal, phase: Phase, reason: &str, message: &str) {
        let now = self.around.clock.now();
        let bad = matches!(phase, Phase::Failed | Phase::Refused | Phase::RolledBack);
        let (mesh, name) = (&renewal.spec.mesh_id, &renewal.name);
        let said = format!("{}: {message}", phase.as_str());
        if bad {
            error!(cluster = %self.acting.name, mesh, renewal = name, reason, "{said}");
        } else {
            info!(cluster = %self.acting.name, mesh, renewal = name, reason, "{said}");
        }
        if let Some(since) = renewal.status.phase_since {
            self.around.metrics.step(renewal.status.phase, since.seconds_until(now));
        }
        if phase.is_terminal() {
            self.around.metrics.ended(phase);
        }
        self.tell(renewal, bad, reason, if bad { &said } else { message }).await;
    }

    /// Tells of it in an Event.
    async fn tell(&self, renewal: &Renewal, bad: bool, reason: &str, message: &str) {
        let now = self.around.clock.now();
        if let Err(error) = self.api.tell(renewal, bad, reason, message, now).await {
            warn!(%error, "the Event is lost");
        }
    }
}
