//! Guests that want to bring their host down: each is tried by itself, and meanwhile the provider
//! answers, another VM answers, and the host has room. Then the guest is got rid of.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use golem_vm_end_to_end::{Engine, Market, ProviderOptions, Requestor, eventually};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

/// How long anything that a person asks for may take beside a hostile guest.
const PATIENCE: Duration = Duration::from_secs(60);
/// What has to be left of the host's memory and of the engine's disk, in bytes.
const ROOM: u64 = 1 << 30;

/// Two machines on one provider: one of them hostile.
struct Street {
    market: Market,
    hostile: Requestor,
    neighbour: Requestor,
}

impl Street {
    fn new() -> Self {
        // Room for both also where the disk is small: neither is to fill it.
        let market = Market::with_providers(&[ProviderOptions::roomy()]);
        let (hostile, neighbour) = (market.requestor(), market.requestor());
        hostile.rent("hostile");
        neighbour.rent("neighbour");
        Self { market, hostile, neighbour }
    }

    /// Starts something in the hostile VM that goes on after its session has ended.
    fn begin(&self, line: &str) {
        let line = line.replace('\'', r"'\''");
        let detached = format!("sudo setsid bash -c '{line}' >/dev/null 2>&1 </dev/null &");
        self.hostile.in_vm("hostile", &detached);
    }

    /// The provider, the neighbour and the host go on.
    fn goes_on(&self, beside: &str) {
        let began = Instant::now();
        assert_eq!(self.neighbour.in_vm("neighbour", "echo alive; sync"), "alive\n", "{beside}");
        let asked = self.hostile.golem(&["vm", "info", "hostile", "--json"]);
        assert_eq!(asked.code, 0, "the provider does not answer beside {beside}: {asked}");
        assert!(began.elapsed() < PATIENCE, "{:?} beside {beside}", began.elapsed());
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
        let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
        let available: u64 = available.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(available << 10 > ROOM, "{beside}: {available} kB of memory are left");
        let info = Engine::shared().get("/info");
        let disk = rustix::fs::statvfs(info["DockerRootDir"].as_str().unwrap()).unwrap();
        assert!(disk.f_bavail * disk.f_frsize > ROOM, "{beside} fills the disk");
    }

    /// The machine is its owner's again.
    fn restart(&self, after: &str) {
        let began = Instant::now();
        self.hostile.golem(&["vm", "restart", "hostile"]).done();
        assert_eq!(self.hostile.in_vm("hostile", "echo mine"), "mine\n", "after {after}");
        assert!(began.elapsed() < PATIENCE * 2, "{:?} after {after}", began.elapsed());
    }

    /// It is gone, and the neighbour is not.
    fn close(self) {
        self.hostile.golem(&["vm", "destroy", "hostile", "--yes"]).done();
        assert_eq!(self.neighbour.in_vm("neighbour", "echo alive"), "alive\n");
        assert_eq!(self.market.instances(), 1);
        self.market.close();
    }
}

#[test]
fn what_a_guest_does_to_itself_stays_with_it() {
    let street = Street::new();
    let log = {
        let containers = street.market.providers[0].containers();
        let names = containers.iter().map(|one| one["Id"].as_str().unwrap());
        let inspected = names.map(|id| Engine::shared().inspect(id));
        let hostile = inspected.into_iter().find(|one| one["Config"]["Hostname"] == "hostile");
        hostile.unwrap()["LogPath"].as_str().unwrap().to_owned()
    };
    let table = [
        ("forks without end", "bomb() { bomb | bomb & }; bomb"),
        ("one that eats memory", "while :; do tail /dev/zero; done"),
        ("one that eats shared memory", "while :; do head -c 2G /dev/zero >/dev/shm/x; done"),
        (
            "one that opens all files",
            "perl -e 'fork for 1..7; while (1) { open(my $f, \"<\", \"/dev/null\") ? push(@f, $f) : sleep 1 }'",
        ),
        (
            "one that opens all ports",
            "perl -MSocket -e 'for my $p (1..65535) { socket(my $s, PF_INET, SOCK_STREAM, 0) or last; \
             bind($s, sockaddr_in($p, INADDR_ANY)); listen($s, 4096); push @s, $s } sleep 600'",
        ),
        ("one that floods its log", "yes \"$(head -c 500 /dev/zero | tr '\\0' x)\" >/proc/1/fd/1"),
    ];
    for (what, line) in table {
        street.begin(line);
        // Long enough to reach whatever limit there is.
        std::thread::sleep(Duration::from_secs(3));
        street.goes_on(what);
        if let Ok(log) = std::fs::metadata(&log) {
            assert!(log.len() < 4 << 20, "{what}: a log of {} bytes", log.len());
        }
        street.restart(what);
    }
    street.close();
}

#[test]
fn a_guest_that_goes_past_its_disk_is_stopped() {
    let info = Engine::shared().get("/info");
    let disk = rustix::fs::statvfs(info["DockerRootDir"].as_str().unwrap()).unwrap();
    if disk.f_bavail * disk.f_frsize < 16 << 30 {
        eprintln!("skipped: this needs 16 GB free on the engine's disk, for seconds");
        return;
    }
    let street = Street::new();
    let stopped = |what: &str| {
        eventually(what, || {
            street.goes_on(what);
            street.hostile.vm("hostile")["status"] == "stopped"
        });
        let info = street.hostile.golem(&["vm", "info", "hostile", "--json"]).done();
        assert!(info.stdout.contains("of disk, and rents 10 GB"), "{info}");
        let owner = street.market.providers[0].run(&["status"]).done();
        assert!(owner.stdout.contains("of disk, and rents 10 GB"), "{owner}");
    };
    // Without a name: only the process that has it open knows of it, and it is gone with that.
    street.begin("exec 3>/var/tmp/nameless; rm /var/tmp/nameless; fallocate -l 10500M /proc/self/fd/3; sleep 600");
    stopped("a file without a name is found");
    street.hostile.golem(&["vm", "start", "hostile"]).done();
    let used = street.hostile.in_vm("hostile", "sudo du -sxm / | cut -f1");
    assert!(used.trim().parse::<u32>().unwrap() < 2000, "{used} MB after all was closed");

    street.begin("fallocate -l 10900M /var/tmp/large");
    stopped("a file is found");
    // Its owner may make room.
    street.hostile.golem(&["vm", "start", "hostile"]).done();
    street.hostile.in_vm("hostile", "sudo rm /var/tmp/large");
    street.goes_on("one that has made room");
    assert_eq!(street.hostile.vm("hostile")["status"], "running");

    // /etc/hosts is not on its disk, but the engine's.
    street.begin("fallocate -l 200M /etc/hosts");
    eventually("what is written beside the disk is found", || {
        street.hostile.vm("hostile")["status"] == "stopped"
    });
    let info = street.hostile.golem(&["vm", "info", "hostile", "--json"]).done();
    assert!(info.stdout.contains("beside its disk"), "{info}");
    street.close();
}

#[test]
fn strangers_who_hold_the_ssh_port_do_not_lock_the_renter_out() {
    let street = Street::new();
    let port = street.neighbour.vm("neighbour")["ssh"]["port"].as_u64().unwrap();
    let port = u16::try_from(port).unwrap();
    // More than sshd would take, from one address that is not the renter's.
    let mut held: Vec<TcpStream> =
        (0..300).filter_map(|_| connect_from([127, 0, 0, 2], port)).collect();
    assert!(held.len() > 100, "{} connections", held.len());
    // And bytes without end, on some of them.
    for stream in held.iter().take(5).map(|stream| stream.try_clone().unwrap()) {
        std::thread::spawn(move || {
            use std::io::Write as _;
            let mut stream = stream;
            let began = Instant::now();
            while began.elapsed() < PATIENCE && stream.write_all(&[b'x'; 65_536]).is_ok() {}
        });
    }
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(street.neighbour.in_vm("neighbour", "echo in"), "in\n");
    }
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    street.goes_on("held connections");
    held.clear();
    street.close();
}

fn connect_from(source: [u8; 4], port: u16) -> Option<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).ok()?;
    bind(&socket, &SocketAddr::from((source, 0))).ok()?;
    connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
    Some(TcpStream::from(socket))
}
