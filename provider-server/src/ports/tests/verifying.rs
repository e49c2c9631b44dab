use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use golem_vm_node::client::SignedClient;
use golem_vm_node::clock::{Clock, ManualClock};
use golem_vm_node::http::{
    HttpLimits, HttpService, JsonBody, Recipients, Signing, VerifiedCaller, bind,
};
use golem_vm_protocol::attestation::PortAttestation;
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::port_check::{
    AttestedCheckRequest, AttestedCheckResponse, NotProven, ProofResult,
};
use golem_vm_protocol::port_ranges::PortRanges;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{KeyId, KeyPair, route};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ports::{
    External, Local, NotReached, PortBoard, PortVerifier, PublicAddress, Verification, VerifyPace,
};

/// What a checker says against each port; a port that is not mentioned is proven.
type Words = Arc<watch::Sender<BTreeMap<u16, NotProven>>>;

struct FakeChecker {
    url: String,
    key: KeyPair,
    words: Words,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// What its handler has.
#[derive(Clone)]
struct Said {
    words: Words,
    key: KeyPair,
    clock: Arc<ManualClock>,
    /// Whom its attestations are about; the caller, unless it lies.
    about: Option<KeyId>,
}

const SEEN: &str = "203.0.113.4";

async fn check(
    VerifiedCaller(caller): VerifiedCaller,
    State(said): State<Said>,
    JsonBody(request): JsonBody<AttestedCheckRequest>,
) -> Json<AttestedCheckResponse> {
    let words = said.words.borrow().clone();
    let result = |port: u16| match words.get(&port) {
        None => ProofResult::proven(),
        Some(cause) => ProofResult::not_proven(*cause, "words"),
    };
    let host = request.host.unwrap_or_else(|| SEEN.to_owned());
    let proven = request.ports.iter().copied().filter(|port| !words.contains_key(port));
    let now = now(&said.clock);
    let attestation = PortAttestation {
        provider_id: said.about.unwrap_or(caller),
        host: host.clone(),
        ports: PortRanges::fitting(proven),
        observed_at: now,
        expires_at: now.plus(VALIDITY),
    };
    Json(AttestedCheckResponse {
        host,
        address: SEEN.into(),
        observed_address: SEEN.into(),
        checker_id: said.key.id(),
        results: request.ports.iter().map(|port| (*port, result(*port))).collect(),
        attestation: (!attestation.ports.is_empty())
            .then(|| Envelope::seal(&attestation, &said.key).unwrap()),
    })
}

const VALIDITY: Duration = Duration::from_secs(1800);

fn now(clock: &ManualClock) -> Timestamp {
    Timestamp::from_unix_micros(i64::try_from(clock.now_micros()).unwrap())
}

impl FakeChecker {
    async fn start(clock: &Arc<ManualClock>, words: &[(u16, NotProven)]) -> Self {
        let listener = bind("127.0.0.1", 0).await.unwrap();
        Self::serve(listener, KeyPair::generate().unwrap(), clock, words, None)
    }

    fn serve(
        listener: TcpListener,
        key: KeyPair,
        clock: &Arc<ManualClock>,
        words: &[(u16, NotProven)],
        about: Option<KeyId>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let no_names: [String; 0] = [];
        let signing = Arc::new(Signing::new(
            key.clone(),
            Recipients::service(&no_names, address),
            Arc::clone(clock) as Arc<dyn Clock>,
        ));
        // What was signed before its start is refused as stale.
        clock.advance(5);
        let words: Words = Arc::new(watch::Sender::new(words.iter().copied().collect()));
        let said =
            Said { words: Arc::clone(&words), key: key.clone(), clock: Arc::clone(clock), about };
        let app = Router::new().route(route::PORT_CHECKS, post(check)).with_state(said);
        let stop = CancellationToken::new();
        let service = HttpService::signed(app, HttpLimits::default(), signing);
        let serving = tokio::spawn(service.serve(listener, stop.clone()));
        Self { url: format!("http://{address}"), key, words, stop, serving }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

/// A provider whose API listens, with the access ports 50800 to 50803, of which the last is taken.
struct Bench {
    api: TcpListener,
    clock: Arc<ManualClock>,
    address: PublicAddress,
    board: PortBoard,
    verifier: PortVerifier,
}

impl Bench {
    async fn new(clock: Arc<ManualClock>, checkers: &[&str]) -> Self {
        Self::with(
            clock,
            Config {
                host: "127.0.0.1".parse().unwrap(),
                ..range(50_800, 50_803, &checkers.join(","))
            },
        )
        .await
    }

    async fn with(clock: Arc<ManualClock>, config: Config) -> Self {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let board = PortBoard::new(&config, api.local_addr().unwrap().port());
        board.set_access(&[
            held(50_800),
            held(50_801),
            held(50_802),
            not_held(50_803, BindFailureReason::InUse),
        ]);
        let key = KeyPair::generate().unwrap();
        let client = SignedClient::new(key, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        let address = PublicAddress::new(None, "0.0.0.0".parse().unwrap());
        let pace = VerifyPace {
            first: Duration::from_millis(10),
            longest: Duration::from_millis(10),
            gather: Duration::ZERO,
        };
        let verifier = PortVerifier::new(
            &config,
            board.clone(),
            client,
            address.clone(),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        let verifier = verifier.unwrap().with_pace(pace);
        Self { api, clock, address, board, verifier }
    }

    fn api_port(&self) -> u16 {
        self.api.local_addr().unwrap().port()
    }
}

/// An address at which nothing answers.
async fn nobody() -> String {
    let address: SocketAddr = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    format!("http://{address}")
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(1_000_000))
}

#[tokio::test]
async fn what_was_proven_to_any_checker_counts_and_it_is_kept_who_said_what() {
    let clock = clock();
    let first =
        FakeChecker::start(&clock, &[(50_801, NotProven::Refused), (50_802, NotProven::NoAnswer)])
            .await;
    let second = FakeChecker::start(&clock, &[(50_802, NotProven::NoAnswer)]).await;
    let down = nobody().await;
    let bench = Bench::new(Arc::clone(&clock), &[&first.url, &down, &second.url]).await;
    assert!(bench.board.usable().is_empty(), "nothing is handed out unverified");

    let report = bench.verifier.check().await;
    assert_eq!(report.verification, Verification::Done);
    assert_eq!(bench.board.usable(), [50_800, 50_801]);
    assert_eq!((report.held(), report.reached(), report.usable()), (3, 2, 2));
    assert_eq!(report.api.local, Local::Held);
    assert!(report.api.is_reached());
    let External::Reached { by, .. } = &report.access[0].external else { panic!() };
    assert_eq!(*by, [first.url.clone(), second.url.clone()]);
    let External::Reached { by, .. } = &report.access[1].external else { panic!() };
    assert!(by.iter().eq([&second.url]), "{by:?}");
    let External::NotReached { said } = &report.access[2].external else { panic!() };
    assert!(said.len() == 2 && said.values().all(|cause| *cause == NotReached::NoAnswer));
    assert_eq!(report.access[3].external, External::NotChecked, "it is not held here");

    assert_eq!(report.checkers[0].id, Some(first.key.id()));
    assert!(report.checkers[1].error.as_deref().unwrap().contains(&down), "{report:?}");
    let claim = bench.board.summary([50_800]).claim.unwrap();
    assert_eq!((claim.checker, claim.api, claim.vm_ports), (second.key.id(), true, 2));
    assert_eq!(bench.board.summary([50_800]).free, 1);
    assert_eq!(bench.address.current().as_deref(), Some(SEEN));
    let attested = bench.board.summary([]).attestations;
    assert!(attested.iter().all(|(host, _)| host == SEEN));
    assert_eq!(attested.len(), 2);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn while_nobody_answers_no_port_is_handed_out_and_it_is_tried_again() {
    let clock = clock();
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let bench = Bench::new(Arc::clone(&clock), &[&format!("http://{address}")]).await;
    let report = bench.verifier.check().await;
    assert_eq!((report.verification, report.usable()), (Verification::Unanswered, 0));
    assert!(report.problems()[0].remedy.contains("--no-verify-ports"));

    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (verifier, shutdown) = (bench.verifier.clone(), shutdown.clone());
        async move { verifier.run(shutdown).await }
    });
    let listener = bind("127.0.0.1", address.port()).await.unwrap();
    let checker = FakeChecker::serve(
        listener,
        KeyPair::generate().unwrap(),
        &bench.clock,
        &[(50_801, NotProven::Refused)],
        None,
    );
    let mut changes = bench.board.changes();
    let all = async {
        while bench.board.usable() != [50_800, 50_802] {
            changes.changed().await.unwrap();
        }
        // The owner opens the firewall.
        checker.words.send_replace(BTreeMap::new());
        while bench.board.usable() != [50_800, 50_801, 50_802] {
            changes.changed().await.unwrap();
        }
        // A port becomes free: it is verified without being asked for.
        bench.board.set_access(&[held(50_800), held(50_801), held(50_802), held(50_803)]);
        while bench.board.usable().len() != 4 {
            changes.changed().await.unwrap();
        }
        // All is well, so nothing is asked until somebody wants it.
        checker.words.send_replace([(50_800, NotProven::Refused)].into());
        bench.verifier.recheck();
        while bench.board.usable().len() != 3 {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    shutdown.cancel();
    running.await.unwrap();
    checker.stop().await;
}

#[tokio::test]
async fn without_checkers_nothing_is_handed_out_unless_that_is_switched_off() {
    let bench = Bench::new(clock(), &[]).await;
    let report = bench.verifier.check().await;
    assert_eq!((report.verification, bench.board.usable().len()), (Verification::NoCheckers, 0));
    let problem = &report.problems()[0];
    assert!(problem.remedy.contains("GOLEM_PROVIDER_PORT_CHECKERS"), "{problem:?}");
    assert!(problem.remedy.contains("--no-verify-ports"), "{problem:?}");

    let off = Config { verify_ports: false, ..range(50_800, 50_803, "http://127.0.0.1:1") };
    let bench = Bench::with(clock(), off).await;
    let report = bench.verifier.check().await;
    assert_eq!(report.verification, Verification::Off);
    assert_eq!(bench.board.usable(), [50_800, 50_801, 50_802]);
    let summary = bench.board.summary([]);
    assert_eq!((summary.claim, summary.api_reachable), (None, true));
}

#[tokio::test]
async fn an_api_that_can_not_be_reached_is_not_advertised() {
    let clock = clock();
    let checker = FakeChecker::start(&clock, &[]).await;
    let bench = Bench::new(Arc::clone(&clock), &[&checker.url]).await;
    let api = bench.api_port();
    checker.words.send_replace([(api, NotProven::NoAnswer)].into());
    let report = bench.verifier.check().await;
    assert!(!bench.board.summary([]).api_reachable);
    assert_eq!(bench.board.summary([]).free, 3);
    let found = &report.problems()[1].found;
    assert_eq!(*found, format!("port {api} can't be reached from outside: no answer"));

    drop(bench.api);
    let report = bench.verifier.check().await;
    assert!(matches!(report.api.local, Local::Failed { .. }));
    checker.stop().await;
}

#[tokio::test]
async fn a_quorum_counts_checkers_and_not_their_addresses() {
    let clock = clock();
    let key = KeyPair::generate().unwrap();
    let mut urls = Vec::new();
    let mut checkers = Vec::new();
    for words in [vec![], vec![], vec![(50_801, NotProven::NoProof)]] {
        let listener = bind("127.0.0.1", 0).await.unwrap();
        let key = if urls.len() < 2 { key.clone() } else { KeyPair::generate().unwrap() };
        let checker = FakeChecker::serve(listener, key, &clock, &words, None);
        urls.push(checker.url.clone());
        checkers.push(checker);
    }
    let config = Config {
        host: "127.0.0.1".parse().unwrap(),
        port_check_quorum: 2,
        ..range(50_800, 50_803, &urls.join(","))
    };
    let bench = Bench::with(Arc::clone(&clock), config).await;
    let report = bench.verifier.check().await;
    assert_eq!(bench.board.usable(), [50_800, 50_802], "{report:?}");
    let External::TooFew { by, needed } = &report.access[1].external else { panic!("{report:?}") };
    assert_eq!((by.as_slice(), *needed), (&urls[..2], 2));
    assert!(report.problems()[1].found.contains("GOLEM_PROVIDER_PORT_CHECK_QUORUM"));
    for checker in checkers {
        checker.stop().await;
    }
}

#[tokio::test]
async fn a_checker_that_attests_something_else_counts_for_nothing() {
    let clock = clock();
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let about = Some(KeyPair::generate().unwrap().id());
    let liar = FakeChecker::serve(listener, KeyPair::generate().unwrap(), &clock, &[], about);
    let bench = Bench::new(Arc::clone(&clock), &[&liar.url]).await;
    let report = bench.verifier.check().await;
    assert_eq!((report.verification, report.usable()), (Verification::Unanswered, 0));
    let error = report.checkers[0].error.as_deref().unwrap();
    assert!(error.contains("another provider"), "{error}");
    liar.stop().await;
}

#[tokio::test]
async fn what_was_attested_is_asked_for_again_before_it_expires_and_forgotten_after() {
    let clock = clock();
    let checker = FakeChecker::start(&clock, &[]).await;
    let bench = Bench::new(Arc::clone(&clock), &[&checker.url]).await;
    bench.verifier.check().await;
    let first = bench.board.ages().unwrap();
    assert_eq!(first.1.since(first.0), VALIDITY / 2);
    clock.advance(VALIDITY.as_secs() / 2);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (verifier, shutdown) = (bench.verifier.clone(), shutdown.clone());
        async move { verifier.run(shutdown).await }
    });
    let mut changes = bench.board.changes();
    let all = async {
        while bench.board.ages().unwrap() == first {
            changes.changed().await.unwrap();
        }
        assert_eq!(bench.board.usable().len(), 3);
        // The checker is gone, and its word ends.
        checker.stop().await;
        clock.advance(VALIDITY.as_secs());
        bench.verifier.recheck();
        while !bench.board.usable().is_empty() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert!(bench.board.summary([]).attestations.is_empty());
    assert_eq!(bench.board.summary([]).claim, None);
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_no_longer_reached_leaves_the_pool_and_comes_back() {
    let clock = clock();
    let checker = FakeChecker::start(&clock, &[]).await;
    let bench = Bench::new(Arc::clone(&clock), &[&checker.url]).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (verifier, shutdown) = (bench.verifier.clone(), shutdown.clone());
        async move { verifier.run(shutdown).await }
    });
    let mut changes = bench.board.changes();
    let mut usable = async |expected: &[u16]| {
        let wait = async {
            while bench.board.usable() != expected {
                changes.changed().await.unwrap();
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{:?}", bench.board.report());
    };
    usable(&[50_800, 50_801, 50_802]).await;
    assert_eq!(bench.board.report().closed_because(50_801), None);

    // A firewall closes one. It is found when the checker is asked next: at half the life of its word.
    checker.words.send_modify(|words| {
        words.insert(50_801, NotProven::NoAnswer);
    });
    clock.advance(VALIDITY.as_secs() / 2);
    bench.verifier.recheck();
    usable(&[50_800, 50_802]).await;
    let report = bench.board.report();
    let closed = report.closed_because(50_801).unwrap();
    assert_eq!(closed, "port 50801 can't be reached from outside: no answer");
    assert!(report.problems().iter().any(|problem| problem.found == closed), "{report:?}");
    assert_eq!(report.closed_because(50_802), None);
    assert!(report.closed_because(50_803).unwrap().contains("taken by another program"));
    let summary = bench.board.summary([50_800]);
    assert_eq!((summary.free, summary.claim.unwrap().vm_ports), (1, 2), "and not advertised");

    // It is asked about again and again, by itself, and comes back when it is open.
    checker.words.send_modify(|words| {
        words.remove(&50_801);
    });
    usable(&[50_800, 50_801, 50_802]).await;
    assert_eq!(bench.board.report().closed_because(50_801), None);

    // One that this host loses is not usable either, until it is held again.
    bench.board.set_access(&[
        held(50_800),
        not_held(50_801, BindFailureReason::InUse),
        held(50_802),
    ]);
    usable(&[50_800, 50_802]).await;
    assert!(bench.board.report().closed_because(50_801).unwrap().contains("taken"));
    bench.board.set_access(&[held(50_800), held(50_801), held(50_802)]);
    usable(&[50_800, 50_801, 50_802]).await;
    shutdown.cancel();
    running.await.unwrap();
    checker.stop().await;
}
