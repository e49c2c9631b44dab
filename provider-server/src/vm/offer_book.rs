//! Whether the terms of today are as good as those that a requestor accepted.

use async_trait::async_trait;
use golem_vm_protocol::advertisement::Advertisement;
use golem_vm_protocol::vm::AcceptedOffer;

use super::VmError;
use super::record::Terms;
use crate::backend::{Capabilities, Containment};

/// Remembers what was advertised.
#[async_trait]
pub trait OfferBook: Send + Sync + 'static {
    /// The advertisement of that sequence and digest, if it was made here.
    async fn advertised(&self, offer: &AcceptedOffer) -> Result<Option<Advertisement>, VmError>;
}

/// What of `terms` is worse than in `accepted`, in words; `None` when nothing is.
///
/// `found` is what its backend can do today. A provider that serves only those it trusts advertises no offers, only
/// its prices.
#[must_use]
pub fn worse_than_accepted(
    accepted: &Advertisement,
    terms: &Terms,
    overcommit_cpu: f64,
    found: &Capabilities,
) -> Option<String> {
    if terms.prices.any_higher_than(&accepted.prices) {
        return Some("the prices are higher now".to_owned());
    }
    if accepted.offers.is_empty() {
        return None;
    }
    if overcommit_cpu > accepted.overcommit.cpu {
        return Some("the CPUs are overcommitted more than before".to_owned());
    }
    let backend = terms.backend.as_str();
    let Some(offer) =
        accepted.offers.iter().find(|o| o.backend == backend && o.isolation == terms.isolation)
    else {
        return Some(format!("it promised no {} VMs", terms.isolation));
    };
    let contained = found.containment == Containment::Contained;
    if offer.contained && !contained {
        return Some("guests are no longer contained".to_owned());
    }
    if let Some(limit) = offer.enforced.iter().find(|limit| !found.enforced.contains(limit)) {
        return Some(format!("the limit on {limit} is no longer enforced"));
    }
    if offer.accel.as_deref() != terms.accel.as_deref() && found.is_emulated() {
        return Some("the VMs are emulated now".to_owned());
    }
    let image = offer.images.iter().find(|image| image.name == terms.image);
    match image {
        Some(image) if image.digest != terms.image_digest.as_str() => {
            Some(format!("the image {} was replaced", terms.image))
        }
        _ => None,
    }
}
