//! The series of one shard as text, family by family; equal in both formats.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::cert::{Attribute, Certificate, Name};
use crate::inventory::Shard;
use crate::mesh::{HostedMesh, SecretRole};
use crate::metrics::family::Family;
use crate::metrics::labels::push;
use crate::secret::{SecretEntry, SecretFacts, owes_certificate};
use crate::time::UnixTime;

/// What the `secret_cluster` label of other Secrets says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretCluster {
    /// Nothing: there is one cluster, as x509-certificate-exporter knows it.
    Omitted,
    /// The cluster's name: there are several.
    Named,
}

/// The series of one shard.
#[derive(Debug, Default)]
pub struct Lines {
    /// The text of each family, in the order of [`Family::ALL`].
    pub families: [String; Family::ALL.len()],
    /// The first moment at which one of these lines is no longer true.
    pub valid_until: Option<UnixTime>,
}

/// Writes the series of a shard as they are at `now`.
pub fn render(shard: &Shard, cluster: &str, secret_cluster: SecretCluster, now: UnixTime) -> Lines {
    let mut lines = Lines::default();
    for mesh in shard.meshes.values() {
        lines.mesh(mesh, cluster, now);
    }
    let cluster = match secret_cluster {
        SecretCluster::Omitted => "",
        SecretCluster::Named => cluster,
    };
    for facts in shard.others.values() {
        for entry in &facts.entries {
            lines.other(facts, entry, cluster, now);
        }
    }
    lines
}

impl Lines {
    fn mesh(&mut self, mesh: &HostedMesh, cluster: &str, now: UnixTime) {
        let mut place = String::new();
        push(&mut place, "mesh_cluster", cluster);
        push(&mut place, "mesh_namespace", &mesh.key.namespace);
        push(&mut place, "mesh_id", mesh.key.id.as_str());
        self.sample(Family::MeshInfo, &place, 1);
        if let Some(end) = mesh.expiration {
            self.sample(Family::HostedExpiration, &place, end.0);
        }
        for role in SecretRole::ALL {
            let mut labels = place.clone();
            push(&mut labels, "secret_role", role.as_str());
            self.sample(Family::SecretPresent, &labels, i64::from(mesh.secrets[role as usize].is_some()));
        }
        self.mesh_certificates(mesh, &place);
        self.mesh_findings(mesh, &place, now);
        self.until(mesh.next_change(now));
    }

    fn mesh_certificates(&mut self, mesh: &HostedMesh, place: &str) {
        // A kubeconfig may name a user twice; one place has one series, that of the certificate which ends first.
        let mut by_place = BTreeMap::new();
        for found in &mesh.certificates {
            let mut labels = place.to_owned();
            push(&mut labels, "secret", mesh.secret_name(found.secret_role));
            push(&mut labels, "key", &found.key);
            push(&mut labels, "position", &found.position.to_string());
            let kept = by_place.entry(labels).or_insert(found);
            let rank = |c: &Certificate| (c.not_after, c.fingerprint);
            if rank(&found.certificate) < rank(&kept.certificate) {
                *kept = found;
            }
        }
        for (mut labels, found) in by_place {
            let certificate = &found.certificate;
            self.sample(Family::NotAfter, &labels, certificate.not_after.0);
            self.sample(Family::NotBefore, &labels, certificate.not_before.0);
            push(&mut labels, "component", found.component.as_str());
            push(&mut labels, "role", certificate.role.as_str());
            push(&mut labels, "subject_cn", certificate.subject.common_name().unwrap_or_default());
            push(&mut labels, "issuer_cn", certificate.issuer.common_name().unwrap_or_default());
            push(&mut labels, "serial_number", &certificate.serial_number.to_string());
            push(&mut labels, "fingerprint_sha256", &certificate.fingerprint.to_string());
            push(&mut labels, "key_algorithm", &certificate.key_algorithm.to_string());
            self.sample(Family::Info, &labels, 1);
        }
    }

    fn mesh_findings(&mut self, mesh: &HostedMesh, place: &str, now: UnixTime) {
        let series: BTreeSet<String> = mesh
            .findings_at(now)
            .iter()
            .filter(|finding| finding.reason.breaks())
            .map(|finding| {
                let mut labels = place.to_owned();
                push(&mut labels, "secret", mesh.secret_name(finding.secret_role));
                push(&mut labels, "key", &finding.key);
                push(&mut labels, "position", &finding.position.to_string());
                push(&mut labels, "reason", finding.reason.as_str());
                labels
            })
            .collect();
        for labels in series {
            self.sample(Family::Invalid, &labels, 1);
        }
    }

    fn other(&mut self, facts: &SecretFacts, entry: &SecretEntry, cluster: &str, now: UnixTime) {
        let mut place = String::new();
        push(&mut place, "secret_cluster", cluster);
        push(&mut place, "secret_key", &entry.key);
        push(&mut place, "secret_name", &facts.reference.name);
        push(&mut place, "secret_namespace", &facts.reference.namespace);
        for (labels, certificate) in distinct(&place, entry) {
            let expired = now > certificate.not_after;
            self.sample(Family::OtherNotBefore, &labels, certificate.not_before.0);
            self.sample(Family::OtherNotAfter, &labels, certificate.not_after.0);
            self.sample(Family::OtherExpired, &labels, i64::from(expired));
            self.sample(Family::OtherError, &labels, 0);
            self.until((!expired).then(|| certificate.not_after.plus(1)));
        }
        if !entry.entry.problems.is_empty() || owes_certificate(&entry.key, &entry.entry) {
            self.sample(Family::OtherError, &place, 1);
        }
    }

    fn sample(&mut self, family: Family, labels: &str, value: i64) {
        let out = &mut self.families[family as usize];
        out.push_str(family.name());
        out.push('{');
        out.push_str(labels);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "}} {value}");
    }

    fn until(&mut self, moment: Option<UnixTime>) {
        self.valid_until = self.valid_until.into_iter().chain(moment).min();
    }
}

/// The certificates of an entry with label sets that differ: a certificate that stands there twice counts once, and different ones that would
/// look alike are told apart by `discriminator`, a prefix of their fingerprints.
fn distinct<'a>(place: &str, entry: &'a SecretEntry) -> Vec<(String, &'a Certificate)> {
    let mut found: Vec<(String, &Certificate)> = entry
        .entry
        .certificates
        .iter()
        .map(|positioned| (other_labels(place, &positioned.certificate), &positioned.certificate))
        .collect();
    // Different serial numbers are different labels: nearly always all is said.
    let serials: BTreeSet<_> = found.iter().map(|(_, certificate)| &certificate.serial_number.0).collect();
    if serials.len() == found.len() {
        return found;
    }
    let mut seen = BTreeSet::new();
    found.retain(|(labels, certificate)| seen.insert((labels.clone(), certificate.fingerprint)));
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    let mut short: BTreeMap<(String, [u8; 4]), usize> = BTreeMap::new();
    for (labels, certificate) in &found {
        *alike.entry(labels.clone()).or_default() += 1;
        *short.entry((labels.clone(), prefix(certificate))).or_default() += 1;
    }
    for (labels, certificate) in &mut found {
        if alike.get(labels).is_some_and(|count| *count > 1) {
            let ambiguous = short.get(&(labels.clone(), prefix(certificate))).is_some_and(|count| *count > 1);
            let whole = certificate.fingerprint.to_string();
            let mut with = String::new();
            push(&mut with, "discriminator", if ambiguous { &whole } else { &whole[..8] });
            *labels = format!("{with},{labels}");
        }
    }
    found
}

fn prefix(certificate: &Certificate) -> [u8; 4] {
    let [a, b, c, d, ..] = certificate.fingerprint.0;
    [a, b, c, d]
}

/// In alphabetical order, as the Go client library sorts them.
fn other_labels(place: &str, certificate: &Certificate) -> String {
    let mut labels = String::with_capacity(place.len() + 256);
    for name in ISSUER {
        push_attribute(&mut labels, name, &certificate.issuer);
    }
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(place);
    push(&mut labels, "serial_number", &certificate.serial_number.to_decimal());
    for name in SUBJECT {
        push_attribute(&mut labels, name, &certificate.subject);
    }
    labels
}

fn push_attribute(labels: &mut String, (label, attribute): (&str, Attribute), name: &Name) {
    push(labels, label, name.get(&attribute).unwrap_or_default());
}

const ISSUER: [(&str, Attribute); 6] = [
    ("issuer_C", Attribute::C),
    ("issuer_CN", Attribute::Cn),
    ("issuer_L", Attribute::L),
    ("issuer_O", Attribute::O),
    ("issuer_OU", Attribute::Ou),
    ("issuer_ST", Attribute::St),
];

const SUBJECT: [(&str, Attribute); 6] = [
    ("subject_C", Attribute::C),
    ("subject_CN", Attribute::Cn),
    ("subject_L", Attribute::L),
    ("subject_O", Attribute::O),
    ("subject_OU", Attribute::Ou),
    ("subject_ST", Attribute::St),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::Position;
    use crate::cert::parse::{NamePool, Retain, read_entry};
    use crate::mesh::{Finding, Reason};
    use crate::testpki::{Ca, NOW, Pki, mk_params};

    fn mesh_lines(mesh: &HostedMesh) -> Lines {
        let mut lines = Lines::default();
        lines.mesh(mesh, "cp-1", NOW);
        lines
    }

    #[test]
    fn what_is_merely_advised_changes_no_series() {
        let mut mesh = Pki::new(300).mesh();
        let before = mesh_lines(&mesh).families;
        for reason in [Reason::WeakKey, Reason::CaEndsBeforeLeaf] {
            let (key, message) = ("apiserver.crt".into(), String::new());
            mesh.findings.push(Finding {
                secret_role: SecretRole::KubeCerts,
                key,
                position: Position::Index(0),
                reason,
                message,
            });
        }
        assert_eq!(mesh_lines(&mesh).families, before);
        assert_eq!(before[Family::Invalid as usize], "");
        assert_eq!(before[Family::NotAfter as usize].lines().count(), 12);
    }

    #[test]
    fn an_entry_without_the_certificate_that_its_key_promises_is_an_error() {
        let errors = |key: &str, text: &str| {
            let entry = std::sync::Arc::new(read_entry(text.as_bytes(), Retain::Facts, &mut NamePool::default()));
            let mut facts = Pki::new(300).facts(SecretRole::KubeCerts);
            facts.entries = [SecretEntry { key: key.into(), digest: [0; 32], entry }].into();
            let mut lines = Lines::default();
            lines.other(&facts, &facts.entries[0], "", NOW);
            lines.families[Family::OtherError as usize].clone()
        };
        let key = Ca::new("ca", 100).key();
        let error = "x509_cert_error{secret_key=\"tls.crt\",secret_name=\"demo-kube-certs\",secret_namespace=\"istio-system\"} 1\n";
        let request = key.replace("PRIVATE KEY", "CERTIFICATE REQUEST");
        for text in [&key, &request, &key.replace("PRIVATE KEY", "PKCS7")] {
            assert_eq!(errors("tls.crt", text), error);
        }
        assert_eq!(errors("tls.private", &key), "");
        assert_eq!(errors("config", "current-context: a\nusers: []"), "");
    }

    #[test]
    fn serial_numbers_that_are_alike_once_cut_make_no_equal_series() {
        let ca = Ca::new("ca", 100);
        let with = |last: u8| {
            let mut params = mk_params("same", 10, &[]);
            params.serial_number = Some(rcgen::SerialNumber::from_slice(&[&[1; 200][..], &[last]].concat()));
            ca.sign(params)
        };
        let text = format!("{}{}", with(1), with(2));
        let entry = read_entry(text.as_bytes(), Retain::Facts, &mut NamePool::default());
        let entry = SecretEntry { key: "tls.crt".into(), digest: [0; 32], entry: std::sync::Arc::new(entry) };
        let labels: BTreeSet<String> = distinct("", &entry).into_iter().map(|(labels, _)| labels).collect();
        assert_eq!(labels.len(), 2, "{labels:?}");
    }
}
