//! What a machine reaches. A namespace at the other end of its network card plays the guest; others play what is
//! around the host:
//!
//! ```text
//!  guest ── rules ── slirp4netns: host ──┬── lan:     192.168.77.2 (a neighbour), .53 (the host's resolver)
//!                                        └── outside: 203.0.113.1 (on the link), and behind it 198.51.100.10 (the
//!                                                     internet), 169.254.169.254 (metadata), 10.99.0.1, 100.64.0.9
//! ```

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use golem_vm_end_to_end::{Behaviour, Namespace, Surroundings, eventually, within};
use golem_vm_machine::network::host::networks;
use golem_vm_machine::network::{Access, Addressing};
use serde_json::json;

use crate::owner::{ID, Owner, Who, log};

pub(crate) const INTERNET: &str = Surroundings::INTERNET;
const HOST_PORT: u16 = Surroundings::HOST_PORT;
const ON_LINK: [&str; 3] = ["192.168.77.0/24", "203.0.113.0/24", "198.51.100.99/32"];

/// A host and what is around it.
pub(crate) struct Ground {
    pub(crate) host: Namespace,
    lan: Namespace,
    outside: Namespace,
    directory: tempfile::TempDir,
}

pub(crate) fn ground() -> Ground {
    let host = Namespace::new();
    let Surroundings { lan, outside } = Surroundings::of(&host);
    host.run(
        "ip addr add 198.51.100.99/32 dev lo
         # As systemd has it: every user may ping.
         echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range",
    );
    outside.resolve(INTERNET.parse().unwrap());
    Ground { host, lan, outside, directory: tempfile::tempdir().unwrap() }
}

impl Ground {
    fn owner(&self, who: Who) -> Owner {
        Owner::start(&self.host, who, self.directory.path())
    }

    /// Whether no process of a machine is left: neither slirp4netns nor what waited.
    fn nothing_is_left(&self) {
        let host = std::fs::read_link(format!("/proc/{}/ns/net", self.host.pid())).unwrap();
        let directory = self.directory.path().display().to_string();
        eventually("nothing is left", || {
            let left = processes().into_iter().filter(|pid| {
                let of = |what: &str| format!("/proc/{pid}/{what}");
                let line = std::fs::read_to_string(of("cmdline")).unwrap_or_default();
                let here = std::fs::read_link(of("ns/net")).is_ok_and(|net| net == host);
                (here && line.contains("slirp4netns")) || line.contains(&directory)
            });
            left.count() == 0
        });
    }
}

fn processes() -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A guest's end of its network card, in place of QEMU's: what it sends comes out of the machine's `vm0`.
struct Guest {
    inside: Namespace,
    machine: Namespace,
    addressing: Addressing,
}

impl Guest {
    fn of(machine: u32) -> Self {
        let (machine, inside) = (Namespace::of_process(machine), Namespace::new());
        let addressing = Addressing::of(&ID);
        let Addressing { mac, guest, gateway, prefix, .. } = &addressing;
        machine.run(&format!(
            "set -e; mac=$(cat /proc/self/net/dev > /dev/null; ip -o link show vm0 | sed 's/.*ether \\([^ ]*\\).*/\\1/')
             ip link delete vm0
             ip link add vm0 type veth peer name eth0 netns {}
             ip link set vm0 address $mac; ip address add {gateway}/{prefix} dev vm0
             ip neighbour replace {guest} lladdr {mac} nud permanent dev vm0
             ip link set vm0 up",
            inside.pid()
        ));
        let guest = Self { inside, machine, addressing };
        guest.is_itself();
        guest.inside.serve(22, Behaviour::Echoes);
        guest
    }

    fn is_itself(&self) {
        let Addressing { mac, guest, gateway, prefix, .. } = &self.addressing;
        self.inside.run(&format!(
            "ip link set eth0 down; ip address flush dev eth0; ip link set eth0 address {mac}
             ip address add {guest}/{prefix} dev eth0; ip link set eth0 up
             ip route replace default via {gateway}"
        ));
    }

    /// Which of these a guest reaches over TCP, all tried at once.
    fn reached(&self, targets: &[(&str, u16)]) -> Vec<String> {
        let tries: Vec<_> = targets
            .iter()
            .map(|(address, port)| {
                let (inside, address, port) =
                    (Namespace::of_process(self.inside.pid()), (*address).to_owned(), *port);
                std::thread::spawn(move || {
                    inside.reaches(&address, port).then(|| format!("{address}:{port}"))
                })
            })
            .collect();
        let mut reached: Vec<_> = tries.into_iter().filter_map(|one| one.join().unwrap()).collect();
        reached.sort();
        reached
    }

    /// Whether a resolver there answers over UDP.
    fn asks(&self, address: &str) -> bool {
        let line = format!(
            "timeout 2 bash -c 'exec 3<>/dev/udp/{address}/53 && echo x >&3 && read -u 3 -n 1 x' 2>/dev/null"
        );
        self.inside.try_run(&line).code == 0
    }
}

/// Whether SSH comes in: what is said there comes back.
fn comes_in(ground: &Ground, address: SocketAddr) -> bool {
    ground.host.inside(move || {
        let wait = Duration::from_secs(2);
        let Ok(mut stream) = TcpStream::connect_timeout(&address, wait) else { return false };
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.write_all(b"x").is_ok() && stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
    })
}

fn list(targets: &[(&str, u16)]) -> Vec<String> {
    let mut list: Vec<_> =
        targets.iter().map(|(address, port)| format!("{address}:{port}")).collect();
    list.sort();
    list
}

#[test]
fn root_s_machine_reaches_the_internet_and_nothing_of_its_host() {
    reaches_the_internet_and_nothing_of_its_host(Who::Root);
}

#[test]
fn a_user_s_machine_reaches_the_internet_and_nothing_of_its_host() {
    reaches_the_internet_and_nothing_of_its_host(Who::User(1_900_777_100));
}

fn reaches_the_internet_and_nothing_of_its_host(who: Who) {
    let ground = ground();
    let mut owner = ground.owner(who);
    let pid = owner.hold();
    let raise = json!({
        "do": "raise", "on_link": ON_LINK, "allowed": ["192.168.77.2:8443"],
    });
    let raised = owner.does(&raise).unwrap_or_else(|error| panic!("{error}"));
    let uplink: golem_vm_machine::network::Uplink =
        serde_json::from_value(raised["uplink"].clone()).unwrap();
    let guest = Guest::of(pid);
    let gateway = guest.addressing.gateway.to_string();
    let resolver = guest.addressing.resolver.to_string();

    let open = [(INTERNET, 80), (INTERNET, 53), (resolver.as_str(), 53), ("192.168.77.2", 8443)];
    let closed = [
        (INTERNET, 25),
        (INTERNET, 465),
        (INTERNET, 587),
        (gateway.as_str(), HOST_PORT),
        (gateway.as_str(), 22),
        ("198.18.0.2", HOST_PORT),
        ("198.18.0.3", HOST_PORT),
        ("198.18.0.100", 2222),
        ("192.168.77.1", HOST_PORT),
        ("203.0.113.2", HOST_PORT),
        ("198.51.100.99", HOST_PORT),
        ("192.168.77.2", 80),
        ("192.168.77.2", 53),
        ("192.168.77.53", 80),
        ("192.168.77.53", 53),
        ("203.0.113.1", 80),
        ("169.254.169.254", 80),
        ("10.99.0.1", 80),
        ("100.64.0.9", 80),
    ];
    let all = [&open[..], &closed[..]].concat();
    assert_eq!(guest.reached(&all), list(&open), "{}", log(ground.directory.path()));
    // By UDP, too: the host's resolver by the address that guests have for it, any of the internet, and no other of the LAN.
    assert!(guest.asks(&resolver) && guest.asks(INTERNET));
    assert!(!guest.asks(&gateway));
    assert!(!guest.asks("192.168.77.2") && !guest.asks("192.168.77.53"));
    // And by ICMP.
    let pings = |address: &str| guest.inside.pings(address.parse().unwrap());
    assert!(pings(INTERNET));
    for closed in [&gateway, "192.168.77.1", "192.168.77.2", "203.0.113.1", "169.254.169.254"] {
        assert!(!pings(closed), "{closed}");
    }
    // SSH comes in, at an address of the host's loopback, and nothing else does.
    assert!(comes_in(&ground, uplink.ssh));
    assert!(!ground.lan.reaches("192.168.77.1", uplink.ssh.port()));

    // Without the rules it would be open: so the test shows something.
    guest.machine.run(
        "nft flush ruleset; nft -f - <<'N'
table ip trial {
	chain out { type nat hook postrouting priority srcnat; oifname \"uplink\" masquerade; }
}
N",
    );
    let reached = guest.reached(&all);
    for open in ["192.168.77.1:8080", "192.168.77.53:80", "169.254.169.254:80", "198.51.100.10:25"]
    {
        assert!(reached.contains(&open.to_owned()), "{open}: {reached:?}");
    }
    assert!(pings("192.168.77.2") && guest.asks("192.168.77.2"));
    assert!(!reached.contains(&"198.18.0.2:8080".to_owned()), "slirp4netns lets in to loopback");

    owner.does(&json!({ "do": "replace", "on_link": ON_LINK })).unwrap();
    assert_eq!(guest.reached(&all), list(&[(INTERNET, 80), (INTERNET, 53), (&resolver, 53)]));

    speaks_for_itself_only(&ground, &guest);
    counts(&mut owner);

    owner.does(&json!({ "do": "lower" })).unwrap();
    owner.does(&json!({ "do": "lower" })).unwrap();
    assert!(!comes_in(&ground, uplink.ssh));
    owner.does(&json!({ "do": "end" })).unwrap();
    drop(owner);
    ground.nothing_is_left();
    assert_eq!(ground.host.run("nft list ruleset"), "", "a rule in the host's own namespace");
}

#[test]
fn root_s_machine_gets_another_uplink_when_one_has_died() {
    gets_another_uplink_when_one_has_died(Who::Root);
}

#[test]
fn a_user_s_machine_gets_another_uplink_when_one_has_died() {
    gets_another_uplink_when_one_has_died(Who::User(1_900_777_101));
}

fn gets_another_uplink_when_one_has_died(who: Who) {
    let ground = ground();
    let mut owner = ground.owner(who);
    let pid = owner.hold();
    let first = owner.raise(Access::Internet, &ON_LINK).unwrap_or_else(|error| panic!("{error}"));
    let guest = Guest::of(pid);
    let all = [(INTERNET, 80), (INTERNET, 25), ("192.168.77.2", 80)];
    assert!(comes_in(&ground, first.ssh));
    first.process.signal(golem_vm_machine::process::Signal::KILL).unwrap();
    eventually("it is cut off", || !comes_in(&ground, first.ssh));
    assert_eq!(guest.reached(&all), list(&[]));

    // The guest's side is not touched: a guest that runs holds it.
    let again = json!({ "do": "raise", "again": true, "on_link": ON_LINK });
    let raised = owner.does(&again).unwrap_or_else(|error| panic!("{error}"));
    let second: golem_vm_machine::network::Uplink =
        serde_json::from_value(raised["uplink"].clone()).unwrap();
    assert_ne!(second.process, first.process);
    assert_eq!(second.ssh, first.ssh, "its route stays");
    assert!(comes_in(&ground, second.ssh));
    assert_eq!(guest.reached(&all), list(&[(INTERNET, 80)]), "with the same rules");
    owner.does(&json!({ "do": "lower" })).unwrap();
    owner.does(&json!({ "do": "end" })).unwrap();
    drop(owner);
    ground.nothing_is_left();
}

fn speaks_for_itself_only(ground: &Ground, guest: &Guest) {
    let heard = ground.outside.count_datagrams(5555);
    let says = |prepare: &str, target: &str| {
        let before = heard.load(Ordering::SeqCst);
        let line = format!("{prepare}\necho x >/dev/udp/{target}/5555");
        let _ = guest.inside.try_run(&line);
        let came = within(Duration::from_millis(500), || {
            (heard.load(Ordering::SeqCst) > before).then_some(())
        });
        guest.is_itself();
        came.is_some()
    };
    let Addressing { gateway, guest: own, .. } = &guest.addressing;
    assert!(says("", INTERNET), "as itself");
    assert!(
        !says(
            &format!(
                "ip address flush dev eth0; ip address add 10.9.9.9/32 dev eth0
                 ip route add {gateway} dev eth0; ip route replace default via {gateway} src 10.9.9.9"
            ),
            INTERNET
        ),
        "it poses as another address"
    );
    assert!(
        !says(
            &format!(
                "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:01; ip link set eth0 up
                 ip route replace default via {gateway}"
            ),
            INTERNET
        ),
        "it poses as another card"
    );
    assert!(
        !says(
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; ip address add 2001:db8::2/64 dev eth0 nodad
                 ip -6 neighbour add 2001:db8::1 lladdr 02:67:6f:6c:65:6d dev eth0
                 ip -6 route replace default via 2001:db8::1 dev eth0",
            "2001:db8:1::1"
        ),
        "it speaks IPv6"
    );
    assert!(says("", INTERNET), "as itself, {own}");
    let six = guest.machine.run("ip -6 -o address show");
    assert!(!six.contains("vm0") && !six.contains("uplink"), "{six}");
}

fn counts(owner: &mut Owner) {
    let counted = owner.does(&json!({ "do": "count" })).unwrap();
    assert!(counted["sent"].as_u64().unwrap() > 1000, "{counted}");
    assert!(counted["received"].as_u64().unwrap() > 1000, "{counted}");
}

#[test]
fn a_machine_s_rules_are_replaced_while_it_runs() {
    let ground = ground();
    let mut owner = ground.owner(Who::Root);
    let pid = owner.hold();
    let uplink = owner.raise(Access::Internet, &ON_LINK).unwrap();
    let guest = Guest::of(pid);
    let all = [(INTERNET, 80), ("203.0.113.1", 80)];
    assert_eq!(guest.reached(&all), list(&[(INTERNET, 80)]));

    // The host is connected to another network, and to one less.
    let other = json!({ "do": "replace", "on_link": ["198.51.100.0/24", "192.168.77.0/24"] });
    owner.does(&other).unwrap();
    assert_eq!(guest.reached(&all), list(&[("203.0.113.1", 80)]));

    // A session that is open stays open, but for the time in which nothing passes.
    let target = uplink.ssh;
    let session = ground.host.inside(move || TcpStream::connect(target).unwrap());
    session.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let answered = || (&session).read(&mut [0; 1]).is_ok_and(|read| read == 1);
    let echoes = || (&session).write_all(b"x").is_ok() && answered();
    assert!(echoes());
    let rules = |owner: &mut Owner, access: Access| {
        let told = json!({ "do": "replace", "access": access, "on_link": ON_LINK });
        owner.does(&told).unwrap();
    };
    let come_in = |ground: &Ground| comes_in(ground, uplink.ssh);
    rules(&mut owner, Access::SshOnly);
    assert!(echoes() && come_in(&ground) && guest.reached(&all).is_empty());
    assert!(!guest.asks(&guest.addressing.resolver.to_string()), "names are out of reach, too");
    rules(&mut owner, Access::None);
    assert!(!echoes() && !come_in(&ground) && guest.reached(&all).is_empty());
    rules(&mut owner, Access::Internet);
    eventually("the session goes on", answered);
    assert!(come_in(&ground));
    assert_eq!(guest.reached(&all), list(&[(INTERNET, 80)]));

    // Resolvers that the owner names are asked in place of the host's, one after the other.
    let resolver = guest.addressing.resolver.to_string();
    let told =
        json!({ "do": "replace", "resolvers": [INTERNET, "192.168.77.53"], "on_link": ON_LINK });
    owner.does(&told).unwrap();
    for _ in 0..4 {
        assert!(guest.asks(&resolver));
    }
    assert_eq!(guest.reached(&[("192.168.77.53", 80)]), Vec::<String>::new());

    // Rules that can't be loaded change nothing.
    let before = guest.machine.run("nft list ruleset");
    let broken = json!({ "do": "replace", "caps": [1, 0, 1] });
    assert!(owner.does(&broken).is_err());
    assert_eq!(guest.machine.run("nft list ruleset"), before);
    owner.does(&json!({ "do": "lower" })).unwrap();
}

#[test]
fn a_machine_uses_no_more_than_it_may() {
    let ground = ground();
    let mut owner = ground.owner(Who::Root);
    let pid = owner.hold();
    owner.does(&json!({ "do": "raise", "on_link": ON_LINK, "caps": [16, 20, 60] })).unwrap();
    let guest = Guest::of(pid);
    // Many at a time: the first that is too many finds no answer.
    let held = guest.inside.run(&format!(
        "timeout 8 bash -c 'for n in $(seq 90); do exec {{fd}}<>/dev/tcp/{INTERNET}/83 || break; echo $n; done' \
         2>/dev/null | tail -n 1"
    ));
    let held: u32 = held.trim().parse().unwrap();
    assert!((30..=60).contains(&held), "{held} at a time");
    owner.does(&json!({ "do": "lower" })).unwrap();
}

#[test]
fn what_fails_half_way_leaves_nothing() {
    for who in [Who::Root, Who::User(1_900_777_101)] {
        let ground = ground();
        let mut owner = ground.owner(who);
        let pid = owner.hold();
        // It could not be written down.
        let refused =
            owner.does(&json!({ "do": "raise", "refuse": true, "on_link": ON_LINK })).unwrap_err();
        assert!(refused.contains("can't be written down: no room"), "{refused}");
        assert!(!owner.directory.join("machine/net").exists());
        // All ports are taken: by another program of the host's.
        let entrance = Addressing::of(&ID).entrance;
        let taken = ground.host.inside(move || {
            (2222..2238)
                .map(|port| TcpListener::bind((entrance, port)).unwrap())
                .collect::<Vec<_>>()
        });
        let refused = owner.raise(Access::Internet, &ON_LINK).unwrap_err();
        assert!(refused.contains("no port of"), "{refused}");
        drop(taken);
        // Again, on the same namespaces: nothing is in the way.
        let uplink = owner.raise(Access::Internet, &ON_LINK).unwrap();
        let guest = Guest::of(pid);
        assert!(comes_in(&ground, uplink.ssh));
        assert_eq!(guest.reached(&[(INTERNET, 80)]), list(&[(INTERNET, 80)]));
        owner.does(&json!({ "do": "lower" })).unwrap();
        drop(owner);
        ground.nothing_is_left();
    }
}

#[test]
fn an_owner_that_is_killed_leaves_nothing_that_it_does_not_find_again() {
    let ground = ground();
    let mut owner = ground.owner(Who::Root);
    owner.hold();
    // Before the process was let go on: it ends by itself.
    writeln_and_die(&mut owner);
    ground.nothing_is_left();
    // Afterwards: the next owner ends it by what was written down.
    let mut owner = ground.owner(Who::Root);
    owner.hold();
    let uplink = owner.raise(Access::Internet, &ON_LINK).unwrap();
    assert!(uplink.process.alive().unwrap());
    owner.kill();
    assert!(uplink.process.alive().unwrap(), "it outlives its owner");
    let mut owner = ground.owner(Who::Root);
    owner.does(&json!({ "do": "lower" })).unwrap();
    assert!(!uplink.process.alive().unwrap());
    drop(owner);
    ground.nothing_is_left();
}

fn writeln_and_die(owner: &mut Owner) {
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        owner.does(&json!({ "do": "raise", "die": true, "on_link": ON_LINK }))
    }));
    assert!(died.is_err(), "it did not die");
}

#[test]
fn qemu_opens_its_network_card_without_any_right() {
    for who in [Who::Root, Who::User(1_900_777_102)] {
        let ground = ground();
        let mut owner = ground.owner(who);
        let arguments = "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
                         -nodefaults -no-user-config -display none -M q35 -accel tcg -m 64 -S \
                         -netdev tap,id=n,ifname=vm0,script=no,downscript=no \
                         -device virtio-net-pci,netdev=n,romfile=";
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let told = json!({ "do": "hold", "program": "/usr/bin/qemu-system-x86_64", "arguments": arguments });
        let pid = owner.does(&told).unwrap()["pid"].as_u64().unwrap();
        owner.raise(Access::Internet, &ON_LINK).unwrap();
        owner.does(&json!({ "do": "go" })).unwrap();
        let machine = Namespace::of_process(u32::try_from(pid).unwrap());
        eventually("QEMU has its card", || {
            let has = machine.try_run("ip -o link show vm0").stdout.contains("LOWER_UP");
            assert!(
                std::path::Path::new(&format!("/proc/{pid}")).exists(),
                "{}",
                log(ground.directory.path())
            );
            has
        });
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        // Its owner can still change the rules, and it can't.
        owner.does(&json!({ "do": "replace", "access": "none" })).unwrap();
        assert!(!machine.run("nft list ruleset").contains("accept"));
        owner.does(&json!({ "do": "lower" })).unwrap();
        owner.does(&json!({ "do": "end" })).unwrap();
        drop(owner);
        ground.nothing_is_left();
    }
}

#[test]
fn whether_machines_can_have_a_network_is_found_by_trying() {
    for who in [Who::Root, Who::User(1_900_777_103)] {
        let ground = ground();
        let mut owner = ground.owner(who);
        assert_eq!(
            owner.does(&json!({ "do": "probe" })).unwrap()["findings"],
            json!([]),
            "{who:?}"
        );
        assert!(!ground.directory.path().join("trial").exists());
        drop(owner);
        ground.nothing_is_left();
    }
}

#[test]
fn what_the_host_takes_for_its_own_is_among_its_networks() {
    let ground = ground();
    let found = ground.host.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(networks()).unwrap()
    });
    for expected in ON_LINK {
        assert!(found.contains(&expected.parse().unwrap()), "{expected}: {found:?}");
    }
}
