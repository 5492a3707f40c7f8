//! Pieces of a gzip body that are compressed once and put together again and again.
//!
//! A segment is raw deflate data (RFC 1951) that refers to nothing before it and ends on a byte boundary, so that segments in any order form one
//! stream; the CRC-32 of the whole follows from theirs. One stream, not one gzip member each: some clients read the first member only.

use flate2::{Decompress, FlushDecompress};

use crate::metrics::deflate::{Encoder, End};

/// A compressed piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Raw deflate data.
    pub deflated: Box<[u8]>,
    /// CRC-32 of the text.
    pub crc: u32,
    /// Bytes of the text.
    pub len: u64,
}

/// Compresses segments; holds the large tables that this needs.
#[derive(Debug, Default)]
pub struct Deflater(Encoder);

/// Text and checksum of a gzip member that grows.
#[derive(Clone, Debug, Default)]
pub struct Checksum(crc32fast::Hasher);

/// The header of a gzip member (RFC 1952): deflate, no name, no time, unknown system.
pub const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

impl Deflater {
    /// A piece with something after it.
    pub fn inner(&mut self, text: &[u8]) -> Segment {
        self.run(text, End::Open)
    }

    /// The piece that ends the stream.
    pub fn last(&mut self, text: &[u8]) -> Segment {
        self.run(text, End::Final)
    }

    fn run(&mut self, text: &[u8], end: End) -> Segment {
        let deflated = self.0.deflate(text, end).into_boxed_slice();
        Segment { deflated, crc: crc32fast::hash(text), len: text.len() as u64 }
    }
}

impl Segment {
    /// The text.
    pub fn inflate(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len as usize + 1);
        // Our own output of the right length: it cannot be damaged.
        let _ = Decompress::new(false).decompress_vec(&self.deflated, &mut out, FlushDecompress::Sync);
        out
    }
}

impl Checksum {
    /// Adds a segment at the end.
    pub fn push(&mut self, segment: &Segment) {
        self.0.combine(&crc32fast::Hasher::new_with_initial_len(segment.crc, segment.len));
    }

    /// The gzip trailer, given the text's total length.
    pub fn trailer(self, len: u64) -> [u8; 8] {
        let [a, b, c, d] = self.0.finalize().to_le_bytes();
        // RFC 1952 section 2.3.1: the length modulo 2^32.
        let [e, f, g, h] = (len as u32).to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn segments_in_any_order_make_one_gzip_member(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..8)) {
            let mut deflater = Deflater::default();
            let mut body = GZIP_HEADER.to_vec();
            let (mut checksum, mut plain) = (Checksum::default(), Vec::new());
            for (index, part) in parts.iter().enumerate() {
                let segment = if index + 1 == parts.len() { deflater.last(part) } else { deflater.inner(part) };
                prop_assert_eq!(&segment.inflate(), part);
                body.extend_from_slice(&segment.deflated);
                checksum.push(&segment);
                plain.extend_from_slice(part);
            }
            if parts.is_empty() {
                let end = deflater.last(b"");
                body.extend_from_slice(&end.deflated);
            }
            body.extend_from_slice(&checksum.trailer(plain.len() as u64));
            prop_assert_eq!(gunzip(&body), plain);
        }
    }

    #[test]
    fn long_repetitive_text_is_complete_whatever_the_output_space() {
        let text = "x509_cert_not_after{secret_name=\"a\"} 1795464000\n".repeat(50_000);
        let segment = Deflater::default().inner(text.as_bytes());
        assert_eq!(segment.inflate(), text.as_bytes());
        assert!(segment.deflated.ends_with(&[0, 0, 0xff, 0xff]), "a full flush ends with an empty stored block");
    }
}
