//! The check of the caller's own ports, against honest listeners and liars.

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::attestation::{AcceptedCheckers, AttestationError, Claim, PortAttestation};
use golem_vm_protocol::port_check::{
    AttestedCheckRequest, AttestedCheckResponse, MAX_PORTS, NotProven,
};
use golem_vm_protocol::port_proof::Challenge;
use golem_vm_protocol::signature::Nonce;
use golem_vm_protocol::time::Timestamp;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::*;

const PATH: &str = "/api/v1/port-checks";

/// What a listener does with each connection, after it has read the challenge.
type Answer = Arc<dyn Fn(Challenge, SocketAddr) -> Vec<u8> + Send + Sync>;

/// A listener that answers each challenge so, and then says nothing more.
async fn listener(
    answer: impl Fn(Challenge, SocketAddr) -> Vec<u8> + Send + Sync + 'static,
) -> u16 {
    let (listener, port) = open_port().await;
    let answer: Answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(converse(stream, answer));
        }
    });
    port
}

async fn converse(stream: TcpStream, answer: Answer) {
    let here = stream.local_addr().unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let said = answer(line.trim_end_matches('\n').parse().unwrap(), here);
    let _ = stream.get_mut().write_all(&said).await;
    let _ = stream.read_line(&mut line).await;
}

fn proof(key: &KeyPair) -> impl Fn(Challenge, SocketAddr) -> Vec<u8> + Send + Sync + 'static {
    let key = key.clone();
    move |challenge, here| format!("{}\n", challenge.answer(&key, here)).into_bytes()
}

impl Checker {
    async fn asked(&self, key: &KeyPair, ports: &[u16]) -> AttestedCheckResponse {
        let body = AttestedCheckRequest { host: None, ports: ports.to_vec() };
        let reply = self.signed_by(key, PATH, &serde_json::to_value(body).unwrap()).await;
        assert_eq!(reply.reply.status, 200, "{:?}", reply.reply.body);
        reply.reply.json().unwrap()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(i64::try_from(self.clock.now_micros()).unwrap())
    }
}

#[tokio::test]
async fn a_caller_gets_an_attestation_of_the_ports_that_proved_to_be_its_own() {
    let checker = checker(false).await;
    let provider = KeyPair::generate().unwrap();
    let free = listener(proof(&provider)).await;
    let honest = proof(&provider);
    let in_use = listener(move |challenge, here| {
        [b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(), honest(challenge, here)].concat()
    })
    .await;
    let closed = closed_port().await;
    let reply = checker.asked(&provider, &[free, in_use, closed]).await;
    assert!(reply.results[&free].proven && reply.results[&in_use].proven, "{reply:?}");
    assert_eq!(reply.results[&closed].cause, Some(NotProven::Refused));
    assert_eq!((reply.host.as_str(), reply.checker_id), ("127.0.0.1", checker.id));

    let envelope = reply.attestation.unwrap();
    let claim = Claim {
        provider: provider.id(),
        host: "127.0.0.1",
        ports: &[free, in_use],
        now: checker.now(),
        accepted: AcceptedCheckers::Only(&[checker.id]),
    };
    let attested = PortAttestation::verify(&envelope, &claim).unwrap();
    assert_eq!(attested.checker, checker.id);
    let lifetime = attested.attestation.expires_at.since(attested.attestation.observed_at);
    assert_eq!(lifetime, Duration::from_secs(1800));
    let wider = Claim { ports: &[closed], ..claim };
    assert_eq!(
        PortAttestation::verify(&envelope, &wider),
        Err(AttestationError::Port(closed)),
        "what was not proven is not attested"
    );
}

#[tokio::test]
async fn no_liar_gets_a_port_counted() {
    let checker =
        checker_with(|_, limits| limits.policy.timeout = Duration::from_millis(300)).await;
    let (provider, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    // Its own proof: the port is another provider's.
    let other = listener(proof(&stranger)).await;
    // Its own signature under the caller's name.
    let (liar, name) = (stranger.clone(), provider.id());
    let forged = listener(move |challenge, here| {
        let mut proof = challenge.answer(&liar, here);
        proof.provider = name;
        format!("{proof}\n").into_bytes()
    })
    .await;
    // Good proofs for another nonce, port, address and checker. (As if they were recorded or relayed.)
    let signed = |change: fn(Challenge) -> Challenge| {
        let key = provider.clone();
        move |challenge, here| format!("{}\n", change(challenge).answer(&key, here)).into_bytes()
    };
    let nonce = listener(signed(|c| Challenge { nonce: Nonce::from_bytes([7; 16]), ..c })).await;
    let port = listener(signed(|c| Challenge {
        dialled: c.dialled.map(|d| SocketAddr::new(d.ip(), d.port() ^ 1)),
        ..c
    }))
    .await;
    let address = listener(signed(|c| Challenge {
        dialled: c.dialled.map(|d| SocketAddr::new("192.0.2.1".parse().unwrap(), d.port())),
        ..c
    }))
    .await;
    let other_checker = KeyPair::from_secret_bytes([8; 32]).unwrap().id();
    let key = provider.clone();
    let checked = listener(move |challenge, here| {
        let moved = Challenge { checker: other_checker, ..challenge };
        format!("{}\n", moved.answer(&key, here)).into_bytes()
    })
    .await;
    // No proof at all: silence, a line without end, an endless stream of lines, a web server.
    let silent = listener(|_, _| Vec::new()).await;
    let key = provider.clone();
    let endless = listener(move |c, here| format!("{}", c.answer(&key, here)).into_bytes()).await;
    let honest = proof(&provider);
    let flood =
        listener(move |challenge, here| [vec![b'\n'; 100_000], honest(challenge, here)].concat())
            .await;
    let web = listener(|_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;

    let wrong = [other, forged, nonce, port, address, checked];
    let none = [silent, endless, flood, web];
    let ports: Vec<u16> = wrong.into_iter().chain(none).collect();
    let reply = checker.asked(&provider, &ports).await;
    assert_eq!(reply.attestation, None, "{:?}", reply.results);
    for port in wrong {
        assert_eq!(
            reply.results[&port].cause,
            Some(NotProven::WrongProof),
            "{:?}",
            reply.results[&port]
        );
    }
    for port in none {
        assert_eq!(
            reply.results[&port].cause,
            Some(NotProven::NoProof),
            "{:?}",
            reply.results[&port]
        );
    }
    // A replayed proof is for another nonce: each connection has its own.
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (kept, honest) = (Arc::clone(&seen), proof(&provider));
    let replaying = listener(move |challenge, here| {
        let mut kept = kept.lock().unwrap();
        kept.push(honest(challenge, here));
        kept[0].clone()
    })
    .await;
    assert!(checker.asked(&provider, &[replaying]).await.results[&replaying].proven);
    assert!(!checker.asked(&provider, &[replaying]).await.results[&replaying].proven);
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_guest_can_not_spoil_its_ports_proof() {
    let checker = checker(false).await;
    let provider = KeyPair::generate().unwrap();
    let honest = proof(&provider);
    let guest = proof(&KeyPair::generate().unwrap());
    let port =
        listener(move |challenge, here| [guest(challenge, here), honest(challenge, here)].concat())
            .await;
    assert!(checker.asked(&provider, &[port]).await.results[&port].proven);
}

/// 127.0.0.2 is this machine as well, and still not the caller's address.
#[tokio::test]
async fn nobody_elses_address_is_dialled() {
    let refused_after = Duration::from_secs(1);
    let checker = checker_with(|_, limits| {
        limits.policy.timeout = Duration::from_millis(300);
        limits.refused_after = refused_after;
    })
    .await;
    let caller = KeyPair::generate().unwrap();
    let own = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let second = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let [first, further] = [&own, &second].map(|socket| socket.local_addr().unwrap().port());
    // Something that is open, something that is not, a name that leads nowhere: the same answer after the
    // same time, and only the first port has been touched.
    let mut said = Vec::new();
    for (host, ports) in [
        ("127.0.0.2", [first, further]),
        ("127.0.0.2", [1, further]),
        ("name.invalid", [first, further]),
    ] {
        let asked = tokio::time::Instant::now();
        let body = json!({"host": host, "ports": ports});
        let reply = checker.signed_by(&caller, PATH, &body).await.reply;
        let problem = reply.problem();
        assert_eq!((reply.status.as_u16(), problem.code), (403, ErrorCode::AddressNotYours));
        assert!(asked.elapsed() >= refused_after, "{host} {:?}", asked.elapsed());
        said.push(problem.detail.replace(&format!("port {} ", ports[0]), "port N "));
    }
    assert_eq!(said[0], said[1]);
    assert_eq!(said[0], said[2]);
    not_dialled(&second).await;
}

#[tokio::test]
async fn another_address_is_checked_once_a_port_of_it_proved_to_be_the_callers() {
    let checker = checker(false).await;
    let provider = KeyPair::generate().unwrap();
    let honest: Answer = Arc::new(proof(&provider));
    let held = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = held.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = held.accept().await {
            tokio::spawn(converse(stream, Arc::clone(&honest)));
        }
    });
    let closed = closed_port().await;
    let body = json!({"host": "127.0.0.2", "ports": [port, closed]});
    let reply = checker.signed_by(&provider, PATH, &body).await.reply;
    let reply: AttestedCheckResponse = reply.json().unwrap();
    assert_eq!(
        (reply.address.as_str(), reply.observed_address.as_str()),
        ("127.0.0.2", "127.0.0.1")
    );
    assert!(reply.results[&port].proven && !reply.results[&closed].proven);
    let content = reply.attestation.unwrap().open::<PortAttestation>().unwrap().content;
    assert_eq!((content.host.as_str(), content.ports.to_string()), ("127.0.0.2", port.to_string()));
    // A name stands in the attestation as it was asked for.
    let own = listener(proof(&provider)).await;
    let body = json!({"host": "localhost", "ports": [own]});
    let reply: AttestedCheckResponse =
        checker.signed_by(&provider, PATH, &body).await.reply.json().unwrap();
    let content = reply.attestation.unwrap().open::<PortAttestation>().unwrap().content;
    assert_eq!((content.host.as_str(), reply.address.as_str()), ("localhost", "127.0.0.1"));
}

#[tokio::test]
async fn private_addresses_are_dialled_only_where_the_operator_allows_it() {
    let checker = checker_with(|config, _| config.allow_private = false).await;
    let (listener, port) = open_port().await;
    let hosts = [
        None,
        Some("127.0.0.1"),
        Some("10.0.0.1"),
        Some("169.254.169.254"),
        Some("::ffff:127.0.0.1"),
    ];
    for host in hosts {
        let reply = checker.signed(PATH, &json!({"host": host, "ports": [port]})).await.reply;
        assert_eq!(
            (reply.status.as_u16(), reply.problem().code),
            (403, ErrorCode::Forbidden),
            "{host:?}"
        );
    }
    not_dialled(&listener).await;
}

#[tokio::test]
async fn what_is_asked_is_bounded() {
    let checker = checker(false).await;
    let (_held, port) = open_port().await;
    let reply = checker.unsigned(PATH, &json!({"ports": [port]})).await;
    assert_eq!((reply.status.as_u16(), reply.problem().code), (401, ErrorCode::SignatureRequired));
    let many: Vec<usize> = (1..=MAX_PORTS + 1).collect();
    for (body, said) in [
        (json!({"ports": many}), "at most 1024"),
        (json!({"ports": []}), "at least one"),
        (json!({"ports": [0]}), "Invalid port number: 0"),
        (json!({"ports": ["22"]}), "whole number"),
        (json!({"ports": [65536]}), "whole number"),
        (json!({"ports": [1], "host": "no host"}), "no host"),
        (json!({"ports": [1], "host": 5}), "/host: has to be a text"),
    ] {
        let reply = checker.signed(PATH, &body).await.reply;
        assert_eq!(reply.status, 422);
        assert!(reply.problem().detail.contains(said), "{}", reply.problem().detail);
    }
    // As many as are allowed, most of them refused.
    let mut ports: Vec<u16> = (1..).filter(|other| *other != port).take(MAX_PORTS - 1).collect();
    ports.push(port);
    let key = KeyPair::generate().unwrap();
    assert_eq!(checker.asked(&key, &ports).await.results.len(), MAX_PORTS);
}
