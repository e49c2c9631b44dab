//! Which provider suits best: one whose ports were verified, that contains its guests, is cheapest
//! for the size, does not emulate a processor, and was heard of last; in that order.

use std::cmp::Reverse;

use golem_vm_protocol::VmResources;

use super::{Candidate, Wish, dollars, is_emulated, kind, usd};

/// Why a provider was chosen, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(pub String);

/// Sorts candidates that have no [`Wish::objection`] against them, best first.
#[must_use]
pub fn ranked(
    mut candidates: Vec<Candidate>,
    size: &VmResources,
    wish: &Wish,
) -> Vec<(Candidate, Reason)> {
    candidates.sort_by_cached_key(|candidate| {
        let offer = candidate.offer(wish);
        (
            !candidate.ports_verified(),
            !offer.is_some_and(|offer| offer.contained),
            candidate.price(size),
            offer.is_some_and(is_emulated),
            Reverse(candidate.last_seen),
            // Two that are alike keep one order, whatever order discovery gives.
            candidate.id,
        )
    });
    let count = candidates.len();
    candidates
        .into_iter()
        .enumerate()
        .map(|(place, candidate)| {
            let reason = reason(&candidate, size, wish, place, count);
            (candidate, reason)
        })
        .collect()
}

fn reason(
    candidate: &Candidate,
    size: &VmResources,
    wish: &Wish,
    place: usize,
    count: usize,
) -> Reason {
    let offer = candidate.offer(wish);
    let ports = if candidate.ports_verified() { "ports verified" } else { "ports not verified" };
    let contained = match offer {
        Some(offer) if offer.contained => "guests contained",
        _ => "guests not contained",
    };
    let price = dollars(usd(candidate.price(size)));
    let among = match (place, count) {
        (_, 1) => "the only match".to_owned(),
        (0, _) => format!("the best of {count} matches"),
        (place, _) => format!("number {} of {count} matches", place + 1),
    };
    let kind = offer.map(|offer| format!("{}, ", kind(offer))).unwrap_or_default();
    Reason(format!("{among}: {kind}{ports}, {contained}, {price} per month"))
}
