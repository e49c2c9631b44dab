#![allow(clippy::unwrap_used)]
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::attestation::{Attested, PortAttestation};
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::port_ranges::PortRanges;
use golem_vm_protocol::vm::LeaseTerms;
use serde_json::json;

use super::*;

pub(super) fn candidate(seed: u8, change: impl FnOnce(&mut Advertisement)) -> Candidate {
    let key = KeyPair::from_secret_bytes([seed; 32]).unwrap();
    let mut advertisement: Advertisement = serde_json::from_value(json!({
        "provider_id": key.id(), "sequence": 1,
        "issued_at": "2026-11-21T10:00:00Z", "expires_at": "2026-11-21T10:05:00Z",
        "name": format!("p{seed}"), "country": "SE", "platform": "x86_64",
        "resources": {"cpu": 4, "memory": 8, "storage": 40},
        "endpoints": [{"kind": "direct", "api": "127.0.0.1:7466", "ssh_host": "127.0.0.1"}],
        "offers": [{"backend": "docker", "isolation": "container",
                    "images": [{"name": "debian-12", "digest": "sha256:0"}],
                    "egress": "internet", "enforced": ["cpu"], "contained": true}],
        "prices": {"core_month": 5_000_000, "gb_ram_month": 2_000_000, "gb_storage_month": 100_000},
        "port_check": {"checker": key.id(), "checked_at": "2026-11-21T10:00:00Z",
                       "api": true, "vm_ports": 100},
    }))
    .unwrap();
    change(&mut advertisement);
    let envelope = Envelope::seal(&advertisement, &key).unwrap();
    let digest = envelope.open::<Advertisement>().unwrap().digest;
    Candidate {
        id: key.id(),
        advertisement,
        digest,
        last_seen: Some(Timestamp::from_unix_seconds(1)),
        vouched: Vouched { by: vec![word(key.id())], ..Vouched::default() },
    }
}

/// A port checker's word about a provider.
fn word(provider_id: KeyId) -> Attested {
    let at = Timestamp::from_unix_seconds(1);
    let attestation = PortAttestation {
        provider_id,
        host: "127.0.0.1".into(),
        ports: PortRanges::fitting([7466, 50_800]),
        observed_at: at,
        expires_at: at,
    };
    Attested { checker: provider_id, attestation }
}

fn size() -> VmResources {
    VmResources { cpu: 1, memory: 1, storage: 10 }
}

fn order(candidates: Vec<Candidate>) -> Vec<String> {
    ranked(candidates, &size(), &Wish::default())
        .into_iter()
        .map(|(c, _)| c.advertisement.name)
        .collect()
}

#[test]
fn the_best_comes_first() {
    // Its own word that its ports were verified is not enough.
    let mut unverified = candidate(1, |a| a.prices.core_month = 0);
    unverified.vouched = Vouched::default();
    let uncontained = candidate(2, |a| {
        a.offers[0].contained = false;
        a.prices.core_month = 1;
    });
    let dear = candidate(3, |a| a.prices.core_month = 9_000_000);
    let cheap = candidate(4, |_| {});
    let mut fresh = candidate(5, |_| {});
    fresh.last_seen = Some(Timestamp::from_unix_seconds(9));
    let all = vec![unverified, uncontained, dear, cheap, fresh];
    assert_eq!(order(all.clone()), ["p5", "p4", "p3", "p2", "p1"]);
    let reversed = all.into_iter().rev().collect();
    assert_eq!(order(reversed), ["p5", "p4", "p3", "p2", "p1"]);
}

/// A virtual machine of this accelerator, with the image `ubuntu-24.04`.
fn machine(accel: &str) -> Offer {
    serde_json::from_value(json!({
        "backend": "qemu", "isolation": "vm", "accel": accel, "egress": "internet", "enforced": [],
        "images": [{"name": "ubuntu-24.04", "digest": format!("sha256:{}", "a".repeat(64))}],
        "contained": true,
    }))
    .unwrap()
}

#[test]
fn a_processor_of_its_own_is_preferred_at_the_same_price_only() {
    let emulated = candidate(1, |a| a.offers = vec![machine("tcg")]);
    let real = candidate(2, |a| a.offers = vec![machine("kvm")]);
    assert_eq!(order(vec![emulated.clone(), real.clone()]), ["p2", "p1"]);
    assert_eq!(kinds(&emulated.advertisement), "vm, emulated: slow");
    assert_eq!(kinds(&real.advertisement), "vm");
    let cheap = candidate(1, |a| {
        a.offers = vec![machine("tcg")];
        a.prices.core_month = 1;
    });
    assert_eq!(order(vec![real, cheap]), ["p1", "p2"]);
}

#[test]
fn a_container_is_never_taken_for_a_vm() {
    let both = candidate(1, |a| a.offers.push(machine("tcg")));
    let wish = |isolation, image: Option<&str>| Wish {
        query: AdvertisementQuery { isolation, ..AdvertisementQuery::default() },
        image: image.map(|text| text.parse().unwrap()),
        ..Wish::default()
    };
    let offer = |wish: &Wish| both.offer(wish).unwrap().isolation;
    assert_eq!(offer(&wish(None, None)), Isolation::Container);
    assert_eq!(offer(&wish(Some(Isolation::Vm), None)), Isolation::Vm);
    assert_eq!(offer(&wish(None, Some("noble"))), Isolation::Vm);
    assert_eq!(kinds(&both.advertisement), "container; vm, emulated: slow");
    // Each has what the other one has not.
    let neither = wish(Some(Isolation::Container), Some("ubuntu-24.04"));
    assert!(both.offer(&neither).is_none());
    assert_eq!(
        neither.objection(&both.advertisement).unwrap(),
        "has no image ubuntu-24.04; it has debian-12 (with isolation 'container')"
    );
    let container = candidate(2, |_| {}).advertisement;
    let words = wish(Some(Isolation::Vm), None).objection(&container).unwrap();
    assert_eq!(words, "offers no VM with isolation 'vm'");
}

#[test]
fn an_image_is_wanted_with_its_digest() {
    let ad = candidate(1, |a| a.offers = vec![machine("kvm")]).advertisement;
    let objection = |image: &str| {
        Wish { image: Some(image.parse().unwrap()), ..Wish::default() }.objection(&ad)
    };
    let (has, other) = ("a".repeat(64), "b".repeat(64));
    assert_eq!(objection("ubuntu"), None);
    assert_eq!(objection(&format!("ubuntu-24.04@sha256:{has}")), None);
    assert_eq!(
        objection(&format!("ubuntu-24.04@sha256:{other}")).unwrap(),
        format!("has the image ubuntu-24.04 as sha256:{has}")
    );
    assert_eq!(objection("debian-12").unwrap(), "has no image debian-12; it has ubuntu-24.04");
    // Who serves only those it trusts says nothing about its images.
    let silent = candidate(1, |a| a.offers.clear()).advertisement;
    let wish = Wish { image: Some("debian-12".parse().unwrap()), ..Wish::default() };
    assert_eq!(wish.objection(&silent), None);
}

#[test]
fn a_wish_is_checked_against_the_signed_words() {
    let wish = |query: AdvertisementQuery| Wish { query, ..Wish::default() };
    let advertisement = candidate(1, |_| {}).advertisement;
    let objection = |query| wish(query).objection(&advertisement);
    assert_eq!(objection(AdvertisementQuery::default()), None);
    assert!(objection(AdvertisementQuery { cpu: Some(8), ..Default::default() }).is_some());
    assert!(
        objection(AdvertisementQuery { country: Some("DE".into()), ..Default::default() })
            .is_some()
    );
    assert!(
        objection(AdvertisementQuery { platform: Some("aarch64".into()), ..Default::default() })
            .is_some()
    );
    assert!(
        objection(AdvertisementQuery { isolation: Some(Isolation::Vm), ..Default::default() })
            .is_some()
    );
    // 1/1/10: 5 + 2 + 1 USD.
    assert!(
        objection(AdvertisementQuery { max_usd_per_month: Some(7.99), ..Default::default() })
            .is_some()
    );
    assert!(
        objection(AdvertisementQuery { max_usd_per_month: Some(8.0), ..Default::default() })
            .is_none()
    );
}

#[test]
fn a_lease_that_is_too_long_for_a_provider_is_told_with_the_longest() {
    let terms = |max_seconds| LeaseTerms { default_seconds: 7, max_seconds, grace_seconds: 0 };
    let without = candidate(1, |_| {}).advertisement;
    let days = candidate(2, |a| a.lease = Some(terms(Some(7 * 86_400)))).advertisement;
    let hours = candidate(3, |a| a.lease = Some(terms(Some(7_200)))).advertisement;
    let any = candidate(4, |a| a.lease = Some(terms(None))).advertisement;
    let wish = |duration_seconds| Wish {
        lease: Some(LeaseRequest { duration_seconds, ..LeaseRequest::default() }),
        ..Wish::default()
    };
    let long = wish(Some(8 * 86_400));
    assert!(long.objection(&without).unwrap().contains("gives no leases"));
    assert_eq!(long.objection(&days).unwrap(), "rents for at most 7 d 0 h, 8 d 0 h are wanted");
    assert_eq!(long.objection(&any), None);
    assert_eq!(wish(None).objection(&hours), None);
    assert_eq!(wish(Some(7_200)).objection(&hours), None);
    assert_eq!(long.longest_lease([&without, &hours, &days].into_iter()), Some(7 * 86_400));
    assert_eq!(wish(None).longest_lease([&days].into_iter()), None);
}

#[test]
fn estimates_are_the_originals() {
    let json = serde_json::to_string(&Estimate::of(8.0)).unwrap();
    assert_eq!(json, r#"{"usd_per_month":8.0,"usd_per_hour":0.010959}"#);
    assert_eq!(dollars(8.0), "$8.00");
    assert_eq!(dollars(0.0123), "$0.0123");
    assert_eq!(dollars(0.0), "$0.00");
}

#[test]
fn remarks_are_short() {
    let advertisement = candidate(1, |a| {
        a.offers[0].contained = false;
        a.overcommit.cpu = 4.0;
    })
    .advertisement;
    assert_eq!(remarks(&advertisement), ["uncontained", "cpu overcommitted x4"]);
    let day = LeaseTerms { default_seconds: 3600, max_seconds: Some(86_400), grace_seconds: 0 };
    let short = candidate(1, |a| a.lease = Some(day)).advertisement;
    assert_eq!(remarks(&short), ["at most for 1 d 0 h"]);
    let none = candidate(1, |a| a.offers.clear()).advertisement;
    assert_eq!(remarks(&none), ["trusted requestors only"]);
    assert_eq!(kinds(&none), "-");
}
