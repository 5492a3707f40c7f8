//! A real kube-apiserver with its etcd, on loopback: no controllers and no nodes, so that what is asked for is stored and nothing runs.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::daemon::Process;
use super::tools;

/// Longer than a start on a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// The administrator's bearer token.
pub const ADMIN: &str = "admin-of-this-test";

/// A running API server; it ends with the test.
pub struct RealApi {
    server: String,
    pub kubeconfig: PathBuf,
    pub folder: TempDir,
    _apiserver: Process,
    _etcd: Process,
}

impl RealApi {
    /// Starts one; `None` where the binaries are missing and not required.
    pub fn start() -> Option<Self> {
        let (etcd, apiserver) = (tools::built("etcd")?, tools::built("kube-apiserver")?);
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let [client, peer, secure] = free_ports();
        let etcd_url = format!("http://127.0.0.1:{client}");
        let arguments = [
            format!("--data-dir={}", path("etcd")),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let etcd = logged(&etcd, &arguments, &folder.path().join("etcd.log"));

        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(path("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(path("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(path("tokens.csv"), format!("{ADMIN},admin,admin,system:masters\n")).unwrap();
        let arguments = [
            format!("--etcd-servers={etcd_url}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={secure}"),
            format!("--cert-dir={}", path("apiserver")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--service-account-key-file={}", path("sa.pub")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
        ];
        let apiserver = logged(&apiserver, &arguments, &folder.path().join("apiserver.log"));

        let server = format!("https://127.0.0.1:{secure}");
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, mk_kubeconfig(&server, ADMIN)).unwrap();
        let api = Self { server, kubeconfig, folder, _apiserver: apiserver, _etcd: etcd };
        let since = Instant::now();
        while !api.try_kubectl(&["get", "--raw=/readyz"]).status.success()
            // The roles that accounts have by themselves come a moment later.
            || !api.try_kubectl(&["get", "clusterrolebinding", "system:basic-user"]).status.success()
        {
            let log = || std::fs::read_to_string(api.folder.path().join("apiserver.log")).unwrap_or_default();
            assert!(since.elapsed() < PATIENCE, "kube-apiserver is not ready:\n{}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
        Some(api)
    }

    /// Where it listens, by TLS.
    pub fn address(&self) -> SocketAddr {
        self.server.trim_start_matches("https://").parse().unwrap()
    }

    /// The certificates that prove it, PEM.
    pub fn certificates(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("apiserver/apiserver.crt")).unwrap()
    }

    /// A kubeconfig of a service account, by a token that the server issued.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.kubectl(&["-n", namespace, "create", "token", account]);
        let path = self.folder.path().join(format!("{namespace}-{account}.kubeconfig"));
        std::fs::write(&path, mk_kubeconfig(&self.server, token.trim())).unwrap();
        path
    }

    /// Gives this one's administrator a context for another one.
    pub fn knows(&self, context: &str, other: &Self) {
        let ca = other.folder.path().join("apiserver/apiserver.crt").display().to_string();
        let config = |arguments: &[&str]| self.kubectl(&[&["config"], arguments].concat());
        config(&["set-cluster", context, "--server", &other.server, "--certificate-authority", &ca, "--embed-certs"]);
        config(&["set-credentials", context, "--token", ADMIN]);
        config(&["set-context", context, "--cluster", context, "--user", context]);
    }

    /// Runs kubectl as the administrator.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.command(&tools::kubectl()).args(arguments).output().unwrap()
    }

    /// What kubectl prints; it must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        succeeded(self.try_kubectl(arguments), arguments)
    }

    /// kubectl with a manifest on its standard input.
    pub fn try_kubectl_with(&self, manifest: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(&tools::kubectl());
        command.args(arguments).args(["-f", "-"]);
        tools::run(&mut command, manifest.as_bytes()).unwrap()
    }

    /// The same; it must succeed.
    pub fn kubectl_with(&self, manifest: &str, arguments: &[&str]) -> String {
        succeeded(self.try_kubectl_with(manifest, arguments), arguments)
    }

    /// A program that finds this API server, and keeps its files in the test's folder.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.folder.path());
        command
    }
}

fn succeeded(output: Output, arguments: &[&str]) -> String {
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn logged(program: &Path, arguments: &[String], log: &Path) -> Process {
    let log = std::fs::File::create(log).unwrap();
    let copy = log.try_clone().unwrap();
    Process(Command::new(program).args(arguments).stdin(Stdio::null()).stdout(log).stderr(copy).spawn().unwrap())
}

/// Ports that nobody uses; all are held until all are known, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn mk_kubeconfig(server: &str, token: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, current-context: c, \
         clusters: [{{name: one, cluster: {{server: '{server}', insecure-skip-tls-verify: true}}}}], \
         users: [{{name: me, user: {{token: '{token}'}}}}], \
         contexts: [{{name: c, context: {{cluster: one, user: me}}}}]}}"
    )
}
