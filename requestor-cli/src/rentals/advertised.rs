//! The highest sequence of each provider's advertisement that was seen, so that an old one can't
//! come back, whichever discovery server shows it.

use std::time::Duration;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::document::DocumentDigest;
use golem_vm_protocol::time::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::{Rentals, failed};
use crate::error::Result;

/// How long a sequence is remembered after it was first seen. Whatever was signed before it is
/// over by then: an advertisement is good for 24 hours at most, and clocks may differ by minutes.
const KEPT: Duration = Duration::from_secs(26 * 3600);
/// Most providers that are remembered; those that were seen longest ago go first, but for those
/// that something was rented from.
const MOST: usize = 20_000;

/// What is known of an advertisement's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// It is the highest so far, and remembered from now on.
    Newest,
    /// This higher one was seen before.
    Older(u64),
    /// Another advertisement with the same sequence was seen before.
    Another,
}

impl Rentals {
    /// Compares advertisements with those that were seen before, and remembers the new ones.
    /// One answer for each, in their order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn recall(
        &self,
        advertised: &[(KeyId, u64, DocumentDigest)],
        now: Timestamp,
    ) -> Result<Vec<Recall>> {
        let work = || -> rusqlite::Result<Vec<Recall>> {
            let mut recalls = Vec::with_capacity(advertised.len());
            let mut news = Vec::new();
            let mut known = self
                .connection
                .prepare_cached("SELECT sequence, digest FROM advertised WHERE provider_id = ?1")?;
            for (provider, sequence, digest) in advertised {
                let old: Option<(i64, String)> = known
                    .query_row([provider.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                let old = old.map(|(known, text)| (known.unsigned_abs(), text));
                let recall = match old {
                    Some((known, _)) if known > *sequence => Recall::Older(known),
                    Some((known, text)) if known == *sequence => {
                        if text == digest.to_string() {
                            Recall::Newest
                        } else {
                            Recall::Another
                        }
                    }
                    _ => {
                        news.push((provider, sequence, digest));
                        Recall::Newest
                    }
                };
                recalls.push(recall);
            }
            drop(known);
            if !news.is_empty() {
                self.remember(&news, now, MOST)?;
            }
            Ok(recalls)
        };
        work().map_err(|error| failed(&error))
    }

    fn remember(
        &self,
        news: &[(&KeyId, &u64, &DocumentDigest)],
        now: Timestamp,
        most: usize,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        let long_ago = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
        transaction.execute(
            "DELETE FROM advertised WHERE seen_at < ?1",
            [now.unix_micros().saturating_sub(long_ago)],
        )?;
        for (provider, sequence, digest) in news {
            // Another golem may have written a higher one meanwhile.
            transaction
                .prepare_cached(
                    "INSERT INTO advertised (provider_id, sequence, digest, seen_at)
                     VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (provider_id) DO UPDATE SET
                       sequence = excluded.sequence, digest = excluded.digest,
                       seen_at = excluded.seen_at
                     WHERE excluded.sequence > sequence",
                )?
                .execute(params![
                    provider.to_string(),
                    // A signed one is below 2^53.
                    i64::try_from(**sequence).unwrap_or(i64::MAX),
                    digest.to_string(),
                    now.unix_micros()
                ])?;
        }
        transaction.execute(
            "DELETE FROM advertised WHERE provider_id IN (
               SELECT provider_id FROM advertised
               WHERE provider_id NOT IN (SELECT provider_id FROM rentals)
               ORDER BY seen_at DESC, provider_id LIMIT -1 OFFSET ?1)",
            [i64::try_from(most).unwrap_or(i64::MAX)],
        )?;
        transaction.commit()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;

    fn rentals() -> (tempfile::TempDir, Rentals) {
        let dir = tempfile::tempdir().unwrap();
        let rentals = Rentals::open(&dir.path().join("state.db")).unwrap();
        (dir, rentals)
    }

    fn id(seed: u8) -> KeyId {
        KeyPair::from_secret_bytes([seed; 32]).unwrap().id()
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_795_000_000 + hours * 3600)
    }

    #[test]
    fn an_old_advertisement_never_comes_back() {
        let (_dir, rentals) = rentals();
        let seen = |sequence: u64, words: &[u8], hours| {
            let digest = DocumentDigest::of(words);
            rentals.recall(&[(id(1), sequence, digest)], at(hours)).unwrap()[0]
        };
        assert_eq!(seen(5, b"five", 0), Recall::Newest);
        assert_eq!(seen(5, b"five", 0), Recall::Newest);
        assert_eq!(seen(4, b"four", 0), Recall::Older(5));
        assert_eq!(seen(5, b"FIVE", 0), Recall::Another);
        assert_eq!(seen(6, b"six", 1), Recall::Newest);
        assert_eq!(seen(5, b"five", 25), Recall::Older(6));
        // By then nothing that is older than the sixth can be good any more.
        rentals.recall(&[(id(2), 1, DocumentDigest::of(b"x"))], at(28)).unwrap();
        assert_eq!(seen(5, b"five", 28), Recall::Newest);
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_whom_something_was_rented_from() {
        let (_dir, rentals) = rentals();
        let provider =
            super::super::ProviderRef { id: id(1), name: "p".into(), endpoints: Vec::new() };
        let new = super::super::NewRental {
            name: "box".parse().unwrap(),
            provider,
            idempotency_key: "k".into(),
            request: String::new(),
            cloned_from: None,
            resources: golem_vm_protocol::VmResources { cpu: 1, memory: 1, storage: 10 },
            usd_micro_month: None,
            identity: None,
            agreed: None,
        };
        rentals.insert(&new, at(0)).unwrap();
        let digest = DocumentDigest::of(b"x");
        for seed in 1..=9 {
            rentals.remember(&[(&id(seed), &7, &digest)], at(u64::from(seed)), 3).unwrap();
        }
        let count: i64 = rentals
            .connection
            .query_row("SELECT count(*) FROM advertised", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 4);
        for (seed, expected) in [
            (1, Recall::Older(7)),
            (2, Recall::Newest),
            (7, Recall::Older(7)),
            (9, Recall::Older(7)),
        ] {
            assert_eq!(rentals.recall(&[(id(seed), 6, digest)], at(10)).unwrap(), [expected]);
        }
    }
}
