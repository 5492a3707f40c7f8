//! What becomes of a renewal after its end, or when what it rests on is taken back: tried again, rolled back, replaced, begun anew.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use faults::Fault;
use http::StatusCode;
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::Connection;
use meshcert::controller;
use meshcert::native;
use meshcert::policy::{Mode, Policy};
use meshcert::ports::Clock;
use meshcert::renewal::{Phase, Renewal, Status};
use meshcert::requests::Sight;
use meshcert::time::DAY;
use serde_json::{Value, json};
use world::{MESH, NAMESPACE, PATIENCE, World, auto, by_job, digests, has_ended, index_of, is_finished, mk_due};

/// Copies that come before the staged ones.
const BACKUPS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_is_forbidden_and_then_hangs_goes_on_by_itself_and_when_a_person_asks() {
    let mut world = World::new(None).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    *world.plan.withheld.lock().unwrap() = Some("patch secrets");
    // As the command does it.
    world.api.pause(NAMESPACE, &format!("{MESH}-etcd-certs")).await.unwrap();
    world.want_back(&name, true).await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    assert_eq!(failed.status.reason, "Forbidden");
    *world.plan.withheld.lock().unwrap() = None;

    // Somebody froze etcd meanwhile.
    let etcd = format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd");
    let partition = |number: u32| json!({ "spec": { "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": number } } } });
    world.api.merge(&etcd, &partition(5)).await.unwrap();
    world.api.write_status(&failed, &mk_due(&failed)).await.unwrap();
    let impatient = Policy { restart_deadline: 3, ..auto() };
    let stuck = |renewal: &Renewal| renewal.status.reason == "RestartStuck" && is_finished(renewal);
    let failed = world.run_until(&name, impatient, stuck).await.status;
    assert!(failed.message.contains("the former certificates stay"), "{}", failed.message);
    assert_eq!(digests(&world.mesh().await.1), digests(&before));

    world.api.merge(&etcd, &partition(0)).await.unwrap();
    world.ask_again(&name).await;
    world.run_until(&name, auto(), has_ended(Phase::RolledBack)).await;
    assert_eq!(digests(&world.mesh().await.1), digests(&before));
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_written_can_be_rolled_back() {
    let second = index_of(&format!("/secrets/{MESH}-kube-certs"), 0).await;
    let mut world = World::new(Some((second, Fault::Forbidden))).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    assert!(failed.is_partial(), "{}", failed.status.message);
    assert_ne!(digests(&world.mesh().await.1), digests(&before));
    world.want_back(&name, true).await;
    world.run_until(&name, auto(), has_ended(Phase::RolledBack)).await;
    assert_eq!(digests(&world.mesh().await.1), digests(&before));
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_renewed_since_is_not_rolled_back() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.renew_by_hand().await;
    let theirs = world.serials().await;
    let etcd = world.generation("statefulsets", &format!("{MESH}-etcd")).await;
    world.want_back(&name, true).await;
    let refused = world.run_until(&name, auto(), |renewal| renewal.status.reason == "RollbackRefused").await.status;
    assert_eq!(refused.phase, Phase::Succeeded);
    assert!(refused.message.contains("somebody else has replaced the certificates"), "{}", refused.message);
    assert_eq!(world.serials().await, theirs);
    assert_eq!(world.generation("statefulsets", &format!("{MESH}-etcd")).await, etcd, "nothing was restarted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_restarts_once_for_three_renewals_at_once() {
    let world = World::of(3).await;
    let mut names = Vec::new();
    for number in 1..=3 {
        names.push(world.ask_for(&format!("expiring-{number}")).await);
    }
    let process = world.process("test", Policy { max_concurrent: 3, ..auto() });
    world.run_to_the_end(process).await;
    assert_eq!(world.generation("deployments", "mspider-mcpc-ckube-remote").await, 2, "once for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_written_is_known_before_anything_is_made() {
    for (right, status, reason, words) in [
        ("patch secrets", StatusCode::FORBIDDEN, "Forbidden", "meshcert may not patch secrets in istio-system"),
        (
            "patch deployments",
            StatusCode::FORBIDDEN,
            "Forbidden",
            "meshcert may not patch deployments.apps in istio-system",
        ),
        ("patch statefulsets", StatusCode::UNPROCESSABLE_ENTITY, "Rejected", "422"),
    ] {
        let mut world = World::new(None).await;
        *world.plan.broken.lock().unwrap() = Some((right, status));
        let name = world.ask().await;
        let refused = world.run_until(&name, auto(), has_ended(Phase::Refused)).await.status;
        assert_eq!(refused.reason, reason);
        assert!(refused.message.contains(words), "{right}: {}", refused.message);
        assert_eq!(world.api.copies(NAMESPACE, "meshcert.dev/backup").await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_does_not_take_in_the_middle_ends_the_attempt_and_is_told() {
    for (status, reason, words) in [
        (StatusCode::UNPROCESSABLE_ENTITY, "Rejected", "correct that"),
        (StatusCode::INTERNAL_SERVER_ERROR, "RestartStuck", "500"),
    ] {
        let mut world = World::new(None).await;
        let name = world.ask().await;
        world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Restarting).await;
        *world.plan.broken.lock().unwrap() = Some(("patch deployments", status));
        let impatient = Policy { restart_deadline: 3, ..auto() };
        let failed = world.run_until(&name, impatient, has_ended(Phase::Failed)).await.status;
        assert_eq!(failed.reason, reason, "{}", failed.message);
        assert!(failed.message.contains(words), "{}", failed.message);
        *world.plan.broken.lock().unwrap() = None;
        world.ask_again(&name).await;
        let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
        world.assert_renewed(&renewal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_failed_is_superseded_once_a_person_has_renewed_and_nobody_has_to_ask() {
    let staged = index_of("/secrets", BACKUPS).await;
    let mut world = World::new(Some((staged, Fault::Forbidden))).await;
    let name = world.ask().await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await.status;
    assert!(failed.before.is_some() && failed.next_attempt_at.is_some(), "{}", failed.message);
    world.renew_by_hand().await;
    let (mut acting, mut around) = world.acting("test", auto(), Connection::InCluster);
    (acting.timing.first_scan, acting.timing.scan) = (Duration::ZERO, Duration::from_millis(20));
    let sight = Sight { meshes: vec![Arc::new(world.mesh().await.0)], read: 1 };
    around.sights = Arc::new(move |_| sight.clone());
    let process = tokio::spawn(controller::run_on(Api::new(faults::client(&world.plan)), acting, around));
    let ended = async {
        loop {
            let renewal = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap();
            if has_ended(Phase::Superseded)(&renewal) {
                return renewal.status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let Status { reason, attempt, request_name, .. } = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    process.abort();
    assert_eq!((reason.as_str(), attempt), ("Replaced", 1));
    assert_eq!(request_name, name, "it is about the former ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_that_is_withdrawn_counts_until_the_first_write() {
    let mut world = World::new(None).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    let approve = Policy { mode: Mode::Approve, ..auto() };
    let waits = |renewal: &Renewal| renewal.status.phase == Phase::AwaitingApproval;
    let first = world.run_until(&name, approve.clone(), waits).await;
    world.agree(&first).await;
    world.run_until(&name, approve.clone(), |renewal| renewal.status.phase == Phase::Staging).await;
    world.api.change_renewal(NAMESPACE, &name, &json!({ "spec": { "approval": null } })).await.unwrap();
    let waiting = world.run_until(&name, approve.clone(), waits).await;
    assert_eq!(waiting.status.attempt, 2, "what was made counts no more");
    assert_eq!(digests(&world.mesh().await.1), digests(&before));
    world.agree(&first).await;
    let renewal = world.run_until(&name, approve, is_finished).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_while_the_job_works_takes_the_job_back_and_later_starts_another() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let works = |renewal: &Renewal| renewal.status.phase == Phase::Staging && renewal.status.job.is_some();
    let first = world.run_until(&name, by_job(), works).await.status.job.unwrap();
    let observe = Policy { mode: Mode::Observe, ..by_job() };
    let held = world.run_until(&name, observe, |renewal| renewal.status.reason == "ObserveOnly").await.status;
    assert_eq!((held.phase, held.attempt, held.job), (Phase::Pending, 2, None));
    let jobs = world.api.list::<Value>(&format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs")).await.unwrap();
    assert_eq!(jobs, Vec::<Value>::new());
    let renewal = world.run_until(&name, by_job(), is_finished).await;
    assert_ne!(renewal.status.job.as_ref().unwrap().name, first.name);
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_the_next_try_of_what_failed() {
    let staged = index_of("/secrets", BACKUPS).await;
    let mut world = World::new(Some((staged, Fault::Forbidden))).await;
    let name = world.ask().await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    world.api.pause(NAMESPACE, &format!("{MESH}-etcd-certs")).await.unwrap();
    world.api.write_status(&failed, &mk_due(&failed)).await.unwrap();
    let looked = |world: &World| world.plan.asked.lock().unwrap()["get certificaterenewals"];
    let before = looked(&world);
    let plan = Arc::clone(&world.plan);
    let often = move |_: &Renewal| plan.asked.lock().unwrap()["get certificaterenewals"] > before + 3;
    let held = world.run_until(&name, auto(), often).await.status;
    assert_eq!((held.phase, held.attempt), (Phase::Failed, 1));
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-etcd-certs");
    world.api.merge(&path, &json!({ "metadata": { "annotations": { "meshcert.dev/paused": null } } })).await.unwrap();
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_before_a_restart_does_not_take_a_drain_for_another_controller() {
    let istiod = format!("istiod-{MESH}-hosted");
    let restart = index_of(&format!("/deployments/{istiod}"), 0).await;
    let mut world = World::new(Some((restart, Fault::KilledBefore))).await;
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{istiod}");
    world.api.merge(&path, &json!({ "spec": { "replicas": 2 } })).await.unwrap();
    while world.get(&path).await["status"]["availableReplicas"] != 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = world.generation("deployments", &istiod).await;
    let name = world.ask().await;
    world.run_until_killed(auto()).await;
    // Pods have seconds as their age: the drained one's successor is newer than the commit.
    let committed = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap().status.committed_at.unwrap();
    while SystemClock.now() <= committed {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pods = world.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods")).await;
    let mut names = pods["items"].as_array().unwrap().iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    let drained = names.find(|name| name.starts_with(&istiod)).unwrap();
    world.api.delete(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{drained}"), None).await.unwrap();
    while world.get(&path).await["status"]["availableReplicas"] != 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!(renewal.status.phase, Phase::Succeeded, "{}", renewal.status.message);
    assert_eq!(world.generation("deployments", &istiod).await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_deleted_between_two_writes_ends_first_and_takes_no_copy_with_it() {
    let second = index_of(&format!("/secrets/{MESH}-kube-certs"), 0).await;
    let mut world = World::new(Some((second, Fault::KilledBefore))).await;
    let name = world.ask().await;
    world.run_until_killed(auto()).await;
    let path = format!("/apis/meshcert.dev/v1alpha1/namespaces/{NAMESPACE}/certificaterenewals/{name}");
    world.api.delete(&path, None).await.unwrap();
    assert!(world.renewals().await[0].deleting, "the finalizer holds it");
    world.run_until_gone().await;
    let (mesh, secrets) = world.mesh().await;
    assert_eq!(mesh.findings, []);
    assert!(mesh.expiration.is_some_and(|end| SystemClock.now().seconds_until(end) > 300 * DAY), "all of it is new");
    for leaf in mesh.leaves() {
        assert_eq!(native::own_key_matches(leaf, &secrets), Ok(true), "{}", leaf.key);
    }
    let stored = world.get(&format!("/api/v1/namespaces/{NAMESPACE}/secrets")).await;
    let backups = stored["items"].as_array().unwrap().iter().filter(|one| one["type"] == "meshcert.dev/backup");
    let owners: Vec<&Value> = backups.map(|one| &one["metadata"]["ownerReferences"]).collect();
    assert_eq!(owners, [&Value::Null; BACKUPS], "garbage collection takes none of them");
}
