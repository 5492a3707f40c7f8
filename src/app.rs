//! The composition root: puts the parts of the daemon together, in named stages.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::bail;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{error, info};

use crate::app::acting::{Crew, Roles};
use crate::app::clusters::{clusters, discovery, places};
use crate::app::complaint::Complaint;
use crate::app::doors::Doors;
use crate::app::knowledge::Knowledge;
use crate::app::permissions::Check;
use crate::app::trials::Trials;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::controller::{Acting, Surroundings};
use crate::follower::{Followed, Followers, Scope};
use crate::metrics::renewals::RenewalMetrics;
use crate::metrics::{Metrics, Observed};
use crate::observer::discovery::Discovery;
use crate::observer::{ClusterSpec, Registry, Supervisor};
use crate::policy::Thresholds;
use crate::ports::{Clock, SourceError};
use crate::requests::told::{Learner, Teller};
use crate::requests::{Desk, Place};
use crate::server::{self, App};
use crate::tasks::Tasks;

pub use clusters::{Plane, Sources, Ways, clusters_now};

pub mod acting;
mod clusters;
mod complaint;
mod doors;
mod knowledge;
mod permissions;
pub mod process;
mod trials;

/// What can be used once requests are answered.
pub struct Listening<'a> {
    /// What is observed.
    pub registry: &'a Arc<Registry>,
    /// The webhook's address, where it has one of its own.
    pub webhook: Option<SocketAddr>,
}

/// How often the configuration file and the certificates are looked at; a ConfigMap's change takes a minute to arrive anyway.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Between being unready and refusing connections: time for a load balancer to look away.
const NOTICE: Duration = Duration::from_secs(1);

/// Runs the daemon until `stop` resolves; `listening` is called once requests are answered.
///
/// # Errors
/// The configuration cannot be used at start, or a task that must not end has ended.
pub async fn serve(
    sources: Sources,
    roles: Roles,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    listening: impl FnOnce(Listening<'_>),
) -> anyhow::Result<()> {
    let mut config = sources.load()?;
    // Before they are used: what changes in between is seen then.
    let mut ways = Ways::read(&config, roles)?;
    let wanted = Wanted::of(&config, &ways, roles)?;
    let mut parts = Parts::new(roles);
    parts.apply(&config, wanted);
    let mut doors = Doors::open(&parts.app, &parts.metrics, listener, &config, roles.webhook).await?;
    let rendering = tokio::spawn(render_ahead(Arc::clone(&parts.app), parts.registry.changes()));
    let announcing = tokio::spawn(server::announce(Arc::clone(&parts.app), parts.registry.changes()));
    listening(Listening { registry: &parts.registry, webhook: doors.webhook() });

    tokio::pin!(stop);
    let mut discoveries = parts.discovered.subscribe();
    let mut reload = tokio::time::interval(RELOAD_INTERVAL);
    reload.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trials = Trials::default();
    // Why what stands in the file is not what is in force.
    let mut refused = Complaint::default();
    let failure = loop {
        tokio::select! {
            () = &mut stop => break None,
            error = parts.failed() => break Some(error),
            Ok(()) = discoveries.changed() => parts.observe(),
            () = trials.ended() => reload.reset_immediately(),
            // Nothing in here may wait for anybody: who stops, fails or is found waits for this.
            _ = reload.tick() => {
                let (what, outcome) = match changed(&sources, (&config, &ways), &mut trials, &mut doors, roles).await {
                    Ok((new, kept)) => {
                        if let Some((new, wanted)) = new {
                            parts.apply(&new.0, wanted);
                            (config, ways) = new;
                            info!("configuration reloaded");
                        }
                        ("kubeconfig", kept.map_err(anyhow::Error::new))
                    }
                    Err(error) => ("configuration", Poll::Ready(Err(error))),
                };
                match outcome {
                    Poll::Ready(Ok(())) if refused.settle() => {
                        parts.metrics.config_accepted(parts.clock.now());
                        info!("the configuration in force is the one that is there");
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                    Poll::Ready(Err(error)) => {
                        parts.metrics.config_refused();
                        let error = format!("{error:#}");
                        if refused.is_news(&error) {
                            error!(error, "the changed {what} is refused, the former stays in force");
                        }
                    }
                }
            }
        }
    };
    info!("shutting down");
    parts.app.stop();
    tokio::time::sleep(NOTICE).await;
    rendering.abort();
    announcing.abort();
    doors.close().await?;
    failure.map_or(Ok(()), Err)
}

/// The configuration with its kubeconfigs, and what it means, if it has changed and its addresses are open; and whether every kubeconfig is in force, as far as
/// that is known.
async fn changed(
    sources: &Sources,
    (former, former_ways): (&Config, &Ways),
    trials: &mut Trials,
    doors: &mut Doors,
    roles: Roles,
) -> anyhow::Result<(Option<((Config, Ways), Wanted)>, Poll<Result<(), SourceError>>)> {
    // Whatever else is refused, a listener's certificate that is replaced in time is taken up.
    doors.reload();
    let new = sources.load()?;
    let mut ways = Ways::read(&new, roles)?;
    // One bad kubeconfig is nothing to the other clusters, nor to a policy that shall stop what is done.
    let kept = trials.keep(&mut ways, former_ways);
    if new == *former && ways == *former_ways {
        return Ok((None, kept));
    }
    let wanted = Wanted::of(&new, &ways, roles)?;
    doors.set(&new, roles.webhook).await?;
    Ok((Some(((new, ways), wanted)), kept))
}

/// What a configuration means for this process: known before anything changes, so that it is taken as a whole or not at all.
struct Wanted {
    clusters: Vec<ClusterSpec>,
    discovery: Option<Discovery>,
    acting: Vec<Acting>,
    places: Vec<Place>,
    teller: Option<Teller>,
    checks: Vec<Check>,
}

impl Wanted {
    fn of(config: &Config, ways: &Ways, roles: Roles) -> anyhow::Result<Self> {
        let plane = roles.watching();
        let webhook = config.webhook.as_ref().filter(|_| roles.webhook);
        let teller = match webhook.map(|webhook| &webhook.meshes_from) {
            Some(Some(from)) if plane.is_none() => Some(knowledge::teller(from)?),
            Some(None) if plane.is_none() => bail!(
                "webhook.meshesFrom: is missing; with the role webhook alone no Secret is watched: name an observing process, or add the role observe"
            ),
            _ => None,
        };
        Ok(Self {
            clusters: plane.map(|plane| clusters(config, ways, plane)).transpose()?.unwrap_or_default(),
            discovery: plane.map(|plane| discovery(config, ways, plane)).transpose()?.flatten(),
            acting: if roles.act { acting::acting(config, ways, roles.timing)? } else { Vec::new() },
            places: if webhook.is_some() { places(config, ways, Plane::Webhook)? } else { Vec::new() },
            teller,
            checks: permissions::checks(config, ways, roles)?,
        })
    }
}

/// The parts of the daemon behind its addresses.
struct Parts {
    roles: Roles,
    clock: Arc<dyn Clock>,
    registry: Arc<Registry>,
    knowledge: Arc<Knowledge>,
    metrics: Arc<Metrics>,
    renewals: Arc<RenewalMetrics>,
    app: Arc<App>,
    desk: Arc<Desk>,
    configured: Vec<ClusterSpec>,
    discovered: watch::Sender<Vec<ClusterSpec>>,
    supervisor: Supervisor,
    followers: Followers,
    crew: Crew,
    telling: Tasks<Teller>,
    permissions: Tasks<Vec<Check>>,
}

impl Parts {
    fn new(roles: Roles) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let registry = Arc::new(Registry::default());
        let knowledge = Knowledge::new(&registry);
        let observed: Arc<dyn Observed> = Arc::clone(&knowledge) as _;
        let renewals = Arc::new(RenewalMetrics::default());
        let shown = (roles.act || roles.webhook).then(|| Arc::clone(&renewals));
        let metrics = Arc::new(Metrics::new(Arc::clone(&observed), shown));
        let followed = Arc::new(Followed::default());
        let asked = Arc::clone(&knowledge);
        let around =
            Surroundings { clock: Arc::clone(&clock), sights: knowledge.sights(), metrics: Arc::clone(&renewals) };
        Self {
            roles,
            app: App::new(
                observed,
                Arc::clone(&metrics),
                Arc::clone(&clock),
                Thresholds::default(),
                Arc::clone(&followed),
            ),
            desk: Desk::new(Arc::new(move |clusters| asked.facts(clusters)), Arc::clone(&clock)),
            configured: Vec::new(),
            discovered: watch::Sender::new(Vec::new()),
            supervisor: Supervisor::new(Arc::clone(&registry), Arc::clone(&clock)),
            followers: Followers::new(followed, Arc::clone(&clock)),
            crew: Crew::new(around),
            telling: Tasks::default(),
            permissions: Tasks::default(),
            clock,
            registry,
            knowledge,
            metrics,
            renewals,
        }
    }

    /// Makes everything as a configuration says.
    fn apply(&mut self, config: &Config, wanted: Wanted) {
        let Wanted { clusters, discovery, acting, places, teller, checks } = wanted;
        self.configured = clusters;
        self.supervisor.discover(discovery, &self.discovered);
        self.observe();
        self.crew.reconcile(acting);
        let (knowledge, clock) = (&self.knowledge, &self.clock);
        if teller.is_none() {
            knowledge.listen(None);
        }
        self.telling.set(teller, |teller| {
            let learner = Learner::new(teller.clone(), Arc::clone(clock));
            knowledge.listen(Some(Arc::clone(&learner)));
            learner.run()
        });
        let found = self.metrics.permissions();
        self.permissions.set(Some(checks), |checks| permissions::watch(checks.clone(), Arc::clone(found)));
        self.desk.set(places, config.policy.renew_before.0);
        let webhook = config.webhook.as_ref().filter(|_| self.roles.webhook);
        self.app.set_webhook(webhook.map(|webhook| acting::webhook(webhook, &self.desk, &self.renewals)));
        self.app.set_thresholds(config.policy.thresholds());
        self.metrics.config_accepted(self.clock.now());
    }

    /// Observes the configured and the discovered clusters; a configured one wins over a discovered one of its name.
    fn observe(&mut self) {
        let mut all = self.discovered.borrow().clone();
        all.extend(self.configured.iter().cloned());
        self.followers.reconcile(all.iter().map(scope));
        self.supervisor.reconcile(all);
    }

    /// Waits until a task that must not end has ended.
    async fn failed(&mut self) -> anyhow::Error {
        let (what, error) = tokio::select! {
            error = self.supervisor.failed() => ("a source's task", error),
            error = self.followers.failed() => ("a task that follows renewals", error),
            error = self.crew.failed() => ("an acting task", error),
            error = self.telling.failed() => ("the task that learns the meshes", error),
            error = self.permissions.failed() => ("the task that looks at permissions", error),
        };
        anyhow::Error::new(error).context(format!("{what} ended"))
    }
}

/// Where the renewals of a cluster's meshes are.
fn scope(cluster: &ClusterSpec) -> Scope {
    Scope {
        cluster: Arc::clone(&cluster.name),
        connection: cluster.connection.clone(),
        namespaces: cluster.selection.mesh_namespaces.clone(),
    }
}

/// Renders after changes, so that a scrape finds it done; changes that come thick and fast are rendered together.
async fn render_ahead(app: Arc<App>, mut changes: watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        app.refresh().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
