//! Certificates, meshes and Secrets as values, without keys or encodings; shared by tests and benches.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test and bench uses its part")]
#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "only tests and benches use it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use meshcert::cert::{
    Attribute, CertFingerprint, Certificate, Entry, KeyAlgorithm, Name, Position, Positioned, Problem, ProblemReason,
    Role, SerialNumber,
};
use meshcert::inventory::{Shard, Snapshot};
use meshcert::mesh::{Component, Finding, HostedMesh, MeshCertificate, MeshKey, Naming, Reason, SecretRole};
use meshcert::metrics::exposition::ClusterSnapshot;
use meshcert::metrics::renewals::{EndpointState, RenewalMetrics, RenewalState};
use meshcert::metrics::{Observed, SourceHealth};
use meshcert::renewal::Phase;
use meshcert::secret::{Class, SecretEntry, SecretFacts, SecretRef};
use meshcert::time::{DAY, UnixTime};

/// 2026-11-23T20:21:00Z.
pub const NOW: UnixTime = UnixTime(1_795_465_260);

/// One of everything that the acting plane exports.
pub fn mk_renewals() -> Arc<RenewalMetrics> {
    let metrics = RenewalMetrics::default();
    let cluster: Arc<str> = "cp-1".into();
    let place = || ("istio-system".to_owned(), "demo".to_owned());
    let state = |phase, reason: &str| {
        let (namespace, mesh) = place();
        RenewalState { namespace, mesh, phase, reason: reason.to_owned(), retry: Some(NOW), since: Some(NOW) }
    };
    metrics.leader(&cluster, true);
    metrics.renewals(&cluster, vec![state(Phase::Pending, "Paused"), state(Phase::Failed, "AuditFailed")], true);
    let (namespace, mesh) = place();
    let endpoint = "demo-etcd-0:2379".to_owned();
    metrics.endpoints(&cluster, vec![EndpointState { namespace, mesh, endpoint, not_after: Some(NOW), stale: true }]);
    Arc::new(metrics)
}

pub fn mk_name(attributes: &[(Attribute, &str)]) -> Arc<Name> {
    Arc::new(Name(attributes.iter().map(|(kind, value)| (kind.clone(), Box::from(*value))).collect()))
}

pub fn mk_certificate(cn: &str, serial: u64, not_after: UnixTime) -> Certificate {
    let mut fingerprint = [0; 32];
    fingerprint[..8].copy_from_slice(&serial.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Certificate {
        subject: mk_name(&[(Attribute::Cn, cn)]),
        issuer: mk_name(&[(Attribute::Cn, "kubernetes")]),
        serial_number: SerialNumber(serial.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()),
        not_before: not_after.plus(-365 * DAY),
        not_after,
        role: Role::Leaf,
        key_algorithm: KeyAlgorithm::Rsa(2048),
        fingerprint: CertFingerprint(fingerprint),
        der: None,
    }
}

pub fn mk_mesh_certificate(
    secret_role: SecretRole,
    key: &str,
    component: Component,
    certificate: Certificate,
) -> MeshCertificate {
    let effective_not_after = certificate.not_after;
    MeshCertificate {
        secret_role,
        key: key.into(),
        position: Position::Index(0),
        in_use: true,
        certificate,
        component,
        signed_by: None,
        effective_not_after,
    }
}

pub fn mk_mesh(namespace: &str, id: &str, certificates: Vec<MeshCertificate>) -> HostedMesh {
    let key = MeshKey { namespace: namespace.into(), id: id.parse().unwrap() };
    let naming = Naming::default();
    let secret_names = SecretRole::ALL.map(|role| naming.secret_name(&key.id, role).into());
    let secrets = SecretRole::ALL.map(|role| {
        let reference = SecretRef { namespace: namespace.into(), name: naming.secret_name(&key.id, role).into() };
        Some(Arc::new(mk_secret(reference, Class::Mesh(key.id.clone(), role), vec![])))
    });
    let expiration = certificates.iter().filter(|found| found.needed()).map(|found| found.effective_not_after).min();
    HostedMesh { key, secrets, secret_names, certificates, findings: vec![], expiration }
}

/// A mesh with an API server certificate that ends at `end`, and its CA.
pub fn mk_small_mesh(id: &str, end: UnixTime) -> HostedMesh {
    let mut ca = mk_certificate("kubernetes", 7, NOW.plus(3_650 * DAY));
    ca.role = Role::Ca;
    ca.not_before = NOW.plus(-365 * DAY);
    mk_mesh(
        "istio-system",
        id,
        vec![
            mk_mesh_certificate(
                SecretRole::KubeCerts,
                "apiserver.crt",
                Component::Apiserver,
                mk_certificate("kube-apiserver", 0x5770, end),
            ),
            mk_mesh_certificate(SecretRole::KubeCerts, "ca.crt", Component::Ca, ca),
        ],
    )
}

pub fn mk_finding(secret_role: SecretRole, key: &str, position: Position, reason: Reason, message: &str) -> Finding {
    Finding { secret_role, key: key.into(), position, reason, message: message.to_owned() }
}

pub fn mk_secret(reference: SecretRef, class: Class, entries: Vec<SecretEntry>) -> SecretFacts {
    SecretFacts {
        reference,
        uid: "5f0c3e1e-0000-4000-8000-000000000000".into(),
        resource_version: "1".into(),
        paused: false,
        class,
        entries: entries.into(),
    }
}

pub fn mk_tls(namespace: &str, name: &str, certificates: Vec<Certificate>, problems: Vec<Problem>) -> SecretFacts {
    let certificates = certificates
        .into_iter()
        .enumerate()
        .map(|(index, certificate)| Positioned { position: Position::Index(index as u32), certificate })
        .collect();
    let entry = Arc::new(Entry { certificates, problems, kubeconfig: None });
    let reference = SecretRef { namespace: namespace.into(), name: name.into() };
    mk_secret(reference, Class::Other(0), vec![SecretEntry { key: "tls.crt".into(), digest: [0; 32], entry }])
}

pub fn mk_problem(index: u32) -> Problem {
    Problem {
        position: Position::Index(index),
        reason: ProblemReason::InvalidCertificate,
        message: "block 2 is no X.509 certificate".to_owned(),
    }
}

pub fn mk_shard(meshes: Vec<HostedMesh>, others: Vec<SecretFacts>) -> Arc<Shard> {
    Arc::new(Shard {
        meshes: meshes.into_iter().map(|mesh| (mesh.key.clone(), Arc::new(mesh))).collect(),
        others: others.into_iter().map(|facts| (facts.reference.clone(), Arc::new(facts))).collect::<BTreeMap<_, _>>(),
    })
}

pub fn mk_cluster(name: &str, shards: Vec<Arc<Shard>>) -> ClusterSnapshot {
    ClusterSnapshot { name: name.into(), snapshot: Arc::new(Snapshot { shards }) }
}

pub fn mk_source(name: &str, up: bool) -> SourceHealth {
    SourceHealth {
        source: name.into(),
        up,
        last_success: up.then_some(NOW),
        objects: if up { 12 } else { 0 },
        errors: vec![("forbidden", 0), ("unreachable", u64::from(!up) * 3)],
        resyncs: 0,
        message: (!up).then(|| "list secrets: no answer".to_owned()),
    }
}

/// A fleet that shows every series: two clusters, a healthy and a broken mesh, other Secrets in every odd shape.
pub fn mk_fleet() -> Vec<ClusterSnapshot> {
    let mut broken = mk_small_mesh("hosted-broken", NOW.plus(-DAY));
    broken.secrets[SecretRole::AdminKubeconfig as usize] = None;
    let mut early = mk_certificate("etcd \"0\"", 0x99, NOW.plus(400 * DAY));
    early.not_before = NOW.plus(DAY);
    broken.certificates.push(mk_mesh_certificate(SecretRole::EtcdCerts, "server.crt", Component::EtcdServer, early));
    broken.findings = vec![
        mk_finding(
            SecretRole::AdminKubeconfig,
            "",
            Position::Entry,
            Reason::SecretMissing,
            "the Secret does not exist",
        ),
        mk_finding(
            SecretRole::EtcdCerts,
            "peer.crt",
            Position::Entry,
            Reason::Unreadable(ProblemReason::InvalidPem),
            "<b>no</b> PEM",
        ),
        mk_finding(
            SecretRole::EtcdCerts,
            "peer.crt",
            Position::Entry,
            Reason::Unreadable(ProblemReason::InvalidPem),
            "the same again",
        ),
    ];
    let mut admin = mk_mesh_certificate(
        SecretRole::AdminKubeconfig,
        "config",
        Component::Admin,
        mk_certificate("kubernetes-admin", 3, NOW.plus(300 * DAY)),
    );
    admin.position = Position::User("kubernetes-admin".into(), 0);
    let mut healthy = mk_small_mesh("hosted-demo", NOW.plus(200 * DAY));
    healthy.certificates.push(admin);

    let mut described = mk_certificate("*.example.org", 0xffff_ffff_ffff_ffff, NOW.plus(10 * DAY));
    described.subject = mk_name(&[
        (Attribute::C, "DE"),
        (Attribute::St, "Bayern"),
        (Attribute::L, "M\u{fc}nchen"),
        (Attribute::O, "Quotes \"and\" back\\slashes"),
        (Attribute::O, "a second organization"),
        (Attribute::Ou, "two\nlines"),
        (Attribute::Cn, "*.example.org"),
    ]);
    described.issuer = Arc::clone(&described.subject);
    let bundle = mk_tls(
        "web",
        "bundle",
        vec![described, mk_certificate("issuing", 1, NOW.plus(-1))],
        vec![mk_problem(2), mk_problem(3)],
    );
    let twice = mk_certificate("twice", 2, NOW.plus(DAY));
    let mut alike = twice.clone();
    alike.fingerprint.0[0] ^= 0xff;
    alike.not_after = NOW.plus(2 * DAY);
    let odd = mk_tls("web", "odd", vec![twice.clone(), twice, alike], vec![]);
    let unreadable = mk_tls("web", "unreadable", vec![], vec![mk_problem(0)]);
    vec![
        mk_cluster("cp-2", vec![mk_shard(vec![mk_small_mesh("hosted-demo", NOW.plus(20 * DAY))], vec![])]),
        mk_cluster(
            "cp-1",
            vec![
                mk_shard(vec![healthy], vec![odd]),
                mk_shard(vec![], vec![]),
                mk_shard(vec![broken], vec![bundle, unreadable]),
            ],
        ),
    ]
}

/// An observing plane that says what it is told to.
pub struct Told {
    pub clusters: std::sync::Mutex<Vec<ClusterSnapshot>>,
    pub sources: std::sync::Mutex<Vec<SourceHealth>>,
    pub ready: std::sync::Mutex<Result<(), String>>,
}

impl Told {
    pub fn new(clusters: Vec<ClusterSnapshot>) -> Arc<Self> {
        let sources = vec![mk_source("cp-1", true), mk_source("cp-2", false)];
        Arc::new(Self { clusters: clusters.into(), sources: sources.into(), ready: Ok(()).into() })
    }
}

impl Observed for Told {
    fn clusters(&self) -> Vec<ClusterSnapshot> {
        self.clusters.lock().unwrap().clone()
    }

    fn sources(&self) -> Vec<SourceHealth> {
        self.sources.lock().unwrap().clone()
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }
}
