//! A whole renewal on the embedded cluster, with every kind of harm at every mutation.

#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/faults.rs"]
mod faults;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use faults::{Fault, Proxy};
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::{Connection, connect};
use meshcert::config::Config;
use meshcert::controller::{self, Acting, Surroundings, Timing};
use meshcert::crd;
use meshcert::demo::{self, Options, Scenario};
use meshcert::material::assemble;
use meshcert::mesh::{HostedMesh, MeshKey, Naming, SecretRole};
use meshcert::metrics::renewals::RenewalMetrics;
use meshcert::native;
use meshcert::policy::{Mode, Policy};
use meshcert::ports::Clock;
use meshcert::renewal::{Phase, Renewal, Spec, Trigger};
use meshcert::requests::{Asked, ask};
use meshcert::rollout::Reach;
use meshcert::time::DAY;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const NAMESPACE: &str = "istio-system";
const MESH: &str = "expiring-1";
const TIMING: Timing = Timing {
    busy: Duration::from_millis(10),
    idle: Duration::from_millis(10),
    scan: Duration::from_secs(3600),
    lease: Duration::from_millis(400),
};
/// Nothing takes longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    _demo: demo::Demo,
    api: Api,
    proxy: Proxy,
    killed: mpsc::UnboundedReceiver<()>,
    folder: tempfile::TempDir,
    naming: Naming,
}

impl World {
    async fn new(at: Option<(usize, Fault)>) -> Self {
        let options = Options {
            scenario: Scenario::Expiring,
            meshes: Some(1),
            listen: "127.0.0.1:0".parse().unwrap(),
            pace: Duration::from_millis(5),
            clock: Arc::new(SystemClock),
        };
        let demo = demo::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (kill, killed) = mpsc::unbounded_channel();
        let proxy = Proxy::start(demo.address, at, kill).await;
        let direct = folder.path().join("direct");
        std::fs::write(&direct, demo.kubeconfig()).unwrap();
        let through = demo.kubeconfig().replace(&demo.address.to_string(), &proxy.address.to_string());
        std::fs::write(folder.path().join("proxied"), through).unwrap();
        let client = connect(&Connection::File { path: direct, context: None }).await.unwrap();
        let api = Api::new(client);
        api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd::definition()).await.unwrap();
        Self { _demo: demo, api, proxy, killed, folder, naming: Naming::default() }
    }

    fn acting(&self, policy: Policy) -> (Acting, Surroundings) {
        let acting = Acting {
            name: "demo".into(),
            connection: Connection::File { path: self.folder.path().join("proxied"), context: None },
            reach: Reach::Direct,
            namespaces: vec![NAMESPACE.to_owned()],
            naming: self.naming.clone(),
            policy,
            tiers: Config::default().policy.restart_tiers,
            timing: TIMING,
            identity: "test".to_owned(),
        };
        let around = Surroundings {
            clock: Arc::new(SystemClock),
            meshes: Arc::new(|_| Vec::new()),
            metrics: Arc::new(RenewalMetrics::default()),
        };
        (acting, around)
    }

    async fn mesh(&self) -> (HostedMesh, meshcert::material::MeshSecrets) {
        let key = MeshKey { namespace: NAMESPACE.into(), id: MESH.parse().unwrap() };
        let mut secrets = [None, None, None];
        for role in SecretRole::ALL {
            let name = self.naming.secret_name(&key.id, role);
            secrets[role as usize] = self.api.secret(NAMESPACE, &name).await.unwrap();
        }
        (assemble(&self.naming, &key, &secrets), secrets)
    }

    async fn renewals(&self) -> Vec<Renewal> {
        let (renewals, unreadable) = self.api.renewals(NAMESPACE).await.unwrap();
        assert_eq!(unreadable, Vec::<String>::new());
        renewals
    }

    async fn ask(&self) -> String {
        let (mesh, _) = self.mesh().await;
        match ask(&self.api, &mesh, Trigger::Alert, false).await.unwrap() {
            Asked::Created(name) => name,
            other => panic!("{other:?}"),
        }
    }

    /// Somebody else renews the mesh: other leaves under the same CAs, in all three Secrets.
    async fn renew_by_hand(&self) {
        let (mesh, secrets) = self.mesh().await;
        for role in SecretRole::ALL {
            let made =
                native::renew(&mesh, &secrets, role, &Policy::default(), SystemClock.now(), &mut rand::rng()).unwrap();
            let live = secrets[role as usize].as_ref().unwrap();
            self.api.write_entries(NAMESPACE, &live.name, &live.resource_version, &made).await.unwrap();
        }
    }

    async fn serials(&self) -> Vec<String> {
        let (mesh, _) = self.mesh().await;
        mesh.leaves().map(|leaf| leaf.certificate.serial_number.to_string()).collect()
    }

    /// Runs meshcert, dying and coming back as the proxy says, until a condition holds for the renewal.
    async fn run_until(&mut self, name: &str, policy: Policy, done: impl Fn(&Renewal) -> bool) -> Renewal {
        let (acting, around) = self.acting(policy);
        let mut process = tokio::spawn(controller::run(acting.clone(), around.clone()));
        let waiting = async {
            loop {
                if self.killed.try_recv().is_ok() {
                    process.abort();
                    let _ = (&mut process).await;
                    self.proxy.revive();
                    process = tokio::spawn(controller::run(acting.clone(), around.clone()));
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

    async fn get(&self, path: &str) -> Value {
        self.api.get(path).await.unwrap().unwrap_or_default()
    }

    async fn generation(&self, plural: &str, name: &str) -> i64 {
        self.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/{plural}/{name}")).await["metadata"]["generation"]
            .as_i64()
            .unwrap()
    }

    /// Everything that must hold after a renewal that succeeded.
    async fn assert_renewed(&self, renewal: &Renewal) {
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

    async fn assert_nothing_left_over(&self) {
        assert_eq!(self.api.copies(NAMESPACE, "meshcert.dev/staged").await.unwrap(), []);
        assert_eq!(self.api.copies(NAMESPACE, "meshcert.dev/backup").await.unwrap().len(), 3);
        let leases =
            self.api.list(&format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")).await.unwrap();
        for lease in leases.iter().filter(|lease| lease["metadata"]["name"] != "meshcert-leader") {
            assert!(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().is_empty(), "{lease}");
        }
    }
}

fn auto() -> Policy {
    Policy { mode: Mode::Auto, ..Policy::default() }
}

fn is_finished(renewal: &Renewal) -> bool {
    renewal.status.phase.is_terminal() && renewal.status.cleaned_up
}

/// One run; the mutations that it made.
async fn run_with(at: Option<(usize, Fault)>) -> Vec<String> {
    let mut world = World::new(at).await;
    let name = world.ask().await;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    world.assert_renewed(&renewal).await;
    let mutations = world.proxy.plan.mutations.lock().unwrap();
    mutations.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_mutation_ends_in_the_same_state() {
    let calm = run_with(None).await;
    assert!(calm.len() > 30, "{calm:#?}");
    println!("{} mutations", calm.len());
    let mut cases: Vec<(usize, Fault)> =
        (0..calm.len()).flat_map(|index| Fault::ALL.map(|fault| (index, fault))).collect();
    let total = cases.len();
    let mut running = tokio::task::JoinSet::new();
    let mut results: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        while running.len() < 6
            && let Some(case) = cases.pop()
        {
            running.spawn(async move {
                let run = tokio::spawn(async move { run_with(Some(case)).await });
                (case, run.await.map_err(|error| error.to_string()))
            });
        }
        let Some(result) = running.join_next().await else { break };
        let ((index, fault), result) = result.unwrap();
        let made = result.unwrap_or_else(|error| panic!("{fault:?} at mutation {index} ({}): {error}", calm[index]));
        assert!(made.len() > index, "the fault came");
        *results.entry(format!("{fault:?}")).or_default() += 1;
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/RENEWAL.md")).unwrap();
    for (fault, count) in &results {
        let row = format!(
            "| {fault} | {count} of {} | renewed, each workload restarted once, nothing left over |",
            calm.len()
        );
        println!("{row}");
        assert!(page.contains(&row), "docs/RENEWAL.md lacks {row}");
    }
    assert_eq!(results.values().sum::<usize>(), total);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_touched_before_a_person_agrees_to_the_plan() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let approve = Policy { mode: Mode::Approve, ..Policy::default() };
    let waiting = world
        .run_until(&name, approve.clone(), |renewal| {
            renewal.status.reason == "AwaitingApproval" && renewal.status.message.contains("approve")
        })
        .await;
    let plan = waiting.status.plan.unwrap();
    assert_eq!(plan.leaves.len(), 8, "seven leaves of kubeadm and the admin's");
    assert_eq!(world.generation("statefulsets", &format!("{MESH}-etcd")).await, 1);

    let other = json!({ "spec": { "approval": { "planDigest": format!("sha256:{}", "0".repeat(64)) } } });
    world.api.change_renewal(NAMESPACE, &name, &other).await.unwrap();
    let still = world.run_until(&name, approve.clone(), |renewal| renewal.spec.approval.is_some()).await;
    assert_eq!(still.status.phase, Phase::AwaitingApproval);
    let agreed = json!({ "spec": { "approval": { "planDigest": plan.digest } } });
    world.api.change_renewal(NAMESPACE, &name, &agreed).await.unwrap();
    let renewal = world.run_until(&name, approve, is_finished).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_puts_back_what_was_there_and_proves_it() {
    let mut world = World::new(None).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    world.run_until(&name, auto(), is_finished).await;
    world.api.change_renewal(NAMESPACE, &name, &json!({ "spec": { "rollback": true } })).await.unwrap();
    let renewal = world
        .run_until(&name, auto(), |renewal| renewal.status.phase == Phase::RolledBack && is_finished(renewal))
        .await;
    assert!(renewal.status.message.contains("served by every endpoint"), "{}", renewal.status.message);
    let (_, after) = world.mesh().await;
    for role in SecretRole::ALL {
        let [before, after] =
            [&before, &after].map(|secrets| secrets[role as usize].as_ref().unwrap().material.digest());
        assert_eq!(before, after, "{}", role.as_str());
    }
    world.assert_nothing_left_over().await;
    assert_eq!(world.ask().await, format!("{name}-r2"), "the same certificates can be renewed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_due_is_refused_until_it_is() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let early = Policy { renew_before: 10 * DAY, ..auto() };
    let renewal = world.run_until(&name, early, is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (Phase::Refused, "NotDue"));
    let (mesh, _) = world.mesh().await;
    assert_eq!(renewal.status.next_attempt_at, mesh.expiration.map(|end| end.plus(-10 * DAY)));
    let forced = json!({ "spec": { "force": true } });
    world.api.change_renewal(NAMESPACE, &name, &forced).await.unwrap();
    let early = Policy { renew_before: 10 * DAY, ..auto() };
    let renewal =
        world.run_until(&name, early, |renewal| renewal.status.phase == Phase::Succeeded && is_finished(renewal)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_whose_certificates_somebody_else_replaced_is_superseded() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let approve = Policy { mode: Mode::Approve, ..Policy::default() };
    world.run_until(&name, approve.clone(), |renewal| renewal.status.phase == Phase::AwaitingApproval).await;
    world.renew_by_hand().await;
    let renewal = world.run_until(&name, approve, is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (Phase::Superseded, "Replaced"));
    assert_eq!(world.generation("statefulsets", &format!("{MESH}-etcd")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn good_certificates_that_somebody_else_wrote_in_the_middle_are_adopted() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Restarting).await;
    world.renew_by_hand().await;
    let theirs = world.serials().await;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!(renewal.status.phase, Phase::Succeeded, "{}", renewal.status.message);
    assert_eq!(world.serials().await, theirs);
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_reverted_ends_it_and_is_not_repeated() {
    let mut world = World::new(None).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Restarting).await;
    let (_, after) = world.mesh().await;
    let [old, new] = [&before, &after].map(|secrets| secrets[SecretRole::KubeCerts as usize].as_ref().unwrap());
    world.api.write_entries(NAMESPACE, &new.name, &new.resource_version, &old.material).await.unwrap();
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (Phase::Failed, "ForeignOwner"));
    assert_eq!(renewal.status.next_attempt_at, None);
    let (_, left) = world.mesh().await;
    let kube = |secrets: &meshcert::material::MeshSecrets| {
        secrets[SecretRole::KubeCerts as usize].as_ref().unwrap().material.digest()
    };
    assert_eq!(kube(&left), kube(&before), "theirs stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cas_key_it_is_refused_and_nothing_is_touched() {
    let mut world = World::new(None).await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-kube-certs");
    world.api.merge(&path, &json!({ "data": { "ca.key": null } })).await.unwrap();
    let before = world.serials().await;
    let name = world.ask().await;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (Phase::Refused, "ExternalCa"));
    assert!(renewal.status.message.contains("ca.key"), "{}", renewal.status.message);
    assert!(renewal.status.next_attempt_at.is_some(), "it is tried again");
    assert_eq!(world.serials().await, before);
    assert_eq!(world.api.copies(NAMESPACE, "meshcert.dev/backup").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_it_and_says_so() {
    let mut world = World::new(None).await;
    world.api.pause(NAMESPACE, &format!("{MESH}-etcd-certs")).await.unwrap();
    let name = world.ask().await;
    let held = world.run_until(&name, auto(), |renewal| renewal.status.reason == "Paused").await;
    assert_eq!(held.status.phase, Phase::Pending);
    world
        .api
        .change_renewal(NAMESPACE, &name, &json!({ "metadata": { "finalizers": ["example.org/kept"] } }))
        .await
        .unwrap();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-etcd-certs");
    world.api.merge(&path, &json!({ "metadata": { "annotations": { "meshcert.dev/paused": null } } })).await.unwrap();
    let renewal = world.run_until(&name, auto(), is_finished).await;
    world.assert_renewed(&renewal).await;
    assert_eq!(renewal.other_finalizers, ["example.org/kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_and_two_requests_make_one_renewal() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let spec = Spec { mesh_id: MESH.to_owned(), ..Spec::default() };
    assert!(world.api.create_renewal(NAMESPACE, "another", &spec).await.unwrap());
    let (mut acting, around) = world.acting(auto());
    "another process".clone_into(&mut acting.identity);
    let beside = tokio::spawn(controller::run(acting, around));
    let is_over = |renewal: &Renewal| is_finished(renewal) && renewal.status.next_attempt_at.is_none();
    let first = world.run_until(&name, auto(), is_finished).await;
    let second = world.run_until("another", auto(), is_finished).await;
    beside.abort();
    let phases = [first.status.phase, second.status.phase];
    assert!(phases.contains(&Phase::Succeeded), "{phases:?}");
    assert!(phases.contains(&Phase::Superseded) || phases.contains(&Phase::Refused), "{phases:?}");
    assert!(is_over(&first) || is_over(&second));
    for name in [format!("{MESH}-hosted-apiserver"), format!("istiod-{MESH}-hosted")] {
        assert_eq!(world.generation("deployments", &name).await, 2, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_of_etcd_restart_one_after_the_other() {
    let mut world = World::new(None).await;
    let etcd = format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd");
    world.api.merge(&etcd, &json!({ "spec": { "replicas": 3 } })).await.unwrap();
    while world.get(&etcd).await["status"]["availableReplicas"] != 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let name = world.ask().await;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!(renewal.status.phase, Phase::Succeeded, "{}", renewal.status.message);
    let etcd = world.get(&etcd).await;
    assert!(etcd["metadata"]["annotations"]["meshcert.dev/partition-before"].is_null(), "{etcd}");
    assert_eq!(etcd["spec"]["updateStrategy"]["rollingUpdate"]["partition"], 0, "what it had before");
    let steps = world.proxy.plan.mutations.lock().unwrap().iter().filter(|one| one.contains("/statefulsets/")).count();
    assert_eq!(steps, 5, "the template with the partition at 3, then 2, 1, 0, and what was before");
}

/// What an odd mesh comes to: the phase, the reason, and a part of the words.
async fn assert_ends(mut world: World, policy: Policy, phase: Phase, reason: &str, words: &str) {
    let name = world.ask().await;
    let before = world.serials().await;
    let renewal = world.run_until(&name, policy, is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (phase, reason), "{}", renewal.status.message);
    assert!(renewal.status.message.contains(words), "{}", renewal.status.message);
    if renewal.status.commits.is_empty() {
        assert_eq!(world.serials().await, before, "nothing was touched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_secret_is_refused() {
    let world = World::new(None).await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-etcd-certs");
    world.api.merge(&path, &json!({ "immutable": true })).await.unwrap();
    assert_ends(world, auto(), Phase::Refused, "SecretImmutable", "expiring-1-etcd-certs is immutable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_refused() {
    let world = World::new(None).await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-apiserver-admin-kubeconfig");
    world.api.delete(&path, None).await.unwrap();
    assert_ends(world, auto(), Phase::Refused, "SecretMissing", "restore it first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_workload_is_refused() {
    let world = World::new(None).await;
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/istiod-{MESH}-hosted");
    world.api.delete(&path, None).await.unwrap();
    assert_ends(world, auto(), Phase::Refused, "WorkloadUnresolved", "istiod-expiring-1-hosted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_not_far_enough_is_refused_for_good() {
    let world = World::new(None).await;
    let short = Policy { lifetime: 35 * DAY, ..auto() };
    assert_ends(world, short, Phase::Refused, "TargetUnreachable", "a new CA has to be made first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_does_not_come_to_an_end_keeps_the_new_certificates_and_says_what_hangs() {
    let world = World::new(None).await;
    // Somebody froze the StatefulSet: no pod is ever replaced.
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd");
    let frozen =
        json!({ "spec": { "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 5 } } } });
    world.api.merge(&path, &frozen).await.unwrap();
    let impatient = Policy { restart_deadline: 1, ..auto() };
    assert_ends(world, impatient, Phase::Failed, "RestartStuck", "expiring-1-etcd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_said_and_nothing_is_touched() {
    let calm = run_with(None).await;
    let backup = calm.iter().position(|one| one.ends_with("/secrets")).unwrap();
    let world = World::new(Some((backup, Fault::Forbidden))).await;
    assert_ends(world, auto(), Phase::Failed, "Forbidden", "grant meshcert this right").await;
}
