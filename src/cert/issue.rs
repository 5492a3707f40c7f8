//! Re-issues leaf certificates as `kubeadm certs renew` does (key usages, validity, PEM types), and keeps more: the Subject byte for byte,
//! every subject alternative name and extended key usage, and no end beyond the CA's. Time and randomness are arguments.

use rsa::rand_core::CryptoRng;
use x509_parser::oid_registry::{OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::cert::pem;
use crate::time::UnixTime;

mod der;
mod keys;

pub use keys::{KeyType, PrivateKey};

/// Backdating against clocks that lag behind, as newer kubeadm has it.
const BACKDATE: i64 = 300;

/// Why a certificate cannot be issued, or a key not be used. No variant holds key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The old certificate or the CA's is no certificate.
    #[error("the certificate cannot be read")]
    UnreadableCertificate,
    /// No private key of a known form.
    #[error("the private key cannot be read; RSA, P-256 and P-384 keys in PKCS#1, SEC1 or PKCS#8 PEM are known")]
    UnreadableKey,
    /// Certificate and key are not a pair.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate may not sign others.
    #[error("the certificate is no CA")]
    NotACa,
    /// Nothing that it signs would be valid.
    #[error("the CA ended at {0}; a new CA has to be made first")]
    CaExpired(UnixTime),
    /// A key could not be made or used.
    #[error("the key operation failed")]
    Crypto,
}

/// A CA that can sign.
pub struct CaSigner {
    der: Vec<u8>,
    key: PrivateKey,
    not_before: UnixTime,
    not_after: UnixTime,
}

/// A new leaf.
pub struct Issued {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// Its key in PEM: PKCS#1 for RSA, SEC1 for elliptic curves.
    pub key_pem: Zeroizing<String>,
    /// Its last moment of validity.
    pub not_after: UnixTime,
}

impl CaSigner {
    /// Reads a CA's certificate (DER) and key (PEM).
    ///
    /// # Errors
    /// One of them cannot be read, they are no pair, or the certificate is no CA's.
    pub fn read(certificate: &[u8], key_pem: &[u8]) -> Result<Self, IssueError> {
        let parsed = parse(certificate)?;
        if !is_ca(&parsed) {
            return Err(IssueError::NotACa);
        }
        let key = PrivateKey::read(key_pem)?;
        if parsed.public_key().raw != key.public_key_info()? {
            return Err(IssueError::KeyMismatch);
        }
        let [not_before, not_after] =
            [parsed.validity().not_before, parsed.validity().not_after].map(|moment| UnixTime(moment.timestamp()));
        Ok(Self { key, not_before, not_after, der: certificate.to_vec() })
    }

    /// Its last moment of validity.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
}

/// Whether a key belongs to the first certificate of a file.
///
/// # Errors
/// One of them cannot be read.
pub fn key_matches(certificate_pem: &[u8], key_pem: &[u8]) -> Result<bool, IssueError> {
    let der = first_certificate(certificate_pem)?;
    Ok(parse(&der)?.public_key().raw == PrivateKey::read(key_pem)?.public_key_info()?)
}

/// Issues a successor of the first certificate of a file, with a fresh key, for `lifetime` seconds but no longer than the CA lives. The CAs that stand behind
/// the old one stand behind the new one: whoever trusts the root alone needs them.
///
/// # Errors
/// The old certificate cannot be read, the CA has ended, or no key could be made.
pub fn reissue(
    old_pem: &[u8],
    ca: &CaSigner,
    key_type: KeyType,
    lifetime: i64,
    now: UnixTime,
    rng: &mut impl CryptoRng,
) -> Result<Issued, IssueError> {
    if now >= ca.not_after {
        return Err(IssueError::CaExpired(ca.not_after));
    }
    let mut olds = pem::all(old_pem, "CERTIFICATE");
    let old = olds.next().flatten().ok_or(IssueError::UnreadableCertificate)?;
    let old = parse(&old)?;
    let issuer = parse(&ca.der)?;
    let key = PrivateKey::generate(key_type, rng)?;
    let not_before = now.plus(-BACKDATE).max(ca.not_before);
    let not_after = now.plus(lifetime).min(ca.not_after);
    let extension = |oid: &_| old.extensions().iter().find(|extension| extension.oid == *oid);
    let kept = |oid: &_| extension(oid).map(|found| der::extension(&found.oid, found.critical, found.value));
    let authority = issuer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(der::authority_key_identifier(id.0)),
        _ => None,
    });
    // The order of Go's crypto/x509, so that a difference to kubeadm's is a difference in substance.
    let extensions: Vec<Vec<u8>> = [
        Some(der::key_usage_signature_and_encipherment()),
        kept(&OID_X509_EXT_EXTENDED_KEY_USAGE),
        Some(der::not_a_ca()),
        authority,
        kept(&OID_X509_EXT_SUBJECT_ALT_NAME),
    ]
    .into_iter()
    .flatten()
    .collect();
    let algorithm = ca.key.signature_algorithm();
    let to_be_signed = der::sequence(&[
        der::version_3(),
        der::positive_integer(&serial_number(rng)),
        algorithm.clone(),
        issuer.subject().as_raw().to_vec(),
        der::sequence(&[der::time(not_before), der::time(not_after)]),
        old.subject().as_raw().to_vec(),
        key.public_key_info()?,
        der::explicit(3, &der::sequence(&extensions)),
    ]);
    let signature = ca.key.sign(&to_be_signed)?;
    let certificate = der::sequence(&[to_be_signed, algorithm, der::bit_string(&signature)]);
    let behind = olds.flatten().filter(|der| parse(der).is_ok_and(|parsed| is_ca(&parsed)));
    let chain = [certificate].into_iter().chain(behind).map(|der| pem::encode("CERTIFICATE", &der));
    Ok(Issued { certificate_pem: chain.collect(), key_pem: key.to_pem()?, not_after })
}

/// Random, positive, at most 63 bits, as kubeadm's.
fn serial_number(rng: &mut impl CryptoRng) -> [u8; 8] {
    let mut bytes = [0; 8];
    rng.fill_bytes(&mut bytes);
    bytes[0] &= 0x7f;
    bytes[7] |= 1;
    bytes
}

fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|extension| extension.value.ca)
}

fn first_certificate(pem_bytes: &[u8]) -> Result<Vec<u8>, IssueError> {
    pem::first(pem_bytes, "CERTIFICATE").ok_or(IssueError::UnreadableCertificate)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IssueError> {
    X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| IssueError::UnreadableCertificate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::Certificate;
    use crate::cert::KeyAlgorithm;
    use crate::cert::chain::issuer;
    use crate::cert::parse::{NamePool, Retain, read_entry};
    use crate::testpki::{Ca, NOW};
    use crate::time::DAY;

    fn read(pem: &str) -> Certificate {
        let mut entry = read_entry(pem.as_bytes(), Retain::Der, &mut NamePool::default());
        assert_eq!(entry.problems, []);
        entry.certificates.remove(0).certificate
    }

    fn signer(ca: &Ca) -> CaSigner {
        CaSigner::read(&first_certificate(ca.pem.as_bytes()).unwrap(), ca.key().as_bytes()).unwrap()
    }

    #[test]
    fn every_kind_of_key_is_made_read_again_and_verified() {
        let ca = Ca::new("kubernetes", 3650);
        let old = ca.leaf("kube-apiserver", 20, &["a", "b.c"]);
        for (kind, algorithm, label) in [
            (KeyType::Rsa2048, KeyAlgorithm::Rsa(2048), "-----BEGIN RSA PRIVATE KEY-----"),
            (KeyType::EcdsaP256, KeyAlgorithm::P256, "-----BEGIN EC PRIVATE KEY-----"),
            (KeyType::EcdsaP384, KeyAlgorithm::P384, "-----BEGIN EC PRIVATE KEY-----"),
        ] {
            let issued = reissue(old.as_bytes(), &signer(&ca), kind, 365 * DAY, NOW, &mut rand::rng()).unwrap();
            assert!(issued.key_pem.starts_with(label), "{}", kind.as_str());
            assert_eq!(key_matches(issued.certificate_pem.as_bytes(), issued.key_pem.as_bytes()), Ok(true));
            let (new, before) = (read(&issued.certificate_pem), read(&old));
            assert_eq!((new.key_algorithm, KeyType::like(new.key_algorithm)), (algorithm, kind));
            assert_eq!((&new.subject, &new.issuer), (&before.subject, &before.issuer));
            assert_eq!((new.not_before, new.not_after), (NOW.plus(-300), NOW.plus(365 * DAY)));
            assert_ne!(new.serial_number, before.serial_number);
            assert_eq!(issuer(&new, &[&read(&ca.pem)]).map(|ca| ca.fingerprint), Some(read(&ca.pem).fingerprint));
            assert_eq!(new.details().dns_names, ["a", "b.c"]);
        }
    }

    #[test]
    fn cas_with_every_kind_of_key_sign() {
        let made = |kind| {
            let ca = Ca::new("kubernetes", 3650);
            let leaf = ca.leaf("x", 20, &[]);
            reissue(leaf.as_bytes(), &signer(&ca), kind, DAY, NOW, &mut rand::rng()).unwrap().key_pem
        };
        for kind in [KeyType::Rsa2048, KeyType::EcdsaP384] {
            let key = rcgen::KeyPair::from_pem(&pkcs8(&made(kind))).unwrap();
            let ca = Ca::with_key("kubernetes", 3650, key);
            let leaf = ca.leaf("x", 20, &[]);
            let issued =
                reissue(leaf.as_bytes(), &signer(&ca), KeyType::EcdsaP256, DAY, NOW, &mut rand::rng()).unwrap();
            assert!(issuer(&read(&issued.certificate_pem), &[&read(&ca.pem)]).is_some(), "{}", kind.as_str());
        }
    }

    /// The test library reads PKCS#8 alone.
    fn pkcs8(pem: &str) -> String {
        use rsa::pkcs8::{EncodePrivateKey, LineEnding};
        match PrivateKey::read(pem.as_bytes()).unwrap() {
            PrivateKey::Rsa(key) => key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string(),
            PrivateKey::P256(key) => key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string(),
            PrivateKey::P384(key) => key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string(),
        }
    }

    #[test]
    fn no_leaf_outlives_its_ca_and_an_ended_ca_signs_nothing() {
        let ca = Ca::new("kubernetes", 30);
        let old = ca.leaf("x", 20, &[]);
        let sign = |now| reissue(old.as_bytes(), &signer(&ca), KeyType::EcdsaP256, 365 * DAY, now, &mut rand::rng());
        assert_eq!(sign(NOW).unwrap().not_after, NOW.plus(30 * DAY));
        assert_eq!(sign(NOW.plus(30 * DAY)).err(), Some(IssueError::CaExpired(NOW.plus(30 * DAY))));
    }

    #[test]
    fn the_cas_behind_the_old_one_stand_behind_the_new_one_and_leaves_do_not() {
        let (ca, between) = (Ca::new("kubernetes", 3650), Ca::new("between", 3650));
        let (old, stray) = (ca.leaf("x", 20, &[]), ca.leaf("stray", 10, &[]));
        let file =
            [&*old, &between.pem, &stray, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"].concat();
        let issued = reissue(file.as_bytes(), &signer(&ca), KeyType::EcdsaP256, DAY, NOW, &mut rand::rng()).unwrap();
        let entry = read_entry(issued.certificate_pem.as_bytes(), Retain::Facts, &mut NamePool::default());
        let subjects = entry.certificates.iter().map(|found| found.certificate.subject.to_string());
        assert_eq!(
            (subjects.collect::<Vec<_>>(), entry.problems),
            (vec!["CN=x".to_owned(), "CN=between".to_owned()], vec![])
        );
    }

    #[test]
    fn what_cannot_sign_is_refused() {
        let (ca, other) = (Ca::new("kubernetes", 30), Ca::new("kubernetes", 30));
        let why = |certificate: &str, key: &str| {
            let der = first_certificate(certificate.as_bytes()).unwrap_or_default();
            CaSigner::read(&der, key.as_bytes()).err()
        };
        assert_eq!(why(&ca.pem, &other.key()), Some(IssueError::KeyMismatch));
        let (leaf, key) = ca.pair("x", 20, &[]);
        assert_eq!(why(&leaf, &key), Some(IssueError::NotACa));
        assert_eq!(why("", &key), Some(IssueError::UnreadableCertificate));
        assert_eq!(
            why(&ca.pem, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"),
            Some(IssueError::UnreadableKey)
        );
    }
}
