//! A discovery server that lies: it is caught, named, and costs nobody anything but its own word.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use golem_vm_protocol::advertisement::Advertisement;
use golem_vm_protocol::document::{Document, Envelope};
use golem_vm_protocol::{KeyPair, advertisement::Endpoint};
use serde_json::{Value, json};
use support::Home;
use support::discovery::Discovery;
use support::provider::Provider;
use support::sshd::Sshd;

/// An honest provider, one that is lied about, and a person.
struct Market {
    discovery: Discovery,
    honest: Provider,
    victim: Provider,
    home: Home,
    _sshd: Sshd,
}

impl Market {
    fn new() -> Self {
        let sshd = Sshd::start();
        let discovery = Discovery::new();
        let honest = Provider::with_sshd(1, &sshd);
        let victim = Provider::with_sshd(2, &sshd);
        // Cheaper, so it would be chosen.
        victim.set(|state| {
            state.core_month = 1_000_000;
            state.sequence = 5;
        });
        discovery.list(&honest);
        let home = Home::with(&discovery);
        Self { discovery, honest, victim, home, _sshd: sshd }
    }

    /// Lists this about the victim, in place of what was listed.
    fn lie(&self, entry: Value) {
        self.discovery.withdraw(&self.victim);
        self.discovery.list_value(entry);
    }

    /// The list goes on with the honest one, and says who did what about whom.
    #[track_caller]
    fn caught(&self, code: &str, words: &[&str]) {
        let ran = self.home.golem(&["vm", "providers", "--json"]).exits(0);
        let shown = ran.json();
        let ids: Vec<_> = shown["providers"].as_array().unwrap().iter().collect();
        assert_eq!(ids.len(), 1, "{shown:#}");
        assert_eq!(ids[0]["provider_id"], self.honest.id().to_string());
        let fault = &shown["faults"][0];
        assert_eq!((&fault["fault"], &fault["left_out"]), (&json!(code), &json!(true)), "{fault}");
        assert_eq!(fault["provider_id"], self.victim.id().to_string());
        assert_eq!(ran.stderr.matches("warning:").count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(&self.discovery.url()), "{}", ran.stderr);
        assert!(ran.stderr.contains(&self.victim.id().short()), "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
        // By name nothing of it is used, whoever asks.
        let id = self.victim.id().to_string();
        for which in [id.as_str(), &id[..10]] {
            let ran = self.home.golem(&["vm", "create", "box", "--provider-id", which]).exits(6);
            let ran = ran.says("lists what can't be believed");
            for word in words {
                assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
            }
        }
        assert_eq!(self.victim.count(""), 0, "nobody asked it anything");
    }

    fn signed(&self, change: impl FnOnce(&mut Advertisement)) -> Value {
        let mut advertisement = self.victim.advertisement();
        change(&mut advertisement);
        self.victim.entry_of(advertisement, &KeyPair::from_secret_bytes([2; 32]).unwrap())
    }

    /// The victim's entry with other words under the same signature.
    fn altered(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut entry = self.victim.entry();
        let payload = entry["document"]["payload"].as_str().unwrap();
        let bytes = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
        let mut words: Value = serde_json::from_slice(&bytes).unwrap();
        change(&mut words);
        let bytes = serde_json::to_vec(&words).unwrap();
        entry["document"]["payload"] = json!(data_encoding::BASE64URL_NOPAD.encode(&bytes));
        entry
    }
}

#[test]
fn an_altered_price_is_caught_and_named() {
    let market = Market::new();
    market.lie(market.altered(|words| words["prices"]["core_month"] = json!(1)));
    market.caught("altered", &["altered", "signature does not fit"]);
}

#[test]
fn a_swapped_endpoint_is_caught_and_named() {
    let market = Market::new();
    for at in ["api", "ssh_host"] {
        market.lie(market.altered(|words| words["endpoints"][1][at] = json!("192.0.2.66:7466")));
        market.caught("altered", &["altered"]);
    }
    // The liar signs it itself: then it is an invention.
    let mut advertisement = market.victim.advertisement();
    for endpoint in &mut advertisement.endpoints {
        if let Endpoint::Direct { ssh_host, .. } = endpoint {
            *ssh_host = "192.0.2.66".into();
        }
    }
    let liar = KeyPair::from_secret_bytes([66; 32]).unwrap();
    market.lie(market.victim.entry_of(advertisement, &liar));
    market.caught("invented", &["invented", "another key", &liar.id().short()]);
}

#[test]
fn an_old_advertisement_is_caught_and_named() {
    let market = Market::new();
    let old = market.signed(|advertisement| advertisement.sequence = 4);
    market.discovery.list(&market.victim);
    // Seen once: the fifth.
    let shown = market.home.golem(&["vm", "providers", "--json"]).exits(0).json();
    assert_eq!(shown["providers"].as_array().unwrap().len(), 2);
    market.lie(old);
    market.caught("stale", &["an old one", "sequence 4", "5 was seen before"]);
    // Another server can't bring it back either.
    let other = Discovery::new();
    other.list_value(market.signed(|advertisement| advertisement.sequence = 3));
    let ran = market.home.golem(&["--discovery-url", &other.url(), "vm", "providers"]).exits(0);
    assert!(
        ran.stderr.contains(&other.url()) && ran.stderr.contains("sequence 3"),
        "{}",
        ran.stderr
    );
    // The next one is good again.
    market.discovery.withdraw(&market.victim);
    market.discovery.list_value(market.signed(|advertisement| advertisement.sequence = 6));
    market.home.golem(&["vm", "create", "box"]).exits(0);
    assert_eq!(market.victim.vm_names(), ["box"]);
}

#[test]
fn two_advertisements_of_one_sequence_are_the_providers_own_doing() {
    let market = Market::new();
    market.discovery.list(&market.victim);
    market.home.golem(&["vm", "providers"]).exits(0);
    market.lie(market.signed(|advertisement| advertisement.prices.core_month += 1));
    market.caught("forked", &["the provider's own doing", "sequence 5"]);
}

#[test]
fn an_invented_provider_is_caught_and_named() {
    let market = Market::new();
    let liar = KeyPair::from_secret_bytes([66; 32]).unwrap();
    market.lie(market.victim.entry_of(market.victim.advertisement(), &liar));
    market.caught("invented", &["invented", &liar.id().short()]);
    // Or its document is somebody else's, good as it is.
    let mut entry = market.victim.entry();
    entry["document"] = market.honest.entry()["document"].clone();
    market.lie(entry);
    market.caught("swapped", &["another provider's", &market.honest.id().short()]);
    // Or it has none.
    let mut entry = market.victim.entry();
    entry.as_object_mut().unwrap().remove("document");
    market.lie(entry);
    market.caught("unsigned", &["the signed document is missing"]);
}

#[test]
fn an_expired_advertisement_is_caught_and_named() {
    let market = Market::new();
    market.lie(market.signed(|advertisement| {
        advertisement.issued_at = support::provider::ago(Duration::from_secs(600));
        advertisement.expires_at = support::provider::ago(Duration::from_secs(300));
    }));
    market.caught("expired", &["expired at", "clock right"]);
}

#[test]
fn a_document_of_another_type_is_caught_and_named() {
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(transparent)]
    struct Attestation(Advertisement);
    impl Document for Attestation {
        const TYPE: &'static str = "attestation";
    }
    let market = Market::new();
    let key = KeyPair::from_secret_bytes([2; 32]).unwrap();
    let mut entry = market.victim.entry();
    entry["document"] =
        json!(Envelope::seal(&Attestation(market.victim.advertisement()), &key).unwrap());
    market.lie(entry);
    market.caught("altered", &["no advertisement at all"]);
}

#[test]
fn a_provider_that_is_listed_twice_counts_once_and_that_is_named() {
    let market = Market::new();
    market.discovery.list_value(market.signed(|advertisement| advertisement.sequence = 4));
    market.discovery.list_value(market.victim.entry());
    let ran = market.home.golem(&["vm", "providers", "--json"]).exits(0);
    let shown = ran.json();
    assert_eq!(shown["providers"].as_array().unwrap().len(), 2);
    assert_eq!(shown["faults"][0]["fault"], "twice");
    assert!(ran.stderr.contains("listed twice"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&market.victim.id().short()), "{}", ran.stderr);
}

#[test]
fn plain_fields_that_differ_are_named_and_the_signed_ones_shown() {
    let market = Market::new();
    let mut entry = market.victim.entry();
    entry["pricing"]["usd_per_core_month"] = json!(0.001);
    entry["ip_address"] = json!("192.0.2.66\u{1b}[2J");
    market.lie(entry);
    let ran = market.home.golem(&["vm", "providers", "--json"]).exits(0);
    let shown = ran.json();
    let victim = &shown["providers"][0];
    assert_eq!(victim["provider_id"], market.victim.id().to_string());
    assert_eq!(victim["pricing"]["usd_per_core_month"], 1.0);
    assert_eq!(victim["ip_address"], "127.0.0.1");
    assert_eq!(shown["faults"][0]["fault"], "flat_fields");
    assert_eq!(shown["faults"][0]["left_out"], false);
    for word in ["differ from what was signed", "pricing", "ip_address", &market.discovery.url()] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains('\x1b'));
    // The provider is honest, and is rented from, on its own terms.
    market.home.golem(&["vm", "create", "box"]).exits(0).says("$4.00 per month");
    assert_eq!(market.victim.vm_names(), ["box"]);
}

#[test]
fn a_create_never_goes_by_a_lie() {
    let market = Market::new();
    market.lie(market.altered(|words| words["prices"]["core_month"] = json!(1)));
    market.home.golem(&["vm", "create", "box"]).exits(0).says("altered");
    assert_eq!(market.honest.vm_names(), ["box"]);
    assert_eq!(market.victim.count(""), 0);
}

#[test]
fn many_lies_are_one_warning_with_the_first_few() {
    let market = Market::new();
    for seed in 10..20 {
        let provider = Provider::new(seed);
        let mut entry = provider.entry();
        entry["document"]["payload"] = json!("e30");
        market.discovery.list_value(entry);
    }
    market.discovery.list_value(json!({"provider_id": "\u{1b}]0;evil\u{7}"}));
    let ran = market.home.golem(&["vm", "providers"]).exits(0);
    assert_eq!(ran.stderr.matches("warning:").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("about 11 providers"), "{}", ran.stderr);
    assert!(ran.stderr.contains("and 6 more; --verbose shows them"), "{}", ran.stderr);
    let ran = market.home.golem(&["vm", "providers", "--verbose"]).exits(0);
    assert_eq!(ran.stderr.matches("altered").count(), 10, "{}", ran.stderr);
    assert!(!ran.stderr.contains('\x1b'));
}

#[test]
fn where_only_lies_are_listed_that_is_said() {
    let market = Market::new();
    market.discovery.withdraw(&market.honest);
    market.lie(market.altered(|words| words["prices"]["core_month"] = json!(1)));
    market.home.golem(&["vm", "create", "box"]).exits(6).says("can't be believed").says("altered");
}
