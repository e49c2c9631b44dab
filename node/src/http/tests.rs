//! The whole listener, over real sockets and raw bytes.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use golem_vm_protocol::signature::{
    Nonce, RequestParts, RequestSignature, WINDOW_SECONDS, sign_request, verify_response,
};
use golem_vm_protocol::{ErrorCode, KeyPair, Problem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::ManualClock;

const START: u64 = 1_800_000_000;
const NOW: u64 = START + 10;

/// Told by the handler of `/slow`, which one test uses.
static SLOW_BEGAN: tokio::sync::Notify = tokio::sync::Notify::const_new();

struct Server {
    address: SocketAddr,
    clock: Arc<ManualClock>,
    id: golem_vm_protocol::KeyId,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn server_key() -> KeyPair {
    KeyPair::from_secret_bytes([1; 32]).unwrap()
}

fn client_key() -> KeyPair {
    KeyPair::from_secret_bytes([2; 32]).unwrap()
}

fn router() -> Router {
    async fn who(VerifiedCaller(key): VerifiedCaller, body: String) -> String {
        format!("{key} {body}")
    }
    async fn caller(
        caller: Caller,
        Extension(peer): Extension<PeerAddr>,
        Extension(id): Extension<RequestId>,
    ) -> String {
        format!("{caller:?} {} {id}", peer.0.ip())
    }
    async fn slow() -> &'static str {
        SLOW_BEGAN.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        "done"
    }
    async fn never() -> &'static str {
        std::future::pending().await
    }
    async fn refuse() -> ProblemResponse {
        ProblemResponse::new(ErrorCode::NameTaken, "that name is taken")
    }
    async fn json(JsonBody(value): JsonBody<Vec<u8>>) -> Json<usize> {
        Json(value.len())
    }
    #[derive(serde::Deserialize)]
    struct Filter {
        cpu: Option<u32>,
    }
    async fn query(QueryParams(filter): QueryParams<Filter>) -> String {
        format!("{:?}", filter.cpu)
    }
    async fn panics() -> &'static str {
        std::hint::black_box(None::<&'static str>).unwrap()
    }
    Router::new()
        .route("/who", post(who).get(who))
        .route("/caller", get(caller))
        .route("/slow", get(slow))
        .route("/never", get(never))
        .route("/refuse", get(refuse))
        .route("/json", post(json))
        .route("/query", get(query))
        .route("/panics", get(panics))
        .route("/empty-error", get(async || ::http::StatusCode::BAD_GATEWAY))
        .merge(streams::router())
}

async fn start(limits: HttpLimits) -> Server {
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let signing = Signing::new(
        server_key(),
        Recipients::service(["public.example:9001"], address),
        clock.clone(),
    );
    clock.set(NOW);
    let service = HttpService::signed(router(), limits, Arc::new(signing));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let task = tokio::spawn(service.serve(listener, stop));
    Server { address, clock, id: server_key().id(), shutdown, task }
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn problem(&self) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text());
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        assert_eq!(problem.request_id.as_deref(), self.headers["x-request-id"].to_str().ok());
        problem
    }

    fn code(&self) -> ErrorCode {
        self.problem().code
    }
}

async fn read_reply(stream: &mut TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers: HeaderMap = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| {
            (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect();
    let length: usize =
        headers.get("content-length").map_or(0, |v| v.to_str().unwrap().parse().unwrap());
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Reply { status, headers, body })
}

/// Sends raw bytes and reads the reply; `None` when the server only closes.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    read_reply(&mut stream).await
}

async fn plain(server: &Server, request: &str) -> Reply {
    raw(server.address, request.as_bytes()).await.unwrap()
}

struct Signed {
    bytes: Vec<u8>,
    signature: RequestSignature,
}

fn sign(method: &str, target: &str, body: &[u8], recipient: &str, created: u64) -> Signed {
    let parts = RequestParts::new(method, target, body);
    let (headers, signature) =
        sign_request(&client_key(), &parts, recipient, None, created, Nonce::random().unwrap())
            .unwrap();
    let mut bytes =
        format!("{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        bytes.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    Signed { bytes, signature }
}

/// Sends it, and checks that the reply is signed by the server and bound to it.
async fn exchange(server: &Server, signed: &Signed) -> Reply {
    let reply = raw(server.address, &signed.bytes).await.unwrap();
    let signer =
        verify_response(reply.status, &reply.headers, &reply.body, &signed.signature).unwrap();
    assert_eq!(signer, server.id);
    reply
}

#[tokio::test]
async fn a_signed_request_reaches_its_handler_and_the_reply_is_signed() {
    let server = start(HttpLimits::default()).await;
    for recipient in
        [server.address.to_string(), "public.example:9001".to_owned(), server.id.to_string()]
    {
        let reply = exchange(&server, &sign("POST", "/who?a=b", b"hello", &recipient, NOW)).await;
        assert_eq!((reply.status, reply.text()), (200, format!("{} hello", client_key().id())));
    }
}

#[tokio::test]
async fn without_a_signature_a_protected_path_says_so_and_others_answer() {
    let server = start(HttpLimits::default()).await;
    let reply = plain(&server, "GET /who HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!((reply.status, reply.code()), (401, ErrorCode::SignatureRequired));
    assert!(!reply.headers.contains_key("signature"));
    let reply = plain(&server, "GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(reply.text().starts_with("Anonymous 127.0.0.1 req_"), "{}", reply.text());
    assert!(reply.text().ends_with(reply.headers["x-request-id"].to_str().unwrap()));
}

#[tokio::test]
async fn refusals_of_signed_requests_are_signed_too() {
    let server = start(HttpLimits { max_body: 100, ..HttpLimits::default() }).await;
    let own = server.address.to_string();
    let cases = [
        (sign("GET", "/nothing", b"", &own, NOW), 404, ErrorCode::NotFound),
        (sign("DELETE", "/who", b"", &own, NOW), 405, ErrorCode::MethodNotAllowed),
        (sign("GET", "/refuse", b"", &own, NOW), 409, ErrorCode::NameTaken),
        (sign("GET", "/who", b"", "other.example:9001", NOW), 401, ErrorCode::WrongRecipient),
        (sign("GET", "/who", b"", &own, NOW - WINDOW_SECONDS - 1), 401, ErrorCode::ClockSkew),
        (sign("GET", "/who", b"", &own, NOW + WINDOW_SECONDS + 1), 401, ErrorCode::ClockSkew),
        (sign("GET", "/who", b"", &own, START), 401, ErrorCode::SignatureStale),
        (sign("POST", "/who", &[b'x'; 101], &own, NOW), 413, ErrorCode::PayloadTooLarge),
        (sign("GET", "/panics", b"", &own, NOW), 500, ErrorCode::Internal),
        (sign("POST", "/json", b"[1]", &own, NOW), 415, ErrorCode::UnsupportedMediaType),
    ];
    for (signed, status, code) in cases {
        let reply = exchange(&server, &signed).await;
        assert_eq!((reply.status, reply.code()), (status, code), "{}", reply.text());
    }
}

#[tokio::test]
async fn the_same_request_is_served_once() {
    let server = start(HttpLimits::default()).await;
    let signed = sign("GET", "/who", b"", &server.address.to_string(), NOW);
    assert_eq!(exchange(&server, &signed).await.status, 200);
    assert_eq!(exchange(&server, &signed).await.code(), ErrorCode::Replayed);
    server.clock.set(NOW + WINDOW_SECONDS);
    assert_eq!(exchange(&server, &signed).await.code(), ErrorCode::Replayed);
    server.clock.set(NOW + WINDOW_SECONDS + 1);
    assert_eq!(exchange(&server, &signed).await.code(), ErrorCode::ClockSkew);
}

#[tokio::test]
async fn a_request_with_any_byte_altered_is_never_taken_for_its_signers() {
    let server = start(HttpLimits {
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..HttpLimits::default()
    })
    .await;
    let signed = sign("POST", "/who?q=1", b"body", &server.address.to_string(), NOW);
    let head = signed.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let text = String::from_utf8(signed.bytes[..head].to_vec()).unwrap();
    // What is not signed, because it says nothing about the request: the version's last digit, the
    // Host line (the recipient stands in its place), and the case of header names.
    let host = text.find("host: x").unwrap();
    let mut free: Vec<usize> = (host..host + "host: x".len()).collect();
    free.push(text.find("HTTP/1.1").unwrap() + "HTTP/1.1".len() - 1);
    let mut altered = Vec::new();
    for position in 0..signed.bytes.len() {
        let in_name = position < head && {
            let line = text[..position].rfind("\r\n").map_or(0, |at| at + 2);
            line > 0 && !text[line..position].contains(':')
        };
        for flip in [1, 2] {
            let mut bytes = signed.bytes.clone();
            bytes[position] ^= flip;
            let same_name =
                in_name && bytes[position].eq_ignore_ascii_case(&signed.bytes[position]);
            if !free.contains(&position) && !same_name {
                altered.push((position, bytes));
            }
        }
    }
    // Some leave the server waiting for more, so a few at a time; far fewer than it may serve.
    for group in altered.chunks(32) {
        let mut tasks = tokio::task::JoinSet::new();
        for (position, bytes) in group.iter().cloned() {
            let address = server.address;
            tasks.spawn(async move { (position, raw(address, &bytes).await) });
        }
        while let Some(joined) = tasks.join_next().await {
            let (position, reply) = joined.unwrap();
            let status = reply.as_ref().map_or(0, |reply| reply.status);
            assert!(
                ![200, 503].contains(&status),
                "{status} with byte {position} altered: {}",
                reply.unwrap().text()
            );
        }
    }
    // It is still good, and was not used up.
    assert_eq!(exchange(&server, &signed).await.status, 200);
}

#[tokio::test]
async fn half_a_signature_is_no_anonymous_request() {
    let server = start(HttpLimits::default()).await;
    let signed = sign("GET", "/caller", b"", &server.address.to_string(), NOW);
    let text = String::from_utf8(signed.bytes).unwrap();
    for dropped in ["signature: ", "signature-input: ", "golem-recipient: ", "content-digest: "] {
        let kept: Vec<_> = text.split("\r\n").filter(|line| !line.starts_with(dropped)).collect();
        let reply = plain(&server, &kept.join("\r\n")).await;
        assert_eq!(
            (reply.status, reply.code()),
            (401, ErrorCode::SignatureInvalid),
            "without {dropped}"
        );
    }
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let server = start(HttpLimits { max_body: 10, ..HttpLimits::default() }).await;
    let json = "host: x\r\ncontent-type: application/json\r\n";
    let cases = [
        ("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 404, ErrorCode::NotFound),
        ("PUT /who HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 405, ErrorCode::MethodNotAllowed),
        ("GET /empty-error HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 502, ErrorCode::Internal),
        (
            "GET /query?cpu=abc HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            422,
            ErrorCode::ValidationFailed,
        ),
        (
            format!("POST /json HTTP/1.1\r\n{json}content-length: 1\r\n\r\n["),
            400,
            ErrorCode::BadRequest,
        ),
        (
            format!("POST /json HTTP/1.1\r\n{json}content-length: 5\r\n\r\n[300]"),
            422,
            ErrorCode::ValidationFailed,
        ),
        (
            format!("POST /json HTTP/1.1\r\n{json}content-length: 11\r\n\r\n"),
            413,
            ErrorCode::PayloadTooLarge,
        ),
        (
            format!(
                "POST /json HTTP/1.1\r\n{json}transfer-encoding: chunked\r\n\r\nb\r\n[1,2,3,4,5]\r\n0\r\n\r\n"
            ),
            413,
            ErrorCode::PayloadTooLarge,
        ),
    ];
    for (request, status, code) in cases {
        let reply = plain(&server, &request).await;
        assert_eq!((reply.status, reply.code()), (status, code), "{request}: {}", reply.text());
    }
    let reply = plain(&server, "PUT /who HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(reply.headers["allow"].to_str().unwrap().contains("POST"));
    let reply = plain(&server, "GET /query?cpu=abc HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(reply.problem().errors[0].pointer, "?cpu");
    let good = format!(
        "POST /json HTTP/1.1\r\n{json}transfer-encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n"
    );
    assert_eq!(plain(&server, &good).await.text(), "1");
}

#[tokio::test]
async fn a_slow_header_and_an_idle_connection_are_closed() {
    let server =
        start(HttpLimits { header_timeout: Duration::from_millis(100), ..HttpLimits::default() })
            .await;
    // Half a header, none at all, and idling after a reply.
    for sent in ["GET /who HTTP/1.1\r\nhost:", "", "GET /caller HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed =
            tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open after {sent:?}");
    }
}

#[tokio::test]
async fn half_a_body_is_a_request_timeout() {
    let server =
        start(HttpLimits { body_timeout: Duration::from_millis(100), ..HttpLimits::default() })
            .await;
    let half = "POST /who HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf";
    let reply = tokio::time::timeout(Duration::from_secs(20), plain(&server, half)).await.unwrap();
    assert_eq!((reply.status, reply.code()), (408, ErrorCode::RequestTimeout));
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_answered_for() {
    let server = start(HttpLimits {
        handler_timeout: Duration::from_millis(50),
        max_in_flight: 1,
        drain_timeout: Duration::from_millis(50),
        ..HttpLimits::default()
    })
    .await;
    let reply = plain(&server, "GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!((reply.status, reply.code()), (503, ErrorCode::Unavailable));
    // It still runs, and counts.
    let reply = plain(&server, "GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(reply.code(), ErrorCode::Unavailable);
    assert_eq!(reply.headers["retry-after"], "1");
    server.shutdown.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = start(HttpLimits { max_connections: 2, ..HttpLimits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(read_reply(&mut stream).await.unwrap().status, 200);
        held.push(stream);
    }
    let reply = plain(&server, "GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!((reply.status, reply.code()), (503, ErrorCode::Unavailable));
    // The ones that were there go on, and a place that is given back can be taken.
    let mut first = held.remove(0);
    first.write_all(b"GET /caller HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(read_reply(&mut first).await.unwrap().status, 200);
    assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0);
    loop {
        if plain(&server, "GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await.status == 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn shutting_down_finishes_open_requests_and_closes_idle_connections() {
    let server = start(HttpLimits::default()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_reply(&mut idle).await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    SLOW_BEGAN.notified().await;
    server.shutdown.cancel();
    assert_eq!(read_reply(&mut busy).await.unwrap().text(), "done");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn shutting_down_cuts_what_does_not_end() {
    let server =
        start(HttpLimits { drain_timeout: Duration::from_millis(50), ..HttpLimits::default() })
            .await;
    let mut stuck = TcpStream::connect(server.address).await.unwrap();
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    plain(&server, "GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
    assert!(read_reply(&mut stuck).await.is_none());
}

mod streams;
mod wire;

mod client {
    use super::*;
    use crate::client::{Call, ClientError, SignedClient, Target};

    fn signed_client(server: &Server) -> SignedClient {
        SignedClient::new(client_key(), server.clock.clone()).unwrap()
    }

    #[tokio::test]
    async fn it_signs_asks_and_learns_who_answered() {
        let server = start(HttpLimits::default()).await;
        let client = signed_client(&server);
        let base = format!("http://{}", server.address);
        let target = Target::service(&base).unwrap();
        let call = Call::post("/who?x=a b&y=ü", &"hi").unwrap().idempotency_key("k-1");
        let reply = client.call(&target, &call).await.unwrap();
        assert_eq!(reply.signer, server.id);
        assert_eq!(reply.reply.body, format!("{} \"hi\"", client_key().id()));
        let by_key = Target::key(&base, server.id).unwrap();
        assert_eq!(client.call(&by_key, &Call::get("/caller")).await.unwrap().signer, server.id);
        let refused = client.call(&target, &Call::get("/refuse")).await.unwrap();
        assert_eq!(refused.reply.json::<String>().unwrap_err().code(), Some(ErrorCode::NameTaken));
    }

    #[tokio::test]
    async fn another_machine_is_noticed() {
        let server = start(HttpLimits::default()).await;
        let client = signed_client(&server);
        let base = format!("http://{}", server.address);
        let other = KeyPair::from_secret_bytes([3; 32]).unwrap().id();
        let target = Target::service(&base).unwrap().expecting(other);
        let error = client.call(&target, &Call::get("/caller")).await.unwrap_err();
        assert!(matches!(error, ClientError::WrongSigner { .. }), "{error}");

        let unsigned = bind("127.0.0.1", 0).await.unwrap();
        let base = format!("http://{}", unsigned.local_addr().unwrap());
        let service = HttpService::unsigned(router(), HttpLimits::default());
        let task = tokio::spawn(service.serve(unsigned, CancellationToken::new()));
        let target = Target::service(&base).unwrap();
        let error = client.call(&target, &Call::get("/caller")).await.unwrap_err();
        assert!(matches!(error, ClientError::Unsigned { .. }), "{error}");
        let reply = client.call_unsigned(&base, &Call::get("/caller")).await.unwrap();
        assert!(reply.ok().is_ok());
        task.abort();
    }

    #[tokio::test]
    async fn a_server_without_room_is_worth_another_try() {
        let server = start(HttpLimits { max_connections: 0, ..HttpLimits::default() }).await;
        let target = Target::service(&format!("http://{}", server.address)).unwrap();
        let error = signed_client(&server).call(&target, &Call::get("/who")).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Unsigned { status: 503, .. }) && error.is_transient(),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_server_that_has_just_started_is_asked_again() {
        let listener = bind("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let clock: Arc<dyn crate::clock::Clock> = Arc::new(crate::clock::SystemClock);
        let recipients = Recipients::service(Vec::<String>::new(), address);
        let signing = Arc::new(Signing::new(server_key(), recipients, Arc::clone(&clock)));
        let service = HttpService::signed(router(), HttpLimits::default(), signing);
        let task = tokio::spawn(service.serve(listener, CancellationToken::new()));
        let client = SignedClient::new(client_key(), clock).unwrap();
        let target = Target::service(&format!("http://{address}")).unwrap();
        assert!(client.call(&target, &Call::get("/who")).await.unwrap().reply.ok().is_ok());
        task.abort();
    }

    #[tokio::test]
    async fn silence_absence_and_too_much_are_told_apart() {
        let server = start(HttpLimits::default()).await;
        let client = signed_client(&server);
        let base = format!("http://{}", server.address);
        let target = Target::service(&base).unwrap();
        let slow = Call::get("/never").timeout(Duration::from_millis(50));
        assert!(matches!(client.call(&target, &slow).await, Err(ClientError::TimedOut { .. })));
        let small = signed_client(&server).with_max_body(10);
        assert!(matches!(
            small.call(&target, &Call::get("/caller")).await,
            Err(ClientError::TooLarge { .. })
        ));
        let closed = bind("127.0.0.1", 0).await.unwrap();
        let target = Target::service(&format!("http://{}", closed.local_addr().unwrap())).unwrap();
        drop(closed);
        let error = client.call(&target, &Call::get("/caller")).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
