//! One DER certificate to its facts.

use std::fmt::Write;

use ring::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name};

use crate::cert::parse::{NamePool, Retain};
use crate::cert::{Attribute, CertFingerprint, Certificate, KeyAlgorithm, Name, Role, SerialNumber};
use crate::time::UnixTime;

/// Reads the certificate at the front of `der`; the rest behind it comes back.
pub(super) fn read<'a>(der: &'a [u8], retain: Retain, names: &mut NamePool) -> Option<(Certificate, &'a [u8])> {
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    let own = &der[..der.len() - rest.len()];
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, own).as_ref());
    let validity = parsed.validity();
    let certificate = Certificate {
        subject: names.share(name(parsed.subject())),
        issuer: names.share(name(parsed.issuer())),
        serial_number: serial_number(parsed.raw_serial()),
        not_before: UnixTime(validity.not_before.timestamp()),
        not_after: UnixTime(validity.not_after.timestamp()),
        role: if parsed.is_ca() { Role::Ca } else { Role::Leaf },
        key_algorithm: key_algorithm(parsed.public_key()),
        fingerprint: CertFingerprint(fingerprint),
        der: (retain == Retain::Der).then(|| own.into()),
    };
    Some((certificate, rest))
}

/// The content octets without leading zeros; those of a negative number (which RFC 5280 forbids) are kept as they stand.
fn serial_number(octets: &[u8]) -> SerialNumber {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    SerialNumber(octets[zeros..].iter().copied().take(LONGEST_SERIAL).collect())
}

/// RFC 5280 section 4.1.2.2 allows 20 octets, some CAs take more; one without a bound is only there to be printed.
const LONGEST_SERIAL: usize = 64;

fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> KeyAlgorithm {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        KeyAlgorithm::Ed25519
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => KeyAlgorithm::Rsa(bits(rsa.modulus)),
            _ => KeyAlgorithm::Other,
        }
    } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        match key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()) {
            Some(curve) if curve == OID_EC_P256 => KeyAlgorithm::P256,
            Some(curve) if curve == OID_NIST_EC_P384 => KeyAlgorithm::P384,
            Some(curve) if curve == OID_NIST_EC_P521 => KeyAlgorithm::P521,
            _ => KeyAlgorithm::Other,
        }
    } else {
        KeyAlgorithm::Other
    }
}

/// The length of a big-endian number in bits.
fn bits(number: &[u8]) -> u16 {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    let number = &number[zeros..];
    let top = number.first().map_or(0, |octet| octet.leading_zeros() as usize);
    u16::try_from(number.len() * 8 - top).unwrap_or(u16::MAX)
}

fn name(name: &X509Name<'_>) -> Name {
    Name(name.iter_attributes().map(|attribute| (kind(attribute), value(attribute))).collect())
}

fn kind(attribute: &AttributeTypeAndValue<'_>) -> Attribute {
    // The attributes below 2.5.4 (RFC 4519) that have a name of their own here; their encoding is these three octets.
    match attribute.attr_type().as_bytes() {
        [0x55, 0x04, 3] => Attribute::Cn,
        [0x55, 0x04, 6] => Attribute::C,
        [0x55, 0x04, 7] => Attribute::L,
        [0x55, 0x04, 8] => Attribute::St,
        [0x55, 0x04, 10] => Attribute::O,
        [0x55, 0x04, 11] => Attribute::Ou,
        _ => Attribute::Other(attribute.attr_type().to_id_string().into()),
    }
}

/// The value as text; one that is no string type prints as `#` and its octets in hexadecimal (RFC 4514 section 2.4).
fn value(attribute: &AttributeTypeAndValue<'_>) -> Box<str> {
    let data = attribute.attr_value().data;
    match attribute.attr_value().header.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            String::from_utf8_lossy(data).into()
        }
        // Latin-1 is what is meant by it in practice (RFC 1345 charsets were never used).
        Tag::T61String => data.iter().copied().map(char::from).collect::<String>().into(),
        Tag::BmpString => {
            let units = data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>().into()
        }
        Tag::UniversalString => {
            let scalars = data.chunks_exact(4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
            scalars
                .map(|scalar| char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect::<String>()
                .into()
        }
        _ => {
            let mut text = String::from("#");
            for octet in data {
                // Writing to a String cannot fail.
                let _ = write!(text, "{octet:02x}");
            }
            text.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_multi_valued_rdn_is_kept() {
        let tlv = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
        let attribute =
            |kind: u8, value: &str| tlv(0x30, &[tlv(0x06, &[0x55, 0x04, kind]), tlv(0x0c, value.as_bytes())].concat());
        // CN=a+OU=b, O=c (RFC 5280 section 4.1.2.4).
        let both = tlv(0x31, &[attribute(3, "a"), attribute(11, "b")].concat());
        let der = tlv(0x30, &[both, tlv(0x31, &attribute(10, "c"))].concat());
        let name = name(&X509Name::from_der(&der).unwrap().1);
        assert_eq!(name.to_string(), "CN=a,OU=b,O=c");
        assert_eq!((name.common_name(), name.get(&Attribute::Ou)), (Some("a"), Some("b")));
    }
}
