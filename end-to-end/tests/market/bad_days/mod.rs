//! Bad days: something that the provider needs is gone, full, locked, damaged or wrong for a while.
//! Every time: no VM changes its fate, what goes on goes on, what can't be done is said, and afterwards
//! everything goes on by itself.

mod central_down;
mod clock;
mod database;
mod disk_full;
mod ends_in_create;
mod engine;
mod lease_while_down;
mod network_cut;
mod second_start;

use golem_vm_end_to_end::{Market, Outcome, Requestor};

/// The API answers within 3 s, and the owner's list is the provider's own and not what `golem` remembers.
fn answers(market: &Market, requestor: &Requestor, name: &str) {
    is_healthy(market);
    assert_eq!(requestor.vm(name)["stale"], false, "{:?}", requestor.vm(name));
}

/// `/health` is answered within 3 s.
fn is_healthy(market: &Market) {
    let url = format!("http://{}/health", market.providers[0].address());
    let mut curl = market.place().command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "3", &url]);
    Outcome::of(&mut curl, b"").done();
}
