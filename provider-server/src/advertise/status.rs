//! How advertising goes, for `golem-provider status`.

use golem_vm_protocol::VmResources;
use golem_vm_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What is offered now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Offering {
    /// Not known yet: the first look is not over.
    Unknown,
    /// This.
    Offered {
        /// The document's sequence.
        sequence: u64,
        /// When it was made.
        issued_at: Timestamp,
        /// What is free.
        resources: VmResources,
        /// How many kinds of VMs are offered to everybody; none when only trusted requestors are served.
        offers: u32,
    },
    /// Nothing.
    Nothing {
        /// Why, and what to do about it.
        reason: String,
    },
}

/// Whether a discovery server lists this provider, as far as is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listing {
    /// Not known: it has not answered yet.
    Unknown,
    /// It took the last document.
    Listed,
    /// It does not list it.
    NotListed,
}

/// How it goes with one discovery server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// Its address, as set.
    pub url: String,
    /// Whether it lists this provider.
    pub listing: Listing,
    /// The sequence of the last document that it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When it took that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
    /// Why the last attempt failed; gone after one that succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many attempts in a row have failed.
    pub failures: u32,
}

impl DiscoveryStatus {
    pub(super) const fn new(url: String) -> Self {
        Self {
            url,
            listing: Listing::Unknown,
            sequence: None,
            published_at: None,
            error: None,
            failures: 0,
        }
    }
}

/// How advertising goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertiserStatus {
    /// What is offered.
    pub offering: Offering,
    /// What kept the last look from being finished, such as a database that fails; what was
    /// published before stays until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Each discovery server, as listed in the settings.
    pub discoveries: Vec<DiscoveryStatus>,
}
