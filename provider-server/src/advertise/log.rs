//! Where the sequence and the recent documents are kept.

use async_trait::async_trait;
use golem_vm_protocol::advertisement::Advertisement;
use golem_vm_protocol::document::{Envelope, Verified};

use crate::store::ProviderStore;

/// Keeps what was advertised.
#[async_trait]
pub trait AdvertisementLog: Send + Sync + 'static {
    /// Takes the next sequence, which is then used up for ever; never below `at_least`.
    ///
    /// # Errors
    /// A sentence, when it can't be kept.
    async fn next_sequence(&self, at_least: u64) -> Result<u64, String>;

    /// Remembers the document that is about to be sent under its sequence.
    ///
    /// # Errors
    /// A sentence, when it can't be kept.
    async fn remember(
        &self,
        document: &Verified<Advertisement>,
        envelope: &Envelope,
    ) -> Result<(), String>;
}

#[async_trait]
impl AdvertisementLog for ProviderStore {
    async fn next_sequence(&self, at_least: u64) -> Result<u64, String> {
        Self::next_sequence(self, at_least).await.map_err(|error| error.to_string())
    }

    async fn remember(
        &self,
        document: &Verified<Advertisement>,
        envelope: &Envelope,
    ) -> Result<(), String> {
        Self::remember(self, document, envelope).await.map_err(|error| error.to_string())
    }
}
