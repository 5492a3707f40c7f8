//! meshcert as pods from its chart: three roles with the rights of each, and no more.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cluster::{kubectl, notify, state, succeeded, until};
use crate::mesh::{Mesh, Shape};
use crate::support::helm::{CHART, Helm};
use crate::support::tools;

const NAMESPACE: &str = "meshcert";

fn helm(arguments: &[&str]) -> String {
    let helm = Helm::find().unwrap();
    let output = helm.command().env("KUBECONFIG", state().join("kubeconfig")).args(arguments).output().unwrap();
    succeeded(&output, &format!("helm {arguments:?}"))
}

/// What kubectl answers to one of meshcert's accounts.
fn as_account(account: &str, arguments: &[&str]) -> String {
    let token = kubectl(&["-n", NAMESPACE, "create", "token", account]);
    let server = kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let output = Command::new(tools::kubectl())
        .args(["--kubeconfig", "/dev/null", "--insecure-skip-tls-verify", "--server", &server, "--token", token.trim()])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

fn may(account: &str, verb: &str, resource: &str, namespace: &str) -> bool {
    as_account(account, &["auth", "can-i", verb, resource, "-n", namespace]).trim() == "yes"
}

/// The release, which goes with the value.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            helm(&["uninstall", "meshcert", "-n", NAMESPACE, "--wait", "--timeout=2m"]);
            kubectl(&["delete", "namespace", NAMESPACE]);
        }
    }
}

#[test]
#[ignore = "needs the cluster of `make e2e`"]
fn the_chart_renews_with_three_roles_of_least_rights() {
    let mesh = Mesh::make("pods", Shape::EXPIRING);
    let sets = [
        "cluster.name=real",
        "cluster.namespaces={pods}",
        "image.repository=meshcert.test/meshcert",
        "image.tag=e2e",
        "observe.replicas=1",
        "webhook.enabled=true",
        "webhook.replicas=1",
        "act.replicas=1",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    // Other cases have applied the definition by hand.
    let install =
        ["upgrade", "--install", "--take-ownership", "meshcert", CHART, "-n", NAMESPACE, "--create-namespace"];
    let install = |more: &[&str]| helm(&[&install[..], &sets, more].concat());
    // Whoever acts would ask as soon as it has read the mesh; it is to be the alert, so nobody acts before.
    install(&[]);
    let _release = Release;
    // Where there is no DNS, the webhook is told the address of those that know the meshes.
    let address = kubectl(&["-n", NAMESPACE, "get", "service", "meshcert-observe", "-o", "jsonpath={.spec.clusterIP}"]);
    let observe = format!("webhook.meshesFrom.url=http://{address}:9794");
    let observe = ["--set", &observe];
    install(&observe);
    let token = kubectl(&["-n", NAMESPACE, "get", "secret", "meshcert-webhook", "-o", "jsonpath={.data.token}"]);
    let token = String::from_utf8(STANDARD.decode(token).unwrap()).unwrap();
    let webhook = kubectl(&["-n", NAMESPACE, "get", "service", "meshcert-webhook", "-o", "jsonpath={.spec.clusterIP}"]);
    let answered = until(120, "the webhook takes the alert", || {
        notify(&format!("{webhook}:9795"), &token, &mesh.namespace, std::slice::from_ref(&mesh.id))
    });
    assert!(answered.contains("asked for a renewal"), "{answered}");

    install(&[observe, ["--set", "act.enabled=true,policy.mode=auto"]].concat());
    for role in ["observe", "webhook", "act"] {
        kubectl(&["-n", NAMESPACE, "rollout", "status", &format!("deployment/meshcert-{role}"), "--timeout=120s"]);
    }
    rights_are_those_of_each_role(&mesh);
    let renewal = mesh.wait_for("Succeeded", 240);
    assert_eq!(mesh.kubectl(&["get", "crn", &renewal, "-o", "jsonpath={.spec.trigger}"]), "Alert");
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
}

fn rights_are_those_of_each_role(mesh: &Mesh) {
    for (account, verb, resource, expected) in [
        ("meshcert-observe", "list", "secrets", true),
        ("meshcert-observe", "patch", "secrets", false),
        ("meshcert-observe", "create", "certificaterenewals.meshcert.dev", false),
        ("meshcert-webhook", "get", "secrets", false),
        ("meshcert-webhook", "list", "secrets", false),
        ("meshcert-webhook", "create", "secrets", false),
        ("meshcert-webhook", "patch", "deployments.apps", false),
        ("meshcert-webhook", "patch", "certificaterenewals.meshcert.dev", false),
        ("meshcert-webhook", "create", "certificaterenewals.meshcert.dev", true),
        ("meshcert-act", "patch", "secrets", true),
        ("meshcert-act", "patch", "statefulsets.apps", true),
        ("meshcert-act", "create", "roles.rbac.authorization.k8s.io", false),
        ("meshcert-act", "create", "pods", false),
    ] {
        assert_eq!(may(account, verb, resource, &mesh.namespace), expected, "{account} {verb} {resource}");
        // Elsewhere nobody may do anything with Secrets.
        assert!(!may(account, verb, "secrets", "default"), "{account} {verb} secrets elsewhere");
    }
    // Tried, and not only asked.
    let secret = format!("{}-kube-certs", mesh.id);
    let read = as_account("meshcert-webhook", &["-n", &mesh.namespace, "get", "secret", &secret]);
    assert!(read.contains("Forbidden"), "{read}");
    let patch = [
        "-n",
        &mesh.namespace,
        "patch",
        "secret",
        &secret,
        "--type=merge",
        "-p",
        "{\"metadata\":{\"labels\":{\"a\":\"b\"}}}",
    ];
    for account in ["meshcert-webhook", "meshcert-observe"] {
        let written = as_account(account, &patch);
        assert!(written.contains("Forbidden"), "{account}: {written}");
    }
}
