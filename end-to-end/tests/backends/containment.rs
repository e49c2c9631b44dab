//! Whom guests on Multipass's bridge reach, tried from inside: the bridge has its real name, in a network namespace
//! in which the whole market runs.

use golem_vm_end_to_end::{
    Behaviour, Market, MultipassStandIn, Namespace, ProviderOptions, Requestor, eventually,
};

const BRIDGE: &str = "mpqemubr0";
const INTERNET: &str = "198.51.100.10";
const RESERVED: &str = "172.31.0.9";

/// Which of these `address:port` a guest reaches over TCP, all tried at once.
fn reached(requestor: &Requestor, vm: &str, targets: &[&str]) -> Vec<String> {
    let tries: String = targets
        .iter()
        .map(|target| {
            let (address, port) = target.split_once(':').unwrap();
            format!(
                "(timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{port} && read -t 2 -u 3 -n 1 x' 2>/dev/null && echo {target}) & "
            )
        })
        .collect();
    let said = requestor.in_vm(vm, &format!("{tries} wait"));
    let mut all: Vec<String> = said.lines().map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn guests_on_the_bridge_reach_the_internet_and_neither_host_nor_each_other() {
    if !super::ground::can_have_guests("guests on Multipass's bridge") {
        return;
    }
    let (host, outside) = (Namespace::new(), Namespace::new());
    host.run(&format!("ip link add wan0 type veth peer name up0 netns {}", outside.pid()));
    host.run(&format!(
        "ip addr add 203.0.113.2/24 dev wan0; ip link set wan0 up; ip route add default via 203.0.113.1
         sysctl -q -w net.ipv4.ip_forward=1; ip link add {BRIDGE} type bridge"
    ));
    outside.run(&format!(
        "ip addr add 203.0.113.1/24 dev up0; ip link set up0 up
         for one in {INTERNET} {RESERVED}; do ip addr add $one/32 dev lo; done
         ip route add 10.0.0.0/8 via 203.0.113.2"
    ));
    for port in [25, 80] {
        outside.serve(port, Behaviour::Greets);
    }
    host.serve(8080, Behaviour::Greets);
    let stand_in = MultipassStandIn::on_bridge(BRIDGE);
    let place = stand_in.place().in_namespace_of(host.pid());
    let options = ProviderOptions::default()
        .with("GOLEM_PROVIDER_BACKEND", "multipass")
        .with("GOLEM_PROVIDER_DEFAULT_IMAGE", "ubuntu-24.04")
        .with("GOLEM_PROVIDER_ALLOW_UNCONTAINED", "false");
    let mut market = Market::on_backend(&place, "ubuntu-24.04", &options);
    let requestor = market.requestor();
    for name in ["one", "two"] {
        requestor.golem(&["vm", "create", name]).done();
    }
    let address =
        |vm: &str| requestor.in_vm(vm, "hostname -I").split_whitespace().next().unwrap().to_owned();
    let neighbour = format!("{}:22", address("two"));
    let gateway = requestor
        .in_vm("one", "ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'")
        .trim()
        .to_owned();
    let (open, mail) = (format!("{INTERNET}:80"), format!("{INTERNET}:25"));
    let (reserved, own, wan) =
        (format!("{RESERVED}:80"), format!("{gateway}:8080"), "203.0.113.1:80");
    let all = [open.as_str(), &mail, &reserved, &own, wan, &neighbour, "203.0.113.2:8080"];
    assert_eq!(reached(&requestor, "one", &all), [open.as_str()]);

    // What others would reach without the table: that it is the table that stops them.
    let table = format!("golem-{}-{BRIDGE}", &market.provider().id()[..11]);
    host.run(&format!("nft list table inet {table}"));
    host.run(&format!("nft delete table inet {table}"));
    eventually("the table is back", || {
        host.try_run(&format!("nft list table inet {table}")).code == 0
    });
    assert_eq!(reached(&requestor, "one", &all), [open.as_str()]);

    // Cut off, and let back.
    let vm = requestor.vm("one")["vm_id"].as_str().unwrap().to_owned();
    market.provider().run(&["quarantine", &vm]).done();
    assert_ne!(requestor.golem(&["vm", "ssh", "one", "--", "true"]).code, 0);
    market.provider().run(&["quarantine", "--release", &vm]).done();
    eventually("it can be used again", || {
        requestor.golem(&["vm", "ssh", "one", "--", "true"]).code == 0
    });

    for name in ["one", "two"] {
        requestor.golem(&["vm", "destroy", name, "--yes"]).done();
    }
    market.close();
    assert_ne!(host.try_run(&format!("nft list table inet {table}")).code, 0, "its table is left");
    drop(stand_in);
}
