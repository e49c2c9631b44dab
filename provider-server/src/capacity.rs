//! Capacity is a ledger: what is offered, what is reserved, and what is therefore free.
//!
//! The amounts are integers, so that fractions of a vCPU add up exactly. What is reserved is the
//! sum over the rows of VMs, read in the same transaction that admits a new one (see the store).

mod audit;

use golem_vm_protocol::VmResources;
use serde::{Deserialize, Serialize};

use crate::config::{Minimum, OfferSettings};
use crate::host::HostResources;

pub use audit::{Booked, Books};

/// MiB of memory that are left to the host unless the owner sets the offer.
const HOST_MEMORY_MIB: u64 = 1024;
/// MiB of disk that are left to the host unless the owner sets the offer.
const HOST_STORAGE_MIB: u64 = 10 * 1024;

/// An amount of everything that is rented out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amount {
    /// Thousandths of a vCPU.
    pub cpu_millis: u64,
    /// MiB of memory.
    pub memory_mib: u64,
    /// MiB of disk.
    pub storage_mib: u64,
}

impl Amount {
    /// What is left of this after `other` is taken away; nothing goes below zero.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            storage_mib: self.storage_mib.saturating_sub(other.storage_mib),
        }
    }

    /// Both together; saturates.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            storage_mib: self.storage_mib.saturating_add(other.storage_mib),
        }
    }

    /// For a person: `2.5 vCPUs, 4 GB of memory, 20 GB of disk`.
    #[must_use]
    pub fn words(self) -> String {
        format!(
            "{} vCPUs, {} GB of memory, {} GB of disk",
            cores(self.cpu_millis),
            gib(self.memory_mib),
            gib(self.storage_mib)
        )
    }

    /// What of `wanted` is more than there is in this, in words; `None` when it fits.
    #[must_use]
    pub fn shortfall(self, wanted: Self) -> Option<String> {
        let mut parts = Vec::new();
        if wanted.cpu_millis > self.cpu_millis {
            parts.push(format!(
                "{} vCPUs wanted, {} free",
                cores(wanted.cpu_millis),
                cores(self.cpu_millis)
            ));
        }
        if wanted.memory_mib > self.memory_mib {
            parts.push(format!(
                "{} GB of memory wanted, {} free",
                gib(wanted.memory_mib),
                gib(self.memory_mib)
            ));
        }
        if wanted.storage_mib > self.storage_mib {
            parts.push(format!(
                "{} GB of disk wanted, {} free",
                gib(wanted.storage_mib),
                gib(self.storage_mib)
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// In whole units, rounded down, as the wire wants it.
    #[must_use]
    pub fn whole(self) -> VmResources {
        let whole = |amount: u64, unit: u64| u32::try_from(amount / unit).unwrap_or(u32::MAX);
        VmResources {
            cpu: whole(self.cpu_millis, 1000),
            memory: whole(self.memory_mib, 1024),
            storage: whole(self.storage_mib, 1024),
        }
    }
}

impl From<VmResources> for Amount {
    fn from(resources: VmResources) -> Self {
        Self {
            cpu_millis: u64::from(resources.cpu) * 1000,
            memory_mib: u64::from(resources.memory) * 1024,
            storage_mib: u64::from(resources.storage) * 1024,
        }
    }
}

/// Thousandths of a vCPU in vCPUs, rounded down to a tenth.
pub(crate) fn cores(millis: u64) -> String {
    trimmed(millis, 1000)
}

/// MiB in GiB, rounded down to a tenth.
pub(crate) fn gib(mib: u64) -> String {
    trimmed(mib, 1024)
}

fn trimmed(amount: u64, unit: u64) -> String {
    if amount.is_multiple_of(unit) {
        (amount / unit).to_string()
    } else {
        // Rounded down, so that a shortage never looks like enough.
        let tenths = u128::from(amount) * 10 / u128::from(unit);
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

/// Why the owner's offer is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// More is offered than the host has.
    #[error(
        "{setting} offers {offered} {unit}, but this host has {available}{because}: offer less{remedy}"
    )]
    MoreThanTheHostHas {
        /// Which setting.
        setting: &'static str,
        /// How much it offers.
        offered: String,
        /// Of what.
        unit: &'static str,
        /// How much there is.
        available: String,
        /// What else went into that number.
        because: String,
        /// What else could be done.
        remedy: &'static str,
    },
}

/// What is offered in all: what the owner set, or what follows from the host.
///
/// # Errors
/// [`OfferError`] when more is offered than the host has times the overcommit factor.
pub fn offered(settings: &OfferSettings, host: &HostResources) -> Result<Amount, OfferError> {
    let cpu_limit = scaled(u64::from(host.cpus) * 1000, settings.overcommit_cpu);
    let storage_limit = scaled(host.disk_total_mib, settings.overcommit_storage);
    let over = |factor: f64| {
        if factor > 1.0 { format!(" × {factor} overcommitted") } else { String::new() }
    };

    let cpu_millis = settings.cpu_millis.unwrap_or(cpu_limit);
    if cpu_millis > cpu_limit {
        return Err(OfferError::MoreThanTheHostHas {
            setting: "GOLEM_PROVIDER_OFFER_CPU",
            offered: cores(cpu_millis),
            unit: "vCPUs",
            available: host.cpus.to_string(),
            because: over(settings.overcommit_cpu),
            remedy: ", or set GOLEM_PROVIDER_OVERCOMMIT_CPU",
        });
    }
    let memory_mib = settings
        .memory_mib
        .unwrap_or_else(|| host.memory_total_mib.saturating_sub(HOST_MEMORY_MIB));
    if memory_mib > host.memory_total_mib {
        return Err(OfferError::MoreThanTheHostHas {
            setting: "GOLEM_PROVIDER_OFFER_MEMORY_GB",
            offered: gib(memory_mib),
            unit: "GB of memory",
            available: gib(host.memory_total_mib),
            because: String::new(),
            remedy: " (memory is never overcommitted)",
        });
    }
    let free_disk = host.disk_free_mib.saturating_sub(HOST_STORAGE_MIB);
    let storage_mib =
        settings.storage_mib.unwrap_or_else(|| scaled(free_disk, settings.overcommit_storage));
    if storage_mib > storage_limit {
        return Err(OfferError::MoreThanTheHostHas {
            setting: "GOLEM_PROVIDER_OFFER_STORAGE_GB",
            offered: gib(storage_mib),
            unit: "GB of disk",
            available: gib(host.disk_total_mib),
            because: over(settings.overcommit_storage),
            remedy: ", or set GOLEM_PROVIDER_OVERCOMMIT_STORAGE",
        });
    }
    Ok(Amount { cpu_millis, memory_mib, storage_mib })
}

/// Whether so much is free that it is worth being advertised.
#[must_use]
pub fn worth_advertising(free: Amount, minimum: Minimum) -> bool {
    let whole = free.whole();
    whole.cpu >= minimum.cpu.max(1)
        && whole.memory >= minimum.memory_gb.max(1)
        && whole.storage >= minimum.storage_gb.max(1)
}

fn scaled(amount: u64, factor: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "amounts stay far below 2^52, factors are 1 to 64"
    )]
    let scaled = (amount as f64 * factor).floor() as u64;
    scaled
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOST: HostResources = HostResources {
        cpus: 4,
        memory_total_mib: 8 * 1024,
        memory_available_mib: 6 * 1024,
        disk_total_mib: 200 * 1024,
        disk_free_mib: 100 * 1024,
    };

    const UNSET: OfferSettings = OfferSettings {
        cpu_millis: None,
        memory_mib: None,
        storage_mib: None,
        overcommit_cpu: 1.0,
        overcommit_storage: 1.0,
    };

    #[test]
    fn unset_means_the_host_less_a_reserve() {
        let amount = offered(&UNSET, &HOST).unwrap();
        assert_eq!(amount.whole(), VmResources { cpu: 4, memory: 7, storage: 90 });
        let doubled = offered(&OfferSettings { overcommit_cpu: 4.0, ..UNSET }, &HOST).unwrap();
        assert_eq!(doubled.cpu_millis, 16_000);
    }

    #[test]
    fn more_than_the_host_has_needs_a_factor() {
        let five = OfferSettings { cpu_millis: Some(5000), ..UNSET };
        let message = offered(&five, &HOST).unwrap_err().to_string();
        assert!(message.contains("GOLEM_PROVIDER_OFFER_CPU offers 5 vCPUs"), "{message}");
        assert!(offered(&OfferSettings { overcommit_cpu: 2.0, ..five }, &HOST).is_ok());
        assert!(offered(&OfferSettings { memory_mib: Some(9 * 1024), ..UNSET }, &HOST).is_err());
        assert!(offered(&OfferSettings { storage_mib: Some(300 * 1024), ..UNSET }, &HOST).is_err());
    }

    #[test]
    fn a_shortfall_is_told_in_words_and_never_rounded_up() {
        let free = Amount { cpu_millis: 999, memory_mib: 1023, storage_mib: 20 * 1024 };
        let wanted = Amount::from(VmResources { cpu: 1, memory: 1, storage: 10 });
        let text = free.shortfall(wanted).unwrap();
        assert_eq!(text, "1 vCPUs wanted, 0.9 free; 1 GB of memory wanted, 0.9 free");
        assert_eq!(Amount::from(free.whole()).shortfall(Amount::default()), None);
    }

    #[test]
    fn the_minimum_decides_about_advertising() {
        let minimum = Minimum { cpu: 1, memory_gb: 1, storage_gb: 10 };
        assert!(worth_advertising(VmResources { cpu: 1, memory: 1, storage: 10 }.into(), minimum));
        assert!(!worth_advertising(VmResources { cpu: 1, memory: 1, storage: 9 }.into(), minimum));
    }
}
