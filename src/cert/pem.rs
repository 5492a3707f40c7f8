//! Finds the certificates of a PEM text (RFC 7468), however it was stored.

use base64::Engine;

use crate::cert::parse::BASE64;

/// The body of a CERTIFICATE block, or what its frame lacks.
pub(super) type Block<'a> = Result<&'a [u8], Damage>;

/// What is wrong with the frame of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// It begins and does not end before the next one begins.
    Unterminated,
    /// It ends and has not begun: its first line is missing or misspelt.
    Unopened,
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// Labels under which certificates are found; `TRUSTED` and `X509` are OpenSSL's older ones.
const LABELS: [&[u8]; 3] = [b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"];

/// Whether the text holds a PEM block of any kind.
pub(super) fn holds_block(text: &[u8]) -> bool {
    find(text, BEGIN).is_some()
}

/// The CERTIFICATE blocks in order; blocks of other kinds and text between them are passed over undecoded. Every byte is looked at a constant number of times.
pub(super) fn certificates(text: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let (before, mut rest) = text.split_at(find(text, BEGIN).unwrap_or(text.len()));
    let blocks = std::iter::from_fn(move || {
        let after_begin = rest.strip_prefix(BEGIN)?;
        let (block, behind) = after_begin.split_at(find(after_begin, BEGIN).unwrap_or(after_begin.len()));
        rest = behind;
        Some(block)
    });
    unopened(before).chain(blocks.flat_map(|block| {
        let (own, behind) = match after_label(block) {
            None => (None, block),
            Some(body) => match find(body, END) {
                None => (Some(Err(Damage::Unterminated)), &body[body.len()..]),
                Some(end) => (Some(Ok(&body[..end])), &body[end + END.len()..]),
            },
        };
        own.into_iter().chain(unopened(behind))
    }))
}

/// The ends of CERTIFICATE blocks in a text where none has begun.
fn unopened(text: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let ends = memchr::memmem::find_iter(text, END).filter(|end| after_label(&text[end + END.len()..]).is_some());
    ends.map(|_| Err(Damage::Unopened))
}

/// What follows the label of a certificate and its dashes; `None` where the label is another.
fn after_label(text: &[u8]) -> Option<&[u8]> {
    LABELS.iter().find_map(|label| text.strip_prefix(*label)?.strip_prefix(DASHES))
}

/// The bytes that a body's base64 stands for; header lines (`Proc-Type: …`) and white space are skipped.
pub(super) fn decode(body: &[u8]) -> Option<Vec<u8>> {
    let mut compact = Vec::with_capacity(body.len());
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        if memchr::memchr(b':', line).is_some() {
            continue;
        }
        // Nearly every line is nothing but base64, and is copied whole.
        if memchr::memchr3(b' ', b'\t', b'\x0c', line).is_none() {
            compact.extend_from_slice(line);
        } else {
            compact.extend(line.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }
    BASE64.decode(&compact).ok()
}

/// The bytes of the first block with exactly this label.
pub(super) fn first(text: &[u8], label: &str) -> Option<Vec<u8>> {
    all(text, label).next().flatten()
}

/// The bytes of each block with exactly this label; `None` of one that cannot be read.
pub(super) fn all<'a>(text: &'a [u8], label: &str) -> impl Iterator<Item = Option<Vec<u8>>> + use<'a> {
    let begin = format!("-----BEGIN {label}-----");
    let mut rest = text;
    std::iter::from_fn(move || {
        let body = &rest[find(rest, begin.as_bytes())? + begin.len()..];
        let end = find(body, END)?;
        rest = &body[end..];
        Some(decode(&body[..end]))
    })
}

/// A block of 64 characters a line.
pub(super) fn encode(label: &str, bytes: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = behind;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(text: &str) -> Vec<Result<String, Damage>> {
        certificates(text.as_bytes())
            .map(|block| block.map(|body| String::from_utf8_lossy(body).into_owned()))
            .collect()
    }

    #[test]
    fn blocks_are_found_on_one_line_and_between_others() {
        let text = "x-----BEGIN PRIVATE KEY-----\nK\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----A-----END CERTIFICATE----------BEGIN CERTIFICATE-----\nB\n-----END CERTIFICATE-----y";
        assert_eq!(bodies(text), [Ok("A".to_owned()), Ok("\nB\n".to_owned())]);
    }

    #[test]
    fn a_block_without_an_end_does_not_swallow_the_next() {
        let text = "-----BEGIN CERTIFICATE-----\nA\n-----BEGIN CERTIFICATE-----\nB\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nC";
        assert_eq!(bodies(text), [Err(Damage::Unterminated), Ok("\nB\n".to_owned()), Err(Damage::Unterminated)]);
        assert_eq!(bodies("-----BEGIN CERTIFICATE"), []);
    }

    #[test]
    fn a_block_whose_first_line_is_damaged_is_told_by_its_last_line() {
        let good = "-----BEGIN CERTIFICATE-----\nB\n-----END CERTIFICATE-----\n";
        for first in ["-----BEGIN CERTIFICATE----", "----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICAT-----", ""] {
            let bad = format!("{first}\nA\n-----END CERTIFICATE-----\n");
            let expected = [Err(Damage::Unopened), Ok("\nB\n".to_owned()), Err(Damage::Unopened)];
            assert_eq!(bodies(&format!("{bad}{good}{bad}")), expected, "{first}");
        }
        assert_eq!(bodies("-----BEGIN CERTIFICATE REQUEST-----\nA\n-----END CERTIFICATE REQUEST-----"), []);
    }

    #[test]
    fn headers_and_white_space_are_no_part_of_the_body() {
        assert_eq!(decode(b"\r\nProc-Type: 4,CLEAR\r\n\r\n Q U J\tD\r\n"), Some(b"ABC".to_vec()));
        assert_eq!(decode(b"QQ"), Some(b"A".to_vec()));
        assert_eq!(decode(b"***"), None);
    }
}
