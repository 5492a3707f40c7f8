//! The documented procedure, by hand with the real kubeadm, before and beside meshcert.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::cluster::{Daemon, figure, log, meshcert, state, succeeded};
use crate::mesh::{Mesh, Shape};
use crate::support::tools;

/// An admin whose Subject kubeadm keeps: that of a mesh that was made by kubeadm 1.29 or newer.
const OF_NEW_KUBEADM: Shape = Shape { admin: "admin", ..Shape::EXPIRING };

/// `meshcert runbook`, run as it is printed.
fn by_hand(mesh: &Mesh) -> Child {
    let script = succeeded(&meshcert(&mesh.namespace, &["runbook", &mesh.id]), "meshcert runbook");
    let folder = state().join(format!("{}-by-hand", mesh.namespace));
    std::fs::create_dir_all(&folder).unwrap();
    let path = std::env::var("PATH").unwrap();
    let out = std::fs::File::create(log(&format!("{}-by-hand.log", mesh.namespace))).unwrap();
    Command::new("bash")
        .args(["-c", &script])
        .current_dir(&folder)
        .env("PATH", format!("{}:{path}", tools::kubectl().parent().unwrap().display()))
        .env("KUBECONFIG", state().join("kubeconfig"))
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn the_documented_procedure_works_where_kubeadm_keeps_the_subject() {
    let mesh = Mesh::make("by-hand", OF_NEW_KUBEADM);
    let start = Instant::now();
    assert!(by_hand(&mesh).wait().unwrap().success(), "see {}", log("by-hand-by-hand.log").display());
    figure("documented procedure by a script that never pauses (s)", &start.elapsed().as_secs().to_string());
    mesh.prove();
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn certificates_that_a_person_made_at_the_same_moment_are_adopted() {
    let mesh = Mesh::make("beside", OF_NEW_KUBEADM);
    mesh.ask(false);
    let _meshcert = Daemon::start("beside", "mode: auto");
    // From here on meshcert's own certificates are stored, and the person replaces them, Secret by Secret.
    mesh.wait_for("Restarting", 120);
    assert!(by_hand(&mesh).wait().unwrap().success(), "see {}", log("beside-by-hand.log").display());
    let theirs = mesh.stored("apiserver-admin-kubeconfig", "config");
    let renewal = mesh.wait_for("Succeeded", 300);
    let steps = mesh.status(&renewal, "steps");
    assert!(steps.contains("somebody else's certificates are stored, and are good"), "{steps}");
    assert_eq!(mesh.stored("apiserver-admin-kubeconfig", "config"), theirs, "what the person made is kept");
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn the_subject_that_kubeadm_changes_locks_the_admin_out_and_meshcert_keeps_it() {
    let mesh = Mesh::make("subject", Shape::EXPIRING);
    let saved =
        mesh.kubectl(&["get", "secret", "hosted-demo-apiserver-admin-kubeconfig", "-o", "jsonpath={.data.config}"]);
    assert!(by_hand(&mesh).wait().unwrap().success(), "see {}", log("subject-by-hand.log").display());
    let error = String::from_utf8(mesh.hosted(&["get", "namespaces"]).stderr).unwrap();
    assert!(error.contains("Forbidden") && error.contains("kubernetes-admin"), "{error}");
    // As the runbook says: the saved kubeconfig goes back.
    let patch = format!(r#"{{"data":{{"config":"{saved}"}}}}"#);
    mesh.kubectl(&["patch", "secret", "hosted-demo-apiserver-admin-kubeconfig", "--type=merge", "-p", &patch]);
    mesh.ask(false);
    let _meshcert = Daemon::start("subject", "mode: auto");
    mesh.wait_for("Succeeded", 180);
    mesh.prove();
}
