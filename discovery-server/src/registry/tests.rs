#![allow(clippy::unwrap_used)]

use golem_vm_node::clock::ManualClock;
use golem_vm_protocol::advertisement::{
    AdvertisementEntry, Endpoint, Offer, OfferedImage, Overcommit, Prices, UnsignedAdvertisement,
};
use golem_vm_protocol::vm::Isolation;
use golem_vm_protocol::{KeyPair, VmResources};

use super::*;
use crate::store::MemoryStore;

const NOW: u64 = 1_800_000_000;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

struct Market {
    clock: Arc<ManualClock>,
    store: MemoryStore,
    registry: Registry,
}

impl Market {
    async fn open() -> Self {
        Self::over(MemoryStore::default(), Arc::new(ManualClock::at(NOW))).await
    }

    async fn over(store: MemoryStore, clock: Arc<ManualClock>) -> Self {
        Self::with(store, clock, Bounds::default()).await
    }

    async fn with(store: MemoryStore, clock: Arc<ManualClock>, bounds: Bounds) -> Self {
        let endpoints = EndpointPolicy { checkers: vec![key(50).id()], unproven: false };
        let policy = Policy { expiry: Duration::from_secs(300), bounds, endpoints };
        let registry =
            Registry::open(Arc::new(store.clone()), clock.clone(), policy).await.unwrap();
        Self { clock, store, registry }
    }

    /// What `key` would advertise now.
    fn advertisement(&self, key: &KeyPair, sequence: u64) -> Advertisement {
        let now = self.registry.now();
        Advertisement {
            lease: None,
            provider_id: key.id(),
            sequence,
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(600)),
            name: "attic".into(),
            country: "SE".into(),
            platform: "x86_64".into(),
            resources: VmResources { cpu: 2, memory: 4, storage: 40 },
            endpoints: vec![Endpoint::Direct {
                api: "203.0.113.9:7466".into(),
                ssh_host: "203.0.113.9".into(),
            }],
            offers: vec![Offer {
                backend: "docker".into(),
                isolation: Isolation::Container,
                accel: None,
                images: Vec::new(),
                egress: "internet".into(),
                enforced: Vec::new(),
                contained: true,
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

    async fn publish(
        &self,
        key: &KeyPair,
        document: &Advertisement,
    ) -> Result<AdvertisementEntry, PublishError> {
        self.send(key, &Envelope::seal(document, key).unwrap()).await
    }

    async fn send(
        &self,
        key: &KeyPair,
        envelope: &Envelope,
    ) -> Result<AdvertisementEntry, PublishError> {
        let json = self.registry.publish(key.id(), envelope, PEER).await?;
        Ok(serde_json::from_slice(&json).unwrap())
    }

    fn list(&self, query: &[(&str, &str)]) -> Vec<AdvertisementEntry> {
        let page = self.registry.search(&Search::parse(query.iter().copied()).unwrap());
        let list: Vec<_> = serde_json::from_slice(&page.body).unwrap();
        assert_eq!(list.len(), page.count);
        list
    }

    fn ids(&self, query: &[(&str, &str)]) -> Vec<String> {
        self.list(query).into_iter().map(|entry| entry.provider_id).collect()
    }
}

fn key(seed: u8) -> KeyPair {
    KeyPair::from_secret_bytes([seed; 32]).unwrap()
}

#[tokio::test]
async fn the_flat_fields_come_from_the_document() {
    let market = Market::open().await;
    let document = market.advertisement(&key(1), 1);
    let envelope = Envelope::seal(&document, &key(1)).unwrap();
    let entry = market.send(&key(1), &envelope).await.unwrap();
    assert_eq!(entry.provider_id, key(1).id().to_string());
    assert_eq!((entry.ip_address.as_str(), entry.country.as_str()), ("203.0.113.9", "SE"));
    assert_eq!(entry.provider_name.as_deref(), Some("attic"));
    assert_eq!(entry.resources, document.resources);
    assert!(entry.verified);
    assert_eq!(entry.document, Some(envelope));
    // The shorter of five minutes from now and the document's own ten.
    assert_eq!(entry.expires_at, Some(market.registry.now().plus(Duration::from_secs(300))));
    assert_eq!(market.list(&[]), [entry]);
}

#[tokio::test]
async fn without_an_endpoint_the_senders_address_is_listed() {
    let market = Market::open().await;
    for (sequence, endpoints) in [(1, Vec::new()), (2, vec![Endpoint::Unknown])] {
        let document = Advertisement { endpoints, ..market.advertisement(&key(1), sequence) };
        assert_eq!(market.publish(&key(1), &document).await.unwrap().ip_address, "203.0.113.9");
    }
}

#[tokio::test]
async fn one_provider_can_not_touch_another() {
    let market = Market::open().await;
    let document = market.advertisement(&key(1), 1);
    let envelope = Envelope::seal(&document, &key(1)).unwrap();
    let error = market.send(&key(2), &envelope).await.unwrap_err();
    assert!(matches!(error, PublishError::NotTheSender { .. }), "{error}");
    // Signed by itself, but in another's name.
    let stolen = Envelope::seal(&document, &key(2)).unwrap();
    let error = market.send(&key(2), &stolen).await.unwrap_err();
    assert!(
        matches!(error, PublishError::Advertisement(AdvertisementError::NotItsOwn { .. })),
        "{error}"
    );
    let altered = Envelope { signature: "A".repeat(86), ..envelope };
    let error = market.send(&key(1), &altered).await.unwrap_err();
    assert!(matches!(error, PublishError::Document(DocumentError::Signature(_))), "{error}");
    assert!(market.registry.is_empty());
}

#[tokio::test]
async fn sequences_rise_for_ever() {
    let market = Market::open().await;
    let old = market.advertisement(&key(1), 7);
    let first = market.publish(&key(1), &old).await.unwrap();
    market.clock.advance(10);
    let again = market.publish(&key(1), &old).await.unwrap();
    assert_eq!((again.created_at, again.updated_at), (first.created_at, first.updated_at));
    assert!(again.last_seen > first.last_seen && again.expires_at > first.expires_at);

    let newer = market.publish(&key(1), &market.advertisement(&key(1), 8)).await.unwrap();
    assert!(newer.created_at == first.created_at && newer.updated_at > first.updated_at);
    let refused = |error| matches!(error, PublishError::NotNewer { sent: 7, known: 8 });
    assert!(refused(market.publish(&key(1), &old).await.unwrap_err()));

    // Withdrawn, it is gone; and what was said before stays said.
    let id = key(1).id().to_string();
    assert!(market.registry.withdraw(&id, None).await.unwrap());
    assert!(!market.registry.withdraw(&id, None).await.unwrap());
    assert_eq!(market.registry.get(&id), None);
    assert_eq!(market.ids(&[]), Vec::<String>::new());
    assert!(refused(market.publish(&key(1), &old).await.unwrap_err()));
    market.registry.sweep().await.unwrap();
    assert!(refused(market.publish(&key(1), &old).await.unwrap_err()));

    // After a restart as well.
    let market = Market::over(market.store, market.clock).await;
    assert!(refused(market.publish(&key(1), &old).await.unwrap_err()));
    market.publish(&key(1), &market.advertisement(&key(1), 9)).await.unwrap();
}

#[tokio::test]
async fn what_expired_is_not_listed_and_then_cleared_away() {
    let market = Market::open().await;
    market.publish(&key(1), &market.advertisement(&key(1), 1)).await.unwrap();
    let short = market.registry.now().plus(Duration::from_secs(60));
    let document = Advertisement { expires_at: short, ..market.advertisement(&key(2), 1) };
    market.publish(&key(2), &document).await.unwrap();
    assert_eq!(market.registry.next_expiry(), Some(short));

    market.clock.advance(59);
    assert_eq!(market.ids(&[]).len(), 2);
    market.clock.advance(1);
    assert_eq!(market.ids(&[]), [key(1).id().to_string()]);
    assert_eq!(market.registry.get(&key(2).id().to_string()), None);
    assert!(!market.registry.withdraw(&key(2).id().to_string(), None).await.unwrap());
    assert_eq!(market.registry.sweep().await.unwrap(), 1);
    assert_eq!(market.registry.len(), 1);

    market.clock.advance(240);
    assert_eq!(market.ids(&[]), Vec::<String>::new());
    market.registry.sweep().await.unwrap();
    assert_eq!((market.registry.len(), market.registry.next_expiry()), (0, None));
    // The sequence is remembered for as long as anything that the key signed can be good.
    market.clock.advance(24 * 3600 - 600);
    market.registry.sweep().await.unwrap();
    assert_eq!(market.store.changes_since(0, 10).await.unwrap().len(), 2);
    market.clock.advance(2 * 600);
    market.registry.sweep().await.unwrap();
    assert_eq!(market.store.changes_since(0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn filters_pass_what_they_should() {
    let market = Market::open().await;
    let big = Advertisement {
        resources: VmResources { cpu: 16, memory: 64, storage: 500 },
        country: "DE".into(),
        platform: "aarch64".into(),
        prices: Prices { core_month: 1_000_000, gb_ram_month: 1_000_000, gb_storage_month: 0 },
        offers: vec![Offer {
            isolation: Isolation::Vm,
            ..market.advertisement(&key(2), 1).offers[0].clone()
        }],
        ..market.advertisement(&key(2), 1)
    };
    market.publish(&key(1), &market.advertisement(&key(1), 1)).await.unwrap();
    market.publish(&key(2), &big).await.unwrap();
    let plain: UnsignedAdvertisement = serde_json::from_str(
        r#"{"ip_address":"203.0.113.9","country":"SE","resources":{"cpu":4,"memory":8,"storage":80}}"#,
    )
    .unwrap();
    let id = UnsignedId::parse("0xABC").unwrap();
    let plain = ValidUnsigned::check(plain).unwrap();
    market.registry.publish_unsigned(&id, &plain, PEER).await.unwrap();
    let (small, big, plain) =
        (key(1).id().to_string(), key(2).id().to_string(), "0xABC".to_owned());

    let expect = |query: &[(&str, &str)], expected: &[&String]| {
        let mut expected: Vec<String> = expected.iter().map(|id| (*id).clone()).collect();
        expected.sort();
        assert_eq!(market.ids(query), expected, "{query:?}");
    };
    expect(&[], &[&small, &big, &plain]);
    expect(&[("cpu", "3")], &[&big, &plain]);
    expect(&[("memory", "9")], &[&big]);
    expect(&[("storage", "40")], &[&small, &big, &plain]);
    expect(&[("storage", "501")], &[]);
    expect(&[("country", "SE")], &[&small, &plain]);
    expect(&[("country", "se")], &[]);
    expect(&[("platform", "aarch64")], &[&big]);
    expect(&[("isolation", "container")], &[&small]);
    expect(&[("isolation", "vm"), ("cpu", "16")], &[&big]);
    expect(&[("accel", "kvm")], &[]);
    expect(&[("image", "debian-12")], &[]);
    // 1 vCPU, 1 GiB, 10 GiB: 8 USD and 2 USD.
    expect(&[("max_usd_per_month", "8")], &[&small, &big]);
    expect(&[("max_usd_per_month", "7.99")], &[&big]);
    expect(&[("max_usd_per_month", "8"), ("cpu", "2")], &[&big]);
    expect(&[("max_usd_per_month", "1.99")], &[]);

    let entry = market.list(&[("country", "SE"), ("cpu", "4")]).remove(0);
    assert!(!entry.verified && entry.document.is_none());
    assert_eq!(entry.provider_name.as_deref(), Some("0xABC"));
}

#[tokio::test]
async fn what_is_asked_of_offers_has_to_be_in_one_offer() {
    let market = Market::open().await;
    let plain = market.advertisement(&key(1), 1);
    let offer = |isolation, accel: Option<&str>, images: &[(&str, &str)]| Offer {
        isolation,
        accel: accel.map(str::to_owned),
        images: images
            .iter()
            .map(|(name, digest)| OfferedImage {
                name: (*name).to_owned(),
                digest: (*digest).to_owned(),
            })
            .collect(),
        ..plain.offers[0].clone()
    };
    let offers = vec![
        offer(Isolation::Container, None, &[("debian-12", "sha256:01"), ("web", "sha256:02")]),
        offer(Isolation::Vm, Some("tcg"), &[("debian-12", "sha256:03")]),
    ];
    let both = Advertisement { offers, ..plain.clone() };
    let fast = Advertisement {
        provider_id: key(2).id(),
        offers: vec![offer(Isolation::Vm, Some("kvm"), &[("web", "sha256:02")])],
        ..plain.clone()
    };
    market.publish(&key(1), &both).await.unwrap();
    market.publish(&key(2), &fast).await.unwrap();
    let (both, fast) = (key(1).id().to_string(), key(2).id().to_string());
    let found = |query: &[(&str, &str)]| market.ids(query);
    assert_eq!(found(&[("isolation", "vm")]).len(), 2);
    assert_eq!(found(&[("isolation", "vm"), ("accel", "tcg")]), std::slice::from_ref(&both));
    assert_eq!(found(&[("accel", "kvm")]), std::slice::from_ref(&fast));
    assert!(found(&[("isolation", "container"), ("accel", "tcg")]).is_empty());
    assert_eq!(found(&[("image", "web")]).len(), 2);
    assert_eq!(found(&[("image", "web"), ("isolation", "vm")]), std::slice::from_ref(&fast));
    assert_eq!(found(&[("image", "debian-12@sha256:03")]), std::slice::from_ref(&both));
    let container = ("isolation", "container");
    assert!(found(&[("image", "debian-12@sha256:03"), container]).is_empty());
    assert_eq!(found(&[("image", "debian-12@sha256:01"), container]), [both]);
    assert!(found(&[("image", "debian-12@sha256:0")]).is_empty());
    assert!(found(&[("image", "web"), ("accel", "tcg")]).is_empty());
}

#[tokio::test]
async fn pages_cover_everything_once_whatever_changes_meanwhile() {
    let market = Market::open().await;
    for seed in 1..=7 {
        market.publish(&key(seed), &market.advertisement(&key(seed), 1)).await.unwrap();
    }
    let all = market.ids(&[]);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let search = Search { limit: 3, after, ..Search::default() };
        let page = market.registry.search(&search);
        let entries: Vec<AdvertisementEntry> = serde_json::from_slice(&page.body).unwrap();
        let ids: Vec<_> = entries.into_iter().map(|entry| entry.provider_id).collect();
        // The entry at which the page ended disappears: the next one goes on behind it.
        if let Some(last) = ids.last() {
            market.registry.withdraw(last, None).await.unwrap();
        }
        seen.extend(ids);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, all);
    // A page that ends exactly at the end leads nowhere.
    let page = market.registry.search(&Search { limit: 4, ..Search::default() });
    assert_eq!((page.count, page.next), (4, None));
}

#[tokio::test]
async fn what_another_process_writes_shows_up() {
    let here = Market::open().await;
    let there = Market::over(here.store.clone(), here.clock.clone()).await;
    here.publish(&key(1), &here.advertisement(&key(1), 1)).await.unwrap();
    assert!(there.registry.is_empty());
    there.registry.catch_up().await.unwrap();
    assert_eq!(there.ids(&[]), here.ids(&[]));
    there.registry.withdraw(&key(1).id().to_string(), None).await.unwrap();
    here.registry.catch_up().await.unwrap();
    assert!(here.registry.is_empty());
}

/// A market with little room, and one advertisement of `seed` from `address`.
async fn crowded(bounds: Bounds) -> Market {
    Market::with(MemoryStore::default(), Arc::new(ManualClock::at(NOW)), bounds).await
}

impl Market {
    async fn publish_from(
        &self,
        seed: u8,
        address: &str,
    ) -> Result<AdvertisementEntry, PublishError> {
        let api = format!("{address}:7466");
        let endpoints = vec![Endpoint::Direct { api, ssh_host: address.to_owned() }];
        let sequence = self.clock.now();
        let document = Advertisement { endpoints, ..self.advertisement(&key(seed), sequence) };
        let envelope = Envelope::seal(&document, &key(seed)).unwrap();
        let json =
            self.registry.publish(key(seed).id(), &envelope, address.parse().unwrap()).await?;
        Ok(serde_json::from_slice(&json).unwrap())
    }

    fn is_listed(&self, seed: u8) -> bool {
        self.registry.get(&key(seed).id().to_string()).is_some()
    }
}

#[tokio::test]
async fn an_address_has_no_more_than_its_places() {
    let market = crowded(Bounds { per_address: 2, total: 100 }).await;
    market.publish_from(1, "192.0.2.1").await.unwrap();
    market.publish_from(2, "192.0.2.1").await.unwrap();
    let refused = market.publish_from(3, "192.0.2.1").await.unwrap_err();
    assert!(matches!(refused, PublishError::AddressFull(2)), "{refused}");
    market.publish_from(3, "192.0.2.2").await.unwrap();
    // Those that are there go on, and a place that is given back can be taken.
    market.clock.advance(100);
    market.publish_from(1, "192.0.2.1").await.unwrap();
    market.registry.withdraw(&key(1).id().to_string(), None).await.unwrap();
    market.publish_from(4, "192.0.2.1").await.unwrap();
}

#[tokio::test]
async fn a_flood_of_identities_pushes_nobody_off_the_list_and_gives_way() {
    let market = crowded(Bounds { per_address: 2, total: 4 }).await;
    market.publish_from(1, "192.0.2.1").await.unwrap();
    market.clock.advance(1);
    // The flood, out of one network.
    for (seed, address) in [(11, "198.51.100.1"), (12, "198.51.101.1"), (13, "198.51.102.1")] {
        market.publish_from(seed, address).await.unwrap();
        market.clock.advance(1);
    }
    let refused = market.publish_from(14, "198.51.103.1").await.unwrap_err();
    assert!(matches!(refused, PublishError::Full), "{refused}");
    // Who is listed can refresh; a newcomer from elsewhere takes the place of the flood's youngest.
    market.publish_from(1, "192.0.2.1").await.unwrap();
    market.publish_from(2, "203.0.113.1").await.unwrap();
    assert!(market.is_listed(1) && market.is_listed(2));
    assert!(market.is_listed(11) && market.is_listed(12) && !market.is_listed(13));
    assert!(matches!(market.publish_from(13, "198.51.102.1").await, Err(PublishError::Full)));
    assert_eq!(market.registry.len(), 4);
}

#[tokio::test]
async fn an_endpoint_is_where_it_came_from_or_proven_by_an_accepted_checker() {
    use golem_vm_protocol::attestation::PortAttestation;
    use golem_vm_protocol::port_ranges::PortRanges;

    let market = Market::open().await;
    let mut sequence = 0;
    let mut publish = async |api: &str, ssh_host: &str, attestations: Vec<Envelope>| {
        sequence += 1;
        let endpoints = vec![Endpoint::Direct { api: api.into(), ssh_host: ssh_host.into() }];
        let document = market.advertisement(&key(1), sequence);
        let document = Advertisement { endpoints, attestations, ..document };
        market.publish(&key(1), &document).await
    };
    let now = market.registry.now();
    let good = PortAttestation {
        provider_id: key(1).id(),
        host: "vm.example".into(),
        ports: PortRanges::fitting([7466, 50800]),
        observed_at: now,
        expires_at: now.plus(Duration::from_secs(120)),
    };
    let by = |checker: u8, word: PortAttestation| Envelope::seal(&word, &key(checker)).unwrap();
    let refused = |result: Result<AdvertisementEntry, PublishError>| {
        assert!(matches!(result, Err(PublishError::Endpoint(_))), "{result:?}");
    };
    publish("203.0.113.9:7466", "203.0.113.9", Vec::new()).await.unwrap();
    refused(publish("198.51.100.1:7466", "203.0.113.9", Vec::new()).await);
    refused(publish("203.0.113.9:7466", "198.51.100.1", Vec::new()).await);
    refused(publish("vm.example:7466", "vm.example", Vec::new()).await);

    let entry = publish("vm.example:7466", "VM.example", vec![by(50, good.clone())]).await.unwrap();
    assert_eq!(entry.expires_at, Some(good.expires_at), "no longer than it is proven");
    let other = |change: fn(&mut PortAttestation)| {
        let mut word = good.clone();
        change(&mut word);
        vec![by(50, word)]
    };
    refused(publish("vm.example:7466", "vm.example", vec![by(51, good.clone())]).await);
    refused(publish("vm.example:7467", "vm.example", vec![by(50, good.clone())]).await);
    refused(publish("other.example:7466", "vm.example", vec![by(50, good.clone())]).await);
    let foreign = other(|word| word.provider_id = key(2).id());
    refused(publish("vm.example:7466", "vm.example", foreign).await);
    let expired = other(|word| word.expires_at = word.observed_at);
    refused(publish("vm.example:7466", "vm.example", expired).await);
    let forged = Envelope { signature: "A".repeat(86), ..by(50, good.clone()) };
    refused(publish("vm.example:7466", "vm.example", vec![forged]).await);
}

#[tokio::test]
async fn an_unsigned_provider_is_where_it_says_and_keeps_its_id() {
    let market = Market::open().await;
    let said = |ip: &str| {
        let json = serde_json::json!({
            "ip_address": ip, "country": "SE", "resources": {"cpu": 1, "memory": 1, "storage": 10},
        });
        ValidUnsigned::check(serde_json::from_value(json).unwrap()).unwrap()
    };
    let id = UnsignedId::parse("0xABC").unwrap();
    let other = IpAddr::from([198, 51, 100, 1]);
    let here = said("203.0.113.9");
    let error = market.registry.publish_unsigned(&id, &here, other).await.unwrap_err();
    assert!(matches!(error, PublishError::Endpoint(_)), "{error}");
    market.registry.publish_unsigned(&id, &here, PEER).await.unwrap();
    let theirs = said("198.51.100.1");
    let error = market.registry.publish_unsigned(&id, &theirs, other).await.unwrap_err();
    assert!(matches!(error, PublishError::InUse), "{error}");
    assert!(!market.registry.withdraw("0xABC", Some(other)).await.unwrap());
    assert!(market.registry.withdraw("0xABC", Some(PEER)).await.unwrap());
}
