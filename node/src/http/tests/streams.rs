//! Replies without end.

use axum::extract::Path;
use golem_vm_protocol::VmId;
use golem_vm_protocol::signature::verify_stream;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{
    Actor, Cause, EventKind, KEEP_ALIVE, StreamError, StreamReader, VmEvent, VmRef, VmResources,
    VmStage,
};

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

fn vm() -> VmRef {
    VmId::from_bytes([3; 16]).into()
}

fn event(number: u64) -> VmEvent {
    VmEvent {
        vm_id: vm().as_str().to_owned(),
        number,
        at: Timestamp::from_unix_seconds(1_000_000),
        steady_micros: 5,
        kind: EventKind::State,
        from: None,
        to: VmStage::Creating,
        actor: Actor::Requestor,
        cause: Cause::Requested,
        detail: Some("x".repeat(500)),
        resources: VmResources { cpu: 1, memory: 1, storage: 10 },
        delivered_micros: 0,
    }
}

pub(super) fn router() -> Router {
    /// So many events, and the end.
    async fn some(Path(count): Path<u64>, stream: EventStream) -> axum::response::Response {
        stream.answer(move |sink| async move {
            for number in 1..=count {
                if sink.send(&event(number)).await.is_err() {
                    return;
                }
            }
        })
    }
    /// One event, and no end.
    async fn open(stream: EventStream) -> axum::response::Response {
        stream.answer(async |sink| {
            let _ = sink.send(&event(1)).await;
            std::future::pending::<()>().await;
        })
    }
    Router::new().route("/stream/{count}", get(some)).route("/open", get(open))
}

/// A connection on which a stream was asked for, in the old HTTP whose bodies end with the connection.
struct Open {
    tcp: TcpStream,
    head: HeaderMap,
    status: u16,
    /// What came behind the head.
    read: Vec<u8>,
    signature: RequestSignature,
    nonce: Nonce,
}

impl Open {
    async fn ask(server: &Server, method: &str, target: &str, key: &KeyPair) -> Self {
        let parts = RequestParts::new(method, target, b"");
        let nonce = Nonce::random().unwrap();
        let own = server.address.to_string();
        let (headers, signature) = sign_request(key, &parts, &own, None, NOW, nonce).unwrap();
        let mut request = format!("{method} {target} HTTP/1.0\r\nhost: x\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut read = Vec::new();
        let end = loop {
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert!(tcp.read_buf(&mut read).await.unwrap() > 0, "no head");
        };
        let text = String::from_utf8(read[..end].to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let head = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| {
                (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let read = read.split_off(end + 4);
        Self { tcp, head, status, read, signature, nonce }
    }

    /// Reads until it has `text`; whether it came before the end.
    async fn until(&mut self, text: &str) -> bool {
        let reading = async {
            while !String::from_utf8_lossy(&self.read).contains(text) {
                if self.tcp.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(DEADLINE, reading).await.expect("neither that nor the end")
    }

    /// The refusal that it is, if its signature is good.
    async fn refusal(mut self, server: &Server) -> (u16, ErrorCode) {
        self.until("never said").await;
        let signer = verify_response(self.status, &self.head, &self.read, &self.signature);
        assert_eq!(signer, Ok(server.id));
        (self.status, serde_json::from_slice::<Problem>(&self.read).unwrap().code)
    }

    fn events(&self, server: &Server, nonce: Nonce) -> Result<Vec<VmEvent>, StreamError> {
        let mut events = Vec::new();
        let mut reader = StreamReader::new(server.id, nonce, &vm(), 0);
        reader.push(&self.read, &mut events).map(|()| events)
    }
}

#[tokio::test]
async fn a_streams_head_and_events_are_signed_for_the_request() {
    let server = start(HttpLimits::default()).await;
    let mut stream = Open::ask(&server, "GET", "/stream/2", &client_key()).await;
    assert!(!stream.until("never said").await);
    assert_eq!(verify_stream(stream.status, &stream.head, &stream.signature), Ok(server.id));
    assert_eq!(stream.events(&server, stream.nonce), Ok(vec![event(1), event(2)]));
    // It is no ordinary reply, and nothing that was said to another request.
    assert!(verify_response(200, &stream.head, &stream.read, &stream.signature).is_err());
    let other = Open::ask(&server, "GET", "/stream/1", &client_key()).await;
    assert!(verify_stream(200, &stream.head, &other.signature).is_err());
    assert_eq!(stream.events(&server, other.nonce), Err(StreamError::OtherRequest));
    // Who only asks about it gets an ordinary reply.
    let mut head = Open::ask(&server, "HEAD", "/stream/2", &client_key()).await;
    assert!(!head.until("never said").await);
    assert_eq!(verify_response(200, &head.head, b"", &head.signature), Ok(server.id));
}

#[tokio::test]
async fn a_client_that_asked_for_no_stream_refuses_it_at_once() {
    use crate::client::{Call, ClientError, SignedClient, Target};
    let server = start(HttpLimits::default()).await;
    let client = SignedClient::new(client_key(), server.clock.clone()).unwrap();
    let target = Target::service(&format!("http://{}", server.address)).unwrap();
    let call = Call::get("/open").timeout(DEADLINE);
    let error = client.call(&target, &call).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unreadable { reason, .. } if reason.contains("stream")));
}

#[tokio::test]
async fn streams_go_on_beyond_the_handlers_deadline_and_end_at_their_own() {
    let limits = HttpLimits {
        handler_timeout: Duration::from_millis(200),
        streams: StreamLimits {
            keep_alive: Duration::from_millis(50),
            longest: Duration::from_secs(4),
            ..StreamLimits::default()
        },
        ..HttpLimits::default()
    };
    let server = start(limits).await;
    let mut stream = Open::ask(&server, "GET", "/open", &client_key()).await;
    assert!(stream.until(&KEEP_ALIVE.repeat(6)).await, "it said nothing while nothing happened");
    assert!(!stream.until("never said").await);
    assert_eq!(stream.events(&server, stream.nonce), Ok(vec![event(1)]));
}

#[tokio::test]
async fn streams_end_at_once_when_the_service_does() {
    let server = start(HttpLimits { drain_timeout: DEADLINE * 2, ..HttpLimits::default() }).await;
    let mut stream = Open::ask(&server, "GET", "/open", &client_key()).await;
    assert!(stream.until("\n\n").await);
    server.shutdown.cancel();
    assert!(!stream.until("never said").await);
    tokio::time::timeout(DEADLINE, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_takes_all_the_places_for_streams() {
    let streams = StreamLimits { max: 3, max_per_caller: 2, ..StreamLimits::default() };
    let server = start(HttpLimits { streams, ..HttpLimits::default() }).await;
    let (one, other) = (client_key(), KeyPair::from_secret_bytes([9; 32]).unwrap());
    let first = Open::ask(&server, "GET", "/open", &one).await;
    let _second = Open::ask(&server, "GET", "/open", &one).await;
    let refused = Open::ask(&server, "GET", "/open", &one).await;
    assert_eq!(refused.refusal(&server).await, (429, ErrorCode::RateLimited));
    let third = Open::ask(&server, "GET", "/open", &other).await;
    assert_eq!(third.status, 200);
    let refused = Open::ask(&server, "GET", "/open", &other).await;
    assert_eq!(refused.refusal(&server).await, (503, ErrorCode::Unavailable));
    // Whoever goes makes room.
    drop(first);
    assert_eq!(asked_until_served(&server, &one).await.status, 200);
}

/// A stream for `key`, as soon as there is room.
async fn asked_until_served(server: &Server, key: &KeyPair) -> Open {
    let asking = async {
        loop {
            let stream = Open::ask(server, "GET", "/open", key).await;
            if stream.status == 200 {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.expect("no room")
}

#[tokio::test]
async fn who_does_not_read_is_cut_and_gives_its_place_back() {
    let streams = StreamLimits { max: 1, ..StreamLimits::default() };
    let limits =
        HttpLimits { streams, write_timeout: Duration::from_millis(200), ..HttpLimits::default() };
    let server = start(limits).await;
    // More than any buffer in between holds.
    let silent = Open::ask(&server, "GET", "/stream/1000000", &client_key()).await;
    assert_eq!(silent.status, 200);
    asked_until_served(&server, &KeyPair::from_secret_bytes([9; 32]).unwrap()).await;
    drop(silent);
}
