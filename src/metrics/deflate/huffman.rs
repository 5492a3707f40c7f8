//! Prefix codes as deflate wants them (RFC 1951 section 3.2.2), and bits in its order.

/// Bits, from the lowest of each byte on.
#[derive(Debug)]
pub(super) struct BitWriter {
    out: Vec<u8>,
    pending: u64,
    /// Of `pending`; below 32.
    width: u32,
}

/// The codeword of each symbol of an alphabet.
#[derive(Debug)]
pub(super) struct Code {
    /// The codewords, first bit lowest, with their widths; a symbol that does not occur has none, and width 0.
    words: Vec<(u16, u8)>,
}

impl BitWriter {
    pub(super) fn new(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity), pending: 0, width: 0 }
    }

    /// Appends the `width` lowest bits, at most 32, of a value that has no others.
    pub(super) fn push(&mut self, value: u32, width: u32) {
        self.pending |= u64::from(value) << self.width;
        self.width += width;
        if self.width >= 32 {
            self.out.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.width -= 32;
        }
    }

    /// Fills the byte with zeros.
    pub(super) fn align(&mut self) {
        let bytes = self.width.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.pending.to_le_bytes()[..bytes]);
        (self.pending, self.width) = (0, 0);
    }

    /// The bytes; what is pending was aligned.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.align();
        self.out
    }
}

impl Code {
    /// The shortest code for symbols that occur so often, with no word longer than `longest` bits.
    pub(super) fn of(counts: &[u32], longest: u32) -> Self {
        let lengths = lengths(counts, longest as usize);
        let mut next = [0_u16; 17];
        for length in &lengths {
            next[usize::from(*length) + 1] += 1;
        }
        // Unused symbols take no room.
        next[1] = 0;
        let mut first = 0;
        for count in &mut next[1..] {
            first = (first + *count) << 1;
            *count = first;
        }
        let words = lengths.iter().map(|length| {
            if *length == 0 {
                return (0, 0);
            }
            let next = &mut next[usize::from(*length)];
            *next += 1;
            ((*next - 1).reverse_bits() >> (16 - length), *length)
        });
        Self { words: words.collect() }
    }

    /// Writes a symbol and its `width` extra bits.
    pub(super) fn write(&self, symbol: usize, extra: u32, width: u32, bits: &mut BitWriter) {
        let (word, own) = self.words[symbol];
        bits.push(u32::from(word) | extra << own, u32::from(own) + width);
    }

    /// Writes two symbols at once, which is faster.
    pub(super) fn write_two(&self, first: usize, second: usize, bits: &mut BitWriter) {
        let (word, width) = self.words[second];
        self.write(first, word.into(), width.into(), bits);
    }
}

/// Writes the two codes of a block as their lengths, which say all (RFC 1951 section 3.2.7).
pub(super) fn write_codes(literals: &Code, distances: &Code, bits: &mut BitWriter) {
    let used = |code: &Code| code.words.iter().rposition(|word| word.1 > 0).map_or(0, |last| last + 1);
    let (literals, distances) = (&literals.words[..used(literals)], &distances.words[..used(distances)]);
    let lengths: Vec<u8> = literals.iter().chain(distances).map(|word| word.1).collect();
    let runs = runs(&lengths);
    let mut counts = [0; LENGTH_ORDER.len()];
    for (symbol, ..) in &runs {
        counts[*symbol] += 1;
    }
    let code = Code::of(&counts, 7);
    let sent = LENGTH_ORDER.iter().rposition(|symbol| code.words[*symbol].1 > 0).map_or(0, |last| last + 1);
    bits.push(literals.len() as u32 - 257, 5);
    bits.push(distances.len() as u32 - 1, 5);
    bits.push(sent as u32 - 4, 4);
    for symbol in &LENGTH_ORDER[..sent] {
        bits.push(code.words[*symbol].1.into(), 3);
    }
    for (symbol, extra, width) in runs {
        code.write(symbol, extra, width, bits);
    }
}

/// Lengths as symbols with their extra bits: 16 repeats the one before, 17 and 18 stand for zeros.
fn runs(lengths: &[u8]) -> Vec<(usize, u32, u32)> {
    let mut runs = Vec::new();
    for same in lengths.chunk_by(|a, b| a == b) {
        let length = usize::from(same[0]);
        let mut rest = same.len();
        if length > 0 {
            runs.push((length, 0, 0));
            rest -= 1;
        }
        while rest > 0 {
            let (symbol, least, most, width) = match (length, rest) {
                (0, 11..) => (18, 11, 138, 7),
                (0, 3..) => (17, 3, 10, 3),
                (1.., 3..) => (16, 3, 6, 2),
                _ => (length, 1, 1, 0),
            };
            let taken = rest.min(most);
            runs.push((symbol, (taken - least) as u32, width));
            rest -= taken;
        }
    }
    runs
}

/// How long each symbol's word is: Huffman's, then shortened to `longest` bits.
fn lengths(counts: &[u32], longest: usize) -> Vec<u8> {
    let (mut used, unused): (Vec<_>, Vec<_>) = counts.iter().copied().zip(0_usize..).partition(|(count, _)| *count > 0);
    // A code of fewer than two words leaves room, which some readers refuse.
    used.extend(unused.into_iter().take(2_usize.saturating_sub(used.len())));
    used.sort_unstable();
    // Nodes in the order of their weights: the leaves, then each pair of the two lightest that are left.
    let leaves = used.len();
    let mut weights: Vec<u32> = used.iter().map(|(count, _)| *count).collect();
    let mut parents = vec![0; 2 * leaves - 1];
    let (mut leaf, mut inner) = (0, leaves);
    for node in leaves..2 * leaves - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let lightest = if leaf < leaves && (inner == node || weights[leaf] <= weights[inner]) {
                &mut leaf
            } else {
                &mut inner
            };
            weight += weights[*lightest];
            parents[*lightest] = node;
            *lightest += 1;
        }
        weights.push(weight);
    }
    let mut depths = vec![0; 2 * leaves - 1];
    for node in (0..2 * leaves - 2).rev() {
        depths[node] = depths[parents[node]] + 1;
    }
    let mut per_length = vec![0_usize; longest + 1];
    for depth in &depths[..leaves] {
        per_length[longest.min(*depth)] += 1;
    }
    fit(&mut per_length);
    // The lightest have the longest words.
    let mut lengths = vec![0; counts.len()];
    let by_weight = (1..=longest).rev().flat_map(|length| std::iter::repeat_n(length, per_length[length]));
    for ((_, symbol), length) in used.iter().zip(by_weight) {
        lengths[*symbol] = length as u8;
    }
    lengths
}

/// Makes room for words that were cut short: whenever a shorter one is made a bit longer, it has room for another beside it.
fn fit(per_length: &mut [usize]) {
    let longest = per_length.len() - 1;
    let room =
        |per_length: &[usize]| (1..=longest).map(|length| per_length[length] << (longest - length)).sum::<usize>();
    for _ in 1 << longest..room(per_length) {
        // Too many words of the greatest length mean that there are shorter ones: all in the greatest have room.
        let Some(shorter) = per_length[..longest].iter().rposition(|count| *count > 0) else { return };
        per_length[shorter] -= 1;
        per_length[shorter + 1] += 2;
        per_length[longest] -= 1;
    }
}

/// The order in which the lengths of the lengths' code are sent.
const LENGTH_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_code_is_complete_and_its_words_are_short_enough(counts in prop::collection::vec(0..u32::MAX >> 9, 2..286), longest in 9..=15_u32) {
            let code = Code::of(&counts, longest);
            let room: u32 = code.words.iter().filter(|word| word.1 > 0).map(|word| 1 << (longest - u32::from(word.1))).sum();
            prop_assert_eq!(room, 1 << longest, "no word begins another, and none is left over");
            for (count, word) in counts.iter().zip(&code.words) {
                prop_assert!(*count == 0 || word.1 > 0);
            }
        }
    }

    #[test]
    fn even_the_rarest_symbol_has_a_word_of_the_greatest_length() {
        let counts: Vec<u32> = (0..30).map(|n| 1 << n).collect();
        let code = Code::of(&counts, 15);
        assert_eq!((code.words[0].1, code.words[29].1), (15, 1));
    }
}
