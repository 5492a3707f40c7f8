//! A Kubernetes API to call: a real one on loopback, or any by its kubeconfig.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Process;
use crate::support::tools;

/// etcd and kube-apiserver, without controllers.
pub struct Real {
    _processes: Vec<Process>,
    pub kubeconfig: PathBuf,
    _folder: TempDir,
}

const TOKEN: &str = "contract";

impl Real {
    /// Starts one and waits until it is ready.
    pub fn start() -> Option<Self> {
        let [etcd, server, kubeadm] = ["etcd", "kube-apiserver", "kubeadm"].map(tools::built);
        let (etcd, server, kubeadm) = (etcd?, server?, kubeadm?);
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let [clients, peers, api] = [(); 3].map(|()| free_port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let arguments = [
            format!("--data-dir={}", at("etcd")),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={}", url(clients)),
            format!("--advertise-client-urls={}", url(clients)),
            format!("--listen-peer-urls={}", url(peers)),
            format!("--initial-advertise-peer-urls={}", url(peers)),
            format!("--initial-cluster=default={}", url(peers)),
        ];
        let mut processes = vec![Process::start(&etcd, &arguments)];
        // A key pair for the tokens of service accounts.
        let made = Command::new(&kubeadm).args(["init", "phase", "certs", "sa", "--cert-dir", &at("pki")]).output();
        assert!(made.unwrap().status.success());
        std::fs::write(at("tokens"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let arguments = [
            format!("--etcd-servers={}", url(clients)),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={api}"),
            format!("--cert-dir={}", at("serving")),
            format!("--token-auth-file={}", at("tokens")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", at("pki/sa.pub")),
            format!("--service-account-signing-key-file={}", at("pki/sa.key")),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            // Without controllers nothing makes the account that every pod would need.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        processes.push(Process::start(&server, &arguments));
        let kubeconfig = folder.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "real",
            "clusters": [{ "name": "real", "cluster": { "server": format!("https://127.0.0.1:{api}"), "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "real", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "real", "context": { "cluster": "real", "user": "real" } }],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        wait_until_ready(&kubeconfig);
        Some(Self { _processes: processes, kubeconfig, _folder: folder })
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_until_ready(kubeconfig: &Path) {
    let ready = || {
        let mut ask = Command::new(tools::kubectl());
        ask.arg("--kubeconfig").arg(kubeconfig).args(["get", "--raw", "/readyz"]).stdout(Stdio::null());
        ask.stderr(Stdio::null()).status().unwrap().success()
    };
    let start = std::time::Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(120), "the real API server is not ready");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What can be called.
pub struct Server(kube::Client);

/// Status code and body.
pub type Answer = (u16, Value);

impl Server {
    pub async fn of(kubeconfig: &Path) -> Self {
        let config = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        Self(kube::Client::try_from(config).unwrap())
    }

    /// A call with a body of this kind.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let response = self.0.send(request.body(Body::from(body.to_owned().into_bytes())).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "application/json", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", &body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, "application/json", &body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, "application/merge-patch+json", &body.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.send(Method::DELETE, path, "application/json", &options.to_string()).await
    }

    /// The first events of a watch.
    pub async fn events(&self, path: &str, count: usize) -> Vec<Value> {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let mut body = self.0.send(request).await.unwrap().into_body();
        let mut text = Vec::new();
        let complete = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() >= count;
        while !complete(&text) {
            let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await;
            let Some(frame) = frame.unwrap() else { break };
            text.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).take(count);
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }
}
