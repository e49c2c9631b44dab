//! Slow, huge and many: what strangers do to the services' listeners, and how it ends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use golem_vm_end_to_end::{Market, connect_from};

/// Linux has the whole of 127.0.0.0/8, and the services count all of it but 127.0.0.1.
const FLOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// What an address may have open, and the time for a header block, and again for a body.
const CONNECTIONS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(15);
/// How late a busy machine may be.
const LATE: Duration = Duration::from_secs(30);

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// The status of a request from `source`; none when the server only closes.
fn status(source: Ipv4Addr, address: &str, request: &[u8]) -> Option<u16> {
    let mut stream = connect_from(source, address);
    let _ = stream.write_all(request);
    status_of(&mut stream)
}

fn status_of(stream: &mut TcpStream) -> Option<u16> {
    stream.set_read_timeout(Some(DEADLINE + LATE)).unwrap();
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    let text = String::from_utf8_lossy(&reply);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// Sends `beginning`, then a byte every half second, and says what came back, and when.
fn dribble(address: &str, beginning: &[u8]) -> (Option<u16>, Duration) {
    let began = Instant::now();
    let mut stream = connect_from(NEIGHBOUR, address);
    stream.write_all(beginning).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() && began.elapsed() < DEADLINE + LATE {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let status = status_of(&mut stream);
    let took = began.elapsed();
    drop(stream);
    writing.join().unwrap();
    (status, took)
}

fn attack(address: &str) {
    // Half-open connections, as many as it lets one address have, and more.
    let held: Vec<_> = (0..CONNECTIONS * 2).map(|_| connect_from(FLOOD, address)).collect();
    assert_ne!(status(FLOOD, address, HEALTH), Some(200), "one address has all it wants");
    for source in [NEIGHBOUR, Ipv4Addr::LOCALHOST] {
        assert_eq!(status(source, address, HEALTH), Some(200), "{source} is starved");
    }
    let huge = format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(40_000));
    assert_eq!(status(NEIGHBOUR, address, huge.as_bytes()), Some(431));

    std::thread::scope(|scope| {
        let post = b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 30000\r\n\r\n";
        let body = scope.spawn(move || dribble(address, post));
        let header = scope.spawn(move || dribble(address, b"GET /health HTTP/1.1\r\nx: "));
        let (said, took) = body.join().unwrap();
        assert_eq!(said, Some(408));
        assert!(took < DEADLINE + LATE, "a slow body took {took:?}");
        let (said, took) = header.join().unwrap();
        assert_eq!(said, None);
        assert!(took < DEADLINE + LATE, "a slow header took {took:?}");
    });
    // By now the idle ones are closed, although nobody has closed them on this side.
    for mut stream in held {
        stream.set_read_timeout(Some(LATE)).unwrap();
        let mut rest = Vec::new();
        assert!(
            !matches!(stream.read_to_end(&mut rest), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "an idle connection is still open"
        );
    }
    assert_eq!(status(FLOOD, address, HEALTH), Some(200), "the flood is over");
}

#[test]
fn slow_huge_and_many_requests_end_and_starve_nobody() {
    let market = Market::with_one_provider();
    let addresses =
        [market.discovery.address(), market.checker.address(), market.providers[0].address()];
    std::thread::scope(|scope| {
        for address in addresses {
            scope.spawn(move || attack(address));
        }
    });
    market.close();
}
