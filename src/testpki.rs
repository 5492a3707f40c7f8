//! Certificates for unit tests, made when the test runs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p521::ecdsa::signature::Signer;
use p521::elliptic_curve::Generate;
use p521::pkcs8::EncodePublicKey;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use zeroize::Zeroizing;

use crate::cert::parse::{NamePool, Retain, read_entry};
use crate::material::{Material, MeshSecrets, StoredSecret, assemble};
use crate::mesh::{HostedMesh, MeshKey, Naming, SecretRole};
use crate::secret::{Class, SecretEntry, SecretFacts, SecretRef};
use crate::time::{DAY, UnixTime};

/// The present of the tests.
pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

/// A CA and the means to sign with it.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A moment as the standard library has it.
pub(crate) fn at(moment: UnixTime) -> SystemTime {
    let offset = Duration::from_secs(moment.0.unsigned_abs());
    if moment.0 < 0 { UNIX_EPOCH - offset } else { UNIX_EPOCH + offset }
}

/// Parameters of a certificate that is valid from `NOW` - 5 days until `NOW` + `days`.
pub(crate) fn mk_params(common_name: &str, days: i64, dns_names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(common_name.to_owned()));
    params.subject_alt_names = dns_names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
    params.not_before = at(NOW.plus(-5 * DAY)).into();
    params.not_after = at(NOW.plus(days * DAY)).into();
    params
}

impl Ca {
    pub(crate) fn new(common_name: &str, days: i64) -> Self {
        Self::with_key(common_name, days, KeyPair::generate().unwrap())
    }

    fn params(common_name: &str, days: i64) -> CertificateParams {
        let mut params = mk_params(common_name, days, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params
    }

    pub(crate) fn with_key(common_name: &str, days: i64, key: KeyPair) -> Self {
        let params = Self::params(common_name, days);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A leaf in PEM.
    pub(crate) fn leaf(&self, common_name: &str, days: i64, dns_names: &[&str]) -> String {
        self.pair(common_name, days, dns_names).0
    }

    /// A leaf and its key in PEM.
    pub(crate) fn pair(&self, common_name: &str, days: i64, dns_names: &[&str]) -> (String, String) {
        self.pair_of(mk_params(common_name, days, dns_names))
    }

    /// The same of one's own making.
    pub(crate) fn pair_of(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// One that was made before.
    pub(crate) fn read(pem: &[u8], key: &[u8]) -> Self {
        let name = |parsed: &x509_parser::certificate::X509Certificate<'_>| {
            parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
        };
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).unwrap();
        let name = name(&block.parse_x509().unwrap());
        let key = KeyPair::from_pem(std::str::from_utf8(key).unwrap()).unwrap();
        let issuer = Issuer::new(Self::params(&name, 3650), key);
        Self { pem: String::from_utf8(pem.to_vec()).unwrap(), issuer }
    }

    /// A certificate of one's own making.
    pub(crate) fn sign(&self, params: CertificateParams) -> String {
        self.pair_of(params).0
    }

    /// Its key in PEM.
    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// A CA on P-521, which rcgen with ring cannot make: its certificates are written out by hand (RFC 5280 section 4.1).
pub(crate) struct P521Ca {
    pub(crate) pem: String,
    name: String,
    key: p521::SecretKey,
}

impl P521Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = p521::SecretKey::generate_from_rng(&mut rand::rng());
        let extensions = [
            extension(&[0x55, 0x1d, 0x13], &tlv(0x30, &[&tlv(0x01, &[&[0xff]])])),
            extension(&[0x55, 0x1d, 0x0e], &tlv(0x04, &[&key_identifier(&key)])),
        ];
        let ca = Self { pem: String::new(), name: name.to_owned(), key };
        Self { pem: ca.sign(name, 3650, &ca.key, &extensions.concat()), ..ca }
    }

    /// A leaf on P-521 in PEM.
    pub(crate) fn leaf(&self, name: &str, days: i64) -> String {
        let identifier = tlv(0x30, &[&tlv(0x80, &[&key_identifier(&self.key)])]);
        let key = p521::SecretKey::generate_from_rng(&mut rand::rng());
        self.sign(name, days, &key, &extension(&[0x55, 0x1d, 0x23], &identifier))
    }

    fn sign(&self, name: &str, days: i64, key: &p521::SecretKey, extensions: &[u8]) -> String {
        // ecdsa-with-SHA512.
        let algorithm = tlv(0x30, &[&tlv(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04]])]);
        let content = tlv(
            0x30,
            &[
                &tlv(0xa0, &[&tlv(0x02, &[&[2]])]),
                &tlv(0x02, &[&[0x52, 0x10]]),
                &algorithm,
                &common_name(&self.name),
                &tlv(0x30, &[&utc_time(NOW.plus(-5 * DAY)), &utc_time(NOW.plus(days * DAY))]),
                &common_name(name),
                key.public_key().to_public_key_der().unwrap().as_bytes(),
                &tlv(0xa3, &[&tlv(0x30, &[extensions])]),
            ],
        );
        let signature: p521::ecdsa::DerSignature = p521::ecdsa::SigningKey::from(&self.key).sign(&content);
        let signature = tlv(0x03, &[&[0], signature.as_bytes()]);
        let der = tlv(0x30, &[&content, &algorithm, &signature]);
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
    }
}

/// Tag, length, content (X.690); all of it shorter than 64 KiB.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = match (high, low) {
        (0, short @ 0..0x80) => vec![short],
        (0, low) => vec![0x81, low],
        (high, low) => vec![0x82, high, low],
    };
    [&[tag][..], &length, &content].concat()
}

fn extension(identifier: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(0x30, &[&tlv(0x06, &[identifier]), &tlv(0x04, &[value])])
}

fn common_name(name: &str) -> Vec<u8> {
    let attribute = tlv(0x30, &[&tlv(0x06, &[&[0x55, 0x04, 0x03]]), &tlv(0x0c, &[name.as_bytes()])]);
    tlv(0x30, &[&tlv(0x31, &[&attribute])])
}

fn utc_time(moment: UnixTime) -> Vec<u8> {
    let digits: String = moment.to_string().chars().filter(char::is_ascii_digit).collect();
    tlv(0x17, &[&digits.as_bytes()[2..], b"Z"])
}

fn key_identifier(key: &p521::SecretKey) -> Vec<u8> {
    let key = key.public_key().to_public_key_der().unwrap();
    ring::digest::digest(&ring::digest::SHA256, key.as_bytes()).as_ref()[..20].to_vec()
}

/// An admin's certificate and key, as kubeadm makes them.
pub(crate) fn mk_admin(ca: &Ca, organization: &str, days: i64) -> (String, String) {
    let mut params = mk_params("kubernetes-admin", days, &[]);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, "kubernetes-admin");
    ca.pair_of(params)
}

/// The mesh `demo` with all its keys; leaves end in `days`.
pub(crate) fn mk_secrets(days: i64) -> MeshSecrets {
    let cas = [Ca::new("kubernetes", 3650), Ca::new("front-proxy-ca", 3650), Ca::new("etcd-ca", 3650)];
    let [ca, front, etcd_ca] = &cas;
    let mut kube = Material::default();
    let mut etcd = Material::default();
    let put = |material: &mut Material, name: &str, (certificate, key): (String, String)| {
        material.insert(&format!("{name}.crt"), Zeroizing::new(certificate.into_bytes()));
        material.insert(&format!("{name}.key"), Zeroizing::new(key.into_bytes()));
    };
    put(&mut kube, "ca", (ca.pem.clone(), ca.key()));
    put(&mut kube, "front-proxy-ca", (front.pem.clone(), front.key()));
    put(&mut kube, "apiserver", ca.pair("kube-apiserver", days, &["demo-hosted-apiserver", "kubernetes"]));
    put(&mut kube, "apiserver-kubelet-client", ca.pair("kube-apiserver-kubelet-client", days, &[]));
    put(&mut kube, "apiserver-etcd-client", etcd_ca.pair("kube-apiserver-etcd-client", days, &[]));
    put(&mut kube, "front-proxy-client", front.pair("front-proxy-client", days, &[]));
    kube.insert("sa.key", Zeroizing::new(b"account".to_vec()));
    put(&mut etcd, "ca", (etcd_ca.pem.clone(), etcd_ca.key()));
    for name in ["server", "peer", "healthcheck-client"] {
        put(&mut etcd, name, etcd_ca.pair(name, days, &["demo-etcd"]));
    }
    let (certificate, key) = ca.pair("kubernetes-admin", days, &[]);
    let config = kubeconfig(SERVER, &ca.pem, &certificate).replace("c2VjcmV0LWtleQ==", &STANDARD.encode(key));
    let mut admin = Material::default();
    admin.insert("config", Zeroizing::new(config.into_bytes()));
    let mut materials = [Some(kube), Some(etcd), Some(admin)];
    SecretRole::ALL.map(|role| {
        Some(StoredSecret {
            name: Naming::default().secret_name(&"demo".parse().unwrap(), role),
            uid: format!("uid-{}", role.as_str()),
            resource_version: "1".to_owned(),
            immutable: false,
            paused: false,
            material: materials[role as usize].take().unwrap(),
        })
    })
}

/// The mesh that they make.
pub(crate) fn mesh_of(secrets: &MeshSecrets) -> HostedMesh {
    let key = MeshKey { namespace: "istio-system".into(), id: "demo".parse().unwrap() };
    assemble(&Naming::default(), &key, secrets)
}

/// The three Secrets of the mesh `demo`, shaped as kubeadm's; keys and values can be changed before they are read.
pub(crate) struct Pki {
    pub(crate) secrets: [BTreeMap<&'static str, String>; 3],
    pub(crate) ca: Ca,
    pub(crate) etcd_ca: Ca,
}

pub(crate) const SERVER: &str = "https://demo-hosted-apiserver:6443";

impl Pki {
    /// Leaves end in `days`, CAs in ten years.
    pub(crate) fn new(days: i64) -> Self {
        let (ca, front, etcd_ca) =
            (Ca::new("kubernetes", 3650), Ca::new("front-proxy-ca", 3650), Ca::new("etcd-ca", 3650));
        let kube = BTreeMap::from([
            ("ca.crt", ca.pem.clone()),
            ("front-proxy-ca.crt", front.pem.clone()),
            ("apiserver.crt", ca.leaf("kube-apiserver", days, &["demo-hosted-apiserver"])),
            ("apiserver-kubelet-client.crt", ca.leaf("kube-apiserver-kubelet-client", days, &[])),
            ("apiserver-etcd-client.crt", etcd_ca.leaf("kube-apiserver-etcd-client", days, &[])),
            ("front-proxy-client.crt", front.leaf("front-proxy-client", days, &[])),
        ]);
        let etcd = BTreeMap::from([
            ("ca.crt", etcd_ca.pem.clone()),
            ("server.crt", etcd_ca.leaf("demo-etcd-0", days, &[])),
            ("peer.crt", etcd_ca.leaf("demo-etcd-0", days, &[])),
            ("healthcheck-client.crt", etcd_ca.leaf("kube-etcd-healthcheck-client", days, &[])),
        ]);
        let admin = ca.leaf("kubernetes-admin", days, &[]);
        let config = BTreeMap::from([("config", kubeconfig(SERVER, &ca.pem, &admin))]);
        Self { secrets: [kube, etcd, config], ca, etcd_ca }
    }

    /// The same with the usages that kubeadm gives: it renews nothing without any.
    pub(crate) fn kubeadm(days: i64) -> Self {
        let mut pki = Self::new(days);
        let renew = |ca: &Ca, name: &str, dns_names: &[&str]| {
            let mut params = mk_params(name, days, dns_names);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            ca.sign(params)
        };
        let front = Ca::new("front-proxy-ca", 3650);
        let kube = [
            ("apiserver.crt", renew(&pki.ca, "kube-apiserver", &["demo-hosted-apiserver"])),
            ("apiserver-kubelet-client.crt", renew(&pki.ca, "kube-apiserver-kubelet-client", &[])),
            ("apiserver-etcd-client.crt", renew(&pki.etcd_ca, "kube-apiserver-etcd-client", &[])),
            ("front-proxy-client.crt", renew(&front, "front-proxy-client", &[])),
            ("front-proxy-ca.crt", front.pem.clone()),
        ];
        let etcd = ["server", "peer", "healthcheck-client"].map(|name| renew(&pki.etcd_ca, name, &[]));
        pki.secrets[SecretRole::KubeCerts as usize].extend(kube);
        pki.secrets[SecretRole::EtcdCerts as usize]
            .extend(["server.crt", "peer.crt", "healthcheck-client.crt"].into_iter().zip(etcd));
        pki
    }

    pub(crate) fn set(&mut self, role: SecretRole, key: &'static str, value: String) {
        self.secrets[role as usize].insert(key, value);
    }

    pub(crate) fn facts(&self, role: SecretRole) -> SecretFacts {
        let naming = Naming::default();
        let mesh = "demo".parse().unwrap();
        let mut names = NamePool::default();
        let entries = self.secrets[role as usize].iter().map(|(key, value)| SecretEntry {
            key: (*key).into(),
            digest: [0; 32],
            entry: Arc::new(read_entry(value.as_bytes(), Retain::Der, &mut names)),
        });
        SecretFacts {
            reference: SecretRef { namespace: "istio-system".into(), name: naming.secret_name(&mesh, role).into() },
            uid: "u".into(),
            resource_version: "1".into(),
            paused: false,
            class: Class::Mesh(mesh, role),
            entries: entries.collect(),
        }
    }

    pub(crate) fn mesh(&self) -> HostedMesh {
        self.mesh_of(SecretRole::ALL.map(Some))
    }

    pub(crate) fn mesh_of(&self, present: [Option<SecretRole>; 3]) -> HostedMesh {
        let key = MeshKey { namespace: "istio-system".into(), id: "demo".parse().unwrap() };
        let secrets = present.map(|role| role.map(|role| Arc::new(self.facts(role))));
        HostedMesh::assemble(Naming::default().secret_names(&key.id), key, secrets)
    }
}

/// A kubeconfig with one context, as kubeadm writes it.
pub(crate) fn kubeconfig(server: &str, ca: &str, client: &str) -> String {
    let (ca, client) = (STANDARD.encode(ca), STANDARD.encode(client));
    format!(
        "apiVersion: v1
kind: Config
current-context: kubernetes-admin@kubernetes
clusters:
- name: kubernetes
  cluster: {{server: '{server}', certificate-authority-data: {ca}}}
contexts:
- name: kubernetes-admin@kubernetes
  context: {{cluster: kubernetes, user: kubernetes-admin}}
users:
- name: kubernetes-admin
  user: {{client-certificate-data: {client}, client-key-data: c2VjcmV0LWtleQ==}}
"
    )
}
