//! What a provider publishes, and how discovery lists it.
//!
//! The advertisement is a signed document; discovery's flat fields are the original's, filled from
//! the document and from nowhere else. A reader that cares opens the document and ignores them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::document::{Document, Envelope, Verified};
use crate::identity::KeyId;
use crate::text::is_printable;
use crate::time::{NaiveUtc, Timestamp};
use crate::vm::{Isolation, LeaseTerms, MAX_LEASE_SECONDS, MIN_LEASE_SECONDS, VmResources};

/// How long, in seconds, an advertisement may promise to be good for.
pub const MAX_VALIDITY_SECONDS: u64 = 24 * 3600;
/// How far, in seconds, `issued_at` may lie in the future for clocks that differ.
pub const CLOCK_TOLERANCE_SECONDS: u64 = 120;
/// Longest name of a provider in characters.
pub const MAX_NAME_CHARS: usize = 64;
const MAX_ENDPOINTS: usize = 8;
const MAX_OFFERS: usize = 8;
const MAX_IMAGES: usize = 32;
const MAX_ATTESTATIONS: usize = 8;

/// What a provider offers: the content of the signed document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advertisement {
    /// Whose it is; has to be the key that signed it.
    pub provider_id: KeyId,
    /// Rises with each advertisement of that key; of two, the higher one counts.
    pub sequence: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// From when on it says nothing any more.
    pub expires_at: Timestamp,
    /// The provider's label. Two providers may claim the same one.
    pub name: String,
    /// ISO 3166-1 alpha-2 country code.
    pub country: String,
    /// The machine's architecture (`x86_64`, `aarch64`).
    pub platform: String,
    /// What is free now; one pool for all offers.
    pub resources: VmResources,
    /// How to reach the provider. Unknown kinds are ignored by readers.
    pub endpoints: Vec<Endpoint>,
    /// What can be rented. Empty when the provider serves only requestors it trusts.
    pub offers: Vec<Offer>,
    /// Prices per month, in micro-USD.
    pub prices: Prices,
    /// How much more is promised than the host has.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// What leases it gives; absent in advertisements of programs from before there were leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseTerms>,
    /// The provider's own word on what a port checker found; attestations are stronger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_check: Option<PortCheckClaim>,
    /// Signed documents of others about this provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<Envelope>,
}

impl Document for Advertisement {
    const TYPE: &'static str = "advertisement";
}

/// One way to reach a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Endpoint {
    /// Straight over TCP.
    Direct {
        /// `host:port` of the provider's API.
        api: String,
        /// The host on which the VMs' SSH ports answer.
        ssh_host: String,
    },
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// One kind of VM that can be rented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which backend makes it (`docker`, `qemu`, `multipass`).
    pub backend: String,
    /// How it is kept apart from its host.
    pub isolation: Isolation,
    /// The accelerator of a virtual machine (`kvm`, `tcg`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
    /// What it can boot from; the first one is the default.
    pub images: Vec<OfferedImage>,
    /// Where its traffic may go: `internet` or `none`.
    pub egress: String,
    /// Which limits are enforced (`cpu`, `memory`, `processes`, `storage`, `bandwidth`); what is
    /// not listed is promised but not enforced.
    pub enforced: Vec<String>,
    /// Whether guests are kept from the host and its network. `false`: the owner offers it anyway.
    #[serde(default)]
    pub contained: bool,
}

/// An image that can be rented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedImage {
    /// Its name (`debian-12`).
    pub name: String,
    /// Its digest (`sha256:…`), as the backend knows it.
    pub digest: String,
}

/// Prices per month in micro-USD (1 USD = 1 000 000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prices {
    /// Of one vCPU.
    pub core_month: u64,
    /// Of one GiB of memory.
    pub gb_ram_month: u64,
    /// Of one GiB of disk.
    pub gb_storage_month: u64,
}

impl Prices {
    /// What a VM of this size costs per month, in micro-USD. Saturates.
    #[must_use]
    pub fn per_month(&self, size: &VmResources) -> u64 {
        let part = |price: u64, count: u32| price.saturating_mul(u64::from(count));
        part(self.core_month, size.cpu)
            .saturating_add(part(self.gb_ram_month, size.memory))
            .saturating_add(part(self.gb_storage_month, size.storage))
    }

    /// Whether any of the prices is higher than in `other`.
    #[must_use]
    pub const fn any_higher_than(&self, other: &Self) -> bool {
        self.core_month > other.core_month
            || self.gb_ram_month > other.gb_ram_month
            || self.gb_storage_month > other.gb_storage_month
    }
}

/// How many times more than the host has is promised in all; 1 is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overcommit {
    /// Of vCPUs.
    pub cpu: f64,
    /// Of disk.
    pub storage: f64,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu: 1.0, storage: 1.0 }
    }
}

/// What the provider says a port checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCheckClaim {
    /// Which checker.
    pub checker: KeyId,
    /// When.
    pub checked_at: Timestamp,
    /// Whether the API's port was reachable.
    pub api: bool,
    /// How many access ports were reachable.
    pub vm_ports: u32,
}

/// Why an advertisement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertisementError {
    /// It is signed by another key than the one it speaks for.
    #[error("the advertisement speaks for {claimed} but is signed by {signer}")]
    NotItsOwn {
        /// The key it speaks for.
        claimed: KeyId,
        /// The key that signed it.
        signer: KeyId,
    },
    /// It is no longer good.
    #[error("the advertisement expired at {0}")]
    Expired(Timestamp),
    /// It was made in the future, or promises to be good for too long.
    #[error("the advertisement's times are not plausible: issued {0}, expires {1}")]
    Times(Timestamp, Timestamp),
    /// A field is out of bounds.
    #[error("the advertisement's field {field} is not valid: {reason}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Advertisement {
    /// The first endpoint of the kind `direct`: the API's `host:port` and the SSH host.
    #[must_use]
    pub fn direct_endpoint(&self) -> Option<(&str, &str)> {
        self.endpoints.iter().find_map(|endpoint| match endpoint {
            Endpoint::Direct { api, ssh_host } => Some((api.as_str(), ssh_host.as_str())),
            Endpoint::Unknown => None,
        })
    }

    /// Checks what a signature can't: that it speaks for its signer, at this moment, within bounds.
    ///
    /// # Errors
    /// See [`AdvertisementError`].
    pub fn check(verified: &Verified<Self>, now: Timestamp) -> Result<(), AdvertisementError> {
        let this = &verified.content;
        if this.provider_id != verified.signer {
            return Err(AdvertisementError::NotItsOwn {
                claimed: this.provider_id,
                signer: verified.signer,
            });
        }
        let tolerance = std::time::Duration::from_secs(CLOCK_TOLERANCE_SECONDS);
        let longest = std::time::Duration::from_secs(MAX_VALIDITY_SECONDS);
        if this.issued_at > now.plus(tolerance)
            || this.expires_at <= this.issued_at
            || this.expires_at > this.issued_at.plus(longest)
        {
            return Err(AdvertisementError::Times(this.issued_at, this.expires_at));
        }
        if this.expires_at <= now {
            return Err(AdvertisementError::Expired(this.expires_at));
        }
        this.check_fields()
    }

    fn check_fields(&self) -> Result<(), AdvertisementError> {
        let field = |field, good: bool, reason| {
            if good { Ok(()) } else { Err(AdvertisementError::Field { field, reason }) }
        };
        let printable = |text: &str, max| !text.is_empty() && is_printable(text, max);
        field("name", printable(&self.name, MAX_NAME_CHARS), "1 to 64 printable characters")?;
        field("country", is_country(&self.country), "two capital letters (ISO 3166-1 alpha-2)")?;
        field("platform", printable(&self.platform, 32), "1 to 32 printable characters")?;
        field("endpoints", self.endpoints.len() <= MAX_ENDPOINTS, "at most 8")?;
        field("offers", self.offers.len() <= MAX_OFFERS, "at most 8")?;
        field("attestations", self.attestations.len() <= MAX_ATTESTATIONS, "at most 8")?;
        field("sequence", (1..=9_007_199_254_740_991).contains(&self.sequence), "1 to 2^53 - 1")?;
        let sane = |factor: f64| (1.0..=1000.0).contains(&factor);
        field(
            "overcommit",
            sane(self.overcommit.cpu) && sane(self.overcommit.storage),
            "1 to 1000",
        )?;
        if let Some(lease) = self.lease {
            let mut given = [Some(lease.default_seconds), lease.max_seconds].into_iter().flatten();
            let good = given.all(|s| (MIN_LEASE_SECONDS..=MAX_LEASE_SECONDS).contains(&s))
                && lease.grace_seconds <= MAX_LEASE_SECONDS;
            field("lease", good, "leases are 1 second to ten years, grace 0 seconds to ten years")?;
        }
        for endpoint in &self.endpoints {
            if let Endpoint::Direct { api, ssh_host } = endpoint {
                let good = is_host_port(api) && is_host(ssh_host);
                field("endpoints", good, "api is 'host:port', ssh_host is a host name or address")?;
            }
        }
        for offer in &self.offers {
            field(
                "offers",
                printable(&offer.backend, 32),
                "backend is 1 to 32 printable characters",
            )?;
            field("offers", offer.images.len() <= MAX_IMAGES, "at most 32 images")?;
            let images =
                offer.images.iter().all(|i| printable(&i.name, 128) && printable(&i.digest, 128));
            field("offers", images, "image names and digests are 1 to 128 printable characters")?;
            let words = offer.enforced.iter().chain([&offer.egress]).chain(&offer.accel);
            let good =
                offer.enforced.len() <= 16 && words.into_iter().all(|word| printable(word, 32));
            field("offers", good, "words are 1 to 32 printable characters")?;
        }
        Ok(())
    }
}

/// Whether `text` is two capital letters.
#[must_use]
pub fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase())
}

/// Whether `text` is an IP address or could be a host name.
#[must_use]
pub fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && (text.parse::<std::net::IpAddr>().is_ok()
            || text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
                && !text.starts_with(['-', '.']))
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inside) => return inside.parse::<std::net::Ipv6Addr>().is_ok() && is_port(port),
        // Without brackets nobody can tell where an IPv6 address ends and the port begins.
        None if host.contains(':') => return false,
        None => host,
    };
    is_host(host) && is_port(port)
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// The original's price fields, in USD and GLM per month.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Pricing {
    /// USD per vCPU.
    #[serde(default)]
    pub usd_per_core_month: f64,
    /// USD per GiB of memory.
    #[serde(default)]
    pub usd_per_gb_ram_month: f64,
    /// USD per GiB of disk.
    #[serde(default)]
    pub usd_per_gb_storage_month: f64,
    /// GLM per vCPU.
    #[serde(default)]
    pub glm_per_core_month: f64,
    /// GLM per GiB of memory.
    #[serde(default)]
    pub glm_per_gb_ram_month: f64,
    /// GLM per GiB of disk.
    #[serde(default)]
    pub glm_per_gb_storage_month: f64,
}

impl From<Prices> for Pricing {
    fn from(prices: Prices) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "for display; the integer prices are binding"
        )]
        let usd = |micro: u64| micro as f64 / 1e6;
        Self {
            usd_per_core_month: usd(prices.core_month),
            usd_per_gb_ram_month: usd(prices.gb_ram_month),
            usd_per_gb_storage_month: usd(prices.gb_storage_month),
            ..Self::default()
        }
    }
}

/// `POST /api/v1/advertisements` of an unsigned provider (the original).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnsignedAdvertisement {
    /// The provider's address.
    pub ip_address: String,
    /// Two characters.
    pub country: String,
    /// What is free.
    pub resources: VmResources,
    /// What it costs.
    #[serde(default)]
    pub pricing: Option<serde_json::Value>,
    /// The machine's architecture.
    #[serde(default)]
    pub platform: Option<String>,
    /// The provider's label.
    #[serde(default)]
    pub provider_name: Option<String>,
}

/// An advertisement as discovery lists it: the original's flat fields in its order, then ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdvertisementEntry {
    /// The provider's key, or whatever an unsigned provider calls itself.
    pub provider_id: String,
    /// Where the provider is.
    pub ip_address: String,
    /// Its country.
    pub country: String,
    /// What is free.
    pub resources: VmResources,
    /// What it costs (an unsigned provider may write anything or nothing here).
    pub pricing: Option<serde_json::Value>,
    /// When it was first listed.
    pub created_at: NaiveUtc,
    /// When this version was published.
    pub updated_at: NaiveUtc,
    /// The provider's label.
    #[serde(default)]
    pub provider_name: Option<String>,
    /// The machine's architecture.
    #[serde(default)]
    pub platform: Option<String>,
    /// Whether the entry comes from a signed document.
    #[serde(default)]
    pub verified: bool,
    /// When the provider was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// When the entry leaves the list if it is not refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The signed document, as it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Envelope>,
}

/// `200` to a withdrawal, as the original says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Always `success`.
    pub status: String,
}

/// The header of a search's reply that leads to the next page; absent on the last one.
pub const NEXT_CURSOR_HEADER: &str = "golem-next-cursor";
/// The header in which discovery tells a provider the address it came from. (A port checker says
/// it in the body.)
pub const OBSERVED_ADDRESS_HEADER: &str = "golem-observed-address";

/// The query of `GET /api/v1/advertisements`. Minimums are inclusive.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AdvertisementQuery {
    /// At least so many vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// At least so many GiB of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// At least so many GiB of disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<u32>,
    /// Exactly this country.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Exactly this architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// With an offer of this isolation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// With an offer whose virtual machines run on this: `kvm` or `tcg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
    /// With an offer of this image, by `name` or `name@digest`. Of isolation, accelerator and image all that are asked for
    /// have to be in one offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// For at most so many USD per month, for the size asked for (1 vCPU, 1 GiB, 10 GiB where
    /// none is).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_usd_per_month: Option<f64>,
    /// At most so many entries in the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind the page that gave this cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl AdvertisementQuery {
    /// The size that a price is asked for.
    #[must_use]
    pub fn priced_size(&self) -> VmResources {
        VmResources {
            cpu: self.cpu.unwrap_or(1),
            memory: self.memory.unwrap_or(1),
            storage: self.storage.unwrap_or(crate::vm::MIN_STORAGE_GB),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct { api, .. } => f.write_str(api),
            Self::Unknown => f.write_str("(unknown kind)"),
        }
    }
}

#[cfg(test)]
mod tests;
