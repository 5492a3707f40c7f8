//! Certificates of a hosted mesh, shaped as kubeadm shapes them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::time::{DAY, UnixTime};

/// CAs live ten years, as kubeadm's.
const CA_DAYS: i64 = 3650;

/// The data of a mesh's three Secrets, by key; values in PEM.
pub(super) struct Pki {
    pub(super) kube: BTreeMap<String, String>,
    pub(super) etcd: BTreeMap<String, String>,
    pub(super) kubeconfig: String,
}

/// When the leaves begin and end.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

/// A CA that signs.
pub(super) struct Ca {
    pem: String,
    key: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

struct Leaf<'a> {
    common_name: &'a str,
    organization: Option<&'a str>,
    dns_names: &'a [String],
    usages: &'a [ExtendedKeyUsagePurpose],
}

impl Pki {
    /// Makes everything that `kubeadm init phase certs all` and `kubeconfig admin` would, with fresh P-256 keys (kubeadm's `encryptionAlgorithm: ECDSA-P256`).
    pub(super) fn new(mesh: &str, namespace: &str, validity: Validity) -> anyhow::Result<Self> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let begin = validity.not_before.plus(-DAY);
        let ca = Ca::new("kubernetes", begin)?;
        let front_proxy_ca = Ca::new("front-proxy-ca", begin)?;
        let etcd_ca = Ca::new("etcd-ca", begin)?;
        let service = format!("{mesh}-hosted-apiserver");
        let mut api_names: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
                .map(str::to_owned)
                .into();
        api_names.extend(["", ".", ".svc", ".svc.cluster.local"].map(|end| match end {
            "" => service.clone(),
            "." => format!("{service}.{namespace}"),
            end => format!("{service}.{namespace}{end}"),
        }));
        let etcd_name = format!("{mesh}-etcd-0");
        let etcd_names =
            [format!("{mesh}-etcd"), etcd_name.clone(), format!("{mesh}-etcd.{namespace}.svc"), "localhost".to_owned()];
        let leaf = |common_name, organization, dns_names, usages| Leaf { common_name, organization, dns_names, usages };
        let masters = Some("system:masters");
        let mut kube = BTreeMap::new();
        let mut etcd = BTreeMap::new();
        for (name, ca) in [("ca", &ca), ("front-proxy-ca", &front_proxy_ca)] {
            put(&mut kube, name, (ca.pem.clone(), ca.key.clone()));
        }
        put(&mut kube, "apiserver", ca.issue(&leaf("kube-apiserver", None, &api_names, &[ServerAuth]), validity)?);
        put(
            &mut kube,
            "apiserver-kubelet-client",
            ca.issue(&leaf("kube-apiserver-kubelet-client", masters, &[], &[ClientAuth]), validity)?,
        );
        put(
            &mut kube,
            "apiserver-etcd-client",
            etcd_ca.issue(&leaf("kube-apiserver-etcd-client", None, &[], &[ClientAuth]), validity)?,
        );
        put(
            &mut kube,
            "front-proxy-client",
            front_proxy_ca.issue(&leaf("front-proxy-client", None, &[], &[ClientAuth]), validity)?,
        );
        let account = KeyPair::generate().context("cannot make a key")?;
        kube.insert("sa.key".to_owned(), account.serialize_pem());
        kube.insert("sa.pub".to_owned(), account.public_key_pem());
        put(&mut etcd, "ca", (etcd_ca.pem.clone(), etcd_ca.key.clone()));
        for name in ["server", "peer"] {
            put(
                &mut etcd,
                name,
                etcd_ca.issue(&leaf(&etcd_name, None, &etcd_names, &[ServerAuth, ClientAuth]), validity)?,
            );
        }
        put(
            &mut etcd,
            "healthcheck-client",
            etcd_ca.issue(&leaf("kube-etcd-healthcheck-client", None, &[], &[ClientAuth]), validity)?,
        );
        let admin = ca.issue(&leaf("kubernetes-admin", masters, &[], &[ClientAuth]), validity)?;
        let kubeconfig = kubeconfig(&format!("https://{service}:6443"), &ca.pem, &admin);
        Ok(Self { kube, etcd, kubeconfig })
    }
}

/// A self-signed certificate for other Secrets.
pub(super) fn self_signed(common_name: &str, validity: Validity) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params(common_name, None, validity).self_signed(&key).context("cannot sign")?;
    Ok((certificate.pem(), key.serialize_pem()))
}

impl Ca {
    /// One that was made before, from its certificate and key.
    pub(super) fn read(pem: &str, key: &str) -> anyhow::Result<Self> {
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes())?;
        let certificate = parsed.parse_x509()?;
        let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let begin = UnixTime(certificate.validity().not_before.timestamp());
        let params = Self::params(common_name.context("the CA has no common name")?, begin)?;
        let signer = KeyPair::from_pem(key).context("the CA's key cannot be read")?;
        Ok(Self { pem: pem.to_owned(), key: key.to_owned(), issuer: Issuer::new(params, signer) })
    }

    fn params(common_name: &str, begin: UnixTime) -> anyhow::Result<CertificateParams> {
        let mut params =
            params(common_name, None, Validity { not_before: begin, not_after: begin.plus(CA_DAYS * DAY) });
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::DnsName(common_name.try_into()?)];
        Ok(params)
    }

    fn new(common_name: &str, begin: UnixTime) -> anyhow::Result<Self> {
        let params = Self::params(common_name, begin)?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let pem = params.self_signed(&key).context("cannot sign")?.pem();
        Ok(Self { pem, key: key.serialize_pem(), issuer: Issuer::new(params, key) })
    }

    /// Certificate and key in PEM.
    fn issue(&self, leaf: &Leaf<'_>, validity: Validity) -> anyhow::Result<(String, String)> {
        let mut params = params(leaf.common_name, leaf.organization, validity);
        for name in leaf.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = leaf.usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign")?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn put(secret: &mut BTreeMap<String, String>, name: &str, (certificate, key): (String, String)) {
    secret.insert(format!("{name}.crt"), certificate);
    secret.insert(format!("{name}.key"), key);
}

/// Subject and validity.
pub(super) fn params(common_name: &str, organization: Option<&str>, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = system_time(validity.not_before).into();
    params.not_after = system_time(validity.not_after).into();
    params
}

fn system_time(moment: UnixTime) -> SystemTime {
    let offset = Duration::from_secs(moment.0.unsigned_abs());
    if moment.0 < 0 { UNIX_EPOCH - offset } else { UNIX_EPOCH + offset }
}

/// As `kubeadm init phase kubeconfig admin` writes it.
pub(super) fn kubeconfig(server: &str, ca: &str, (certificate, key): &(String, String)) -> String {
    let [ca, certificate, key] = [ca, certificate, key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {server}
  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: kubernetes-admin
  name: kubernetes-admin@kubernetes
current-context: kubernetes-admin@kubernetes
kind: Config
users:
- name: kubernetes-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"
    )
}
