//! The network between the provider's host and everybody else is cut, and comes back.

use golem_vm_end_to_end::{Market, Namespace, Place, PrivateEngine, ProviderOptions, eventually};

const HOST: &str = "192.168.78.1";
const OUTSIDE: &str = "192.168.78.2";

#[test]
fn sessions_outlive_a_short_cut_and_after_a_long_one_it_is_listed_again() {
    let Some(engine) = PrivateEngine::start() else { return };
    let host = Namespace::of_process(engine.holder());
    let outside = Namespace::new();
    host.run(&format!(
        "ip link add wan0 type veth peer name up0 netns {}; \
         ip addr add {HOST}/24 dev wan0; ip link set wan0 up",
        outside.pid()
    ));
    outside.run(&format!("ip addr add {OUTSIDE}/24 dev up0; ip link set up0 up"));
    let options = ProviderOptions::roomy()
        .with("GOLEM_PROVIDER_HOST", "0.0.0.0")
        .with("GOLEM_PROVIDER_PUBLIC_IP", HOST)
        .with("GOLEM_PROVIDER_ADVERTISEMENT_INTERVAL", "10");
    let home = tempfile::tempdir().unwrap();
    let place = Place::new(home.path()).in_namespace_of(outside.pid());
    let mut market = Market::across(&engine, &place, OUTSIDE, &options);
    let requestor = market.requestor();
    requestor.rent("box");
    let mut session = requestor.session("box", &[]);
    session.echoes("before");
    let is_listed = |market: &Market| {
        let listed = requestor.golem(&["vm", "providers", "--json", "--cpu", "1"]);
        listed.stdout.contains(market.providers[0].id())
    };

    host.run("ip link set wan0 down");
    assert_eq!(requestor.vm("box")["stale"], true, "nothing was cut");
    host.run("ip link set wan0 up");
    session.echoes("after a short cut");

    host.run("ip link set wan0 down");
    assert_eq!(requestor.vm("box")["stale"], true);
    eventually("the provider notices", || {
        market.providers[0].run(&["status"]).done().stdout.contains("can't reach")
    });
    host.run("ip link set wan0 up");
    eventually("it advertises again", || {
        !market.providers[0].run(&["status"]).done().stdout.contains("can't reach")
    });
    assert!(is_listed(&market));
    let vm = requestor.vm("box");
    assert_eq!((&vm["status"], &vm["stale"]), (&"running".into(), &false.into()));
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    requestor.golem(&["vm", "stop", "box"]).done();
    requestor.golem(&["vm", "start", "box"]).done();
    drop(session);
    market.provider().run(&["doctor"]).done();
    market.close();
    drop(engine);
}
