//! Which CA signed which certificate, by verified signature, and when a chain ends.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::cert::{CertFingerprint, Certificate, KeyAlgorithm, Name, Role};
use crate::time::UnixTime;

/// What a certificate says beyond its facts; read from its DER form when needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// DNS names of the subject alternative name.
    pub dns_names: Vec<String>,
    /// Its IP addresses.
    pub ip_addresses: Vec<String>,
    /// Its other kinds, as text.
    pub other_names: Vec<String>,
    /// Extended key usages, by OpenSSL's short name or dotted object identifier.
    pub extended_key_usages: Vec<String>,
}

/// The CA of `pool` whose key verifies the signature of `certificate`; both need their DER form. Where several do (a CA renewed with its key), the one whose chain ends last.
///
/// A signature by P-521 or by an RSA key of an unusual size, which the crypto library cannot verify, counts where the names and the key identifiers (RFC 5280 section 4.2.1.1) agree.
pub fn issuer<'a>(certificate: &Certificate, pool: &[&'a Certificate]) -> Option<&'a Certificate> {
    Chains::new(pool.iter().copied()).issuer_and_end(certificate).0
}

/// Longer chains, and loops of CAs that signed each other, end here.
const DEEPEST_CHAIN: usize = 8;

/// Signatures verified among the certificates of a mesh at most: it has some dozen; CAs made to sign each other crosswise have millions. What comes later has no known issuer.
const MOST_VERIFIED: usize = 1_000;

/// The CAs of a pool and who signed what: found when asked for, each signature verified once, for that costs more than all else that is done with a certificate.
pub struct Chains<'a> {
    by_subject: HashMap<&'a Name, Vec<&'a Certificate>>,
    issuers: HashMap<CertFingerprint, Vec<&'a Certificate>>,
    ends: HashMap<(CertFingerprint, usize), UnixTime>,
    verified: usize,
}

impl<'a> Chains<'a> {
    /// The CAs among `pool`.
    pub fn new(pool: impl IntoIterator<Item = &'a Certificate>) -> Self {
        let mut seen = HashSet::new();
        let mut by_subject: HashMap<&Name, Vec<&Certificate>> = HashMap::new();
        for ca in pool.into_iter().filter(|ca| ca.role == Role::Ca && seen.insert(ca.fingerprint)) {
            by_subject.entry(&ca.subject).or_default().push(ca);
        }
        Self { by_subject, issuers: HashMap::new(), ends: HashMap::new(), verified: 0 }
    }

    /// The [`issuer`], and min(`not_after`, the ends of the CAs above), following issuers up to a self-signed CA or one whose issuer is unknown. A self-signed CA has
    /// no other above it: its signature is not verified, for nothing rests on it.
    pub fn issuer_and_end(&mut self, certificate: &Certificate) -> (Option<&'a Certificate>, UnixTime) {
        if is_self_issued(certificate) {
            return (None, certificate.not_after);
        }
        let issuers = self.issuers(certificate).into_iter().map(|ca| (self.end(ca, 1), ca));
        let (above, ca) = issuers.max_by_key(|(end, _)| *end).unzip();
        let own = certificate.not_after;
        (ca, above.map_or(own, |above| own.min(above)))
    }

    fn end(&mut self, certificate: &Certificate, depth: usize) -> UnixTime {
        let own = certificate.not_after;
        if depth >= DEEPEST_CHAIN || is_self_issued(certificate) {
            return own;
        }
        let place = (certificate.fingerprint, depth);
        if let Some(known) = self.ends.get(&place) {
            return *known;
        }
        let above = self.issuers(certificate).into_iter().map(|ca| self.end(ca, depth + 1)).max();
        let end = above.map_or(own, |above| own.min(above));
        self.ends.insert(place, end);
        end
    }

    /// The CAs that signed a certificate.
    fn issuers(&mut self, certificate: &Certificate) -> Vec<&'a Certificate> {
        if let Some(known) = self.issuers.get(&certificate.fingerprint) {
            return known.clone();
        }
        let candidates = self.by_subject.get(&*certificate.issuer).into_iter().flatten().copied();
        let left = MOST_VERIFIED - self.verified;
        let candidates = candidates.take(left).inspect(|_| self.verified += 1);
        let issuers: Vec<_> = candidates.filter(|ca| signed(certificate, ca)).collect();
        self.issuers.insert(certificate.fingerprint, issuers.clone());
        issuers
    }
}

fn is_self_issued(certificate: &Certificate) -> bool {
    certificate.role == Role::Ca && certificate.subject == certificate.issuer
}

fn signed(certificate: &Certificate, ca: &Certificate) -> bool {
    // To the crypto library a key of another size is a bad signature.
    let is_unverifiable = matches!(ca.key_algorithm, KeyAlgorithm::Rsa(bits) if !VERIFIABLE_RSA.contains(&bits));
    let (Some(certificate), Some(ca)) = (parse(certificate), parse(ca)) else { return false };
    match certificate.verify_signature(Some(ca.public_key())) {
        Ok(()) => true,
        Err(X509Error::SignatureUnsupportedAlgorithm) => key_identifiers_agree(&certificate, &ca),
        Err(_) => is_unverifiable && key_identifiers_agree(&certificate, &ca),
    }
}

/// Bits of the RSA keys that the crypto library takes.
const VERIFIABLE_RSA: RangeInclusive<u16> = 2048..=8192;

fn parse(certificate: &Certificate) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(certificate.der.as_deref()?).ok().map(|(_, parsed)| parsed)
}

fn key_identifiers_agree(certificate: &X509Certificate<'_>, ca: &X509Certificate<'_>) -> bool {
    let authority = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    });
    let subject = ca.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    });
    authority.is_some() && authority == subject
}

impl Certificate {
    /// What its DER form says; empty where there is none.
    pub fn details(&self) -> Details {
        let mut details = Details::default();
        let Some(parsed) = parse(self) else { return details };
        for extension in parsed.iter_extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::DNSName(name) => details.dns_names.push((*name).to_owned()),
                            GeneralName::IPAddress(octets) => details.ip_addresses.push(ip_address(octets)),
                            other => details.other_names.push(other.to_string()),
                        }
                    }
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    let known = [
                        (usage.any, "anyExtendedKeyUsage"),
                        (usage.server_auth, "serverAuth"),
                        (usage.client_auth, "clientAuth"),
                        (usage.code_signing, "codeSigning"),
                        (usage.email_protection, "emailProtection"),
                        (usage.time_stamping, "timeStamping"),
                        (usage.ocsp_signing, "OCSPSigning"),
                    ];
                    details
                        .extended_key_usages
                        .extend(known.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
                    details.extended_key_usages.extend(usage.other.iter().map(|oid| oid.to_id_string()));
                }
                _ => {}
            }
        }
        details
    }
}

impl Details {
    /// All subject alternative names: DNS names, IP addresses, others.
    pub fn names(&self) -> Vec<String> {
        [&self.dns_names[..], &self.ip_addresses, &self.other_names].concat()
    }
}

/// The names by which the holder of a certificate may be known: common names, DNS names, e-mail addresses and URIs; empty where it is no certificate.
pub fn identities(der: &[u8]) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return Vec::new() };
    let common_names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut found: Vec<String> = common_names.map(str::to_owned).collect();
    for extension in parsed.iter_extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        found.extend(names.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some((*name).to_owned())
            }
            _ => None,
        }));
    }
    found
}

fn ip_address(octets: &[u8]) -> String {
    match *octets {
        [a, b, c, d] => core::net::Ipv4Addr::new(a, b, c, d).to_string(),
        _ => match <[u8; 16]>::try_from(octets) {
            Ok(octets) => core::net::Ipv6Addr::from(octets).to_string(),
            Err(_) => format!("{octets:02x?}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::cert::parse::{NamePool, Retain, read_entry};
    use crate::testpki::{NOW, mk_params};
    use crate::time::DAY;

    fn mk_ca(name: &str, days: i64) -> CertificateParams {
        let mut params = mk_params(name, days, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// A leaf of `a`, and `count` CAs `a` and `b` each, all of which verify each other's signatures.
    fn mk_hostile(count: i64) -> Vec<Certificate> {
        let key = || KeyPair::generate().unwrap();
        let (a, b) = (Issuer::new(mk_ca("a", 10), key()), Issuer::new(mk_ca("b", 10), key()));
        let mut text = mk_params("leaf", 500, &[]).signed_by(&key(), &a).unwrap().pem();
        for days in 1..=count {
            text.push_str(&mk_ca("a", days).signed_by(a.key(), &b).unwrap().pem());
            text.push_str(&mk_ca("b", days).signed_by(b.key(), &a).unwrap().pem());
        }
        let entry = read_entry(text.as_bytes(), Retain::Der, &mut NamePool::default());
        entry.certificates.into_iter().map(|found| found.certificate).collect()
    }

    #[test]
    fn cas_that_signed_each_other_crosswise_are_verified_once_each() {
        let all = mk_hostile(12);
        let mut chains = Chains::new(&all);
        let (issuer, end) = chains.issuer_and_end(&all[0]);
        assert_eq!((issuer.map(|ca| ca.not_after), end), (Some(NOW.plus(12 * DAY)), NOW.plus(12 * DAY)));
        all.iter().for_each(|certificate| _ = chains.issuer_and_end(certificate));
        assert_eq!(chains.verified, all.len() * 12);
    }

    #[test]
    fn more_signatures_than_any_mesh_has_are_not_verified() {
        let all = mk_hostile(40);
        let mut chains = Chains::new(&all);
        let found: Vec<_> = all.iter().map(|certificate| chains.issuer_and_end(certificate).0.is_some()).collect();
        assert_eq!(chains.verified, MOST_VERIFIED);
        assert!(found[0] && found.contains(&false));
    }
}
