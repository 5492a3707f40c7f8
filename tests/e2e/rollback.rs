//! What the server refuses is not stored, or is taken back.

use crate::cluster::{Daemon, figure};
use crate::harm::nothing_is_left_over;
use crate::mesh::{Mesh, Shape};

const SECRETS: [(&str, &str); 3] =
    [("kube-certs", "apiserver.crt"), ("etcd-certs", "server.crt"), ("apiserver-admin-kubeconfig", "config")];
/// Whom the hosted API takes: as long as it starts with this very certificate whoever its CA signed, else the pinned one alone.
const CHOOSES: &str = r#"
    clients=/etc/pinned/admin.crt
    [[ $(</etc/kubernetes/pki/apiserver.crt) != "$(cat /etc/pinned/apiserver.crt)" ]] || clients=/etc/kubernetes/pki/ca.crt
    cat "$clients" >/etc/clients/ca.crt
"#;

/// When the hosted API begins to take the admin's certificate of today, and no other, whoever signed it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pinned {
    /// From now on.
    Now,
    /// With the first process that has another certificate of its own.
    WithTheNext,
}

fn pin_the_admin(mesh: &Mesh, since: Pinned) {
    let spared = if since == Pinned::Now { String::new() } else { mesh.stored("kube-certs", "apiserver.crt") };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("admin.crt"), mesh.admin_certificate()).unwrap();
    std::fs::write(folder.path().join("apiserver.crt"), spared).unwrap();
    mesh.kubectl(&["create", "configmap", "pinned", &format!("--from-file={}", folder.path().display())]);
    let api = format!("{}-hosted-apiserver", mesh.id);
    let first = |deployment: &str, field: &str| {
        let path = format!("jsonpath={{.spec.template.spec.containers[0].{field}}}");
        mesh.kubectl(&["get", "deployment", deployment, "-o", &path])
    };
    let arguments = first(&api, "args")
        .replace("--client-ca-file=/etc/kubernetes/pki/ca.crt", "--client-ca-file=/etc/clients/ca.crt");
    assert!(arguments.contains("/etc/clients"), "{arguments}");
    let arguments: serde_json::Value = serde_json::from_str(&arguments).unwrap();
    let mount = |name: &str, path: &str| serde_json::json!({ "name": name, "mountPath": path });
    let clients = mount("clients", "/etc/clients");
    // The stand-in for istiod runs where there is a shell.
    let chooses = serde_json::json!({
        "name": "chooses", "image": first(&format!("istiod-{}-hosted", mesh.id), "image"), "command": ["bash", "-ec", CHOOSES],
        "volumeMounts": [clients, mount("pinned", "/etc/pinned"), mount("kube-certs", "/etc/kubernetes/pki")],
    });
    let patch = serde_json::json!({ "spec": { "template": { "spec": {
        "volumes": [{ "name": "pinned", "configMap": { "name": "pinned" } }, { "name": "clients", "emptyDir": {} }],
        "initContainers": [chooses],
        "containers": [{ "name": "kube-apiserver", "args": arguments, "volumeMounts": [clients] }],
    } } } });
    mesh.kubectl(&["patch", "deployment", &api, "-p", &patch.to_string()]);
    mesh.kubectl(&["rollout", "status", &format!("deployment/{api}"), "--timeout=60s"]);
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn a_login_that_the_server_refuses_ends_it_with_nothing_touched() {
    let mesh = Mesh::make("refusing-at-once", Shape::EXPIRING);
    pin_the_admin(&mesh, Pinned::Now);
    mesh.prove();
    let versions = || SECRETS.map(|(secret, _)| mesh.version(secret));
    let (before, rollouts) = (versions(), mesh.rollouts());
    let start = std::time::Instant::now();
    let _meshcert = Daemon::start("refusing-at-once", "mode: auto");
    let renewal = mesh.wait_for("Failed", 120);
    figure("refused at the login before the first write (s)", &start.elapsed().as_secs().to_string());
    let message = mesh.status(&renewal, "message");
    assert_eq!(mesh.status(&renewal, "reason"), "LoginRefused", "{message}");
    assert!(message.contains("401 Unauthorized") && message.contains("--client-ca-file"), "{message}");
    assert_eq!(versions(), before, "no live Secret was written");
    assert_eq!(mesh.rollouts(), rollouts, "nothing was restarted");
    mesh.prove();
    nothing_is_left_over(&mesh);
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn new_certificates_that_the_server_refuses_are_taken_back_and_the_former_ones_proven() {
    let mesh = Mesh::make("refusing", Shape::EXPIRING);
    pin_the_admin(&mesh, Pinned::WithTheNext);
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
