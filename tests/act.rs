//! From an alert to renewed and proven, by the real kubectl, by HTTP and by the commands, on `meshcert demo`.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/client.rs"]
mod client;
#[path = "support/served.rs"]
mod served;
#[path = "support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use client::Client;
use meshcert::app::acting::Roles;
use meshcert::demo::Scenario;
use meshcert::renewal::{Phase, Renewal, Spec};
use serde_json::json;
use served::{Cluster, Served, eventually};
use support::daemon::{Demo, Process};
use support::prometheus::free_address;
use support::{http, tools};
use tower::ServiceExt;

const TOKEN: &str = "t0p-s3cret-t0ken";

/// Status code and body of a POST to the webhook.
fn post(demo: &Demo, authorization: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(&demo.address).unwrap();
    let head = format!(
        "POST /webhook HTTP/1.1\r\nHost: {}\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        demo.address,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
    (status, answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
}

fn is_ready(demo: &Demo) -> bool {
    let mut stream = TcpStream::connect(&demo.address).unwrap();
    write!(stream, "GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200")
}

fn notification(alert: &str, mesh: &str) -> String {
    format!(
        r#"{{"version":"4","status":"firing","receiver":"r","alerts":[{{"status":"firing","labels":{{"alertname":"{alert}","mesh_cluster":"demo","mesh_namespace":"istio-system","mesh_id":"{mesh}"}}}}]}}"#
    )
}

fn meshcert(demo: &Demo, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshcert"))
        .args(arguments)
        .arg("--kubeconfig")
        .arg(&demo.kubeconfig)
        .output()
        .unwrap()
}

/// What a command prints; it must succeed.
fn printed(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// That of the only renewal's plan.
fn waiting_digest(demo: &Demo) -> String {
    demo.kubectl(&["get", "crn", "-o", "jsonpath={.items[0].status.plan.digest}"])
}

fn wait_for(demo: &Demo, phase: &str) {
    demo.kubectl(&["wait", "crn", "--all", &format!("--for=jsonpath={{.status.phase}}={phase}"), "--timeout=120s"]);
}

#[test]
fn the_demo_goes_from_alert_to_proof() {
    let demo = Demo::start(&["--mode", "auto", "--scenario", "mixed", "--webhook-token", TOKEN]);
    let expired = "hosted-expired";
    loop {
        if demo.kubectl(&["get", "crn", "-o", "name"]).lines().count() == 3 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    wait_for(&demo, "Succeeded");
    let table = demo.kubectl(&["get", "crn"]);
    assert!(
        table.starts_with("NAME") && table.contains("MESH") && table.contains("PHASE") && table.contains(expired),
        "{table}"
    );
    assert!(demo.kubectl(&["describe", "crn"]).contains("every endpoint serves the stored certificates"));
    assert!(
        demo.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).contains("Succeeded"),
        "Events tell of it"
    );
    // Its exit code is about the meshes that are broken in other ways.
    let status = String::from_utf8(meshcert(&demo, &["status"]).stdout).unwrap();
    assert!(status.lines().any(|line| line.contains(expired) && line.contains("364 days")), "{status}");
    let history = printed(&meshcert(&demo, &["history", expired]));
    assert!(history.contains("Verifying") && history.contains("Succeeded"), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_kubernetes_is_said_by_who_leads_and_by_the_commands() {
    let cluster = Cluster::start(Scenario::Expiring, Some(1)).await;
    let old = json!({ "major": "1", "minor": "24+", "gitVersion": "v1.24.17" });
    let router = Router::new().route("/version", get(Json(old))).fallback_service(cluster.demo.router());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let known = cluster.demo.address.to_string();
    let kubeconfig = cluster.put("old", &cluster.demo.kubeconfig().replace(&known, &address.to_string()));
    let warning = "Kubernetes v1.24.17 is older than 1.25";

    let log = cluster.folder.path().join("log");
    let _meshcert = Process(
        Command::new(env!("CARGO_BIN_EXE_meshcert"))
            .args(["serve", "--roles", "observe,act", "--listen", "127.0.0.1:0", "--kubeconfig", &kubeconfig])
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap(),
    );
    eventually("the log says it", async || std::fs::read_to_string(&log).unwrap().contains(warning)).await;
    let mut plan = Command::new(env!("CARGO_BIN_EXE_meshcert"));
    plan.args(["plan", "expiring-1", "--kubeconfig", &kubeconfig]);
    let output = tokio::task::spawn_blocking(move || plan.output().unwrap()).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains(warning), "{output:?}");
    assert!(printed(&output).contains("StatefulSet/expiring-1-etcd"));
}

#[test]
fn whoever_leads_and_cannot_act_says_so_in_a_metric() {
    let demo = Demo::start(&[]);
    let eventually = |address: &str, series: &str| {
        let start = std::time::Instant::now();
        loop {
            let text = http::get(address, "/metrics").body;
            if text.lines().any(|line| line == series) {
                break;
            }
            assert!(start.elapsed().as_secs() < 60, "{series} is not in\n{text}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    let readable = |value: u8| format!("meshcert_renewals_last_read_successful{{mesh_cluster=\"demo\"}} {value}");
    eventually(&demo.address, "meshcert_leader{mesh_cluster=\"demo\"} 1");
    eventually(&demo.address, &readable(1));
    // Nor is one passed over in silence that cannot be read.
    demo.create_unreadable("odd", "hosted-healthy");
    eventually(&demo.address, &readable(0));
    let status = r#"{"status":{"attempt":1}}"#;
    demo.kubectl(&["patch", "crn", "odd", "--subresource=status", "--type=merge", "-p", status]);
    eventually(&demo.address, &readable(1));

    demo.kubectl(&["delete", "crd", "certificaterenewals.meshcert.dev"]);
    eventually(&demo.address, &readable(0));
    let definition = Command::new(env!("CARGO_BIN_EXE_meshcert")).arg("crd").output().unwrap();
    demo.kubectl_with(&printed(&definition), &["apply"]);
    eventually(&demo.address, &readable(1));

    // One that does not even come to the cluster has series too: an alert sees no absent ones.
    let config = demo.folder.path().join("meshcert.yaml");
    std::fs::write(&config, "clusters: [{name: demo, kubeconfig: missing}]\n").unwrap();
    let address = free_address();
    let config = config.display().to_string();
    let arguments = ["serve", "--roles", "act", "--listen", &address, "--config", &config].map(str::to_owned);
    let _lost = Process::start(Path::new(env!("CARGO_BIN_EXE_meshcert")), &arguments);
    while TcpStream::connect(&address).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    eventually(&address, "meshcert_leader{mesh_cluster=\"demo\"} 0");
    eventually(&address, &readable(0));
}

#[test]
fn the_webhook_takes_what_alertmanager_sends_and_nothing_else() {
    // In this mode a request is stored and held.
    let demo = Demo::start(&["--mode", "observe", "--webhook-token", TOKEN]);
    while !is_ready(&demo) {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let alert = "MspiderHostedKubeAPICertExpiration";
    let bearer = format!("Bearer {TOKEN}");
    let body = notification(alert, "hosted-demo");
    assert_eq!(post(&demo, "", &body).0, 401);
    assert_eq!(post(&demo, "Bearer wrong", &body).0, 401);
    assert_eq!(post(&demo, &bearer, "{}").0, 400);
    assert_eq!(post(&demo, &bearer, &body.replace("\"4\"", "\"3\"")).0, 400);
    assert_eq!(post(&demo, &bearer, &" ".repeat((4 << 20) + 1)).0, 413);
    let (status, words) = post(&demo, &bearer, &notification("SomethingElse", "hosted-demo"));
    assert!(status == 200 && words.starts_with("nothing to do"), "{words}");
    let (status, words) = post(&demo, &bearer, &notification(alert, "hosted-healthy"));
    assert!(status == 200 && words.contains("nothing ends within"), "{words}");
    assert_eq!(demo.kubectl(&["get", "crn", "-o", "name"]), "");

    let (status, words) = post(&demo, &bearer, &body);
    assert!(status == 200 && words.contains("asked for a renewal"), "{words}");
    let (status, words) = post(&demo, &bearer, &body);
    assert!(status == 200 && words.contains("is there already"), "{words}");
    assert_eq!(demo.kubectl(&["get", "crn", "-o", "name"]).lines().count(), 1);
    // An alert about a mesh that nobody knows means: look at every mesh.
    post(&demo, &bearer, &notification(alert, "nobody"));
    assert_eq!(demo.kubectl(&["get", "crn", "-o", "name"]).lines().count(), 3);
}

#[test]
fn no_key_and_no_token_is_shown_anywhere() {
    for engine in ["native", "job"] {
        show_nothing(engine, "auto", "Succeeded", |_| {});
    }
}

#[test]
fn no_key_is_shown_where_a_job_prints_one_and_fails() {
    show_nothing("job", "approve", "Failed", |demo| {
        wait_for(demo, "AwaitingApproval");
        let key = demo.kubectl(&["get", "secret", "expiring-1-kube-certs", "-o", r"jsonpath={.data.apiserver\.key}"]);
        let printed_by_job = format!("+ kubectl patch secret x -p {{\"data\":{{\"apiserver.key\":\"{key}\"}}}}");
        let powerless = json!({ "metadata": { "annotations": { "demo.meshcert.dev/powerless": printed_by_job } } });
        demo.kubectl(&["patch", "serviceaccount", "mspider-mcpc", "--type=merge", "-p", &powerless.to_string()]);
        printed(&meshcert(demo, &["approve", "expiring-1", "--digest", &waiting_digest(demo)]));
        wait_for(demo, "Failed");
        let message = demo.kubectl(&["get", "crn", "-o", "jsonpath={.items[*].status.message}"]);
        assert!(message.contains("could not write") && message.contains("cannot patch"), "{message}");
    });
}

#[test]
fn no_key_is_shown_on_the_way_back() {
    show_nothing("native", "auto", "RolledBack", |demo| {
        wait_for(demo, "Succeeded");
        printed(&meshcert(demo, &["rollback", "expiring-1"]));
    });
}

/// Nor anywhere else, once the renewal of a demo has come to its end by what is done to it.
fn show_nothing(engine: &str, mode: &str, end: &str, act: impl FnOnce(&Demo)) {
    let folder = tempfile::TempDir::new().unwrap();
    let log = folder.path().join("log");
    let demo = Demo::start_logging(
        &[
            "--engine",
            engine,
            "--mode",
            mode,
            "--scenario",
            "expiring",
            "--meshes",
            "1",
            "--webhook-token",
            TOKEN,
            "--log-level",
            "trace",
        ],
        &log,
    );
    let secrets =
        |what: &str| demo.kubectl(&["get", "secrets", "-n", "istio-system", "-o", &format!("jsonpath={what}")]);
    let before = secrets("{.items[*].data}");
    while demo.kubectl(&["get", "crn", "-o", "name"]).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    act(&demo);
    wait_for(&demo, end);
    demo.kubectl(&["wait", "crn", "--all", "--for=jsonpath={.status.cleanedUp}=true", "--timeout=120s"]);
    // Every key, old and new: a stretch of its base64 from the middle, as it stands in the Secret and as it stands in the PEM.
    let all = format!("{before} {}", secrets("{.items[*].data}"));
    let field = regex::Regex::new(r#""([^"]+\.key|config)":"([A-Za-z0-9+/=]{80,})""#).unwrap();
    let mut needles = Vec::new();
    for found in field.captures_iter(&all) {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD.decode(&found[2]).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        needles.push(found[2][found[2].len() / 2..][..24].to_owned());
        let lines =
            text.lines().filter(|line| line.len() > 40 && (!line.contains(':') || line.contains("client-key-data")));
        needles
            .extend(lines.map(|line| {
                line.trim().chars().rev().skip(8).take(24).collect::<Vec<_>>().into_iter().rev().collect()
            }));
    }
    assert!(needles.len() > 30, "{}", needles.len());
    needles.push(TOKEN.to_owned());
    let mut shown = vec![
        std::fs::read_to_string(&log).unwrap(),
        demo.kubectl(&["get", "crn,events,leases,jobs,pods", "-o", "yaml"]),
        printed(&meshcert(&demo, &["history", "expiring-1", "-o", "json"])),
    ];
    for path in ["/metrics", "/api/v1/meshes", "/api/v1/renewals", "/", "/meshes/demo/istio-system/expiring-1"] {
        let answer = http::get(&demo.address, path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.contains("expiring-1"), "{path} tells of the mesh");
        shown.push(answer.body);
    }
    assert!(shown[0].contains("TRACE") && shown[0].contains(&format!("{end}: ")), "the log was kept");
    let acts = format!("mode={mode} namespaces=istio-system");
    assert!(shown[0].contains(&acts), "as in the configuration");
    for needle in &needles {
        assert!(shown.iter().all(|text| !text.contains(needle.as_str())), "{needle} is shown");
    }
}

/// Has a person type this.
async fn typed(cluster: &Cluster, script: String) {
    let meshcert = Path::new(env!("CARGO_BIN_EXE_meshcert")).parent().unwrap().to_owned();
    let folders = [meshcert].into_iter().chain(tools::kubectl().parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap();
    let path = folders.chain(std::env::split_paths(&path));
    let mut bash = Command::new("bash");
    bash.args(["-c", &script])
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("KUBECONFIG", cluster.path("kubeconfig"))
        .env("KUBECACHEDIR", cluster.path("cache"));
    printed(&tokio::task::spawn_blocking(move || bash.output().unwrap()).await.unwrap());
}

/// The patch by which the runbook approves.
fn of_the_runbook(renewal: &Renewal) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks/MeshcertRenewalAwaitingApproval.md");
    let page = std::fs::read_to_string(page).unwrap();
    let patch = page.lines().find(|line| line.contains(" patch crn NAME ")).unwrap();
    let digest = &renewal.status.plan.as_ref().unwrap().digest;
    meshcert::runbook::with_renewal(patch, &renewal.name).replace("DIGEST", digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_approves_does_not_insist_on_what_came_with_the_creation() {
    let cluster = Cluster::start(Scenario::Expiring, Some(3)).await;
    let meshes = ["expiring-1", "expiring-2", "expiring-3"];
    for mesh in meshes {
        let spec = Spec { mesh_id: mesh.to_owned(), force: true, ..Spec::default() };
        assert!(cluster.api.create_renewal("istio-system", mesh, &spec).await.unwrap());
    }
    let config = cluster.put("config.yaml", &format!("{}policy: {{mode: approve}}\n", cluster.clusters()));
    let served = Served::start(config.as_ref(), Roles { act: true, ..Roles::OBSERVE }).await;
    let asked = async |mesh: &str| cluster.api.renewal("istio-system", mesh).await.unwrap().unwrap();
    for mesh in meshes {
        eventually("it is planned", async || asked(mesh).await.status.phase == Phase::AwaitingApproval).await;
    }
    let commands = [
        {
            let digest = asked("expiring-1").await.status.plan.unwrap().digest;
            format!("meshcert approve expiring-1 --digest {digest} --config '{config}'")
        },
        {
            let (_, list) = Client::default().get(served.main, "/api/v1/renewals?mesh=expiring-2").await.unwrap();
            let list: serde_json::Value = serde_json::from_str(&list).unwrap();
            list["renewals"][0]["approveCommand"].as_str().unwrap().to_owned()
        },
        of_the_runbook(&asked("expiring-3").await),
    ];
    for (mesh, command) in meshes.into_iter().zip(commands) {
        typed(&cluster, command.clone()).await;
        let approved = asked(mesh).await;
        assert!(approved.spec.approval.is_some() && approved.generation > 1 && !approved.forced(), "{command}");
        eventually("it is renewed", async || asked(mesh).await.status.phase == Phase::Succeeded).await;
    }
}

#[test]
fn a_person_plans_approves_and_rolls_back() {
    let demo = Demo::start(&["--mode", "approve", "--scenario", "expiring", "--meshes", "1"]);
    let plan = printed(&meshcert(&demo, &["plan", "expiring-1"]));
    assert!(plan.contains("CN=kube-apiserver") && plan.contains("StatefulSet/expiring-1-etcd"), "{plan}");
    printed(&meshcert(&demo, &["renew", "expiring-1"]));
    wait_for(&demo, "AwaitingApproval");
    let other = format!(r#"{{"spec":{{"approval":{{"planDigest":"sha256:{}"}}}}}}"#, "0".repeat(64));
    let name = demo.kubectl(&["get", "crn", "-o", "name"]);
    demo.kubectl(&["patch", name.trim(), "--type=merge", "-p", &other]);
    demo.kubectl(&["wait", name.trim(), "--for=jsonpath={.status.observedGeneration}=2", "--timeout=30s"]);
    let waits = demo.kubectl(&["get", name.trim(), "-o", "jsonpath={.status.phase} {.status.message}"]);
    assert!(waits.starts_with("AwaitingApproval spec.approval is about another plan (sha256:000"), "{waits}");
    // A rollback that cannot begin is taken back by whoever asks for new certificates.
    demo.kubectl(&["patch", name.trim(), "--type=merge", "-p", r#"{"spec":{"rollback":true}}"#]);
    demo.kubectl(&["wait", name.trim(), "--for=jsonpath={.status.reason}=RollbackRefused", "--timeout=30s"]);
    printed(&meshcert(&demo, &["renew", "expiring-1"]));
    wait_for(&demo, "AwaitingApproval");
    // Whoever insists on what waits for a person already is told so, and does not wait for ever.
    let waits = meshcert(&demo, &["renew", "expiring-1", "--force", "--wait"]);
    let words = String::from_utf8_lossy(&waits.stderr).into_owned();
    assert!(waits.status.code() == Some(1) && words.contains("then meshcert approve expiring-1"), "{words}");
    // Agreement is to the plan that was read.
    let digest = waiting_digest(&demo);
    let plan = printed(&meshcert(&demo, &["plan", "expiring-1"]));
    let kubeconfig = demo.kubeconfig.display();
    let advice = format!("meshcert approve expiring-1 --digest {digest} --kubeconfig {kubeconfig}");
    assert!(plan.ends_with(&format!("digest: {digest}\napprove: {advice}\n")), "{plan}");
    let other = format!("sha256:{}", "0".repeat(64));
    for (arguments, why) in
        [(&["--digest", &*other][..], "another plan waits"), (&[], "there is no terminal to ask on")]
    {
        let refused = meshcert(&demo, &[&["approve", "expiring-1"], arguments].concat());
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stdout).contains(&digest), "the plan that waits is shown");
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(words.contains(&format!("nothing is approved: {why}")) && words.contains(&advice), "{words}");
    }
    let consent = demo.kubectl(&["get", name.trim(), "-o", "jsonpath={.spec.approval.planDigest}"]);
    assert_eq!(consent, other, "nothing has changed");
    let approved = printed(&meshcert(&demo, &["approve", "expiring-1", "--digest", &digest, "--wait"]));
    assert!(approved.contains("digest: sha256:") && approved.contains("Succeeded"), "{approved}");
    let entry = |certificate: &str| {
        let patch = format!(r#"{{"data":{{"front-proxy-client.crt":"{certificate}"}}}}"#);
        demo.kubectl(&["patch", "secret", "expiring-1-kube-certs", "--type=merge", "-p", &patch]);
    };
    let ours =
        demo.kubectl(&["get", "secret", "expiring-1-kube-certs", "-o", r"jsonpath={.data.front-proxy-client\.crt}"]);
    entry("dGhlaXJz");
    for _ in 0..2 {
        let refused = meshcert(&demo, &["rollback", "expiring-1", "--wait"]);
        assert_eq!(refused.status.code(), Some(1));
        let words = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(words.contains("somebody else has replaced the certificates in expiring-1-kube-certs"), "{words}");
    }
    entry(&ours);
    let back = printed(&meshcert(&demo, &["rollback", "expiring-1", "--wait"]));
    assert!(back.contains("RolledBack") && back.contains("is paused"), "{back}");
    let missing = meshcert(&demo, &["plan", "nobody"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("there is no hosted mesh nobody in default/istio-system")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_could_not_be_asked_for_says_that_the_mesh_is_paused() {
    let cluster = Cluster::start(Scenario::Expiring, Some(1)).await;
    let config = cluster.put("config.yaml", &format!("{}policy: {{mode: auto}}\n", cluster.clusters()));
    let _served = Served::start(config.as_ref(), Roles { act: true, ..Roles::OBSERVE }).await;
    eventually("it is renewed", async || {
        cluster.renewals().await.iter().any(|one| one.status.phase == Phase::Succeeded)
    })
    .await;
    // Everything but a change of a renewal gets through.
    let api = cluster.demo.router();
    let way = Router::new().fallback(move |request: axum::extract::Request| {
        let api = api.clone();
        async move {
            if request.method() == "PATCH" && request.uri().path().contains("/certificaterenewals/") {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            api.oneshot(request).await.into_response()
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, way).await });
    let known = cluster.demo.address.to_string();
    let kubeconfig = cluster.put("through", &cluster.demo.kubeconfig().replace(&known, &address));
    let mut rollback = Command::new(env!("CARGO_BIN_EXE_meshcert"));
    rollback.args(["rollback", "expiring-1", "--kubeconfig", &kubeconfig]);
    let failed = tokio::task::spawn_blocking(move || rollback.output().unwrap()).await.unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let words = String::from_utf8_lossy(&failed.stderr).into_owned();
    let undo = "kubectl -n istio-system annotate secret expiring-1-kube-certs meshcert.dev/paused-";
    assert!(words.contains("expiring-1 is paused already") && words.contains(undo), "{words}");
    let script = words.split('`').nth(1).unwrap().to_owned();
    typed(&cluster, script).await;
    let paused = cluster.api.secret("istio-system", "expiring-1-kube-certs").await.unwrap().unwrap();
    assert!(!paused.paused, "what it says takes it back");
}

#[test]
fn what_preflight_would_refuse_is_said_instead_of_a_plan() {
    let demo = Demo::start(&["--scenario", "expiring", "--meshes", "1", "--api-only"]);
    let with_policy = |name: &str, policy: &str| {
        let config = demo.folder.path().join(name);
        let clusters = format!("clusters: [{{name: demo, kubeconfig: '{}'}}]", demo.kubeconfig.display());
        std::fs::write(&config, format!("{clusters}\npolicy: {policy}\n")).unwrap();
        config.display().to_string()
    };
    let config = with_policy("meshcert.yaml", "{engine: job, job: {serviceAccount: nobody}}");
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_meshcert")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let account = refused(&["plan", "expiring-1", "--config", &config]);
    assert!(account.starts_with("it would be refused (ServiceAccountMissing): the Job's account nobody"), "{account}");

    let calm = with_policy("calm.yaml", "{renewBefore: 1h, urgentBefore: 1h}");
    let early = refused(&["plan", "expiring-1", "--config", &calm]);
    let said = early.starts_with("it would be refused (NotDue): nothing ends within") && early.contains("--force");
    assert!(said, "{early}");
    let forced = ["plan", "expiring-1", "--force", "--config", &calm];
    let forced = Command::new(env!("CARGO_BIN_EXE_meshcert")).args(forced).output().unwrap();
    assert!(printed(&forced).contains("apiserver.crt"), "{forced:?}");

    let kubeconfig = demo.kubeconfig.display().to_string();
    let refusal = || {
        let dry_run = refused(&["renew", "expiring-1", "--dry-run", "--kubeconfig", &kubeconfig]);
        let plan = refused(&["plan", "expiring-1", "-o", "json", "--kubeconfig", &kubeconfig]);
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let said = |field: &str| plan["refused"][field].as_str().unwrap().to_owned();
        assert_eq!(dry_run, format!("it would be refused ({}): {}\n", said("reason"), said("message")));
        (said("reason"), said("message"))
    };
    demo.kubectl(&["delete", "deployment", "istiod-expiring-1-hosted"]);
    let (reason, message) = refusal();
    assert!(reason == "WorkloadUnresolved" && message.contains("istiod-expiring-1-hosted"), "{reason}: {message}");
    // An account that is not there keeps it from ending.
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "expiring-1-hosted-apiserver-certs-renew", "namespace": "istio-system" },
        "spec": { "template": { "spec": { "serviceAccountName": "nobody", "restartPolicy": "Never", "containers": [{ "name": "renew", "image": "x" }] } } },
    });
    demo.kubectl_with(&job.to_string(), &["create"]);
    let (reason, message) = refusal();
    assert!(reason == "JobActive" && message.ends_with("wait for its end"), "{reason}: {message}");
    demo.kubectl(&["patch", "secret", "expiring-1-etcd-certs", "--type=merge", "-p", r#"{"data":{"ca.key":null}}"#]);
    let (reason, message) = refusal();
    assert!(reason == "ExternalCa" && message.contains("certs-renew is renewing"), "{reason}: {message}");
    demo.kubectl(&["delete", "secret", "expiring-1-etcd-certs"]);
    let (reason, message) = refusal();
    assert!(reason == "SecretMissing" && message.ends_with("does not exist; restore it first"), "{reason}: {message}");
    assert_eq!(demo.kubectl(&["get", "crn", "-o", "name"]), "", "nothing was written");
}

#[test]
fn a_renewal_that_failed_after_its_commit_is_tried_again_when_a_person_asks() {
    let demo = Demo::start(&["--scenario", "expiring", "--meshes", "1", "--api-only"]);
    let image = |image: &str| {
        demo.kubectl(&["set", "image", "deployment/istiod-expiring-1-hosted", &format!("main={image}")]);
    };
    image("missing:1");
    let config = demo.folder.path().join("meshcert.yaml");
    let text = format!(
        "clusters: [{{name: demo, kubeconfig: '{}'}}]\npolicy: {{mode: auto, restartDeadline: 20s}}\n",
        demo.kubeconfig.display()
    );
    std::fs::write(&config, text).unwrap();
    let serve =
        ["serve", "--roles", "observe,act", "--listen", "127.0.0.1:0", "--config", &config.display().to_string()];
    let _meshcert = Process::start(Path::new(env!("CARGO_BIN_EXE_meshcert")), &serve.map(str::to_owned));
    printed(&meshcert(&demo, &["renew", "expiring-1"]));
    wait_for(&demo, "Failed");
    let name = demo.kubectl(&["get", "crn", "-o", "jsonpath={.items[*].metadata.name}"]);
    let advice = format!("meshcert renew expiring-1 --kubeconfig {}", demo.kubeconfig.display());
    let foretold = printed(&meshcert(&demo, &["plan", "expiring-1"]));
    let expected =
        format!("renewal {name} failed after its commit (RestartStuck); `{advice}` goes on with it from Restarting: ");
    assert!(foretold.starts_with(&expected), "{foretold}");
    assert_eq!(printed(&meshcert(&demo, &["renew", "expiring-1", "--dry-run"])), foretold);
    image("there:1");
    let again = printed(&meshcert(&demo, &["renew", "expiring-1", "--wait"]));
    assert!(again.contains("Succeeded"), "{again}");
    assert_eq!(demo.kubectl(&["get", "crn", "-o", "name"]).lines().count(), 1, "the same one");
}

#[test]
fn the_manual_procedure_runs_as_it_is_printed() {
    let demo = Demo::start(&["--scenario", "expiring", "--meshes", "1"]);
    // What kubectl does not wait for.
    let on_delete = r#"{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}"#;
    demo.kubectl(&["patch", "statefulset", "expiring-1-etcd", "--type=merge", "-p", on_delete]);
    let etcd = ["get", "pod", "expiring-1-etcd-0", "-o", "jsonpath={.metadata.uid}"];
    let former = demo.kubectl(&etcd);
    let script = printed(&meshcert(&demo, &["runbook", "expiring-1"]));
    assert!(script.contains("rollout restart statefulset/expiring-1-etcd"), "{script}");
    let path = std::env::join_paths(
        [tools::kubectl().parent().unwrap().to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    // The embedded cluster runs no image: the Job's log is all that it lacks.
    let script = script.lines().filter(|line| !line.contains(" logs job/")).collect::<Vec<_>>().join("\n");
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(demo.folder.path())
        .env("PATH", path)
        .env("KUBECONFIG", &demo.kubeconfig)
        .env("KUBECACHEDIR", demo.folder.path().join("cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let jobs = demo.kubectl(&["get", "jobs"]);
    assert!(jobs.contains("expiring-1-hosted-apiserver-certs-renew"), "{jobs}");
    let generation =
        demo.kubectl(&["get", "deployment", "expiring-1-hosted-apiserver", "-o", "jsonpath={.metadata.generation}"]);
    assert_eq!(generation, "2");
    assert_ne!(demo.kubectl(&etcd), former, "its pod is another one");
    // What the Job wrote is there, what its exit code hides too: the admin is another one.
    let explained =
        String::from_utf8(meshcert(&demo, &["explain", "expiring-1-apiserver-admin-kubeconfig"]).stdout).unwrap();
    assert!(explained.contains("kubeadm:cluster-admins"), "{explained}");
    let status = String::from_utf8(meshcert(&demo, &["status"]).stdout).unwrap();
    assert!(status.contains("364 days"), "{status}");
}

#[test]
fn the_manual_procedure_is_that_of_the_configuration() {
    let demo = Demo::start(&["--scenario", "expiring", "--meshes", "1"]);
    let config = demo.folder.path().join("own.yaml");
    let own = "naming: {kubeCerts: 'pki-{mesh}'}\npolicy: {job: {image: 'registry.example.org/renew:1', serviceAccount: renewer}}\n";
    std::fs::write(&config, own).unwrap();
    let script = printed(&meshcert(&demo, &["runbook", "expiring-1", "--config", &config.display().to_string()]));
    for own in ["secretName: pki-expiring-1}", "image: registry.example.org/renew:1\n", "serviceAccountName: renewer\n"]
    {
        assert!(script.contains(own), "{script}");
    }
    for usual in ["expiring-1-kube-certs", "release.daocloud.io", "serviceAccountName: mspider-mcpc"] {
        assert!(!script.contains(usual), "{script}");
    }
}

#[test]
fn the_demo_renews_by_the_job_and_says_so() {
    let demo = Demo::start(&["--mode", "auto", "--engine", "job", "--scenario", "expiring", "--meshes", "1"]);
    loop {
        if demo.kubectl(&["get", "crn", "-o", "name"]).lines().count() == 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    wait_for(&demo, "Succeeded");
    let wide = demo.kubectl(&["get", "crn", "-o", "wide"]);
    assert!(wide.contains("ENGINE") && wide.contains(" job"), "{wide}");
    assert!(!demo.kubectl(&["get", "crn"]).contains("ENGINE"), "the narrow table stays narrow");
    let history = printed(&meshcert(&demo, &["history", "expiring-1"]));
    assert!(history.contains("made the new material; put right: "), "{history}");
    let plan = demo.kubectl(&["get", "crn", "-o", "jsonpath={.items[0].status.plan.image}"]);
    assert_eq!(plan, "release.daocloud.io/mspider/self-hosted-apiserver:0.0.13");
}
