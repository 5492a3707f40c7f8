//! Whatever happens in the middle, the renewal comes to its one end.

use rand::RngExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cluster::{Daemon, figure, kubectl, meshcert, state, succeeded, until};
use crate::mesh::{Mesh, Shape};
use crate::support::tools;

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn a_daemon_that_is_killed_ten_times_converges() {
    let policy = "mode: auto";
    let mesh = Mesh::make("killed", Shape::EXPIRING);
    mesh.ask(false);
    let mut meshcert = Daemon::start("killed", policy);
    let mut kills = Vec::new();
    for _ in 0..10 {
        // Another one leads only once the Lease of the killed one has run out; then it is let work for a while.
        let leads = |answer: String| answer.contains("meshcert_leader{mesh_cluster=\"real\"} 1").then_some(());
        until(60, "it leads", || meshcert.get("/metrics").and_then(leads));
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..1_000)));
        let phase = mesh.kubectl(&["get", "crn", "-o", "jsonpath={.items[*].status.phase}"]);
        kills.push(if phase.is_empty() { "-".to_owned() } else { phase });
        meshcert = meshcert.kill_and_replace(policy);
    }
    figure("killed in the phases", &kills.join(", "));
    let renewal = mesh.wait_for("Succeeded", 240);
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
    once_each(&mesh);
    nothing_is_left_over(&mesh);
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn an_api_server_that_is_killed_in_the_middle_changes_nothing() {
    let mesh = Mesh::make("restarted", Shape::EXPIRING);
    mesh.ask(false);
    let _meshcert = Daemon::start("restarted", "mode: auto");
    mesh.wait_for("Restarting", 120);
    let pid = std::fs::read_to_string(state().join("run/kube-apiserver.pid")).unwrap();
    assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
    let renewal = mesh.wait_for("Succeeded", 240);
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
    once_each(&mesh);
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn a_rollout_that_is_stuck_halts_with_the_new_certificates_kept() {
    let mesh = Mesh::make("stuck", Shape::EXPIRING);
    let before = mesh.stored("kube-certs", "apiserver.crt");
    // The running pod keeps it; the next one does not find it.
    containerd(&["images", "rm", "meshcert.test/kube-apiserver:1"]);
    mesh.ask(false);
    let _meshcert = Daemon::start("stuck", "mode: auto, restartDeadline: 30s");
    let renewal = mesh.wait_for("Failed", 180);
    assert_eq!(mesh.status(&renewal, "reason"), "RestartStuck");
    let message = mesh.status(&renewal, "message");
    assert!(message.contains("Pull"), "it says why: {message}");
    assert_ne!(mesh.stored("kube-certs", "apiserver.crt"), before, "the new certificates are kept");
    succeeded(&mesh.hosted(&["get", "namespaces"]), "the former pod goes on serving");
    let istiod = mesh.rollouts()[2].1;
    assert_eq!(istiod, 1, "nothing behind the stuck tier is restarted");
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/images/kube-apiserver.tar");
    containerd(&["images", "import", "--local=true", &archive.display().to_string()]);
    // A person asks again.
    succeeded(&meshcert("stuck", &["renew", &mesh.id]), "meshcert renew");
    assert_eq!(mesh.wait_for("Succeeded", 180), renewal, "the same one comes to its end");
    mesh.prove();
}

/// What the node's containerd knows as its kubelet's.
fn containerd(arguments: &[&str]) {
    let mut command = Command::new(tools::built("ctr").unwrap());
    let output = command.args(["--namespace", "k8s.io"]).args(arguments).output().unwrap();
    succeeded(&output, &format!("ctr {arguments:?}"));
}

/// Each workload of the mesh was restarted exactly once, and what belongs to something else never.
pub fn once_each(mesh: &Mesh) {
    let rollouts = mesh.rollouts();
    assert_eq!(rollouts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 2, 2, 2, 1], "{rollouts:?}");
}

/// No staged copy, no lock and no finalizer.
pub fn nothing_is_left_over(mesh: &Mesh) {
    until(60, "what was taken is given back", || {
        let staged = mesh.kubectl(&["get", "secrets", "--field-selector", "type=meshcert.dev/staged", "-o", "name"]);
        let holders = "jsonpath={.items[?(@.metadata.name!=\"meshcert-leader\")].spec.holderIdentity}";
        let holders = mesh.kubectl(&["get", "leases", "-o", holders]);
        let finalizers =
            kubectl(&["-n", &mesh.namespace, "get", "crn", "-o", "jsonpath={.items[*].metadata.finalizers}"]);
        (staged.is_empty() && holders.trim().is_empty() && finalizers.is_empty()).then_some(())
    });
}
