//! Requests that an ordinary client does not send, as raw bytes: what two readers of the same bytes
//! might read differently.

use super::*;

/// A signed POST of `body`, with its head in lines to be changed, and the body.
fn signed_lines(server: &Server, target: &str, body: &str) -> (Vec<String>, RequestSignature) {
    let own = server.address.to_string();
    let signed = sign("POST", target, body.as_bytes(), &own, NOW);
    let text = String::from_utf8(signed.bytes).unwrap();
    let head = text.split_once("\r\n\r\n").unwrap().0;
    (head.split("\r\n").map(str::to_owned).collect(), signed.signature)
}

fn joined(lines: &[String], body: &str) -> Vec<u8> {
    format!("{}\r\n\r\n{body}", lines.join("\r\n")).into_bytes()
}

fn line_of<'a>(lines: &'a mut [String], name: &str) -> &'a mut String {
    lines.iter_mut().find(|line| line.starts_with(name)).unwrap()
}

#[tokio::test]
async fn headers_that_can_be_read_in_two_ways_are_refused() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change); 9] = [
        ("two lengths", |lines| lines.push("content-length: 0".into())),
        ("a length with a sign", |lines| {
            *line_of(lines, "content-length") = "content-length: +4".into()
        }),
        ("a folded header", |lines| lines.push("x: y\r\n signature: sig1=:AA==:".into())),
        ("a space before the colon", |lines| lines.push("golem-recipient : other".into())),
        ("the same header twice", |lines| {
            let line = line_of(lines, "signature:").clone();
            lines.push(line);
        }),
        ("two values in one header", |lines| {
            let line = line_of(lines, "golem-recipient");
            line.push_str(", other.example:80");
        }),
        ("two signatures", |lines| {
            let line = line_of(lines, "signature:");
            line.push_str(", sig2=:AAAA:");
        }),
        ("an idempotency key that was not signed", |lines| lines.push("idempotency-key: k".into())),
        ("a byte beyond ASCII", |lines| line_of(lines, "golem-recipient").push('\u{e9}')),
    ];
    for (what, change) in changes {
        let server = start(HttpLimits::default()).await;
        let (mut lines, _) = signed_lines(&server, "/who", "body");
        change(&mut lines);
        let reply = raw(server.address, &joined(&lines, "body")).await;
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        assert!([0, 400, 401].contains(&status), "{what}: {status}");
    }
}

#[tokio::test]
async fn a_target_with_an_address_in_it_means_the_same_path_and_old_http_is_signed_too() {
    let server = start(HttpLimits::default()).await;
    for first_line in [
        "POST http://somewhere.example/who?a=b HTTP/1.1",
        "POST /who?a=b HTTP/1.0",
        "POST /who?a=b HTTP/1.1",
    ] {
        let (mut lines, signature) = signed_lines(&server, "/who?a=b", "body");
        lines[0] = first_line.into();
        let reply = raw(server.address, &joined(&lines, "body")).await.unwrap();
        let signer = verify_response(reply.status, &reply.headers, &reply.body, &signature);
        assert_eq!((reply.status, signer), (200, Ok(server.id)), "{first_line}");
    }
    // Nothing that is asked for may be changed so.
    for first_line in [
        "POST http://somewhere.example/caller?a=b HTTP/1.1",
        "POST /who?a=b&c HTTP/1.1",
        "POST //who?a=b HTTP/1.1",
        "POST /wh%6f?a=b HTTP/1.1",
        "post /who?a=b HTTP/1.1",
        "CONNECT somewhere.example:80 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ] {
        let (mut lines, _) = signed_lines(&server, "/who?a=b", "body");
        lines[0] = first_line.into();
        let reply = raw(server.address, &joined(&lines, "body")).await;
        let status = reply.map_or(0, |reply| reply.status);
        assert!((400..500).contains(&status), "{first_line}: {status}");
    }
}

/// A proxy in front and this server may disagree on where a body ends: what one of them takes for
/// another request is not signed.
#[tokio::test]
async fn what_follows_a_request_is_another_one() {
    for chunked in [false, true] {
        let server = start(HttpLimits::default()).await;
        let (mut lines, _) = signed_lines(&server, "/who", "body");
        let mut sent = "body".to_owned();
        if chunked {
            // Beside a Content-Length, which then does not count (RFC 9112, section 6.3).
            lines.push("transfer-encoding: chunked".into());
            sent = "4\r\nbody\r\n0\r\n\r\n".into();
        }
        sent.push_str("POST /who HTTP/1.1\r\nhost: x\r\n\r\n");
        is_served_alone(&server, &joined(&lines, &sent)).await;
    }
}

async fn is_served_alone(server: &Server, sent: &[u8]) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut bytes = vec![0; 64 * 1024];
    let mut read = 0;
    // The second reply begins behind the first one's body, if the connection is not closed there.
    while String::from_utf8_lossy(&bytes[..read]).matches("HTTP/1.1 ").count() < 2 {
        match stream.read(&mut bytes[read..]).await.unwrap() {
            0 => break,
            more => read += more,
        }
    }
    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "what was not signed was served: {text}");
}

#[tokio::test]
async fn a_reply_to_head_is_signed_over_nothing() {
    let server = start(HttpLimits::default()).await;
    let signed = sign("HEAD", "/who", b"", &server.address.to_string(), NOW);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&signed.bytes).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0);
    }
    let text = String::from_utf8(head).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let headers: HeaderMap = text
        .trim_end()
        .split("\r\n")
        .skip(1)
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| {
            (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect();
    assert_eq!(verify_response(200, &headers, b"", &signed.signature), Ok(server.id));
}

#[tokio::test]
async fn what_is_late_or_slow_or_too_much_is_refused_with_a_signature() {
    let server = start(HttpLimits {
        body_timeout: Duration::from_millis(100),
        handler_timeout: Duration::from_millis(100),
        max_in_flight: 1,
        drain_timeout: Duration::from_millis(50),
        ..HttpLimits::default()
    })
    .await;
    let own = server.address.to_string();
    let mut half = sign("POST", "/who", b"12345678", &own, NOW);
    half.bytes.truncate(half.bytes.len() - 4);
    let reply = exchange(&server, &half).await;
    assert_eq!((reply.status, reply.code()), (408, ErrorCode::RequestTimeout));
    let reply = exchange(&server, &sign("GET", "/never", b"", &own, NOW)).await;
    assert_eq!((reply.status, reply.code()), (503, ErrorCode::Unavailable));
    // That one goes on, and takes the only place.
    let reply = exchange(&server, &sign("GET", "/who", b"", &own, NOW)).await;
    assert_eq!((reply.status, reply.code()), (503, ErrorCode::Unavailable));
    // A signature that is none of the key's: refused, and the refusal is bound to it.
    let mut broken = sign("POST", "/who", b"body", &own, NOW);
    *broken.bytes.last_mut().unwrap() ^= 1;
    let reply = exchange(&server, &broken).await;
    assert_eq!((reply.status, reply.code()), (401, ErrorCode::SignatureInvalid));
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_so_with_a_signature() {
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let limits = NonceLimits { per_key: 1, ..NonceLimits::default() };
    let recipients = Recipients::service(Vec::<String>::new(), address);
    let signing = Signing::with_nonce_limits(server_key(), recipients, clock.clone(), limits);
    clock.set(NOW);
    let service = HttpService::signed(router(), HttpLimits::default(), Arc::new(signing));
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(service.serve(listener, shutdown.clone()));
    let server = Server { address, clock, id: server_key().id(), shutdown, task };
    let own = address.to_string();
    assert_eq!(exchange(&server, &sign("GET", "/who", b"", &own, NOW)).await.status, 200);
    let reply = exchange(&server, &sign("GET", "/who", b"", &own, NOW)).await;
    assert_eq!((reply.status, reply.code()), (429, ErrorCode::RateLimited));
    assert_eq!(reply.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_by_how_much_and_that_is_signed() {
    let server = start(HttpLimits::default()).await;
    let ahead = sign("GET", "/who", b"", &server.address.to_string(), NOW + 312);
    let problem = exchange(&server, &ahead).await.problem();
    assert!(problem.detail.contains("5 min 12 s ahead of"), "{}", problem.detail);
    assert_eq!(problem.server_time.unwrap().unix_seconds(), NOW);
}
