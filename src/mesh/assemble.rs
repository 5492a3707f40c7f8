//! From a mesh's three Secrets to its certificates, the end that counts, and what is wrong.

use std::sync::Arc;

use crate::cert::chain::{Chains, issuer};
use crate::cert::{CertFingerprint, Certificate, Entry, KeyAlgorithm, KubeconfigFacts, Position, Role};
use crate::mesh::{Component, Finding, HostedMesh, MeshCertificate, MeshKey, Reason, SecretRole};
use crate::secret::{SecretEntry, SecretFacts, promises_certificate};
use crate::time::UnixTime;

/// RSA keys below this are weak (NIST SP 800-131A).
const SHORTEST_RSA: u16 = 2048;

impl HostedMesh {
    /// Puts a mesh together from the Secrets that exist and the names that all three have or should have.
    pub fn assemble(secret_names: [Box<str>; 3], key: MeshKey, secrets: [Option<Arc<SecretFacts>>; 3]) -> Self {
        let certificates = certificates(&secrets);
        let needed = certificates.iter().filter(|found| found.needed());
        let mut mesh = Self {
            expiration: needed.map(|found| found.effective_not_after).min(),
            secret_names,
            key,
            secrets,
            certificates,
            findings: Vec::new(),
        };
        mesh.findings = mesh.lasting_findings();
        mesh
    }

    /// The name that its Secret of this role has or should have.
    pub fn secret_name(&self, role: SecretRole) -> &str {
        &self.secret_names[role as usize]
    }

    /// Where a certificate stands, in words: its Secret's name and its key.
    pub fn place_of(&self, found: &MeshCertificate) -> String {
        format!("{}, {}", self.secret_name(found.secret_role), found.key)
    }

    /// The leaves that a renewal replaces: what the hosted API needs, each the first certificate of its entry.
    pub fn leaves(&self) -> impl Iterator<Item = &MeshCertificate> {
        self.certificates.iter().filter(|found| found.needed() && found.is_first())
    }

    /// All that is wrong with it at `now`: its lasting findings and those that time brings.
    pub fn findings_at(&self, now: UnixTime) -> Vec<Finding> {
        let timed = self.certificates.iter().filter(|found| found.in_use).filter_map(|found| {
            let Certificate { not_before, not_after, role, .. } = &found.certificate;
            let (reason, message) = if now > *not_after {
                match role {
                    Role::Leaf => (Reason::Expired, format!("ended at {not_after}; renew it")),
                    Role::Ca => (
                        Reason::CaExpired,
                        format!("this CA ended at {not_after}; a new CA has to be made, renewing leaves does not help"),
                    ),
                }
            } else if now < *not_before {
                (Reason::NotYetValid, format!("is valid only from {not_before}; compare the clocks"))
            } else {
                return None;
            };
            Some(self.finding_at(found, reason, &message))
        });
        self.findings.iter().cloned().chain(timed).collect()
    }

    /// The next moment after `now` at which [`HostedMesh::findings_at`] answers differently.
    pub fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        let moments = self.certificates.iter().flat_map(|found| {
            // The last moment of validity is still valid (RFC 5280 section 4.1.2.5).
            [found.certificate.not_before, found.certificate.not_after.plus(1)]
        });
        moments.filter(|moment| *moment > now).min()
    }

    fn lasting_findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for role in SecretRole::ALL {
            match &self.secrets[role as usize] {
                None => findings.push(self.missing(role)),
                Some(secret) => {
                    self.unreadable_entries(role, secret, &mut findings);
                    self.missing_certificates(role, secret, &mut findings);
                }
            }
        }
        for found in self.certificates.iter().filter(|found| found.in_use) {
            self.broken_chain(found, &mut findings);
            if let KeyAlgorithm::Rsa(bits) = found.certificate.key_algorithm
                && bits < SHORTEST_RSA
            {
                findings.push(self.finding_at(
                    found,
                    Reason::WeakKey,
                    &format!("its RSA key has {bits} bits, fewer than {SHORTEST_RSA}"),
                ));
            }
        }
        self.kubeconfig_findings(&mut findings);
        findings
    }

    fn missing(&self, role: SecretRole) -> Finding {
        let message = format!(
            "the Secret {}/{} does not exist; restore it from a backup, the hosted API cannot restart without it",
            self.key.namespace,
            self.secret_name(role)
        );
        Finding { secret_role: role, key: "".into(), position: Position::Entry, reason: Reason::SecretMissing, message }
    }

    fn unreadable_entries(&self, role: SecretRole, secret: &SecretFacts, findings: &mut Vec<Finding>) {
        // Beside its kubeconfig a Secret may hold notes; every key is read there, for none is sure to be the kubeconfig's.
        let is_found = role == SecretRole::AdminKubeconfig && kubeconfig(secret).is_some();
        for entry in &secret.entries {
            let facts = entry.entry.kubeconfig.as_ref();
            let is_note = is_found && facts.is_none() && !promises_certificate(&entry.key);
            let matters = |position: &Position| match facts {
                Some(facts) => is_current(facts, position),
                None => !is_note || *position != Position::Entry,
            };
            for problem in entry.entry.problems.iter().filter(|problem| matters(&problem.position)) {
                let position = problem.position.clone();
                // Nothing else is written anew: an entry that begins with a leaf, of a kubeconfig its user.
                let is_replaced = !matches!(position, Position::Cluster(..))
                    && self.leaves().any(|leaf| leaf.secret_role == role && leaf.key == entry.key);
                let remedy = if is_replaced { "restore it or renew" } else { "restore it" };
                let message = format!("{}; {remedy}", problem.message);
                findings.push(self.finding(role, &entry.key, position, Reason::Unreadable(problem.reason), &message));
            }
        }
    }

    fn missing_certificates(&self, role: SecretRole, secret: &SecretFacts, findings: &mut Vec<Finding>) {
        let mut missing = |key: &str, message: &str| {
            findings.push(self.finding(role, key, Position::Entry, Reason::CertificateMissing, message));
        };
        if role == SecretRole::AdminKubeconfig {
            // What cannot be read is told in its own words, and not as missing too.
            let readable = |entry: &SecretEntry| entry.entry.problems.is_empty();
            match secret.entries.iter().find(|entry| entry.entry.kubeconfig.is_some()) {
                None if secret.entries.iter().all(readable) => {
                    missing("", "the Secret holds no kubeconfig; its key is usually `config`");
                }
                Some(found)
                    if readable(found) && !self.certificates.iter().any(|c| c.needed() && c.key == found.key) =>
                {
                    missing(&found.key, "its user has no client certificate; restore it");
                }
                _ => {}
            }
            return;
        }
        for (key, expected) in expected_certificates(role) {
            let Some(found) = secret.entries.iter().find(|entry| &*entry.key == *key) else {
                missing(
                    key,
                    &format!(
                        "the Secret has no key {key}, which kubeadm makes; restore it, a renewal makes nothing that was not there"
                    ),
                );
                continue;
            };
            let Entry { certificates, problems, .. } = &*found.entry;
            match certificates.first().map(|first| first.certificate.role) {
                None if problems.is_empty() => missing(key, "it holds no certificate; restore it"),
                Some(first) if first != *expected => {
                    let (expected, first) = (expected.as_str(), first.as_str());
                    missing(key, &format!("it must begin with a {expected}, not with a {first}; restore it"));
                }
                _ => {}
            }
        }
    }

    fn broken_chain(&self, found: &MeshCertificate, findings: &mut Vec<Finding>) {
        let Certificate { issuer, not_after, role, .. } = &found.certificate;
        if *role == Role::Ca {
            return;
        }
        if found.signed_by.is_none() {
            // A CA that is not there is told once, as missing, and not again by every leaf that it signed.
            let cas = self.certificates.iter().filter(|other| other.certificate.role == Role::Ca);
            let missing = [Component::Ca, Component::FrontProxyCa, Component::EtcdCa]
                .iter()
                .any(|component| cas.clone().all(|ca| ca.component != *component));
            if missing && cas.clone().all(|ca| ca.certificate.subject != *issuer) {
                return;
            }
            let message = format!(
                "none of the mesh's CAs signed it; it names {issuer} as its issuer; restore the ca.crt that did, or what this CA signed: a renewal replaces nothing else"
            );
            findings.push(self.finding_at(found, Reason::WrongCa, &message));
        } else if found.effective_not_after < *not_after {
            let message = format!("it outlives its CA, which ends at {}; plan a new CA", found.effective_not_after);
            findings.push(self.finding_at(found, Reason::CaEndsBeforeLeaf, &message));
        }
    }

    fn kubeconfig_findings(&self, findings: &mut Vec<Finding>) {
        let role = SecretRole::AdminKubeconfig;
        let Some((key, facts)) = self.secrets[role as usize].as_deref().and_then(kubeconfig) else { return };
        let wrong = |reason, message: &str| self.finding(role, key, Position::Entry, reason, message);
        let Some(server) = facts.server.as_deref() else {
            let message = match &facts.cluster {
                Some(cluster) => format!("its cluster {cluster} has no server"),
                None => "its current-context names no context with a cluster".to_owned(),
            };
            let message = format!(
                "{message}, so that it leads nowhere; restore it, a renewal keeps all but its certificate and key"
            );
            return findings.push(wrong(Reason::KubeconfigWrongServer, &message));
        };
        let Some(apiserver) = self.certificates.iter().find(|found| found.component == Component::Apiserver) else {
            return;
        };
        if let Some(host) = host(server) {
            let details = apiserver.certificate.details();
            let service = format!("{}-hosted-apiserver", self.key.id);
            let covered =
                details.dns_names.iter().any(|name| covers(name, &host)) || details.ip_addresses.contains(&host);
            if !covered && (host == service || host.starts_with(&format!("{service}."))) {
                let message = format!(
                    "it lacks the subject alternative name {host}, which the admin kubeconfig uses; write a server that it names into that, a renewal keeps the names"
                );
                findings.push(self.finding_at(apiserver, Reason::SanMissing, &message));
            } else if !covered {
                let message = format!(
                    "its server is {host}, neither {service} nor a name that the API server's certificate holds"
                );
                findings.push(wrong(Reason::KubeconfigWrongServer, &message));
            }
        }
        // Whoever verifies nothing needs no CA.
        if facts.insecure_skip_tls_verify {
            return;
        }
        let is_its = |position: &Position| matches!(position, Position::Cluster(..)) && is_current(facts, position);
        let trusted = self.certificates.iter().filter(|found| found.secret_role == role && is_its(&found.position));
        let trusted: Vec<&Certificate> = trusted.map(|found| &found.certificate).collect();
        // Most often it is the CA that is known to have signed it.
        let is_known = trusted.iter().any(|ca| Some(ca.fingerprint) == apiserver.signed_by);
        if is_known || issuer(&apiserver.certificate, &trusted).is_some() {
            return;
        }
        if !trusted.is_empty() {
            let message = "it trusts another CA than the one that signed the API server's certificate; write the mesh's ca.crt into it";
            findings.push(wrong(Reason::KubeconfigWrongCa, message));
        } else if !findings.iter().any(|finding| finding.secret_role == role && is_its(&finding.position)) {
            // What cannot be read is told in its own words.
            let message = "its cluster has no certificate-authority-data, so that it trusts no CA that signed the API server's certificate; write the mesh's ca.crt into it";
            findings.push(wrong(Reason::KubeconfigWrongCa, message));
        }
    }

    fn finding_at(&self, found: &MeshCertificate, reason: Reason, message: &str) -> Finding {
        self.finding(found.secret_role, &found.key, found.position.clone(), reason, message)
    }

    /// A finding whose sentence begins with the place it speaks of.
    fn finding(&self, role: SecretRole, key: &str, position: Position, reason: Reason, message: &str) -> Finding {
        let secret = self.secret_name(role);
        let place = match (key, &position) {
            ("", _) => secret.to_owned(),
            (key, Position::Entry | Position::Index(0)) => format!("{secret}, {key}"),
            (key, position) => format!("{secret}, {key}, {position}"),
        };
        Finding { secret_role: role, key: key.into(), position, reason, message: format!("{place}: {message}") }
    }
}

impl Component {
    /// What a certificate is for, by the Secret and key in which it stands.
    pub fn of(secret: SecretRole, key: &str, role: Role) -> Self {
        match (secret, key, role) {
            (SecretRole::AdminKubeconfig, _, Role::Leaf) => Self::Admin,
            (SecretRole::AdminKubeconfig, _, Role::Ca) => Self::Ca,
            (SecretRole::KubeCerts, "apiserver.crt", Role::Leaf) => Self::Apiserver,
            (SecretRole::KubeCerts, "apiserver-kubelet-client.crt", Role::Leaf) => Self::ApiserverKubeletClient,
            (SecretRole::KubeCerts, "apiserver-etcd-client.crt", Role::Leaf) => Self::ApiserverEtcdClient,
            (SecretRole::KubeCerts, "front-proxy-client.crt", Role::Leaf) => Self::FrontProxyClient,
            (SecretRole::KubeCerts, "ca.crt", Role::Ca) => Self::Ca,
            (SecretRole::KubeCerts, "front-proxy-ca.crt", Role::Ca) => Self::FrontProxyCa,
            (SecretRole::EtcdCerts, "server.crt", Role::Leaf) => Self::EtcdServer,
            (SecretRole::EtcdCerts, "peer.crt", Role::Leaf) => Self::EtcdPeer,
            (SecretRole::EtcdCerts, "healthcheck-client.crt", Role::Leaf) => Self::EtcdHealthcheckClient,
            (SecretRole::EtcdCerts, "ca.crt", Role::Ca) => Self::EtcdCa,
            _ => Self::Other,
        }
    }
}

/// The certificates that kubeadm puts into a Secret, and what the first one of each is.
fn expected_certificates(role: SecretRole) -> &'static [(&'static str, Role)] {
    match role {
        SecretRole::KubeCerts => &[
            ("ca.crt", Role::Ca),
            ("apiserver.crt", Role::Leaf),
            ("apiserver-kubelet-client.crt", Role::Leaf),
            ("apiserver-etcd-client.crt", Role::Leaf),
            ("front-proxy-ca.crt", Role::Ca),
            ("front-proxy-client.crt", Role::Leaf),
        ],
        SecretRole::EtcdCerts => &[
            ("ca.crt", Role::Ca),
            ("server.crt", Role::Leaf),
            ("peer.crt", Role::Leaf),
            ("healthcheck-client.crt", Role::Leaf),
        ],
        SecretRole::AdminKubeconfig => &[],
    }
}

/// Every certificate of the Secrets, with the CA that signed it.
fn certificates(secrets: &[Option<Arc<SecretFacts>>; 3]) -> Vec<MeshCertificate> {
    let all = || {
        SecretRole::ALL.into_iter().zip(secrets).flat_map(|(role, secret)| {
            let entries = secret.iter().flat_map(|secret| secret.entries.iter());
            entries.flat_map(move |entry| entry.entry.certificates.iter().map(move |found| (role, entry, found)))
        })
    };
    let mut chains = Chains::new(all().map(|(.., found)| &found.certificate));
    all()
        .map(|(secret_role, entry, found)| {
            let certificate = &found.certificate;
            let (signed_by, effective_not_after) = chains.issuer_and_end(certificate);
            let in_use = match &entry.entry.kubeconfig {
                Some(facts) => is_current(facts, &found.position),
                None => secret_role != SecretRole::AdminKubeconfig,
            };
            let component =
                if in_use { Component::of(secret_role, &entry.key, certificate.role) } else { Component::Other };
            MeshCertificate {
                secret_role,
                key: entry.key.clone(),
                position: found.position.clone(),
                component,
                signed_by: signed_by.map(|ca| -> CertFingerprint { ca.fingerprint }),
                effective_not_after,
                in_use,
                certificate: certificate.clone(),
            }
        })
        .collect()
}

/// Whether the current context uses this entry; where it does not resolve, every entry counts.
fn is_current(facts: &KubeconfigFacts, position: &Position) -> bool {
    match position {
        Position::User(name, _) => facts.user.as_ref().is_none_or(|user| user == name),
        Position::Cluster(name, _) => facts.cluster.as_ref().is_none_or(|cluster| cluster == name),
        Position::Entry | Position::Index(_) => true,
    }
}

fn kubeconfig(secret: &SecretFacts) -> Option<(&str, &KubeconfigFacts)> {
    secret.entries.iter().find_map(|entry| Some((&*entry.key, entry.entry.kubeconfig.as_ref()?)))
}

/// The host of a server URL as certificates have it: without scheme, port and path, in lower case, an IP address in its usual form.
fn host(server: &str) -> Option<String> {
    let host = crate::cert::kubeconfig::host(server);
    let host = host.parse().map_or_else(|_| host.to_ascii_lowercase(), |ip: core::net::IpAddr| ip.to_string());
    (!host.is_empty()).then_some(host)
}

/// Whether a DNS name of a certificate is that of a host in lower case; its first label may be `*` (RFC 9525 section 6.3).
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => host.eq_ignore_ascii_case(name),
    }
}
