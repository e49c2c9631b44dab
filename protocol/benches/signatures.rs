//! What a signed request costs: `cargo bench -p golem-vm-protocol --bench signatures`. One core, no network.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use golem_vm_protocol::signature::{
    Nonce, RequestParts, sign_request, sign_response, verify_request, verify_response,
};
use golem_vm_protocol::{KeyPair, route};
use http::HeaderMap;

const CREATE: &[u8] = br#"{"name":"my-webserver","resources":{"cpu":1,"memory":1,"storage":10},"ssh_key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW ann@attic","image":"debian-12","offer":{"sequence":7,"digest":"sha256:43cc23fa52b87b4cc1d02b5b114154151d6adddb17c9fddc06b027fa99e24008"}}"#;

fn signatures(criterion: &mut Criterion) {
    let requestor = KeyPair::from_secret_bytes([2; 32]).unwrap();
    let provider = KeyPair::from_secret_bytes([1; 32]).unwrap();
    let recipient = provider.id().to_string();
    let nonce = Nonce::from_bytes([4; 16]);
    let now = 1_800_000_000;
    let target = format!("{}?async=true", route::VMS);
    let largest = vec![b'x'; 64 * 1024];
    for (what, method, target, body) in [
        ("a list, no body", "GET", route::VMS, b"".as_slice()),
        ("a create, 300 bytes", "POST", target.as_str(), CREATE),
        ("the largest body, 64 KiB", "POST", target.as_str(), &largest),
    ] {
        let parts = RequestParts::new(method, target, body);
        let sign =
            || sign_request(&requestor, &parts, &recipient, Some("k-1"), now, nonce).unwrap();
        let (headers, _) = sign();
        let headers: HeaderMap = headers.into_iter().collect();
        criterion.bench_function(&format!("request: sign {what}"), |bench| bench.iter(sign));
        // Headers to types, digest, key and signature: all that the server does for it but the window
        // and the nonce.
        criterion.bench_function(&format!("request: verify {what}"), |bench| {
            bench.iter(|| verify_request(black_box(&parts), black_box(&headers)).unwrap().unwrap());
        });
    }

    let parts = RequestParts::new("GET", route::VMS, b"");
    let (_, request) = sign_request(&requestor, &parts, &recipient, None, now, nonce).unwrap();
    let body = vec![b'y'; 2048];
    criterion.bench_function("reply: sign 2 KiB", |bench| {
        bench.iter(|| sign_response(&provider, 200, black_box(&body), &request, now));
    });
    let headers: HeaderMap =
        sign_response(&provider, 200, &body, &request, now).into_iter().collect();
    criterion.bench_function("reply: verify 2 KiB", |bench| {
        bench.iter(|| verify_response(200, black_box(&headers), &body, &request).unwrap());
    });
}

criterion_group!(benches, signatures);
criterion_main!(benches);
