//! What is expiring or over is renewed and proven, whatever the mesh consists of and whoever has to agree.

use std::time::Instant;

use crate::cluster::{Daemon, figure};
use crate::mesh::{Mesh, Shape};

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn a_mesh_whose_certificates_are_over_is_healed() {
    let mesh = Mesh::make("expired", Shape { validity: "1m", ..Shape::EXPIRING });
    let ended = || !mesh.hosted(&["get", "namespaces"]).status.success();
    crate::cluster::until(90, "its certificates are over", || ended().then_some(()));
    let error = String::from_utf8(mesh.hosted(&["get", "namespaces"]).stderr).unwrap();
    assert!(error.contains("certificate has expired"), "{error}");
    let start = Instant::now();
    let _meshcert = Daemon::start("expired", "mode: auto");
    let renewal = mesh.wait_for("Succeeded", 180);
    figure("expired mesh, from the start of meshcert to proof (s)", &start.elapsed().as_secs().to_string());
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn three_members_and_a_stateful_api_server_are_restarted_in_order() {
    let mesh = Mesh::make("three", Shape { members: 3, kind: "StatefulSet", ..Shape::EXPIRING });
    mesh.ask(false);
    let _meshcert = Daemon::start("three", "mode: auto");
    let start = Instant::now();
    let renewal = mesh.wait_for("Succeeded", 300);
    figure("three members, StatefulSet, from asking to proof (s)", &start.elapsed().as_secs().to_string());
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
    let expected = [2, 2, 2, 2, 1];
    assert_eq!(mesh.rollouts().iter().map(|(_, count)| *count).collect::<Vec<_>>(), expected, "{:?}", mesh.rollouts());
    let partition = "jsonpath={.spec.updateStrategy.rollingUpdate.partition}";
    let partition = mesh.kubectl(&["get", "statefulset", "hosted-demo-etcd", "-o", partition]);
    assert!(partition.is_empty() || partition == "0", "what was before is restored: {partition}");
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn a_person_agrees_with_kubectl_alone() {
    let mesh = Mesh::make("approve", Shape::EXPIRING);
    let before = mesh.stored("kube-certs", "apiserver.crt");
    mesh.ask(false);
    let _meshcert = Daemon::start("approve", "mode: approve");
    mesh.wait_for("AwaitingApproval", 30);
    let digest = mesh.status("asked", "plan.digest");
    let patch = format!(r#"{{"spec":{{"approval":{{"planDigest":"sha256:{}"}}}}}}"#, "0".repeat(64));
    mesh.kubectl(&["patch", "crn", "asked", "--type=merge", "-p", &patch]);
    crate::cluster::until(30, "another plan's consent is seen", || {
        let seen = mesh.status("asked", "observedGeneration");
        (seen == mesh.kubectl(&["get", "crn", "asked", "-o", "jsonpath={.metadata.generation}"])).then_some(())
    });
    assert_eq!(mesh.status("asked", "phase"), "AwaitingApproval");
    assert_eq!(mesh.stored("kube-certs", "apiserver.crt"), before, "nothing is touched without consent");
    let patch = format!(r#"{{"spec":{{"approval":{{"planDigest":"{digest}"}}}}}}"#);
    mesh.kubectl(&["patch", "crn", "asked", "--type=merge", "-p", &patch]);
    mesh.wait_for("Succeeded", 180);
    mesh.prove();
}
