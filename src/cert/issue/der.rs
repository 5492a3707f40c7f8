//! The DER (X.690) that a certificate consists of, written; what is kept of the old one is copied as it stands.

use x509_parser::der_parser::Oid;

use crate::time::UnixTime;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const CONTEXT: u8 = 0x80;
const CONTEXT_CONSTRUCTED: u8 = 0xa0;

/// Years from which the four-digit form is used (RFC 5280 section 4.1.2.5).
const YEAR_2050: UnixTime = UnixTime(2_524_608_000);

/// Content octets of the object identifiers 2.5.29.15, 2.5.29.19 and 2.5.29.35.
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
const AUTHORITY_KEY_IDENTIFIER: [u8; 3] = [0x55, 0x1d, 0x23];

/// Tag, length, content.
fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..0x80 => out.push(short as u8),
        long => {
            let octets = long.to_be_bytes();
            let octets = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
            out.push(0x80 | octets.len() as u8);
            out.extend_from_slice(octets);
        }
    }
    out.extend_from_slice(content);
    out
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

pub(super) fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    value(CONTEXT_CONSTRUCTED | number, content)
}

/// `[0] EXPLICIT INTEGER 2`.
pub(super) fn version_3() -> Vec<u8> {
    explicit(0, &value(INTEGER, &[2]))
}

/// From a big-endian magnitude without the sign bit set.
pub(super) fn positive_integer(magnitude: &[u8]) -> Vec<u8> {
    let zeros = magnitude.iter().take_while(|octet| **octet == 0).count();
    let digits = &magnitude[zeros..];
    let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    value(INTEGER, &[sign, digits].concat())
}

pub(super) fn bit_string(octets: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], octets].concat())
}

/// The content octets of an object identifier in their header.
pub(super) fn object_identifier(content: &[u8]) -> Vec<u8> {
    value(OBJECT_IDENTIFIER, content)
}

/// UTCTime before 2050, GeneralizedTime from then on (RFC 5280 section 4.1.2.5).
pub(super) fn time(moment: UnixTime) -> Vec<u8> {
    let digits: String = moment.to_string().chars().filter(char::is_ascii_digit).collect();
    if moment < YEAR_2050 {
        value(UTC_TIME, format!("{}Z", &digits[2..]).as_bytes())
    } else {
        value(GENERALIZED_TIME, format!("{digits}Z").as_bytes())
    }
}

/// An extension whose content is known.
pub(super) fn extension(oid: &Oid<'_>, critical: bool, content: &[u8]) -> Vec<u8> {
    extension_of(oid.as_bytes(), critical, content)
}

fn extension_of(oid: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { value(BOOLEAN, &[0xff]) } else { Vec::new() };
    sequence(&[object_identifier(oid), critical, value(OCTET_STRING, content)])
}

/// digitalSignature and keyEncipherment: bits 0 and 2, five unused.
pub(super) fn key_usage_signature_and_encipherment() -> Vec<u8> {
    extension_of(&KEY_USAGE, true, &value(BIT_STRING, &[5, 0b1010_0000]))
}

/// Basic constraints with the default, `cA FALSE`.
pub(super) fn not_a_ca() -> Vec<u8> {
    extension_of(&BASIC_CONSTRAINTS, true, &sequence(&[]))
}

pub(super) fn authority_key_identifier(id: &[u8]) -> Vec<u8> {
    extension_of(&AUTHORITY_KEY_IDENTIFIER, false, &sequence(&[value(CONTEXT, id)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_signs_are_those_of_x_690() {
        assert_eq!(value(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(value(4, &[7; 200])[..3], [4, 0x81, 200]);
        assert_eq!(value(4, &[7; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(positive_integer(&[0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(positive_integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(positive_integer(&[0]), [2, 1, 0]);
    }

    #[test]
    fn times_have_two_digit_years_before_2050_only() {
        assert_eq!(time(YEAR_2050.plus(-1)), b"\x17\x0d491231235959Z");
        assert_eq!(time(YEAR_2050), b"\x18\x0f20500101000000Z");
    }
}
