//! Reads certificates out of an entry's bytes, in every shape that people store.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::cert::kubeconfig::{self, Parsed};
use crate::cert::{Entry, Name, Position, Positioned, Problem, ProblemReason, pem, x509};

/// What is kept of a certificate beside its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// Nothing.
    Facts,
    /// Its DER form, for the verification of signatures.
    Der,
}

/// An entry larger than this is not read; a Secret as a whole is limited to 1 MiB by Kubernetes.
pub const MAX_ENTRY_BYTES: usize = 4 << 20;

/// Each is a series and a sentence; nobody reads thousands of an entry that is broken throughout.
const MOST_PROBLEMS: usize = 16;

/// Why an entry's base64 could not be turned into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLargeOrInvalid {
    /// Over [`MAX_ENTRY_BYTES`].
    TooLarge,
    /// No base64.
    Invalid,
}

/// Shares equal names between certificates: thousands of leaves have one issuer.
#[derive(Debug, Default)]
pub struct NamePool(HashSet<Arc<Name>>);

impl NamePool {
    /// The shared form of a name.
    pub fn share(&mut self, name: Name) -> Arc<Name> {
        if let Some(known) = self.0.get(&name) {
            return Arc::clone(known);
        }
        let name = Arc::new(name);
        self.0.insert(Arc::clone(&name));
        name
    }

    /// Forgets names that nobody uses any more.
    pub fn shrink(&mut self) {
        self.0.retain(|name| Arc::strong_count(name) > 1);
    }
}

/// Base64 as people store it: with or without padding.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads one entry: PEM bundle, DER or kubeconfig, whichever it is, also where it was encoded in base64 once more.
///
/// Never fails: what cannot be read is a problem in the answer, beside everything that can.
pub fn read_entry(bytes: &[u8], retain: Retain, names: &mut NamePool) -> Entry {
    if bytes.len() > MAX_ENTRY_BYTES {
        return unreadable(TooLargeOrInvalid::TooLarge);
    }
    let mut entry = Entry::default();
    if bytes.trim_ascii().is_empty() {
        entry.report(Position::Entry, ProblemReason::Empty, "the entry is empty".to_owned());
    } else if !read_known(bytes, retain, names, &mut entry) {
        let again = decode_base64(bytes).filter(|inner| read_known(inner, retain, names, &mut entry));
        if again.is_none() {
            let message = "neither PEM, DER nor a kubeconfig; store a certificate as PEM".to_owned();
            entry.report(Position::Entry, ProblemReason::UnknownFormat, message);
        }
    }
    let more = entry.problems.len().saturating_sub(MOST_PROBLEMS);
    if more > 0 {
        entry.problems.truncate(MOST_PROBLEMS);
        entry.report(Position::Entry, ProblemReason::More, format!("and {more} more parts that cannot be read"));
    }
    entry
}

/// The entry whose bytes could not even be had.
pub fn unreadable(why: TooLargeOrInvalid) -> Entry {
    let mut entry = Entry::default();
    match why {
        TooLargeOrInvalid::TooLarge => {
            let message = format!("larger than {} MiB, not read", MAX_ENTRY_BYTES >> 20);
            entry.report(Position::Entry, ProblemReason::TooLarge, message);
        }
        TooLargeOrInvalid::Invalid => {
            let message = "the value is not base64".to_owned();
            entry.report(Position::Entry, ProblemReason::InvalidBase64, message);
        }
    }
    entry
}

/// Reads one of the known formats; false where it is none of them.
fn read_known(bytes: &[u8], retain: Retain, names: &mut NamePool, entry: &mut Entry) -> bool {
    // A kubeconfig may hold PEM in a comment or in a field, and the comments of a bundle may speak of a kubeconfig.
    match kubeconfig::parse(bytes) {
        Some(Parsed::Kubeconfig(config)) => kubeconfig::read(config, retain, names, entry),
        Some(Parsed::Invalid) if pem::certificates(bytes).next().is_none() => kubeconfig::report_invalid(entry),
        _ if pem::holds_block(bytes) => read_pem(bytes, retain, names, entry),
        _ => return bytes.first() == Some(&DER_SEQUENCE) && read_der(bytes, retain, names, entry),
    }
    true
}

/// The tag of an ASN.1 SEQUENCE, with which every certificate begins.
const DER_SEQUENCE: u8 = 0x30;

fn read_pem(bytes: &[u8], retain: Retain, names: &mut NamePool, entry: &mut Entry) {
    for (index, block) in pem::certificates(bytes).enumerate() {
        let position = Position::Index(u32::try_from(index).unwrap_or(u32::MAX));
        read_block(position, block, retain, names, entry);
    }
}

/// Reads a bundle inside a kubeconfig; `place` names the position of the certificate with an index.
pub(super) fn read_bundle(
    bytes: &[u8],
    retain: Retain,
    names: &mut NamePool,
    entry: &mut Entry,
    place: impl Fn(u32) -> Position,
) {
    let before = entry.certificates.len() + entry.problems.len();
    for (block, index) in pem::certificates(bytes).zip(0..) {
        read_block(place(index), block, retain, names, entry);
    }
    if entry.certificates.len() + entry.problems.len() == before {
        let message = "holds no PEM certificate".to_owned();
        entry.report(place(0), ProblemReason::InvalidPem, message);
    }
}

fn read_block(position: Position, block: pem::Block<'_>, retain: Retain, names: &mut NamePool, entry: &mut Entry) {
    let der = match block {
        Ok(body) => pem::decode(body),
        Err(damage) => {
            let message = match damage {
                pem::Damage::Unterminated => "-----BEGIN CERTIFICATE----- without its -----END CERTIFICATE-----",
                pem::Damage::Unopened => "-----END CERTIFICATE----- without its -----BEGIN CERTIFICATE-----",
            };
            return entry.report(position, ProblemReason::InvalidPem, message.to_owned());
        }
    };
    let Some(der) = der else {
        let message = "the lines of the PEM block are not base64".to_owned();
        return entry.report(position, ProblemReason::InvalidBase64, message);
    };
    match x509::read(&der, retain, names) {
        Some((certificate, behind)) => {
            // OpenSSL's TRUSTED CERTIFICATE has its own words behind the certificate.
            if x509::read(behind, Retain::Facts, names).is_some() {
                let message = "a second certificate in the same PEM block is not read; give it a block of its own";
                entry.report(position.clone(), ProblemReason::InvalidCertificate, message.to_owned());
            }
            entry.certificates.push(Positioned { position, certificate });
        }
        None => {
            let message = "the PEM block holds no X.509 certificate".to_owned();
            entry.report(position, ProblemReason::InvalidCertificate, message);
        }
    }
}

/// Reads one or several DER certificates; false where not even the first is one.
fn read_der(bytes: &[u8], retain: Retain, names: &mut NamePool, entry: &mut Entry) -> bool {
    let mut rest = bytes;
    for index in 0.. {
        if rest.trim_ascii().is_empty() {
            break;
        }
        let position = Position::Index(index);
        let Some((certificate, behind)) = x509::read(rest, retain, names) else {
            if index == 0 {
                return false;
            }
            let message = format!("{} bytes behind the certificate are no certificate", rest.len());
            entry.report(position, ProblemReason::InvalidCertificate, message);
            break;
        };
        entry.certificates.push(Positioned { position, certificate });
        rest = behind;
    }
    true
}

fn decode_base64(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let compact: Zeroizing<Vec<u8>> =
        Zeroizing::new(bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    BASE64.decode(&*compact).ok().map(Zeroizing::new)
}

impl Entry {
    pub(super) fn report(&mut self, position: Position, reason: ProblemReason, message: String) {
        self.problems.push(Problem { position, reason, message });
    }
}
