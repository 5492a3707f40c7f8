//! `meshcert serve` as a process: what it writes, which signals end it, and which configuration is in force.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

#[path = "support/client.rs"]
mod client;
#[path = "support/served.rs"]
mod served;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshcert::demo::Scenario;
use serde_json::json;
use served::Cluster;
use support::daemon::Process;
use support::http::get;
use tempfile::TempDir;

/// Nothing takes longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    process: Process,
    log: Arc<Mutex<String>>,
    address: String,
}

impl Daemon {
    /// Starts one with this configuration, and waits until it says where it listens.
    fn start(config: &Path, form: &str, environment: &[(&str, &Path)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshcert"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "trace", "--log-format", form, "--config"])
            .arg(config)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let mut daemon = Self { process: Process(child), log: Arc::clone(&log), address: String::new() };
        std::thread::spawn(move || {
            while let Some(Ok(line)) = lines.next() {
                *log.lock().unwrap() += &(line + "\n");
            }
        });
        daemon.wait_for("meshcert listens");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("meshcert listens")).unwrap();
        let address = line.split_once("127.0.0.1:").unwrap().1;
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        daemon.address = format!("127.0.0.1:{port}");
        daemon
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log says so.
    fn wait_for(&self, words: &str) {
        eventually(words, || self.log().contains(words));
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited for this in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_token_beside_a_line_that_cannot_be_parsed_is_shown_nowhere() {
    let folder = TempDir::new().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\nusers:\n- nam: v\n  user:\n    token: t0ps3cret\n";
    std::fs::write(&kubeconfig, text).unwrap();
    let config = folder.path().join("meshcert.yaml");
    // A file, a context of the current one, and the current one.
    let clusters = format!(
        "clusters: [{{name: file, kubeconfig: '{}'}}, {{name: context, context: c}}, {{name: current}}]\n",
        kubeconfig.display()
    );
    std::fs::write(&config, clusters).unwrap();
    let place = "no valid kubeconfig (line 5, column 3)";
    for form in ["plain", "json"] {
        let daemon = Daemon::start(&config, form, &[("KUBECONFIG", &kubeconfig)]);
        for cluster in ["file", "context", "current"] {
            let source = format!("{cluster}/istio-system");
            eventually(&source, || daemon.log().lines().any(|line| line.contains(&source) && line.contains(place)));
        }
        eventually("ready", || get(&daemon.address, "/-/ready").status == 200);
        for path in ["/", "/metrics", "/api/v1/meshes", "/api/v1/renewals"] {
            let page = get(&daemon.address, path).body;
            assert!(!page.contains("t0ps3cret"), "{path}: {page}");
        }
        eventually("the page says why", || get(&daemon.address, "/").body.contains(place));
        assert!(!daemon.log().contains("t0ps3cret"), "{}", daemon.log());
    }
    for arguments in [&["status"][..], &["explain", "istio-system/a"], &["plan", "a"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshcert"));
        let command = command.args(arguments).arg("--config").arg(&config).env("KUBECONFIG", &kubeconfig);
        let output = command.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains(place) && !said.contains("t0ps3cret"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("meshcert.yaml");
    std::fs::write(&config, "clusters: [{name: nowhere, kubeconfig: /nowhere}]\n").unwrap();
    let mut daemon = Daemon::start(&config, "plain", &[]);
    let id = daemon.process.0.id().to_string();
    // The first one alone would be followed by a second's notice, and end with 0.
    let both = Command::new("sh").args(["-c", "kill -TERM $0 && kill -INT $0", &id]).status().unwrap();
    assert!(both.success());
    let code = daemon.process.0.wait().unwrap().code();
    assert!([Some(128 + 15), Some(128 + 2)].contains(&code), "{code:?}: {}", daemon.log());
}

/// The kubeconfig of a cluster, with this script as its exec plugin.
fn with_plugin(cluster: &Cluster, script: &str) -> String {
    let user = format!(
        "user: {{exec: {{command: sh, args: ['-c', \"{script}\"], apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}}}}"
    );
    cluster.demo.kubeconfig().replace("user: {}", &user)
}

/// A script that ends with the test.
fn hangs(cluster: &Cluster) -> String {
    format!("while [ -d '{}' ]; do sleep 0.1; done", cluster.folder.path().display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_plugin_that_hangs_disturbs_nobody_else() {
    let cluster = Cluster::start(Scenario::Healthy, Some(1)).await;
    // More than there are threads to wait in, each until this test ends.
    let kubeconfig = with_plugin(&cluster, &hangs(&cluster));
    let mut config = cluster.clusters();
    for number in 0..4 {
        let hangs = cluster.put(&format!("hangs-{number}"), &kubeconfig);
        config = config.replace("]\n", &format!(", {{name: hangs-{number}, kubeconfig: '{hangs}'}}]\n"));
    }
    let mut daemon = Daemon::start(Path::new(&cluster.put("meshcert.yaml", &config)), "json", &[]);
    eventually("the other cluster is read", || {
        get(&daemon.address, "/metrics").body.contains("\nmeshcert_source_up{source=\"demo/istio-system\"} 1\n")
    });
    let id = daemon.process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(daemon.process.0.wait().unwrap().code(), Some(0), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_plugin_that_hangs_in_a_changed_kubeconfig_keeps_up_neither_a_reload_nor_an_end() {
    let cluster = Cluster::start(Scenario::Healthy, Some(1)).await;
    let credential = |token: &str| {
        let answer = format!("status: {{token: {token}}}");
        format!("echo '{{kind: ExecCredential, apiVersion: client.authentication.k8s.io/v1, {answer}}}'")
    };
    let put = |script: &str| cluster.put("own", &with_plugin(&cluster, script));
    let own = put(&credential("first"));
    // As many as would take minutes one after the other.
    let clusters: Vec<String> = (0..12).map(|number| format!("{{name: c-{number}, kubeconfig: '{own}'}}")).collect();
    let configure = |days: u32| {
        let text = format!("clusters: [{}]\npolicy: {{renewBefore: {days}d}}\n", clusters.join(", "));
        cluster.put("meshcert.yaml", &text)
    };
    let mut daemon = Daemon::start(Path::new(&configure(30)), "json", &[]);
    eventually("ready", || get(&daemon.address, "/-/ready").status == 200);
    let start = Instant::now();
    let reloads = |number: usize| {
        eventually("it is reloaded", || daemon.log().matches("configuration reloaded").count() == number);
    };
    let tried = |times: usize| {
        let runs = || std::fs::read_to_string(cluster.path("runs")).map_or(0, |runs| runs.lines().count());
        eventually("it is tried", || runs() >= times);
    };
    let hanging = format!("echo run >> '{}'; {}", cluster.path("runs"), hangs(&cluster));
    put(&hanging);
    tried(1);
    configure(20);
    reloads(1);
    // What is mended is taken up, whatever hangs still.
    put(&credential("second"));
    eventually("it is taken up", || daemon.log().matches("\"observing\"").count() == 24);
    put(&format!(": again; {hanging}"));
    tried(5);
    let id = daemon.process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(daemon.process.0.wait().unwrap().code(), Some(0), "{}", daemon.log());
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_leaves_the_former_configuration_in_force_and_says_so() {
    let cluster = Cluster::start(Scenario::Healthy, Some(1)).await;
    let valid = cluster.clusters();
    let config = cluster.put("meshcert.yaml", &valid);
    let daemon = Daemon::start(Path::new(&config), "json", &[]);
    let in_force = |successful: u32| {
        let page = get(&daemon.address, "/metrics").body;
        let reload = format!("\nmeshcert_config_last_reload_successful {successful}\n");
        page.contains(&reload) && page.contains("\nmeshcert_source_up{source=\"demo/istio-system\"} 1\n")
    };
    eventually("the cluster is read", || in_force(1));
    cluster.put("meshcert.yaml", "clusters: [{name: other, namespaces: [No]}]\n");
    daemon.wait_for("the changed configuration is refused, the former stays in force");
    assert!(daemon.log().contains("clusters[0].namespaces[0]"), "{}", daemon.log());
    eventually("the refusal is counted", || in_force(0));
    cluster.put("meshcert.yaml", "");
    daemon.wait_for("meshcert.yaml: the document: is empty; write `{}` if the defaults are meant");
    assert!(in_force(0));
    cluster.put("meshcert.yaml", &valid);
    daemon.wait_for("the configuration in force is the one that is there");
    eventually("the reload is counted", || in_force(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubeconfig_of_the_environment_is_taken_up_when_it_is_replaced() {
    let cluster = Cluster::start(Scenario::Healthy, Some(1)).await;
    let kubeconfig = |token: &str| cluster.demo.kubeconfig().replace("user: {}", &format!("user: {{token: {token}}}"));
    let own = cluster.put("own", &kubeconfig("first"));
    let config = cluster.put("meshcert.yaml", "clusters: [{name: demo}]\n");
    let daemon = Daemon::start(Path::new(&config), "json", &[("KUBECONFIG", Path::new(&own))]);
    let is_up =
        || get(&daemon.address, "/metrics").body.contains("\nmeshcert_source_up{source=\"demo/istio-system\"} 1\n");
    eventually("the cluster is read", is_up);
    cluster.put("own", "clusters: {");
    daemon.wait_for("the changed kubeconfig is refused, the former stays in force");
    assert!(is_up());
    cluster.demo.restrict("first", &[]);
    cluster.put("own", &kubeconfig("second"));
    daemon.wait_for("configuration reloaded");
    eventually("the cluster is read again", is_up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labelled_secret_brings_a_cluster_and_takes_it_along() {
    let cluster = Cluster::start(Scenario::Healthy, Some(1)).await;
    let config = format!("{}clusterSecrets: {{namespace: clusters}}\n", cluster.clusters());
    let config = cluster.put("meshcert.yaml", &config);
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "clusters" } });
    cluster.api.create("/api/v1/namespaces", &namespace).await.unwrap();
    let secrets = "/api/v1/namespaces/clusters/secrets";
    let kubeconfig = cluster.demo.kubeconfig();
    let announce = async |name: &str, secret: &str| {
        let labels = json!({ "meshcert.dev/cluster": name });
        let metadata = json!({ "name": secret, "labels": labels });
        let secret = json!({ "metadata": metadata, "stringData": { "kubeconfig": kubeconfig } });
        cluster.api.create(secrets, &secret).await.unwrap();
    };
    // It is called as the configured one, which wins.
    announce("demo", "demo").await;
    let daemon = Daemon::start(Path::new(&config), "json", &[]);
    let sources = || {
        let page = get(&daemon.address, "/metrics").body;
        let up = page.lines().filter_map(|line| line.strip_prefix("meshcert_source_up")).map(str::to_owned);
        up.collect::<Vec<_>>()
    };
    let [discovery, here, there] =
        ["clusterSecrets", "demo/istio-system", "there/istio-system"].map(|name| format!("{{source=\"{name}\"}} 1"));
    eventually("looked once", || sources() == [&*discovery, &here]);
    announce("there", "there").await;
    eventually("it is there", || sources() == [&*discovery, &here, &there]);
    // Whom another Secret names so, or like a source, is not observed: that does not look healthy.
    announce("there", "too").await;
    announce("clusterSecrets", "also").await;
    eventually("they are left out", || sources() == [&*discovery.replace(" 1", " 0"), &here, &there]);
    for secret in ["too", "also"] {
        cluster.api.delete(&format!("{secrets}/{secret}"), None).await.unwrap();
    }
    eventually("all are there", || sources() == [&*discovery, &here, &there]);
    cluster.api.delete(&format!("{secrets}/there"), None).await.unwrap();
    eventually("it is gone", || sources() == [&*discovery, &here]);
    let log = daemon.log();
    let said = "demo of Secret clusters/demo: the configured one has this name";
    assert_eq!(log.matches(said).count(), 1, "once, however often it is looked: {log}");
}

#[test]
fn where_clusters_cannot_be_looked_for_a_source_is_down_and_it_is_said_once() {
    let folder = TempDir::new().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = "{current-context: c, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
                contexts: [{name: c, context: {cluster: c}}]}";
    std::fs::write(&kubeconfig, text).unwrap();
    let config = folder.path().join("meshcert.yaml");
    let clusters = format!("clusters: [{{name: nowhere, kubeconfig: '{}'}}]\n", kubeconfig.display());
    std::fs::write(&config, clusters + "clusterSecrets: {namespace: clusters}\n").unwrap();
    let daemon = Daemon::start(&config, "json", &[]);
    eventually("it has failed", || get(&daemon.address, "/-/ready").status == 200);
    let page = get(&daemon.address, "/metrics").body;
    assert!(page.contains("\nmeshcert_source_up{source=\"clusterSecrets\"} 0\n"), "{page}");
    eventually("it has looked again", || {
        let page = get(&daemon.address, "/metrics").body;
        page.contains("\nmeshcert_source_errors_total{source=\"clusterSecrets\",reason=\"unreachable\"} 2\n")
    });
    let said = "no cluster in a Secret is added or removed";
    assert_eq!(daemon.log().matches(said).count(), 1, "{}", daemon.log());
}
