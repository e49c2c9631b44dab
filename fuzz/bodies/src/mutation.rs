//! Inputs from inputs: what libFuzzer does, without its coverage.

/// A small generator of random numbers (SplitMix64), the same on every machine for the same seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers follow from `seed` alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> Option<&'a T> {
        of.get(self.below(of.len())).copied()
    }
}

/// Pieces on which parsers stumble: ends of ranges, quotes, escapes, what turns text around.
const PIECES: [&[u8]; 46] = [
    b"\"",
    b"'",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b";",
    b"=",
    b"/",
    b"..",
    b"%00",
    b"-",
    b"+",
    b"0",
    b"-1",
    b"00",
    b"1e400",
    b"1e-400",
    b"0.1",
    b"65535",
    b"65536",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551615",
    b"18446744073709551616",
    b"null",
    b"true",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\0",
    b"\x1b[31m",
    b"\x1b]0;x\x07",
    "\u{202e}".as_bytes(),
    "\u{feff}".as_bytes(),
    "\u{9b}".as_bytes(),
    "\u{e9}".as_bytes(),
    b"\xff",
    b"\xc3",
    b"[::1]:22",
];

/// Longest input that is made.
const MAX_BYTES: usize = 16 * 1024;

/// An input made from those of the corpus by a few random changes.
#[must_use]
pub fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = random.below(corpus.len());
    let mut input = corpus.get(pick).cloned().unwrap_or_default();
    for _ in 0..=random.below(6) {
        change(&mut input, corpus, random);
    }
    input.truncate(MAX_BYTES);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let length = random.below(input.len().saturating_sub(at).min(64) + 1);
    match random.below(10) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            let byte = random.byte();
            if let Some(place) = input.get_mut(at) {
                *place = byte;
            }
        }
        2 => drop(input.drain(at..at + length)),
        3 => {
            let piece = input.get(at..at + length).unwrap_or_default().to_vec();
            insert(input, at, &piece);
        }
        4 => {
            let other = corpus.get(random.below(corpus.len())).cloned().unwrap_or_default();
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        5 => {
            let bytes: Vec<u8> = (0..=random.below(8)).map(|_| random.byte()).collect();
            insert(input, at, &bytes);
        }
        6 => {
            let piece = input.get(at..at + length).unwrap_or_default().to_vec();
            for _ in 0..random.below(50) {
                insert(input, at, &piece);
            }
        }
        7 => {
            // One number in place of another.
            let digits = input.iter().skip(at).take_while(|byte| byte.is_ascii_digit()).count();
            input.drain(at..at + digits);
            insert(input, at, random.one(&PIECES).unwrap_or_default());
        }
        _ => insert(input, at, random.one(&PIECES).unwrap_or_default()),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if input.len() + bytes.len() <= MAX_BYTES {
        input.splice(at..at, bytes.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs_and_another_one_others() {
        let corpus = vec![b"{\"a\": 12}".to_vec(), Vec::new()];
        let inputs = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutated(&corpus, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(1).iter().all(|input| input.len() <= MAX_BYTES));
    }
}
