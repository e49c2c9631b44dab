#![allow(clippy::unwrap_used)]
use super::*;
use crate::KeyPair;

fn key() -> KeyPair {
    KeyPair::from_secret_bytes([5; 32]).unwrap()
}

fn sample() -> Advertisement {
    Advertisement {
        lease: None,
        provider_id: key().id(),
        sequence: 7,
        issued_at: Timestamp::from_unix_seconds(1_000_000),
        expires_at: Timestamp::from_unix_seconds(1_000_300),
        name: "attic".into(),
        country: "SE".into(),
        platform: "x86_64".into(),
        resources: VmResources { cpu: 2, memory: 4, storage: 40 },
        endpoints: vec![Endpoint::Direct {
            api: "192.0.2.1:7466".into(),
            ssh_host: "192.0.2.1".into(),
        }],
        offers: vec![Offer {
            backend: "docker".into(),
            isolation: Isolation::Container,
            accel: None,
            images: vec![OfferedImage { name: "debian-12".into(), digest: "sha256:00".into() }],
            egress: "internet".into(),
            enforced: vec!["cpu".into(), "memory".into()],
            contained: false,
        }],
        prices: Prices {
            core_month: 5_000_000,
            gb_ram_month: 2_000_000,
            gb_storage_month: 100_000,
        },
        overcommit: Overcommit::default(),
        port_check: None,
        attestations: Vec::new(),
    }
}

fn check(advertisement: &Advertisement, now: u64) -> Result<(), AdvertisementError> {
    let verified = Envelope::seal(advertisement, &key()).unwrap().open::<Advertisement>().unwrap();
    Advertisement::check(&verified, Timestamp::from_unix_seconds(now))
}

#[test]
fn a_good_one_is_believed_while_it_lasts() {
    assert_eq!(check(&sample(), 1_000_000), Ok(()));
    assert_eq!(check(&sample(), 999_900), Ok(()));
    assert!(matches!(check(&sample(), 1_000_300), Err(AdvertisementError::Expired(_))));
    assert!(matches!(check(&sample(), 999_000), Err(AdvertisementError::Times(..))));
}

#[test]
fn it_speaks_for_its_signer_only() {
    let other = KeyPair::from_secret_bytes([6; 32]).unwrap();
    let stolen = Advertisement { provider_id: other.id(), ..sample() };
    assert!(matches!(check(&stolen, 1_000_000), Err(AdvertisementError::NotItsOwn { .. })));
}

#[test]
fn fields_are_bounded() {
    type Change = fn(&mut Advertisement);
    let lease = LeaseTerms { default_seconds: 1, max_seconds: None, grace_seconds: 0 };
    assert_eq!(check(&Advertisement { lease: Some(lease), ..sample() }, 1_000_000), Ok(()));
    let changes: [Change; 12] = [
        |a| a.lease = Some(LeaseTerms { default_seconds: 0, max_seconds: None, grace_seconds: 0 }),
        |a| {
            a.lease = Some(LeaseTerms {
                default_seconds: 1,
                max_seconds: Some(u64::MAX),
                grace_seconds: 0,
            })
        },
        |a| {
            a.lease = Some(LeaseTerms {
                default_seconds: 1,
                max_seconds: None,
                grace_seconds: MAX_LEASE_SECONDS + 1,
            })
        },
        |a| a.name = "a\x1b[0m".into(),
        |a| a.name.clear(),
        |a| a.country = "se".into(),
        |a| a.sequence = 0,
        |a| a.overcommit.cpu = 0.5,
        |a| a.endpoints = vec![Endpoint::Direct { api: "host".into(), ssh_host: "h".into() }],
        |a| {
            a.endpoints =
                vec![Endpoint::Direct { api: "h:1".into(), ssh_host: "-oProxyCommand=x".into() }]
        },
        |a| a.offers[0].enforced = vec!["x".into(); 17],
        |a| a.offers = vec![a.offers[0].clone(); 9],
    ];
    for change in changes {
        let mut advertisement = sample();
        change(&mut advertisement);
        assert!(
            matches!(check(&advertisement, 1_000_000), Err(AdvertisementError::Field { .. })),
            "{advertisement:?}"
        );
    }
}

#[test]
fn what_is_unknown_is_ignored_but_survives() {
    let mut value = serde_json::to_value(sample()).unwrap();
    value["of_tomorrow"] = serde_json::json!({"a": 1});
    value["endpoints"]
        .as_array_mut()
        .unwrap()
        .insert(0, serde_json::json!({"kind": "relay", "via": "x"}));
    let read: Advertisement = serde_json::from_value(value).unwrap();
    assert_eq!(read.endpoints[0], Endpoint::Unknown);
    assert_eq!(read.direct_endpoint(), Some(("192.0.2.1:7466", "192.0.2.1")));
}

#[test]
fn prices_add_up_and_never_overflow() {
    assert_eq!(
        sample().prices.per_month(&VmResources { cpu: 1, memory: 1, storage: 10 }),
        8_000_000
    );
    let dear = Prices { core_month: u64::MAX, gb_ram_month: u64::MAX, gb_storage_month: 1 };
    assert_eq!(dear.per_month(&VmResources { cpu: 2, memory: 2, storage: 1 }), u64::MAX);
    assert!((Pricing::from(sample().prices).usd_per_gb_storage_month - 0.1).abs() < 1e-9);
}
