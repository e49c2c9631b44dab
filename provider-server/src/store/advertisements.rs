//! The SQL of what was advertised: the last sequence, and the recent terms.

use async_trait::async_trait;
use golem_vm_node::store::StoreError;
use golem_vm_protocol::advertisement::Advertisement;
use golem_vm_protocol::document::{Envelope, Verified};
use golem_vm_protocol::vm::AcceptedOffer;
use rusqlite::{OptionalExtension as _, params};

use super::ProviderStore;
use super::columns::{damaged, signed};
use crate::vm::VmError;
use crate::vm::offer_book::OfferBook;

/// How many advertisements are remembered: more than a day of them at the usual rate.
const KEPT: i64 = 500;

impl ProviderStore {
    /// Takes the next sequence. It is used up even if nothing is ever sent under it, so that two
    /// documents never share one. Never below `at_least`, for a provider whose database was lost.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_sequence(&self, at_least: u64) -> Result<u64, StoreError> {
        let now = self.now();
        self.store
            .write("advertisement.next_sequence", move |db| {
                let last: i64 =
                    db.query_row("SELECT coalesce(max(sequence), 0) FROM advertisement", [], |row| row.get(0))?;
                let next = last.saturating_add(1).max(signed(at_least));
                db.execute(
                    "INSERT INTO advertisement (sequence, digest, envelope, created_at) VALUES (?1, '', '', ?2)",
                    params![next, now.unix_micros()],
                )?;
                db.execute("DELETE FROM advertisement WHERE sequence <= ?1", params![next.saturating_sub(KEPT)])?;
                Ok(u64::try_from(next).unwrap_or_default())
            })
            .await
    }

    /// Remembers the document that is about to be sent under its sequence.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remember(
        &self,
        verified: &Verified<Advertisement>,
        envelope: &Envelope,
    ) -> Result<(), StoreError> {
        let (sequence, digest) = (signed(verified.content.sequence), verified.digest.to_string());
        let text = serde_json::to_string(envelope).unwrap_or_default();
        self.store
            .write("advertisement.remember", move |db| {
                db.execute(
                    "UPDATE advertisement SET digest = ?2, envelope = ?3 WHERE sequence = ?1",
                    params![sequence, digest, text],
                )?;
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl OfferBook for ProviderStore {
    async fn advertised(&self, offer: &AcceptedOffer) -> Result<Option<Advertisement>, VmError> {
        let (sequence, digest) = (signed(offer.sequence), offer.digest.to_string());
        self.store
            .read("advertisement.find", move |db| {
                let text: Option<String> = db
                    .query_row(
                        "SELECT envelope FROM advertisement WHERE sequence = ?1 AND digest = ?2",
                        params![sequence, digest],
                        |row| row.get(0),
                    )
                    .optional()?;
                let Some(text) = text else { return Ok(None) };
                let envelope: Envelope =
                    serde_json::from_str(&text).map_err(|error| damaged(0, error))?;
                let verified =
                    envelope.open::<Advertisement>().map_err(|error| damaged(0, error))?;
                Ok(Some(verified.content))
            })
            .await
    }
}
