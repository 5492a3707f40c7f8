//! How long the hosted API cannot be used during a renewal, by a client that asks ten times a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use crate::cluster::{Daemon, figure, requests};
use crate::mesh::{Mesh, Shape};

/// Asks ten times a second, each time on a new connection, until told to stop; when each question was asked, and whether it was answered.
async fn poll(mesh: &Mesh, stop: Arc<AtomicBool>) -> Vec<(Duration, bool)> {
    let mut admin = Kubeconfig::read_from(mesh.admin()).unwrap();
    let server = admin.clusters[0].cluster.as_mut().unwrap();
    server.server = Some(format!("https://{}", mesh.api_address()));
    server.tls_server_name = Some(format!("{}-hosted-apiserver", mesh.id));
    let config = Config::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await.unwrap();
    let (answers, start) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let mut questions = tokio::task::JoinSet::new();
    let mut clock = tokio::time::interval(Duration::from_millis(100));
    while !stop.load(Ordering::Relaxed) {
        clock.tick().await;
        let (config, answers, asked) = (config.clone(), Arc::clone(&answers), start.elapsed());
        questions.spawn(async move {
            // A client of its own has a connection of its own.
            let client = kube::Client::try_from(config).unwrap();
            let question = Request::get("/api/v1/namespaces/default").body(Body::empty()).unwrap();
            let answer = tokio::time::timeout(Duration::from_secs(5), client.send(question)).await;
            let fine = matches!(answer, Ok(Ok(answer)) if answer.status() == StatusCode::OK);
            answers.lock().unwrap().push((asked, fine));
        });
    }
    questions.join_all().await;
    let mut answers = answers.lock().unwrap().clone();
    answers.sort_unstable();
    answers
}

/// The stretches in which no question was answered, in seconds from the first one that was not to the next one that was.
fn outages(answers: &[(Duration, bool)]) -> Vec<f64> {
    let mut found = Vec::new();
    let mut since = None;
    for (asked, fine) in answers {
        match (since, fine) {
            (None, false) => since = Some(*asked),
            (Some(begun), true) => {
                found.push((*asked - begun).as_secs_f64());
                since = None;
            }
            _ => {}
        }
    }
    assert!(since.is_none(), "it is answered again in the end");
    found
}

async fn measured(namespace: &'static str, shape: Shape) {
    let mesh = Arc::new(Mesh::make(namespace, shape));
    let stop = Arc::new(AtomicBool::new(false));
    let polling = {
        let (mesh, stop) = (Arc::clone(&mesh), Arc::clone(&stop));
        tokio::spawn(async move { poll(&mesh, stop).await })
    };
    let asking = Arc::clone(&mesh);
    let seconds = tokio::task::spawn_blocking(move || {
        asking.ask(false);
        let _meshcert = Daemon::start(namespace, "mode: auto");
        let start = Instant::now();
        let renewal = asking.wait_for("Succeeded", 300);
        assert_eq!(asking.status(&renewal, "attempt"), "1");
        start.elapsed().as_secs()
    });
    let seconds = seconds.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let answers = polling.await.unwrap();
    let outages = outages(&answers);
    let failed = answers.iter().filter(|(_, fine)| !fine).count();
    let stretches: Vec<String> = outages.iter().map(|seconds| format!("{seconds:.1}")).collect();
    let (asked, refused) = requests(&format!("system:serviceaccount:{namespace}:meshcert"));
    figure(
        &format!("{} with {} members", shape.kind, shape.members),
        &format!(
            "renewed in {seconds} s; {failed} of {} questions not answered, in stretches of [{}] s; {asked} requests to the control plane's API",
            answers.len(),
            stretches.join(", ")
        ),
    );
    assert_eq!(refused, 0, "the rights that docs/OPERATIONS.md lists are enough");
    let shown = Arc::clone(&mesh);
    tokio::task::spawn_blocking(move || shown.prove()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the cluster of `make e2e`"]
async fn the_outage_of_a_deployment_is_measured() {
    measured("outage-deployment", Shape::EXPIRING).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the cluster of `make e2e`"]
async fn the_outage_of_a_stateful_set_is_measured() {
    measured("outage-statefulset", Shape { members: 3, kind: "StatefulSet", ..Shape::EXPIRING }).await;
}
