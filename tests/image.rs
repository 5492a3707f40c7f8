//! The image that `make image` built: what is in it, and that it runs as a node would run it: unpacked, its root read-only, as user 65532 without capabilities.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;
use support::daemon::{Demo, Process};
use support::helm::root;
use support::http;
use tempfile::TempDir;

const FOLDER: &str = "target/image";
/// The limit, compressed as a registry keeps it.
const LARGEST: u64 = 15 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// An image, unpacked.
struct Image {
    folder: TempDir,
    config: Value,
    layers: Vec<PathBuf>,
}

impl Image {
    /// `None` where it was not built and is not required.
    fn open() -> Option<Self> {
        let archive = root().join(FOLDER).join("meshcert.oci.tar");
        if !archive.exists() {
            assert!(std::env::var_os("MESHCERT_REQUIRE_TOOLS").is_none(), "the image is missing: run `make image`");
            eprintln!("SKIPPED: the image is missing; `make image` builds it");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let unpacked = folder.path().join("oci");
        unpack(&archive, &unpacked);
        let blob = |digest: &Value| unpacked.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
        let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let index = read(&unpacked.join("index.json"));
        let manifest = read(&blob(&index["manifests"][0]["digest"]));
        let config = read(&blob(&manifest["config"]["digest"]));
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| blob(&layer["digest"])).collect();
        Some(Self { folder, config, layers })
    }

    /// Its root file system, with a folder to mount what a pod would.
    fn unpack(&self) -> PathBuf {
        let rootfs = self.folder.path().join("rootfs");
        self.layers.iter().for_each(|layer| unpack(layer, &rootfs));
        for folder in ["etc/meshcert", "proc"] {
            std::fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        rootfs
    }
}

fn unpack(archive: &Path, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder).status().unwrap();
    assert!(done.success(), "{}", archive.display());
}

/// The image's program in its file system: mounts of its own, the root read-only, no rights.
fn contained(rootfs: &Path, arguments: &[&str]) -> Command {
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec chroot --userspec=65532:65532 \"$0\" /usr/bin/meshcert \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(rootfs)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Whether this machine lets us unpack owners and change the root. Where not, aloud: a person without root may still test the rest, and has to see what was not.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    let root = id.stdout.starts_with(b"0\n");
    if !root {
        // Past the harness, which keeps what a passing test prints to itself.
        let skipped = b"SKIPPED: only root can run the image without a container engine\n";
        std::io::stderr().write_all(skipped).unwrap();
    }
    root
}

fn output(rootfs: &Path, arguments: &[&str]) -> Output {
    contained(rootfs, arguments).output().unwrap()
}

#[test]
fn the_image_is_one_small_static_file_that_says_what_it_is() {
    let Some(image) = Image::open() else { return };
    let size: u64 = image.layers.iter().map(|layer| layer.metadata().unwrap().len()).sum();
    eprintln!("the image's layers: {size} bytes");
    assert!(size <= LARGEST, "{size} bytes");

    let config = &image.config["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!((&config["Entrypoint"][0], &config["Cmd"][0]), (&"/usr/bin/meshcert".into(), &"serve".into()));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap().to_owned();
    assert_eq!((label("version"), label("licenses")), (env!("CARGO_PKG_VERSION").to_owned(), "Apache-2.0".to_owned()));
    assert_eq!(label("revision").len(), 40);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(image.config["architecture"], architecture);

    let mut files = Vec::new();
    for layer in &image.layers {
        let listed = Command::new("tar").arg("-tf").arg(layer).output().unwrap();
        files.extend(
            String::from_utf8(listed.stdout).unwrap().lines().filter(|name| !name.ends_with('/')).map(str::to_owned),
        );
    }
    files.sort();
    assert_eq!(files, ["LICENSE", "usr/bin/meshcert"]);

    let program = std::fs::read(root().join(FOLDER).join(architecture).join("meshcert")).unwrap();
    let holds = |text: &str| program.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("/cargo/registry/"), "where its libraries come from is renamed");
    for place in [root().to_str().unwrap(), &std::env::var("HOME").unwrap()] {
        assert!(!holds(&format!("{place}/")), "where it was built is in it: {place}");
    }
}

#[test]
fn the_dockerfile_builds_with_the_toolchain_of_the_project() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (dockerfile, toolchain) = (read("Dockerfile"), read("rust-toolchain.toml"));
    let version = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{version}-")), "{version}");
}

#[test]
fn the_bill_of_materials_lists_what_is_linked_and_nothing_else() {
    let Some(_) = Image::open() else { return };
    let text = std::fs::read_to_string(root().join(FOLDER).join("meshcert.spdx.json")).unwrap();
    let sbom: Value = serde_json::from_str(&text).unwrap();
    let has = |name: &str| sbom["packages"].as_array().unwrap().iter().any(|package| package["name"] == name);
    for linked in ["kube", "rustls", "ring", "axum", "meshcert"] {
        assert!(has(linked), "{linked} is missing");
    }
    for other in ["criterion", "insta", "json-patch", "proptest"] {
        assert!(!has(other), "{other} is not in the program");
    }
}

/// Answers every question for an IPv4 address with 127.0.0.1, until the process ends. Its own address is below 127/8, so that port 53 is free.
fn start_name_server() -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.77.{high}.{}", low.max(1));
    let socket = UdpSocket::bind((address.as_str(), 53)).unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let question = &question[..length];
            let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let wants_ipv4 = question[end - 4..end - 2] == [0, 1];
            let mut answer = question[..end].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[6..12].copy_from_slice(&[0, u8::from(wants_ipv4), 0, 0, 0, 0]);
            if wants_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

/// A daemon that is ready at this address.
fn start(command: &mut Command, address: &str, log: &Path) -> Process {
    let spawned = command.stdout(Stdio::null()).stderr(std::fs::File::create(log).unwrap()).spawn();
    let mut process = Process(spawned.unwrap());
    let since = Instant::now();
    while TcpStream::connect(address).is_err() || http::request(address, "GET", "/-/ready", "").status != 200 {
        if let Some(status) = process.0.try_wait().unwrap() {
            panic!("{status}: {}", std::fs::read_to_string(log).unwrap());
        }
        assert!(since.elapsed() < PATIENCE, "it is not ready");
        std::thread::sleep(Duration::from_millis(50));
    }
    process
}

fn meshes_read(address: &str) -> usize {
    let signal = "meshcert_hosted_kube_api_certificate_expiration_timestamp_seconds{";
    http::request(address, "GET", "/metrics", "").body.lines().filter(|line| line.starts_with(signal)).count()
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn the_program_for_arm64_reads_a_cluster() {
    let Some(program) = std::env::var_os("MESHCERT_ARM64") else {
        eprintln!("SKIPPED: `make arm64` builds it and tries this");
        return;
    };
    let demo = Demo::start(&["--api-only", "--scenario", "expiring", "--meshes", "3"]);
    let (folder, address) = (TempDir::new().unwrap(), free_address());
    let mut command = Command::new("qemu-aarch64-static");
    command.arg(program).args(["serve", "--listen", &address, "--kubeconfig"]).arg(&demo.kubeconfig);
    let _process = start(&mut command, &address, &folder.path().join("log"));
    assert_eq!(meshes_read(&address), 3);
}

#[test]
fn the_container_runs_without_rights_on_a_read_only_root_and_finds_its_cluster_by_name() {
    let Some(image) = Image::open() else { return };
    if !is_root() {
        return;
    }
    let rootfs = image.unpack();
    let version = output(&rootfs, &["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("meshcert {}\n", env!("CARGO_PKG_VERSION")));
    let demo = output(&rootfs, &["demo"]);
    assert_eq!(demo.status.code(), Some(2), "the demo is left out");

    let demo = Demo::start(&["--api-only", "--scenario", "expiring", "--meshes", "3"]);
    // By name, and with a CA of its own: the image brings none.
    let ca = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let ca = base64::engine::general_purpose::STANDARD.encode(ca.pem());
    let kubeconfig = std::fs::read_to_string(&demo.kubeconfig).unwrap();
    let kubeconfig = kubeconfig.replace(
        "{server: 'http://127.0.0.1",
        &format!("{{certificate-authority-data: {ca}, server: 'http://api.meshcert.test"),
    );
    std::fs::write(rootfs.join("etc/meshcert/kubeconfig"), kubeconfig).unwrap();
    std::fs::write(rootfs.join("etc/resolv.conf"), format!("nameserver {}\n", start_name_server())).unwrap();
    let address = free_address();
    let mut command = contained(&rootfs, &["serve", "--kubeconfig", "/etc/meshcert/kubeconfig", "--listen", &address]);
    let log = image.folder.path().join("log");
    let mut process = start(&mut command, &address, &log);
    assert_eq!(http::request(&address, "GET", "/-/healthy", "").status, 200);
    assert_eq!(meshes_read(&address), 3, "{}", std::fs::read_to_string(&log).unwrap());

    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(line("Uid:"), "65532\t65532\t65532\t65532");
    assert_eq!(line("CapEff:"), "0000000000000000");
    let stopped = Command::new("kill").arg(process.0.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(process.0.wait().unwrap().success(), "it ends by itself when it is asked to");
}
