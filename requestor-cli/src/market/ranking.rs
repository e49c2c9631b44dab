//! Which provider suits best: one whose ports were verified, that contains its guests, is cheapest
//! for the size, and was heard of last; in that order.

use std::cmp::Reverse;

use golem_vm_protocol::VmResources;
use golem_vm_protocol::vm::Isolation;

use super::{Candidate, dollars, usd};

/// Why a provider was chosen, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(pub String);

/// Sorts candidates, best first. `image` only breaks in where some advertise it by that very name:
/// then the others come last, for they may know it by another.
#[must_use]
pub fn ranked(
    mut candidates: Vec<Candidate>,
    size: &VmResources,
    isolation: Option<Isolation>,
    image: Option<&str>,
) -> Vec<(Candidate, Reason)> {
    candidates.sort_by_cached_key(|candidate| {
        let offer = candidate.offer(isolation);
        let has_image = image.is_none_or(|wanted| {
            offer.is_some_and(|offer| offer.images.iter().any(|image| image.name == wanted))
        });
        (
            !has_image,
            !candidate.ports_verified(),
            !offer.is_some_and(|offer| offer.contained),
            candidate.price(size),
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
            let reason = reason(&candidate, size, isolation, place, count);
            (candidate, reason)
        })
        .collect()
}

fn reason(
    candidate: &Candidate,
    size: &VmResources,
    isolation: Option<Isolation>,
    place: usize,
    count: usize,
) -> Reason {
    let offer = candidate.offer(isolation);
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
    Reason(format!("{among}: {ports}, {contained}, {price} per month"))
}
