//! Bad days: something that the provider needs is gone, full, locked, damaged or wrong for a while.
//! Every time: no VM changes its fate, what goes on goes on, what can't be done is said, and afterwards
//! everything goes on by itself.

mod database;
mod second_start;

use golem_vm_end_to_end::{Requestor, status_of};

/// The API answers, and the owner's list is the provider's own and not what `golem` remembers.
fn answers(address: &str, requestor: &Requestor, name: &str) {
    let (status, took) = status_of(address, "/health");
    assert_eq!(status, Some(200), "after {took:?}");
    assert_eq!(requestor.vm(name)["stale"], false, "{:?}", requestor.vm(name));
}
