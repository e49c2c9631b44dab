//! How a provider's terms have changed between two of its advertisements.

use std::fmt;

use golem_vm_protocol::VmResources;
use golem_vm_protocol::advertisement::Offer;
use golem_vm_protocol::text::printable;

use super::{Candidate, Wish, dollars, kind, usd};

/// One term that is another one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    what: &'static str,
    /// As it was shown, safe to print.
    before: String,
    /// As it is now, safe to print.
    after: String,
    /// Whether it is worse for whoever rents.
    pub worse: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.what, self.before, self.after)
    }
}

/// What of a VM as it is wished for is other in `new` than in `old`.
#[must_use]
pub fn changes(old: &Candidate, new: &Candidate, size: &VmResources, wish: &Wish) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut term = |what, before: String, after: String, worse| {
        if before != after {
            changes.push(Change { what, before, after, worse });
        }
    };
    let (before, after) = (old.price(size), new.price(size));
    term("price per month", dollars(usd(before)), dollars(usd(after)), after > before);
    let (before, after) = (old.advertisement.overcommit, new.advertisement.overcommit);
    term(
        "CPUs overcommitted",
        format!("x{}", before.cpu),
        format!("x{}", after.cpu),
        after.cpu > before.cpu,
    );
    term(
        "disk overcommitted",
        format!("x{}", before.storage),
        format!("x{}", after.storage),
        after.storage > before.storage,
    );
    let (before, after) = (old.offer(wish), new.offer(wish));
    let kind = |offer: Option<&Offer>| offer.map_or_else(|| "nothing".to_owned(), kind);
    term("offered", kind(before), kind(after), true);
    let (Some(before), Some(after)) = (before, after) else { return changes };
    let contained = |offer: &Offer| if offer.contained { "yes" } else { "no" }.to_owned();
    term("guests contained", contained(before), contained(after), before.contained);
    term("traffic", printable(&before.egress, 32), printable(&after.egress, 32), true);
    let limits = |offer: &Offer| {
        let mut limits = offer.enforced.clone();
        limits.sort();
        printable(&limits.join(", "), 200)
    };
    let lost = before.enforced.iter().any(|limit| !after.enforced.contains(limit));
    term("limits enforced", limits(before), limits(after), lost);
    let made_from = |offer: &Offer| {
        let found = match &wish.image {
            Some(image) => image.among(offer),
            None => offer.images.first(),
        };
        found.map(|image| printable(&format!("{} {}", image.name, image.digest), 100))
    };
    if let (Some(before), after) = (made_from(before), made_from(after)) {
        term("image", before, after.unwrap_or_else(|| "not offered".to_owned()), true);
    }
    changes
}
