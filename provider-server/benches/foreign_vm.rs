//! Whether the time of an answer tells a VM of somebody else's from one that never was:
//! `cargo bench -p golem-vm-provider --bench foreign_vm`. Over loopback, on the in-memory backend.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../tests/api/main.rs"]
mod api;

/// Questions of each kind.
const ROUNDS: usize = 2000;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{ROUNDS} of each, taking turns; a foreign VM takes longer in so many pairs (0.5: no telling)"
    );
    println!("{:48} {:>12} {:>12} {:>7} {:>7}", "question", "foreign", "never", "ratio", "longer");
    runtime.block_on(api::times::measure(ROUNDS, |times| {
        let (foreign, never) = times.medians_us();
        println!(
            "{:48} {foreign:9.1} us {never:9.1} us {:7.3} {:7.3}",
            times.what,
            foreign / never,
            times.longer()
        );
    }));
}
