//! The three roles as the chart sets them up, on a real API server: each process with the configuration that was rendered for it and a token of its account.
//! Nothing runs there, so a renewal comes as far as the restarts: past every right that it needs to read, ask, copy, replace and lock.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::daemon::{Demo, Process};
use support::helm::{CHART, Helm};
use support::http;
use support::real_api::RealApi;

const NAMESPACE: &str = "meshcert";
const MESHES: &str = "istio-system";
const PATIENCE: Duration = Duration::from_secs(180);

/// A role's process; its log in a file.
struct Role {
    address: String,
    log: PathBuf,
    _process: Process,
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Starts a role with the configuration of its ConfigMap, in which what only a pod has is exchanged for what is here.
fn start(api: &RealApi, role: &str, here: &[(&str, &str)]) -> Role {
    let name = format!("meshcert-{role}");
    let mut config =
        api.kubectl(&["get", "configmap", &name, "-n", NAMESPACE, "-o", r"jsonpath={.data.meshcert\.yaml}"]);
    for (there, here) in here {
        assert!(config.contains(there), "{config}");
        config = config.replace(there, here);
    }
    let file = api.folder.path().join(format!("{role}.yaml"));
    std::fs::write(&file, config).unwrap();
    let (address, log) = (free_address(), api.folder.path().join(format!("{role}.log")));
    let process = Command::new(env!("CARGO_BIN_EXE_meshcert"))
        .args(["serve", "--roles", role, "--listen", &address, "--config"])
        .arg(file)
        .arg("--kubeconfig")
        .arg(api.kubeconfig_of(NAMESPACE, &name))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let role = Role { address, log, _process: Process(process) };
    eventually(&name, || {
        TcpStream::connect(&role.address).is_ok() && http::request(&role.address, "GET", "/-/ready", "").status == 200
    });
    role
}

/// A mesh from the embedded cluster: its id, and its Secrets and workloads as a manifest.
fn mesh_of(demo: &Demo) -> (String, String) {
    let found = demo.kubectl(&["get", "secrets,deployments,statefulsets,services", "-n", MESHES, "-o", "json"]);
    let mut list: Value = serde_json::from_str(&found).unwrap();
    let items = list["items"].as_array_mut().unwrap();
    for item in items.iter_mut() {
        let name = item["metadata"]["name"].clone();
        item["metadata"] = json!({ "name": name, "namespace": MESHES, "labels": item["metadata"]["labels"] });
        item.as_object_mut().unwrap().remove("status");
        if item["kind"] == "Deployment" {
            // The embedded cluster is not so strict.
            item["spec"].as_object_mut().unwrap().remove("serviceName");
        }
    }
    let id = items
        .iter()
        .find_map(|item| item["metadata"]["name"].as_str()?.strip_suffix("-kube-certs"))
        .unwrap()
        .to_owned();
    (id, list.to_string())
}

fn notify(address: &str, token: &str, mesh: &str) -> String {
    let alert = json!({ "status": "firing", "labels": { "alertname": "MspiderHostedKubeAPICertExpiration", "mesh_cluster": "default", "mesh_namespace": MESHES, "mesh_id": mesh } });
    let body = json!({ "version": "4", "status": "firing", "receiver": "meshcert", "alerts": [alert] }).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /webhook HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_alert_becomes_new_certificates_with_no_right_beyond_those_of_the_chart() {
    let (Some(helm), Some(api)) = (Helm::find(), RealApi::start()) else { return };
    api.kubectl(&["create", "namespace", MESHES]);
    let demo = Demo::start(&["--api-only", "--scenario", "expiring", "--meshes", "1"]);
    let (mesh, manifest) = mesh_of(&demo);
    api.kubectl_with(&manifest, &["create"]);
    // No controller runs here that would say so.
    let works = r#"{"status":{"observedGeneration":1,"replicas":1,"readyReplicas":1,"updatedReplicas":1,"availableReplicas":1}}"#;
    for workload in api.kubectl(&["get", "deployments,statefulsets", "-n", MESHES, "-o", "name"]).lines() {
        api.kubectl(&["patch", workload, "-n", MESHES, "--subresource=status", "--type=merge", "-p", works]);
    }
    let installed = helm
        .command()
        .env("KUBECONFIG", &api.kubeconfig)
        .args(["install", "meshcert", CHART, "-n", NAMESPACE, "--create-namespace"])
        .args(["--set", "webhook.enabled=true,act.enabled=true,policy.mode=approve"])
        .output()
        .unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));

    let token = api.kubectl(&[
        "get",
        "secret",
        "meshcert-webhook",
        "-n",
        NAMESPACE,
        "-o",
        "go-template={{.data.token | base64decode}}",
    ]);
    let token_file = api.folder.path().join("token");
    std::fs::write(&token_file, &token).unwrap();
    let observe = start(&api, "observe", &[]);
    let hook = free_address();
    let told = format!("http://{}", observe.address);
    let here = [
        ("http://meshcert-observe.meshcert.svc:9794", told.as_str()),
        ("/etc/meshcert/webhook/token", token_file.to_str().unwrap()),
        ("0.0.0.0:9795", &hook),
    ];
    let webhook = start(&api, "webhook", &here);
    let act = start(&api, "act", &[]);

    let refused = notify(&hook, "guessed", &mesh);
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    eventually("the webhook takes the alert", || notify(&hook, &token, &mesh).starts_with("HTTP/1.1 200"));
    let phase =
        || api.kubectl(&["get", "certificaterenewals", "-n", MESHES, "-o", "jsonpath={.items[*].status.phase}"]);
    let logs = || [&observe, &webhook, &act].map(|role| std::fs::read_to_string(&role.log).unwrap()).concat();
    eventually("a plan waits for a person", || phase() == "AwaitingApproval");
    let digest = "jsonpath={.items[*].status.plan.digest}";
    let digest = api.kubectl(&["get", "certificaterenewals", "-n", MESHES, "-o", digest]);
    let approve = |file: &Path| {
        Command::new(env!("CARGO_BIN_EXE_meshcert"))
            .args(["approve", &mesh, "--digest", &digest, "--kubeconfig"])
            .arg(file)
            .output()
            .unwrap()
    };
    let by_webhook = approve(&api.kubeconfig_of(NAMESPACE, "meshcert-webhook"));
    assert!(!by_webhook.status.success(), "whoever may ask may not approve");
    let approved = approve(&api.kubeconfig);
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    eventually("the new certificates are in force, and their consumers restart", || phase() == "Restarting");

    let log = logs();
    let complaint = log.lines().find(|line| line.to_lowercase().contains("forbidden"));
    assert_eq!(complaint, None);
    for role in [&observe, &webhook] {
        let metrics = http::request(&role.address, "GET", "/metrics", "").body;
        let excess: Vec<&str> =
            metrics.lines().filter(|line| line.starts_with("meshcert_excess_permission{")).collect();
        assert!(!excess.is_empty() && excess.iter().all(|line| line.ends_with(" 0")), "{excess:?}");
    }
    let check = Command::new(env!("CARGO_BIN_EXE_meshcert"))
        .args(["uninstall", "check", "--kubeconfig"])
        .arg(&api.kubeconfig)
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(1), "{}", String::from_utf8_lossy(&check.stdout));
}
