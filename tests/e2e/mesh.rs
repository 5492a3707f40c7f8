//! A real hosted mesh, and the proof by programs of others that it works.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cluster::{kubectl, log, state, succeeded, try_kubectl, until};
use crate::support::tools;

/// What it is made of.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Of its etcd.
    pub members: u32,
    /// Kind of its API server's workload.
    pub kind: &'static str,
    /// How long its leaves live, as a Go duration.
    pub validity: &'static str,
    /// kubeadm's phase that makes the admin kubeconfig: `super-admin` (O=system:masters) or `admin` (O=kubeadm:cluster-admins).
    pub admin: &'static str,
}

impl Shape {
    /// Its certificates end in two days.
    pub const EXPIRING: Self = Self { members: 1, kind: "Deployment", validity: "48h", admin: "super-admin" };
}

/// A mesh alone in its namespace; both go with the value.
pub struct Mesh {
    pub namespace: String,
    pub id: String,
    pub shape: Shape,
}

impl Mesh {
    /// Makes one and waits until it works.
    pub fn make(namespace: &str, shape: Shape) -> Self {
        let mesh = Self { namespace: namespace.to_owned(), id: "hosted-demo".to_owned(), shape };
        let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/mesh.sh"))
            .args([namespace, &mesh.id])
            .env("E2E_STATE", state())
            .env("MEMBERS", shape.members.to_string())
            .env("KIND", shape.kind)
            .env("VALIDITY", shape.validity)
            .env("ADMIN", shape.admin)
            .output()
            .unwrap();
        succeeded(&output, "e2e/mesh.sh");
        crate::cluster::define();
        mesh
    }

    /// kubectl in its namespace of the control plane cluster.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&[&["-n", &self.namespace], arguments].concat())
    }

    /// A Secret's entry.
    pub fn stored(&self, secret: &str, key: &str) -> String {
        let path = format!("jsonpath={{.data.{}}}", key.replace('.', "\\."));
        let text = self.kubectl(&["get", "secret", &format!("{}-{secret}", self.id), "-o", &path]);
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    }

    /// Which version of a Secret is stored.
    pub fn version(&self, secret: &str) -> String {
        let secret = format!("{}-{secret}", self.id);
        self.kubectl(&["get", "secret", &secret, "-o", "jsonpath={.metadata.resourceVersion}"])
    }

    /// Where its API is reached from this side.
    pub fn api_address(&self) -> String {
        let service = format!("{}-hosted-apiserver", self.id);
        format!("{}:6443", self.kubectl(&["get", "service", &service, "-o", "jsonpath={.spec.clusterIP}"]))
    }

    /// The stored admin kubeconfig, as a file.
    pub fn admin(&self) -> PathBuf {
        let path = state().join(format!("{}-admin.kubeconfig", self.namespace));
        std::fs::write(&path, self.stored("apiserver-admin-kubeconfig", "config")).unwrap();
        path
    }

    /// The certificate in it, as PEM.
    pub fn admin_certificate(&self) -> Vec<u8> {
        let config = self.stored("apiserver-admin-kubeconfig", "config");
        let data = config.split("client-certificate-data: ").nth(1).unwrap().split_whitespace().next().unwrap();
        STANDARD.decode(data).unwrap()
    }

    /// kubectl in the hosted API with the stored admin kubeconfig.
    pub fn hosted(&self, arguments: &[&str]) -> Output {
        Command::new(tools::kubectl())
            .args(["--kubeconfig", &self.admin().display().to_string()])
            .args(["--server", &format!("https://{}", self.api_address())])
            .args(["--tls-server-name", &format!("{}-hosted-apiserver", self.id), "--request-timeout=10s"])
            .args(["--cache-dir", &state().join("kubectl").display().to_string()])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Name and address of each pod of a workload that is not on its way out.
    pub fn pods(&self, workload: &str) -> Vec<(String, String)> {
        let format =
            "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        let pods = self.kubectl(&["get", "pods", "-l", &format!("app={workload}"), "-o", format]);
        let parts = pods.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let staying = parts.filter(|parts| matches!(parts[..], [_, address, ""] if !address.is_empty()));
        staying.map(|parts| (parts[0].to_owned(), parts[1].to_owned())).collect()
    }

    /// How often each of the mesh's workloads was rolled out, and the shared ones with it.
    pub fn rollouts(&self) -> Vec<(String, u32)> {
        let revisions = |name: &str, owned: &str| {
            let format = format!(
                "jsonpath={{range .items[?(@.metadata.ownerReferences[0].name==\"{name}\")]}}{{.metadata.name}} {{end}}"
            );
            self.kubectl(&["get", owned, "-o", &format]).split_whitespace().count() as u32
        };
        let of = |kind: &str, name: String| {
            let owned = if kind == "Deployment" { "replicasets" } else { "controllerrevisions" };
            let count = revisions(&name, owned);
            (name, count)
        };
        let id = &self.id;
        vec![
            of("StatefulSet", format!("{id}-etcd")),
            of(self.shape.kind, format!("{id}-hosted-apiserver")),
            of("Deployment", format!("istiod-{id}-hosted")),
            of("Deployment", "mspider-mcpc-ckube-remote".to_owned()),
            of("Deployment", "istiod".to_owned()),
        ]
    }

    /// Proves without meshcert: every endpoint serves what is stored, login, an object made and deleted, the istiod that was started last works.
    pub fn prove(&self) {
        let etcd = format!("{}-etcd", self.id);
        let api = format!("{}-hosted-apiserver", self.id);
        let endpoints = [
            (&etcd, 2379, "etcd-certs", "server.crt"),
            (&etcd, 2380, "etcd-certs", "peer.crt"),
            (&api, 6443, "kube-certs", "apiserver.crt"),
        ];
        for (workload, port, secret, key) in endpoints {
            let stored = self.stored(secret, key);
            let pods = self.pods(workload);
            assert!(!pods.is_empty(), "{workload} has pods");
            for (pod, address) in pods {
                let served = served(&address, port);
                assert_eq!(one_line(&served), one_line(&stored), "{pod}:{port} serves what is stored");
            }
        }
        self.use_api(&["get", "namespaces"], "login");
        self.use_api(&["create", "configmap", "canary", "-n", "default"], "an object is made");
        self.use_api(&["delete", "configmap", "canary", "-n", "default"], "and deleted");
        self.istiod_works();
    }

    /// Has the hosted API do something. Right after a rollout its Service may still lead to the former pod for a moment, which refuses.
    fn use_api(&self, arguments: &[&str], what: &str) {
        let output = until(20, what, || {
            let output = self.hosted(arguments);
            let refused = String::from_utf8_lossy(&output.stderr).contains("connection refused");
            (!refused).then_some(output)
        });
        succeeded(&output, what);
    }

    /// Waits until the newest istiod of the mesh counts in the hosted API.
    pub fn istiod_works(&self) {
        let beat = || {
            let arguments =
                ["get", "configmap", "istiod", "-n", "default", "-o", "jsonpath={.metadata.annotations.beat}"];
            String::from_utf8(self.hosted(&arguments).stdout).unwrap()
        };
        let before = beat();
        let pods = self.pods(&format!("istiod-{}-hosted", self.id));
        until(20, "istiod works with the hosted API", || {
            let now = beat();
            (now != before && pods.iter().any(|(pod, _)| now.starts_with(pod.as_str()))).then_some(())
        });
    }

    /// Waits until its newest renewal is in a phase; the renewal's name.
    pub fn wait_for(&self, phase: &str, seconds: u64) -> String {
        let format = "jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.reason}{\"\\n\"}{end}";
        let mut seen = String::new();
        let start = std::time::Instant::now();
        loop {
            let output = try_kubectl(&["-n", &self.namespace, "get", "crn", "-o", format]);
            if output.status.success() {
                seen = String::from_utf8(output.stdout).unwrap();
            }
            let found = seen.lines().find(|line| line.split(' ').nth(1) == Some(phase));
            if let Some(line) = found {
                return line.split(' ').next().unwrap().to_owned();
            }
            let late = start.elapsed().as_secs() >= seconds;
            assert!(!late, "no renewal is {phase} after {seconds} s, but: {seen}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// A field of a renewal's status.
    pub fn status(&self, renewal: &str, field: &str) -> String {
        self.kubectl(&["get", "crn", renewal, "-o", &format!("jsonpath={{.status.{field}}}")])
    }

    /// Asks with kubectl for a renewal; before meshcert is started, or its first look at the mesh would ask for one of another name.
    pub fn ask(&self, force: bool) {
        crate::cluster::apply(&format!(
            "apiVersion: meshcert.dev/v1alpha1\nkind: CertificateRenewal\nmetadata: {{name: asked, namespace: {}}}\nspec: {{meshId: {}, force: {force}}}\n",
            self.namespace, self.id
        ));
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // What is left of a failure is kept for whoever looks, as objects or at least as text.
        if std::thread::panicking() {
            let shown = try_kubectl(&["-n", &self.namespace, "get", "pods,crn,events", "-o", "wide"]);
            let _ = std::fs::write(log(&format!("{}-at-failure.txt", self.namespace)), shown.stdout);
            if std::env::var_os("E2E_KEEP").is_some_and(|keep| keep == "1") {
                return;
            }
        }
        let _ = try_kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

/// The certificate that an endpoint serves, as PEM, by Python's TLS; patient, for the machine may be at its limit.
fn served(address: &str, port: u16) -> String {
    let script = format!("import ssl; print(ssl.get_server_certificate(('{address}', {port}), timeout=60))");
    succeeded(&Command::new("python3").args(["-c", &script]).output().unwrap(), &format!("{address}:{port}"))
}

/// The first certificate's base64.
fn one_line(pem: &str) -> String {
    let body = pem.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap();
    body.split("-----END").next().unwrap().split_whitespace().collect()
}
