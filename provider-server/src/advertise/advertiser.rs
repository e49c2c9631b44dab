//! Decides what is advertised, and when there is a new document.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_node::clock::Clock;
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::advertisement::Advertisement;
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::time::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::discovery::Discovery;
use super::log::AdvertisementLog;
use super::publishing::{Issued, Publisher, Shared, Wanted};
use super::status::{AdvertiserStatus, Offering};
use super::terms::{AdvertisedTerms, NothingToOffer, Snapshot, TermsSettings, terms, validity};
use crate::ports::PublicAddress;

/// Tells how things are.
#[async_trait]
pub trait AdvertSource: Send + Sync + 'static {
    /// How things are now.
    ///
    /// # Errors
    /// A sentence, when that can't be found out. It is asked again soon; what is published stays
    /// until it expires.
    async fn snapshot(&self) -> Result<Snapshot, String>;
}

/// When things happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often there is a new document although nothing has changed.
    pub interval: Duration,
    /// For how long changes are gathered before they are looked at.
    pub debounce: Duration,
    /// How long after a look that failed there is another one.
    pub look_again: Duration,
    /// First wait after a server could not be told something.
    pub retry_first: Duration,
    /// Longest wait after a server could not be told something.
    pub retry_longest: Duration,
    /// How long withdrawing may take when the provider ends.
    pub farewell: Duration,
}

impl Pace {
    /// The usual pace, with a refresh every `interval`.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            debounce: Duration::from_millis(50),
            look_again: Duration::from_secs(5),
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_secs(60),
            farewell: Duration::from_secs(5),
        }
    }
}

/// A difference between two looks at the clock, in seconds, that is more than its being corrected.
const JUMP_SECONDS: u64 = 60;

/// What an advertiser is made of.
pub struct AdvertiserParts {
    /// What the owner set.
    pub settings: TermsSettings,
    /// Signs the documents; its id is the one in `settings`.
    pub key: KeyPair,
    /// Tells how things are.
    pub source: Arc<dyn AdvertSource>,
    /// Keeps sequence and documents.
    pub log: Arc<dyn AdvertisementLog>,
    /// Where to advertise.
    pub discoveries: Vec<Arc<dyn Discovery>>,
    /// Learns what discovery sees; a change of it is a reason to look again.
    pub address: PublicAddress,
    /// The time in the documents.
    pub clock: Arc<dyn Clock>,
    /// When things happen.
    pub pace: Pace,
}

/// Advertises what there is. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Advertiser {
    parts: Arc<AdvertiserParts>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Advertiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Advertiser").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// The document that is wanted everywhere now.
struct Current {
    terms: AdvertisedTerms,
    sequence: u64,
}

impl Advertiser {
    /// An advertiser that has not begun; see [`Advertiser::run`].
    #[must_use]
    pub fn new(parts: AdvertiserParts) -> Self {
        let urls = parts.discoveries.iter().map(|discovery| discovery.url().to_owned());
        let shared = Arc::new(Shared::new(urls));
        Self { parts: Arc::new(parts), shared }
    }

    /// Says that something may have changed. There is a new document only if what is offered has.
    pub fn changed(&self) {
        self.shared.changed.notify_one();
    }

    /// Takes every change of `source` for one, as [`Advertiser::changed`] does, until its sender is
    /// gone. Call it inside the runtime.
    pub fn follow<T: Send + Sync + 'static>(&self, mut source: watch::Receiver<T>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while source.changed().await.is_ok() {
                shared.changed.notify_one();
            }
        });
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> AdvertiserStatus {
        self.shared.with(|state| state.status.clone())
    }

    /// Advertises until `shutdown`, then withdraws everywhere, which takes [`Pace::farewell`] at most.
    pub async fn run(&self, shutdown: CancellationToken) {
        if self.parts.discoveries.is_empty() {
            let reason =
                "GOLEM_PROVIDER_DISCOVERY_URL is not set, so nobody is told what is offered here";
            tracing::warn!("{reason}");
            self.shared.with(|state| {
                state.status.offering = Offering::Nothing { reason: reason.to_owned() };
            });
            return shutdown.cancelled().await;
        }
        let wanted = watch::Sender::new(Wanted::Undecided);
        let mut publishers = JoinSet::new();
        for (place, discovery) in self.parts.discoveries.iter().enumerate() {
            let clock = Arc::clone(&self.parts.clock);
            let publisher = Publisher {
                discovery: Arc::clone(discovery),
                place,
                shared: Arc::clone(&self.shared),
                address: self.parts.address.clone(),
                now: Arc::new(move || moment(&*clock)),
                pace: self.parts.pace,
            };
            publishers.spawn(publisher.run(wanted.subscribe(), shutdown.clone()));
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.decide(&wanted) => {}
        }
        let all = async { while publishers.join_next().await.is_some() {} };
        if timeout(self.parts.pace.farewell, all).await.is_err() {
            tracing::warn!("not withdrawn everywhere in time; what is left expires by itself");
        }
    }

    /// Looks at once, at every change, and when it is time.
    async fn decide(&self, wanted: &watch::Sender<Wanted>) {
        let pace = self.parts.pace;
        let mut address = self.parts.address.changes();
        let mut current: Option<Current> = None;
        let mut due = Instant::now();
        loop {
            let is_due = Instant::now() >= due;
            let looked = self.look(&mut current, is_due, wanted).await;
            let before = self.shared.with(|state| {
                std::mem::replace(&mut state.status.error, looked.as_ref().err().cloned())
            });
            let next_look = match looked {
                Ok(issued) => {
                    if issued || is_due {
                        due = Instant::now() + pace.interval;
                    }
                    due
                }
                Err(error) => {
                    if before.as_ref() != Some(&error) {
                        tracing::error!(
                            "what is offered can't be advertised: {error}; it is tried again"
                        );
                    }
                    Instant::now() + pace.look_again
                }
            };
            tokio::select! {
                () = self.shared.changed.notified() => sleep(pace.debounce).await,
                Ok(()) = address.changed() => {}
                // The moments in the document are not those of this clock any more.
                () = self.clock_jumped() => due = Instant::now(),
                () = sleep_until(next_look) => {}
            }
        }
    }

    /// Ends when the wall clock has jumped: it was set, or the machine has slept.
    async fn clock_jumped(&self) {
        let AdvertiserParts { clock, pace, .. } = &*self.parts;
        // Real time, which a test that plays with the runtime's does not change.
        let (began, wall) = (std::time::Instant::now(), clock.now());
        loop {
            sleep(pace.look_again).await;
            let expected = wall.saturating_add(began.elapsed().as_secs());
            if clock.now().abs_diff(expected) > JUMP_SECONDS {
                tracing::warn!("this machine's clock has jumped: advertising anew");
                return;
            }
        }
    }

    /// One look. Whether there is a new document.
    async fn look(
        &self,
        current: &mut Option<Current>,
        is_due: bool,
        wanted: &watch::Sender<Wanted>,
    ) -> Result<bool, String> {
        let snapshot = self.parts.source.snapshot().await?;
        match terms(&self.parts.settings, &snapshot) {
            Ok(terms) => {
                let floor = self.shared.with(|state| state.floor);
                let same = |now: &Current| now.terms == terms && now.sequence >= floor;
                if !is_due && current.as_ref().is_some_and(same) {
                    return Ok(false);
                }
                let issued = self.issue(&terms, floor).await?;
                *current = Some(Current { terms, sequence: issued.sequence });
                wanted.send_replace(Wanted::Document(Arc::new(issued)));
                Ok(true)
            }
            Err(nothing) => {
                *current = None;
                self.nothing(&nothing, wanted);
                Ok(false)
            }
        }
    }

    fn nothing(&self, why: &NothingToOffer, wanted: &watch::Sender<Wanted>) {
        let offering = Offering::Nothing { reason: why.to_string() };
        let news = self.shared.with(|state| {
            let news = state.status.offering != offering;
            state.status.offering = offering;
            news
        });
        if news {
            tracing::info!("nothing is advertised: {why}");
        }
        let for_want_of_address = *why == NothingToOffer::NoAddress;
        wanted.send_if_modified(|wanted| {
            let same = matches!(wanted, Wanted::Nothing { for_want_of_address: before }
                if *before == for_want_of_address);
            if !same {
                *wanted = Wanted::Nothing { for_want_of_address };
            }
            !same
        });
    }

    /// Makes the next document, and remembers it before anybody sees it.
    async fn issue(&self, terms: &AdvertisedTerms, floor: u64) -> Result<Issued, String> {
        let AdvertiserParts { settings, key, log, clock, pace, .. } = &*self.parts;
        let now = moment(&**clock);
        let sealed = |sequence| {
            let document = terms.advertisement(settings, sequence, now, validity(pace.interval));
            let envelope = Envelope::seal(&document, key).map_err(|error| error.to_string())?;
            let verified = envelope.open::<Advertisement>().map_err(|error| error.to_string())?;
            // What discovery would refuse is said here, where its reason can be mended.
            Advertisement::check(&verified, now).map_err(|error| error.to_string())?;
            Ok::<_, String>((verified, envelope))
        };
        // Tried first, so that a document that can't be made uses up no sequence.
        sealed(floor.max(1))?;
        let sequence = log.next_sequence(floor).await?;
        let (verified, envelope) = sealed(sequence)?;
        log.remember(&verified, &envelope).await?;
        let document = &verified.content;
        let offers = u32::try_from(document.offers.len()).unwrap_or(u32::MAX);
        self.shared.with(|state| {
            state.status.offering = Offering::Offered {
                sequence,
                issued_at: now,
                resources: document.resources,
                offers,
            };
        });
        Ok(Issued { sequence, envelope })
    }
}

fn moment(clock: &dyn Clock) -> Timestamp {
    Timestamp::from_unix_micros(i64::try_from(clock.now_micros()).unwrap_or(i64::MAX))
}
