//! What ten thousand SSH sessions cost the forwarder, and whether old and new ones work among them:
//! `cargo bench -p golem-vm-provider --bench forwarder_sessions [-- SESSIONS]`. Over loopback, with the real
//! program. It opens as many as the limit of open files allows here, and says how many that are.
#![allow(missing_docs)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use golem_vm_provider::forwarder::ForwarderClient;
use golem_vm_provider::forwarder::wire::Route;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const FORWARDER: &str = env!("CARGO_BIN_EXE_golem-forwarder");
const DEFAULT_SESSIONS: usize = 10_000;
/// Files of the forwarder that are not sessions'; see its `limits.rs`. Its ports are among them.
const OTHER_FILES: u64 = 2_000;
const GREETING: &[u8] = b"SSH-2.0-bench\n";
const SAMPLES: usize = 500;
/// As many VMs have a port each, so that none has more new sessions at once than the forwarder lets in.
const VMS: usize = 300;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A process that ends with this one.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let files = raise_open_files();
    if arguments.first().is_some_and(|first| first == "vm") {
        return vm();
    }
    let wanted = arguments.first().map_or(Ok(DEFAULT_SESSIONS), |count| count.parse())?;
    let fit = usize::try_from(files.saturating_sub(OTHER_FILES) / 2)?;
    measure(wanted.min(fit), files)
}

fn raise_open_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(1 << 20).min(1 << 20);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: now.maximum });
    most
}

/// The other end: says its address, then repeats whatever anybody says.
fn vm() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut piece = vec![0; 256];
                loop {
                    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                    match stream.read(&mut piece).await {
                        Ok(read @ 1..) if stream.write_all(&piece[..read]).await.is_ok() => {}
                        _ => return,
                    }
                }
            });
        }
    })
}

fn open(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    echo(&mut stream, GREETING)?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    if back == text { Ok(()) } else { Err("other bytes came back".into()) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Median time of one echo, over sessions that are spread over all of them.
fn echo_time(sessions: &mut [TcpStream]) -> Result<Duration> {
    let step = (sessions.len() / SAMPLES).max(1);
    let mut times = Vec::new();
    for round in 0..SAMPLES {
        let at = (round * step) % sessions.len();
        if let Some(session) = sessions.get_mut(at) {
            let began = Instant::now();
            echo(session, b"ping")?;
            times.push(began.elapsed());
        }
    }
    Ok(median(times))
}

fn open_time(address: SocketAddr) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..SAMPLES / 5 {
        let began = Instant::now();
        drop(open(address)?);
        times.push(began.elapsed());
    }
    Ok(median(times))
}

/// Resident memory of a process, in KiB.
fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

fn measure(count: usize, files: u64) -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut vm =
        Ended(Command::new(std::env::current_exe()?).arg("vm").stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(vm.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let target: SocketAddr = line.trim().parse()?;
    let most = count.saturating_add(300).to_string();
    let forwarder = Ended(
        Command::new(FORWARDER)
            .arg("--data-dir")
            .arg(home.path())
            .args(["--no-reserve-ports", "--max-sessions", &most])
            .stderr(Stdio::null())
            .spawn()?,
    );
    let pid = forwarder.0.id();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = ForwarderClient::new(home.path());
    let ip = IpAddr::from(Ipv4Addr::new(127, 77, 7, 7));
    let held: Vec<TcpListener> =
        (0..VMS).map(|_| TcpListener::bind((ip, 0))).collect::<std::io::Result<_>>()?;
    let addresses: Vec<SocketAddr> =
        held.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
    drop(held);
    let address = addresses[0];
    runtime.block_on(async {
        let end = Instant::now() + Duration::from_secs(30);
        while client.hello().await.is_err() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.offer(ip, addresses.iter().map(SocketAddr::port)).await?;
        let route = |address: &SocketAddr| Route {
            port: address.port(),
            target,
            vm: format!("vm {}", address.port()),
        };
        client.set_routes(addresses.iter().map(route).collect(), false).await
    })?;

    let mut sessions = vec![open(address)?];
    let echo_alone = echo_time(&mut sessions)?;
    let open_alone = open_time(address)?;
    let before = memory(pid)?;
    println!("{count} sessions ({files} open files per process); medians");
    println!("echo of a session that is alone        {echo_alone:?}");
    println!("new session when there is one          {open_alone:?}");
    while sessions.len() < count {
        sessions.push(open(addresses[1 + sessions.len() % (VMS - 1)])?);
    }
    let after = memory(pid)?;
    println!(
        "memory of the forwarder                {before} KiB, then {after} KiB: {:.2} KiB per session",
        (after.saturating_sub(before)) as f64 / count as f64
    );
    let echo_among = echo_time(&mut sessions)?;
    let open_among = open_time(address)?;
    let ratio = |among: Duration, alone: Duration| among.as_secs_f64() / alone.as_secs_f64();
    println!(
        "echo among all                         {:.2} times as long",
        ratio(echo_among, echo_alone)
    );
    println!(
        "new session among all                  {:.2} times as long",
        ratio(open_among, open_alone)
    );
    for session in &mut sessions {
        echo(session, b"all")?;
    }
    println!("every session still carries bytes");
    upgrade(&runtime, &client, home.path(), &mut sessions, address)?;
    println!("memory after the upgrade               {} KiB", memory(pid)?);
    drop(sessions);
    runtime.block_on(async {
        while client.stats().await?.open > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, golem_vm_provider::forwarder::ClientError>(())
    })?;
    println!("memory when all are gone               {} KiB", memory(pid)?);
    Ok(())
}

fn upgrade(
    runtime: &tokio::runtime::Runtime,
    client: &ForwarderClient,
    home: &Path,
    sessions: &mut [TcpStream],
    address: SocketAddr,
) -> Result<()> {
    let program: PathBuf = home.join("golem-forwarder");
    std::fs::copy(FORWARDER, &program)?;
    let stop = Arc::new(AtomicBool::new(false));
    let coming = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                if let Err(error) = open(address) {
                    return Err(error.to_string());
                }
                longest = longest.max(began.elapsed());
            }
            Ok(longest)
        }
    });
    let began = Instant::now();
    runtime.block_on(client.upgrade(Some(&program)))?;
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let longest = coming.join().map_err(|_| "the one who came all the time failed")??;
    for session in sessions {
        echo(session, b"after")?;
    }
    println!(
        "upgrade with all of them               {took:?}, who came meanwhile waited {longest:?} at most"
    );
    Ok(())
}
