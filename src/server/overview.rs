//! All meshes, worst first: what the API says and the first page shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use serde::Serialize;

use crate::cert::{CertFingerprint, KeyAlgorithm, Name, Position, Role, SerialNumber};
use crate::mesh::{Finding, HostedMesh, MeshCertificate, Reason, SecretRole};
use crate::metrics::SourceHealth;
use crate::metrics::exposition::ClusterSnapshot;
use crate::metrics::renewals::{EndpointState, Served};
use crate::policy::Thresholds;
use crate::server::{App, encoded};
use crate::time::{UnixTime, time_left};

/// What is shown, and its JSON.
#[derive(Debug)]
pub struct Overview {
    /// The answer of `/api/v1/meshes`.
    pub json: Bytes,
    /// The meshes, worst first.
    pub rows: Vec<Row>,
    /// How the sources are.
    pub sources: Vec<SourceHealth>,
    /// The moment all this is said of.
    pub now: UnixTime,
}

/// A mesh in a line.
#[derive(Debug)]
pub struct Row {
    /// Control plane cluster.
    pub cluster: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Mesh id.
    pub id: String,
    /// How it is.
    pub state: State,
    /// The end that counts.
    pub expiration: Option<UnixTime>,
    /// The time until then in words.
    pub time_left: String,
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
}

/// How a mesh is; worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// A certificate that the hosted API needs has ended.
    Expired,
    /// Less than `urgentBefore` is left.
    Urgent,
    /// A Secret is missing, or every certificate.
    Missing,
    /// An endpoint serves another certificate than the stored one, or one that has ended.
    Stale,
    /// An endpoint answers no TLS handshake.
    Unreachable,
    /// Something cannot be read or does not hold together.
    Invalid,
    /// Less than `renewBefore` is left.
    Expiring,
    /// Nothing to do.
    Ok,
}

/// The overview that was made last: many who ask at once share one.
#[derive(Debug, Default)]
pub(super) struct Overviews(Mutex<Option<(Given, Arc<Overview>)>>);

/// What an overview depends on.
#[derive(Debug, PartialEq)]
pub(super) struct Given {
    /// Compared first, for it changes most often.
    pub(super) now: UnixTime,
    pub(super) thresholds: Thresholds,
    pub(super) clusters: Vec<ClusterSnapshot>,
    pub(super) sources: Vec<SourceHealth>,
    pub(super) served: Served,
}

/// The overview of this second; `None` where making it failed, which the runtime has logged.
pub(super) async fn current(app: &Arc<App>) -> Option<Arc<Overview>> {
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || app.overviews.get(Given::of(&app))).await.ok()
}

impl Overviews {
    fn get(&self, given: Given) -> Arc<Overview> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, overview)) = &*last
            && *of == given
        {
            return Arc::clone(overview);
        }
        let overview = Arc::new(make(&given));
        *last = Some((given, Arc::clone(&overview)));
        overview
    }
}

impl Given {
    /// What is known now.
    pub(super) fn of(app: &App) -> Self {
        Self {
            clusters: app.observed.clusters(),
            sources: app.observed.sources(),
            served: app.metrics.served(),
            now: app.clock.now(),
            thresholds: **app.thresholds.load(),
        }
    }
}

/// The overview of what is observed at `now`, by one who looks at no endpoints.
pub fn of(
    clusters: Vec<ClusterSnapshot>,
    sources: Vec<SourceHealth>,
    now: UnixTime,
    thresholds: Thresholds,
) -> Overview {
    make(&Given { clusters, sources, served: Served::default(), now, thresholds })
}

pub(super) fn make(given: &Given) -> Overview {
    let now = given.now;
    let mut meshes: Vec<MeshView<'_>> = given
        .clusters
        .iter()
        .flat_map(|cluster| cluster.snapshot.meshes().map(move |mesh| view(&cluster.name, mesh, given)))
        .collect();
    // A mesh without any readable certificate has no end: it stands before those of its state that have one.
    meshes.sort_by(|a, b| {
        (a.state, a.expiration, a.cluster, a.namespace, a.id).cmp(&(
            b.state,
            b.expiration,
            b.cluster,
            b.namespace,
            b.id,
        ))
    });
    let rows = meshes.iter().map(row).collect();
    let list = List { meshes, sources: given.sources.iter().map(source).collect() };
    Overview { json: encoded(&list), rows, sources: given.sources.clone(), now }
}

fn view<'a>(cluster: &'a Arc<str>, mesh: &'a HostedMesh, given: &'a Given) -> MeshView<'a> {
    let now = given.now;
    let findings = mesh.findings_at(now);
    let served = given.served.of(cluster, &mesh.key);
    let state = state(mesh, &findings, served.unwrap_or_default(), now, given.thresholds);
    MeshView {
        cluster,
        namespace: &mesh.key.namespace,
        id: mesh.key.id.as_str(),
        state,
        expiration: mesh.expiration,
        time_left: mesh.expiration.map(|end| time_left(now, end)),
        secrets: SecretRole::ALL.map(|role| {
            let facts = mesh.secrets[role as usize].as_ref();
            SecretView {
                role: role.as_str(),
                name: mesh.secret_name(role),
                present: facts.is_some(),
                paused: facts.is_some_and(|facts| facts.paused),
            }
        }),
        certificates: mesh.certificates.iter().map(|found| certificate(mesh, found)).collect(),
        findings: findings.into_iter().map(|found| finding(mesh, found)).collect(),
        endpoints: served.map(|served| served.iter().map(endpoint).collect()),
    }
}

/// How a mesh with these findings is, whose endpoints showed this.
pub(super) fn state(
    mesh: &HostedMesh,
    findings: &[Finding],
    served: &[EndpointState],
    now: UnixTime,
    thresholds: Thresholds,
) -> State {
    let Some(end) = mesh.expiration else { return State::Missing };
    let left = now.seconds_until(end);
    if left <= 0 {
        State::Expired
    } else if left < thresholds.urgent_before {
        State::Urgent
    } else if findings.iter().any(|found| found.reason == Reason::SecretMissing) {
        State::Missing
    } else if served.iter().any(|endpoint| endpoint.is_wrong(now)) {
        State::Stale
    } else if served.iter().any(EndpointState::is_silent) {
        State::Unreachable
    } else if findings.iter().any(|found| found.reason.breaks()) {
        State::Invalid
    } else if thresholds.is_due(end, now) {
        State::Expiring
    } else {
        State::Ok
    }
}

fn certificate<'a>(mesh: &'a HostedMesh, found: &'a MeshCertificate) -> CertificateView<'a> {
    let facts = &found.certificate;
    CertificateView {
        secret: mesh.secret_name(found.secret_role),
        key: &found.key,
        position: &found.position,
        component: found.component.as_str(),
        role: facts.role,
        subject: &facts.subject,
        issuer: &facts.issuer,
        serial_number: &facts.serial_number,
        not_before: facts.not_before,
        not_after: facts.not_after,
        effective_not_after: found.effective_not_after,
        key_algorithm: facts.key_algorithm,
        fingerprint_sha256: facts.fingerprint,
        needed: found.needed(),
    }
}

fn finding(mesh: &HostedMesh, found: Finding) -> FindingView<'_> {
    FindingView {
        secret: mesh.secret_name(found.secret_role),
        key: found.key,
        position: found.position,
        reason: found.reason.as_str(),
        message: found.message,
    }
}

fn endpoint(state: &EndpointState) -> EndpointView<'_> {
    let EndpointState { endpoint, not_after, stale, .. } = state;
    EndpointView { endpoint, not_after: *not_after, stale: *stale }
}

fn row(mesh: &MeshView<'_>) -> Row {
    Row {
        cluster: Arc::clone(mesh.cluster),
        namespace: Arc::clone(mesh.namespace),
        id: mesh.id.to_owned(),
        state: mesh.state,
        expiration: mesh.expiration,
        time_left: mesh.time_left.clone().unwrap_or_else(|| "unknown".to_owned()),
        findings: mesh.findings.iter().map(|finding| finding.message.clone()).collect(),
    }
}

fn source(health: &SourceHealth) -> SourceView<'_> {
    SourceView {
        source: &health.source,
        up: health.up,
        last_success: health.last_success,
        objects: health.objects,
        errors: health.errors.iter().copied().collect(),
        resyncs: health.resyncs,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    meshes: Vec<MeshView<'a>>,
    sources: Vec<SourceView<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MeshView<'a> {
    cluster: &'a Arc<str>,
    namespace: &'a Arc<str>,
    id: &'a str,
    state: State,
    expiration: Option<UnixTime>,
    time_left: Option<String>,
    secrets: [SecretView<'a>; 3],
    certificates: Vec<CertificateView<'a>>,
    findings: Vec<FindingView<'a>>,
    endpoints: Option<Vec<EndpointView<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecretView<'a> {
    role: &'static str,
    name: &'a str,
    present: bool,
    paused: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateView<'a> {
    secret: &'a str,
    key: &'a str,
    position: &'a Position,
    component: &'static str,
    role: Role,
    subject: &'a Name,
    issuer: &'a Name,
    serial_number: &'a SerialNumber,
    not_before: UnixTime,
    not_after: UnixTime,
    effective_not_after: UnixTime,
    key_algorithm: KeyAlgorithm,
    fingerprint_sha256: CertFingerprint,
    needed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FindingView<'a> {
    secret: &'a str,
    key: Box<str>,
    position: Position,
    reason: &'static str,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView<'a> {
    endpoint: &'a str,
    not_after: Option<UnixTime>,
    stale: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceView<'a> {
    source: &'a str,
    up: bool,
    last_success: Option<UnixTime>,
    objects: u64,
    errors: BTreeMap<&'static str, u64>,
    resyncs: u64,
}

impl State {
    /// All of them, worst first.
    pub const ALL: [Self; 8] = [
        Self::Expired,
        Self::Urgent,
        Self::Missing,
        Self::Stale,
        Self::Unreachable,
        Self::Invalid,
        Self::Expiring,
        Self::Ok,
    ];

    /// As in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Urgent => "urgent",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Unreachable => "unreachable",
            Self::Invalid => "invalid",
            Self::Expiring => "expiring",
            Self::Ok => "ok",
        }
    }
}
