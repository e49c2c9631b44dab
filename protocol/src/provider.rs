//! What a provider says about itself.

use serde::{Deserialize, Serialize};

use crate::advertisement::{Offer, Pricing};
use crate::vm::{LeaseTerms, VmResources, VmStatus};

/// The zero address, which the original reads as "payments are off".
pub const ZERO_ADDRESS: &str = "0x0000000000000000000000000000000000000000";

/// `GET /api/v1/provider/info`. The original's fields come first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderInfo {
    /// The provider's key.
    pub provider_id: String,
    /// Always [`ZERO_ADDRESS`].
    pub stream_payment_address: String,
    /// Always [`ZERO_ADDRESS`].
    pub glm_token_address: String,
    /// The provider's public address, where known.
    pub ip_address: String,
    /// Its country.
    pub country: String,
    /// The machine's architecture.
    pub platform: String,
    /// The provider's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version of the provider program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it serves only requestors it trusts.
    #[serde(default)]
    pub trusted_only: bool,
    /// What leases it gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseTerms>,
    /// What can be made now, the first one for those who ask for nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offers: Vec<Offer>,
}

/// How much there is, and how much of it is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceSummary {
    /// What is offered in all.
    pub total: VmResources,
    /// What is free.
    pub available: VmResources,
}

/// One VM in a [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryVm {
    /// The VM's id.
    pub id: String,
    /// Its state.
    pub status: VmStatus,
    /// Its access port.
    pub ssh_port: Option<u16>,
    /// Its size.
    pub resources: VmResources,
}

/// The environment in a [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryEnvironment {
    /// `production` or `development`.
    pub environment: String,
    /// The original's payment network.
    pub network: String,
}

/// `GET /api/v1/summary`: the original's overview for a GUI. Served to the owner only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// `running`.
    pub status: String,
    /// How much there is.
    pub resources: ResourceSummary,
    /// What it costs.
    pub pricing: Pricing,
    /// What is rented.
    pub vms: Vec<SummaryVm>,
    /// Where this runs.
    pub env: SummaryEnvironment,
}

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `healthy` (of a port checker: `ok`).
    pub status: String,
}
