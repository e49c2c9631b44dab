//! Numbers that look random and follow from a seed: splitmix64 (Steele, Lea and Flood, 2014).

/// A sequence of them.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// That of a seed; each `stream` of a seed is another one.
    pub(crate) fn of(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xA076_1D64_78BD_642F));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` up to, and without, `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// Brings them into another order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            let other = self.between(0, last as u64 + 1);
            all.swap(last, usize::try_from(other).unwrap());
        }
    }

    /// One of these, each as likely as its weight says; there has to be one that weighs something.
    pub(crate) fn weighed<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut at = self.between(0, total);
        for (weight, choice) in choices {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        unreachable!("{at} is less than the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_streams_differ() {
        let numbers = |stream| {
            let mut random = Random::of(7, stream);
            [(); 4].map(|()| random.between(0, 1_000_000))
        };
        assert_eq!(numbers(0), numbers(0));
        assert_ne!(numbers(0), numbers(1));
    }

    #[test]
    fn what_weighs_nothing_never_comes() {
        let mut random = Random::of(1, 0);
        for _ in 0..100 {
            assert_ne!(random.weighed(&[(1, 'a'), (0, 'b'), (3, 'c')]), 'b');
        }
    }
}
