//! What is on offer, and which of it suits best. No I/O: the advertisements are signed documents
//! that were checked before they got here.

mod changes;
mod ranking;
mod vouching;

use golem_vm_protocol::advertisement::{
    Advertisement, AdvertisementEntry, AdvertisementQuery, Offer, Pricing,
};
use golem_vm_protocol::document::DocumentDigest;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::{Timestamp, in_words};
use golem_vm_protocol::vm::{AcceptedOffer, Isolation, LeaseRequest};
use golem_vm_protocol::{KeyId, KeyPrefix, VmResources};

use crate::client::listing::Listing;
use crate::image::ImageWish;
use crate::rentals::{Agreed, ProviderRef};

/// Hours in a month, as the original counts them.
const HOURS_PER_MONTH: f64 = 730.0;

/// What a person asked for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// At least this much of each that is given.
    pub query: AdvertisementQuery,
    /// The lease, where something is said about it.
    pub lease: Option<LeaseRequest>,
    /// What it is to be made from; `None`: whatever the provider makes it from by default.
    pub image: Option<ImageWish>,
}

impl Wish {
    /// What is wrong with this advertisement for this wish; `None` when it suits.
    #[must_use]
    pub fn objection(&self, advertisement: &Advertisement) -> Option<String> {
        let query = &self.query;
        let size = query.priced_size();
        let free = &advertisement.resources;
        for (what, unit, wanted, free) in [
            ("CPUs", "", query.cpu, free.cpu),
            ("of memory", " GB", query.memory, free.memory),
            ("of storage", " GB", query.storage, free.storage),
        ] {
            if let Some(wanted) = wanted
                && free < wanted
            {
                return Some(format!("has {free}{unit} {what} free, {wanted}{unit} are wanted"));
            }
        }
        if let Some(country) = &query.country
            && advertisement.country != *country
        {
            return Some(format!("is in {}, not in {country}", advertisement.country));
        }
        if let Some(platform) = &query.platform
            && advertisement.platform != *platform
        {
            let theirs = printable(&advertisement.platform, 32);
            return Some(format!("is {theirs}, not {platform}"));
        }
        if let Some(objection) = self.kind_objection(advertisement) {
            return Some(objection);
        }
        if let Some(limit) = query.max_usd_per_month {
            let price = usd(advertisement.prices.per_month(&size));
            if price > limit {
                return Some(format!("asks {} per month", dollars(price)));
            }
        }
        self.lease_objection(advertisement)
    }

    /// Whether a VM from this offer is of the kind that is wanted.
    fn suits(&self, offer: &Offer) -> bool {
        self.query.isolation.is_none_or(|wanted| offer.isolation == wanted)
            && self.image.as_ref().is_none_or(|image| image.among(offer).is_some())
    }

    /// What is wrong with the kinds of VM that a provider offers. Those that serve only requestors they trust
    /// advertise none, and nothing is known about theirs.
    fn kind_objection(&self, advertisement: &Advertisement) -> Option<String> {
        let offers = &advertisement.offers;
        if offers.is_empty() || offers.iter().any(|offer| self.suits(offer)) {
            return None;
        }
        let isolation = self.query.isolation;
        let isolated: Vec<&Offer> = offers
            .iter()
            .filter(|offer| isolation.is_none_or(|wanted| offer.isolation == wanted))
            .collect();
        match (isolation, &self.image) {
            (_, Some(image)) if !isolated.is_empty() => {
                let missing = image.missing(isolated.iter().flat_map(|offer| &offer.images));
                Some(match isolation {
                    Some(isolation) if isolated.len() < offers.len() => {
                        format!("{missing} (with isolation '{isolation}')")
                    }
                    _ => missing,
                })
            }
            (Some(isolation), _) => Some(format!("offers no VM with isolation '{isolation}'")),
            (None, _) => None,
        }
    }

    /// What is wrong with the leases that a provider gives.
    fn lease_objection(&self, advertisement: &Advertisement) -> Option<String> {
        let lease = self.lease?;
        let Some(terms) = advertisement.lease else {
            return Some("gives no leases: it is of an older release".to_owned());
        };
        let (wanted, longest) = (lease.duration_seconds?, terms.max_seconds?);
        (wanted > longest).then(|| {
            format!("rents for at most {}, {} are wanted", in_words(longest), in_words(wanted))
        })
    }

    /// The longest lease in seconds among providers that would suit but for theirs being too short.
    #[must_use]
    pub fn longest_lease<'a>(
        &self,
        advertisements: impl Iterator<Item = &'a Advertisement>,
    ) -> Option<u64> {
        self.lease?.duration_seconds?;
        let any_lease = Self { lease: None, ..self.clone() };
        advertisements
            .filter(|advertisement| any_lease.objection(advertisement).is_none())
            .filter_map(|advertisement| advertisement.lease?.max_seconds)
            .max()
    }
}

/// A provider that could be rented from.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its key.
    pub id: KeyId,
    /// Its own words.
    pub advertisement: Advertisement,
    /// Digest of those words.
    pub digest: DocumentDigest,
    /// When discovery last heard of it.
    pub last_seen: Option<Timestamp>,
    /// Who vouches for its ports.
    pub vouched: Vouched,
}

impl Candidate {
    /// From a listing; `None` for a provider that signs nothing.
    #[must_use]
    pub fn of(listing: &Listing) -> Option<Self> {
        let document = listing.document.as_ref()?;
        Some(Self {
            id: document.content.provider_id,
            advertisement: document.content.clone(),
            digest: document.digest,
            last_seen: last_seen(&listing.entry),
            vouched: listing.vouched.clone(),
        })
    }

    /// How to reach it.
    #[must_use]
    pub fn reference(&self) -> ProviderRef {
        ProviderRef {
            id: self.id,
            name: self.advertisement.name.clone(),
            endpoints: self.advertisement.endpoints.clone(),
        }
    }

    /// Its label and the beginning of its id, safe to print.
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.advertisement.name, &self.id)
    }

    /// The terms that are accepted by renting now.
    #[must_use]
    pub const fn accepted(&self) -> AcceptedOffer {
        AcceptedOffer { sequence: self.advertisement.sequence, digest: self.digest }
    }

    /// What a VM from it is promised to be.
    #[must_use]
    pub fn agreed(&self, wish: &Wish) -> Agreed {
        Agreed { prices: self.advertisement.prices, offer: self.offer(wish).cloned() }
    }

    /// The price of a size, in micro-USD per month.
    #[must_use]
    pub fn price(&self, size: &VmResources) -> u64 {
        self.advertisement.prices.per_month(size)
    }

    /// The offer that a VM would come from: the first that suits.
    #[must_use]
    pub fn offer(&self, wish: &Wish) -> Option<&Offer> {
        self.advertisement.offers.iter().find(|offer| wish.suits(offer))
    }

    /// Whether a port checker vouches for its ports.
    #[must_use]
    pub fn ports_verified(&self) -> bool {
        self.vouched.is_verified()
    }
}

pub use changes::{Change, changes};
pub use ranking::{Reason, ranked};
pub use vouching::Vouched;

/// A provider's label and the beginning of its id, safe to print.
#[must_use]
pub fn label(name: &str, id: &KeyId) -> String {
    format!("{} ({})", printable(name, 64), id.short())
}

/// What a buyer should know besides the figures, in a few words each.
#[must_use]
pub fn remarks(advertisement: &Advertisement) -> Vec<String> {
    let mut remarks = Vec::new();
    if advertisement.offers.is_empty() {
        remarks.push("trusted requestors only".to_owned());
    } else if advertisement.offers.iter().any(|offer| !offer.contained) {
        remarks.push("uncontained".to_owned());
    }
    for (what, factor) in
        [("cpu", advertisement.overcommit.cpu), ("storage", advertisement.overcommit.storage)]
    {
        if factor > 1.0 {
            remarks.push(format!("{what} overcommitted x{}", trimmed(factor)));
        }
    }
    if let Some(longest) = advertisement.lease.and_then(|terms| terms.max_seconds) {
        remarks.push(format!("at most for {}", in_words(longest)));
    }
    remarks
}

fn trimmed(factor: f64) -> String {
    let text = format!("{factor:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The accelerator of a virtual machine whose processor is emulated in software.
pub const EMULATED: &str = "tcg";

/// Whether a VM from this offer is emulated, and so many times slower than its host.
#[must_use]
pub fn is_emulated(offer: &Offer) -> bool {
    offer.accel.as_deref() == Some(EMULATED)
}

/// What is offered, in a few words that are safe to print: `container`, `vm`, or `vm, emulated: slow`.
#[must_use]
pub fn kind(offer: &Offer) -> String {
    kind_of(offer.isolation, offer.accel.as_deref())
}

/// The same of a VM that is there.
#[must_use]
pub fn kind_of(isolation: Isolation, accel: Option<&str>) -> String {
    match accel {
        Some(EMULATED) => format!("{isolation}, emulated: slow"),
        _ => isolation.to_string(),
    }
}

/// The kinds of VM that are offered, each once, the default first.
#[must_use]
pub fn kinds(advertisement: &Advertisement) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for offer in &advertisement.offers {
        let kind = kind(offer);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() { "-".to_owned() } else { kinds.join("; ") }
}

/// When discovery last heard of the provider.
#[must_use]
pub fn last_seen(entry: &AdvertisementEntry) -> Option<Timestamp> {
    entry.last_seen.or(Some(entry.updated_at.0))
}

/// Which of the listed providers a person means by an id, the beginning of one, or a name.
#[must_use]
pub fn meant<'a>(listings: &'a [Listing], text: &str) -> Vec<&'a Listing> {
    if let Ok(id) = text.parse::<KeyId>() {
        return by(listings, |listing| listing.entry.provider_id == id.to_string());
    }
    if let Ok(prefix) = text.parse::<KeyPrefix>() {
        let found = by(listings, |listing| {
            listing.document.as_ref().is_some_and(|d| prefix.matches(&d.content.provider_id))
        });
        if !found.is_empty() {
            return found;
        }
    }
    by(listings, |listing| match &listing.document {
        Some(document) => document.content.name == text,
        None => {
            listing.entry.provider_id == text
                || listing.entry.provider_name.as_deref() == Some(text)
        }
    })
}

fn by(listings: &[Listing], wanted: impl Fn(&Listing) -> bool) -> Vec<&Listing> {
    listings.iter().filter(|listing| wanted(listing)).collect()
}

/// USD, for display; the integer prices are binding.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for display; the integer prices are binding")]
pub fn usd(micro: u64) -> f64 {
    micro as f64 / 1e6
}

/// An amount of USD for people: cents, and more digits where cents would hide it.
#[must_use]
pub fn dollars(usd: f64) -> String {
    if usd != 0.0 && usd < 0.1 { format!("${usd:.4}") } else { format!("${usd:.2}") }
}

/// What a size costs, as the original's `estimate` says it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// USD per month, four decimals.
    pub usd_per_month: f64,
    /// USD per hour, six decimals; a month has 730 hours.
    pub usd_per_hour: f64,
}

impl Estimate {
    /// From a price per month in USD.
    #[must_use]
    pub fn of(usd_per_month: f64) -> Self {
        Self {
            usd_per_month: rounded(usd_per_month, 1e4),
            usd_per_hour: rounded(usd_per_month / HOURS_PER_MONTH, 1e6),
        }
    }
}

fn rounded(value: f64, scale: f64) -> f64 {
    (value * scale).round() / scale
}

/// What an unsigned provider's flat price fields come to, if it gave any.
#[must_use]
pub fn flat_price(entry: &AdvertisementEntry, size: &VmResources) -> Option<f64> {
    let pricing: Pricing = serde_json::from_value(entry.pricing.clone()?).ok()?;
    let sum = pricing.usd_per_core_month * f64::from(size.cpu)
        + pricing.usd_per_gb_ram_month * f64::from(size.memory)
        + pricing.usd_per_gb_storage_month * f64::from(size.storage);
    (sum.is_finite() && sum >= 0.0).then_some(sum)
}

#[cfg(test)]
mod tests;
