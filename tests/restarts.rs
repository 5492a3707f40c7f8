//! Restarts among other controllers, with what is scaled away, and in the middle of which a person acts.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/world.rs"]
mod world;

use std::time::Duration;

use meshcert::cluster::api::Api;
use meshcert::renewal::Phase;
use serde_json::{Value, json};
use world::{MESH, NAMESPACE, World, auto, is_finished};

fn etcd() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{MESH}-etcd")
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
