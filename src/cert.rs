//! What is known of a certificate once it has been read: facts only, never a private key.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::time::UnixTime;

pub mod chain;
pub mod issue;
pub mod kubeconfig;
pub mod parse;
mod pem;
mod x509;

/// The facts of one X.509 certificate (RFC 5280).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Subject distinguished name.
    pub subject: Arc<Name>,
    /// Issuer distinguished name.
    pub issuer: Arc<Name>,
    /// Serial number.
    pub serial_number: SerialNumber,
    /// First moment of validity.
    pub not_before: UnixTime,
    /// Last moment of validity.
    pub not_after: UnixTime,
    /// Whether it may sign others.
    pub role: Role,
    /// Algorithm and size of the public key.
    pub key_algorithm: KeyAlgorithm,
    /// SHA-256 of the DER form.
    pub fingerprint: CertFingerprint,
    /// The DER form, kept only where signatures have to be verified (`parse::Retain::Der`).
    pub der: Option<Arc<[u8]>>,
}

/// Leaf or CA, from the basic constraints extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves or identifies a workload or a person.
    Leaf,
    /// Signs others.
    Ca,
}

impl Role {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Ca => "ca",
        }
    }
}

/// A distinguished name as its attributes in encoding order; multi-valued RDNs are flattened, repeated attributes are all kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name(pub Box<[(Attribute, Box<str>)]>);

/// The kinds of name attributes that are told apart (RFC 4519).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Country, `C`.
    C,
    /// State or province, `ST`.
    St,
    /// Locality, `L`.
    L,
    /// Organization, `O`.
    O,
    /// Organizational unit, `OU`.
    Ou,
    /// Common name, `CN`.
    Cn,
    /// Anything else, by dotted object identifier.
    Other(Box<str>),
}

/// A certificate's serial number: the big-endian magnitude without leading zeros (RFC 5280 section 4.1.2.2 allows 20 octets), cut after 64.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SerialNumber(pub Box<[u8]>);

/// SHA-256 over the DER form of a certificate; prints as lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertFingerprint(pub [u8; 32]);

/// Algorithm and size of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// RSA with the modulus' length in bits.
    Rsa(u16),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// Something this program does not name.
    Other,
}

/// Where in a Secret's entry a certificate stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Position {
    /// The entry as a whole (a problem that belongs to no certificate).
    Entry,
    /// Index in a PEM bundle or DER sequence, from 0.
    Index(u32),
    /// `user/NAME` of a kubeconfig, with the index in its chain.
    User(Box<str>, u32),
    /// `cluster/NAME` of a kubeconfig, with the index in its CA bundle.
    Cluster(Box<str>, u32),
}

/// One entry of a Secret (or one file), read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The certificates found, in order.
    pub certificates: Vec<Positioned>,
    /// What could not be read; never hides its neighbours.
    pub problems: Vec<Problem>,
    /// What it says beside them, where it is a kubeconfig.
    pub kubeconfig: Option<KubeconfigFacts>,
}

/// What a kubeconfig says beside its certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeconfigFacts {
    /// `server` of the current context's cluster.
    pub server: Option<Box<str>>,
    /// Name of the current context's user.
    pub user: Option<Box<str>>,
    /// Name of the current context's cluster.
    pub cluster: Option<Box<str>>,
    /// Whether that cluster's certificate is taken whoever signed it.
    pub insecure_skip_tls_verify: bool,
}

/// A certificate and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positioned {
    /// Where.
    pub position: Position,
    /// What.
    pub certificate: Certificate,
}

/// A part of an entry that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub position: Position,
    /// The stable code.
    pub reason: ProblemReason,
    /// A sentence for a person; never holds the entry's content.
    pub message: String,
}

/// Why a part of an entry could not be read; the label value of `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemReason {
    /// The entry holds no bytes.
    Empty,
    /// Neither PEM, DER nor a kubeconfig.
    UnknownFormat,
    /// A PEM block begins and does not end, ends and has not begun, or its lines are not PEM.
    InvalidPem,
    /// Content that should be base64 is not.
    InvalidBase64,
    /// The bytes are no X.509 certificate.
    InvalidCertificate,
    /// The YAML or JSON is no kubeconfig, or a part of it has a shape that kubectl refuses.
    InvalidKubeconfig,
    /// A kubeconfig names a file instead of embedding the certificate; it is not opened.
    FileReference,
    /// The entry is larger than is read.
    TooLarge,
    /// More parts of the entry cannot be read than are told one by one.
    More,
}

impl ProblemReason {
    /// The stable code, as in the `reason` label and in `check -o json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::UnknownFormat => "unknown_format",
            Self::InvalidPem => "invalid_pem",
            Self::InvalidBase64 => "invalid_base64",
            Self::InvalidCertificate => "invalid_certificate",
            Self::InvalidKubeconfig => "invalid_kubeconfig",
            Self::FileReference => "file_reference",
            Self::TooLarge => "too_large",
            Self::More => "more_problems",
        }
    }
}

impl Name {
    /// The first common name.
    pub fn common_name(&self) -> Option<&str> {
        self.get(&Attribute::Cn)
    }

    /// The first value of an attribute.
    pub fn get(&self, attribute: &Attribute) -> Option<&str> {
        self.0.iter().find(|(kind, _)| kind == attribute).map(|(_, value)| &**value)
    }
}

impl Attribute {
    /// The short name of RFC 4519, or the dotted object identifier.
    pub fn as_str(&self) -> &str {
        match self {
            Self::C => "C",
            Self::St => "ST",
            Self::L => "L",
            Self::O => "O",
            Self::Ou => "OU",
            Self::Cn => "CN",
            Self::Other(oid) => oid,
        }
    }
}

/// `CN=apiserver,O=system:masters`, in encoding order, with the escapes of RFC 4514 section 2.4.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (attribute, value)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}=", attribute.as_str())?;
            let last = value.chars().count().saturating_sub(1);
            for (at, c) in value.chars().enumerate() {
                let escaped = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
                    || (at == 0 && matches!(c, ' ' | '#'))
                    || (at == last && c == ' ');
                match c {
                    '\0' => f.write_str("\\00")?,
                    _ if escaped => write!(f, "\\{c}")?,
                    _ => write!(f, "{c}")?,
                }
            }
        }
        Ok(())
    }
}

/// `57:70:0A`, upper-case hexadecimal as OpenSSL prints it.
impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl SerialNumber {
    /// The number in decimal, as x509-certificate-exporter prints it.
    pub fn to_decimal(&self) -> String {
        // Base 10^9 digits, least significant first.
        let mut digits: Vec<u32> = vec![0];
        for &byte in &*self.0 {
            let mut carry = u64::from(byte);
            for digit in &mut digits {
                let value = u64::from(*digit) * 256 + carry;
                *digit = (value % 1_000_000_000) as u32;
                carry = value / 1_000_000_000;
            }
            if carry > 0 {
                digits.push(carry as u32);
            }
        }
        let mut text = digits.last().map(u32::to_string).unwrap_or_default();
        for digit in digits.iter().rev().skip(1) {
            text.push_str(&format!("{digit:09}"));
        }
        text
    }
}

impl fmt::Display for CertFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::P256 => f.write_str("ECDSA-P256"),
            Self::P384 => f.write_str("ECDSA-P384"),
            Self::P521 => f.write_str("ECDSA-P521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// `0`, `user/NAME`, `cluster/NAME`; a further certificate of a kubeconfig entry is `user/NAME#1`; the entry itself is empty.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry => Ok(()),
            Self::Index(index) => write!(f, "{index}"),
            Self::User(name, 0) => write!(f, "user/{name}"),
            Self::User(name, index) => write!(f, "user/{name}#{index}"),
            Self::Cluster(name, 0) => write!(f, "cluster/{name}"),
            Self::Cluster(name, index) => write!(f, "cluster/{name}#{index}"),
        }
    }
}

macro_rules! serialize_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
serialize_as_text!(Name, SerialNumber, CertFingerprint, KeyAlgorithm, Position);

#[cfg(test)]
mod tests;
