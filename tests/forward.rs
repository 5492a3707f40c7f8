//! The proof from outside a cluster: pods are reached through its API server, whatever happens on the way.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/tunnel.rs"]
mod tunnel;
#[path = "support/values.rs"]
mod values;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use meshcert::clock::{ManualClock, SystemClock};
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::{Connection, connect};
use meshcert::config::Config;
use meshcert::controller::{self, Acting, Surroundings, Timing};
use meshcert::crd;
use meshcert::demo::{self, Options, Scenario};
use meshcert::material::assemble;
use meshcert::mesh::{HostedMesh, MeshKey, Naming, SecretRole};
use meshcert::metrics::Metrics;
use meshcert::metrics::exposition::Exposition;
use meshcert::metrics::family::Format;
use meshcert::metrics::renewals::RenewalMetrics;
use meshcert::native;
use meshcert::policy::{Mode, Policy};
use meshcert::ports::Clock;
use meshcert::renewal::{Phase, Renewal, Trigger};
use meshcert::requests::{Asked, Sight, ask};
use meshcert::rollout::Reach;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tunnel::{Harm, Tunnel};

const NAMESPACE: &str = "istio-system";
/// Nothing takes longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);
const QUICK: Duration = Duration::from_millis(20);

struct World {
    _demo: demo::Demo,
    api: Api,
    tunnel: Tunnel,
    folder: TempDir,
    meshes: Vec<Arc<HostedMesh>>,
    metrics: Arc<RenewalMetrics>,
    /// Between two looks at all endpoints.
    scan: Duration,
}

/// meshcert; ends when dropped.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl World {
    /// A cluster with meshes that end soon.
    async fn new(meshes: usize) -> Self {
        Self::at_the_time_of(Arc::new(SystemClock), meshes).await
    }

    /// One whose hosted APIs go by a clock of their own.
    async fn at_the_time_of(clock: Arc<dyn Clock>, meshes: usize) -> Self {
        let options = Options {
            scenario: Scenario::Expiring,
            meshes: Some(meshes),
            listen: "127.0.0.1:0".parse().unwrap(),
            pace: Duration::from_millis(5),
            clock,
        };
        let demo = demo::start(options).await.unwrap();
        let tunnel = Tunnel::start(demo.address).await;
        let folder = tempfile::tempdir().unwrap();
        let direct = folder.path().join("direct");
        std::fs::write(&direct, demo.kubeconfig()).unwrap();
        let through = demo.kubeconfig().replace(&demo.address.to_string(), &tunnel.address.to_string());
        std::fs::write(folder.path().join("tunnelled"), through).unwrap();
        let api = Api::new(connect(&Connection::file(direct, None)).await.unwrap());
        api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd::definition()).await.unwrap();
        let metrics = Arc::default();
        let mut world = Self { _demo: demo, api, tunnel, folder, meshes: Vec::new(), metrics, scan: QUICK };
        for number in 1..=meshes {
            world.meshes.push(Arc::new(world.mesh(&format!("expiring-{number}")).await));
        }
        world
    }

    /// As it is outside a cluster: the addresses in the pods' status lead nowhere.
    async fn hide_the_pods(&self) {
        self.change_templates(json!({ "metadata": { "annotations": { "demo.meshcert.dev/address": "hidden" } } }))
            .await;
    }

    /// Changes the pod templates of all that serves, and waits until every pod is of the new one.
    async fn change_templates(&self, template: Value) {
        for mesh in &self.meshes {
            for workload in ["statefulsets/MESH-etcd", "deployments/MESH-hosted-apiserver"] {
                let path = workload.replace("MESH", mesh.key.id.as_str());
                let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/{path}");
                self.api.merge(&path, &json!({ "spec": { "template": template } })).await.unwrap();
                loop {
                    let object: Value = self.api.get(&path).await.unwrap().unwrap();
                    let status = &object["status"];
                    let done = status["observedGeneration"] == object["metadata"]["generation"]
                        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|count| status[count] == 1);
                    if done {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    async fn mesh(&self, id: &str) -> HostedMesh {
        let (key, naming) = (MeshKey { namespace: NAMESPACE.into(), id: id.parse().unwrap() }, Naming::default());
        let secrets = self.api.mesh_secrets(NAMESPACE, &naming.secret_names(&key.id)).await.unwrap();
        assemble(&naming, &key, &secrets)
    }

    fn run(&self, reach: Reach, policy: Policy) -> Running {
        let acting = Acting {
            name: "demo".into(),
            connection: Connection::file(self.folder.path().join("tunnelled"), None),
            reach,
            namespaces: vec![NAMESPACE.to_owned()],
            naming: Naming::default(),
            policy,
            tiers: Config::default().policy.restart_tiers,
            timing: Timing {
                busy: QUICK,
                idle: QUICK,
                scan: self.scan,
                first_scan: self.scan,
                lease: Duration::from_millis(400),
            },
            identity: "test".to_owned(),
        };
        let meshes = self.meshes.clone();
        let around = Surroundings {
            clock: Arc::new(SystemClock),
            sights: Arc::new(move |_| Sight { meshes: meshes.clone(), read: 1 }),
            metrics: Arc::clone(&self.metrics),
        };
        Running(tokio::spawn(controller::run(acting, around)))
    }

    async fn ask(&self) -> String {
        match ask(&self.api, &self.meshes[0], Trigger::Manual).await.unwrap() {
            Asked::Created(name) => name,
            other => panic!("{other:?}"),
        }
    }

    /// The renewal, once it is as wanted.
    async fn until(&self, name: &str, done: impl Fn(&Renewal) -> bool) -> Renewal {
        let waiting = async {
            loop {
                let renewal = self.api.renewal(NAMESPACE, name).await.unwrap().unwrap();
                if done(&renewal) {
                    return renewal;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if let Ok(renewal) = tokio::time::timeout(PATIENCE, waiting).await {
            return renewal;
        }
        let status = self.api.renewal(NAMESPACE, name).await.unwrap().unwrap().status;
        panic!("stuck in {:?}, {}: {}", status.phase, status.reason, status.message)
    }

    /// The values of `meshcert_served_certificate_…`, in the order of the endpoints, once they are as wanted.
    async fn served(&self, metric: &str, wanted: &[&str]) {
        let metrics = Metrics::new(values::Told::new(Vec::new()), Some(Arc::clone(&self.metrics)));
        let objects = Exposition::default().render(&[], Format::Classic, SystemClock.now());
        let mut found = Vec::new();
        let waiting = async {
            loop {
                let tail = metrics.tail(&objects, Format::Classic);
                let text = std::str::from_utf8(&tail.text).unwrap();
                let prefix = format!("meshcert_served_certificate_{metric}{{");
                found = text.lines().filter(|line| line.starts_with(&prefix)).map(str::to_owned).collect();
                let values: Vec<&str> = found.iter().filter_map(|line| line.rsplit(' ').next()).collect();
                if values == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{found:#?}");
    }
}

fn auto() -> Policy {
    Policy { mode: Mode::Auto, ..Policy::default() }
}

fn succeeded(renewal: &Renewal) -> bool {
    assert!(!matches!(renewal.status.phase, Phase::Failed | Phase::Refused), "{}", renewal.status.message);
    renewal.status.phase == Phase::Succeeded
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_proven_from_outside_the_cluster() {
    let world = World::new(1).await;
    world.hide_the_pods().await;
    let name = world.ask().await;
    // A kubeconfig is no sign of being inside.
    let _running = world.run(Reach::Auto, auto());
    world.until(&name, succeeded).await;
    let asked = world.tunnel.asked();
    let forwards: BTreeSet<&str> = asked
        .iter()
        .filter(|line| line.contains("/portforward?"))
        .map(|line| line.rsplit("ports=").next().unwrap())
        .collect();
    assert_eq!(forwards, ["2379", "2380", "6443"].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_endpoints_serve_is_seen_on_every_way_that_leads_there() {
    let world = World::new(2).await;
    for reach in [Reach::Direct, Reach::PortForward] {
        let running = world.run(reach, Policy::default());
        world.served("probe_success", &["1"; 6]).await;
        world.served("stale", &["0"; 6]).await;
        drop(running);
        world.metrics.remove("demo");
    }
    world.hide_the_pods().await;
    let running = world.run(Reach::Direct, Policy::default());
    world.served("probe_success", &["0"; 6]).await;
    world.served("not_after_timestamp_seconds", &[]).await;
    drop(running);
    let _running = world.run(Reach::PortForward, Policy::default());
    world.served("probe_success", &["1"; 6]).await;
    world.tunnel.harm(Harm::CutAfter(200));
    world.served("probe_success", &["0"; 6]).await;
}

/// As a person does who forgets the restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_renewed_by_hand_is_served_stale_until_its_pods_start_anew() {
    let mut world = World::new(1).await;
    let mesh = Arc::clone(&world.meshes[0]);
    let secrets = world.api.mesh_secrets(NAMESPACE, &mesh.secret_names).await.unwrap();
    for role in SecretRole::ALL {
        let made = native::renew(&mesh, &secrets, role, &auto(), SystemClock.now(), &mut rand::rng()).unwrap();
        let live = secrets[role as usize].as_ref().unwrap();
        world.api.write_entries(NAMESPACE, &live.name, &live.resource_version, &made).await.unwrap();
    }
    world.meshes = vec![Arc::new(world.mesh("expiring-1").await)];
    let _running = world.run(Reach::Direct, Policy::default());
    world.served("stale", &["1"; 3]).await;
    world
        .change_templates(json!({ "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": "now" } } }))
        .await;
    world.served("stale", &["0"; 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_touched_where_nothing_could_be_proven() {
    for (harm, words) in [
        (Harm::Refuse(StatusCode::FORBIDDEN), "grant the verbs get and create on pods/portforward"),
        (Harm::Refuse(StatusCode::UPGRADE_REQUIRED), "forwards no ports over WebSocket"),
        (Harm::NoUpgrade, "forwards no ports over WebSocket"),
    ] {
        let world = World::new(1).await;
        world.tunnel.harm(harm);
        let name = world.ask().await;
        let _running = world.run(Reach::PortForward, auto());
        let status = world.until(&name, |renewal| renewal.status.phase == Phase::Refused).await.status;
        assert_eq!(status.reason, "Unreachable");
        assert!(status.message.contains(words), "{harm:?}: {}", status.message);
        assert_eq!(world.mesh("expiring-1").await.certificates, world.meshes[0].certificates);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_touched_where_no_address_leads_to_a_pod_unless_time_is_short() {
    let world = World::new(1).await;
    world.hide_the_pods().await;
    let name = world.ask().await;
    let running = world.run(Reach::Direct, auto());
    let status = world.until(&name, |renewal| renewal.status.phase == Phase::Refused).await.status;
    assert_eq!(status.reason, "Unreachable");
    for words in ["expiring-1-etcd-0:2379", "expiring-1-etcd-0:2380", ":6443", "set reach: portForward"] {
        assert!(status.message.contains(words), "{}", status.message);
    }
    assert_eq!(world.mesh("expiring-1").await.certificates, world.meshes[0].certificates);
    drop(running);
    world.api.change_renewal(NAMESPACE, &name, &json!({ "spec": { "force": true } })).await.unwrap();
    let _running = world.run(Reach::Direct, auto());
    world.until(&name, |renewal| renewal.status.phase == Phase::Verifying).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_breaks_in_the_middle_is_waited_for() {
    for (harm, words) in [
        (Harm::Refuse(StatusCode::FORBIDDEN), "grant the verbs get and create on pods/portforward"),
        (Harm::Refuse(StatusCode::BAD_GATEWAY), "the API server answered 502"),
        (Harm::CutAfter(600), "ended the port-forward"),
    ] {
        let world = World::new(1).await;
        world.hide_the_pods().await;
        world.tunnel.harm_from("/secrets/expiring-1-etcd-certs", harm);
        let name = world.ask().await;
        let _running = world.run(Reach::PortForward, auto());
        let waiting =
            |renewal: &Renewal| renewal.status.phase == Phase::Verifying && renewal.status.message.contains(words);
        world.until(&name, waiting).await;
        world.tunnel.harm(Harm::None);
        world.until(&name, succeeded).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_the_new_credentials_are_refused_and_of_the_former_nothing_is_known() {
    // The hosted API's clock is so late that what is made now is not valid there yet.
    let late = Arc::new(ManualClock::new(SystemClock.now().plus(-900)));
    let mut world = World::at_the_time_of(late, 1).await;
    // The former ones are tried right after the new ones, and nobody comes in between.
    world.scan = Duration::from_secs(3600);
    world.tunnel.harm(Harm::CutSecond(6443));
    let name = world.ask().await;
    let running = world.run(Reach::PortForward, auto());
    let is_open = |renewal: &Renewal| {
        renewal.status.phase == Phase::Auditing && renewal.status.message.contains("is not known: ")
    };
    world.until(&name, is_open).await;
    drop(running);
    // Whoever was stopped in the middle may have left an odd number.
    world.tunnel.harm(Harm::CutSecond(6443));
    let _running = world.run(Reach::PortForward, Policy { verify_deadline: 1, ..auto() });
    let failed = world.until(&name, |renewal| renewal.status.phase == Phase::Failed).await;
    assert_eq!(failed.status.reason, "LoginRefused");
    let words = "does not say whether it takes that of expiring-1-apiserver-admin-kubeconfig, nothing was touched";
    assert!(failed.status.message.contains(words), "{}", failed.status.message);
    assert_eq!(world.mesh("expiring-1").await.certificates, world.meshes[0].certificates);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_cannot_be_asked_are_no_lost_quorum() {
    let world = World::new(1).await;
    let etcd = format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/expiring-1-etcd");
    world.api.merge(&etcd, &json!({ "spec": { "replicas": 3 } })).await.unwrap();
    while world.api.get::<Value>(&etcd).await.unwrap().unwrap()["status"]["availableReplicas"] != 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It may pass, so it keeps no renewal from beginning.
    world.tunnel.harm(Harm::Refuse(StatusCode::BAD_GATEWAY));
    let name = world.ask().await;
    let _running = world.run(Reach::PortForward, auto());
    let waiting =
        |renewal: &Renewal| renewal.status.message.contains("1 of 3 pods are new, 3 available; its members' health");
    world.until(&name, waiting).await;
    // As often as it takes for a second member to go, if one would.
    for _ in 0..20 {
        world.tunnel.asked();
        while !world.tunnel.asked().iter().any(|line| line.contains("/portforward?")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(waiting(&world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap()));
    }
    world.tunnel.harm(Harm::None);
    world.until(&name, succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_those_that_the_cluster_names() {
    let world = World::new(1).await;
    let container = |ports: Value| json!({ "spec": { "containers": [{ "name": "main", "image": "demo.meshcert.dev/x:1", "ports": ports }] } });
    world
        .change_templates(container(json!([
            { "name": "https", "containerPort": 7443 },
            { "name": "client", "containerPort": 12379 },
            { "name": "peer", "containerPort": 12380 },
        ])))
        .await;
    for reach in [Reach::Direct, Reach::PortForward] {
        let running = world.run(reach, Policy::default());
        world.served("probe_success", &["1"; 3]).await;
        drop(running);
        world.metrics.remove("demo");
    }
    // A number that leads elsewhere than the servers listen.
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/expiring-1-hosted-apiserver");
    let ports = json!({ "spec": { "ports": [{ "name": "https", "port": 6443, "targetPort": 7999 }] } });
    world.api.merge(&path, &ports).await.unwrap();
    let name = world.ask().await;
    let _running = world.run(Reach::PortForward, auto());
    let waiting = |renewal: &Renewal| {
        renewal.status.phase == Phase::Verifying && renewal.status.message.contains("error forwarding port 7999 to pod")
    };
    world.until(&name, waiting).await;
    let ports = json!({ "spec": { "ports": [{ "name": "https", "port": 6443, "targetPort": "https" }] } });
    world.api.merge(&path, &ports).await.unwrap();
    world.until(&name, succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_forward_says_what_is_in_its_way() {
    let world = World::new(1).await;
    let said = |result: Result<_, meshcert::cluster::api::ApiError>| match result {
        Err(error) => error.message,
        Ok(_) => panic!("it was opened"),
    };
    let gone = said(world.api.forward(NAMESPACE, "expiring-1-etcd-7", 2379).await);
    assert!(gone.contains("expiring-1-etcd-7:2379") && gone.contains("the pod is gone"), "{gone}");

    let mut wrong = world.api.forward(NAMESPACE, "expiring-1-etcd-0", 1).await.unwrap();
    let error = tokio::io::AsyncReadExt::read_u8(&mut wrong).await.unwrap_err();
    assert!(error.to_string().contains("error forwarding port 1 to pod expiring-1-etcd-0"), "{error}");

    let mut cut = world.api.forward(NAMESPACE, "expiring-1-etcd-0", 2379).await.unwrap();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/expiring-1-etcd-0");
    world.api.delete(&path, None).await.unwrap();
    let error = tokio::io::AsyncReadExt::read_u8(&mut cut).await.unwrap_err();
    assert_eq!(error.to_string(), "the API server ended the port-forward", "its pod is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_many_meshes_costs_what_a_look_at_one_does() {
    let mut costs = Vec::new();
    for meshes in [1, 12] {
        let world = World::new(meshes).await;
        let _running = world.run(Reach::Direct, Policy::default());
        world.served("probe_success", &vec!["1"; 3 * meshes]).await;
        let asked = world.tunnel.asked().into_iter().filter(|line| line.starts_with("GET"));
        let asked: BTreeSet<String> =
            asked.map(|line| line.split("&resourceVersion=").next().unwrap().to_owned()).collect();
        assert!(asked.iter().any(|line| line.contains("/pods?limit=")), "{asked:#?}");
        costs.push(asked);
    }
    assert_eq!(costs[0], costs[1]);
}
