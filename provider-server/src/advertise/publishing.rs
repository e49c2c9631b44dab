//! Keeps one discovery server at what is wanted: the newest document, or nothing.

use std::sync::{Arc, Mutex, PoisonError};

use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::time::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::advertiser::Pace;
use super::discovery::{Discovery, DiscoveryError, Taken};
use super::status::{AdvertiserStatus, DiscoveryStatus, Listing, Offering};
use crate::ports::{Backoff, PublicAddress, SeenBy};

/// The highest sequence that is believed when a server says that it knows it: half of what a
/// document can carry, so that a server that lies can't use up all of them.
const HIGHEST_BELIEVED: u64 = 1 << 52;

/// What discovery servers should list.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// Not decided yet.
    Undecided,
    /// This.
    Document(Arc<Issued>),
    /// Nothing; and whether that is so because the public address is not known.
    Nothing {
        /// Ask for the address.
        for_want_of_address: bool,
    },
}

/// A document that was remembered, and may be sent.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) sequence: u64,
    pub(super) envelope: Envelope,
}

/// What the advertiser and those who publish for it share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Rings when it may be time for another document.
    pub(super) changed: Notify,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) status: AdvertiserStatus,
    /// The next sequence is at least this.
    pub(super) floor: u64,
}

impl Shared {
    pub(super) fn new(urls: impl Iterator<Item = String>) -> Self {
        let status = AdvertiserStatus {
            offering: Offering::Unknown,
            error: None,
            discoveries: urls.map(DiscoveryStatus::new).collect(),
        };
        Self { changed: Notify::new(), state: Mutex::new(State { status, floor: 0 }) }
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Publishes to one server.
pub(super) struct Publisher {
    pub(super) discovery: Arc<dyn Discovery>,
    /// Its place in the status.
    pub(super) place: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) address: PublicAddress,
    pub(super) now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub(super) pace: Pace,
}

/// What to do next.
enum Step {
    Publish(Arc<Issued>),
    Withdraw,
    Look,
    Rest,
}

impl Publisher {
    /// Runs until `shutdown`, then withdraws. What is under way at that moment is finished first:
    /// a document that arrives after its withdrawal would stay.
    pub(super) async fn run(
        self,
        mut wanted: watch::Receiver<Wanted>,
        shutdown: CancellationToken,
    ) {
        let mut waits = Backoff::new(self.pace.retry_first, self.pace.retry_longest);
        while !shutdown.is_cancelled() {
            let newest = wanted.borrow_and_update().clone();
            let done = match self.next(newest) {
                Step::Publish(document) => self.publish(&document).await,
                Step::Withdraw => self.withdraw().await,
                Step::Look => self.look().await,
                Step::Rest => {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        changed = wanted.changed() => if changed.is_err() { break },
                    }
                    continue;
                }
            };
            match done {
                Ok(()) => waits.reset(),
                Err(Retry::Later) => tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = sleep(waits.next()) => {}
                },
                Err(Retry::WithNewer) => tokio::select! {
                    () = shutdown.cancelled() => {}
                    changed = wanted.changed() => if changed.is_err() { break },
                    () = sleep(waits.next()) => {}
                },
            }
        }
        if self.status(|status| status.listing) != Listing::NotListed {
            // One attempt: what stays listed expires in a few minutes.
            let _ = self.withdraw().await;
        }
    }

    fn next(&self, wanted: Wanted) -> Step {
        let (listing, sequence) = self.status(|status| (status.listing, status.sequence));
        match wanted {
            Wanted::Undecided => Step::Rest,
            Wanted::Document(document)
                if listing == Listing::Listed && sequence == Some(document.sequence) =>
            {
                Step::Rest
            }
            Wanted::Document(document) => Step::Publish(document),
            // Also when it is not known: an earlier run may have left something there.
            Wanted::Nothing { .. } if listing != Listing::NotListed => Step::Withdraw,
            Wanted::Nothing { for_want_of_address: true } if self.address.current().is_none() => {
                Step::Look
            }
            Wanted::Nothing { .. } => Step::Rest,
        }
    }

    async fn publish(&self, document: &Issued) -> Result<(), Retry> {
        let url = self.discovery.url();
        match self.discovery.publish(&document.envelope).await {
            Ok(taken) => {
                let now = (self.now)();
                let before = self.status(|status| {
                    let before = status.listing;
                    status.sequence = Some(document.sequence);
                    status.published_at = Some(now);
                    status.listing = Listing::Listed;
                    before
                });
                if before == Listing::Listed {
                    tracing::debug!(sequence = document.sequence, "advertised at {url}");
                } else {
                    tracing::info!(sequence = document.sequence, "advertised at {url}");
                }
                self.succeeded(taken);
                Ok(())
            }
            Err(DiscoveryError::NotNewer { known, message }) => {
                self.failed("advertising", &message);
                let floor = match known {
                    Some(known) if known > HIGHEST_BELIEVED => return Err(Retry::Later),
                    Some(known) => known + 1,
                    // It does not say. Seconds since 1970 are more than one document per second.
                    None => (self.now)().unix_seconds().max(document.sequence + 1),
                };
                tracing::info!(
                    floor,
                    "{url} knows newer advertisements of this provider: their numbers are skipped"
                );
                self.shared.with(|state| state.floor = state.floor.max(floor));
                self.shared.changed.notify_one();
                Err(Retry::WithNewer)
            }
            Err(DiscoveryError::Failed(message)) => {
                self.failed("advertising", &message);
                Err(Retry::Later)
            }
        }
    }

    async fn withdraw(&self) -> Result<(), Retry> {
        match self.discovery.withdraw().await {
            Ok(taken) => {
                let before = self
                    .status(|status| std::mem::replace(&mut status.listing, Listing::NotListed));
                if before == Listing::Listed {
                    tracing::info!("withdrawn from {}", self.discovery.url());
                }
                self.succeeded(taken);
                Ok(())
            }
            Err(error) => {
                self.failed("withdrawing", &error.to_string());
                Err(Retry::Later)
            }
        }
    }

    async fn look(&self) -> Result<(), Retry> {
        match self.discovery.look().await {
            Ok(taken) => {
                if taken.observed.is_none() {
                    // Asked again later: by then somebody else may have said it, too.
                    let url = self.discovery.url();
                    let why =
                        format!("{url} does not say from which address it sees this provider");
                    self.failed("asking for the public address", &why);
                    return Err(Retry::WithNewer);
                }
                self.succeeded(taken);
                Ok(())
            }
            Err(error) => {
                self.failed("asking for the public address", &error.to_string());
                Err(Retry::Later)
            }
        }
    }

    fn succeeded(&self, taken: Taken) {
        self.status(|status| {
            status.error = None;
            status.failures = 0;
        });
        if let Some(address) = taken.observed {
            self.address.observed(SeenBy::Discovery, self.discovery.url(), address);
        }
    }

    /// Logs an error when it is new.
    fn failed(&self, what: &str, message: &str) {
        let known = self.status(|status| {
            status.failures = status.failures.saturating_add(1);
            status.error.replace(message.to_owned())
        });
        if known.as_deref() == Some(message) {
            tracing::debug!("{what}: {message}");
        } else {
            tracing::warn!("{what}: {message}; it is tried again");
        }
    }

    fn status<T>(&self, look: impl FnOnce(&mut DiscoveryStatus) -> T) -> T {
        self.shared.with(|state| look(&mut state.status.discoveries[self.place]))
    }
}

/// When to try again.
enum Retry {
    /// After the next wait.
    Later,
    /// As soon as there is a newer document, or after the next wait.
    WithNewer,
}
