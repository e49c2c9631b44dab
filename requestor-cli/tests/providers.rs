//! `golem vm providers`: what is shown, what is believed, what is left out.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use golem_vm_protocol::KeyPair;
use golem_vm_protocol::advertisement::AdvertisementEntry;
use serde_json::json;
use support::Home;
use support::discovery::Discovery;
use support::provider::{Provider, checker};

#[test]
fn without_a_discovery_server_the_next_command_is_named() {
    Home::new()
        .golem(&["vm", "providers"])
        .exits(2)
        .says("GOLEM_REQUESTOR_DISCOVERY_URL")
        .says("golem config set discovery-url http://HOST:9001");
}

#[test]
fn nobody_listens_at_discoverys_address() {
    let url = "http://127.0.0.1:1";
    Home::new()
        .golem(&["--discovery-url", url, "vm", "providers", "--json"])
        .exits(4)
        .says(&format!("discovery at {url} can't be reached"))
        .says("golem config get discovery-url");
}

#[test]
fn json_is_what_discovery_gave_with_an_estimate() {
    let (discovery, provider) = (Discovery::new(), Provider::new(1));
    discovery.list(&provider);
    let home = Home::with(&discovery);
    let plain = home.golem(&["vm", "providers", "--json"]).exits(0).json();
    let entry: AdvertisementEntry = serde_json::from_value(plain["providers"][0].clone()).unwrap();
    assert_eq!(entry.provider_id, provider.id().to_string());
    assert!(plain["providers"][0].get("estimate").is_none());

    let priced = home
        .golem(&["vm", "providers", "--cpu", "1", "--memory", "1", "--storage", "10", "--json"])
        .exits(0)
        .json();
    let estimate = json!({"usd_per_month": 8.0, "usd_per_hour": 0.010959});
    assert_eq!(priced["providers"][0]["estimate"], estimate);

    let none = home.golem(&["vm", "providers", "--cpu", "16", "--json"]).exits(0);
    assert_eq!(none.stdout, "{\"faults\":[],\"providers\":[]}\n");
}

#[test]
fn piped_it_is_plain_and_on_a_terminal_it_is_the_seeds() {
    let (discovery, one, two) = (Discovery::new(), Provider::new(1), Provider::new(2));
    two.set(|state| {
        state.contained = false;
        state.ports_verified = false;
        state.overcommit = 4.0;
        state.core_month = 1_000_000;
    });
    discovery.list(&one);
    discovery.list(&two);
    let home = Home::with(&discovery);
    let ran = home.golem(&["vm", "providers"]).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with("Provider ID   Name        Country  CPU  Memory  Storage"),
        "{}",
        lines[0]
    );
    assert!(lines[1].starts_with(&two.id().short()), "the cheaper first: {}", lines[1]);
    assert!(
        lines[1].contains("unverified") && lines[1].contains("uncontained, cpu overcommitted x4")
    );
    let verified = format!(" s ago by {}", checker().id().short());
    assert!(lines[2].contains("  verified "), "{}", lines[2]);
    assert!(lines[2].contains("$8.00") && lines[2].contains(&verified), "{}", lines[2]);
    assert!(!ran.stdout.contains(['🌍', '\x1b', '─']));
    assert_eq!(lines.len(), 3);

    let shown = home.on_terminal(&["vm", "providers"], "").exits(0).stdout;
    for part in ["🌍 Available Providers (2 total)", "🌍 SE", "💻 4", "🧠 8GB", "💾 40GB", "────"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.contains("\x1b[1m"), "headings stand out: {shown:?}");
    let golem = env!("CARGO_BIN_EXE_golem");
    for line in
        [format!("{golem} --color never vm providers"), format!("NO_COLOR=1 {golem} vm providers")]
    {
        let shown = home.in_terminal(&line, "").exits(0).stdout;
        assert!(shown.contains("🌍 SE") && !shown.contains("\x1b["), "{shown:?}");
    }
}

#[test]
fn filters_go_by_the_signed_words_and_not_by_discoverys() {
    let (discovery, provider) = (Discovery::new(), Provider::new(1));
    let mut entry = provider.entry();
    // Discovery claims more than the provider signed.
    entry["resources"]["cpu"] = json!(64);
    entry["country"] = json!("DE");
    discovery.list_value(entry);
    let home = Home::with(&discovery);
    let shown = |arguments: &[&str]| {
        let all = [&["vm", "providers", "--json"], arguments].concat();
        home.golem(&all).exits(0).json()["providers"].as_array().unwrap().len()
    };
    assert_eq!(shown(&["--cpu", "16"]), 0);
    assert_eq!(shown(&["--country", "DE"]), 0);
    assert_eq!(shown(&["--country", "se", "--cpu", "4"]), 1);
    assert_eq!(shown(&["--isolation", "vm"]), 0);
    assert_eq!(shown(&["--max-usd-per-month", "7.99"]), 0);
    assert_eq!(shown(&["--max-usd-per-month", "8"]), 1);
    home.golem(&["vm", "providers", "--country", "Sweden"]).exits(2).says("two letters");
}

#[test]
fn names_lose_their_terminal_escapes() {
    let discovery = Discovery::new();
    discovery.list_unsigned("\u{1b}[2Jgone\u{202e}");
    let home = Home::with(&discovery);
    let ran = home.golem(&["vm", "providers", "--unverified"]).exits(0);
    assert!(ran.stdout.contains("[2Jgone") && !ran.stdout.contains(['\x1b', '\u{202e}']));
    assert!(ran.stdout.contains("NOT SIGNED"), "{}", ran.stdout);
    let ran =
        home.golem(&["vm", "providers"]).exits(0).says("no provider matches").says("--unverified");
    assert_eq!(ran.stdout, "");
    home.golem(&[
        "vm",
        "create",
        "box",
        "--provider-id",
        "0x21995069BEb0FA8324d32Ba3783387B6F13261d6",
    ])
    .exits(5)
    .says("signs nothing");
}

#[test]
fn pages_are_followed_when_asked_for() {
    let discovery = Discovery::new();
    let providers: Vec<Provider> = (1..=5).map(Provider::new).collect();
    providers.iter().for_each(|provider| discovery.list(provider));
    discovery.page_size(2);
    let home = Home::with(&discovery);
    let count = |arguments: &[&str]| {
        let ran = home.golem(&[&["vm", "providers", "--json"], arguments].concat()).exits(0);
        (ran.json()["providers"].as_array().unwrap().len(), ran.stderr)
    };
    assert_eq!(count(&[]).0, 2);
    assert_eq!(count(&["--all-pages"]).0, 5);
    assert_eq!(count(&["--limit", "3"]).0, 3);
    home.golem(&["vm", "providers"]).exits(0).says("--all-pages shows them");
}

#[test]
fn who_verified_the_ports_is_shown_and_forged_words_are_named() {
    let (discovery, one, two) = (Discovery::new(), Provider::new(1), Provider::new(2));
    discovery.list(&one);
    // The second provider shows the first one's attestation.
    let mut borrowed = two.advertisement();
    borrowed.attestations = vec![one.attested_by(&checker())];
    discovery.list_value(two.entry_of(borrowed, &two.key));
    let home = Home::with(&discovery);
    let shown = home.golem(&["vm", "providers", "--json"]).exits(0);
    let list = shown.json()["providers"].clone();
    let ports = |provider: &Provider| {
        let id = json!(provider.id());
        list.as_array().unwrap().iter().find(|p| p["provider_id"] == id).unwrap()["ports"].clone()
    };
    assert_eq!(ports(&one)["verified"], json!(true));
    assert_eq!(ports(&one)["by"][0]["checker"], json!(checker().id()));
    assert_eq!(ports(&one)["by"][0]["counts"], json!(true));
    assert_eq!((&ports(&two)["verified"], &ports(&two)["by"]), (&json!(false), &json!([])));
    assert!(ports(&two)["ignored"][0].as_str().unwrap().contains("another provider"));
    let told = home.golem(&["vm", "providers"]).exits(0);
    assert!(told.stderr.contains("does not count") && told.stderr.contains(&two.id().short()));

    // Only these checkers' word counts.
    let other = KeyPair::from_secret_bytes([0xcd; 32]).unwrap().id().to_string();
    home.golem(&["config", "set", "trusted-checkers", &other]).exits(0);
    let shown = home.golem(&["vm", "providers", "--json"]).exits(0).json();
    assert!(
        shown["providers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["ports"]["verified"] == json!(false))
    );
}
