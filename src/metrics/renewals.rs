//! The series of the deciding and acting planes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::mesh::MeshKey;
use crate::metrics::{count, family};
use crate::renewal::Phase;
use crate::time::UnixTime;

/// Phases that end a renewal, in their order.
const OUTCOMES: [Phase; 5] = [Phase::Succeeded, Phase::RolledBack, Phase::Failed, Phase::Refused, Phase::Superseded];
/// Upper bounds of the steps' durations: from a pass to a rollout that takes its deadline.
const BUCKETS: [f64; 10] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0];

/// The newest renewal of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalState {
    /// Namespace.
    pub namespace: String,
    /// Mesh id.
    pub mesh: String,
    /// Where it stands.
    pub phase: Phase,
    /// Why.
    pub reason: String,
    /// When it is tried again.
    pub retry: Option<UnixTime>,
    /// Since when it stands there.
    pub since: Option<UnixTime>,
}

/// An endpoint that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Namespace.
    pub namespace: String,
    /// Mesh id.
    pub mesh: String,
    /// `POD:PORT`.
    pub endpoint: String,
    /// The end of what it served; `None` where no handshake came about.
    pub not_after: Option<UnixTime>,
    /// Whether it is not what is stored.
    pub stale: bool,
}

/// What endpoints showed, by cluster and in the order of their meshes; a cluster whose endpoints this process does not look at is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served(BTreeMap<Arc<str>, Arc<[EndpointState]>>);

/// What came of a notification; the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Renewals are stored for all that are due.
    Accepted,
    /// No alert of the list is firing.
    Ignored,
    /// Something could not be stored: it will be sent again.
    Unavailable,
    /// It was refused; see `meshcert_refusals`.
    Refused,
}

/// Why a request, or one mesh of it, was refused; the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No configured credential.
    Disabled,
    /// A wrong credential.
    Unauthorized,
    /// A client certificate whose names are not among those that may ask.
    ClientCertificate,
    /// No notification.
    Invalid,
    /// A body beyond the limit.
    TooLarge,
    /// Nothing of the mesh ends soon.
    NotDue,
    /// Too many notifications at once.
    Busy,
}

impl EndpointState {
    /// Whether it serves a certificate that has ended, or another one than the stored one.
    pub fn is_wrong(&self, now: UnixTime) -> bool {
        self.stale || self.not_after.is_some_and(|end| end <= now)
    }

    /// Whether no TLS handshake came about.
    pub fn is_silent(&self) -> bool {
        self.not_after.is_none()
    }

    fn place(&self) -> (&str, &str) {
        (&self.namespace, &self.mesh)
    }
}

/// In the order of their meshes, by which they are found.
fn in_order(mut endpoints: Vec<EndpointState>) -> Arc<[EndpointState]> {
    endpoints.sort_by(|a, b| a.place().cmp(&b.place()));
    endpoints.into()
}

impl Served {
    /// What the endpoints of a mesh showed; `None` where they are not looked at.
    pub fn of(&self, cluster: &str, MeshKey { namespace, id }: &MeshKey) -> Option<&[EndpointState]> {
        let all = self.0.get(cluster)?;
        let mesh = (&**namespace, id.as_str());
        let from = all.partition_point(|one| one.place() < mesh);
        let to = all.partition_point(|one| one.place() <= mesh);
        Some(&all[from..to])
    }
}

impl Received {
    const ALL: [Self; 4] = [Self::Accepted, Self::Ignored, Self::Unavailable, Self::Refused];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Ignored => "ignored",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
        }
    }
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::Disabled,
        Self::Unauthorized,
        Self::ClientCertificate,
        Self::Invalid,
        Self::TooLarge,
        Self::NotDue,
        Self::Busy,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Unauthorized => "unauthorized",
            Self::ClientCertificate => "client_certificate",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::NotDue => "not_due",
            Self::Busy => "busy",
        }
    }
}

/// What is counted, and the present state by cluster.
#[derive(Debug)]
pub struct RenewalMetrics {
    clusters: Mutex<Clusters>,
    outcomes: [AtomicU64; OUTCOMES.len()],
    received: [AtomicU64; Received::ALL.len()],
    refusals: [AtomicU64; Refusal::ALL.len()],
    steps: Vec<Histogram>,
}

type Clusters = BTreeMap<Arc<str>, ClusterState>;

#[derive(Debug, Default)]
struct ClusterState {
    leads: bool,
    readable: bool,
    renewals: Vec<RenewalState>,
    /// `None` where they are not looked at.
    endpoints: Option<Arc<[EndpointState]>>,
}

/// Reads the state at every scrape.
#[derive(Debug)]
pub(super) struct RenewalCollector(pub(super) Arc<RenewalMetrics>);

impl Default for RenewalMetrics {
    fn default() -> Self {
        let steps = Phase::ALL.iter().map(|_| Histogram::new(BUCKETS)).collect();
        Self {
            clusters: Mutex::default(),
            outcomes: Default::default(),
            received: Default::default(),
            refusals: Default::default(),
            steps,
        }
    }
}

impl RenewalMetrics {
    fn change(&self, cluster: &Arc<str>, change: impl FnOnce(&mut ClusterState)) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        change(clusters.entry(Arc::clone(cluster)).or_default());
    }

    /// Whether this process leads a cluster. Whoever does not, looks at no endpoints: what they showed it before is out of date.
    pub fn leader(&self, cluster: &Arc<str>, leads: bool) {
        self.change(cluster, |state| {
            state.leads = leads;
            state.endpoints = state.endpoints.take().filter(|_| leads);
        });
    }

    /// The newest renewal of each mesh of a cluster, and whether all can be read; of those that cannot, what was read last.
    pub fn renewals(&self, cluster: &Arc<str>, renewals: Vec<RenewalState>, readable: bool) {
        self.change(cluster, |state| (state.readable, state.renewals) = (readable, renewals));
    }

    /// The renewals of a cluster cannot be read, so nothing is done there.
    pub fn unreadable(&self, cluster: &Arc<str>) {
        self.change(cluster, |state| state.readable = false);
    }

    /// What the endpoints of a cluster showed.
    pub fn endpoints(&self, cluster: &Arc<str>, endpoints: Vec<EndpointState>) {
        self.change(cluster, |state| state.endpoints = Some(in_order(endpoints)));
    }

    /// What the endpoints of a mesh showed in the meantime, where those of its cluster are looked at.
    pub fn endpoints_of(&self, cluster: &Arc<str>, MeshKey { namespace, id }: &MeshKey, shown: Vec<EndpointState>) {
        self.change(cluster, |state| {
            let Some(known) = &state.endpoints else { return };
            let others = known.iter().filter(|one| one.place() != (&**namespace, id.as_str())).cloned();
            state.endpoints = Some(in_order(others.chain(shown).collect()));
        });
    }

    /// What all endpoints showed.
    pub fn served(&self) -> Served {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        Served(clusters.iter().filter_map(|(name, state)| Some((Arc::clone(name), state.endpoints.clone()?))).collect())
    }

    /// Nothing is done on a cluster any more.
    pub fn remove(&self, cluster: &str) {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster);
    }

    /// A renewal ended.
    pub fn ended(&self, phase: Phase) {
        if let Some(index) = OUTCOMES.iter().position(|outcome| *outcome == phase) {
            self.outcomes[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A notification came.
    pub fn received(&self, outcome: Received) {
        self.received[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Something was refused.
    pub fn refused(&self, reason: Refusal) {
        self.refusals[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A phase was left after so many seconds.
    pub fn step(&self, phase: Phase, seconds: i64) {
        if let Some(histogram) = self.steps.get(phase as usize) {
            histogram.observe(seconds as f64);
        }
    }
}

impl Collector for RenewalCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let metrics = &self.0;
        let clusters = metrics.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        encode_clusters(&mut encoder, &clusters)?;
        encode_counters(&mut encoder, metrics)?;
        encode_renewals(&mut encoder, &clusters)?;
        encode_endpoints(&mut encoder, &clusters)?;
        encode_steps(&mut encoder, metrics)
    }
}

fn encode_clusters(encoder: &mut DescriptorEncoder, clusters: &Clusters) -> Result<(), fmt::Error> {
    let each = |is: fn(&ClusterState) -> bool| {
        clusters.iter().map(move |(name, state)| (("mesh_cluster", &**name), ConstGauge::new(u32::from(is(state)))))
    };
    let help = "Whether this process acts on the cluster.";
    family(encoder, "meshcert_leader", help, None, each(|state| state.leads))?;
    let help = "Whether this process could read the cluster's renewals when it last tried.";
    family(encoder, "meshcert_renewals_last_read_successful", help, None, each(|state| state.readable))
}

fn encode_counters(encoder: &mut DescriptorEncoder, metrics: &RenewalMetrics) -> Result<(), fmt::Error> {
    let outcomes = OUTCOMES.iter().zip(&metrics.outcomes);
    let outcomes = outcomes.map(|(phase, counter)| (("outcome", phase.as_str()), count(counter)));
    family(encoder, "meshcert_renewals", "Renewals that this process brought to an end.", None, outcomes)?;
    let received = Received::ALL.iter().zip(&metrics.received);
    let received = received.map(|(outcome, counter)| (("outcome", outcome.as_str()), count(counter)));
    family(encoder, "meshcert_notifications", "Notifications of Alertmanager.", None, received)?;
    let refusals = Refusal::ALL.iter().zip(&metrics.refusals);
    let refusals = refusals.map(|(reason, counter)| (("reason", reason.as_str()), count(counter)));
    family(encoder, "meshcert_refusals", "Requests for renewals that were refused.", None, refusals)
}

fn encode_renewals(encoder: &mut DescriptorEncoder, clusters: &Clusters) -> Result<(), fmt::Error> {
    let renewals = || {
        clusters.iter().flat_map(|(name, state)| {
            state.renewals.iter().map(move |one| (labels(name, &one.namespace, &one.mesh), one))
        })
    };
    let phases = renewals().map(|(labels, one)| (with(labels, ("phase", one.phase.as_str())), ConstGauge::new(1_u32)));
    let help = "1 for the phase in which the mesh's newest renewal is.";
    family(encoder, "meshcert_renewal_phase", help, None, phases)?;
    let held = renewals().filter(|(_, one)| one.phase.is_held(&one.reason));
    let held = held.map(|(labels, one)| (with(labels, ("reason", one.reason.as_str())), ConstGauge::new(1_u32)));
    family(encoder, "meshcert_renewal_held", "1 while the mesh's newest renewal is held up.", None, held)?;
    let retries = renewals().filter_map(|(labels, one)| Some((labels, ConstGauge::new(one.retry?.0))));
    let help = "When the mesh's newest renewal is tried again.";
    family(encoder, "meshcert_renewal_retry_timestamp", help, Some(Unit::Seconds), retries)?;
    let last = renewals().filter(|(_, one)| one.phase.is_terminal());
    let last = last.filter_map(|(labels, one)| {
        Some((with(labels, ("outcome", one.phase.as_str())), ConstGauge::new(one.since?.0)))
    });
    let help = "When the mesh's newest renewal ended.";
    family(encoder, "meshcert_last_renewal_timestamp", help, Some(Unit::Seconds), last)
}

fn encode_endpoints(encoder: &mut DescriptorEncoder, clusters: &Clusters) -> Result<(), fmt::Error> {
    let endpoints = || {
        clusters.iter().flat_map(|(name, state)| {
            state.endpoints.iter().flat_map(|all| all.iter()).map(move |one| {
                (with(labels(name, &one.namespace, &one.mesh), ("endpoint", one.endpoint.as_str())), one)
            })
        })
    };
    let success = endpoints().map(|(labels, one)| (labels, ConstGauge::new(u32::from(one.not_after.is_some()))));
    let help = "Whether a TLS handshake with the endpoint came about.";
    family(encoder, "meshcert_served_certificate_probe_success", help, None, success)?;
    let stale = endpoints().filter(|(_, one)| one.not_after.is_some());
    let stale = stale.map(|(labels, one)| (labels, ConstGauge::new(u32::from(one.stale))));
    let help = "Whether the endpoint serves another certificate than the stored one.";
    family(encoder, "meshcert_served_certificate_stale", help, None, stale)?;
    let ends = endpoints().filter_map(|(labels, one)| Some((labels, ConstGauge::new(one.not_after?.0))));
    let help = "When the certificate that the endpoint serves ends.";
    family(encoder, "meshcert_served_certificate_not_after_timestamp", help, Some(Unit::Seconds), ends)
}

fn encode_steps(encoder: &mut DescriptorEncoder, metrics: &RenewalMetrics) -> Result<(), fmt::Error> {
    let help = "How long renewals stayed in a phase.";
    let name = "meshcert_renewal_step_duration";
    let mut steps = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for phase in Phase::ALL.into_iter().filter(|phase| !phase.is_terminal()) {
        metrics.steps[phase as usize].encode(steps.encode_family(&[("step", phase.as_str())])?)?;
    }
    Ok(())
}

type Place<'a> = [(&'static str, &'a str); 3];

fn labels<'a>(cluster: &'a str, namespace: &'a str, mesh: &'a str) -> Place<'a> {
    [("mesh_cluster", cluster), ("mesh_namespace", namespace), ("mesh_id", mesh)]
}

fn with<'a>([a, b, c]: Place<'a>, more: (&'static str, &'a str)) -> [(&'static str, &'a str); 4] {
    [a, b, c, more]
}
