//! What the registry needs of a store, and the rows that go through its change feed.

use std::fmt;

use async_trait::async_trait;
use golem_vm_protocol::document::DocumentDigest;
use golem_vm_protocol::time::Timestamp;

use super::crowd::{Bounds, NoRoom};

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A signed document.
    Signed {
        /// Its sequence.
        sequence: u64,
        /// Digest of its payload.
        digest: DocumentDigest,
        /// The envelope as JSON, its members as they were received.
        envelope: String,
    },
    /// An unsigned provider's advertisement as JSON.
    Unsigned {
        /// The JSON.
        body: String,
    },
}

/// A publication on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The provider's key, or whatever an unsigned provider calls itself.
    pub provider_id: String,
    /// What it published.
    pub content: Content,
    /// The address that it came from.
    pub observed_address: String,
    /// When it came.
    pub at: Timestamp,
    /// When it leaves the list, unless it is refreshed.
    pub expires_at: Timestamp,
}

/// A withdrawal on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// Whose advertisement.
    pub provider_id: String,
    /// Where the request came from, if that is all that says who sent it.
    pub unsigned_from: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// What became of an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// On the list (until it expires).
    Live,
    /// Taken off by its provider.
    Withdrawn,
    /// Not refreshed in time.
    Expired,
}

/// A provider's row: its advertisement, or the grave of its last one, which remembers the sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Rises with each change of any row; the place in the feed.
    pub revision: u64,
    /// The provider's key, or whatever an unsigned provider calls itself.
    pub provider_id: String,
    /// The last sequence and the digest of its payload; `None` of an unsigned provider.
    pub signed: Option<(u64, DocumentDigest)>,
    /// What became of it.
    pub state: State,
    /// The envelope, or the unsigned advertisement, as JSON. `None` unless it is live.
    pub content: Option<String>,
    /// The address that it came from.
    pub observed_address: String,
    /// When it was first listed.
    pub created_at: Timestamp,
    /// When this version was published.
    pub updated_at: Timestamp,
    /// When the provider was last heard of.
    pub last_seen: Timestamp,
    /// When it leaves the list, or left it.
    pub expires_at: Timestamp,
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It is in the store as this row.
    Stored(Row),
    /// It is not.
    Refused(Refusal),
}

/// Why a publication was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// One that is as new or newer is known.
    NotNewer {
        /// Its sequence.
        known: u64,
    },
    /// The unsigned id is in use from another address.
    InUse,
    /// There is no room.
    NoRoom(NoRoom),
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreFailure {
    /// Whether asking again later may help.
    pub transient: bool,
    /// What happened.
    pub message: String,
}

impl StoreFailure {
    /// Content that can't be written as JSON.
    pub(super) fn unwritable(error: impl fmt::Display) -> Self {
        Self { transient: false, message: format!("an advertisement can't be written: {error}") }
    }

    /// A row that can't be read.
    pub(super) fn damaged(reason: impl fmt::Display) -> Self {
        Self {
            transient: false,
            message: format!("a stored advertisement can't be read: {reason}"),
        }
    }
}

/// Where advertisements are kept. Several processes may share one store: what each of them is told
/// comes from the feed, and the feed holds every change in one order.
///
/// For an implementation on a database whose transactions commit in another order than they draw
/// their revisions (PostgreSQL with a sequence): draw the revision under a lock, or a reader may
/// go past a change that is not visible yet.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Stores `publication` if [`super::rules::publish`] allows it over what is there and, where the
    /// provider is not listed now, [`super::crowd::admit`] finds room within `bounds`. Atomic, and
    /// durable when it returns.
    async fn publish_if_newer(
        &self,
        publication: Publication,
        bounds: Bounds,
    ) -> Result<PublishOutcome, StoreFailure>;

    /// Turns a live row into a withdrawn one ([`super::rules::withdraw`]). The change's revision,
    /// or `None` when nothing was live, or it is another's. Durable when it returns.
    async fn withdraw(&self, withdrawal: Withdrawal) -> Result<Option<u64>, StoreFailure>;

    /// The rows that changed after `revision`, each once with its latest state, in the order of
    /// their revisions, at most `limit`. After 0: every row.
    async fn changes_since(&self, revision: u64, limit: usize) -> Result<Vec<Row>, StoreFailure>;

    /// Turns live rows whose time is over at `now` into expired ones, at most `limit`; how many.
    async fn expire(&self, now: Timestamp, limit: usize) -> Result<usize, StoreFailure>;

    /// Deletes rows that are not live and whose provider was last heard of before the given time:
    /// one time for signed rows, another for unsigned ones. Deletions are not in the feed.
    async fn clear_graves(
        &self,
        signed_before: Timestamp,
        unsigned_before: Timestamp,
    ) -> Result<(), StoreFailure>;
}
