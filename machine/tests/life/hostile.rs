//! Guests that do their worst, each a real one beside a neighbour that has to go on: what one of them does to itself
//! stays with it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use golem_vm_machine::process::Signal;
use golem_vm_machine::vm::{Ended, MachineName, OVERHEAD_MIB, State};
use tokio::time::{Instant, sleep};

use crate::support::{Console, LONG, Place};

/// Longest time in which a neighbour says something, on a host that has other things to do as well.
const PROMPT: Duration = Duration::from_secs(20);

/// A machine that does its worst, and one beside it.
struct Street {
    place: Place,
    bad: MachineName,
    console: Console,
    good: MachineName,
    neighbour: Console,
}

impl Street {
    async fn new() -> Self {
        let place = Place::new().await;
        let (bad, console) = place.boot("bad").await;
        let (good, neighbour) = place.boot("good").await;
        Self { place, bad, console, good, neighbour }
    }

    /// That the neighbour goes on, and soon.
    async fn neighbour_is_well(&mut self) {
        let began = Instant::now();
        let said = self
            .neighbour
            .run("dd if=/dev/vda of=/dev/null bs=1M count=4 2>&1 | tail -n 1; echo well")
            .await;
        assert!(said.ends_with("well"), "{said}");
        let took = began.elapsed();
        assert!(took < PROMPT, "the neighbour took {took:?}");
        println!("the neighbour answered after {took:?}");
        assert_eq!(self.place.machines.observe(&self.good).await.unwrap(), State::Running);
    }

    async fn end(&self) {
        for name in [&self.bad, &self.good] {
            self.place.machines.destroy(name).await.unwrap();
            assert!(!self.place.directory(name).exists());
        }
    }

    fn process(&self) -> u32 {
        self.place.pid(&self.bad).unwrap()
    }
}

/// What was not ended, because something before failed, is ended all the same: the next test needs the room.
impl Drop for Street {
    fn drop(&mut self) {
        for name in [&self.bad, &self.good] {
            let manifest = self.place.machines.manifest(name).ok().flatten();
            if let Some(run) = manifest.and_then(|manifest| manifest.run) {
                let _ = run.process.signal(Signal::KILL);
            }
        }
    }
}

/// Bytes that all files of a directory take on disk.
fn allocated(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries.map(|entry| entry.metadata().unwrap().blocks() * 512).sum()
}

/// CPU that a process has used.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 wherever Linux runs QEMU.
    Duration::from_millis(ticks * 10)
}

/// A field of `/proc/PID/status` in MiB.
fn memory_mib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|one: char| !one.is_ascii_digit()).parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fills_its_disk_has_filled_its_own() {
    let mut street = Street::new().await;
    // Twice, with what can't be compressed or left out.
    let fill = "for n in 1 2; do cat /dev/urandom | dd of=/dev/vda bs=1M 2>&1 | grep -c 'No space'; done; sync";
    let said = street.console.run(fill).await;
    assert_eq!(said, "1\n1", "its disk has an end");
    let promised = 64 << 20;
    let guest = street.place.directory(&street.bad).join("guest");
    let taken = allocated(&guest);
    assert!(taken > promised / 2, "nothing was written: {taken}");
    // And the seed, the sockets and the tables of qcow2.
    assert!(taken < promised + (4 << 20), "{taken} bytes of {promised}");
    street.neighbour_is_well().await;
    assert_eq!(street.console.run("echo alive").await, "alive");
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_spins_uses_no_more_than_it_rents() {
    let mut street = Street::new().await;
    street.console.send("for n in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done").await;
    sleep(Duration::from_secs(2)).await;
    let (began, before) = (Instant::now(), cpu(street.process()));
    street.neighbour_is_well().await;
    sleep(Duration::from_secs(5)).await;
    let share = (cpu(street.process()) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("it has used {share:.2} of one processor");
    // One processor, of which QEMU's own work is a part.
    assert!(share < 1.15, "{share:.2} of one processor");
    street.neighbour_is_well().await;
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_uses_all_memory_uses_its_own() {
    let mut street = Street::new().await;
    let pid = street.process();
    // The guest's kernel ends what takes too much, or gives up; both are its own affair.
    street
        .console
        .send("mkdir /m; mount -t tmpfs -o size=1g m /m; cat /dev/urandom > /m/x; echo F\"\"ULL")
        .await;
    let deadline = Instant::now() + LONG;
    let most = loop {
        let most = memory_mib(pid, "VmRSS:");
        let state = street.place.machines.observe(&street.bad).await.unwrap();
        if most > 110 || state != State::Running || Instant::now() > deadline {
            break most;
        }
        sleep(Duration::from_millis(200)).await;
    };
    assert!(most > 100, "it has used {most} MiB only");
    street.neighbour_is_well().await;
    sleep(Duration::from_secs(3)).await;
    if street.place.pid(&street.bad) == Some(pid) {
        let peak = memory_mib(pid, "VmHWM:");
        println!("it has used {peak} MiB at most, its guest has 128");
        // TCG keeps what it has translated beside the guest's memory.
        assert!(peak < 128 + OVERHEAD_MIB + 256, "{peak} MiB");
        assert_eq!(memory_mib(pid, "VmSwap:"), 0);
    }
    street.neighbour_is_well().await;
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_kernel_panics_gives_its_memory_back() {
    let mut street = Street::new().await;
    let pid = street.process();
    street.console.send("echo c > /proc/sysrq-trigger").await;
    let ended = street.place.becomes(&street.bad, |state| *state != State::Running).await;
    assert_eq!(ended, State::Stopped(Ended::GuestPanicked));
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "its process is there");
    street.neighbour_is_well().await;
    // It may do so again and again.
    for _ in 0..2 {
        let mut console = street.place.start(&street.bad).await;
        console.send("echo c > /proc/sysrq-trigger").await;
        street.place.becomes(&street.bad, |state| *state != State::Running).await;
    }
    street.neighbour_is_well().await;
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_restarts_for_ever_stays_in_its_process() {
    let mut street = Street::new().await;
    let pid = street.process();
    let mut memory = Vec::new();
    for _ in 0..4 {
        street.console.send("reboot -f").await;
        street.console.wait("GUEST UP").await;
        memory.push(memory_mib(pid, "VmRSS:"));
    }
    assert_eq!(street.process(), pid);
    println!("memory after each restart: {memory:?} MiB");
    assert!(memory.iter().all(|used| *used < 128 + OVERHEAD_MIB + 256), "{memory:?}");
    street.neighbour_is_well().await;
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_floods_its_console_fills_its_own_log() {
    let mut street = Street::new().await;
    // More than the file system in memory that it is written to, while nobody takes it from there.
    for _ in 0..3 {
        street.console.send("yes flooded | head -c 400000; echo; echo TI\"\"RED").await;
        street.console.wait("TIRED").await;
    }
    let log = street.place.machines.console_log(&street.bad).await.unwrap();
    assert!(log.len() <= 1 << 20, "{} bytes", log.len());
    let directory = street.place.directory(&street.bad);
    let qemu_log = fs::metadata(directory.join("qemu.log")).map_or(0, |log| log.len());
    assert!(qemu_log < 64 << 10, "{qemu_log} bytes");
    assert_eq!(street.console.run("echo alive").await, "alive");
    street.neighbour_is_well().await;
    street.end().await;
}
