//! The engine `job`: the real kubeadm in a pod makes the new certificates.

use std::time::Instant;

use crate::cluster::{Daemon, figure};
use crate::harm::once_each;
use crate::mesh::{Mesh, Shape};

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn what_kubeadm_made_in_a_job_is_proven() {
    let mesh = Mesh::make("job", Shape::EXPIRING);
    mesh.ask(false);
    let _meshcert = Daemon::start("job", "mode: auto, engine: job");
    let start = Instant::now();
    mesh.wait_for("Succeeded", 300);
    figure("engine job, from asking to proof (s)", &start.elapsed().as_secs().to_string());
    assert_eq!(mesh.status("asked", "attempt"), "1");
    assert_eq!(mesh.status("asked", "plan.engine"), "job", "{}", mesh.status("asked", "plan.engineReason"));
    mesh.prove();
    once_each(&mesh);
    assert_eq!(mesh.kubectl(&["get", "jobs", "-o", "name"]), "", "the Job is removed");
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn a_job_whose_image_is_not_there_fails_fast_and_touches_nothing() {
    let mesh = Mesh::make("no-image", Shape::EXPIRING);
    let secrets = || ["kube-certs", "etcd-certs", "apiserver-admin-kubeconfig"].map(|secret| mesh.version(secret));
    let before = secrets();
    mesh.ask(false);
    let _meshcert = Daemon::start("no-image", "mode: auto, engine: job, job: {image: \"meshcert.test/missing:1\"}");
    let start = Instant::now();
    mesh.wait_for("Failed", 120);
    figure("engine job without its image, from asking to failure (s)", &start.elapsed().as_secs().to_string());
    assert_eq!(mesh.status("asked", "reason"), "JobImage", "{}", mesh.status("asked", "message"));
    assert_eq!(secrets(), before, "nothing live was touched");
    mesh.prove();
}
