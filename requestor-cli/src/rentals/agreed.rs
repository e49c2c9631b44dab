//! What a provider promised for a VM, kept from before it was asked, and compared with what it
//! then says that it made.

use golem_vm_protocol::VmResources;
use golem_vm_protocol::advertisement::{Offer, OfferedImage, Prices};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{Vm, canonical_image};
use serde::{Deserialize, Serialize};

use crate::image::ImageWish;
use crate::market::EMULATED;

/// The terms of the advertisement that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// The prices.
    pub prices: Prices,
    /// The offer that the VM comes from; `None` of a provider that advertises none, because it
    /// serves only requestors it trusts.
    pub offer: Option<Offer>,
}

impl Agreed {
    /// What of a VM is not as agreed, each in a few words that are safe to print. What the provider
    /// does not say counts as not agreed: its silence would be the way around this.
    #[must_use]
    pub fn broken_by(&self, vm: &Vm, size: &VmResources, image: Option<&ImageWish>) -> Vec<String> {
        let mut broken = Vec::new();
        if vm.resources != *size {
            broken.push(format!("its size is {}, not {}", words(&vm.resources), words(size)));
        }
        match &vm.prices {
            Some(prices) if !prices.any_higher_than(&self.prices) => {}
            Some(prices) => broken.push(format!(
                "its price is ${:.2} per month, not ${:.2}",
                usd(prices.per_month(size)),
                usd(self.prices.per_month(size))
            )),
            None => broken.push("it names no price".to_owned()),
        }
        let Some(offer) = &self.offer else {
            broken.extend(image.and_then(|image| wrong_image(None, vm, Some(image))));
            return broken;
        };
        match vm.isolation {
            Some(isolation) if isolation == offer.isolation => {}
            Some(isolation) => {
                broken.push(format!("it is a {isolation}, not a {}", offer.isolation))
            }
            None => broken.push("it does not say whether it is a container or a vm".to_owned()),
        }
        broken.extend(other_processor(offer, vm));
        match &vm.egress {
            Some(egress) if *egress == offer.egress => {}
            Some(egress) => broken.push(format!(
                "its traffic may go to '{}', not to '{}'",
                printable(egress, 32),
                printable(&offer.egress, 32)
            )),
            None => broken.push("it does not say where its traffic may go".to_owned()),
        }
        broken.extend(wrong_image(Some(offer), vm, image));
        broken
    }
}

/// What is wrong with the processor of a VM that was to run on its host's.
fn other_processor(offer: &Offer, vm: &Vm) -> Option<String> {
    let offered = offer.accel.as_deref();
    match vm.accel.as_deref() {
        Some(EMULATED) if offered == Some(EMULATED) => None,
        Some(EMULATED) => Some("it is emulated, and so slow".to_owned()),
        None if offered.is_some_and(|offered| offered != EMULATED) => {
            Some("it does not say whether it is emulated".to_owned())
        }
        _ => None,
    }
}

/// What is wrong with the image that a VM was made from.
fn wrong_image(offer: Option<&Offer>, vm: &Vm, asked: Option<&ImageWish>) -> Option<String> {
    let (Some(name), Some(digest)) = (&vm.image, &vm.image_digest) else {
        return Some("it does not say what image it was made from".to_owned());
    };
    let is_not = |wanted: &str| {
        Some(format!("its image is {}, not {}", printable(name, 60), printable(wanted, 128)))
    };
    let expected = match asked {
        None => offer?.images.first(),
        Some(asked) => offer.and_then(|offer| asked.among(offer)),
    };
    match (expected, asked) {
        (Some(expected), _) if canonical_image(name) != canonical_image(&expected.name) => {
            is_not(&expected.name)
        }
        (Some(expected), _) => other_digest(expected, digest),
        (None, Some(asked)) if !asked.is(name, digest) => is_not(asked.as_str()),
        (None, _) => None,
    }
}

fn other_digest(expected: &OfferedImage, digest: &str) -> Option<String> {
    (expected.digest != digest).then(|| {
        format!(
            "its image {} is {}, not {}",
            printable(&expected.name, 60),
            printable(digest, 80),
            printable(&expected.digest, 80)
        )
    })
}

fn words(size: &VmResources) -> String {
    format!("{} vCPU, {} GB memory, {} GB disk", size.cpu, size.memory, size.storage)
}

#[expect(clippy::cast_precision_loss, reason = "for display; the integer prices are binding")]
fn usd(micro: u64) -> f64 {
    micro as f64 / 1e6
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    const SIZE: VmResources = VmResources { cpu: 1, memory: 1, storage: 10 };

    fn agreed() -> Agreed {
        serde_json::from_value(json!({
            "prices": {"core_month": 5_000_000, "gb_ram_month": 2_000_000, "gb_storage_month": 100_000},
            "offer": {"backend": "docker", "isolation": "vm", "egress": "internet", "enforced": [],
                "images": [{"name": "debian-12", "digest": "sha256:aa"},
                           {"name": "ubuntu-24.04", "digest": "sha256:bb"}]},
        }))
        .unwrap()
    }

    fn vm() -> Value {
        json!({
            "id": "vm_1", "name": "box", "status": "running",
            "resources": {"cpu": 1, "memory": 1, "storage": 10}, "ip_address": null,
            "ssh_port": 1, "created_at": "2026-11-21T10:00:00.000000",
            "updated_at": "2026-11-21T10:00:00.000000", "error_message": null,
            "image": "debian-12", "image_digest": "sha256:aa", "isolation": "vm",
            "egress": "internet",
            "prices": {"core_month": 5_000_000, "gb_ram_month": 2_000_000, "gb_storage_month": 100_000},
        })
    }

    #[track_caller]
    fn broken(vm: Value, image: Option<&str>) -> String {
        let vm = serde_json::from_value(vm).unwrap();
        agreed().broken_by(&vm, &SIZE, image.map(|text| text.parse().unwrap()).as_ref()).join("; ")
    }

    #[test]
    fn what_was_agreed_is_not_broken() {
        assert_eq!(broken(vm(), None), "");
        assert_eq!(broken(vm(), Some("debian-12")), "");
        let mut cheaper = vm();
        cheaper["prices"]["core_month"] = json!(1);
        assert_eq!(broken(cheaper, None), "");
        let mut ubuntu = vm();
        ubuntu["image"] = json!("ubuntu-24.04");
        ubuntu["image_digest"] = json!("sha256:bb");
        assert_eq!(broken(ubuntu, Some("noble")), "", "another name of it");
    }

    #[test]
    fn every_term_that_differs_is_named_and_silence_is_no_way_around() {
        for (field, value, words) in [
            (
                "prices",
                json!({"core_month": 9_000_000, "gb_ram_month": 2_000_000,
                "gb_storage_month": 100_000}),
                "its price is $12.00 per month, not $8.00",
            ),
            ("prices", Value::Null, "it names no price"),
            ("isolation", json!("container"), "it is a container, not a vm"),
            ("isolation", Value::Null, "whether it is a container or a vm"),
            ("egress", json!("none"), "to 'none', not to 'internet'"),
            ("egress", Value::Null, "where its traffic may go"),
            ("image", json!("ubuntu-24.04"), "its image is ubuntu-24.04, not debian-12"),
            ("image", Value::Null, "what image it was made from"),
            ("image_digest", json!("sha256:ee\u{1b}"), "is sha256:ee"),
            ("image_digest", Value::Null, "what image it was made from"),
            ("resources", json!({"cpu": 1, "memory": 1, "storage": 5}), "5 GB disk, not 1 vCPU"),
        ] {
            let mut other = vm();
            other[field] = value.clone();
            let said = broken(other, None);
            assert!(said.contains(words) && !said.contains('\x1b'), "{field} {value}: {said}");
        }
        assert!(broken(vm(), Some("ubuntu-24.04")).contains("not ubuntu-24.04"));
        let mut evil = vm();
        evil["image"] = json!("evil");
        assert!(broken(evil, Some("noble")).contains("its image is evil, not ubuntu-24.04"));
    }

    #[test]
    fn without_an_offer_size_and_price_are_what_was_agreed() {
        let mut agreed = agreed();
        agreed.offer = None;
        let mut other = vm();
        other["isolation"] = json!("container");
        let other: Vm = serde_json::from_value(other).unwrap();
        assert_eq!(agreed.broken_by(&other, &SIZE, None), Vec::<String>::new());
    }
}
