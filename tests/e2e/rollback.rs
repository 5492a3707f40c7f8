//! What the server refuses is taken back.

use crate::cluster::{Daemon, figure};
use crate::harm::nothing_is_left_over;
use crate::mesh::{Mesh, Shape};

const SECRETS: [(&str, &str); 3] =
    [("kube-certs", "apiserver.crt"), ("etcd-certs", "server.crt"), ("apiserver-admin-kubeconfig", "config")];

/// From now on the hosted API takes the admin's certificate of today, and no other, whoever signed it.
fn pin_the_admin(mesh: &Mesh) {
    let certificate = mesh.admin_certificate();
    let pinned = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pinned.path(), certificate).unwrap();
    mesh.kubectl(&["create", "configmap", "pinned", &format!("--from-file=admin.crt={}", pinned.path().display())]);
    let api = format!("{}-hosted-apiserver", mesh.id);
    let arguments =
        mesh.kubectl(&["get", "deployment", &api, "-o", "jsonpath={.spec.template.spec.containers[0].args}"]);
    let arguments =
        arguments.replace("--client-ca-file=/etc/kubernetes/pki/ca.crt", "--client-ca-file=/etc/pinned/admin.crt");
    assert!(arguments.contains("/etc/pinned"), "{arguments}");
    let patch = format!(
        r#"{{"spec": {{"template": {{"spec": {{
            "volumes": [{{"name": "pinned", "configMap": {{"name": "pinned"}}}}],
            "containers": [{{"name": "kube-apiserver", "args": {arguments}, "volumeMounts": [{{"name": "pinned", "mountPath": "/etc/pinned"}}]}}]
        }}}}}}}}"#
    );
    mesh.kubectl(&["patch", "deployment", &api, "-p", &patch]);
    mesh.kubectl(&["rollout", "status", &format!("deployment/{api}"), "--timeout=60s"]);
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn new_certificates_that_the_server_refuses_are_taken_back_and_the_former_ones_proven() {
    let mesh = Mesh::make("refusing", Shape::EXPIRING);
    pin_the_admin(&mesh);
    mesh.prove();
    let stored = || SECRETS.map(|(secret, key)| mesh.stored(secret, key));
    let before = stored();
    // Not asked for by hand: what meshcert named after the certificates, it finds again afterwards, and does not begin anew.
    let start = std::time::Instant::now();
    let _meshcert = Daemon::start("refusing", "mode: auto, verifyDeadline: 10s");
    mesh.wait_for("Verifying", 120);
    let new = stored();
    for (before, new) in before.iter().zip(&new) {
        assert_ne!(before, new, "new certificates are in force");
    }
    assert_refused(&mesh);
    let renewal = mesh.wait_for("RolledBack", 240);
    figure(
        "refused by the server, from the start of meshcert to the proof of the former certificates (s)",
        &start.elapsed().as_secs().to_string(),
    );
    let steps = mesh.status(&renewal, "steps");
    assert!(steps.contains("the new certificates are refused") && steps.contains("401 Unauthorized"), "{steps}");
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    assert_eq!(stored(), before, "the former certificates are back");
    mesh.prove();
    nothing_is_left_over(&mesh);
    assert_eq!(
        mesh.kubectl(&["get", "crn", "-o", "name"]).lines().count(),
        1,
        "what was refused is not tried again at once"
    );
}

/// By kubectl, and not only in meshcert's words.
fn assert_refused(mesh: &Mesh) {
    let error = String::from_utf8(mesh.hosted(&["get", "namespaces"]).stderr).unwrap();
    assert!(error.contains("Unauthorized") || error.contains("must be logged in"), "{error}");
}
