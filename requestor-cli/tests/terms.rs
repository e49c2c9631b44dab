//! A provider that does not keep to what it advertised: terms that changed, another VM than was
//! shown, another machine in the VM's place.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use golem_vm_protocol::vm::{Isolation, Vm};
use support::Home;
use support::discovery::Discovery;
use support::provider::{HOST_KEY, Provider};
use support::sshd::Sshd;

/// An honest provider, a cheaper one that will lie, and a person.
struct Market {
    sshd: Sshd,
    discovery: Discovery,
    honest: Provider,
    liar: Provider,
    home: Home,
}

impl Market {
    fn new() -> Self {
        let sshd = Sshd::start();
        let discovery = Discovery::new();
        let honest = Provider::with_sshd(1, &sshd);
        let liar = Provider::with_sshd(2, &sshd);
        liar.set(|state| state.core_month = 1_000_000);
        discovery.list(&honest);
        discovery.list(&liar);
        let home = Home::with(&discovery);
        Self { sshd, discovery, honest, liar, home }
    }
}

#[test]
fn a_vm_on_other_terms_is_given_back_and_its_provider_named() {
    type Lie = fn(&mut Vm);
    let lies: [(Lie, &str); 8] = [
        (
            |vm| vm.prices.as_mut().unwrap().core_month = 9_000_000,
            "its price is $12.00 per month, not $4.00",
        ),
        (|vm| vm.prices = None, "it names no price"),
        (|vm| vm.image_digest = Some("sha256:evil".into()), "is sha256:evil, not sha256:0123"),
        (|vm| vm.image = Some("other".into()), "its image is other, not debian-12"),
        (|vm| vm.isolation = Some(Isolation::Vm), "it is a vm, not a container"),
        (|vm| vm.isolation = None, "does not say whether"),
        (|vm| vm.egress = Some("none".into()), "its traffic may go to 'none', not to 'internet'"),
        (|vm| vm.resources.memory = 2, "its size is 1 vCPU, 2 GB memory"),
    ];
    let market = Market::new();
    for (number, (lie, words)) in lies.into_iter().enumerate() {
        market.liar.set(|state| state.lie = Some(lie));
        let name = format!("box-{number}");
        // Without a name the next one is taken.
        market.home.golem(&["vm", "create", &name]).exits(0).says(words).says("provider-2");
        assert_eq!(market.liar.vm_names(), Vec::<String>::new(), "given back");
        assert_eq!(market.honest.vm_names().last().unwrap(), &name);
        let ran = market.home.golem(&["vm", "create", "other", "--provider-id", "provider-2"]);
        ran.exits(6).says("another VM than it advertised").says(words).says("provider-2");
        assert_eq!(market.liar.vm_names(), Vec::<String>::new(), "given back");
    }
}

#[test]
fn terms_that_became_worse_are_shown_and_the_next_provider_is_taken() {
    let market = Market::new();
    market.liar.set(|state| {
        state.refuse_stale_offer = true;
        state.sequence = 2;
        state.core_month = 90_000_000;
        state.contained = false;
    });
    // Discovery shows the old advertisement in the list, and the new one when asked again.
    market.discovery.list_later(&market.liar);
    let ran = market.home.golem(&["vm", "create", "box"]).exits(0);
    for words in
        ["the terms have changed", "price per month: $4.00 → $93.00", "guests contained: yes → no"]
    {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    assert_eq!(market.honest.vm_names(), ["box"]);
    assert!(market.liar.vm_names().is_empty());
}

#[test]
fn worse_terms_of_the_provider_that_was_named_are_asked_about() {
    let market = Market::new();
    let worsen = |sequence| {
        market.liar.set(|state| {
            state.sequence = sequence - 1;
            state.core_month = 1_000_000;
        });
        market.discovery.list(&market.liar);
        market.liar.set(|state| {
            state.refuse_stale_offer = true;
            state.sequence = sequence;
            state.core_month = 2_000_000;
        });
        market.discovery.list_later(&market.liar);
    };
    let arguments = ["vm", "create", "box", "--provider-id", "provider-2"];
    // Nobody to ask: nothing is rented, and the next step is told.
    worsen(2);
    market
        .home
        .golem(&arguments)
        .exits(5)
        .says("price per month: $4.00 → $5.00")
        .says("the same command again accepts");
    assert!(market.liar.vm_names().is_empty());
    worsen(4);
    let ran = market.home.on_terminal(&arguments, "n\n").exits(5);
    assert!(ran.stdout.contains("Accept the new ones? [y/N]"), "{}", ran.stdout);
    assert!(market.liar.vm_names().is_empty());
    worsen(6);
    market.home.on_terminal(&arguments, "y\n").exits(0);
    assert_eq!(market.liar.vm_names(), ["box"]);
}

#[test]
fn better_terms_are_taken_without_asking() {
    let market = Market::new();
    market.liar.set(|state| {
        state.refuse_stale_offer = true;
        state.sequence = 2;
        state.core_month = 500_000;
    });
    market.discovery.list_later(&market.liar);
    market
        .home
        .golem(&["vm", "create", "box"])
        .exits(0)
        .says("price per month: $4.00 → $3.50")
        .says("going on");
    assert_eq!(market.liar.vm_names(), ["box"]);
}

#[test]
fn a_wrong_machine_behind_a_new_vms_port_means_the_next_provider() {
    let market = Market::new();
    market.liar.set(|state| state.host_key = Some(HOST_KEY.to_owned()));
    let ran = market.home.golem(&["vm", "create", "box"]).exits(0);
    assert!(ran.stderr.contains("is not that VM"), "{}", ran.stderr);
    assert_eq!(market.liar.vm_names(), Vec::<String>::new(), "given back");
    assert_eq!(market.honest.vm_names(), ["box"]);
    // Where there is no other one, nothing is left, and it is a matter of security.
    market.discovery.withdraw(&market.honest);
    let ran = market.home.golem(&["vm", "create", "other"]).exits(6).says("is not that VM");
    assert!(!ran.stderr.contains("golem vm destroy"), "{}", ran.stderr);
    assert_eq!(market.liar.vm_names(), Vec::<String>::new(), "given back");
}

#[test]
fn a_create_that_goes_on_never_destroys_what_was_there() {
    let mut market = Market::new();
    market.discovery.withdraw(&market.honest);
    market.liar.set(|state| state.slowness = 1_000);
    let mut child = market.home.command(&["vm", "create", "box"]).spawn().unwrap();
    while market.liar.vm_names().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    market.liar.set(|state| state.slowness = 0);
    // Another machine has taken over the port meanwhile.
    let right = market.sshd.host_key.clone();
    market.sshd.swap_host_key();
    market.home.golem(&["vm", "create", "box"]).exits(6).says("is not that VM");
    assert_eq!(market.liar.vm_names(), ["box"], "it is kept");
    // And the provider says that it is right so: the first key stays, and the VM too.
    assert_ne!(right, market.sshd.host_key);
    market.liar.swap_vms(&market.sshd.host_key);
    market
        .home
        .golem(&["vm", "create", "box"])
        .exits(6)
        .says("names another SSH host key for this VM");
    assert_eq!(market.liar.vm_names(), ["box"], "it is kept");
}

#[test]
fn a_provider_that_swaps_the_vm_is_refused_and_named() {
    let mut market = Market::new();
    market.home.golem(&["vm", "create", "box", "--provider-id", "provider-2"]).exits(0);
    let known_hosts = std::fs::read_to_string(market.home.base().join("known_hosts")).unwrap();
    market.sshd.swap_host_key();
    market.liar.swap_vms(&market.sshd.host_key);
    for command in
        [["vm", "info", "box"].as_slice(), &["vm", "list"], &["vm", "info", "box", "--json"]]
    {
        market
            .home
            .golem(command)
            .exits(0)
            .says("names another SSH host key for this VM")
            .says("provider-2");
    }
    for more in [&[][..], &["--builtin"][..]] {
        let ran = market.home.golem(&[&["vm", "ssh"], more, &["box", "--", "echo in"]].concat());
        assert_eq!(ran.exits(6).says("is not that VM").stdout, "");
    }
    let after = std::fs::read_to_string(market.home.base().join("known_hosts")).unwrap();
    assert_eq!(known_hosts, after, "the first key stays pinned");
}

#[test]
fn an_access_that_names_another_key_than_the_vm_is_no_access() {
    let market = Market::new();
    market.liar.set(|state| {
        state.access_lie = Some(|access| access.host_key = Some(HOST_KEY.parse().unwrap()));
    });
    market.home.golem(&["vm", "create", "box"]).exits(0).says("two different host keys");
    assert_eq!(market.liar.vm_names(), Vec::<String>::new());
    market.liar.set(|state| state.access_lie = Some(|access| access.host_key = None));
    market.home.golem(&["vm", "create", "other"]).exits(0).says("names no host key");
    assert_eq!(market.liar.vm_names(), Vec::<String>::new());
}
