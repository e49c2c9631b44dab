//! Choices that differ from run to run, and can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// The variable that repeats a run.
pub const SEED: &str = "GOLEM_CRASH_SEED";

/// A row of numbers that follows from its seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// From the environment, else of this moment. Says which, so that the run can be repeated.
    #[must_use]
    pub fn of_this_run() -> Self {
        let of_now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED}={text} is no number")),
            Err(_) => of_now(),
        };
        println!("what is left to chance here follows from {SEED}={seed}");
        Self(seed)
    }

    /// One for something of its own, that does not depend on what others have drawn.
    #[must_use]
    pub fn of(&self, what: &str) -> Self {
        // FNV-1a.
        let hash = what.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(self.0 ^ hash)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// One time in two.
    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Some of them, each at most once, in any order.
    pub fn sample<T>(&mut self, mut from: Vec<T>, count: usize) -> Vec<T> {
        let mut taken = Vec::new();
        while taken.len() < count && !from.is_empty() {
            taken.push(from.swap_remove(self.below(from.len())));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    #[test]
    fn the_same_seed_gives_the_same_choices() {
        let draw = |seed| {
            let mut chance = Chance(seed).of("something");
            (chance.below(1000), chance.sample((0..100).collect(), 5))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let all = Chance(3).sample((0..10).collect::<Vec<_>>(), 20);
        assert_eq!(all.len(), 10);
    }
}
