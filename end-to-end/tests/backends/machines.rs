//! Virtual machines on QEMU, rented over the whole market: guests that do their worst beside a neighbour, and a
//! provider that is killed while machines run, one is being made, and an image is on its way.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use golem_vm_end_to_end::{Market, Requestor, eventually, within};

/// Longest that an emulated machine may take to boot on a host that has other things to do.
const SLOW: Duration = Duration::from_secs(600);
/// Longest in which a neighbour lets somebody in and does something, while another guest does its worst.
const PROMPT: Duration = Duration::from_secs(60);

/// Leaves the market without machines.
pub(crate) fn hostile_and_killed(market: &mut Market) {
    let requestor = market.requestor();
    requestor.rent("box");
    requestor.rent("neighbour");
    let machines = [requestor.vm("box"), requestor.vm("neighbour")].map(|vm| id(&vm));
    assert!(machines.iter().all(|machine| runs(machine)));

    for (worst, what) in [
        ("spin", "for n in 1 2 3 4; do (while :; do :; done) & done; sleep 5; kill 0"),
        ("memory", "tail /dev/zero"),
        (
            "disk",
            "fallocate -l 20G all; head -c 100000000 /dev/urandom >some; rm -f all some; df / >&2",
        ),
        ("console", "sudo sh -c 'head -c 5000000 /dev/urandom | base64 >/dev/ttyS0'"),
    ] {
        let began = Instant::now();
        let mut bad = requestor.command(&["vm", "ssh", "box", "--", what]);
        let mut bad = Running::start(&mut bad);
        neighbour_is_well(&requestor, worst);
        bad.wait();
        println!("{worst}: over after {:?}", began.elapsed());
        neighbour_is_well(&requestor, "after it");
        assert_eq!(requestor.in_vm("box", "hostname"), "box\n", "{worst}");
    }

    killed_in_the_middle(market, &requestor);

    // It panics: that is told, and it can be started again.
    let _ = requestor.golem(&[
        "vm",
        "ssh",
        "box",
        "--",
        "sudo sh -c 'sleep 1; echo c >/proc/sysrq-trigger'",
    ]);
    let stopped = within(SLOW, || (requestor.vm("box")["status"] == "stopped").then_some(()));
    assert!(stopped.is_some(), "{:?}", requestor.vm("box"));
    assert!(!runs(&machines[0]), "one that has panicked holds its memory");
    neighbour_is_well(&requestor, "panic");
    requestor.golem(&["vm", "start", "box"]).done();
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");

    // It restarts for ever, without a word to who is logged in.
    requestor.in_vm(
        "box",
        "echo '@reboot root /sbin/reboot -f' | sudo tee /etc/cron.d/loop >/dev/null; sync",
    );
    let reset = requestor.golem(&["vm", "ssh", "box", "--", "sudo reboot -f"]);
    assert_ne!(reset.code, 0, "{reset}");
    for _ in 0..3 {
        neighbour_is_well(&requestor, "restarts");
    }
    for name in ["box", "neighbour"] {
        requestor.golem(&["vm", "destroy", name, "--yes"]).done();
    }
    eventually("no process of theirs is left", || !machines.iter().any(|machine| runs(machine)));
}

/// The provider is killed at its busiest. Sessions do not notice; what was begun is finished, or leaves nothing.
fn killed_in_the_middle(market: &mut Market, requestor: &Requestor) {
    let mut sessions = ["box", "neighbour"].map(|name| requestor.session(name, &[]));
    sessions.iter_mut().for_each(|session| session.echoes("before"));
    let archive = Archive::start(8 << 20);
    let pulling = pull(market, &archive);
    assert!(within(PROMPT, || archive.asked().first().cloned()).is_some(), "nothing is asked for");
    let mut creating = requestor.command(&["vm", "create", "third"]);
    let mut creating = Running::start(&mut creating);
    let begun = within(PROMPT, || {
        let vms = market.provider().status()["vms"].as_array().cloned().unwrap_or_default();
        vms.iter().any(|vm| vm["name"] == "third").then_some(())
    });
    assert!(begun.is_some(), "it is not being made");

    market.provider().service().kill();
    sessions.iter_mut().for_each(|session| session.echoes("killed"));
    drop(pulling);
    archive.go_on();
    market.provider().start();
    sessions.iter_mut().for_each(|session| session.echoes("started again"));

    // The download goes on where it was.
    let done = pull(market, &archive).wait();
    assert!(done, "the image was not pulled");
    let from: Vec<u64> = archive.asked().into_iter().flatten().collect();
    assert!(from.iter().any(|from| *from > 0), "it began anew: {:?}", archive.asked());

    // The create ends well, or leaves nothing.
    let made = creating.wait();
    println!("the create that was under way: {}", if made { "done" } else { "given up" });
    if made {
        assert_eq!(requestor.in_vm("third", "hostname"), "third\n");
        requestor.golem(&["vm", "destroy", "third", "--yes"]).done();
    }
    eventually("two machines are left", || {
        market.provider().status()["vms"].as_array().is_some_and(|vms| vms.len() == 2)
    });
    sessions.iter_mut().for_each(|session| session.echoes("in the end"));
}

fn neighbour_is_well(requestor: &Requestor, while_what: &str) {
    let began = Instant::now();
    assert_eq!(requestor.in_vm("neighbour", "sudo hostname"), "neighbour\n", "{while_what}");
    let took = began.elapsed();
    println!("{while_what}: the neighbour let me in and answered after {took:?}");
    assert!(took < PROMPT, "{while_what}: the neighbour took {took:?}");
}

fn id(vm: &serde_json::Value) -> String {
    vm["vm_id"].as_str().unwrap().to_owned()
}

/// Whether a QEMU runs for that VM: its process is called so.
fn runs(vm: &str) -> bool {
    let of = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let mut lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(of);
    lines.any(|line| {
        let line = String::from_utf8_lossy(&line);
        line.contains("qemu-system") && line.contains(vm)
    })
}

fn pull(market: &mut Market, archive: &Archive) -> Running {
    let arguments = ["image", "pull", &archive.url, "--sha256", &archive.sha256, "--name", "mine"];
    Running::start(&mut market.provider().command(&arguments))
}

/// A program that does not outlive the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Whether it succeeded, in the end.
    fn wait(&mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves one disk over HTTP: at first the beginning of it, and then nothing more until it is told to go on.
struct Archive {
    url: String,
    sha256: String,
    asked: Arc<Mutex<Vec<Option<u64>>>>,
    goes_on: Arc<AtomicBool>,
}

impl Archive {
    fn start(bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (disk, sha256) = disk(directory.path(), bytes);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/disk.qcow2", listener.local_addr().unwrap());
        let (asked, goes_on) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let archive =
            Self { url, sha256, asked: Arc::clone(&asked), goes_on: Arc::clone(&goes_on) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (disk, asked, goes_on) =
                    (disk.clone(), Arc::clone(&asked), Arc::clone(&goes_on));
                std::thread::spawn(move || serve(stream, &disk, &asked, &goes_on));
            }
        });
        archive
    }

    fn go_on(&self) {
        self.goes_on.store(true, Ordering::SeqCst);
    }

    /// From which byte on each request asked; `None`: it asked for all.
    fn asked(&self) -> Vec<Option<u64>> {
        self.asked.lock().unwrap().clone()
    }
}

/// Ends early when who asked is gone.
fn serve(
    mut stream: TcpStream,
    disk: &[u8],
    asked: &Mutex<Vec<Option<u64>>>,
    goes_on: &AtomicBool,
) -> Option<()> {
    let mut request = Vec::new();
    let mut bytes = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&bytes[..count]);
    }
    let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let from = request.lines().find_map(|line| line.strip_prefix("range: bytes="));
    let from: Option<u64> = from.and_then(|range| range.split('-').next()?.parse().ok());
    let start = usize::try_from(from.unwrap_or(0)).ok()?.min(disk.len());
    let body = &disk[start..];
    let status = match from {
        None => "200 OK\r\n".to_owned(),
        Some(from) => format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\n",
            disk.len() - 1,
            disk.len()
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}Content-Length: {}\r\nETag: \"one\"\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    if request.starts_with("head") {
        return Some(());
    }
    let (first, rest) = body.split_at(body.len().min(3 << 20));
    stream.write_all(first).ok()?;
    asked.lock().unwrap().push(from);
    while !goes_on.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    stream.write_all(rest).ok()
}

/// A disk that nothing makes smaller, and its checksum.
fn disk(directory: &Path, bytes: usize) -> (Vec<u8>, String) {
    let (raw, qcow2) = (directory.join("raw"), directory.join("disk.qcow2"));
    let mut content = vec![0; bytes];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut content).unwrap();
    std::fs::write(&raw, content).unwrap();
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &qcow2]);
    assert!(convert.status().unwrap().success());
    let sum = Command::new("sha256sum").arg(&qcow2).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    (std::fs::read(&qcow2).unwrap(), sum[..64].to_owned())
}
