//! Tells discovery what is offered, for as long as it is.
//!
//! ```text
//!  changes, interval ──▶ Advertiser ── terms(snapshot) ──▶ document (sequence kept, then sealed)
//!                                                             │ the newest only
//!                                        one task per server ◀┴▶ one task per server
//!                                        (retries, withdraws)     (retries, withdraws)
//! ```
//!
//! What is sent is remembered first, so that a requestor who accepted it can hold the provider to it.

mod advertiser;
mod discovery;
mod log;
mod publishing;
mod status;
mod terms;

#[cfg(test)]
mod tests;

pub use advertiser::{AdvertSource, Advertiser, AdvertiserParts, Pace};
pub use discovery::{Discovery, DiscoveryError, HttpDiscovery, Taken};
pub use log::AdvertisementLog;
pub use status::{AdvertiserStatus, DiscoveryStatus, Listing, Offering};
pub use terms::{
    AdvertisedTerms, BackendOffer, NothingToOffer, RentableImage, Snapshot, TermsSettings, offer,
    terms,
};
