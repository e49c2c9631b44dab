//! The registry: who offers what, for how long. It knows neither SQL nor HTTP.
//!
//! ```text
//!  publish, withdraw ──▶ Store ──▶ change feed (revisions) ──▶ Index ──▶ search, get
//!                          ▲                                     │
//!                          └──────────── sweep ◀── next expiry ──┘
//! ```
//!
//! Searches are answered from the [`Index`] alone: every live advertisement, already
//! written as JSON. The index is built from the store's change feed and from nothing else, after a
//! restart as in operation, so what another process writes to the same store shows up here too.

pub mod crowd;
pub mod endpoints;
pub mod feed;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod index;
mod listing;
pub mod offered;
pub mod rules;
pub mod search;
pub mod sweeper;
pub mod unsigned;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Bytes;
use golem_vm_node::clock::Clock;
use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::{
    Advertisement, AdvertisementError, CLOCK_TOLERANCE_SECONDS, MAX_VALIDITY_SECONDS,
};
use golem_vm_protocol::document::{DocumentError, Envelope};
use golem_vm_protocol::time::Timestamp;

use crowd::{Bounds, NoRoom};
use endpoints::{EndpointPolicy, UnprovenEndpoint};
use feed::{Content, Publication, PublishOutcome, Refusal, Row, Store, StoreFailure, Withdrawal};
use index::{Index, Listed};
use search::{Page, Search};
use unsigned::{UnsignedId, ValidUnsigned};

/// Rows read from the feed, or moved to their grave, in one step.
const BATCH: usize = 512;

/// For how long the grave of a signed advertisement remembers its last sequence: from when the
/// provider was last heard of. What that key signed before then was issued at most
/// [`CLOCK_TOLERANCE_SECONDS`] later, and is good for [`MAX_VALIDITY_SECONDS`] at most; after that an
/// older one is refused because it has expired, and nothing needs to be remembered.
pub const SIGNED_TOMBSTONE_RETENTION: Duration =
    Duration::from_secs(MAX_VALIDITY_SECONDS + CLOCK_TOLERANCE_SECONDS);
/// For how long an unsigned one leaves a grave: only other readers of the feed need it.
pub const UNSIGNED_TOMBSTONE_RETENTION: Duration = Duration::from_secs(3600);

/// Why an advertisement was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The envelope is not a good one.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The document says what it may not say.
    #[error(transparent)]
    Advertisement(#[from] AdvertisementError),
    /// Somebody sent another's document.
    #[error(
        "the document is signed by {signer}, the request by {caller}: each provider publishes for itself"
    )]
    NotTheSender {
        /// Whose document it is.
        signer: KeyId,
        /// Who sent it.
        caller: KeyId,
    },
    /// One that is as new or newer is known, or was withdrawn.
    #[error("the sequence {sent} is not newer than {known}, the last one known of this provider")]
    NotNewer {
        /// The document's sequence.
        sent: u64,
        /// The highest sequence that was published by that key.
        known: u64,
    },
    /// It says to be where it may not be.
    #[error(transparent)]
    Endpoint(#[from] UnprovenEndpoint),
    /// Another unsigned provider has that id.
    #[error(
        "this id is in use from another address; only a signed provider can move: choose another id, or wait until \
         the other has expired"
    )]
    InUse,
    /// The address has as many entries as it may.
    #[error(
        "{0} providers are listed from this address, which is as many as one address may have; the operator sets \
         GOLEM_DISCOVERY_MAX_PROVIDERS_PER_ADDRESS"
    )]
    AddressFull(usize),
    /// The list is full.
    #[error(
        "this server lists as many providers as it can; who is listed stays so, newcomers have to wait"
    )]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

/// What the operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// An advertisement that is not refreshed leaves the list after this, or when it says so
    /// itself, whichever comes first.
    pub expiry: Duration,
    /// How many may be listed.
    pub bounds: Bounds,
    /// Which endpoints count.
    pub endpoints: EndpointPolicy,
}

/// The registry. Share it behind an [`Arc`].
pub struct Registry {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    policy: Policy,
    // A std lock: held for a search or for a batch of insertions, never across an await. Searches
    // run side by side.
    index: RwLock<Index>,
    // A tokio lock, held while the feed is read: whoever waited finds the work done.
    catching_up: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry over what `store` holds.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        policy: Policy,
    ) -> Result<Self, StoreFailure> {
        let registry = Self {
            store,
            clock,
            policy,
            index: RwLock::default(),
            catching_up: tokio::sync::Mutex::default(),
        };
        registry.catch_up().await?;
        Ok(registry)
    }

    /// The time, by the registry's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(i64::try_from(self.clock.now_micros()).unwrap_or(i64::MAX))
    }

    /// Takes `envelope`, which `caller` sent from `peer`, and returns its entry as JSON.
    ///
    /// The very same document again is a refresh: it counts as seen now, and nothing else changes.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        caller: KeyId,
        envelope: &Envelope,
        peer: IpAddr,
    ) -> Result<Bytes, PublishError> {
        if envelope.keyid != caller {
            return Err(PublishError::NotTheSender { signer: envelope.keyid, caller });
        }
        let verified = envelope.open::<Advertisement>()?;
        let now = self.now();
        Advertisement::check(&verified, now)?;
        let proven_until = endpoints::check(&verified.content, peer, &self.policy.endpoints, now)?;
        let sent = verified.content.sequence;
        let carried = serde_json::to_string(envelope).map_err(StoreFailure::unwritable)?;
        let publication = Publication {
            provider_id: caller.to_string(),
            content: Content::Signed { sequence: sent, digest: verified.digest, envelope: carried },
            observed_address: peer.to_string(),
            at: now,
            expires_at: [Some(verified.content.expires_at), proven_until]
                .into_iter()
                .flatten()
                .fold(now.plus(self.policy.expiry), Timestamp::min),
        };
        self.put(publication, sent).await
    }

    /// Takes an advertisement that nobody signed, and returns its entry as JSON. It replaces what
    /// came under that id from the same address.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish_unsigned(
        &self,
        id: &UnsignedId,
        advertisement: &ValidUnsigned,
        peer: IpAddr,
    ) -> Result<Bytes, PublishError> {
        let said = advertisement.get();
        let is_there = said.ip_address.parse::<IpAddr>().is_ok_and(|ip| ip == peer.to_canonical());
        if !is_there && !self.policy.endpoints.unproven {
            return Err(UnprovenEndpoint {
                peer,
                host: said.ip_address.clone(),
                port: None,
                accepts_checkers: false,
            }
            .into());
        }
        let body = serde_json::to_string(said).map_err(StoreFailure::unwritable)?;
        let now = self.now();
        let publication = Publication {
            provider_id: id.as_str().to_owned(),
            content: Content::Unsigned { body },
            observed_address: peer.to_string(),
            at: now,
            expires_at: now.plus(self.policy.expiry),
        };
        self.put(publication, 0).await
    }

    /// Stores and lists.
    async fn put(&self, publication: Publication, sent: u64) -> Result<Bytes, PublishError> {
        let bounds = self.policy.bounds;
        let row = match self.store.publish_if_newer(publication, bounds).await? {
            PublishOutcome::Stored(row) => row,
            PublishOutcome::Refused(refusal) => {
                return Err(match refusal {
                    Refusal::NotNewer { known } => PublishError::NotNewer { sent, known },
                    Refusal::InUse => PublishError::InUse,
                    Refusal::NoRoom(NoRoom::Address) => {
                        PublishError::AddressFull(bounds.per_address)
                    }
                    Refusal::NoRoom(NoRoom::List) => PublishError::Full,
                });
            }
        };
        self.catch_up_to(row.revision).await?;
        // From the row and not from the index, where a newer one may stand by now.
        let listed = Listed::from_row(&row).map_err(StoreFailure::damaged)?;
        Ok(listed.json)
    }

    /// Takes an advertisement off the list; its last sequence stays known. `unsigned_from` is where
    /// the request came from, if nobody signed it. Whether there was anything to take off.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn withdraw(
        &self,
        provider_id: &str,
        unsigned_from: Option<IpAddr>,
    ) -> Result<bool, StoreFailure> {
        let withdrawal = Withdrawal {
            provider_id: provider_id.to_owned(),
            unsigned_from: unsigned_from.map(|address| address.to_string()),
            at: self.now(),
        };
        match self.store.withdraw(withdrawal).await? {
            Some(revision) => {
                self.catch_up_to(revision).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The entry of one provider as JSON, if it is live.
    #[must_use]
    pub fn get(&self, provider_id: &str) -> Option<Bytes> {
        let now = self.now();
        self.read(|index| index.get(provider_id, now))
    }

    /// One page of what is live and matches, in the order of the ids.
    #[must_use]
    pub fn search(&self, search: &Search) -> Page {
        let now = self.now();
        self.read(|index| index.search(search, now)).into_page()
    }

    /// How many entries the index holds, those included that have just expired.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read(Index::len)
    }

    /// Whether the index is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the next entry expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.read(Index::next_expiry)
    }

    /// Reads from the feed what is not in the index yet.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn catch_up(&self) -> Result<(), StoreFailure> {
        let _only_one = self.catching_up.lock().await;
        self.read_feed().await
    }

    /// [`Registry::catch_up`], unless somebody else has read as far as `revision` meanwhile.
    async fn catch_up_to(&self, revision: u64) -> Result<(), StoreFailure> {
        let _only_one = self.catching_up.lock().await;
        if self.read(Index::revision) >= revision {
            return Ok(());
        }
        self.read_feed().await
    }

    async fn read_feed(&self) -> Result<(), StoreFailure> {
        loop {
            let known = self.read(Index::revision);
            let rows = self.store.changes_since(known, BATCH).await?;
            let more = rows.len() == BATCH;
            // Written as JSON before the lock is taken.
            let changes: Vec<_> = rows.iter().map(change_of).collect();
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for (row, listed) in rows.into_iter().zip(changes) {
                index.apply(row.revision, row.provider_id, listed);
            }
            drop(index);
            if !more {
                return Ok(());
            }
        }
    }

    /// Moves what has expired to its grave, and clears graves that are past their time. Returns
    /// how many entries expired.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep(&self) -> Result<usize, StoreFailure> {
        let now = self.now();
        let mut expired = 0;
        loop {
            let moved = self.store.expire(now, BATCH).await?;
            expired += moved;
            if moved < BATCH {
                break;
            }
        }
        let before = |retention: Duration| {
            let micros = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
            Timestamp::from_unix_micros(now.unix_micros().saturating_sub(micros))
        };
        self.store
            .clear_graves(before(SIGNED_TOMBSTONE_RETENTION), before(UNSIGNED_TOMBSTONE_RETENTION))
            .await?;
        self.catch_up().await?;
        Ok(expired)
    }

    fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a row of the feed does to the index. A row that can't be read is taken off the list, for
/// one bad row must not keep the others from it.
fn change_of(row: &Row) -> Option<Listed> {
    row.content.as_ref()?;
    match Listed::from_row(row) {
        Ok(listed) => Some(listed),
        Err(reason) => {
            tracing::error!(
                revision = row.revision,
                "a stored advertisement can't be read: {reason}"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
