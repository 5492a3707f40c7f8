//! Finds the certificates of a PEM text (RFC 7468), however it was stored.

use base64::Engine;

use crate::cert::parse::BASE64;

/// The body of a CERTIFICATE block, or the fact that it does not end.
pub(super) type Block<'a> = Result<&'a [u8], Unterminated>;

/// A block that begins and does not end before the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unterminated;

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
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let after_begin = &rest[find(rest, BEGIN)? + BEGIN.len()..];
            let next_begin = find(after_begin, BEGIN).unwrap_or(after_begin.len());
            let (block, behind) = after_begin.split_at(next_begin);
            rest = behind;
            let Some(label) = find(block, DASHES).map(|end| &block[..end]) else { continue };
            if LABELS.contains(&label) {
                let body = &block[label.len() + DASHES.len()..];
                return Some(find(body, END).map(|end| &body[..end]).ok_or(Unterminated));
            }
        }
    })
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
    let body =
        &text[find(text, format!("-----BEGIN {label}-----").as_bytes())?..][BEGIN.len() + label.len() + DASHES.len()..];
    decode(&body[..find(body, END)?])
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

    fn bodies(text: &str) -> Vec<Result<String, Unterminated>> {
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
        assert_eq!(bodies(text), [Err(Unterminated), Ok("\nB\n".to_owned()), Err(Unterminated)]);
        assert_eq!(bodies("-----BEGIN CERTIFICATE"), []);
    }

    #[test]
    fn headers_and_white_space_are_no_part_of_the_body() {
        assert_eq!(decode(b"\r\nProc-Type: 4,CLEAR\r\n\r\n Q U J\tD\r\n"), Some(b"ABC".to_vec()));
        assert_eq!(decode(b"QQ"), Some(b"A".to_vec()));
        assert_eq!(decode(b"***"), None);
    }
}
