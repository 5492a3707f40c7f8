//! What becomes of a renewal whose way on or back is closed: it lets go of its mesh where nothing of it is in force, and writes nothing that helps nobody.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/world.rs"]
mod world;

use std::sync::Arc;

use faults::Fault;
use http::StatusCode;
use meshcert::clock::{ManualClock, SystemClock};
use meshcert::material::Material;
use meshcert::mesh::SecretRole;
use meshcert::policy::Policy;
use meshcert::ports::Clock;
use meshcert::renewal::{Intent, Phase, Renewal, Spec, Status, Trigger, name_for};
use meshcert::requests::{Asked, ask};
use meshcert::rollout::DIGEST_ANNOTATION;
use meshcert::time::DAY;
use world::{MESH, NAMESPACE, World, auto, digests, has_ended, index_of, is_finished, mk_due};

/// The same, after what was in force before has ended.
fn mk_late(failed: &Renewal) -> Status {
    let mut status = mk_due(failed);
    let mut plan = status.plan.unwrap();
    plan.leaves.iter_mut().for_each(|leaf| leaf.ends_at = SystemClock.now());
    status.plan = Some(plan);
    status
}

/// Somebody else writes entries of a live Secret.
async fn overwrite(world: &World, role: SecretRole, entries: &Material) {
    let (_, secrets) = world.mesh().await;
    let live = secrets[role as usize].as_ref().unwrap();
    world.api.write_entries(NAMESPACE, &live.name, &live.resource_version, entries).await.unwrap();
}

/// The index of the first mutation of a calm rollback that ends like this.
async fn index_back(mutation: &str) -> usize {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), is_finished).await;
    world.arm(None);
    world.want_back(&name, true).await;
    world.run_until(&name, auto(), has_ended(Phase::RolledBack)).await;
    world.nth_of(mutation, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_what_meshcert_made_too_restarts_what_hangs() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    let made = digests(&world.mesh().await.1);
    // What was just made is due again by this policy, and urgent, so that a rollout that hangs is no obstacle.
    let eager = Policy {
        renew_before: 400 * DAY,
        urgent_before: 400 * DAY,
        lifetime: 800 * DAY,
        restart_deadline: 2,
        ..auto()
    };
    let again = world.ask().await;
    world.hang_the_hosted_api().await;
    let stuck = world.run_until(&again, eager.clone(), has_ended(Phase::Failed)).await.status;
    assert_eq!(stuck.reason, "RestartStuck", "{}", stuck.message);
    world.want_back(&again, true).await;
    let turned = |renewal: &Renewal| renewal.status.rolling_back && is_finished(renewal);
    let back = world.run_until(&again, eager, turned).await.status;
    assert!(!back.message.contains("another controller"), "nobody rewrites a template: {}", back.message);
    assert_eq!(digests(&world.mesh().await.1), made);
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{MESH}-hosted-apiserver");
    let digest = world.get(&path).await["spec"]["template"]["metadata"]["annotations"][DIGEST_ANNOTATION].clone();
    assert_eq!(digest, back.before.unwrap().combined(), "it is asked to start with the former ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_waited_until_the_former_certificates_ended_writes_none_of_them() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    let (_, new) = world.mesh().await;
    *world.plan.withheld.lock().unwrap() = Some("patch secrets");
    world.want_back(&name, true).await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    *world.plan.withheld.lock().unwrap() = None;
    world.api.write_status(&failed, &mk_late(&failed)).await.unwrap();
    let tried = |renewal: &Renewal| renewal.status.attempt == 2 && is_finished(renewal);
    let refused = world.run_until(&name, auto(), tried).await.status;
    assert_eq!((refused.reason.as_str(), refused.next_attempt_at), ("RollbackRefused", None), "{}", refused.message);
    assert_eq!(digests(&world.mesh().await.1), digests(&new), "what has ended is not put back");
    world.assert_nothing_left_over().await;

    world.want_back(&name, false).await;
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_is_too_late_in_the_middle_leaves_the_mixture_to_a_new_renewal() {
    let second = index_back(&format!("/secrets/{MESH}-kube-certs")).await;
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.arm(Some((second, Fault::Forbidden)));
    world.want_back(&name, true).await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    assert!(failed.is_partial(), "{}", failed.status.message);
    let (_, mixture) = world.mesh().await;
    world.api.write_status(&failed, &mk_late(&failed)).await.unwrap();
    let tried = |renewal: &Renewal| renewal.status.attempt == 2 && is_finished(renewal);
    let refused = world.run_until(&name, auto(), tried).await;
    assert_eq!((refused.status.reason.as_str(), refused.is_partial()), ("RollbackRefused", false));
    assert_eq!(digests(&world.mesh().await.1), digests(&mixture));
    world.assert_nothing_left_over().await;

    let next = world.ask().await;
    world.run_until(&next, auto(), has_ended(Phase::Succeeded)).await;
    let (mesh, _) = world.mesh().await;
    assert!(mesh.expiration.is_some_and(|end| SystemClock.now().seconds_until(end) > 300 * DAY), "all of it is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_written_and_is_overwritten_by_others_lets_go_of_its_mesh() {
    let second = index_of(&format!("/secrets/{MESH}-kube-certs"), 0).await;
    let mut world = World::new(Some((second, Fault::KilledBefore))).await;
    let name = world.ask().await;
    world.run_until_killed(auto()).await;
    // A person makes new CAs, and then certificates under them.
    let other = World::new(None).await;
    other.renew_by_hand().await;
    let (_, theirs) = other.mesh().await;
    let material = |role: SecretRole| theirs[role as usize].as_ref().unwrap().material.clone();
    overwrite(&world, SecretRole::EtcdCerts, &material(SecretRole::EtcdCerts).fixed()).await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    assert_eq!((failed.status.reason.as_str(), failed.is_partial()), ("AuditFailed", true));
    world.ask_again(&name).await;
    let tried = |renewal: &Renewal| renewal.status.attempt == 2 && is_finished(renewal);
    let failed = world.run_until(&name, auto(), tried).await;
    assert!(failed.is_partial() && failed.finalizer, "what is left of it is in force: {}", failed.status.message);

    for role in SecretRole::ALL {
        overwrite(&world, role, &material(role)).await;
    }
    // Whatever a person asks for.
    world.want_back(&name, true).await;
    let ended = world.run_until(&name, auto(), has_ended(Phase::Superseded)).await;
    assert!(!ended.finalizer);
    world.assert_nothing_left_over().await;
    let (mesh, live) = world.mesh().await;
    assert_eq!(digests(&live), digests(&theirs));
    let next = match ask(&world.api, &mesh, Trigger::Manual).await.unwrap() {
        Asked::Created(name) => name,
        other => panic!("{other:?}"),
    };
    world.insist(&next).await;
    let is_stored = |renewal: &Renewal| renewal.status.phase == Phase::Restarting;
    world.run_until(&next, auto(), is_stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_without_backups_says_so_as_long_as_they_are_missing() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    for copy in world.api.copies(NAMESPACE, "meshcert.dev/backup").await.unwrap() {
        world.api.delete_copy(NAMESPACE, &copy.name).await.unwrap();
    }
    world.want_back(&name, true).await;
    let is_told = |renewal: &Renewal| is_finished(renewal) && renewal.status.phase != Phase::Succeeded;
    let failed = world.run_until(&name, auto(), is_told).await;
    world.api.write_status(&failed, &mk_due(&failed)).await.unwrap();
    let tried = |renewal: &Renewal| {
        is_told(renewal) && (renewal.status.attempt == 2 || renewal.status.phase == Phase::Superseded)
    };
    let Status { phase, reason, attempt, .. } = world.run_until(&name, auto(), tried).await.status;
    assert_eq!((phase, reason.as_str(), attempt), (Phase::Failed, "MaterialMissing", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_whose_secrets_are_deleted_keeps_no_slot_and_no_lock() {
    let second = index_of(&format!("/secrets/{MESH}-kube-certs"), 0).await;
    let mut world = World::of(2).await;
    world.arm(Some((second, Fault::KilledBefore)));
    let name = world.ask().await;
    world.run_until_killed(auto()).await;
    let other = world.ask_for("expiring-2").await;
    let secret = |role: &str| format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-{role}");
    world.api.delete(&secret("kube-certs"), None).await.unwrap();
    world.run_until(&other, auto(), |renewal| renewal.status.phase >= Phase::Restarting).await;
    let waiting = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap().status;
    assert_eq!((waiting.phase, waiting.reason.as_str()), (Phase::Committing, "SecretMissing"), "{}", waiting.message);

    world.api.delete(&secret("etcd-certs"), None).await.unwrap();
    world.api.delete(&secret("apiserver-admin-kubeconfig"), None).await.unwrap();
    let ended = world.run_until(&name, auto(), has_ended(Phase::Superseded)).await;
    assert!(!ended.finalizer, "neither the renewal nor its namespace is kept from going");
    world.run_until(&other, auto(), has_ended(Phase::Succeeded)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_its_way_back_is_renewed_once_the_former_certificates_have_ended() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let mut world = World::at_the_time_of(Arc::clone(&clock) as Arc<dyn Clock>, None).await;
    let name = world.ask().await;
    let policy = Policy { verify_deadline: 1, restart_deadline: 3, ..auto() };
    world.run_until(&name, policy.clone(), |renewal| renewal.status.phase == Phase::Restarting).await;
    // From now on the hosted API's clock is so late that what was made is not valid there yet.
    clock.set(SystemClock.now().plus(-900));
    let turned = world.run_until(&name, policy.clone(), |renewal| renewal.status.rolling_back).await;
    world.api.write_status(&turned, &Status { failures: 6, ..turned.status.clone() }).await.unwrap();
    *world.plan.broken.lock().unwrap() = Some(("patch statefulsets", StatusCode::INTERNAL_SERVER_ERROR));
    let stuck = world.run_until(&name, policy, has_ended(Phase::Failed)).await;
    assert_eq!(stuck.status.reason, "RestartStuck", "{}", stuck.status.message);
    let end = world.mesh().await.0.expiration;
    assert_eq!(stuck.status.next_attempt_at, end, "it was tried often enough, but not for ever");

    *world.plan.broken.lock().unwrap() = None;
    clock.set(SystemClock.now());
    world.api.write_status(&stuck, &mk_late(&stuck)).await.unwrap();
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    let (mesh, _) = world.mesh().await;
    assert!(mesh.expiration.is_some_and(|end| SystemClock.now().seconds_until(end) > 300 * DAY));
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_that_does_not_fit_any_more_leaves_nothing_behind() {
    let first = index_of(&format!("/secrets/{MESH}-etcd-certs"), 0).await;
    let mut world = World::new(Some((first, Fault::KilledBefore))).await;
    let before = world.serials().await;
    let name = world.ask().await;
    world.run_until_killed(auto()).await;
    let (_, theirs) = World::new(None).await.mesh().await;
    let cas = theirs[SecretRole::EtcdCerts as usize].as_ref().unwrap().material.fixed();
    overwrite(&world, SecretRole::EtcdCerts, &cas).await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    assert_eq!((failed.status.reason.as_str(), failed.is_partial()), ("AuditFailed", false));
    assert!(!failed.finalizer, "it can be deleted");
    assert_eq!(world.serials().await, before);
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_was_written_too_often_is_written_again_once_a_person_asks() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Restarting).await;
    *world.plan.broken.lock().unwrap() = Some(("patch deployments", StatusCode::INTERNAL_SERVER_ERROR));
    let impatient = Policy { restart_deadline: 3, ..auto() };
    let failed = world.run_until(&name, impatient, has_ended(Phase::Failed)).await;
    *world.plan.broken.lock().unwrap() = None;
    let istiod = Intent { name: format!("istiod-{MESH}-hosted"), resource_version: "1".to_owned(), times: 8 };
    let restarts = [&failed.status.restarts[..], &[istiod]].concat();
    world.api.write_status(&failed, &Status { restarts, ..failed.status.clone() }).await.unwrap();
    world.ask_again(&name).await;
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_that_is_refused_leaves_nothing_behind() {
    let first = index_of(&format!("/secrets/{MESH}-etcd-certs"), 0).await;
    let mut world = World::new(Some((first, Fault::Forbidden))).await;
    let (_, before) = world.mesh().await;
    let name = world.ask().await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    assert_eq!((failed.status.reason.as_str(), failed.is_partial()), ("Forbidden", false));
    assert!(!failed.finalizer, "it can be deleted");
    assert_eq!(digests(&world.mesh().await.1), digests(&before));
    world.assert_nothing_left_over().await;
    world.api.write_status(&failed, &mk_due(&failed)).await.unwrap();
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_is_taken_back_before_its_first_write_leaves_the_new_certificates() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    let (_, new) = world.mesh().await;
    *world.plan.withheld.lock().unwrap() = Some("patch secrets");
    world.want_back(&name, true).await;
    let failed = world.run_until(&name, auto(), has_ended(Phase::Failed)).await;
    assert!(!failed.is_partial(), "{}", failed.status.message);
    *world.plan.withheld.lock().unwrap() = None;
    world.want_back(&name, false).await;
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    assert_eq!(digests(&world.mesh().await.1), digests(&new));
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_hangs_and_is_taken_back_begins_anew() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    *world.plan.broken.lock().unwrap() = Some(("patch statefulsets", StatusCode::INTERNAL_SERVER_ERROR));
    world.want_back(&name, true).await;
    let impatient = Policy { restart_deadline: 3, ..auto() };
    let stuck = world.run_until(&name, impatient, has_ended(Phase::Failed)).await;
    assert_eq!(stuck.status.reason, "RestartStuck", "{}", stuck.status.message);
    *world.plan.broken.lock().unwrap() = None;
    world.want_back(&name, false).await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    let (mesh, _) = world.mesh().await;
    assert!(mesh.expiration.is_some_and(|end| SystemClock.now().seconds_until(end) > 300 * DAY));
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_hangs_until_the_former_certificates_have_ended_restarts_nothing_for_them() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    *world.plan.broken.lock().unwrap() = Some(("patch statefulsets", StatusCode::INTERNAL_SERVER_ERROR));
    world.want_back(&name, true).await;
    let impatient = Policy { restart_deadline: 3, ..auto() };
    let stuck = world.run_until(&name, impatient, has_ended(Phase::Failed)).await;
    *world.plan.broken.lock().unwrap() = None;
    let etcd = world.generation("statefulsets", &format!("{MESH}-etcd")).await;
    world.api.write_status(&stuck, &mk_late(&stuck)).await.unwrap();
    let refused = world.run_until(&name, auto(), |renewal| renewal.status.reason == "RollbackRefused").await.status;
    assert_eq!((refused.phase, refused.attempt), (Phase::Failed, stuck.status.attempt), "{}", refused.message);
    assert_eq!(world.generation("statefulsets", &format!("{MESH}-etcd")).await, etcd);

    world.want_back(&name, false).await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_of_what_never_began_is_refused_and_bars_nobody() {
    let mut world = World::new(None).await;
    let spec = Spec { mesh_id: MESH.to_owned(), rollback: true, ..Spec::default() };
    let (mesh, _) = world.mesh().await;
    let name = name_for(&mesh);
    assert!(world.api.create_renewal(NAMESPACE, &name, &spec).await.unwrap());
    let refused = world.run_until(&name, auto(), has_ended(Phase::Refused)).await;
    let Status { reason, message, next_attempt_at, .. } = &refused.status;
    assert_eq!((reason.as_str(), *next_attempt_at), ("RollbackRefused", None), "{message}");
    assert!(message.contains("this renewal has not begun") && refused.status.is_moot(), "{message}");
    // Whoever sees the certificates end asks as if it were not there.
    let next = world.ask().await;
    assert_eq!(next, format!("{name}-r2"));
    world.run_until(&next, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_before_the_first_write_costs_no_outage() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Staging).await;
    world.want_back(&name, true).await;
    let waiting = world.run_until(&name, auto(), |renewal| renewal.status.reason == "RollbackRefused").await.status;
    assert_eq!(waiting.phase, Phase::Pending, "{}", waiting.message);
    assert!(waiting.phase.is_held(&waiting.reason), "whoever forgets it is told");
    world.want_back(&name, false).await;
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}
