//! A deflate compressor (RFC 1951) for exposition text, whose lines mostly say what lines before them said.
//!
//! A general compressor looks at every byte, and follows chains of earlier places in search of the longest match. Here the last two places that begin with the
//! same bytes are nearly always as good as any, and so is the distance of the copy before: one look at each is enough. And where a value begins that no
//! earlier line has, such as a serial number, nothing is worth looking for before it ends. That takes a third of the time of zlib's level 6, for about its size.

mod huffman;

use memchr::memchr_iter;

use huffman::{BitWriter, Code};

/// Compresses texts one after the other; holds the tables that this needs.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// One more than where bytes with this hash were seen last in the block, and before; 0 for nowhere.
    seen: Vec<[u16; 2]>,
    sequences: Vec<Sequence>,
}

/// How a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// On a byte boundary, so that anything may follow.
    Open,
    /// With the stream.
    Final,
}

/// Literals, and then a copy of `length` bytes from `distance` before; behind the last literals there is none.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    literals: u32,
    copy: Option<Copied>,
}

#[derive(Clone, Copy, Debug)]
struct Copied {
    length: u16,
    distance: u16,
}

impl Encoder {
    /// Raw deflate data that refers to nothing before it.
    pub(super) fn deflate(&mut self, text: &[u8], end: End) -> Vec<u8> {
        let mut bits = BitWriter::new(text.len() / 7 + 64);
        for block in text.chunks(MAX_BLOCK) {
            self.find(block);
            self.write(block, &mut bits);
        }
        match end {
            // An empty stored block (RFC 1951 section 3.2.4) begins on a byte boundary after its three bits.
            End::Open => {
                bits.push(0b000, 3);
                bits.align();
                bits.push(0xffff_0000, 32);
            }
            // An empty block with the fixed codes (section 3.2.6), the only one that says it is the last.
            End::Final => {
                bits.push(0b011, 3);
                bits.push(0, 7);
                bits.align();
            }
        }
        bits.finish()
    }

    /// Cuts a block into sequences.
    fn find(&mut self, text: &[u8]) {
        self.seen.clear();
        self.seen.resize(1 << HASH_BITS, [0; 2]);
        self.sequences.clear();
        let (mut done, mut at, mut last) = (0, 0, None);
        while let Some(here) = word(text, at) {
            let [one, other] = self.before(here, at);
            self.remember(here, at);
            let copies =
                [last, one, other].into_iter().flatten().filter_map(|distance| copied(text, at, here, distance));
            // At a draw the distance of the copy before is the cheapest, and then the shortest is.
            let Some((length, distance)) = copies.reduce(|best, next| if next.0 > best.0 { next } else { best }) else {
                // A value that is new is new to its end.
                at += text[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count().max(1);
                continue;
            };
            let end = at + length;
            // Lines that follow may differ from this one where a value begins or ends.
            for quote in memchr_iter(b'"', &text[at + 1..end]).map(|n| at + 1 + n) {
                if let Some(there) = word(text, quote) {
                    self.remember(there, quote);
                }
            }
            // What stands before it may be equal too, and was passed over.
            let most = (at - done).min(at - distance).min(LONGEST - length);
            let before = (1..=most).take_while(|n| text[at - n] == text[at - n - distance]).count();
            let copy = Copied { length: (length + before) as u16, distance: distance as u16 };
            self.sequences.push(Sequence { literals: (at - before - done) as u32, copy: Some(copy) });
            (done, at, last) = (end, end, Some(distance));
        }
        self.sequences.push(Sequence { literals: (text.len() - done) as u32, copy: None });
    }

    /// How far before the two last places are that begin with this word, or one of the same hash.
    fn before(&self, word: u64, at: usize) -> [Option<usize>; 2] {
        let distance =
            |place: u16| (place > 0).then(|| at + 1 - usize::from(place)).filter(|distance| *distance <= WINDOW);
        self.seen[hash(word)].map(distance)
    }

    fn remember(&mut self, word: u64, at: usize) {
        let places = &mut self.seen[hash(word)];
        *places = [at as u16 + 1, places[0]];
    }

    /// Writes the block with codes made for it (RFC 1951 section 3.2.7).
    fn write(&self, text: &[u8], bits: &mut BitWriter) {
        let (mut literal_counts, mut distance_counts) = ([0; LITERALS], [0; DISTANCES]);
        for (literals, copy) in self.pieces(text) {
            for byte in literals {
                literal_counts[usize::from(*byte)] += 1;
            }
            if let Some(Copied { length, distance }) = copy {
                literal_counts[length_symbol(length).0] += 1;
                distance_counts[distance_symbol(distance).0] += 1;
            }
        }
        literal_counts[END_OF_BLOCK] = 1;
        let literals = Code::of(&literal_counts, MAX_BITS);
        let distances = Code::of(&distance_counts, MAX_BITS);
        bits.push(0b100, 3);
        huffman::write_codes(&literals, &distances, bits);
        for (run, copy) in self.pieces(text) {
            let (pairs, odd) = run.as_chunks();
            for [a, b] in pairs {
                literals.write_two(usize::from(*a), usize::from(*b), bits);
            }
            for byte in odd {
                literals.write(usize::from(*byte), 0, 0, bits);
            }
            if let Some(Copied { length, distance }) = copy {
                let (symbol, extra, width) = length_symbol(length);
                literals.write(symbol, extra, width, bits);
                let (symbol, extra, width) = distance_symbol(distance);
                distances.write(symbol, extra, width, bits);
            }
        }
        literals.write(END_OF_BLOCK, 0, 0, bits);
    }

    /// The sequences with their literals.
    fn pieces<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (&'a [u8], Option<Copied>)> {
        self.sequences.iter().scan(text, |rest, Sequence { literals, copy }| {
            let (run, behind) = rest.split_at(*literals as usize);
            *rest = &behind[copy.map_or(0, |copy| usize::from(copy.length))..];
            Some((run, *copy))
        })
    }
}

/// The bytes from here on, if there are enough to look for a copy.
fn word(text: &[u8], at: usize) -> Option<u64> {
    text.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Length and distance of the copy from this distance, if it is worth being one.
fn copied(text: &[u8], at: usize, here: u64, distance: usize) -> Option<(usize, usize)> {
    let equal = (word(text, at - distance)? ^ here).trailing_zeros() >= 8 * SHORTEST;
    equal.then(|| (common(text, at, distance), distance))
}

/// How many bytes here are those that stand `distance` before, as far as one copy reaches.
fn common(text: &[u8], at: usize, distance: usize) -> usize {
    let most = (text.len() - at).min(LONGEST);
    let (here, there) = (&text[at..at + most], &text[at - distance..at - distance + most]);
    let (eights, others) = (here.as_chunks::<8>().0, there.as_chunks::<8>().0);
    for (n, (a, b)) in eights.iter().zip(others).enumerate() {
        let differing = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differing != 0 {
            return n * 8 + differing.trailing_zeros() as usize / 8;
        }
    }
    let done = eights.len() * 8;
    done + here[done..].iter().zip(&there[done..]).take_while(|(a, b)| a == b).count()
}

/// Of the first bytes of a word.
fn hash(word: u64) -> usize {
    // Multiplied by a large odd number, the upper bits depend on all that were kept.
    ((word << (64 - 8 * HASHED)).wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - HASH_BITS)) as usize
}

/// The symbol of a copy's length, its extra bits and how many they are (RFC 1951 section 3.2.5).
fn length_symbol(length: u16) -> (usize, u32, u32) {
    match u32::from(length) - 3 {
        short @ 0..8 => (257 + short as usize, 0, 0),
        255 => (285, 0, 0),
        long => {
            let width = long.ilog2() - 2;
            ((261 + 4 * width + (long >> width & 3)) as usize, long & ((1 << width) - 1), width)
        }
    }
}

/// The symbol of a copy's distance, its extra bits and how many they are (RFC 1951 section 3.2.5).
fn distance_symbol(distance: u16) -> (usize, u32, u32) {
    match u32::from(distance) - 1 {
        short @ 0..4 => (short as usize, 0, 0),
        long => {
            let width = long.ilog2() - 1;
            ((2 + 2 * width + (long >> width & 1)) as usize, long & ((1 << width) - 1), width)
        }
    }
}

/// Literals, the end of a block, and lengths.
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
const END_OF_BLOCK: usize = 256;
const MAX_BITS: u32 = 15;
/// The longest copy.
const LONGEST: usize = 258;
/// How far before a copy may stand.
const WINDOW: usize = 32 << 10;
/// The shortest copy that is made; shorter ones, which deflate has too, take as many bits as what they stand for.
const SHORTEST: u32 = 5;
/// How many bytes are hashed, and to how many bits: the best of those tried on 120,000 series.
const HASHED: u32 = 6;
const HASH_BITS: u32 = 12;
/// So that a position takes two bytes, and the table of them stays near the processor. No block refers to the one before.
const MAX_BLOCK: usize = u16::MAX as usize;

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress, Status};
    use proptest::prelude::*;

    use super::*;

    fn inflate(deflated: &[u8], len: usize, end: End) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 1);
        let status = Decompress::new(false).decompress_vec(deflated, &mut out, FlushDecompress::Sync).unwrap();
        assert_eq!(status == Status::StreamEnd, end == End::Final);
        out
    }

    fn check(encoder: &mut Encoder, text: &[u8]) {
        for end in [End::Open, End::Final] {
            let deflated = encoder.deflate(text, end);
            assert!(inflate(&deflated, text.len(), end) == text, "{} bytes come back as they were", text.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(text in prop::collection::vec(any::<u8>(), 0..3000)) {
            check(&mut Encoder::default(), &text);
        }

        #[test]
        fn repetitions_at_any_distance_come_back(
            pieces in prop::collection::vec(("[a-c\"0-9 ]{1,40}", 1..400_usize, 0..40_000_usize), 1..6)
        ) {
            let mut text = String::new();
            for (piece, times, gap) in &pieces {
                text.push_str(&piece.repeat(*times));
                text.extend((0..*gap).map(|n| char::from(b'!' + (n * n % 89) as u8)));
                text.push_str(piece);
            }
            check(&mut Encoder::default(), text.as_bytes());
        }
    }

    #[test]
    fn copies_of_every_length_and_from_every_distance_come_back() {
        let mut encoder = Encoder::default();
        for length in 1..700 {
            check(&mut encoder, "x".repeat(length).as_bytes());
        }
        for gap in (0..17).flat_map(|bits| [(1_usize << bits) - 1, 1 << bits]) {
            check(&mut encoder, ["<copied text>", &" ".repeat(gap), "<copied text>"].concat().as_bytes());
        }
    }

    #[test]
    fn what_is_longer_than_a_block_comes_back() {
        let lines: String =
            (0..20_000_u64).map(|n| format!("x509_cert_not_after{{serial_number=\"{}\"}} 1\n", n * n)).collect();
        assert!(lines.len() > 10 * MAX_BLOCK);
        check(&mut Encoder::default(), lines.as_bytes());
    }

    #[test]
    fn symbols_as_rare_as_the_numbers_of_fibonacci_come_back() {
        // Their best words have a length each, far more than the 15 bits that there are.
        let (mut text, mut counts) = (Vec::new(), (1, 1));
        for symbol in b'a'..b'a' + 22 {
            // Without a copy: no two places are followed by the same.
            text.extend(std::iter::repeat_n(symbol, counts.0));
            counts = (counts.1, counts.0 + counts.1);
        }
        let mut state = 1_u64;
        for n in (1..text.len()).rev() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            text.swap(n, (state >> 33) as usize % n);
        }
        check(&mut Encoder::default(), &text);
    }

    #[test]
    fn lines_that_resemble_each_other_take_little_room() {
        let lines: String = (0..500)
            .map(|n| {
                format!(
                    "x509_cert_not_after{{secret_name=\"web-{n}\",secret_namespace=\"team-{}\"}} 1795464000\n",
                    n % 7
                )
            })
            .collect();
        let deflated = Encoder::default().deflate(lines.as_bytes(), End::Open);
        assert!(deflated.len() * 12 < lines.len(), "{} of {} bytes", deflated.len(), lines.len());
    }
}
