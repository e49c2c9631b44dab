//! So much at a time for each address, and no more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what each address (see [`Peer::bucket`](super::Peer::bucket)) has going on. Cheap to
/// clone; clones count together.
#[derive(Debug, Clone)]
pub struct AddressShares {
    max: usize,
    // A plain mutex: held for one map operation, never across an await.
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl AddressShares {
    /// At most `max` for each address at a time.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, counts: Arc::default() }
    }

    /// Counts one more for `bucket` until the share is dropped; `None` when it has its maximum.
    /// What has no bucket (loopback, local processes) is not counted.
    #[must_use]
    pub fn enter(&self, bucket: Option<IpAddr>) -> Option<AddressShare> {
        self.enter_below(self.max, bucket)
    }

    /// [`AddressShares::enter`] with a lower maximum than usual, but at least one.
    #[must_use]
    pub fn enter_below(&self, max: usize, bucket: Option<IpAddr>) -> Option<AddressShare> {
        let max = max.max(1).min(self.max);
        if let Some(bucket) = bucket {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(bucket).or_default();
            if *count >= max {
                // An entry that was just made must not stay behind.
                if *count == 0 {
                    counts.remove(&bucket);
                }
                return None;
            }
            *count += 1;
        }
        Some(AddressShare { counts: Arc::clone(&self.counts), bucket })
    }
}

/// One place of an address; given back when dropped.
#[derive(Debug)]
pub struct AddressShare {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    bucket: Option<IpAddr>,
}

impl Drop for AddressShare {
    fn drop(&mut self) {
        let Some(bucket) = self.bucket else { return };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&bucket) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&bucket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let shares = AddressShares::new(2);
        let bucket = Some("192.0.2.1".parse().unwrap());
        let first = shares.enter(bucket).unwrap();
        let second = shares.enter(bucket).unwrap();
        assert!(shares.enter(bucket).is_none());
        assert!(shares.enter(Some("192.0.2.2".parse().unwrap())).is_some());
        assert!(AddressShares::new(0).enter(None).is_some());
        let other = Some("192.0.2.3".parse().unwrap());
        let low = shares.enter_below(0, other).unwrap();
        assert!(shares.enter_below(1, other).is_none() && shares.enter_below(9, other).is_some());
        drop(low);
        drop(first);
        let third = shares.enter(bucket).unwrap();
        drop((second, third));
        assert!(shares.counts.lock().unwrap().is_empty());
    }
}
