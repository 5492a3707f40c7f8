//! What becomes of a renewal that waits, and of what others want meanwhile: a person's consent, a slot, a lock, a right.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/world.rs"]
mod world;

use std::time::{Duration, Instant};

use faults::Fault;
use http::StatusCode;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use meshcert::cert::issue::KeyType;
use meshcert::clock::SystemClock;
use meshcert::cluster::lease::{LOCK_PREFIX, SLOT_PREFIX};
use meshcert::material::{Material, MeshSecrets};
use meshcert::mesh::SecretRole;
use meshcert::policy::{Mode, Policy, Window};
use meshcert::ports::Clock;
use meshcert::renewal::{Phase, Renewal, Spec, Status};
use meshcert::secret::PAUSED;
use meshcert::time::DAY;
use serde_json::json;
use world::{MESH, NAMESPACE, PATIENCE, World, auto, by_job, has_ended, is_finished};

fn waits_for(reason: &str) -> impl Fn(&Renewal) -> bool {
    move |renewal| renewal.status.reason == reason && !renewal.status.message.is_empty()
}

/// The same, waiting for an hour already.
fn mk_patient(renewal: &Renewal) -> Status {
    let status = renewal.status.clone();
    Status { phase_since: status.phase_since.map(|since| since.plus(-3600)), ..status }
}

fn versions(secrets: &MeshSecrets) -> [String; 3] {
    SecretRole::ALL.map(|role| secrets[role as usize].as_ref().unwrap().resource_version.clone())
}

/// Has a Lease be that of another mesh's renewal, which waits for a person.
async fn hold(world: &World, lease: &str) {
    let spec = Spec { mesh_id: "another".to_owned(), ..Spec::default() };
    assert!(world.api.create_renewal(NAMESPACE, "another", &spec).await.unwrap());
    let paused = json!({ "metadata": { "annotations": { PAUSED: "true" } } });
    world.api.change_renewal(NAMESPACE, "another", &paused).await.unwrap();
    let other = world.api.renewal(NAMESPACE, "another").await.unwrap().unwrap();
    give(world, lease, Some(&other.uid)).await;
}

async fn release(world: &World, lease: &str) {
    give(world, lease, None).await;
}

async fn give(world: &World, lease: &str, holder: Option<&str>) {
    let version = world.api.lease(NAMESPACE, lease).await.unwrap().map(|lease| lease.resource_version);
    world.api.hold_lease(NAMESPACE, lease, version.as_deref(), holder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_by_the_time_of_the_consent_is_mended_first() {
    let mut world = World::new(None).await;
    let before = versions(&world.mesh().await.1);
    let name = world.ask().await;
    let approve = Policy { mode: Mode::Approve, ..Policy::default() };
    let waiting = world.run_until(&name, approve.clone(), waits_for("AwaitingApproval")).await;
    world.api.write_status(&waiting, &mk_patient(&waiting)).await.unwrap();
    world.hang_the_hosted_api().await;
    world.agree(&waiting).await;
    let refused = world.run_until(&name, approve, has_ended(Phase::Refused)).await.status;
    assert_eq!(refused.reason, "WorkloadUnready", "{}", refused.message);
    assert_eq!(versions(&world.mesh().await.1), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_consent_to_the_same_plan_is_enough() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let approve = Policy { mode: Mode::Approve, ..Policy::default() };
    let waiting = world.run_until(&name, approve.clone(), waits_for("AwaitingApproval")).await;
    world.api.write_status(&waiting, &mk_patient(&waiting)).await.unwrap();
    world.agree(&waiting).await;
    let renewal = world.run_until(&name, approve, is_finished).await;
    world.assert_renewed(&renewal).await;
    let looked: Vec<_> = renewal.status.steps.iter().filter(|step| step.name == Phase::Preflight).collect();
    assert_eq!(looked.len(), 2, "{looked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_agrees_before_the_window_opens_and_is_not_asked_again() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let now = Timestamp::from_second(SystemClock.now().0).unwrap().to_zoned(TimeZone::UTC).time();
    let [start, end] = [2, 3].map(|hours: i64| now.wrapping_add(hours.hours()));
    let later = Window { days: Vec::new(), start, end, zone: TimeZone::UTC };
    let approve = Policy { mode: Mode::Approve, windows: vec![later], ..Policy::default() };
    let asks = |renewal: &Renewal| renewal.status.message.contains("once that is done: no maintenance window");
    let waiting = world.run_until(&name, approve.clone(), asks).await;
    let Status { reason, message, .. } = &waiting.status;
    assert!(reason == "AwaitingApproval" && message.contains("meshcert approve"), "{reason}: {message}");
    world.agree(&waiting).await;
    let agreed = world.run_until(&name, approve.clone(), waits_for("OutsideWindow")).await;
    assert_eq!(agreed.status.phase, Phase::Pending, "nobody is asked any more");
    let renewal = world.run_until(&name, Policy { windows: Vec::new(), ..approve }, is_finished).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_agreed_to_is_not_made_otherwise_where_the_policy_changes() {
    let mut world = World::new(None).await;
    hold(&world, &format!("{SLOT_PREFIX}0")).await;
    let name = world.ask().await;
    let approve = Policy { mode: Mode::Approve, ..Policy::default() };
    let waiting = world.run_until(&name, approve.clone(), waits_for("AwaitingApproval")).await;
    world.agree(&waiting).await;
    world.run_until(&name, approve.clone(), waits_for("NoSlot")).await;
    let other = Policy { key_type: Some(KeyType::EcdsaP384), ..approve };
    let asks = |renewal: &Renewal| renewal.status.message.starts_with("spec.approval is about another plan");
    let again = world.run_until(&name, other, asks).await.status;
    assert!(again.plan.unwrap().leaves.iter().all(|leaf| leaf.key_type == KeyType::EcdsaP384));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_there_is_not_is_named_with_its_secrets() {
    let mut world = World::new(None).await;
    let spec = Spec { mesh_id: "typo".to_owned(), ..Spec::default() };
    assert!(world.api.create_renewal(NAMESPACE, "mistyped", &spec).await.unwrap());
    let refused = world.run_until("mistyped", auto(), is_finished).await.status;
    assert_eq!((refused.phase, refused.reason.as_str()), (Phase::Refused, "NoSuchMesh"));
    assert!(refused.is_moot() && refused.next_attempt_at.is_none());
    for words in ["no hosted mesh typo", "typo-kube-certs", "typo-etcd-certs", "typo-apiserver-admin-kubeconfig"] {
        assert!(refused.message.contains(words), "{}", refused.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_waited_long_for_a_slot_looks_again_before_the_turn() {
    let mut world = World::new(None).await;
    let before = versions(&world.mesh().await.1);
    let slot = format!("{SLOT_PREFIX}0");
    hold(&world, &slot).await;
    let name = world.ask().await;
    let waiting = world.run_until(&name, auto(), waits_for("NoSlot")).await;
    world.api.write_status(&waiting, &mk_patient(&waiting)).await.unwrap();
    world.hang_the_hosted_api().await;
    release(&world, &slot).await;
    let refused = world.run_until(&name, auto(), has_ended(Phase::Refused)).await.status;
    assert_eq!(refused.reason, "WorkloadUnready", "{}", refused.message);
    assert_eq!(versions(&world.mesh().await.1), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cleaned_up_is_said_and_keeps_no_other_renewal_away() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    *world.plan.withheld.lock().unwrap() = Some("delete secrets");
    let proven = world.run_until(&name, auto(), |renewal| renewal.status.message.contains("not cleaned up yet")).await;
    let Status { phase, reason, message, .. } = &proven.status;
    assert_eq!((*phase, reason.as_str()), (Phase::Succeeded, "Succeeded"));
    assert!(
        message.starts_with("every endpoint serves the stored certificates") && message.contains("delete secrets"),
        "{message}"
    );

    let spec = Spec { mesh_id: MESH.to_owned(), ..Spec::default() };
    assert!(world.api.create_renewal(NAMESPACE, "another", &spec).await.unwrap());
    world.insist("another").await;
    let at_once = Policy { cooldown: 0, ..auto() };
    world.run_until("another", at_once.clone(), |renewal| renewal.status.phase == Phase::Succeeded).await;
    *world.plan.withheld.lock().unwrap() = None;
    let settled = world.run_until(&name, at_once, has_ended(Phase::Succeeded)).await;
    assert!(!settled.status.message.contains("not cleaned up yet"), "{}", settled.status.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_waits_for_another_renewals_lock() {
    let mut world = World::new(None).await;
    let before = world.serials().await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    let lock = format!("{LOCK_PREFIX}{MESH}");
    hold(&world, &lock).await;
    world.want_back(&name, true).await;
    world.run_until(&name, auto(), waits_for("Locked")).await;
    release(&world, &lock).await;
    world.run_until(&name, auto(), has_ended(Phase::RolledBack)).await;
    assert_eq!(world.serials().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_do_not_use_up_the_tries_of_a_failure() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let refused = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap();
    world.api.write_status(&refused, &Status { attempt: 10, ..Status::default() }).await.unwrap();
    *world.plan.withheld.lock().unwrap() = Some("create secrets");
    let failed = world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Failed).await.status;
    assert_eq!((failed.attempt, failed.failures), (10, 1));
    assert!(failed.next_attempt_at.is_some(), "{}", failed.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_due_is_renewed_once_the_policy_says_that_it_is() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let early = world.run_until(&name, Policy { renew_before: 60, ..auto() }, has_ended(Phase::Refused)).await.status;
    assert_eq!(early.reason, "NotDue");
    let renewal = world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_elsewhere_holds_a_mesh_until_a_person_insists() {
    let mut world = World::of(2).await;
    let failing = world.ask_for("expiring-2").await;
    *world.plan.withheld.lock().unwrap() = Some("create secrets");
    world.run_until(&failing, auto(), has_ended(Phase::Failed)).await;
    *world.plan.withheld.lock().unwrap() = None;
    let careful = Policy { stop_after_failures: 1, ..auto() };
    let before = versions(&world.mesh().await.1);
    let name = world.ask().await;
    let held = world.run_until(&name, careful.clone(), waits_for("BreakerOpen")).await;
    assert_eq!((held.status.phase, versions(&world.mesh().await.1)), (Phase::Pending, before));
    world.insist(&name).await;
    world.run_until(&name, careful, has_ended(Phase::Succeeded)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_is_not_renewed_again_before_its_cooldown_is_over() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, auto(), has_ended(Phase::Succeeded)).await;
    let before = versions(&world.mesh().await.1);
    // What was just made is due again by this policy.
    let eager = Policy { renew_before: 400 * DAY, lifetime: 800 * DAY, ..auto() };
    let again = world.ask().await;
    let held = world.run_until(&again, eager.clone(), waits_for("Cooldown")).await;
    assert_eq!((held.status.phase, versions(&world.mesh().await.1)), (Phase::Pending, before));
    world.run_until(&again, Policy { cooldown: 0, ..eager }, has_ended(Phase::Succeeded)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_differs_is_removed_by_a_person_and_it_goes_on() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    *world.plan.withheld.lock().unwrap() = Some("create jobs");
    world.run_until(&name, by_job(), has_ended(Phase::Failed)).await;
    *world.plan.withheld.lock().unwrap() = None;
    let (_, secrets) = world.mesh().await;
    let admin = secrets[SecretRole::AdminKubeconfig as usize].as_ref().unwrap();
    let moved = |(key, value): (&str, &[u8])| {
        let text = String::from_utf8(value.to_vec()).unwrap().replace("kind: Config", "kind:  Config");
        (key.to_owned(), text.into_bytes().into())
    };
    let moved: Material = admin.material.entries().map(moved).collect();
    world.api.write_entries(NAMESPACE, &admin.name, &admin.resource_version, &moved).await.unwrap();
    world.ask_again(&name).await;
    let differs = world
        .run_until(&name, by_job(), |renewal| renewal.status.reason == "BackupDiffers" && is_finished(renewal))
        .await;
    let backup = differs.status.message.split(' ').find(|word| word.contains("backup")).unwrap_or_default().to_owned();
    world.api.delete_copy(NAMESPACE, &backup).await.unwrap();
    world.ask_again(&name).await;
    let renewal = world.run_until(&name, by_job(), has_ended(Phase::Succeeded)).await;
    world.assert_renewed(&renewal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_begins_anew_leaves_no_finalizer_and_no_copies() {
    let mut calm = World::new(None).await;
    let name = calm.ask().await;
    calm.run_until(&name, auto(), is_finished).await;
    let finalizer = calm.nth_of(&format!("/certificaterenewals/{name}"), 0);

    let mut world = World::new(Some((finalizer, Fault::KilledAfter))).await;
    let name = world.ask().await;
    world.run_until_killed(auto()).await;
    let set = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap();
    assert!(set.finalizer && set.status.phase == Phase::Committing);
    world.api.pause(NAMESPACE, &format!("{MESH}-etcd-certs")).await.unwrap();
    let paused = world.run_until(&name, auto(), waits_for("Paused")).await;
    assert!(!paused.finalizer, "whoever deletes it has it deleted");
    world.assert_nothing_left_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_in_a_time_zone_of_his_own_is_understood() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    let approve = Policy { mode: Mode::Approve, ..Policy::default() };
    // As `date -Iseconds` writes it.
    let asked = json!({ "spec": { "requestedAt": "2026-11-28T20:00:00+08:00" } });
    world.api.change_renewal(NAMESPACE, &name, &asked).await.unwrap();
    let waiting = world.run_until(&name, approve.clone(), waits_for("AwaitingApproval")).await;
    assert_eq!(waiting.spec.requested_at.map(|moment| moment.to_string()).as_deref(), Some("2026-11-28T12:00:00Z"));
    world.agree(&waiting).await;
    world.run_until(&name, approve, has_ended(Phase::Succeeded)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_cannot_be_read_is_left_alone_and_keeps_nobody_else_waiting() {
    let mut world = World::of(2).await;
    let broken = world.ask_for("expiring-2").await;
    let approve = Policy { mode: Mode::Approve, ..Policy::default() };
    let waiting = world.run_until(&broken, approve, waits_for("AwaitingApproval")).await;
    let path = format!("/apis/meshcert.dev/v1alpha1/namespaces/{NAMESPACE}/certificaterenewals/{broken}");
    // What the definition lets through and no renewal has.
    let odd = json!({ "status": { "attempt": 1_u64 << 33 } });
    world.api.merge(&format!("{path}/status"), &odd).await.unwrap();
    let why = world.api.renewal(NAMESPACE, &broken).await.unwrap_err().message;
    assert!(why.contains(&broken) && why.contains("correct the object, or delete it"), "{why}");
    let version = async || world.get(&path).await["metadata"]["resourceVersion"].clone();
    let before = version().await;

    // What it holds is its own, for it may be at work; what nobody holds any more is free.
    let slot = format!("{SLOT_PREFIX}0");
    give(&world, &slot, Some(&waiting.uid)).await;
    give(&world, &format!("{LOCK_PREFIX}{MESH}"), Some("somebody-who-is-gone")).await;
    let name = world.ask().await;
    let process = tokio::spawn(world.process("test", Policy { max_concurrent: 1, ..auto() }));
    let comes_to = async |reason: &str| {
        let waiting = async {
            while world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap().status.reason != reason {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{reason}");
    };
    comes_to("NoSlot").await;
    release(&world, &slot).await;
    comes_to("Succeeded").await;
    process.abort();
    assert_eq!(version().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_lasts_is_no_reason_to_ask_all_the_time() {
    let mut world = World::new(None).await;
    // Each sign of life of the leader has it look again.
    (world.timing.busy, world.timing.lease) = (Duration::from_millis(200), Duration::from_secs(15));
    world.ask().await;
    let write = "update certificaterenewals/status";
    *world.plan.broken.lock().unwrap() = Some((write, StatusCode::CONFLICT));
    let process = tokio::spawn(world.process("test", auto()));
    let written = async |count: usize| {
        while world.plan.asked.lock().unwrap().get(write).is_none_or(|asked| *asked < count) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written(1)).await.unwrap();
    let first = Instant::now();
    tokio::time::timeout(PATIENCE, written(30)).await.unwrap();
    assert!(first.elapsed() >= 3 * world.timing.busy, "{:?}", first.elapsed());
    process.abort();
}
