//! Restarts among other controllers, with what is scaled away, and in the middle of which a person acts.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::connect::Connection;
use meshcert::cluster::lease::SLOT_PREFIX;
use meshcert::controller::{self, Surroundings};
use meshcert::mesh::MeshKey;
use meshcert::metrics::renewals::EndpointState;
use meshcert::policy::Policy;
use meshcert::ports::Clock;
use meshcert::renewal::{JobRecord, Phase, Renewal, Tier};
use meshcert::rollout::RESTARTED_AT;
use meshcert::time::{DAY, UnixTime};
use serde_json::{Value, json};
use world::{MESH, NAMESPACE, PATIENCE, World, auto, by_job, is_finished};

fn etcd() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd")
}

/// etcd's members from this one on are rolled.
fn partition(number: u32) -> Value {
    json!({ "spec": { "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": number } } } })
}

fn hosted_api() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{MESH}-hosted-apiserver")
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_another_controller_started_after_the_commit_are_not_restarted_again() {
    // Pods have seconds as their age.
    let mut world = World::of(1).await;
    let pod = format!("/api/v1/namespaces/{NAMESPACE}/pods/{MESH}-etcd-0");
    let api = Api::new(kube::Client::new(world.demo.router(), NAMESPACE));
    // Puts its own template back as soon as there is a pod of ours.
    let other = tokio::spawn(async move {
        let digest = "meshcert.dev/certificates-digest";
        loop {
            let ours = api.get::<Value>(&pod).await.unwrap().unwrap_or_default();
            if ours["metadata"]["annotations"][digest].is_string() {
                let theirs = json!({ "spec": { "template": { "metadata": { "annotations": { digest: null } } } } });
                api.merge(&etcd(), &theirs).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let name = world.ask().await;
    let renewal = world.run_until(&name, auto(), is_finished).await;
    other.abort();
    assert_eq!(renewal.status.phase, Phase::Succeeded, "{}", renewal.status.message);
    let template = world.get(&etcd()).await["spec"]["template"]["metadata"].to_string();
    assert!(!template.contains("meshcert.dev/certificates-digest"), "{template}");
    let written =
        world.plan.mutations.lock().unwrap().iter().filter(|one| **one == format!("PATCH {}", etcd())).count();
    assert_eq!(written, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_stepped_is_said_wherever_the_restart_ends() {
    for reason in ["Rejected", "ForeignOwner"] {
        let mut world = World::of(1).await;
        world.scale_etcd(3).await;
        let name = world.ask().await;
        let plan = Arc::clone(&world.plan);
        let begun = move |_: &Renewal| plan.mutations.lock().unwrap().contains(&format!("PATCH {}", etcd()));
        world.run_until(&name, auto(), begun).await;
        if reason == "Rejected" {
            *world.plan.broken.lock().unwrap() = Some(("patch statefulsets", StatusCode::UNPROCESSABLE_ENTITY));
        } else {
            let secret = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{MESH}-etcd-certs");
            world.api.merge(&secret, &json!({ "data": { "server.crt": "eA==" } })).await.unwrap();
        }
        let failed = world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Failed).await.status;
        assert_eq!(failed.reason, reason, "{}", failed.message);
        assert!(failed.message.contains("the partition of expiring-1-etcd stays at 3"), "{}", failed.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_tried_again_is_not_left_in_the_middle_when_it_is_deleted() {
    let mut world = World::new(None).await;
    // Somebody froze etcd.
    world.api.merge(&etcd(), &partition(5)).await.unwrap();
    let name = world.ask().await;
    world.insist(&name).await;
    let impatient = Policy { restart_deadline: 3, ..auto() };
    let failed = world.run_until(&name, impatient, is_finished).await;
    assert_eq!((failed.status.reason.as_str(), failed.finalizer), ("RestartStuck", false));
    let again = json!({ "spec": { "requestedAt": SystemClock.now() } });
    world.api.change_renewal(NAMESPACE, &name, &again).await.unwrap();
    let waits = |renewal: &Renewal| renewal.status.phase == Phase::Restarting && renewal.status.reason == "Restarting";
    world.run_until(&name, auto(), |renewal| waits(renewal) && renewal.status.message.contains("of 1 pods")).await;

    let path = format!("/apis/meshcert.dev/v1alpha1/namespaces/{NAMESPACE}/certificaterenewals/{name}");
    world.api.delete(&path, None).await.unwrap();
    assert!(world.renewals().await.iter().any(|renewal| renewal.deleting), "the finalizer holds it");
    world.api.merge(&etcd(), &partition(0)).await.unwrap();
    world.run_until_gone().await;
    let template = world.get(&hosted_api()).await["spec"]["template"]["metadata"].to_string();
    assert!(template.contains("meshcert.dev/certificates-digest"), "it went on to the end: {template}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_scaled_to_zero_is_left_alone_however_soon_it_ends() {
    let mut world = World::new(None).await;
    let before = world.serials().await;
    world.api.merge(&hosted_api(), &json!({ "spec": { "replicas": 0 } })).await.unwrap();
    let name = world.ask().await;
    let urgent = Policy { urgent_before: 300 * DAY, ..auto() };
    let refused = world.run_until(&name, urgent, is_finished).await.status;
    assert_eq!((refused.phase, refused.reason.as_str()), (Phase::Refused, "WorkloadUnready"), "{}", refused.message);
    assert!(refused.message.contains("expiring-1-hosted-apiserver is scaled to 0"), "{}", refused.message);
    assert_eq!(world.serials().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_with_a_shared_workload_too_is_left_to_others_once_the_own_ones_are_done() {
    let world = World::of(2).await;
    for number in 1..=2 {
        world.ask_for(&format!("expiring-{number}")).await;
    }
    let (mut acting, around) = world.acting("test", Policy { max_concurrent: 1, ..auto() }, Connection::InCluster);
    // What is shared comes first in it, and waits for the other mesh.
    let mut tier = acting.tiers.concat();
    tier.sort_by_key(|target| !target.shared);
    acting.tiers = vec![tier];
    world.run_to_the_end(controller::run_on(Api::new(faults::client(&world.plan)), acting, around)).await;
    assert_eq!(world.generation("deployments", "mspider-mcpc-ckube-remote").await, 2, "once for both");
    let mutations = world.plan.mutations.lock().unwrap();
    let moves = mutations.iter().filter(|mutation| mutation.contains(SLOT_PREFIX)).count();
    assert!((3..8).contains(&moves), "each takes the slot once and gives it back: {moves}");
}

#[tokio::test(flavor = "multi_thread")]
async fn proving_keeps_no_slot_from_others_where_nothing_is_shared() {
    let mut world = World::new(None).await;
    let shared = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/mspider-mcpc-ckube-remote");
    world.api.delete(&shared, None).await.unwrap();
    let name = world.ask().await;
    world.run_until(&name, auto(), |renewal| renewal.status.phase == Phase::Restarting).await;
    // So that it is not proven.
    world.api.merge(&hosted_api(), &json!({ "spec": { "replicas": 0 } })).await.unwrap();
    let proves = |renewal: &Renewal| renewal.status.message.contains("no pod of the hosted API is there");
    let proving = world.run_until(&name, auto(), proves).await;
    assert_eq!(proving.status.phase, Phase::Verifying);
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    let leases = world.api.list::<Value>(&leases).await.unwrap();
    let held = leases.iter().filter(|lease| lease["spec"]["holderIdentity"] == proving.uid.as_str());
    let names: Vec<&Value> = held.map(|lease| &lease["metadata"]["name"]).collect();
    assert_eq!(names, [&format!("meshcert-mesh-{MESH}")], "the lock alone");
}

/// A clock that is late by so many seconds.
#[derive(Debug)]
struct Late(i64);

impl Clock for Late {
    fn now(&self) -> UnixTime {
        SystemClock.now().plus(-self.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_proven_is_shown_before_endpoints_are_looked_at_again() {
    let world = World::of(1).await;
    let (acting, around) = world.acting("test", auto(), Connection::InCluster);
    let metrics = Arc::clone(&around.metrics);
    let name = world.ask().await;
    let process =
        tokio::spawn(controller::run_on(Api::new(kube::Client::new(world.demo.router(), NAMESPACE)), acting, around));
    let reaches = async |phase: Phase| {
        while world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap().status.phase < phase {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // What an earlier look showed: old certificates, at this mesh and at another one.
    reaches(Phase::Restarting).await;
    let stale = |mesh: &str| EndpointState {
        namespace: NAMESPACE.to_owned(),
        mesh: mesh.to_owned(),
        endpoint: "etcd-0:2379".to_owned(),
        not_after: None,
        stale: true,
    };
    metrics.endpoints(&"demo".into(), vec![stale(MESH), stale("expiring-2")]);
    reaches(Phase::Succeeded).await;
    let shown = |mesh: &str| {
        let key = MeshKey { namespace: NAMESPACE.into(), id: mesh.parse().unwrap() };
        metrics.served().of("demo", &key).unwrap().to_vec()
    };
    let learned = async {
        while shown(MESH).iter().any(|endpoint| endpoint.stale) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, learned).await.unwrap();
    process.abort();
    let (mesh, _) = world.mesh().await;
    assert_eq!(shown(MESH).len(), 3, "the hosted API, etcd's port for clients and that for peers");
    assert!(shown(MESH).iter().all(|endpoint| endpoint.not_after >= mesh.expiration));
    assert_eq!(shown("expiring-2"), [stale("expiring-2")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_restarts_once_where_the_clock_is_late() {
    let world = World::of(2).await;
    for number in 1..=2 {
        world.ask_for(&format!("expiring-{number}")).await;
    }
    // Only over HTTP the API server shows its clock; preflight allows four minutes.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, world.demo.kubeconfig()).unwrap();
    let policy = Policy { max_concurrent: 2, ..auto() };
    let (acting, around) = world.acting("test", policy, Connection::file(path, None));
    world.run_to_the_end(controller::run(acting, Surroundings { clock: Arc::new(Late(120)), ..around })).await;
    assert_eq!(world.generation("deployments", "mspider-mcpc-ckube-remote").await, 2, "once for both");
    // What else is on its way compares this with its own commit.
    let shared = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/mspider-mcpc-ckube-remote");
    let template = world.get(&shared).await["spec"]["template"]["metadata"]["annotations"].clone();
    let restarted_at = UnixTime::parse_rfc_3339(template[RESTARTED_AT].as_str().unwrap()).unwrap();
    assert!(restarted_at.seconds_until(SystemClock.now()) < 100, "{restarted_at}, by the API server's clock");
}

/// etcd gets three members that are replaced only when somebody deletes them, and of which none would start again.
async fn three_of_which_none_would_come_back(world: &World) {
    world.scale_etcd(3).await;
    let mut containers = world.get(&etcd()).await["spec"]["template"]["spec"]["containers"].clone();
    containers[0]["image"] = json!("registry.example/missing:1");
    let spec =
        json!({ "updateStrategy": { "type": "OnDelete" }, "template": { "spec": { "containers": containers } } });
    world.api.merge(&etcd(), &json!({ "spec": spec })).await.unwrap();
}

fn ended_members(plan: &faults::Plan) -> usize {
    let pods = format!("DELETE /api/v1/namespaces/{NAMESPACE}/pods/{MESH}-etcd-");
    plan.mutations.lock().unwrap().iter().filter(|mutation| mutation.starts_with(&pods)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_meshcert_cannot_ask_is_no_lost_quorum() {
    let lead_nowhere = json!({ "spec": { "ports": [
        { "name": "client", "port": 2379, "targetPort": 7998 },
        { "name": "peer", "port": 2380, "targetPort": 7999 },
    ] } });
    let nothing_to_show = json!({ "data": { "healthcheck-client.crt": null, "healthcheck-client.key": null } });
    for (object, change, words) in [
        (format!("services/{MESH}-etcd"), lead_nowhere, "ImagePullBackOff"),
        (format!("secrets/{MESH}-etcd-certs"), nothing_to_show, "ImagePullBackOff"),
    ] {
        let mut world = World::new(None).await;
        three_of_which_none_would_come_back(&world).await;
        world.api.merge(&format!("/api/v1/namespaces/{NAMESPACE}/{object}"), &change).await.unwrap();
        let name = world.ask().await;
        // With time left it would not even begin.
        let urgent = Policy { restart_deadline: 3, urgent_before: 300 * DAY, ..auto() };
        let stuck = world.run_until(&name, urgent, is_finished).await.status;
        assert_eq!((stuck.phase, stuck.reason.as_str()), (Phase::Failed, "RestartStuck"), "{}", stuck.message);
        assert!(stuck.message.contains(words), "{object}: {}", stuck.message);
        assert_eq!(ended_members(&world.plan), 1, "{object}");
        assert_eq!(world.get(&etcd()).await["status"]["availableReplicas"], 2, "{object}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_whose_certificates_have_ended_keep_no_quorum() {
    // Made by a clock that is late, they have ended by the right one.
    let mut world = World::at_the_time_of(Arc::new(Late(30 * DAY)), None).await;
    three_of_which_none_would_come_back(&world).await;
    let name = world.ask().await;
    let plan = Arc::clone(&world.plan);
    world.run_until(&name, auto(), move |_| ended_members(&plan) == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_another_workload_are_neither_counted_nor_ended() {
    let mut world = World::of(1).await;
    let mut another = world.get(&etcd()).await;
    another["metadata"] = json!({ "name": "another-etcd", "namespace": NAMESPACE });
    another.as_object_mut().unwrap().remove("status");
    world.api.create(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets"), &another).await.unwrap();
    let pod = format!("/api/v1/namespaces/{NAMESPACE}/pods/another-etcd-0");
    while world.get(&pod).await["status"]["phase"] != "Running" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = world.get(&pod).await["metadata"]["uid"].clone();
    let name = world.ask().await;
    let renewal = world.run_until(&name, Policy { restart_deadline: 20, ..auto() }, is_finished).await;
    assert_eq!(renewal.status.phase, Phase::Succeeded, "{}", renewal.status.message);
    assert_eq!(world.get(&pod).await["metadata"]["uid"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_somebody_holds_back_is_finished_first_while_there_is_time() {
    let istiod = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/istiod-{MESH}-hosted");
    let held = [
        (istiod, json!({ "spec": { "paused": true } }), "Deployment istiod-expiring-1-hosted is paused"),
        (etcd(), partition(5), "the partition 5 of StatefulSet expiring-1-etcd would keep pods from being replaced"),
    ];
    for (path, hold, words) in held {
        let mut world = World::new(None).await;
        let before = world.serials().await;
        world.api.merge(&path, &hold).await.unwrap();
        let name = world.ask().await;
        let refused = world.run_until(&name, auto(), is_finished).await.status;
        assert_eq!((refused.phase, refused.reason.as_str()), (Phase::Refused, "RolloutHeld"), "{}", refused.message);
        assert!(refused.message.contains(words) && refused.message.contains("--force"), "{}", refused.message);
        assert_eq!(world.serials().await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_could_start_in_time_is_started_by_who_comes_next() {
    let mut world = World::new(None).await;
    let name = world.ask().await;
    world.run_until(&name, by_job(), |renewal| renewal.status.job.is_some()).await;
    let renewal = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap();
    let mut status = renewal.status.clone();
    status.job = status.job.map(|job| JobRecord { asked_at: job.asked_at.plus(-3600), ..job });
    world.api.write_status(&renewal, &status).await.unwrap();
    let renewal = world.run_until(&name, by_job(), is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.attempt), (Phase::Succeeded, 1), "{}", renewal.status.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passed_while_nobody_was_there_is_nobodys_fault() {
    let mut world = World::new(None).await;
    // Somebody froze etcd; it dies waiting, and is away for an hour.
    world.api.merge(&etcd(), &partition(5)).await.unwrap();
    let name = world.ask().await;
    world.insist(&name).await;
    world.run_until(&name, auto(), |renewal| renewal.status.message.contains("of 1 pods")).await;
    let renewal = world.api.renewal(NAMESPACE, &name).await.unwrap().unwrap();
    let mut status = renewal.status.clone();
    let earlier = |since: UnixTime| since.plus(-3600);
    status.tier = status.tier.map(|tier| Tier { since: earlier(tier.since), ..tier });
    status.phase_since = status.phase_since.map(earlier);
    world.api.write_status(&renewal, &status).await.unwrap();
    let plan = Arc::clone(&world.plan);
    let looks = move || plan.asked.lock().unwrap().get("get statefulsets").copied().unwrap_or_default();
    let before = looks();
    let renewal = world.run_until(&name, auto(), move |_| looks() > before + 1).await;
    assert_eq!(renewal.status.phase, Phase::Restarting, "{}", renewal.status.message);
    world.api.merge(&etcd(), &partition(0)).await.unwrap();
    let renewal = world.run_until(&name, auto(), is_finished).await;
    assert_eq!((renewal.status.phase, renewal.status.attempt), (Phase::Succeeded, 1), "{}", renewal.status.message);
}
