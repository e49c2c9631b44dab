//! A recorded request is worth nothing to whoever recorded it.

use std::time::{SystemTime, UNIX_EPOCH};

use golem_vm_end_to_end::{Market, ProviderOptions, eventually, exchange};
use golem_vm_protocol::signature::{Nonce, RequestParts, sign_request};
use golem_vm_protocol::{KeyPair, route};
use serde_json::json;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// A signed create as it goes over the wire, for the provider `recipient`.
fn signed_create(key: &KeyPair, recipient: &str, address: &str, name: &str) -> Vec<u8> {
    let body = json!({
        "name": name,
        "resources": {"cpu": 1, "memory": 1, "storage": 10},
        "ssh_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW",
    })
    .to_string();
    signed(key, recipient, address, "POST", &format!("{}?async=true", route::VMS), &body)
}

fn signed(
    key: &KeyPair,
    recipient: &str,
    address: &str,
    method: &str,
    target: &str,
    body: &str,
) -> Vec<u8> {
    let parts = RequestParts::new(method, target, body.as_bytes());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (headers, _) =
        sign_request(key, &parts, recipient, None, now, Nonce::random().unwrap()).unwrap();
    let mut text =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    text.push_str("Content-Type: application/json\r\n");
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

/// Waits out the second in which the provider started: what was signed in it is refused for that
/// alone.
fn wait_until_fresh(key: &KeyPair, recipient: &str, address: &str) {
    eventually("what is signed now is not stale", || {
        let request = signed(key, recipient, address, "GET", route::VMS, "");
        exchange(address, &request).status == Some(200)
    });
}

fn names_of_vms(key: &KeyPair, recipient: &str, address: &str) -> String {
    exchange(address, &signed(key, recipient, address, "GET", route::VMS, "")).text
}

#[test]
fn it_works_once_at_one_provider() {
    let market = Market::with_providers(&[ProviderOptions::default(), ProviderOptions::default()]);
    let (a, b) = (&market.providers[0], &market.providers[1]);
    let key = KeyPair::generate().unwrap();

    wait_until_fresh(&key, a.id(), a.address());
    wait_until_fresh(&key, b.id(), b.address());
    let recorded = signed_create(&key, a.id(), a.address(), "box");
    let elsewhere = exchange(b.address(), &recorded);
    assert_eq!(
        (elsewhere.status, elsewhere.code.as_deref()),
        (Some(401), Some("wrong_recipient")),
        "{elsewhere:?}"
    );
    let first = exchange(a.address(), &recorded);
    assert_eq!(first.status, Some(202), "{first:?}");
    let second = exchange(a.address(), &recorded);
    assert_eq!(
        (second.status, second.code.as_deref()),
        (Some(401), Some("replayed")),
        "{second:?}"
    );

    assert_eq!(names_of_vms(&key, a.id(), a.address()).matches("\"box\"").count(), 1);
    assert_eq!(names_of_vms(&key, b.id(), b.address()).matches("\"box\"").count(), 0);
    market.close();
}

#[test]
fn with_any_byte_changed_it_does_nothing() {
    let market = Market::with_one_provider();
    let provider = &market.providers[0];
    let key = KeyPair::generate().unwrap();
    wait_until_fresh(&key, provider.id(), provider.address());
    let recorded = signed_create(&key, provider.id(), provider.address(), "box");
    for position in 0..recorded.len() {
        let mut changed = recorded.clone();
        changed[position] ^= 1;
        if is_of_the_transport(&recorded, position) {
            continue;
        }
        let reply = exchange(provider.address(), &changed);
        let refused = reply.status.is_none_or(|status| (400..500).contains(&status));
        assert!(
            refused,
            "byte {position} changed: {}\n{reply:?}",
            String::from_utf8_lossy(&changed)
        );
    }
    assert!(!names_of_vms(&key, provider.id(), provider.address()).contains("\"box\""));
    // It was good all the time.
    assert_eq!(exchange(provider.address(), &recorded).status, Some(202));
    market.close();
}

/// Bytes that carry nothing of what is asked for, and may be changed on the way by any proxy: the
/// version of HTTP, and the lines Host, Connection and Content-Type.
fn is_of_the_transport(request: &[u8], position: usize) -> bool {
    let head_end = request.windows(4).position(|window| window == HEAD_END).unwrap();
    let mut line_begin = 0;
    for line in String::from_utf8_lossy(&request[..head_end]).split_inclusive("\r\n") {
        let line_end = line_begin + line.len();
        if (line_begin..line_end).contains(&position) {
            let version = line.find("HTTP/1.1").map(|at| line_begin + at);
            return version.is_some_and(|at| position >= at)
                || ["Host:", "Connection:", "Content-Type:"]
                    .iter()
                    .any(|name| line.starts_with(name));
        }
        line_begin = line_end;
    }
    false
}
