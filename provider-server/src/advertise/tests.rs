//! The advertiser as a whole: with servers made of memory and a clock that is moved, and with a
//! real server on loopback.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::routing::{delete, post};
use axum::{Json, Router};
use golem_vm_node::client::SignedClient;
use golem_vm_node::clock::{Clock, ManualClock};
use golem_vm_node::http::{
    HttpLimits, HttpService, JsonBody, ProblemResponse, Recipients, Signing, VerifiedCaller, bind,
};
use golem_vm_protocol::advertisement::{
    Advertisement, OBSERVED_ADDRESS_HEADER, Overcommit, Prices, Withdrawn,
};
use golem_vm_protocol::document::{Envelope, Verified};
use golem_vm_protocol::vm::{AcceptedOffer, Isolation};
use golem_vm_protocol::{ErrorCode, KeyPair, Problem, route};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backend::{BackendKind, Capabilities, Containment, Egress};
use crate::capacity::Amount;
use crate::config::Minimum;
use crate::ports::{PortsSummary, PublicAddress, Verification};
use crate::store::ProviderStore;
use crate::vm::lease::LeasePolicy;
use crate::vm::offer_book::OfferBook as _;

const INTERVAL: Duration = Duration::from_secs(240);

pub(super) fn key() -> KeyPair {
    KeyPair::from_secret_bytes([7; 32]).unwrap()
}

pub(super) fn settings() -> TermsSettings {
    TermsSettings {
        provider_id: key().id(),
        name: "test".into(),
        country: "SE".into(),
        platform: "x86_64".into(),
        prices: Prices::default(),
        overcommit: Overcommit::default(),
        lease: LeasePolicy::default().terms(),
        minimum: Minimum { cpu: 1, memory_gb: 1, storage_gb: 10 },
        allow_uncontained: false,
        trusts_somebody: false,
        default_image: "debian-12".into(),
    }
}

pub(super) fn snapshot() -> Snapshot {
    let image = |name: &str| RentableImage {
        name: name.into(),
        digest: "sha256:00".into(),
        backend: BackendKind::Memory,
    };
    Snapshot {
        free: Amount { cpu_millis: 3500, memory_mib: 7000, storage_mib: 50 * 1024 },
        backends: vec![BackendOffer {
            kind: BackendKind::Memory,
            capabilities: Capabilities {
                isolation: Isolation::Container,
                version: "1".into(),
                enforced: vec!["cpu".into()],
                containment: Containment::Contained,
                findings: Vec::new(),
                data_root: None,
                accel: None,
                abilities: [].into(),
            },
            egress: Egress::Internet,
            trouble: None,
        }],
        images: vec![image("alpine"), image("debian-12")],
        vms_left: 3,
        address: Some("203.0.113.5".into()),
        api_port: 7466,
        ports: PortsSummary {
            free: 10,
            api_reachable: true,
            verification: Verification::Off,
            claim: None,
            attestations: Vec::new(),
        },
    }
}

/// A snapshot that the test sets; with its own address if it has none.
struct Source {
    snapshot: Mutex<Result<Snapshot, String>>,
    address: PublicAddress,
}

#[async_trait]
impl AdvertSource for Source {
    async fn snapshot(&self) -> Result<Snapshot, String> {
        let mut snapshot = self.snapshot.lock().unwrap().clone()?;
        snapshot.address = snapshot.address.or_else(|| self.address.current());
        Ok(snapshot)
    }
}

/// What was kept, in memory.
#[derive(Default)]
struct Log {
    last: Mutex<u64>,
    remembered: Mutex<Vec<Envelope>>,
}

#[async_trait]
impl AdvertisementLog for Log {
    async fn next_sequence(&self, at_least: u64) -> Result<u64, String> {
        let mut last = self.last.lock().unwrap();
        *last = (*last + 1).max(at_least);
        Ok(*last)
    }

    async fn remember(
        &self,
        _: &Verified<Advertisement>,
        envelope: &Envelope,
    ) -> Result<(), String> {
        self.remembered.lock().unwrap().push(envelope.clone());
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Published(u64),
    Refused(u64),
    Withdrawn,
    Looked,
}

/// A server made of memory: answers as scripted, then takes everything.
struct Fake {
    seen: mpsc::UnboundedSender<(Instant, Seen)>,
    script: Mutex<VecDeque<DiscoveryError>>,
    observed: Option<IpAddr>,
    hangs_on_withdrawal: bool,
    log: Arc<Log>,
}

#[async_trait]
impl Discovery for Fake {
    fn url(&self) -> &str {
        "http://discovery.test:9001"
    }

    async fn publish(&self, document: &Envelope) -> Result<Taken, DiscoveryError> {
        assert!(self.log.remembered.lock().unwrap().contains(document), "remembered before sent");
        let sequence = document.open::<Advertisement>().unwrap().content.sequence;
        let scripted = self.script.lock().unwrap().pop_front();
        let seen =
            if scripted.is_some() { Seen::Refused(sequence) } else { Seen::Published(sequence) };
        let _ = self.seen.send((Instant::now(), seen));
        scripted.map_or(Ok(Taken { observed: self.observed }), Err)
    }

    async fn withdraw(&self) -> Result<Taken, DiscoveryError> {
        if self.hangs_on_withdrawal {
            std::future::pending::<()>().await;
        }
        let _ = self.seen.send((Instant::now(), Seen::Withdrawn));
        Ok(Taken { observed: None })
    }

    async fn look(&self) -> Result<Taken, DiscoveryError> {
        let _ = self.seen.send((Instant::now(), Seen::Looked));
        Ok(Taken { observed: self.observed })
    }
}

/// An advertiser at work, and what its one server sees.
struct Market {
    advertiser: Advertiser,
    source: Arc<Source>,
    log: Arc<Log>,
    seen: mpsc::UnboundedReceiver<(Instant, Seen)>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    began: Instant,
}

impl Market {
    fn open(snapshot: Result<Snapshot, String>, change: impl FnOnce(&mut Fake)) -> Self {
        let address = PublicAddress::new(None, "0.0.0.0".parse().unwrap());
        let source = Arc::new(Source { snapshot: Mutex::new(snapshot), address: address.clone() });
        let log = Arc::new(Log::default());
        let (sender, seen) = mpsc::unbounded_channel();
        let mut fake = Fake {
            seen: sender,
            script: Mutex::default(),
            observed: None,
            hangs_on_withdrawal: false,
            log: Arc::clone(&log),
        };
        change(&mut fake);
        let advertiser = Advertiser::new(AdvertiserParts {
            settings: settings(),
            key: key(),
            source: Arc::clone(&source) as _,
            log: Arc::clone(&log) as _,
            discoveries: vec![Arc::new(fake)],
            address,
            clock: Arc::new(ManualClock::at(1_000_000)),
            pace: Pace::new(INTERVAL),
        });
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let (advertiser, shutdown) = (advertiser.clone(), shutdown.clone());
            async move { advertiser.run(shutdown).await }
        });
        Self { advertiser, source, log, seen, shutdown, running, began: Instant::now() }
    }

    /// The next thing that the server saw, and when, in seconds since the start.
    async fn next(&mut self) -> (f64, Seen) {
        let (at, seen) = self.seen.recv().await.unwrap();
        ((at - self.began).as_secs_f64(), seen)
    }

    fn set(&self, snapshot: Snapshot) {
        *self.source.snapshot.lock().unwrap() = Ok(snapshot);
        self.advertiser.changed();
    }

    async fn close(mut self) -> Vec<Seen> {
        self.shutdown.cancel();
        self.running.await.unwrap();
        let mut rest = Vec::new();
        while let Ok((_, seen)) = self.seen.try_recv() {
            rest.push(seen);
        }
        rest
    }
}

fn busier() -> Snapshot {
    Snapshot { free: Amount { cpu_millis: 2000, ..snapshot().free }, ..snapshot() }
}

fn down() -> DiscoveryError {
    DiscoveryError::Failed("can't reach it".into())
}

#[tokio::test(start_paused = true)]
async fn it_is_published_at_once_and_refreshed_and_withdrawn_at_the_end() {
    let mut market = Market::open(Ok(snapshot()), |_| {});
    for (at, sequence) in [(0.0, 1), (240.0, 2), (480.0, 3)] {
        let (when, seen) = market.next().await;
        assert_eq!(seen, Seen::Published(sequence));
        assert!((when - at).abs() < 0.1, "{when} instead of {at}");
    }
    tokio::task::yield_now().await;
    let status = market.advertiser.status();
    assert_eq!(status.discoveries[0].sequence, Some(3));
    assert!(matches!(status.offering, Offering::Offered { sequence: 3, offers: 1, .. }));
    assert_eq!(market.close().await, [Seen::Withdrawn]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_published_soon_and_only_if_it_is_one() {
    let mut market = Market::open(Ok(snapshot()), |_| {});
    market.next().await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        market.set(busier());
    }
    let (when, seen) = market.next().await;
    assert_eq!(seen, Seen::Published(2));
    assert!((0.05..0.15).contains(&when), "{when}");
    let trigger = watch::Sender::new(0);
    market.advertiser.follow(trigger.subscribe());
    trigger.send_replace(1);
    // Nothing has changed, so this is the refresh.
    let (when, seen) = market.next().await;
    assert_eq!(seen, Seen::Published(3));
    assert!((240.0..240.2).contains(&when), "{when}");
    assert_eq!(*market.log.last.lock().unwrap(), 3, "no sequence is used up for nothing");
    market.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_tried_with_growing_waits_and_gets_the_newest() {
    let mut market = Market::open(Ok(snapshot()), |fake| {
        fake.script = Mutex::new(std::iter::repeat_n(down(), 5).collect());
    });
    let mut before = None;
    let mut waits = Vec::new();
    for expected in [1, 2, 2, 2, 2] {
        let (when, seen) = market.next().await;
        assert_eq!(seen, Seen::Refused(expected));
        if let Some(before) = before.replace(when) {
            waits.push(when - before);
        } else {
            market.set(busier());
        }
    }
    for (wait, full) in waits.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!(*wait <= full + 0.05 && *wait >= full * 0.79, "{waits:?}");
    }
    let failing = market.advertiser.status().discoveries[0].clone();
    assert_eq!((failing.error.as_deref(), failing.failures), (Some("can't reach it"), 5));
    assert_eq!(market.next().await.1, Seen::Published(2));
    tokio::task::yield_now().await;
    let well = market.advertiser.status().discoveries[0].clone();
    assert_eq!((well.error, well.failures, well.listing), (None, 0, Listing::Listed));
    market.close().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_withdrawn_while_there_is_nothing_and_published_again() {
    let mut market = Market::open(Ok(snapshot()), |_| {});
    assert_eq!(market.next().await.1, Seen::Published(1));
    market.set(Snapshot { vms_left: 0, ..snapshot() });
    assert_eq!(market.next().await.1, Seen::Withdrawn);
    assert!(matches!(market.advertiser.status().offering, Offering::Nothing { .. }));
    market.set(snapshot());
    assert_eq!(market.next().await.1, Seen::Published(2));
    market.set(Snapshot { vms_left: 0, ..snapshot() });
    assert_eq!(market.next().await.1, Seen::Withdrawn);
    assert_eq!(market.close().await, [], "what is withdrawn is not withdrawn again");
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_is_withdrawn() {
    let mut market = Market::open(Ok(Snapshot { vms_left: 0, ..snapshot() }), |_| {});
    assert_eq!(market.next().await.1, Seen::Withdrawn);
    market.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_five_seconds_at_most() {
    let mut market = Market::open(Ok(snapshot()), |fake| fake.hangs_on_withdrawal = true);
    market.next().await;
    let began = Instant::now();
    market.close().await;
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_sequence_that_is_known_is_jumped_over() {
    let not_newer = |known| DiscoveryError::NotNewer { known, message: "known".into() };
    let mut market = Market::open(Ok(snapshot()), |fake| {
        fake.script =
            Mutex::new([not_newer(Some(41)), not_newer(None), not_newer(Some(u64::MAX))].into());
    });
    assert_eq!(market.next().await.1, Seen::Refused(1));
    assert_eq!(market.next().await.1, Seen::Refused(42));
    // One that does not say which it knows: seconds since 1970 will be more.
    assert_eq!(market.next().await.1, Seen::Refused(1_000_000));
    // One that claims what can't be is not believed.
    assert_eq!(market.next().await.1, Seen::Published(1_000_000));
    assert_eq!(*market.log.last.lock().unwrap(), 1_000_000);
    market.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_address_is_learned_from_discovery() {
    let unknown = Snapshot { address: None, ..snapshot() };
    let mut market =
        Market::open(Ok(unknown), |fake| fake.observed = Some("203.0.113.9".parse().unwrap()));
    assert_eq!(market.next().await.1, Seen::Withdrawn);
    assert_eq!(market.next().await.1, Seen::Looked);
    assert_eq!(market.next().await.1, Seen::Published(1));
    let sent = market.log.remembered.lock().unwrap()[0].open::<Advertisement>().unwrap();
    assert_eq!(sent.content.direct_endpoint(), Some(("203.0.113.9:7466", "203.0.113.9")));
    market.close().await;
}

#[tokio::test(start_paused = true)]
async fn not_knowing_is_not_having_nothing() {
    let mut market = Market::open(Err("the database is busy".into()), |_| {});
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(market.advertiser.status().error.as_deref(), Some("the database is busy"));
    *market.source.snapshot.lock().unwrap() = Ok(snapshot());
    let (when, seen) = market.next().await;
    assert_eq!((seen, when.round()), (Seen::Published(1), 5.0));
    *market.source.snapshot.lock().unwrap() = Err("again".into());
    market.advertiser.changed();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(market.close().await, [Seen::Withdrawn], "nothing before the end");
}

#[tokio::test(start_paused = true)]
async fn without_discovery_it_says_so() {
    let parts = AdvertiserParts {
        settings: settings(),
        key: key(),
        source: Arc::new(Source {
            snapshot: Mutex::new(Ok(snapshot())),
            address: PublicAddress::new(None, "0.0.0.0".parse().unwrap()),
        }),
        log: Arc::new(Log::default()),
        discoveries: Vec::new(),
        address: PublicAddress::new(None, "0.0.0.0".parse().unwrap()),
        clock: Arc::new(ManualClock::at(1)),
        pace: Pace::new(INTERVAL),
    };
    let advertiser = Advertiser::new(parts);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    advertiser.run(shutdown).await;
    let Offering::Nothing { reason } = advertiser.status().offering else { panic!() };
    assert!(reason.contains("GOLEM_PROVIDER_DISCOVERY_URL"), "{reason}");
}

/// The last sequence, and whether it is listed.
type Board = Arc<watch::Sender<(u64, bool)>>;

async fn publish(
    VerifiedCaller(caller): VerifiedCaller,
    State(board): State<Board>,
    JsonBody(envelope): JsonBody<Envelope>,
) -> Result<([(&'static str, &'static str); 1], Json<()>), ProblemResponse> {
    let verified = envelope.open::<Advertisement>().unwrap();
    assert_eq!(verified.signer, caller);
    let (known, sent) = (board.borrow().0, verified.content.sequence);
    if sent <= known {
        let problem = Problem::new(ErrorCode::SequenceNotNewer, "there is a newer one");
        return Err(Problem { known_sequence: Some(known), ..problem }.into());
    }
    board.send_replace((sent, true));
    Ok(([(OBSERVED_ADDRESS_HEADER, "203.0.113.77")], Json(())))
}

async fn withdraw(
    VerifiedCaller(_): VerifiedCaller,
    State(board): State<Board>,
) -> Result<Json<Withdrawn>, ProblemResponse> {
    let mut was = false;
    board.send_modify(|state| was = std::mem::replace(&mut state.1, false));
    if was {
        Ok(Json(Withdrawn { status: "success".into() }))
    } else {
        Err(ProblemResponse::new(ErrorCode::AdvertisementNotFound, "not listed"))
    }
}

#[tokio::test]
async fn over_http_with_a_database_that_was_lost() {
    let clock = Arc::new(ManualClock::at(1_000_000));
    let board: Board = Arc::new(watch::Sender::new((41, false)));
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let no_names: [String; 0] = [];
    let signing = Arc::new(Signing::new(
        KeyPair::from_secret_bytes([9; 32]).unwrap(),
        Recipients::service(&no_names, address),
        Arc::clone(&clock) as Arc<dyn Clock>,
    ));
    // Later than the server's start: what was signed before it would be refused as stale.
    clock.advance(5);
    let app = Router::new()
        .route(route::ADVERTISEMENTS, post(publish))
        .route(route::ADVERTISEMENT, delete(withdraw))
        .with_state(Arc::clone(&board));
    let stop = CancellationToken::new();
    let service = HttpService::signed(app, HttpLimits::default(), signing);
    let serving = tokio::spawn(service.serve(listener, stop.clone()));

    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = clock;
    let store =
        ProviderStore::open(&directory.path().join("state.db"), Arc::clone(&clock)).unwrap();
    let client = SignedClient::new(key(), Arc::clone(&clock)).unwrap();
    let public = PublicAddress::new(None, "0.0.0.0".parse().unwrap());
    let source = Source { snapshot: Mutex::new(Ok(snapshot())), address: public.clone() };
    let advertiser = Advertiser::new(AdvertiserParts {
        settings: settings(),
        key: key(),
        source: Arc::new(source),
        log: Arc::new(store.clone()),
        discoveries: HttpDiscovery::all(&[format!("http://{address}")], &client).unwrap(),
        address: public.clone(),
        clock,
        pace: Pace { debounce: Duration::ZERO, ..Pace::new(INTERVAL) },
    });
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (advertiser, shutdown) = (advertiser.clone(), shutdown.clone());
        async move { advertiser.run(shutdown).await }
    });

    let mut news = board.subscribe();
    let listed = timeout(Duration::from_secs(30), news.wait_for(|state| state.1)).await;
    let sequence = listed.unwrap().unwrap().0;
    assert_eq!(sequence, 42);
    let mut seen = public.changes();
    timeout(Duration::from_secs(30), seen.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_eq!(public.current().as_deref(), Some("203.0.113.77"));
    // What a requestor may accept is in the book.
    assert_eq!(store.next_sequence(0).await.unwrap(), 43);
    let unknown = AcceptedOffer {
        sequence: 42,
        digest: golem_vm_protocol::document::DocumentDigest::of(b"another"),
    };
    assert_eq!(store.advertised(&unknown).await.unwrap(), None);

    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(*board.borrow(), (42, false));
    let client = HttpDiscovery::new(&format!("http://{address}"), client).unwrap();
    assert!(client.withdraw().await.is_ok(), "withdrawing nothing is no error");
    stop.cancel();
    serving.await.unwrap();
    assert!(matches!(client.withdraw().await, Err(DiscoveryError::Failed(_))));
    store.close().await;
}
