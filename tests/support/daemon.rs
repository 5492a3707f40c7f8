//! meshcert as a process.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A process that ends with the test.
pub struct Process(pub Child);

impl Process {
    pub fn start(tool: &Path, arguments: &[String]) -> Self {
        Self(Command::new(tool).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `meshcert demo`.
pub struct Demo {
    pub process: Process,
    /// Address of its page and metrics.
    pub address: String,
    pub kubeconfig: PathBuf,
    /// Everything that it printed before it was ready.
    pub printed: String,
    pub folder: TempDir,
}

impl Demo {
    /// Starts one and waits until it says that it is there.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, Stdio::null())
    }

    /// The same, with its log in a file.
    pub fn start_logging(arguments: &[&str], log: &Path) -> Self {
        Self::start_with(arguments, std::fs::File::create(log).unwrap().into())
    }

    fn start_with(arguments: &[&str], log: Stdio) -> Self {
        let folder = TempDir::new().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshcert"))
            .args(["demo", "--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--kubeconfig-out"])
            .arg(&kubeconfig)
            // Nothing is renewed while a test looks, unless it is about renewing.
            .args(if arguments.contains(&"--mode") { &[][..] } else { &["--mode", "observe"] })
            .args(arguments)
            // It is killed at the end, and what it leaves goes with the folder.
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        for line in lines.by_ref() {
            let line = line.unwrap();
            printed += &line;
            printed += "\n";
            if line.contains("meshcert status") || line.contains("meshcert serve") {
                break;
            }
        }
        // Nobody reads on, and nothing must wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let at = |prefix: &str| {
            let line = printed.lines().find(|line| line.contains(prefix)).unwrap_or_else(|| panic!("{printed}"));
            line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned()
        };
        let address = if arguments.contains(&"--api-only") { String::new() } else { at("page on") };
        Self { process: Process(child), address, kubeconfig, printed, folder }
    }

    /// Runs the real kubectl on the embedded cluster; its cache stays in the demo's folder.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        let cache = self.folder.path().join("cache");
        Command::new(super::tools::kubectl())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(cache)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// What kubectl prints; it must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        succeeded(self.try_kubectl(arguments), arguments)
    }

    /// kubectl with a manifest, and what it prints; it must succeed.
    pub fn kubectl_with(&self, manifest: &str, arguments: &[&str]) -> String {
        succeeded(self.try_kubectl_with(manifest, arguments), arguments)
    }

    /// Creates a renewal of which meshcert cannot read the status: it has begun as often as no counter counts.
    pub fn create_unreadable(&self, name: &str, mesh: &str) {
        let renewal = serde_json::json!({
            "apiVersion": "meshcert.dev/v1alpha1", "kind": "CertificateRenewal",
            "metadata": { "name": name, "namespace": "istio-system" }, "spec": { "meshId": mesh },
        });
        self.kubectl_with(&renewal.to_string(), &["create"]);
        let status = r#"{"status":{"attempt":8589934592}}"#;
        self.kubectl(&["patch", "crn", name, "--subresource=status", "--type=merge", "-p", status]);
    }

    pub fn try_kubectl_with(&self, manifest: &str, arguments: &[&str]) -> Output {
        let file = self.folder.path().join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.try_kubectl(&[arguments, &["-f", &file.display().to_string()]].concat())
    }
}

fn succeeded(output: Output, arguments: &[&str]) -> String {
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
