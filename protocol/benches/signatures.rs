//! What a signed request costs: `cargo bench -p golem-vm-protocol --bench signatures`. One thread, no
//! network; measured is the CPU time of that thread, so that it hardly matters what else runs.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, criterion_group, criterion_main};
use golem_vm_protocol::signature::{
    Nonce, RequestParts, sign_request, sign_response, verify_request, verify_response,
};
use golem_vm_protocol::{KeyPair, route};
use http::HeaderMap;

const CREATE: &[u8] = br#"{"name":"my-webserver","resources":{"cpu":1,"memory":1,"storage":10},"ssh_key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW ann@attic","image":"debian-12","offer":{"sequence":7,"digest":"sha256:43cc23fa52b87b4cc1d02b5b114154151d6adddb17c9fddc06b027fa99e24008"}}"#;

/// Time that this thread has spent on a CPU, in nanoseconds.
struct CpuTime;

fn cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        cpu_nanos()
    }

    fn end(&self, began: u64) -> u64 {
        cpu_nanos() - began
    }

    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }

    fn zero(&self) -> u64 {
        0
    }

    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        // Nanoseconds as well.
        WallTime.formatter()
    }
}

fn signatures(criterion: &mut Criterion<CpuTime>) {
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

criterion_group!(
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = signatures
);
criterion_main!(benches);
