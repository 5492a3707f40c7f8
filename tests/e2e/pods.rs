//! meshcert as pods from its chart: three roles with the rights of each, and no more.

use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::SanType;
use serde_json::json;

use crate::client::{Ca, Client};
use crate::cluster::{apply, figure, kubectl, notify, state, succeeded, until};
use crate::mesh::{Mesh, Shape};
use crate::support::daemon::Process;
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
    // kubectl would take what follows for an object's name: a subresource is asked for with --subresource.
    assert!(!resource.contains('/'), "{resource}");
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

/// A Secret as cert-manager writes it, for the pods of the release at these addresses; who trusts its CA.
fn make_tls(addresses: &[&str]) -> Client {
    let ca = Ca::new("e2e");
    let services = ["observe", "webhook"].map(|role| format!("meshcert-{role}.{NAMESPACE}.svc"));
    let names = services.iter().map(String::as_str).chain(["localhost"]);
    let mut names: Vec<SanType> = names.map(|name| SanType::DnsName(name.try_into().unwrap())).collect();
    names.extend(addresses.iter().map(|address| SanType::IpAddress(address.parse().unwrap())));
    let pair = ca.issue("meshcert", &names, 20);
    let data = json!({ "tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": ca.pem });
    let metadata = json!({ "name": "meshcert-tls", "namespace": NAMESPACE });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "stringData": data,
    });
    apply(&secret.to_string());
    Client::tls(&ca.pem, None)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the cluster of `make e2e`"]
async fn the_chart_renews_over_tls_with_three_roles_of_least_rights() {
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
    let start = Instant::now();
    install(&[]);
    let _release = Release;
    until(60, "the chart's pods are ready", || {
        let ready = ["observe", "webhook"].map(|role| {
            let deployment = format!("deployment/meshcert-{role}");
            kubectl(&["-n", NAMESPACE, "get", &deployment, "-o", "jsonpath={.status.readyReplicas}"])
        });
        (ready == ["1", "1"]).then_some(())
    });
    figure("chart installed, all pods ready (s)", &start.elapsed().as_secs().to_string());
    assert!(start.elapsed().as_secs() < 60, "the issue's limit");
    the_page_is_where_the_manual_forwards_it(&mesh).await;
    // Where there is no DNS, the webhook is told the address of those that know the meshes.
    let address = |role: &str| {
        let service = format!("meshcert-{role}");
        kubectl(&["-n", NAMESPACE, "get", "service", &service, "-o", "jsonpath={.spec.clusterIP}"])
    };
    let (observe, webhook) = (address("observe"), address("webhook"));
    let client = make_tls(&[&observe, &webhook]);
    let tls = format!(
        "tls.existingSecret=meshcert-tls,webhook.meshesFrom.url=https://{observe}:9794,webhook.meshesFrom.caSecret=meshcert-tls"
    );
    let tls = ["--set", &tls];
    install(&tls);
    let token = kubectl(&["-n", NAMESPACE, "get", "secret", "meshcert-webhook", "-o", "jsonpath={.data.token}"]);
    let token = String::from_utf8(STANDARD.decode(token).unwrap()).unwrap();
    let (webhook, id) = (format!("{webhook}:9795"), std::slice::from_ref(&mesh.id));
    let start = Instant::now();
    let answered = loop {
        if let Some(answer) = notify(&client, &webhook, &token, &mesh.namespace, id).await {
            break answer;
        }
        assert!(start.elapsed().as_secs() < 120, "the webhook takes the alert");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(answered.contains("asked for a renewal"), "{answered}");
    let observe = format!("{observe}:9794").parse().unwrap();
    assert!(Client::default().get(observe, "/metrics").await.is_err(), "nothing is said in the clear");
    let (status, text) = client.get(observe, "/metrics").await.unwrap();
    assert!(status == 200 && text.contains("meshcert_tls_certificate_not_after_timestamp_seconds"), "{text}");

    install(&[tls, ["--set", "act.enabled=true,policy.mode=auto"]].concat());
    for role in ["observe", "webhook", "act"] {
        kubectl(&["-n", NAMESPACE, "rollout", "status", &format!("deployment/meshcert-{role}"), "--timeout=120s"]);
    }
    rights_are_those_of_each_role(&mesh);
    let renewal = mesh.wait_for("Succeeded", 240);
    assert_eq!(mesh.kubectl(&["get", "crn", &renewal, "-o", "jsonpath={.spec.trigger}"]), "Alert");
    assert_eq!(mesh.status(&renewal, "attempt"), "1");
    mesh.prove();
    the_program_in_the_pods_answers(&mesh);
}

/// The arguments of the kubectl commands for the pods that the manual tells to type.
fn typed(command: &str, mesh: &Mesh) -> Vec<Vec<String>> {
    let lines = include_str!("../../docs/INSTALL.md").lines();
    let commands = lines.filter_map(|line| line.strip_prefix("$ kubectl ")).filter(|line| line.contains(command));
    commands.map(|line| line.replace("MESH_ID", &mesh.id).split(' ').map(str::to_owned).collect()).collect()
}

async fn the_page_is_where_the_manual_forwards_it(mesh: &Mesh) {
    let _forward = Process::start(&tools::kubectl(), &typed(" port-forward ", mesh).concat());
    let start = Instant::now();
    let shows = |page: &Result<(u16, String), String>| page.as_ref().is_ok_and(|(_, text)| text.contains(&mesh.id));
    while !shows(&Client::default().get("127.0.0.1:9794".parse().unwrap(), "/").await) {
        assert!(start.elapsed().as_secs() < 60, "the page shows the mesh");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Where nobody has the program at hand.
fn the_program_in_the_pods_answers(mesh: &Mesh) {
    let commands = typed(" exec ", mesh);
    let said: Vec<String> =
        commands.iter().map(|words| kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>())).collect();
    assert!(said.len() == 2 && said.iter().all(|one| one.contains(&mesh.id)), "{said:?}");
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
