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
use golem_vm_protocol::port_check::{CheckPortsRequest, CheckPortsResponse, PortResult};
use golem_vm_protocol::{KeyPair, route};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ports::{
    External, Local, NotReached, PortBoard, PortVerifier, PublicAddress, Verification, VerifyPace,
};

/// The words of a checker about each port; a port without words is reached.
type Words = Arc<watch::Sender<BTreeMap<u16, &'static str>>>;

struct FakeChecker {
    url: String,
    key: KeyPair,
    words: Words,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn check(
    VerifiedCaller(_): VerifiedCaller,
    State(words): State<Words>,
    JsonBody(request): JsonBody<CheckPortsRequest>,
) -> Json<CheckPortsResponse> {
    let words = words.borrow().clone();
    let result = |port: u16| {
        let error = words.get(&port).map(|text| (*text).to_owned());
        (port, PortResult { accessible: error.is_none(), error })
    };
    let results: BTreeMap<_, _> = request.valid_ports().unwrap().into_iter().map(result).collect();
    Json(CheckPortsResponse {
        success: true,
        message: "Successfully verified".into(),
        results,
        checked_address: Some("203.0.113.4".into()),
        observed_address: Some("203.0.113.4".into()),
        checker_id: None,
        plain: false,
    })
}

impl FakeChecker {
    async fn start(clock: &Arc<ManualClock>, words: &[(u16, &'static str)]) -> Self {
        let listener = bind("127.0.0.1", 0).await.unwrap();
        Self::serve(listener, clock, words)
    }

    fn serve(
        listener: TcpListener,
        clock: &Arc<ManualClock>,
        words: &[(u16, &'static str)],
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let key = KeyPair::generate().unwrap();
        let no_names: [String; 0] = [];
        let signing = Arc::new(Signing::new(
            key.clone(),
            Recipients::service(&no_names, address),
            Arc::clone(clock) as Arc<dyn Clock>,
        ));
        // What was signed before its start is refused as stale.
        clock.advance(5);
        let words: Words = Arc::new(watch::Sender::new(words.iter().copied().collect()));
        let app =
            Router::new().route(route::CHECK_PORTS, post(check)).with_state(Arc::clone(&words));
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
async fn what_any_checker_reached_is_verified_and_it_is_kept_who_said_what() {
    let clock = clock();
    let first = FakeChecker::start(
        &clock,
        &[(50_801, "Connection refused"), (50_802, "Connection timed out")],
    )
    .await;
    let second = FakeChecker::start(&clock, &[(50_802, "Connection timed out")]).await;
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
    assert_eq!(bench.address.current().as_deref(), Some("203.0.113.4"));
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
    let checker = FakeChecker::serve(listener, &bench.clock, &[(50_801, "Connection refused")]);
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
        checker.words.send_replace([(50_800, "Connection refused")].into());
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
    checker.words.send_replace([(api, "Connection timed out")].into());
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
