//! The very script of the renewing Job with the real kubeadm and the real kubectl, beside what is made in process.

#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/tools.rs"]
mod tools;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use meshcert::admin::AdminKubeconfig;
use meshcert::audit::audit;
use meshcert::cert::issue::KeyType;
use meshcert::clock::SystemClock;
use meshcert::cluster::api::Api;
use meshcert::cluster::material::{STAGED, Seal};
use meshcert::demo::{self, Demo, Options, Scenario};
use meshcert::job::{self, Orders};
use meshcert::material::{Material, MeshSecrets, assemble, overlay};
use meshcert::mesh::{HostedMesh, MeshKey, Naming, SecretRole};
use meshcert::native;
use meshcert::plan::Plan;
use meshcert::policy::{Engine, Policy};
use meshcert::ports::Clock;
use meshcert::time::DAY;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use serde_json::json;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

const NAMESPACE: &str = "istio-system";

/// As kubeadm 1.31 and newer takes it.
const CONFIGURATION: &str = "
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.34.4
certificatesDir: FOLDER
apiServer: {certSANs: [MESH-hosted-apiserver, MESH-hosted-apiserver.istio-system.svc, 10.7.7.7]}
etcd: {local: {serverCertSANs: [MESH-etcd], peerCertSANs: [MESH-etcd]}}
";

struct World {
    demo: Demo,
    api: Api,
    folder: tempfile::TempDir,
}

/// What the script left behind.
struct Run {
    succeeded: bool,
    /// What it printed.
    log: String,
    /// What the kubelet finds of it.
    said: String,
    staged: MeshSecrets,
}

impl World {
    /// `None` where a tool is missing.
    async fn new() -> Option<Self> {
        tools::built("kubeadm")?;
        let options = Options {
            scenario: Scenario::Expiring,
            meshes: Some(1),
            listen: "127.0.0.1:0".parse().unwrap(),
            pace: Duration::from_millis(5),
            clock: Arc::new(SystemClock),
        };
        let demo = demo::start(options).await.unwrap();
        let api = Api::new(kube::Client::new(demo.router(), NAMESPACE));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), demo.kubeconfig()).unwrap();
        Some(Self { demo, api, folder })
    }

    fn tool(&self, name: &str) -> Command {
        let bin = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/bin");
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
        let mut command = Command::new(name);
        command.env("PATH", path).env("HOME", self.folder.path()).env("TMPDIR", self.folder.path());
        command
    }

    /// A mesh whose PKI the real kubeadm made, in the embedded cluster.
    async fn put_mesh_of_kubeadm(&self, mesh: &str) {
        let pki = self.folder.path().join("made");
        let configuration = self.folder.path().join("configuration");
        std::fs::write(
            &configuration,
            CONFIGURATION.replace("MESH", mesh).replace("FOLDER", &pki.display().to_string()),
        )
        .unwrap();
        for phase in [&["certs", "all"][..], &["kubeconfig", "super-admin"]] {
            let mut kubeadm = self.tool("kubeadm");
            kubeadm.args(["init", "phase"]).args(phase).arg("--config").arg(&configuration);
            if phase[0] == "kubeconfig" {
                kubeadm.arg("--kubeconfig-dir").arg(&pki);
            }
            let output = kubeadm.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let config = std::fs::read_to_string(pki.join("super-admin.conf")).unwrap();
        let server = format!("https://{mesh}-hosted-apiserver:6443");
        let config =
            regex::Regex::new("server: .*").unwrap().replace(&config, format!("server: {server}")).into_owned();
        std::fs::remove_file(pki.join("super-admin.conf")).unwrap();
        let etcd = files(&pki.join("etcd"));
        self.put_secret(&format!("{mesh}-kube-certs"), files(&pki)).await;
        self.put_secret(&format!("{mesh}-etcd-certs"), etcd).await;
        let admin = BTreeMap::from([("config".to_owned(), config.into_bytes())]);
        self.put_secret(&format!("{mesh}-apiserver-admin-kubeconfig"), admin).await;
    }

    async fn put_secret(&self, name: &str, files: BTreeMap<String, Vec<u8>>) {
        use base64::Engine;
        let data: BTreeMap<String, String> = files
            .into_iter()
            .map(|(key, bytes)| (key, base64::engine::general_purpose::STANDARD.encode(bytes)))
            .collect();
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": { "name": name }, "data": data });
        self.api.create(&format!("/api/v1/namespaces/{NAMESPACE}/secrets"), &secret).await.unwrap();
    }

    async fn mesh(&self, mesh: &str) -> (HostedMesh, MeshSecrets) {
        let key = MeshKey { namespace: NAMESPACE.into(), id: mesh.parse().unwrap() };
        let secrets = self.api.mesh_secrets(NAMESPACE, &Naming::default().secret_names(&key.id)).await.unwrap();
        (assemble(&Naming::default(), &key, &secrets), secrets)
    }

    /// Runs the Job's script on staged copies; `mounted` may change what the volumes hold.
    async fn run(&self, mesh: &HostedMesh, live: &MeshSecrets, mounted: impl FnOnce(&Path)) -> Run {
        let policy = policy();
        let staged = ["kube", "etcd", "admin"].map(|what| format!("{}-a1-staged-{what}", mesh.key.id));
        for role in SecretRole::ALL {
            let written = native::written(mesh, live, role);
            let (name, kind) = (&staged[role as usize], (STAGED, Seal::Open));
            self.api.create_copy(NAMESPACE, name, kind, (mesh.key.id.as_str(), "u"), &written).await.unwrap();
        }
        let orders = Orders { name: "n", renewal_uid: "u", mesh, staged: staged.clone(), policy: &policy.job };
        let job = job::manifest(&orders);
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let pki = self.folder.path().join("mounted");
        for (role, folder) in [(SecretRole::KubeCerts, pki.clone()), (SecretRole::EtcdCerts, pki.join("etcd"))] {
            std::fs::create_dir_all(&folder).unwrap();
            for (key, bytes) in live[role as usize].as_ref().unwrap().material.entries() {
                std::fs::write(folder.join(key), bytes).unwrap();
            }
        }
        mounted(&pki);
        let said = self.folder.path().join("termination-log");
        let [bash, flag] =
            ["0", "1"].map(|index| container["command"][index.parse::<usize>().unwrap()].as_str().unwrap());
        let mut script = self.tool(bash);
        script.arg(flag).arg(container["args"][0].as_str().unwrap());
        script.env("KUBECONFIG", self.folder.path().join("kubeconfig")).env("PKI", &pki).env("SAID", &said);
        for variable in container["env"].as_array().unwrap() {
            script.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
        }
        let output = tokio::task::spawn_blocking(move || script.output().unwrap()).await.unwrap();
        let log = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        let mut left = MeshSecrets::default();
        for role in SecretRole::ALL {
            left[role as usize] = self.api.secret(NAMESPACE, &staged[role as usize]).await.unwrap();
        }
        let said = std::fs::read_to_string(said).unwrap_or_default();
        Run { succeeded: output.status.success(), log, said, staged: left }
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

fn policy() -> Policy {
    Policy { engine: Engine::Job, key_type: Some(KeyType::Rsa2048), ..Policy::default() }
}

/// What the audit says to what the Job left, after it was put right.
fn objections(mesh: &HostedMesh, live: &MeshSecrets, run: &Run, policy: &Policy) -> Vec<&'static str> {
    let now = SystemClock.now();
    let plan = Plan::make("u", mesh, &[], policy, now);
    let made =
        SecretRole::ALL.map(|role| job::finish(mesh, live, &run.staged, role, policy, now, &mut rand::rng()).unwrap());
    let after = overlay(live, &made);
    let key = MeshKey { namespace: NAMESPACE.into(), id: mesh.key.id.clone() };
    let found = audit(&plan, live, &after, &assemble(&Naming::default(), &key, &after), now);
    found.into_iter().map(|objection| objection.reason).collect()
}

/// What is compared of a certificate and its key; times as the distance from now in hours.
fn fields(certificate: &[u8], key: &[u8]) -> BTreeMap<&'static str, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate).unwrap();
    let parsed: X509Certificate<'_> = pem.parse_x509().unwrap();
    let now = SystemClock.now().0;
    // To the nearest hour: one is made some seconds before the other.
    let hours = |moment: i64| format!("{:+} h", (moment - now + 1800).div_euclid(3600));
    let mut fields = BTreeMap::from([
        ("version", parsed.version().to_string()),
        ("subject", format!("{:02x?}", parsed.subject().as_raw())),
        ("issuer", format!("{:02x?}", parsed.issuer().as_raw())),
        ("not before", hours(parsed.validity().not_before.timestamp())),
        ("not after", hours(parsed.validity().not_after.timestamp())),
        (
            "serial",
            format!(
                "positive: {}, at most 8 octets: {}",
                parsed.raw_serial()[0] < 0x80,
                parsed.raw_serial().len() <= 8
            ),
        ),
        ("signature algorithm", format!("{:?}", parsed.signature_algorithm.algorithm.to_id_string())),
        (
            "public key",
            format!(
                "{:?} {}",
                parsed.public_key().algorithm.algorithm.to_id_string(),
                parsed.public_key().parsed().unwrap().key_size()
            ),
        ),
        (
            "certificate PEM",
            String::from_utf8_lossy(certificate).lines().filter(|line| line.starts_with("-----")).collect(),
        ),
        ("key PEM", String::from_utf8_lossy(key).lines().filter(|line| line.starts_with("-----")).collect()),
    ]);
    let order: Vec<String> =
        parsed.extensions().iter().map(|one| format!("{} critical: {}", one.oid, one.critical)).collect();
    fields.insert("extensions, in order", order.join(", "));
    for extension in parsed.extensions() {
        let (name, value) = match extension.parsed_extension() {
            ParsedExtension::KeyUsage(_) => ("key usage", format!("{:02x?}", extension.value)),
            ParsedExtension::ExtendedKeyUsage(_) => ("extended key usage", format!("{:02x?}", extension.value)),
            ParsedExtension::BasicConstraints(_) => ("basic constraints", format!("{:02x?}", extension.value)),
            ParsedExtension::AuthorityKeyIdentifier(_) => {
                ("authority key identifier", format!("{:02x?}", extension.value))
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let names = names.general_names.iter().map(|name| match name {
                    GeneralName::DNSName(name) => (*name).to_owned(),
                    other => other.to_string(),
                });
                ("names, in order", names.collect::<Vec<_>>().join(", "))
            }
            _ => ("another extension", extension.oid.to_id_string()),
        };
        fields.insert(name, value);
    }
    fields
}

/// Certificate and key of a leaf, PEM.
fn pair(role: SecretRole, key: &str, material: &Material) -> [Vec<u8>; 2] {
    if role == SecretRole::AdminKubeconfig {
        let admin = AdminKubeconfig::read(material.get(key).unwrap()).unwrap();
        return [admin.certificate.clone(), admin.key.to_vec()];
    }
    [key, &native::key_name(key)].map(|name| material.get(name).unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubeadm_and_native_make_the_same_but_for_the_admins_subject() {
    let Some(world) = World::new().await else { return };
    world.put_mesh_of_kubeadm("real").await;
    let (mesh, live) = world.mesh("real").await;
    assert_eq!((mesh.findings.as_slice(), mesh.leaves().count()), (&[][..], 8));
    // A hosted mesh has no service account tokens of its own to lose: they stay too.
    assert!(live[0].as_ref().unwrap().material.get("sa.key").is_some());
    assert_eq!(job::unfit(&mesh, &Policy::default(), SystemClock.now()), None, "what kubeadm made, kubeadm can renew");
    let run = world.run(&mesh, &live, |_| {}).await;
    assert!(run.succeeded, "{}", run.log);
    assert!(!run.log.contains("internet"), "no version is asked for: {}", run.log);
    assert_eq!(run.said, "");

    let now = SystemClock.now();
    let mut differences = Vec::new();
    for leaf in mesh.leaves() {
        let role = leaf.secret_role;
        let ours = native::renew(&mesh, &live, role, &Policy::default(), now, &mut rand::rng()).unwrap();
        let [ours, theirs] = [&ours, &run.staged[role as usize].as_ref().unwrap().material]
            .map(|material| pair(role, &leaf.key, material))
            .map(|[certificate, key]| fields(&certificate, &key));
        let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for name in names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)) {
            println!("{}, {name}: native {:?}, kubeadm {:?}", leaf.key, ours.get(name), theirs.get(name));
            differences.push(format!("{}: {name}", leaf.key));
        }
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/RENEWAL.md")).unwrap();
    assert_eq!(differences, ["config: subject"]);
    assert!(page.contains("differ in one field, the admin's Subject"), "docs/RENEWAL.md lists the differences");

    let repairs = job::repairs(&mesh, &run.staged, &policy());
    assert!(repairs.len() == 1 && repairs[0].contains("kubeadm wrote O=kubeadm:cluster-admins"), "{repairs:?}");
    assert_eq!(objections(&mesh, &live, &run, &policy()), Vec::<&str>::new());
    let refuse = Policy { admin_subject: meshcert::policy::AdminSubject::Refuse, ..policy() };
    assert_eq!(objections(&mesh, &live, &run, &refuse), ["SubjectChanged"]);
    // Only what kubeadm changed was written: no CA, no key of one, no service account key.
    for role in [SecretRole::KubeCerts, SecretRole::EtcdCerts] {
        let keys: Vec<&str> =
            run.staged[role as usize].as_ref().unwrap().material.entries().map(|(key, _)| key).collect();
        assert!(
            keys.iter().all(|key| !key.starts_with("ca.") && !key.starts_with("sa.") && !key.contains("-ca.")),
            "{keys:?}"
        );
    }
    assert_eq!(world.demo.meshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubeadm_skips_with_exit_code_0_is_told_and_objected_to() {
    for (gone, words) in [
        ("front-proxy-client.crt", "MISSING! certificate for the front proxy client"),
        ("front-proxy-ca.key", "Detected external front-proxy-ca"),
    ] {
        let Some(world) = World::new().await else { return };
        world.put_mesh_of_kubeadm("real").await;
        let (mesh, live) = world.mesh("real").await;
        let run = world.run(&mesh, &live, |pki| std::fs::remove_file(pki.join(gone)).unwrap()).await;
        assert!(run.succeeded, "{}", run.log);
        let said = job::tail(&run.said);
        assert!(said.contains(words) && !said.contains("kubeconfig"), "{said}");
        assert_eq!(objections(&mesh, &live, &run, &policy()), ["NotRenewed"], "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubeadm_drops_is_known_beforehand_and_objected_to_afterwards() {
    let Some(world) = World::new().await else { return };
    let (_, secrets) = world.mesh("expiring-1").await;
    let kube = &secrets[0].as_ref().unwrap();
    let text = |key: &str| String::from_utf8(kube.material.get(key).unwrap().to_vec()).unwrap();
    // The CA of the embedded cluster signs a leaf that kubeadm would never have made.
    let mut ca = CertificateParams::default();
    ca.distinguished_name = rcgen::DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, "kubernetes");
    let issuer = Issuer::new(ca, KeyPair::from_pem(&text("ca.key")).unwrap());
    let mut leaf = CertificateParams::new(vec!["expiring-1-hosted-apiserver".to_owned()]).unwrap();
    leaf.distinguished_name = rcgen::DistinguishedName::new();
    leaf.distinguished_name.push(DnType::OrganizationalUnitName, "platform");
    leaf.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    leaf.subject_alt_names.push(SanType::URI("spiffe://mesh/api".try_into().unwrap()));
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let end = SystemClock.now().plus(20 * DAY).0;
    leaf.not_after = (std::time::UNIX_EPOCH + Duration::from_secs(end.unsigned_abs())).into();
    let key = KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap().pem();
    let mut odd = Material::default();
    odd.insert("apiserver.crt", certificate.into_bytes().into());
    odd.insert("apiserver.key", key.serialize_pem().into_bytes().into());
    world.api.write_entries(NAMESPACE, &kube.name, &kube.resource_version, &odd).await.unwrap();

    let (mesh, live) = world.mesh("expiring-1").await;
    let unfit = job::unfit(&mesh, &policy(), SystemClock.now()).unwrap();
    assert_eq!(unfit.reason, "KubeadmDropsSubject", "{}", unfit.message);
    let run = world.run(&mesh, &live, |_| {}).await;
    assert!(run.succeeded, "{}", run.log);
    assert_eq!(objections(&mesh, &live, &run, &policy()), ["SubjectChanged", "SanLost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_may_not_be_written_ends_the_script_before_kubeadm_runs() {
    let Some(world) = World::new().await else { return };
    let (mesh, live) = world.mesh("expiring-1").await;
    // The mesh's own name for the copies: what is not there cannot be patched either.
    let mut elsewhere = mesh.clone();
    elsewhere.key.namespace = "nowhere".into();
    let orders = Orders {
        name: "n",
        renewal_uid: "u",
        mesh: &elsewhere,
        staged: ["a", "b", "c"].map(str::to_owned),
        policy: &policy().job,
    };
    let job = job::manifest(&orders);
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let mut script = world.tool("bash");
    script.args(["-c", container["args"][0].as_str().unwrap()]);
    script.env("KUBECONFIG", world.folder.path().join("kubeconfig"));
    for variable in container["env"].as_array().unwrap() {
        script.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    let output = tokio::task::spawn_blocking(move || script.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"");
    assert!(live.iter().all(Option::is_some));
}
