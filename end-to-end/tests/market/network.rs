//! What a guest reaches, tried from inside real guests. Network namespaces play what is around the
//! host:
//!
//! ```text
//!  guest ── bridge ── host ──┬── lan:     192.168.77.2 (a neighbour), .53 (the host's resolver)
//!                            └── outside: 203.0.113.1 (on the link), and behind it 198.51.100.10 (the
//!                                         internet), 169.254.169.254 (metadata), 10.99.0.1, 100.64.0.9
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use golem_vm_end_to_end::{
    Behaviour, Market, Namespace, PrivateEngine, ProviderOptions, Requestor, Surroundings,
    eventually,
};
use rustix::process::Signal;

const INTERNET: &str = Surroundings::INTERNET;
const HOST_PORT: u16 = Surroundings::HOST_PORT;

/// A market whose host has surroundings, and a guest in it.
struct Ground {
    market: Market,
    requestor: Requestor,
    host: Namespace,
    lan: Namespace,
    outside: Namespace,
    /// What came to a server of the internet that takes everything, in bytes.
    taken: Arc<AtomicUsize>,
    engine: PrivateEngine,
}

fn ground(options: ProviderOptions) -> Option<Ground> {
    let options = options
        .with("GOLEM_PROVIDER_RESOLVERS", "192.168.77.53")
        .with("GOLEM_PROVIDER_OVERCOMMIT_STORAGE", "8");
    let (engine, mut market) = Market::on_an_engine_of_its_own(&options)?;
    let host = Namespace::of_process(engine.holder());
    let Surroundings { lan, outside } = Surroundings::of(&host);
    // What Docker itself keeps out is let in, so that what is shown is ours.
    host.run("iptables -P FORWARD ACCEPT");
    outside.serve(81, Behaviour::Sends);
    let taken = outside.take(82);
    // The first look at the new links.
    std::thread::sleep(Duration::from_millis(500));
    let requestor = market.requestor();
    requestor.rent("box");
    market.provider();
    Some(Ground { market, requestor, host, lan, outside, taken, engine })
}

impl Ground {
    /// Which of these `address:port` a guest reaches over TCP, all tried at once.
    fn reached(&self, targets: &[String]) -> Vec<String> {
        let tries: String = targets
            .iter()
            .map(|target| {
                let (address, port) = target.split_once(':').unwrap();
                format!(
                    "(timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{port} && read -t 2 -u 3 -n 1 x' \
                     2>/dev/null && echo {target}) & "
                )
            })
            .collect();
        let said = self.requestor.in_vm("box", &format!("{tries} wait"));
        let mut reached: Vec<String> = said.lines().map(str::to_owned).collect();
        reached.sort();
        reached
    }

    /// Whether a resolver there answers a guest over UDP.
    fn asks(&self, address: &str) -> bool {
        let line = format!(
            "timeout 2 bash -c 'exec 3<>/dev/udp/{address}/53 && echo x >&3 && read -u 3 -n 1 x' 2>/dev/null \
             && echo answered; true"
        );
        self.requestor.in_vm("box", &line).contains("answered")
    }

    fn gateway(&self) -> String {
        let route = self.requestor.in_vm("box", "cat /proc/net/route");
        let gateway = route.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields[1] == "00000000").then(|| u32::from_str_radix(fields[2], 16).unwrap())
        });
        std::net::Ipv4Addr::from(gateway.unwrap().swap_bytes()).to_string()
    }

    fn table(&self) -> String {
        format!("golem-{}", &self.market.providers[0].id()[..11])
    }

    fn has_table(&self) -> bool {
        self.host.try_run(&format!("nft list table inet {}", self.table())).code == 0
    }

    fn guest_address(&self) -> String {
        let containers = self.market.providers[0].containers();
        let networks = containers[0]["NetworkSettings"]["Networks"].as_object().unwrap();
        networks.values().next().unwrap()["IPAddress"].as_str().unwrap().to_owned()
    }
}

fn targets(list: &[(&str, u16)]) -> Vec<String> {
    let mut targets: Vec<String> =
        list.iter().map(|(address, port)| format!("{address}:{port}")).collect();
    targets.sort();
    targets
}

#[test]
fn a_guest_reaches_the_internet_and_nothing_of_its_host() {
    let options =
        ProviderOptions::default().with("GOLEM_PROVIDER_ALLOW_DESTINATIONS", "192.168.77.2:8443");
    let Some(mut ground) = ground(options) else { return };
    let (gateway, guest) = (ground.gateway(), ground.guest_address());
    let open = targets(&[(INTERNET, 80), ("192.168.77.53", 53), ("192.168.77.2", 8443)]);
    let closed = targets(&[
        (INTERNET, 25),
        (INTERNET, 465),
        (INTERNET, 587),
        (&gateway, HOST_PORT),
        ("192.168.77.1", HOST_PORT),
        ("203.0.113.2", HOST_PORT),
        ("192.168.77.2", 80),
        ("192.168.77.2", 53),
        ("192.168.77.53", 80),
        ("203.0.113.1", 80),
        ("169.254.169.254", 80),
        ("10.99.0.1", 80),
        ("100.64.0.9", 80),
    ]);
    let mut all = [open.clone(), closed].concat();
    all.sort();
    let into_guest = |ground: &Ground| ground.lan.reaches(&guest, 22);

    assert_eq!(ground.reached(&all), open);
    assert!(ground.asks("192.168.77.53") && !ground.asks("192.168.77.2"));
    assert!(ground.requestor.in_vm("box", "getent hosts internet.example").contains(INTERNET));
    assert!(!into_guest(&ground), "the LAN opens connections into a guest");
    let status = ground.market.provider().status();
    assert_eq!(status["backends"][0]["can"]["containment"]["state"], "contained", "{status}");

    // The same without the table: what was tried is there.
    ground.market.provider().service().freeze();
    ground.host.run(&format!("nft delete table inet {}", ground.table()));
    assert_eq!(ground.reached(&all), all, "the test proves nothing");
    assert!(ground.asks("192.168.77.2") && into_guest(&ground), "the test proves nothing");
    ground.market.provider().service().signal(Signal::CONT);
    eventually("the table is back", || ground.has_table());
    assert_eq!(ground.reached(&all), open);

    // A network that the host is connected to from now on.
    ground.host.run("ip addr add 198.51.100.1/24 dev lan0");
    eventually("the new network is closed", || {
        ground.reached(&targets(&[(INTERNET, 80)])).is_empty()
    });
    ground.host.run("ip addr del 198.51.100.1/24 dev lan0");
    eventually("it is open again", || ground.reached(&targets(&[(INTERNET, 80)])).len() == 1);

    // Somebody reloads the firewall.
    let mut gaps = Vec::new();
    for _ in 0..3 {
        ground.host.run("nft flush ruleset");
        let began = Instant::now();
        eventually("the table is back", || ground.has_table());
        gaps.push(began.elapsed());
    }
    println!("after a flush the table is back after at most {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(2)), "{gaps:?}");

    // Somebody takes the rules away in steps, some of them while others are put back.
    let rules = || {
        let table = ground.table();
        ["from_guest", "input"].map(|chain| {
            ground.host.try_run(&format!("nft -s list chain inet {table} {chain}")).stdout
        })
    };
    let before = rules();
    for pause in ["0", "0.01", "0.02", "0.03", "0.05"] {
        ground.host.run(&format!(
            "nft flush chain inet {0} from_guest; sleep {pause}; nft flush chain inet {0} input",
            ground.table()
        ));
        eventually("the rules are back", || rules() == before);
    }

    // The engine ends and comes back (and with it its own rules, which the flush took).
    ground.engine.signal(Signal::KILL);
    ground.engine.start_again();
    ground.host.run("iptables -P FORWARD ACCEPT");
    eventually("the guest is back", || {
        ground.requestor.golem(&["vm", "start", "box"]).code == 0
            && ground.requestor.golem(&["vm", "ssh", "box", "--", "true"]).code == 0
    });
    assert_eq!(ground.reached(&all), open);
    let Ground { market, engine, host, .. } = ground;
    market.close();
    let left = host.run("nft list tables");
    assert!(!left.contains("golem-"), "{left}");
    drop(engine);
}

#[test]
fn guests_are_kept_apart_capped_and_can_be_cut_off() {
    let options = ProviderOptions::default()
        .with("GOLEM_PROVIDER_VM_BANDWIDTH_MBIT", "16")
        .with("GOLEM_PROVIDER_VM_NEW_CONNECTIONS", "20")
        .with("GOLEM_PROVIDER_VM_CONNECTIONS", "60");
    let Some(mut ground) = ground(options) else { return };
    what_a_guest_may_use_of_the_network_is_capped(&ground);
    one_that_is_cut_off_stays_cut_off(&mut ground);
    guests_do_not_reach_each_other_nor_speak_for_each_other(&ground);
    let Ground { market, engine, .. } = ground;
    market.close();
    drop(engine);
}

fn guests_do_not_reach_each_other_nor_speak_for_each_other(ground: &Ground) {
    ground.requestor.rent("neighbour");
    let own = ground.requestor.in_vm("box", "hostname -I").trim().to_owned();
    let neighbour = ground.requestor.in_vm("neighbour", "hostname -I").trim().to_owned();
    assert_ne!(own, neighbour);
    assert!(ground.reached(&targets(&[(&neighbour, 22)])).is_empty(), "{neighbour} answers");

    // One that could choose its address (it can't, for want of capabilities) would not be heard.
    let containers = ground.market.providers[0].containers();
    let named = containers.iter().find(|one| one["NetworkSettings"].to_string().contains(&own));
    let id = named.unwrap()["Id"].as_str().unwrap();
    let pid = ground.engine.engine().inspect(id)["State"]["Pid"].as_u64().unwrap();
    let inside = Namespace::of_process(ground.engine.outer_pid(u32::try_from(pid).unwrap()));
    let line = "sudo ip addr add 10.9.9.9/32 dev eth0 2>&1 || sudo ifconfig eth0 10.9.9.9 2>&1";
    let refused = ground.requestor.golem(&["vm", "ssh", "box", "--", line]);
    assert_ne!(refused.code, 0, "{refused}");
    let gateway = ground.gateway();
    let heard = ground.outside.count_datagrams(5555);
    let says = |as_whom: &str| {
        let before = heard.load(Ordering::SeqCst);
        inside.run(&format!(
            "ip addr flush dev eth0 scope global; ip addr add {as_whom}/16 dev eth0
             ip route replace default via {gateway}; echo x >/dev/udp/{INTERNET}/5555",
        ));
        std::thread::sleep(Duration::from_millis(300));
        heard.load(Ordering::SeqCst) > before
    };
    assert!(says(&own), "as itself");
    assert!(!says(&neighbour), "it poses as its neighbour");
    let nobody = format!("{}.77", own.rsplit_once('.').unwrap().0);
    assert!(!says(&nobody), "it poses as somebody who is not there");
    assert!(says(&own), "as itself");
}

fn what_a_guest_may_use_of_the_network_is_capped(ground: &Ground) {
    let bytes = |line: &str| -> f64 { ground.requestor.in_vm("box", line).trim().parse().unwrap() };
    // What came through, not what was sent.
    let cap = 16e6 / 8.0;
    let down = ground.requestor.in_vm(
        "box",
        &format!("s=$(date +%s%N); n=$(timeout 6 cat </dev/tcp/{INTERNET}/81 | wc -c); echo $n $s $(date +%s%N)"),
    );
    let down: Vec<f64> = down.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let down = down[0] / ((down[2] - down[1]) / 1e9) / cap;
    let (before, began) = (ground.taken.load(Ordering::SeqCst), Instant::now());
    ground.requestor.in_vm(
        "box",
        &format!("timeout 6 bash -c 'exec 3>/dev/tcp/{INTERNET}/82; dd if=/dev/zero bs=64k >&3' 2>/dev/null; true"),
    );
    let up =
        (ground.taken.load(Ordering::SeqCst) - before) as f64 / began.elapsed().as_secs_f64() / cap;
    println!("of 16 Mbit/s: {down:.2} down, {up:.2} up");
    for share in [down, up] {
        // A second's worth may come at once.
        assert!((0.3..1.3).contains(&share), "{down:.2} down, {up:.2} up");
    }

    // A flood of new connections: 100 at once, then 20 per second.
    let opened = bytes(&format!(
        "n=0; end=$((SECONDS + 5)); while [ $SECONDS -lt $end ]; do \
         timeout 0.2 bash -c 'exec 3<>/dev/tcp/{INTERNET}/80' 2>/dev/null && n=$((n + 1)); done; echo $n"
    ));
    assert!((20.0..=240.0).contains(&opened), "{opened} in 5 s");

    // Many at a time: the first that is too many finds no answer.
    std::thread::sleep(Duration::from_secs(6));
    let held = bytes(&format!(
        "timeout 5 bash -c 'for n in $(seq 90); do exec {{fd}}<>/dev/tcp/{INTERNET}/83 || break; echo $n; done' \
         2>/dev/null | tail -n 1"
    ));
    assert!((30.0..=60.0).contains(&held), "{held} at a time");

    // Every port of its own, and still the provider and SSH work.
    ground.requestor.in_vm("box", "for p in $(seq 2000 2400); do (timeout 2 bash -c \"exec 3<>/dev/udp/198.51.100.10/$p; echo x >&3\") & done; wait");
    assert_eq!(ground.requestor.in_vm("box", "hostname"), "box\n");
}

fn one_that_is_cut_off_stays_cut_off(ground: &mut Ground) {
    let mut session = ground.requestor.session("box", &[]);
    session.echoes("before");
    let quarantined = ground.market.provider().run(&["quarantine", "box", "--json"]).done().json();
    assert!(quarantined["quarantined_at"].is_string(), "{quarantined}");
    let answers = |ground: &Ground| ground.host.reaches(&ground.guest_address(), 22);
    assert!(!answers(ground));
    let info = ground.requestor.golem(&["vm", "info", "box"]).done();
    assert!(info.stdout.contains("cut it off from the network"), "{info}");
    let status = ground.market.provider().run(&["status"]).done();
    assert!(status.stdout.contains("cut off"), "{status}");
    // Over a restart of the provider, of the machine, and a reload of the firewall.
    ground.market.provider().service().kill();
    ground.market.provider().start();
    assert!(!answers(ground));
    ground.requestor.golem(&["vm", "restart", "box"]).done();
    assert!(!answers(ground));
    ground.host.run(&format!("nft delete table inet {}", ground.table()));
    eventually("the table is back", || ground.has_table());
    assert!(!answers(ground));
    let unknown = ground.market.provider().run(&["quarantine", "nobody"]);
    assert_eq!(unknown.code, 1, "{unknown}");

    ground.market.provider().run(&["quarantine", "box", "--release"]).done();
    assert_eq!(ground.requestor.in_vm("box", "hostname"), "box\n");
}

#[test]
fn without_egress_only_ssh_works() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can contain guests");
        return;
    }
    let options = ProviderOptions::default()
        .with("GOLEM_PROVIDER_EGRESS", "none")
        .with("GOLEM_PROVIDER_RESOLVERS", INTERNET);
    let market = Market::with_providers(&[options]);
    let requestor = market.requestor();
    requestor.rent("box");
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    let tries = "for one in 198.51.100.10/53 192.0.2.1/80; do \
                 timeout 2 bash -c \"exec 3<>/dev/tcp/$one\" 2>&1; done; true";
    let said = requestor.in_vm("box", tries);
    assert!(said.contains("unreachable") || said.contains("refused"), "{said}");
    market.close();
}
