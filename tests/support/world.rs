//! An embedded cluster with a mesh that expires, and meshcert acting on it through all that goes wrong.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::sync::Arc;
use std::time::Duration;

use meshcert::cert::issue::KeyType;
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::Connection;
use meshcert::config::Config;
use meshcert::controller::{self, Acting, Surroundings, Timing};
use meshcert::crd;
use meshcert::demo::{self, Options, Scenario};
use meshcert::job::RENEWAL_UID;
use meshcert::material::{MeshSecrets, assemble};
use meshcert::mesh::{HostedMesh, MeshKey, Naming, SecretRole};
use meshcert::metrics::renewals::RenewalMetrics;
use meshcert::native;
use meshcert::policy::{Engine, Mode, Policy};
use meshcert::ports::Clock;
use meshcert::renewal::{Phase, Renewal, Status, Trigger};
use meshcert::requests::{Asked, Sight, ask};
use meshcert::rollout::Reach;
use meshcert::time::DAY;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::faults::{self, Fault, Plan};

pub const NAMESPACE: &str = "istio-system";
pub const MESH: &str = "expiring-1";
pub const TIMING: Timing = Timing {
    busy: Duration::from_millis(10),
    idle: Duration::from_millis(10),
    scan: Duration::from_secs(3600),
    first_scan: Duration::from_secs(3600),
    lease: Duration::from_millis(400),
};
/// Of requests, where some are never answered: longer than any other one takes.
pub const SHORT_DEADLINE: Duration = Duration::from_millis(500);
/// Nothing takes longer, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub demo: demo::Demo,
    pub api: Api,
    pub plan: Arc<Plan>,
    pub killed: mpsc::UnboundedReceiver<()>,
    pub naming: Naming,
    pub timing: Timing,
    /// In which the same process acts too.
    pub more_namespaces: Vec<String>,
}

impl World {
    pub async fn new(at: Option<(usize, Fault)>) -> Self {
        Self::at_the_time_of(Arc::new(SystemClock), at).await
    }

    /// A cluster whose clocks show another time than meshcert's.
    pub async fn at_the_time_of(clock: Arc<dyn Clock>, at: Option<(usize, Fault)>) -> Self {
        Self::at_a_pace(Duration::from_millis(5), clock, at).await
    }

    /// A cluster whose controllers take this time for each step.
    pub async fn at_a_pace(pace: Duration, clock: Arc<dyn Clock>, at: Option<(usize, Fault)>) -> Self {
        Self::start(1, pace, clock, at).await
    }

    /// A cluster with so many meshes, whose tiers take longer than the second that moments are told apart by.
    pub async fn of(meshes: usize) -> Self {
        Self::start(meshes, Duration::from_millis(300), Arc::new(SystemClock), None).await
    }

    async fn start(meshes: usize, pace: Duration, clock: Arc<dyn Clock>, at: Option<(usize, Fault)>) -> Self {
        let options = Options {
            scenario: Scenario::Expiring,
            meshes: Some(meshes),
            listen: "127.0.0.1:0".parse().unwrap(),
            pace,
            clock,
        };
        let demo = demo::start(options).await.unwrap();
        let (kill, killed) = mpsc::unbounded_channel();
        let plan = Arc::new(Plan::new(demo.router(), at, kill));
        let api = Api::new(kube::Client::new(demo.router(), NAMESPACE));
        api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd::definition()).await.unwrap();
        Self { demo, api, plan, killed, naming: Naming::default(), timing: TIMING, more_namespaces: Vec::new() }
    }

    /// Does harm from now on, counting from the next mutation.
    pub fn arm(&mut self, at: Option<(usize, Fault)>) {
        let (kill, killed) = mpsc::unbounded_channel();
        self.plan = Arc::new(Plan::new(self.demo.router(), at, kill));
        self.killed = killed;
    }

    /// Gives etcd so many members, and waits for them.
    pub async fn scale_etcd(&self, members: u32) {
        let etcd = format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd");
        self.api.merge(&etcd, &json!({ "spec": { "replicas": members } })).await.unwrap();
        while self.get(&etcd).await["status"]["availableReplicas"] != members {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A process that acts.
    pub fn process(&self, identity: &str, policy: Policy) -> impl Future<Output = ()> + use<> {
        let (acting, around) = self.acting(identity, policy, Connection::InCluster);
        let api = Api::new(faults::client(&self.plan));
        // Where a request hangs on purpose it is not waited for as long as in earnest.
        let hangs = matches!(self.plan.at, Some((_, Fault::TimeoutBefore | Fault::TimeoutAfter)));
        controller::run_on(if hangs { api.within(SHORT_DEADLINE) } else { api }, acting, around)
    }

    pub fn acting(&self, identity: &str, policy: Policy, connection: Connection) -> (Acting, Surroundings) {
        let acting = Acting {
            name: "demo".into(),
            connection,
            reach: Reach::Direct,
            namespaces: [&[NAMESPACE.to_owned()], &*self.more_namespaces].concat(),
            naming: self.naming.clone(),
            policy,
            tiers: Config::default().policy.restart_tiers,
            timing: self.timing,
            identity: identity.to_owned(),
        };
        let around = Surroundings {
            clock: Arc::new(SystemClock),
            sights: Arc::new(|_| Sight::default()),
            metrics: Arc::new(RenewalMetrics::default()),
        };
        (acting, around)
    }

    /// Runs meshcert until it is killed, and waits with its revival.
    pub async fn run_until_killed(&mut self, policy: Policy) {
        let process = tokio::spawn(self.process("test", policy));
        tokio::time::timeout(PATIENCE, self.killed.recv()).await.unwrap();
        process.abort();
        let _ = process.await;
        self.plan.revive();
    }

    pub async fn mesh(&self) -> (HostedMesh, MeshSecrets) {
        self.mesh_of(MESH).await
    }

    pub async fn mesh_of(&self, id: &str) -> (HostedMesh, MeshSecrets) {
        let key = MeshKey { namespace: NAMESPACE.into(), id: id.parse().unwrap() };
        let secrets = self.api.mesh_secrets(NAMESPACE, &self.naming.secret_names(&key.id)).await.unwrap();
        (assemble(&self.naming, &key, &secrets), secrets)
    }

    pub async fn renewals(&self) -> Vec<Renewal> {
        let (renewals, unreadable) = self.api.renewals(NAMESPACE).await.unwrap();
        assert_eq!(unreadable, []);
        renewals
    }

    pub async fn ask(&self) -> String {
        self.ask_for(MESH).await
    }

    pub async fn ask_for(&self, id: &str) -> String {
        let (mesh, _) = self.mesh_of(id).await;
        match ask(&self.api, &mesh, Trigger::Alert).await.unwrap() {
            Asked::Created(name) => name,
            other => panic!("{other:?}"),
        }
    }

    /// As a person does who insists: whoever creates it may not.
    pub async fn insist(&self, name: &str) {
        self.api.change_renewal(NAMESPACE, name, &json!({ "spec": { "force": true } })).await.unwrap();
    }

    /// As a person does who agrees to the plan that waits.
    pub async fn agree(&self, waiting: &Renewal) {
        let agreed = json!({ "spec": { "approval": { "planDigest": waiting.status.plan.as_ref().unwrap().digest } } });
        self.api.change_renewal(NAMESPACE, &waiting.name, &agreed).await.unwrap();
    }

    /// As a person does who wants a renewal rolled back, or no longer.
    pub async fn want_back(&self, name: &str, rollback: bool) {
        self.api.change_renewal(NAMESPACE, name, &json!({ "spec": { "rollback": rollback } })).await.unwrap();
    }

    /// As a person does who wants another try: whoever asks twice within a second asks twice.
    pub async fn ask_again(&self, name: &str) {
        let asked = self.api.renewal(NAMESPACE, name).await.unwrap().unwrap().spec.requested_at;
        let now = asked.map_or(SystemClock.now(), |before| SystemClock.now().max(before.plus(1)));
        self.api.change_renewal(NAMESPACE, name, &json!({ "spec": { "requestedAt": now } })).await.unwrap();
    }

    /// The index of a mutation so far: which one, from 0, of those that end like this.
    pub fn nth_of(&self, mutation: &str, nth: usize) -> usize {
        let mutations = self.plan.mutations.lock().unwrap();
        (0..mutations.len()).filter(|index| mutations[*index].ends_with(mutation)).nth(nth).unwrap()
    }

    /// Runs meshcert until all renewals have succeeded.
    pub async fn run_to_the_end(&self, process: impl Future<Output = ()> + Send + 'static) {
        let process = tokio::spawn(process);
        let all_done = async {
            while !self.renewals().await.iter().all(is_finished) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all_done).await.unwrap();
        process.abort();
        let ends: Vec<Phase> = self.renewals().await.iter().map(|renewal| renewal.status.phase).collect();
        assert!(ends.iter().all(|phase| *phase == Phase::Succeeded), "{ends:?}");
    }

    /// Runs meshcert until a renewal that is being deleted is gone.
    pub async fn run_until_gone(&self) {
        let process = tokio::spawn(self.process("test", auto()));
        let gone = async {
            while !self.renewals().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
        process.abort();
    }

    /// Somebody else renews the mesh: other leaves under the same CAs, in all three Secrets.
    pub async fn renew_by_hand(&self) {
        let (mesh, secrets) = self.mesh().await;
        // What would end no later than the present one is kept.
        let longer = Policy { lifetime: 366 * DAY, ..Policy::default() };
        for role in SecretRole::ALL {
            let made = native::renew(&mesh, &secrets, role, &longer, SystemClock.now(), &mut rand::rng()).unwrap();
            let live = secrets[role as usize].as_ref().unwrap();
            self.api.write_entries(NAMESPACE, &live.name, &live.resource_version, &made).await.unwrap();
        }
    }

    /// A rollout of the hosted API hangs from now on: its former pod works, the new one has no image.
    pub async fn hang_the_hosted_api(&self) {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{MESH}-hosted-apiserver");
        let mut containers = self.get(&path).await["spec"]["template"]["spec"]["containers"].clone();
        containers[0]["image"] = json!("registry.example/missing:1");
        let template = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
        self.api.merge(&path, &template).await.unwrap();
        let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let hangs = async {
            while !self.get(&pods).await.to_string().contains("ImagePullBackOff") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, hangs).await.unwrap();
    }

    pub async fn serials(&self) -> Vec<String> {
        let (mesh, _) = self.mesh().await;
        mesh.leaves().map(|leaf| leaf.certificate.serial_number.to_string()).collect()
    }

    /// Runs meshcert, dying and coming back as the proxy says, until a condition holds for the renewal.
    pub async fn run_until(&mut self, name: &str, policy: Policy, done: impl Fn(&Renewal) -> bool) -> Renewal {
        let mut process = tokio::spawn(self.process("test", policy.clone()));
        let waiting = async {
            loop {
                if self.killed.try_recv().is_ok() {
                    process.abort();
                    let _ = (&mut process).await;
                    self.plan.revive();
                    process = tokio::spawn(self.process("test", policy.clone()));
                }
                let renewal = self.api.renewal(NAMESPACE, name).await.unwrap().unwrap();
                if done(&renewal) {
                    return renewal;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let result = tokio::time::timeout(PATIENCE, waiting).await;
        process.abort();
        match result {
            Ok(renewal) => renewal,
            Err(_) => {
                let renewal = self.api.renewal(NAMESPACE, name).await.unwrap().unwrap().status;
                panic!("stuck in {:?}, {}: {}", renewal.phase, renewal.reason, renewal.message)
            }
        }
    }

    pub async fn get(&self, path: &str) -> Value {
        self.api.get(path).await.unwrap().unwrap_or_default()
    }

    /// Type and reason of the Events.
    pub async fn told(&self) -> Vec<String> {
        let events = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/events")).await;
        let told = |event: &Value| ["type", "reason"].map(|field| event[field].as_str().unwrap().to_owned()).join(" ");
        events["items"].as_array().unwrap().iter().map(told).collect()
    }

    pub async fn generation(&self, plural: &str, name: &str) -> i64 {
        self.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/{plural}/{name}")).await["metadata"]["generation"]
            .as_i64()
            .unwrap()
    }

    /// Everything that must hold after a renewal that succeeded.
    pub async fn assert_renewed(&self, renewal: &Renewal) {
        assert_eq!(renewal.status.phase, Phase::Succeeded, "{}", renewal.status.message);
        assert!(!renewal.finalizer);
        assert_eq!(self.renewals().await.len(), 1);
        let (mesh, secrets) = self.mesh().await;
        assert_eq!(mesh.findings, []);
        assert!(SystemClock.now().seconds_until(mesh.expiration.unwrap()) > 300 * DAY);
        for leaf in mesh.leaves() {
            assert_eq!(native::own_key_matches(leaf, &secrets), Ok(true), "{}", leaf.key);
        }
        for (plural, name, generation) in [
            ("statefulsets", format!("{MESH}-etcd"), 2),
            ("deployments", format!("{MESH}-hosted-apiserver"), 2),
            ("deployments", format!("istiod-{MESH}-hosted"), 2),
            ("deployments", "mspider-mcpc-ckube-remote".to_owned(), 2),
            ("deployments", "istiod".to_owned(), 1),
        ] {
            assert_eq!(
                self.generation(plural, &name).await,
                generation,
                "{name} was restarted exactly as often as it must be"
            );
        }
        self.assert_nothing_left_over().await;
    }

    pub async fn assert_nothing_left_over(&self) {
        assert_eq!(
            self.api.list::<Value>(&format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs")).await.unwrap(),
            Vec::<Value>::new()
        );
        let pods = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods")).await;
        let left = |pod: &&Value| pod["metadata"]["labels"][RENEWAL_UID].is_string();
        assert_eq!(pods["items"].as_array().unwrap().iter().find(left), None, "a Job's pods go with it");
        assert_eq!(self.api.copies(NAMESPACE, "meshcert.dev/staged").await.unwrap(), []);
        assert_eq!(self.api.copies(NAMESPACE, "meshcert.dev/backup").await.unwrap().len(), 3);
        let leases = self
            .api
            .list::<Value>(&format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"))
            .await
            .unwrap();
        for lease in leases.iter().filter(|lease| lease["metadata"]["name"] != "meshcert-leader") {
            assert!(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().is_empty(), "{lease}");
        }
    }
}

pub fn auto() -> Policy {
    Policy { mode: Mode::Auto, ..Policy::default() }
}

/// As the documented Job: RSA keys, whatever the old ones were.
pub fn by_job() -> Policy {
    Policy { engine: Engine::Job, key_type: Some(KeyType::Rsa2048), ..auto() }
}

/// The same in a time when kubeadm kept the admin's organization: nothing has to be made again, which takes an RSA key each time.
pub fn by_job_of_old() -> Policy {
    let mut policy = by_job();
    "registry.example/kubeadm:v1.28".clone_into(&mut policy.job.image);
    policy
}

/// Of the whole content of each Secret.
pub fn digests(secrets: &MeshSecrets) -> [String; 3] {
    SecretRole::ALL.map(|role| secrets[role as usize].as_ref().unwrap().material.digest())
}

/// The same that failed, when its next try is due.
pub fn mk_due(failed: &Renewal) -> Status {
    assert!(failed.status.next_attempt_at.is_some(), "{}", failed.status.message);
    Status { next_attempt_at: failed.status.phase_since, ..failed.status.clone() }
}

/// The index of a mutation of a calm renewal: which one, from 0, of those that end like this.
pub async fn index_of(mutation: &str, nth: usize) -> usize {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), is_finished).await;
    world.nth_of(mutation, nth)
}

pub fn has_ended(phase: Phase) -> impl Fn(&Renewal) -> bool {
    move |renewal| renewal.status.phase == phase && is_finished(renewal)
}

pub fn is_finished(renewal: &Renewal) -> bool {
    renewal.status.phase.is_terminal() && renewal.status.cleaned_up
}
