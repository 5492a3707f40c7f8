//! What the renewing Job's script does, the documented one's and meshcert's alike: `kubeadm certs renew all` and `init phase kubeconfig admin`
//! on the mounted Secrets, then merge patches of the Secrets that the environment names.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rsa::pkcs1::{EncodeRsaPrivateKey, LineEnding};
use rsa::pkcs8::EncodePrivateKey;
use serde_json::{Value, json};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;

use crate::demo::pki::{Ca, Validity, kubeconfig, params};
use crate::demo::store::Store;
use crate::time::{DAY, UnixTime};

/// Annotation of a ServiceAccount that may not write Secrets; its value is what the script prints before it says so.
const POWERLESS: &str = "demo.meshcert.dev/powerless";
/// An image whose name contains this has the kubeadm of that time, which kept the admin's organization; all others have a newer one.
const OLD: &str = "v1.28";
/// Leaves, in kubeadm's order, with the CA that signs each; those of etcd with their folder.
const LEAVES: [(&str, &str); 7] = [
    ("apiserver", "ca"),
    ("apiserver-etcd-client", "etcd/ca"),
    ("apiserver-kubelet-client", "ca"),
    ("etcd/healthcheck-client", "etcd/ca"),
    ("etcd/peer", "etcd/ca"),
    ("etcd/server", "etcd/ca"),
    ("front-proxy-client", "front-proxy-ca"),
];

/// How a run ended: the exit code, and what the kubelet finds to tell of it.
pub(super) struct Ended {
    pub(super) code: i64,
    pub(super) message: String,
}

type Files = BTreeMap<String, Vec<u8>>;

/// Runs the script of a pod's container; `None` where it is none that renews.
pub(super) fn run(store: &Store, pod: &Value, now: UnixTime) -> Option<Ended> {
    let container = &pod["spec"]["containers"][0];
    let variables: BTreeMap<&str, &str> = container["env"]
        .as_array()?
        .iter()
        .filter_map(|one| Some((one["name"].as_str()?, one["value"].as_str()?)))
        .collect();
    let [kube, etcd, admin, mesh] = ["KUBE_CERT_SECRET", "ETCD_CERT_SECRET", "KUBECONFIG_SECRET", "MESH_ID"]
        .map(|name| variables.get(name).copied().unwrap_or_default());
    if kube.is_empty() {
        return None;
    }
    let key = variables.get("KUBECONFIG_KEY").copied().unwrap_or("config");
    let script = Script { store, pod, now };
    let ended = match script.renew(mesh, [kube, etcd, admin], key) {
        Ok(message) => Ended { code: 0, message },
        Err(Failure::MayNotWrite(message)) => Ended { code: 3, message },
        Err(Failure::Other(error)) => Ended { code: 1, message: format!("{error:#}") },
    };
    Some(ended)
}

enum Failure {
    MayNotWrite(String),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

struct Script<'a> {
    store: &'a Store,
    pod: &'a Value,
    now: UnixTime,
}

impl Script<'_> {
    /// What kubeadm skipped with success.
    fn renew(&self, mesh: &str, [kube, etcd, admin]: [&str; 3], key: &str) -> Result<String, Failure> {
        for secret in [kube, etcd, admin] {
            self.may_patch(secret)?;
        }
        let mut pki = self.mounted("kube-certs")?;
        pki.extend(self.mounted("etcd-certs")?.into_iter().map(|(name, bytes)| (format!("etcd/{name}"), bytes)));
        let before = pki.clone();
        let text = |pki: &Files, name: &str| pki.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let mut skipped = Vec::new();
        for (leaf, ca) in LEAVES {
            let Some(old) = text(&pki, &format!("{leaf}.crt")) else {
                skipped.push(format!("MISSING! certificate for {leaf}"));
                continue;
            };
            let (Some(ca_certificate), Some(ca_key)) =
                (text(&pki, &format!("{ca}.crt")), text(&pki, &format!("{ca}.key")))
            else {
                skipped.push(format!("Detected external {ca}, {leaf} can't be renewed"));
                continue;
            };
            let (certificate, key) = renewed(&old, &ca_certificate, &ca_key, self.now)?;
            pki.insert(format!("{leaf}.crt"), certificate.into_bytes());
            pki.insert(format!("{leaf}.key"), key.into_bytes());
        }
        let (ca_certificate, ca_key) =
            text(&pki, "ca.crt").zip(text(&pki, "ca.key")).context("ca.crt or ca.key is missing")?;
        let ca = Ca::read(&ca_certificate, &ca_key)?;
        let server = format!("https://{mesh}-hosted-apiserver:6443");
        let image = self.pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        let organization = if image.contains(OLD) { "system:masters" } else { "kubeadm:cluster-admins" };
        let client = ca.sign(admin_params(organization, self.now), &key_pair()?.0)?;
        let config = kubeconfig(&server, &ca_certificate, &(client, key_pair()?.1));
        let changed = |folder: &str| -> Files {
            let inside = pki.iter().filter_map(|(name, bytes)| {
                let name = if folder.is_empty() { name.as_str() } else { name.strip_prefix(folder)? };
                (!name.contains('/')).then(|| (name.to_owned(), bytes.clone()))
            });
            inside.filter(|(name, bytes)| before.get(&format!("{folder}{name}")) != Some(bytes)).collect()
        };
        self.patch(kube, &changed(""))?;
        self.patch(etcd, &changed("etcd/"))?;
        self.patch(admin, &Files::from([(key.to_owned(), config.into_bytes())]))?;
        Ok(skipped.join("\n"))
    }

    fn namespace(&self) -> Arc<str> {
        self.pod["metadata"]["namespace"].as_str().unwrap_or_default().into()
    }

    fn may_patch(&self, secret: &str) -> Result<(), Failure> {
        let account = self.pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let namespace = self.namespace();
        let known = self.store.get(&("/serviceaccounts".into(), Arc::clone(&namespace), account.into()));
        match known.as_ref().and_then(|known| known.value["metadata"]["annotations"][POWERLESS].as_str()) {
            Some(printed) => Err(Failure::MayNotWrite(format!(
                "{printed}\nError from server (Forbidden): secrets {secret:?} is forbidden: User \"system:serviceaccount:{namespace}:{account}\" cannot patch resource \"secrets\""
            ))),
            None => Ok(()),
        }
    }

    fn mounted(&self, volume: &str) -> anyhow::Result<Files> {
        let volumes = self.pod["spec"]["volumes"].as_array().into_iter().flatten();
        let name = volumes
            .filter(|one| one["name"] == volume)
            .find_map(|one| one["secret"]["secretName"].as_str())
            .with_context(|| format!("the pod has no volume {volume}"))?;
        let secret = self
            .store
            .get(&("/secrets".into(), self.namespace(), name.into()))
            .with_context(|| format!("the Secret {name} is missing"))?;
        let data = secret.value["data"].as_object().into_iter().flatten();
        data.map(|(key, value)| Ok((key.clone(), STANDARD.decode(value.as_str().unwrap_or_default())?))).collect()
    }

    fn patch(&self, secret: &str, files: &Files) -> anyhow::Result<()> {
        let key = ("/secrets".into(), self.namespace(), secret.into());
        let written = self.store.update(&key, |current| {
            let mut next = current.clone();
            if current["immutable"] == true {
                return Err(crate::demo::status::Failure::invalid("data: Forbidden: field is immutable"));
            }
            for (name, bytes) in files {
                next["data"][name] = json!(STANDARD.encode(bytes));
            }
            Ok(next)
        });
        written.map(drop).map_err(|failure| anyhow::anyhow!("Error from server: {}", failure.body()["message"]))
    }
}

fn admin_params(organization: &str, now: UnixTime) -> rcgen::CertificateParams {
    let mut params = params("kubernetes-admin", Some(organization), validity(now));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn validity(now: UnixTime) -> Validity {
    Validity { not_before: now.plus(-300), not_after: now.plus(365 * DAY) }
}

/// The successor of a leaf: common name, organization, DNS names and addresses, usages; nothing else is kept.
fn renewed(old: &str, ca_certificate: &str, ca_key: &str, now: UnixTime) -> anyhow::Result<(String, String)> {
    let (_, pem) = parse_x509_pem(old.as_bytes())?;
    let old = pem.parse_x509()?;
    let subject = old.subject();
    let text = |name: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        name.and_then(|name| name.as_str().ok()).map(str::to_owned)
    };
    let common_name = text(subject.iter_common_name().next()).context("a leaf has no common name")?;
    let organization = text(subject.iter_organization().next());
    let mut params = params(&common_name, organization.as_deref(), validity(now));
    for extension in old.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(name) => {
                            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
                        }
                        GeneralName::IPAddress(octets) => params.subject_alt_names.extend(address(octets)),
                        _ => {}
                    }
                }
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let known = [
                    (usage.server_auth, ExtendedKeyUsagePurpose::ServerAuth),
                    (usage.client_auth, ExtendedKeyUsagePurpose::ClientAuth),
                ];
                params.extended_key_usages =
                    known.into_iter().filter(|(set, _)| *set).map(|(_, usage)| usage).collect();
            }
            _ => {}
        }
    }
    let (key, pem) = key_pair()?;
    Ok((Ca::read(ca_certificate, ca_key)?.sign(params, &key)?, pem))
}

fn address(octets: &[u8]) -> Option<SanType> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| SanType::IpAddress(octets.into()));
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| SanType::IpAddress(octets.into()))).ok()
}

/// An RSA key for rcgen, and as kubeadm writes it. Made once: what these certificates protect is in this process, and making one takes its time.
fn key_pair() -> anyhow::Result<(KeyPair, String)> {
    static MADE: OnceLock<Option<(String, String)>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let key = rsa::PrivateKey::new(&mut rand::rng(), 2048).ok()?;
        let ours = key.to_pkcs8_pem(LineEnding::LF).ok()?.to_string();
        Some((ours, key.to_pkcs1_pem(LineEnding::LF).ok()?.to_string()))
    });
    let (ours, theirs) = made.as_ref().context("cannot make an RSA key")?;
    Ok((KeyPair::from_pem(ours)?, theirs.clone()))
}

impl Ca {
    /// Certificate in PEM, with kubeadm's key usages.
    fn sign(&self, mut params: rcgen::CertificateParams, key: &KeyPair) -> anyhow::Result<String> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer).context("cannot sign")?.pem())
    }
}
