//! The real Kubernetes that `e2e/up.sh` brought up, and meshcert on it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::support::daemon::Process;
use crate::support::tools;

/// The folder of the running cluster.
pub fn state() -> PathBuf {
    let state = std::env::var_os("MESHCERT_E2E");
    PathBuf::from(state.expect("runs in the cluster of `make e2e` alone, which sets MESHCERT_E2E"))
}

/// A file in the folder whose content outlives the cluster.
pub fn log(name: &str) -> PathBuf {
    state().join("logs").join(name)
}

pub fn try_kubectl(arguments: &[&str]) -> Output {
    Command::new(tools::kubectl())
        .args(["--cache-dir", &state().join("kubectl").display().to_string()])
        .args(["--kubeconfig", &state().join("kubeconfig").display().to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What kubectl prints; it must succeed.
pub fn kubectl(arguments: &[&str]) -> String {
    succeeded(&try_kubectl(arguments), &format!("kubectl {arguments:?}"))
}

/// kubectl with a manifest.
pub fn apply(manifest: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(manifest.as_bytes()).unwrap();
    kubectl(&["apply", "-f", &file.path().display().to_string()]);
}

pub fn succeeded(output: &Output, what: &str) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{what}: {stdout}{stderr}");
    stdout
}

/// Waits until something is there.
pub fn until<T>(seconds: u64, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A figure for docs/E2E.md: printed, and kept beside the logs.
pub fn figure(name: &str, value: &str) {
    let mut file = File::options().create(true).append(true).open(log("figures.txt")).unwrap();
    writeln!(file, "{name}: {value}").unwrap();
    println!("{name}: {value}");
}

/// Makes the kind known that renewals are of.
pub fn define() {
    let crd = Command::new(env!("CARGO_BIN_EXE_meshcert")).arg("crd").output().unwrap();
    apply(&succeeded(&crd, "meshcert crd"));
    kubectl(&["wait", "--for=condition=Established", "crd/certificaterenewals.meshcert.dev", "--timeout=20s"]);
}

/// Who meshcert is in a namespace: an account with just the rights that docs/OPERATIONS.md lists.
pub fn account(namespace: &str) -> PathBuf {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md")).unwrap();
    let role = page.split("```yaml\n").find(|text| text.contains("kind: Role")).unwrap();
    let role = role.split("```").next().unwrap().replace("istio-system", namespace);
    // As it says beside it, for the engine `job`.
    let role = role.replace("resources: [jobs], verbs: [get]", "resources: [jobs], verbs: [get, create, delete]");
    let account = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: meshcert, namespace: {namespace}}}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: meshcert, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: meshcert-act}}\n\
         subjects: [{{kind: ServiceAccount, name: meshcert, namespace: {namespace}}}]\n---\n{role}"
    );
    apply(&account);
    let token = kubectl(&["-n", namespace, "create", "token", "meshcert", "--duration=2h"]);
    let config = kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
    let path = state().join(format!("{namespace}.kubeconfig"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// The program that `make image` puts into the image.
fn shipped() -> PathBuf {
    let folder = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image").join(folder).join("meshcert")
}

/// `meshcert serve` on one namespace.
pub struct Daemon {
    process: Process,
    /// Address of its page, metrics and webhook.
    pub address: String,
    kubeconfig: PathBuf,
    namespace: String,
}

/// What the webhook expects.
pub const TOKEN: &str = "t0p-s3cret-t0ken";

impl Daemon {
    /// Starts it with the lines of `policy`; its log goes beside the cluster's.
    pub fn start(namespace: &str, policy: &str) -> Self {
        Self::start_with(namespace, "observe,webhook,act", policy)
    }

    /// The same with some of its roles only.
    pub fn start_with(namespace: &str, roles: &str, policy: &str) -> Self {
        let kubeconfig = account(namespace);
        Self::start_as(namespace, roles, policy, kubeconfig)
    }

    /// As it is deployed: the program of the image, which reaches pods by their addresses.
    pub fn shipped(namespace: &str, roles: &str, policy: &str) -> Self {
        Self::launch(&shipped(), "direct", namespace, roles, policy, account(namespace))
    }

    fn start_as(namespace: &str, roles: &str, policy: &str, kubeconfig: PathBuf) -> Self {
        Self::launch(Path::new(env!("CARGO_BIN_EXE_meshcert")), "auto", namespace, roles, policy, kubeconfig)
    }

    fn launch(program: &Path, reach: &str, namespace: &str, roles: &str, policy: &str, kubeconfig: PathBuf) -> Self {
        let token = state().join(format!("{namespace}.token"));
        std::fs::write(&token, TOKEN).unwrap();
        let config = format!(
            "clusters: [{{name: real, kubeconfig: '{}', namespaces: [{namespace}], reach: {reach}}}]\npolicy: {{{policy}}}\nwebhook: {{bearerTokenFile: '{}'}}\n",
            kubeconfig.display(),
            token.display()
        );
        let path = state().join(format!("{namespace}.yaml"));
        std::fs::write(&path, config).unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let log = File::options().create(true).append(true).open(log(&format!("meshcert-{namespace}.log"))).unwrap();
        let child = Command::new(program)
            .args(["serve", "--roles", roles, "--listen", &address, "--config"])
            .arg(&path)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { process: Process(child), address, kubeconfig, namespace: namespace.to_owned() };
        until(30, "meshcert is ready", || daemon.get("/-/ready").filter(|answer| answer.starts_with("HTTP/1.1 200")));
        daemon
    }

    /// SIGKILL, and another one in its place.
    pub fn kill_and_replace(self, policy: &str) -> Self {
        let (kubeconfig, namespace) = (self.kubeconfig.clone(), self.namespace.clone());
        drop(self);
        Self::start_as(&namespace, "observe,webhook,act", policy, kubeconfig)
    }

    /// The most memory that it had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        1024 * peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    /// The answer to a GET, with its head.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

/// One of meshcert's commands on the cluster, as a person with all rights.
pub fn meshcert(namespace: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshcert"))
        .args(arguments)
        .args(["--namespace", namespace, "--kubeconfig", &state().join("kubeconfig").display().to_string()])
        .output()
        .unwrap()
}

/// Alertmanager's notification about these meshes; the answer where it was taken.
pub async fn notify(client: &Client, address: &str, token: &str, namespace: &str, meshes: &[String]) -> Option<String> {
    let alert = |mesh: &String| {
        serde_json::json!({ "status": "firing", "labels": {
            "alertname": "MspiderHostedKubeAPICertExpiration", "mesh_cluster": "real", "mesh_namespace": namespace, "mesh_id": mesh
        } })
    };
    let alerts: Vec<_> = meshes.iter().map(alert).collect();
    let body = serde_json::json!({ "version": "4", "status": "firing", "receiver": "r", "alerts": alerts }).to_string();
    let bearer = format!("Bearer {token}");
    let (status, words) = client.post(address.parse().unwrap(), &[("authorization", &bearer)], body).await.ok()?;
    (status == 200).then_some(words)
}

/// Requests of an account in the control plane cluster's audit log, and how many were refused.
pub fn requests(account: &str) -> (usize, usize) {
    let text = std::fs::read_to_string(log("audit.log")).unwrap();
    let user = format!("\"username\":\"{account}\"");
    let mine: Vec<&str> = text.lines().filter(|line| line.contains(&user)).collect();
    let refused = mine.iter().filter(|line| line.contains("\"code\":403")).count();
    (mine.len(), refused)
}
