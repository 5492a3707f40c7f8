//! A whole renewal on the embedded cluster, with every kind of harm at every mutation.

#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use faults::Fault;
use meshcert::clock::{ManualClock, SystemClock};
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::Connection;
use meshcert::controller::{self, Surroundings};
use meshcert::material::{Material, MeshSecrets};
use meshcert::mesh::{HostedMesh, SecretRole};
use meshcert::policy::{AdminSubject, Engine, JobPolicy, Mode, Policy};
use meshcert::ports::Clock;
use meshcert::renewal::{Phase, Renewal, Spec, Status, Trigger};
use meshcert::requests::{Asked, Sight, ask};
use meshcert::time::DAY;
use serde_json::{Value, json};
use world::{MESH, NAMESPACE, PATIENCE, World, auto, by_job, by_job_of_old, has_ended, is_finished, mk_due};

/// Tries until a fault comes.
const MOST_TRIES: u32 = 20;
/// Worlds beside each other.
const AT_ONCE: usize = 6;
/// One run; the mutations that it made.
async fn run_with(policy: Policy, at: Option<(usize, Fault)>) -> Vec<String> {
    let mut world = World::new(at).await;
    let name = world.ask().await;
    let renewal = world.run_until(&name, policy, is_finished).await;
    world.assert_renewed(&renewal).await;
    let mutations = world.plan.mutations.lock().unwrap();
    mutations.clone()
}

/// A rollback of a mesh with three members of etcd; the mutations that it made.
async fn roll_back_with(at: Option<(usize, Fault)>) -> Vec<String> {
    let mut world = World::new(None).await;
    world.scale_etcd(3).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Succeeded && is_finished(renewal)).await;
    let workloads = [("statefulsets", format!("{MESH}-etcd")), ("deployments", format!("{MESH}-hosted-apiserver"))];
    let mut renewed = Vec::new();
    for (plural, name) in &workloads {
        renewed.push(world.generation(plural, name).await);
    }
    world.arm(at);
    world.want_back(&name, true).await;
    let is_back = |renewal: &Renewal| renewal.status.phase == Phase::RolledBack && is_finished(renewal);
    world.run_until(&name, auto(), is_back).await;
    let (_, after) = world.mesh().await;
    for role in SecretRole::ALL {
        let [before, after] =
            [&before, &after].map(|secrets| secrets[role as usize].as_ref().unwrap().material.digest());
        assert_eq!(before, after, "{}", role.as_str());
    }
    // The template with the partition at 3, then 2, 1 and 0, which it had before; the others' template.
    for (((plural, name), renewed), changes) in workloads.iter().zip(renewed).zip([4, 1]) {
        assert_eq!(world.generation(plural, name).await, renewed + changes, "{name} was restarted once");
    }
    world.assert_nothing_left_over().await;
    let mutations = world.plan.mutations.lock().unwrap();
    mutations.clone()
}

/// What harm is done to, and what comes of it, in the words of the table in `docs/RENEWAL.md`.
struct Trial {
    engine: &'static str,
    place: &'static str,
    end: &'static str,
    faults: &'static [Fault],
    /// The mutations at which harm is done, of those of a calm run.
    at: fn(&[String]) -> Range<usize>,
}

const RENEWED: &str = "renewed, each workload restarted once, nothing left over";

/// From the first staged copy to the first write of a live Secret: before and after, nothing depends on the engine.
fn staging(calm: &[String]) -> Range<usize> {
    let mut copies =
        (0..calm.len()).filter(|index| calm[*index].starts_with("POST") && calm[*index].ends_with("/secrets"));
    // Three backups come first; their end is written down before the copies.
    let last_backup = copies.nth(2).unwrap();
    last_backup + 1..calm.iter().position(|one| is_write(one)).unwrap()
}

/// Does harm at each of these mutations.
async fn harm<R>(trial: Trial, run: fn(Option<(usize, Fault)>) -> R)
where
    R: Future<Output = Vec<String>> + Send + 'static,
{
    let Trial { engine, place, end, faults, at } = trial;
    let calm = run(None).await;
    assert!(calm.len() > 20, "{calm:#?}");
    let at = at(&calm);
    println!("{engine}: {} mutations, harm at {at:?}", calm.len());
    let mut cases: Vec<(usize, Fault)> =
        at.clone().flat_map(|index| faults.iter().map(move |fault| (index, *fault))).collect();
    let mut running = tokio::task::JoinSet::new();
    let mut results: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(case) = cases.pop()
        {
            running.spawn(async move {
                let run = tokio::spawn(async move {
                    for _ in 0..MOST_TRIES {
                        // What is waited for is written down where a pass comes in time to see it: a run may have a mutation less.
                        if run(Some(case)).await.len() > case.0 {
                            return true;
                        }
                    }
                    false
                });
                (case, run.await.map_err(|error| error.to_string()))
            });
        }
        let Some(result) = running.join_next().await else { break };
        let ((index, fault), result) = result.unwrap();
        let came = result.unwrap_or_else(|error| panic!("{fault:?} at mutation {index} ({}): {error}", calm[index]));
        assert!(came, "the fault {fault:?} at mutation {index} came");
        *results.entry(format!("{fault:?}")).or_default() += 1;
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/RENEWAL.md")).unwrap();
    assert_eq!(results.len(), faults.len());
    for (fault, count) in &results {
        let row = format!("| {engine} | {fault} | {place} | {end} |");
        println!("{count} {row}");
        assert_eq!(*count, at.len());
        assert!(page.contains(&row), "docs/RENEWAL.md lacks {row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_mutation_ends_in_the_same_state() {
    let all = |calm: &[String]| 0..calm.len();
    let trial = Trial { engine: "native", place: "all", end: RENEWED, faults: &Fault::ALL, at: all };
    harm(trial, |at| run_with(auto(), at)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn harm_on_the_way_back_ends_with_what_was_there_before() {
    let trial = Trial {
        engine: "native",
        place: "all of a rollback, with three members of etcd",
        end: "rolled back, each workload restarted once more, nothing left over",
        faults: &[Fault::KilledBefore, Fault::KilledAfter, Fault::Conflict, Fault::ErrorAfter, Fault::ForeignWriter],
        at: |calm| 0..calm.len(),
    };
    harm(trial, roll_back_with).await;
}

/// Whether this writes a live Secret.
fn is_write(mutation: &str) -> bool {
    let live = ["etcd-certs", "kube-certs", "apiserver-admin-kubeconfig"];
    mutation.starts_with("PATCH") && live.iter().any(|name| mutation.ends_with(&format!("/secrets/{MESH}-{name}")))
}

/// Has all staged copies removed at every mutation of a renewal until a live Secret is written, or until its end.
async fn remove_staged_everywhere(policy: Policy, until_written: bool) {
    let calm = run_with(policy.clone(), None).await;
    let first_write = calm.iter().position(|one| is_write(one)).unwrap();
    let mut left: Vec<usize> = (0..if until_written { first_write } else { calm.len() }).collect();
    let mut running = tokio::task::JoinSet::new();
    let mut outcomes = BTreeMap::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(index) = left.pop()
        {
            let policy = policy.clone();
            running.spawn(async move { (index, run_without_copies(policy, index).await) });
        }
        let Some(result) = running.join_next().await else { break };
        let (index, outcome) = result.unwrap();
        outcomes.insert(index, outcome);
    }
    for (index, (phase, written)) in &outcomes {
        let expected: &[Phase] = match written {
            0 => &[Phase::Succeeded, Phase::Failed],
            1 | 2 => &[Phase::RolledBack],
            _ => &[Phase::Succeeded],
        };
        assert!(expected.contains(phase), "removed at {index} ({}): {phase:?}, {written} written", calm[*index]);
    }
    let failed = outcomes.values().filter(|(phase, _)| *phase == Phase::Failed).count();
    let turned = outcomes.values().filter(|(phase, _)| *phase == Phase::RolledBack).count();
    assert!(failed >= 3, "while they are judged, and before the first write: {outcomes:#?}");
    assert!(until_written || turned >= 2, "between two writes: {outcomes:#?}");
}

/// One run in which the staged copies are removed: how it ended, and how many live Secrets held something new until somebody went on without the copies.
async fn run_without_copies(policy: Policy, index: usize) -> (Phase, usize) {
    let mut world = World::new(Some((index, Fault::StagedRemoved))).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    let renewal = world.run_until(&name, policy, is_finished).await;
    let mutations = world.plan.mutations.lock().unwrap().clone();
    // The copies go just before the request, which is carried out.
    let written = mutations.iter().take(index + 1).filter(|one| is_write(one)).count();
    let Status { phase, reason, message, next_attempt_at, commits, .. } = &renewal.status;
    if *phase == Phase::Succeeded {
        world.assert_renewed(&renewal).await;
        return (*phase, written);
    }
    let (_, after) = world.mesh().await;
    for role in SecretRole::ALL {
        let [before, after] =
            [&before, &after].map(|secrets| secrets[role as usize].as_ref().unwrap().material.digest());
        assert_eq!(before, after, "{}", role.as_str());
    }
    let restarts = i64::from(*phase == Phase::RolledBack);
    for deployment in [format!("{MESH}-hosted-apiserver"), format!("istiod-{MESH}-hosted")] {
        assert_eq!(world.generation("deployments", &deployment).await, 1 + restarts, "{deployment}: {message}");
    }
    world.assert_nothing_left_over().await;
    if *phase == Phase::Failed {
        assert_eq!((reason.as_str(), commits.len()), ("StagedChanged", 0), "{message}");
        assert!(next_attempt_at.is_some() && message.contains("nothing was touched"), "{message}");
    }
    (*phase, written)
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_somebody_removes_cost_an_attempt_before_the_first_write_and_no_restart() {
    remove_staged_everywhere(auto(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_somebody_removes_under_the_job_cost_an_attempt_too() {
    // Afterwards nothing depends on who made the material.
    remove_staged_everywhere(by_job_of_old(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_mutation_that_the_job_brings_ends_in_the_same_state() {
    let place = "from staging to the first write";
    let trial = Trial { engine: "job", place, end: RENEWED, faults: &Fault::ALL, at: staging };
    harm(trial, |at| run_with(by_job_of_old(), at)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_asks_the_api_server_for_little_and_for_nothing_that_is_not_there() {
    let mut world = World::at_a_pace(Duration::from_millis(300), Arc::new(SystemClock), None).await;
    // As many looks while a workload restarts as beside a real cluster.
    world.timing.busy = Duration::from_millis(100);
    let name = world.ask().await;
    let start = std::time::Instant::now();
    let renewal = world.run_until(&name, auto(), is_finished).await;
    let rounds = start.elapsed().as_millis() / world.timing.busy.as_millis() + 1;
    world.assert_renewed(&renewal).await;
    let asked = world.plan.asked.lock().unwrap().clone();
    let of = |right: &str| asked.get(right).copied().unwrap_or_default();
    let looks = of("get certificaterenewals");
    let (mutations, total) = (world.plan.mutations.lock().unwrap().len(), asked.values().sum::<usize>());
    println!("{total} requests, {mutations} of them mutations, in {looks} looks: {asked:#?}");
    assert!(looks <= mutations + rounds as usize, "one for each mutation, and one each time it waits");
    assert!(of("list certificaterenewals") <= 2, "they are followed from then on: {asked:#?}");
    // The renewal, its three Secrets, lock and slot; the copies, or a workload with its pods and Services.
    assert!(total - mutations <= 9 * looks, "{asked:#?}");
    // A StatefulSet, three Deployments: looked for once, and then where they were found.
    assert!(of("get statefulsets") + of("get deployments") <= 7 + looks, "{asked:#?}");
    assert_eq!(of("get daemonsets"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_asked_for_as_soon_as_it_is_read_and_not_by_the_clock() {
    let world = World::new(None).await;
    let (mesh, _) = world.mesh().await;
    let (mut acting, mut around) =
        world.acting("test", Policy { mode: Mode::Approve, ..auto() }, Connection::InCluster);
    acting.timing.first_scan = Duration::ZERO;
    let sight = Arc::new(std::sync::Mutex::new(Sight::default()));
    let shown = Arc::clone(&sight);
    let looks = Arc::new(AtomicUsize::new(0));
    let looked = Arc::clone(&looks);
    around.sights = Arc::new(move |_| {
        looked.fetch_add(1, Ordering::SeqCst);
        shown.lock().unwrap().clone()
    });
    // Whoever may not list the copies, to remove what is left over, asks all the same.
    *world.plan.withheld.lock().unwrap() = Some("list secrets");
    let process = tokio::spawn(controller::run_on(Api::new(faults::client(&world.plan)), acting, around));
    let until = async |what: &str, done: fn(usize, &[Renewal]) -> bool| {
        let waiting = async {
            while !done(looks.load(Ordering::SeqCst), &world.renewals().await) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}");
    };
    until("it leads, and looks what is read", |looks, _| looks > 5).await;
    assert_eq!(world.renewals().await, [], "nothing is read yet");
    *sight.lock().unwrap() = Sight { meshes: vec![Arc::new(mesh)], read: 1 };
    until("it asked", |_, renewals| !renewals.is_empty()).await;
    process.abort();
    let asked = |what: &str| world.plan.asked.lock().unwrap().contains_key(what);
    assert!(asked("list secrets") && asked("list certificaterenewals"));
    let triggers: Vec<Trigger> = world.renewals().await.iter().map(|renewal| renewal.spec.trigger).collect();
    assert_eq!(triggers, [Trigger::Schedule]);
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
    let plan = waiting.status.plan.as_ref().unwrap();
    assert_eq!(plan.leaves.len(), 8, "seven leaves of kubeadm and the admin's");
    assert_eq!(world.generation("statefulsets", &format!("{MESH}-etcd")).await, 1);

    let other = json!({ "spec": { "approval": { "planDigest": format!("sha256:{}", "0".repeat(64)) } } });
    world.api.change_renewal(NAMESPACE, &name, &other).await.unwrap();
    let still = world.run_until(&name, approve.clone(), |renewal| renewal.spec.approval.is_some()).await;
    assert_eq!(still.status.phase, Phase::AwaitingApproval);
    world.agree(&waiting).await;
    let renewal = world.run_until(&name, approve, is_finished).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_puts_back_what_was_there_and_proves_it() {
    let mut world = World::new(None).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    world.run_until(&name, auto(), is_finished).await;
    world.want_back(&name, true).await;
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
    let insist = format!("meshcert renew {} -n {NAMESPACE} --force, or spec.force", renewal.spec.mesh_id);
    assert!(renewal.status.message.ends_with(&insist), "{}", renewal.status.message);
    let (mesh, _) = world.mesh().await;
    assert_eq!(
        renewal.status.next_attempt_at,
        mesh.expiration.map(|end| end.plus(1 - 10 * DAY)),
        "the first due second"
    );
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
async fn certificates_that_come_with_other_cas_or_account_keys_are_not_adopted() {
    for (secret, entry) in [("kube-certs", "sa.key"), ("kube-certs", "sa.pub"), ("etcd-certs", "ca.key")] {
        let mut world = World::new(None).await;
        let name = world.ask().await;
        world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Restarting).await;
        world.renew_by_hand().await;
        let theirs = world.serials().await;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-{secret}");
        world.api.merge(&path, &json!({ "data": { entry: STANDARD.encode("another one") } })).await.unwrap();
        let renewal = world.run_until(&name, auto(), is_finished).await;
        let Status { phase, reason, message, next_attempt_at, .. } = renewal.status;
        assert_eq!(
            (phase, reason.as_str(), next_attempt_at),
            (Phase::Failed, "ForeignOwner", None),
            "{entry}: {message}"
        );
        assert!(message.contains(&format!("in {MESH}-{secret}; restore them")), "{entry}: {message}");
        assert_eq!(world.serials().await, theirs, "nothing is written over it");
    }
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
    let beside = tokio::spawn(world.process("another process", auto()));
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
    world.scale_etcd(3).await;
    let workload = format!("{MESH}-etcd");
    let before = world.generation("statefulsets", &workload).await;
    let name = world.ask().await;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!(renewal.status.phase, Phase::Succeeded, "{}", renewal.status.message);
    let etcd = world.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd")).await;
    assert!(etcd["metadata"]["annotations"]["meshcert.dev/partition-before"].is_null(), "{etcd}");
    assert_eq!(etcd["spec"]["updateStrategy"]["rollingUpdate"]["partition"], 0, "what it had before");
    // Not the requests: one of them may meet a write of the workload's controller, and is made again.
    let changes = world.generation("statefulsets", &workload).await - before;
    assert_eq!(changes, 4, "the template with the partition at 3, then 2, 1 and 0, which it had before");
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

/// A front-proxy CA with the present one's key, and a client's certificate by it: what ends in so many days.
fn front_proxy(secrets: &MeshSecrets, ca_days: i64, leaf_days: i64, unit: Option<&str>) -> Vec<(&'static str, String)> {
    let at = |days: i64| {
        let moment = SystemClock.now().plus(days * DAY).0.unsigned_abs();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(moment)
    };
    let params = |name: &str, days| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params.not_before, params.not_after) = (at(-400), at(days));
        params
    };
    let key = secrets[SecretRole::KubeCerts as usize].as_ref().unwrap().material.get("front-proxy-ca.key").unwrap();
    let key = rcgen::KeyPair::from_pem(std::str::from_utf8(key).unwrap()).unwrap();
    let mut ca = params("front-proxy-ca", ca_days);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&key).unwrap().pem();
    let mut leaf = params("front-proxy-client", leaf_days);
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    if let Some(unit) = unit {
        leaf.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, unit);
    }
    let own = rcgen::KeyPair::generate().unwrap();
    let signed = leaf.signed_by(&own, &rcgen::Issuer::new(ca, key)).unwrap();
    vec![
        ("front-proxy-ca.crt", ca_pem),
        ("front-proxy-client.crt", signed.pem()),
        ("front-proxy-client.key", own.serialize_pem()),
    ]
}

/// The kubeconfig with another server.
fn elsewhere(secrets: &MeshSecrets) -> Vec<(&'static str, String)> {
    let config = secrets[SecretRole::AdminKubeconfig as usize].as_ref().unwrap().material.get("config").unwrap();
    let config = std::str::from_utf8(config).unwrap();
    vec![("config", config.replace(&format!("{MESH}-hosted-apiserver:6443"), "elsewhere.example:6443"))]
}

/// An odd mesh and what becomes of it.
struct Odd {
    what: &'static str,
    role: SecretRole,
    make: fn(&MeshSecrets) -> Vec<(&'static str, String)>,
    end: (Phase, &'static str, &'static str),
}

const ODD: [Odd; 11] = [
    Odd {
        what: "a CA has ended",
        role: SecretRole::KubeCerts,
        make: |secrets| front_proxy(secrets, -1, 20, None),
        end: (Phase::Refused, "CaExpired", "front-proxy-client.crt: the CA ended at"),
    },
    Odd {
        what: "a CA ends so soon that what it signs would be due at once",
        role: SecretRole::KubeCerts,
        make: |secrets| front_proxy(secrets, 33, 20, None),
        end: (Phase::Refused, "TargetUnreachable", "a new CA has to be made first"),
    },
    Odd {
        what: "a leaf that lives for ten years among them",
        role: SecretRole::KubeCerts,
        make: |secrets| front_proxy(secrets, 3640, 3600, None),
        end: (Phase::Succeeded, "Succeeded", "every endpoint serves"),
    },
    Odd {
        what: "a leaf that outlives its CA, which lives longer than the rest",
        role: SecretRole::KubeCerts,
        make: |secrets| front_proxy(secrets, 200, 300, None),
        end: (Phase::Succeeded, "Succeeded", "every endpoint serves"),
    },
    Odd {
        what: "a CA that was extended under its key, behind the one that ends soon",
        role: SecretRole::KubeCerts,
        make: |secrets| {
            let mut entries = front_proxy(secrets, 25, 20, None);
            entries[0].1 += &front_proxy(secrets, 3640, 20, None)[0].1;
            entries
        },
        end: (Phase::Succeeded, "Succeeded", "every endpoint serves"),
    },
    Odd {
        what: "a leaf that no renewal replaces, behind a CA",
        role: SecretRole::KubeCerts,
        make: |secrets| {
            let [(_, ca), (_, leaf), _] = &front_proxy(secrets, 3640, 20, None)[..] else { unreachable!() };
            vec![("extra.crt", ca.clone() + leaf)]
        },
        end: (
            Phase::Refused,
            "TargetUnreachable",
            "expiring-1-kube-certs, extra.crt, 1 ends then, which no renewal replaces",
        ),
    },
    Odd {
        what: "a Subject with an OU",
        role: SecretRole::KubeCerts,
        make: |secrets| front_proxy(secrets, 3640, 20, Some("team-7")),
        end: (Phase::Succeeded, "Succeeded", "every endpoint serves"),
    },
    Odd {
        what: "a key that is another certificate's",
        role: SecretRole::KubeCerts,
        make: |_| vec![("front-proxy-client.key", rcgen::KeyPair::generate().unwrap().serialize_pem())],
        end: (
            Phase::Refused,
            "KeyMismatch",
            "front-proxy-client.crt: its private key is another one's; restore the pair",
        ),
    },
    Odd {
        what: "a kubeconfig with another server",
        role: SecretRole::AdminKubeconfig,
        make: elsewhere,
        end: (Phase::Refused, "KubeconfigWrongServer", "elsewhere.example"),
    },
    Odd {
        what: "a kubeconfig with a token",
        role: SecretRole::AdminKubeconfig,
        make: |_| {
            let text = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}], \
                        clusters: [{name: k, cluster: {server: 'https://expiring-1-hosted-apiserver:6443'}}], users: [{name: u, user: {token: t}}]}";
            vec![("config", text.to_owned())]
        },
        end: (
            Phase::Refused,
            "KubeconfigInvalid",
            "no kubeconfig with an embedded client certificate and key is in it",
        ),
    },
    Odd {
        what: "a kubeconfig that verifies nothing",
        role: SecretRole::AdminKubeconfig,
        make: |secrets| {
            let config =
                secrets[SecretRole::AdminKubeconfig as usize].as_ref().unwrap().material.get("config").unwrap();
            let trusting = |line: &str| {
                let indent = line.split("certificate-authority-data:").next().filter(|indent| *indent != line);
                indent.map_or(line.to_owned(), |indent| format!("{indent}insecure-skip-tls-verify: true"))
            };
            let lines: Vec<String> = std::str::from_utf8(config).unwrap().lines().map(trusting).collect();
            vec![("config", lines.join("\n"))]
        },
        end: (Phase::Succeeded, "Succeeded", "every endpoint serves"),
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn odd_meshes_that_the_leader_finds_end_as_they_must_and_are_not_asked_for_again() {
    for Odd { what, role, make, end: (phase, reason, words) } in ODD {
        let world = World::new(None).await;
        let (_, secrets) = world.mesh().await;
        let name = &secrets[role as usize].as_ref().unwrap().name;
        let data: serde_json::Map<String, Value> =
            make(&secrets).into_iter().map(|(key, text)| (key.to_owned(), STANDARD.encode(text).into())).collect();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
        world.api.merge(&path, &json!({ "data": data })).await.unwrap();
        let (before, _) = world.mesh().await;
        if phase == Phase::Refused {
            // What a person has asked for, under any name, is not asked for again either.
            let spec = Spec { mesh_id: MESH.to_owned(), ..Spec::default() };
            assert!(world.api.create_renewal(NAMESPACE, "by-a-person", &spec).await.unwrap());
        }

        let (mut acting, mut around) = world.acting("test", auto(), Connection::InCluster);
        (acting.timing.first_scan, acting.timing.scan) = (Duration::ZERO, Duration::from_millis(20));
        let sight = Arc::new(std::sync::Mutex::new(Sight { meshes: vec![Arc::new(before.clone())], read: 1 }));
        let shown = Arc::clone(&sight);
        around.sights = Arc::new(move |_| shown.lock().unwrap().clone());
        let process = tokio::spawn(controller::run_on(Api::new(faults::client(&world.plan)), acting, around));
        let scans = || world.plan.asked.lock().unwrap().get("list services").copied().unwrap_or_default();
        let mut finished_at = None;
        let waiting = async {
            loop {
                sight.lock().unwrap().meshes = vec![Arc::new(world.mesh().await.0)];
                let renewals = world.renewals().await;
                if renewals.iter().any(is_finished) && finished_at.is_none() {
                    finished_at = Some(scans());
                }
                // The clock looks at it some more times.
                if finished_at.is_some_and(|count| scans() > count + 3) {
                    return renewals;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let renewals = tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: no end"));
        process.abort();
        let [renewal] = &renewals[..] else { panic!("{what}: {} renewals", renewals.len()) };
        let Status { phase: ended, reason: code, message, .. } = &renewal.status;
        assert_eq!((*ended, code.as_str()), (phase, reason), "{what}: {message}");
        assert!(message.contains(words), "{what}: {message}");
        let (after, _) = world.mesh().await;
        let subjects = |mesh: &HostedMesh| -> Vec<String> {
            mesh.leaves().map(|leaf| leaf.certificate.subject.to_string()).collect()
        };
        assert_eq!(subjects(&after), subjects(&before), "{what}");
        let is_due = after.expiration.unwrap() < SystemClock.now().plus(60 * DAY);
        assert_eq!(is_due, phase == Phase::Refused, "{what}: {:?}", after.expiration);
        for (old, new) in before.leaves().zip(after.leaves()) {
            let kept = phase == Phase::Refused || old.effective_not_after > SystemClock.now().plus(365 * DAY);
            assert_eq!(new.certificate.serial_number == old.certificate.serial_number, kept, "{what}: {}", old.key);
        }
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
async fn new_material_that_would_be_due_again_at_once_is_not_good_enough() {
    let mut world = World::new(None).await;
    let before = world.serials().await;
    let name = world.ask().await;
    world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Auditing).await;
    let early = Policy { renew_before: 400 * DAY, ..auto() };
    let failed = world.run_until(&name, early, is_finished).await.status;
    assert_eq!((failed.phase, failed.reason.as_str()), (Phase::Failed, "AuditFailed"), "{}", failed.message);
    assert!(failed.message.contains("be due again at once (TargetMissed)"), "{}", failed.message);
    assert_eq!(world.serials().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_does_not_come_to_an_end_keeps_the_new_certificates_and_says_what_hangs() {
    let world = World::new(None).await;
    // Somebody froze the StatefulSet: no pod is ever replaced.
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd");
    let frozen =
        json!({ "spec": { "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 5 } } } });
    world.api.merge(&path, &frozen).await.unwrap();
    let impatient = Policy { urgent_before: 30 * DAY, restart_deadline: 5, ..auto() };
    assert_ends(world, impatient, Phase::Failed, "RestartStuck", "the partition 5 of StatefulSet expiring-1-etcd")
        .await;
}

/// A world in which a rollout of the hosted API hangs before anybody renews.
async fn mk_hanging() -> World {
    let world = World::new(None).await;
    world.hang_the_hosted_api().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_hangs_already_is_mended_first_while_there_is_time() {
    assert_ends(mk_hanging().await, auto(), Phase::Refused, "WorkloadUnready", "ImagePullBackOff").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_hangs_already_keeps_nothing_up_where_time_is_short() {
    let urgent = Policy { urgent_before: 30 * DAY, restart_deadline: 5, ..auto() };
    assert_ends(mk_hanging().await, urgent, Phase::Failed, "RestartStuck", "ImagePullBackOff").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_said_and_nothing_is_touched() {
    let calm = run_with(auto(), None).await;
    let backup = calm.iter().position(|one| one.ends_with("/secrets")).unwrap();
    let world = World::new(Some((backup, Fault::Forbidden))).await;
    assert_ends(world, auto(), Phase::Failed, "Forbidden", "grant meshcert this right").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_read_that_is_missing_is_named_at_once_and_waited_for() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    for (right, words, phase) in [
        ("get secrets", "get secrets in istio-system", Phase::Pending),
        ("get statefulsets", "get statefulsets.apps in istio-system", Phase::Preflight),
        ("list secrets", "list secrets in istio-system", Phase::BackingUp),
        ("list pods", "list pods in istio-system", Phase::Auditing),
    ] {
        // The one before is granted by this.
        *world.plan.withheld.lock().unwrap() = Some(right);
        let is_held = |renewal: &Renewal| renewal.status.reason == "Forbidden" && renewal.status.phase == phase;
        let message = world.run_until(&name, auto(), is_held).await.status.message;
        assert!(message.contains(&format!("meshcert may not {words}: ")), "{message}");
        assert!(message.contains("grant meshcert this right"), "{message}");
    }
    *world.plan.withheld.lock().unwrap() = None;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_have_the_reason_of_a_hold_and_of_an_end() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let process = tokio::spawn(world.process("test", Policy { mode: Mode::Observe, ..auto() }));
    let held = async {
        while !world.told().await.contains(&"Normal ObserveOnly".to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.unwrap();
    process.abort();
    let unreachable = Policy { renew_before: 500 * DAY, ..auto() };
    let ended = world.run_until(&name, unreachable, is_finished).await;
    assert_eq!((ended.status.phase, ended.status.reason.as_str()), (Phase::Refused, "TargetUnreachable"));
    let told = world.told().await;
    assert!(told.contains(&"Warning TargetUnreachable".to_owned()), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_whose_renewals_may_not_be_read_holds_up_no_other() {
    let mut world = World::new(None).await;
    world.more_namespaces.push("closed".to_owned());
    *world.plan.withheld.lock().unwrap() = Some("list certificaterenewals in closed");
    let name = world.ask().await;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_renews_and_what_kubeadm_changed_is_put_right() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let renewal = world.run_until(&name, by_job(), is_finished).await;
    world.assert_renewed(&renewal).await;
    let plan = renewal.status.plan.unwrap();
    assert_eq!((plan.engine, plan.image), (Engine::Job, Some(JobPolicy::default().image)));
    let job = renewal.status.job.unwrap();
    assert!(job.name.starts_with("expiring-1-certs-renew-") && job.completed_at.is_some(), "{job:?}");
    assert!(job.repairs.iter().any(|one| one.contains("kubeadm:cluster-admins")), "{job:?}");
    let (mesh, _) = world.mesh().await;
    let admin = mesh.leaves().find(|leaf| leaf.secret_role == SecretRole::AdminKubeconfig).unwrap();
    assert_eq!(admin.certificate.subject.to_string(), "O=system:masters,CN=kubernetes-admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_kubeadm_would_lose_something_it_is_done_in_process_and_the_plan_says_why() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    // The keys of this mesh are on P-256 and to be kept so.
    let policy = Policy { key_type: None, ..by_job() };
    let renewal = world.run_until(&name, policy, is_finished).await;
    world.assert_renewed(&renewal).await;
    let plan = renewal.status.plan.unwrap();
    assert_eq!((plan.engine, plan.image), (Engine::Native, None));
    assert!(plan.engine_reason.starts_with("KubeadmKeyType: "), "{}", plan.engine_reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_subject_is_refused_where_the_policy_says_so() {
    let policy = Policy { admin_subject: AdminSubject::Refuse, ..by_job() };
    let world = World::new(None).await;
    assert_ends(world, policy, Phase::Failed, "AuditFailed", "O=kubeadm:cluster-admins").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_fails_at_once() {
    let mut policy = by_job();
    "registry.example/missing:1".clone_into(&mut policy.job.image);
    assert_ends(World::new(None).await, policy, Phase::Failed, "JobImage", "ImagePullBackOff").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_write_the_staged_copies_is_named() {
    let world = World::new(None).await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/mspider-mcpc");
    let powerless = json!({ "metadata": { "annotations": { "demo.meshcert.dev/powerless": "true" } } });
    world.api.merge(&path, &powerless).await.unwrap();
    assert_ends(world, by_job(), Phase::Failed, "JobForbidden", "account mspider-mcpc could not write").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_there_is_refused() {
    let mut policy = by_job();
    "nobody".clone_into(&mut policy.job.service_account);
    assert_ends(World::new(None).await, policy, Phase::Refused, "ServiceAccountMissing", "nobody").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_no_node_takes_is_said_and_ends_with_the_jobs_deadline() {
    let mut world = World::new(None).await;
    let node =
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" }, "spec": { "unschedulable": true } });
    world.api.create("/api/v1/nodes", &node).await.unwrap();
    let name = world.ask().await;
    let mut policy = by_job();
    let waits = world.run_until(&name, policy.clone(), |renewal| renewal.status.reason == "JobUnschedulable").await;
    assert_eq!(waits.status.phase, Phase::Staging);
    assert!(waits.status.message.contains("no node takes the pod"), "{}", waits.status.message);
    // The deadline is the running Job's own.
    policy.job.deadline = 1;
    let path = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{}", waits.status.job.unwrap().name);
    world.api.merge(&path, &json!({ "spec": { "activeDeadlineSeconds": 1 } })).await.unwrap();
    let renewal = world.run_until(&name, policy, is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (Phase::Failed, "JobFailed"));
    assert!(renewal.status.message.contains("DeadlineExceeded"), "{}", renewal.status.message);
    assert_eq!(world.api.list::<Value>(&format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs")).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_kubeadm_skips_with_success_is_seen_and_its_words_are_told() {
    let world = World::new(None).await;
    // The CA's key is elsewhere: kubeadm takes the CA for an external one.
    let (_, secrets) = world.mesh().await;
    let kube = secrets[SecretRole::KubeCerts as usize].as_ref().unwrap();
    let text = |key: &str| STANDARD.encode(kube.material.get(key).unwrap());
    let moved = json!({ "data": {
        "front-proxy-ca.key": null, "spare.crt": text("front-proxy-ca.crt"), "spare.key": text("front-proxy-ca.key"),
    } });
    world.api.merge(&format!("/api/v1/namespaces/{NAMESPACE}/secrets/{}", kube.name), &moved).await.unwrap();
    assert_ends(world, by_job(), Phase::Failed, "AuditFailed", "kubeadm said: Detected external front-proxy-ca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_refused_before_it_makes_certificates_of_another_time() {
    let world = World::new(None).await;
    let name = world.ask().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, world.demo.kubeconfig()).unwrap();
    let (acting, around) = world.acting("test", auto(), Connection::file(path, None));
    let clock = Arc::new(ManualClock::new(SystemClock.now().plus(-3600)));
    let process = tokio::spawn(controller::run(acting, Surroundings { clock, ..around }));
    let refused = async {
        loop {
            let renewal = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap();
            if renewal.status.phase.is_terminal() {
                return renewal.status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    process.abort();
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Refused, "ClockSkew"), "{}", status.message);
    assert!(status.message.contains("differ by") && status.message.contains("correct them"), "{}", status.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_that_are_refused_are_rolled_back_and_the_former_ones_proven() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let mut world = World::at_the_time_of(Arc::clone(&clock) as Arc<dyn Clock>, None).await;
    let (mesh, before) = world.mesh().await;
    let spec = Spec { mesh_id: MESH.to_owned(), ..Spec::default() };
    assert!(world.api.create_renewal(NAMESPACE, "named-by-a-person", &spec).await.unwrap());
    let policy = Policy { verify_deadline: 1, ..auto() };
    world.run_until("named-by-a-person", policy.clone(), |renewal| renewal.status.phase == Phase::Restarting).await;
    // From now on the hosted API's clock is so late that what was made is not valid there yet.
    clock.set(SystemClock.now().plus(-900));
    let renewal = world.run_until("named-by-a-person", policy, is_finished).await;
    assert_eq!(renewal.status.phase, Phase::RolledBack, "{}", renewal.status.message);
    // Whoever sees the same certificates asks for no second outage; once they have ended there is nothing to lose.
    let asked = ask(&world.api, &mesh, Trigger::Schedule).await.unwrap();
    assert_eq!(asked, Asked::Exists("named-by-a-person".to_owned(), Phase::RolledBack));
    assert_eq!(renewal.status.next_attempt_at, mesh.expiration);
    let why = renewal.status.steps.iter().find(|step| step.result.contains("the new certificates are refused"));
    assert!(why.is_some(), "{:#?}", renewal.status.steps);
    let (_, after) = world.mesh().await;
    for role in SecretRole::ALL {
        let [before, after] =
            [&before, &after].map(|secrets| secrets[role as usize].as_ref().unwrap().material.digest());
        assert_eq!(before, after, "{}", role.as_str());
    }
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_before_too_is_no_reason_to_go_back() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let mut world = World::at_the_time_of(Arc::clone(&clock) as Arc<dyn Clock>, None).await;
    let name = world.ask().await;
    let policy = Policy { verify_deadline: 1, ..auto() };
    world.run_until(&name, policy.clone(), |renewal| renewal.status.phase == Phase::Restarting).await;
    // To the hosted API neither what was made now nor what was there before is valid yet.
    clock.set(SystemClock.now().plus(-4000 * DAY));
    let renewal = world.run_until(&name, policy, is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (Phase::Failed, "Unproven"));
    assert!(renewal.status.message.contains("it was like that before"), "{}", renewal.status.message);
    let (mesh, _) = world.mesh().await;
    assert!(SystemClock.now().seconds_until(mesh.expiration.unwrap()) > 300 * DAY, "the new ones stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_ends_it_before_the_first_write_whoever_insists() {
    // The hosted API's clock is so late that what is made now is not valid there yet.
    let clock = Arc::new(ManualClock::new(SystemClock.now().plus(-900)));
    let mut world = World::at_the_time_of(Arc::clone(&clock) as Arc<dyn Clock>, None).await;
    let name = world.ask().await;
    let (mesh, before) = world.mesh().await;
    let tried = |attempt| move |renewal: &Renewal| renewal.status.attempt == attempt && is_finished(renewal);
    let failed = world.run_until(&name, auto(), tried(1)).await;
    assert_eq!((failed.status.phase, failed.status.reason.as_str()), (Phase::Failed, "LoginRefused"));
    let message = &failed.status.message;
    for words in [
        "the hosted API refuses the new admin kubeconfig and still takes that of expiring-1-apiserver-admin-kubeconfig",
        "nothing was touched: login: ",
        "401 Unauthorized; correct what it takes clients by",
        "ca.crt of expiring-1-kube-certs",
        "meshcert renew expiring-1",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let wait = failed.status.next_attempt_at.map(|at| failed.status.phase_since.unwrap().seconds_until(at));
    assert_eq!(wait, Some(3600), "what the hosted API goes by may change without us");
    world.insist(&name).await;
    let failed = world.run_until(&name, auto(), tried(2)).await;
    assert_eq!(failed.status.reason, "LoginRefused", "{}", failed.status.message);
    assert!(failed.forced());
    world.api.write_status(&failed, &Status { failures: 6, ..mk_due(&failed) }).await.unwrap();
    let failed = world.run_until(&name, auto(), tried(3)).await;
    assert_eq!(failed.status.next_attempt_at, mesh.expiration, "it was tried often enough, but not for ever");
    assert_eq!(world.mesh().await.1, before, "not one version of a live Secret is another");
    assert_eq!(world.generation("statefulsets", &format!("{MESH}-etcd")).await, 1);
    world.assert_nothing_left_over().await;

    clock.set(SystemClock.now());
    world.api.write_status(&failed, &mk_due(&failed)).await.unwrap();
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hosted_api_that_takes_the_former_credentials_no_more_keeps_nothing_from_being_renewed() {
    // Neither are valid yet; the former ones have ended, its own for etcd among them.
    for days in [-4000, 25] {
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let mut world = World::at_the_time_of(Arc::clone(&clock) as Arc<dyn Clock>, None).await;
        let name = world.ask().await;
        let (mesh, _) = world.mesh().await;
        assert!(SystemClock.now().seconds_until(mesh.expiration.unwrap()) < 25 * DAY);
        clock.set(SystemClock.now().plus(days * DAY));
        world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Restarting).await;
        clock.set(SystemClock.now());
        let renewal = world.run_until(&name, auto(), is_finished).await;
        world.assert_renewed(&renewal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_replaced_while_committing_halts_it_with_the_rest_unwritten() {
    let calm = run_with(auto(), None).await;
    let first = calm.iter().position(|one| one.contains("PATCH") && one.ends_with("/secrets/expiring-1-etcd-certs"));
    let mut world = World::new(Some((first.unwrap(), Fault::KilledBefore))).await;
    let name = world.ask().await;
    let before = world.serials().await;
    world.run_until_killed(auto()).await;
    let other = World::new(None).await.mesh().await.1;
    let mut theirs = Material::default();
    for key in ["ca.crt", "ca.key"] {
        let bytes = other[SecretRole::EtcdCerts as usize].as_ref().unwrap().material.get(key).unwrap().to_vec();
        theirs.insert(key, bytes.into());
    }
    let (_, live) = world.mesh().await;
    let etcd = live[SecretRole::EtcdCerts as usize].as_ref().unwrap();
    world.api.write_entries(NAMESPACE, &etcd.name, &etcd.resource_version, &theirs).await.unwrap();
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.reason.as_str()), (Phase::Failed, "AuditFailed"));
    assert!(renewal.status.message.contains("does not fit the live Secrets any more"), "{}", renewal.status.message);
    assert_eq!(world.serials().await, before, "no leaf was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_another_controller_rewrites_is_not_written_for_ever_and_it_is_said() {
    let world = World::new(None).await;
    let istiod = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/istiod-{MESH}-hosted");
    *world.plan.managed.lock().unwrap() = Some(istiod.clone());
    let plan = Arc::clone(&world.plan);
    let impatient = Policy { restart_deadline: 5, ..auto() };
    assert_ends(world, impatient, Phase::Failed, "RestartStuck", "another controller rewrites its pod template").await;
    let written = plan.mutations.lock().unwrap().iter().filter(|one| one.ends_with(&istiod)).count();
    assert!((2..=8).contains(&written), "{written} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_somebody_removes_without_its_pod_is_made_again_once_the_pod_is_gone() {
    let mut world = World::new(None).await;
    let node =
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" }, "spec": { "unschedulable": true } });
    world.api.create("/api/v1/nodes", &node).await.unwrap();
    let name = world.ask().await;
    let waits = world.run_until(&name, by_job(), |renewal| renewal.status.reason == "JobUnschedulable").await;
    let path = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{}", waits.status.job.unwrap().name);
    let first = world.get(&path).await["metadata"]["uid"].clone();
    let selector =
        format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=meshcert.dev%2Frenewal-uid%3D{}", waits.uid);
    let orphan = world.api.list::<Value>(&selector).await.unwrap()[0]["metadata"]["uid"].clone();
    // For old clients' sake, the API leaves a Job's pods behind unless told otherwise.
    world.api.delete(&path, None).await.unwrap();
    assert_eq!(world.api.list::<Value>(&selector).await.unwrap()[0]["metadata"]["uid"], orphan);
    world
        .run_until(&name, by_job(), |renewal| {
            renewal.status.phase == Phase::Staging && renewal.status.reason == "JobUnschedulable"
        })
        .await;
    world.api.delete("/api/v1/nodes/n", None).await.unwrap();
    let renewal = world.run_until(&name, by_job(), is_finished).await;
    world.assert_renewed(&renewal).await;
    let mutations = world.plan.mutations.lock().unwrap();
    let created = mutations.iter().filter(|one| one.starts_with("POST") && one.ends_with("/jobs")).count();
    assert_eq!(created, 2, "{first} and its successor");
}
