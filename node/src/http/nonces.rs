//! The memory of signed requests that were served, so that none is served twice.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::signature::{Nonce, WINDOW_SECONDS};

/// How much is remembered. When a bound is reached the request is refused: forgetting one that is
/// still within its window would let it be replayed.
#[derive(Debug, Clone, Copy)]
pub struct NonceLimits {
    /// Requests of one key within their window.
    pub per_key: usize,
    /// Requests from one address (IPv4, or IPv6 /64) within their window; loopback is exempt. Keys
    /// cost nothing, addresses do: without this bound one machine could fill the memory for all.
    pub per_address: usize,
    /// Requests of everybody. About 100 bytes each.
    pub total: usize,
    /// Requests whose window is over, for the case that the clock is set back. The oldest make room;
    /// what may be one of them is refused. About 150 bytes each.
    pub past: usize,
}

impl Default for NonceLimits {
    fn default() -> Self {
        Self { per_key: 16_384, per_address: 32_768, total: 262_144, past: 65_536 }
    }
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was served before.
    Seen,
    /// Its key has used up its share.
    KeyFull,
    /// Its address has used up its share.
    AddressFull,
    /// There is no room for anybody.
    Full,
    /// The clock was set back to a time whose requests are forgotten already; so many seconds of it
    /// are left.
    Forgotten(u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: KeyId,
    nonce: Nonce,
    bucket: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct NonceMemory {
    limits: NonceLimits,
    seen: HashSet<(KeyId, Nonce)>,
    per_key: HashMap<KeyId, usize>,
    per_bucket: HashMap<IpAddr, usize>,
    /// By the last second at which each would still be accepted.
    expiring: BTreeMap<u64, Vec<Entry>>,
    /// Those whose window is over.
    past: Past,
    /// The latest time that was seen.
    latest: u64,
}

/// What was served, as far back as there is room.
#[derive(Debug, Default)]
struct Past {
    seen: HashSet<(KeyId, Nonce)>,
    order: VecDeque<(u64, KeyId, Nonce)>,
    /// The last second of the latest request that made room.
    forgotten: u64,
}

impl Past {
    fn add(&mut self, last_second: u64, key: KeyId, nonce: Nonce, room: usize) {
        if self.seen.insert((key, nonce)) {
            self.order.push_back((last_second, key, nonce));
        }
        while self.order.len() > room {
            let Some((last_second, key, nonce)) = self.order.pop_front() else { return };
            self.seen.remove(&(key, nonce));
            self.forgotten = self.forgotten.max(last_second);
        }
    }
}

impl NonceMemory {
    pub(super) fn new(limits: NonceLimits) -> Self {
        Self {
            limits,
            seen: HashSet::new(),
            per_key: HashMap::new(),
            per_bucket: HashMap::new(),
            expiring: BTreeMap::new(),
            past: Past::default(),
            latest: 0,
        }
    }

    /// Remembers a request that was signed at `created` and arrived at `now`, or says why not.
    pub(super) fn take(
        &mut self,
        key: KeyId,
        nonce: Nonce,
        bucket: Option<IpAddr>,
        created: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        self.latest = self.latest.max(now);
        self.forget_before(self.latest);
        let last_second = created.saturating_add(WINDOW_SECONDS);
        // The clock was set back: this time was there once before.
        if last_second < self.latest {
            if self.past.seen.contains(&(key, nonce)) {
                return Err(Refusal::Seen);
            }
            if last_second <= self.past.forgotten {
                return Err(Refusal::Forgotten(self.past.forgotten - last_second + 1));
            }
            self.past.add(last_second, key, nonce, self.limits.past);
            return Ok(());
        }
        if self.seen.contains(&(key, nonce)) {
            return Err(Refusal::Seen);
        }
        if self.per_key.get(&key).is_some_and(|count| *count >= self.limits.per_key) {
            return Err(Refusal::KeyFull);
        }
        let used =
            bucket.and_then(|bucket| self.per_bucket.get(&bucket)).copied().unwrap_or_default();
        if bucket.is_some() && used >= self.limits.per_address {
            return Err(Refusal::AddressFull);
        }
        if self.seen.len() >= self.limits.total {
            return Err(Refusal::Full);
        }
        self.seen.insert((key, nonce));
        *self.per_key.entry(key).or_default() += 1;
        if let Some(bucket) = bucket {
            *self.per_bucket.entry(bucket).or_default() += 1;
        }
        self.expiring.entry(last_second).or_default().push(Entry { key, nonce, bucket });
        Ok(())
    }

    fn forget_before(&mut self, now: u64) {
        while let Some(first) = self.expiring.first_entry() {
            if *first.key() >= now {
                return;
            }
            let (last_second, entries) = first.remove_entry();
            for entry in entries {
                self.seen.remove(&(entry.key, entry.nonce));
                self.past.add(last_second, entry.key, entry.nonce, self.limits.past);
                decrement(&mut self.per_key, entry.key);
                if let Some(bucket) = entry.bucket {
                    decrement(&mut self.per_bucket, bucket);
                }
            }
        }
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;

    fn key(seed: u8) -> KeyId {
        KeyPair::from_secret_bytes([seed; 32]).unwrap().id()
    }

    fn nonce(number: u8) -> Nonce {
        Nonce::from_bytes([number; 16])
    }

    #[test]
    fn one_is_remembered_exactly_as_long_as_it_would_be_accepted() {
        let mut memory = NonceMemory::new(NonceLimits::default());
        memory.take(key(1), nonce(1), None, 1000, 990).unwrap();
        for now in [990, 1000, 1060] {
            assert_eq!(memory.take(key(1), nonce(1), None, 1000, now), Err(Refusal::Seen));
        }
        memory.take(key(2), nonce(1), None, 1000, 1060).unwrap();
        memory.take(key(1), nonce(2), None, 1061, 1061).unwrap();
        assert_eq!(memory.seen.len(), 1, "those of 1000 are forgotten at 1061");
        assert_eq!(memory.per_key.len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_revives_nothing() {
        let mut memory = NonceMemory::new(NonceLimits::default());
        memory.take(key(1), nonce(1), None, 1000, 1000).unwrap();
        memory.take(key(1), nonce(2), None, 1090, 1090).unwrap();
        // By the clock it is in time again.
        assert_eq!(memory.take(key(1), nonce(1), None, 1000, 1030), Err(Refusal::Seen));
        // Another request of that time is a new one, once.
        memory.take(key(2), nonce(1), None, 1001, 1030).unwrap();
        assert_eq!(memory.take(key(2), nonce(1), None, 1001, 1030), Err(Refusal::Seen));
        // A step of less than the window costs nobody anything.
        memory.take(key(1), nonce(3), None, 1031, 1031).unwrap();
        assert_eq!(memory.take(key(1), nonce(3), None, 1031, 1031), Err(Refusal::Seen));
    }

    #[test]
    fn where_the_past_is_forgotten_all_of_it_is_refused() {
        let mut memory = NonceMemory::new(NonceLimits { past: 2, ..NonceLimits::default() });
        for number in 1..=3 {
            let created = 1000 + u64::from(number);
            memory.take(key(1), nonce(number), None, created, created).unwrap();
        }
        memory.take(key(1), nonce(4), None, 2000, 2000).unwrap();
        // The first of the three is forgotten.
        assert_eq!(memory.take(key(1), nonce(1), None, 1001, 1030), Err(Refusal::Forgotten(1)));
        assert_eq!(memory.take(key(2), nonce(1), None, 1000, 1030), Err(Refusal::Forgotten(2)));
        assert_eq!(memory.take(key(1), nonce(2), None, 1002, 1030), Err(Refusal::Seen));
        memory.take(key(2), nonce(1), None, 1002, 1030).unwrap();
        assert_eq!(memory.past.seen.len(), 2);
    }

    #[test]
    fn a_flood_by_one_key_costs_no_other_key_its_memory() {
        let limits = NonceLimits { per_key: 100, per_address: 1000, total: 2000, past: 100 };
        let mut memory = NonceMemory::new(limits);
        memory.take(key(1), nonce(1), None, 1000, 1000).unwrap();
        let flood = |number: u32| {
            let mut bytes = [9; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            Nonce::from_bytes(bytes)
        };
        let address = Some("192.0.2.1".parse().unwrap());
        let taken = (0..10_000)
            .filter(|number| memory.take(key(2), flood(*number), address, 1000, 1001).is_ok())
            .count();
        assert_eq!(taken, limits.per_key);
        assert_eq!(memory.seen.len(), limits.per_key + 1, "and no more is kept");
        assert_eq!(memory.take(key(1), nonce(1), None, 1000, 1060), Err(Refusal::Seen));
        memory.take(key(1), nonce(2), None, 1060, 1060).unwrap();
    }

    #[test]
    fn a_full_memory_refuses_and_never_forgets() {
        let mut memory =
            NonceMemory::new(NonceLimits { per_key: 2, per_address: 3, total: 4, past: 4 });
        let here = Some("192.0.2.1".parse().unwrap());
        let there = Some("192.0.2.2".parse().unwrap());
        memory.take(key(1), nonce(1), here, 1000, 1000).unwrap();
        memory.take(key(1), nonce(2), here, 1000, 1000).unwrap();
        assert_eq!(memory.take(key(1), nonce(3), there, 1000, 1000), Err(Refusal::KeyFull));
        memory.take(key(2), nonce(1), here, 1000, 1000).unwrap();
        assert_eq!(memory.take(key(2), nonce(2), here, 1000, 1000), Err(Refusal::AddressFull));
        memory.take(key(3), nonce(1), there, 1000, 1000).unwrap();
        assert_eq!(memory.take(key(4), nonce(1), there, 1000, 1000), Err(Refusal::Full));
        assert_eq!(memory.take(key(1), nonce(1), here, 1000, 1000), Err(Refusal::Seen));
        memory.take(key(4), nonce(1), there, 1061, 1061).unwrap();
        assert_eq!((memory.seen.len(), memory.per_bucket.len()), (1, 1));
    }
}
