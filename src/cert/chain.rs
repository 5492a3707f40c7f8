//! Which CA signed which certificate, by verified signature, and when a chain ends.

use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::cert::{CertFingerprint, Certificate, Role};
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
/// A signature by P-521, which the crypto library cannot verify, counts where the names and the key identifiers (RFC 5280 section 4.2.1.1) agree.
pub fn issuer<'a>(certificate: &Certificate, pool: &[&'a Certificate]) -> Option<&'a Certificate> {
    issuer_and_end(certificate, pool).0
}

/// The [`issuer`], and min(`not_after`, the ends of the CAs above), following issuers up to a self-signed CA or one whose issuer is unknown. Together, for
/// verifying a signature costs more than all else that is done with a certificate.
pub fn issuer_and_end<'a>(certificate: &Certificate, pool: &[&'a Certificate]) -> (Option<&'a Certificate>, UnixTime) {
    let (above, ca) = issuers(certificate, pool, 0).max_by_key(|(end, _)| *end).unzip();
    let own = certificate.not_after;
    let end = above.filter(|_| !is_self_issued(certificate)).map_or(own, |above| own.min(above));
    (ca, end)
}

/// Longer chains, and loops of CAs that signed each other, end here.
const DEEPEST_CHAIN: usize = 8;

fn effective(certificate: &Certificate, pool: &[&Certificate], depth: usize) -> UnixTime {
    let own = certificate.not_after;
    if depth >= DEEPEST_CHAIN || is_self_issued(certificate) {
        return own;
    }
    issuers(certificate, pool, depth).map(|(end, _)| end).max().map_or(own, |above| own.min(above))
}

/// The CAs that signed a certificate, each with the end of its own chain.
fn issuers<'a, 'p>(
    certificate: &'p Certificate,
    pool: &'p [&'a Certificate],
    depth: usize,
) -> impl Iterator<Item = (UnixTime, &'a Certificate)> + use<'a, 'p> {
    let candidates = pool.iter().copied().filter(|ca| ca.role == Role::Ca && ca.subject == certificate.issuer);
    let mut seen: Vec<CertFingerprint> = Vec::new();
    let distinct = candidates.filter(move |ca| {
        let new = !seen.contains(&ca.fingerprint);
        seen.push(ca.fingerprint);
        new
    });
    distinct.filter(|ca| signed(certificate, ca)).map(move |ca| (effective(ca, pool, depth + 1), ca))
}

fn is_self_issued(certificate: &Certificate) -> bool {
    certificate.role == Role::Ca && certificate.subject == certificate.issuer
}

fn signed(certificate: &Certificate, ca: &Certificate) -> bool {
    let (Some(certificate), Some(ca)) = (parse(certificate), parse(ca)) else { return false };
    match certificate.verify_signature(Some(ca.public_key())) {
        Ok(()) => true,
        Err(X509Error::SignatureUnsupportedAlgorithm) => key_identifiers_agree(&certificate, &ca),
        Err(_) => false,
    }
}

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

/// What the DER form says; empty where it is none.
pub fn details(der: &[u8]) -> Details {
    let mut details = Details::default();
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return details };
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
