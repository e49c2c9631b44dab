//! The real `golem-forwarder` process: it outlives whoever starts it, and comes back as it was.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use golem_vm_provider::forwarder::wire::{Hello, Route};
use golem_vm_provider::forwarder::{ClientError, EXIT_ALREADY_RUNNING, ForwarderClient};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

#[path = "../../src/test_address.rs"]
mod test_address;

mod provider;
mod upgrade;

use test_address::own_ip;

const BINARY: &str = env!("CARGO_BIN_EXE_golem-forwarder");
const PATIENCE: Duration = Duration::from_secs(30);

/// A data directory whose forwarder is ended with the test, however the test ends.
struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn log(&self) -> PathBuf {
        self.path().join("forwarder.log")
    }

    async fn ensure_running(&self) -> (ForwarderClient, Hello) {
        ForwarderClient::ensure_running_with(
            self.path(),
            Path::new(BINARY),
            &self.log(),
            &["--no-reserve-ports".to_owned()],
        )
        .await
        .unwrap()
    }

    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.path().join("forwarder.lock")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only if the process of that number is still the one of this directory.
        if let Some(pid) = self.pid()
            && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|cmdline| {
                let home = self.path().to_string_lossy().into_owned();
                String::from_utf8_lossy(&cmdline).contains(&home)
            })
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn free_port(ip: IpAddr) -> u16 {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

/// A stand-in for a VM: says hello and repeats lines, on threads that end with the test.
fn vm() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.write_all(b"hello\n");
                let mut reader = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut reader, &mut stream);
            });
        }
    });
    address
}

/// A process that leads a group of its own, all of which ends with the test.
struct Group(Child);

impl Group {
    fn kill(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Once it has been waited for, its number may be someone else's.
        if matches!(self.0.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

struct Session(BufReader<TcpStream>);

impl Session {
    fn open(ip: IpAddr, port: u16) -> Self {
        Self::try_open(ip, port).unwrap()
    }

    fn try_open(ip: IpAddr, port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((ip, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut session = Self(BufReader::new(stream));
        session.0.get_mut().write_all(b"SSH-2.0-test\n")?;
        for expected in ["hello\n", "SSH-2.0-test\n"] {
            if session.line()? != expected {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(session)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line)
    }

    fn works(&mut self) -> bool {
        self.0.get_mut().write_all(b"ping\n").is_ok() && self.line().is_ok_and(|l| l == "ping\n")
    }
}

async fn route(client: &ForwarderClient, ip: IpAddr) -> u16 {
    let port = free_port(ip);
    assert!(client.offer(ip, [port]).await.unwrap()[0].bound);
    client.set_route(Route { port, target: vm(), vm: "box".to_owned() }).await.unwrap();
    port
}

/// Fields of `/proc/PID/stat` after the name: state, parent, group, session, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn it_is_started_once_and_in_a_session_of_its_own() {
    let home = Home::new();
    let (_, hello) = home.ensure_running().await;
    let (_, again) = home.ensure_running().await;
    assert_eq!(hello.pid, again.pid);
    assert_eq!(hello.start_ticks, again.start_ticks);
    let fields = stat(hello.pid).unwrap();
    assert_eq!(fields[3], hello.pid.to_string(), "leads its own session");
    assert_eq!(Some(fields[19].parse().unwrap()), hello.start_ticks);
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", hello.pid)).unwrap(), Path::new("/"));

    // Two that start it at the same time get the same one.
    let home = Home::new();
    let (one, two) = tokio::join!(home.ensure_running(), home.ensure_running());
    assert_eq!(one.1.pid, two.1.pid);
}

#[tokio::test]
async fn a_session_outlives_the_provider_and_its_whole_process_group() {
    let home = Home::new();
    // A stand-in for the provider, that starts the forwarder as the provider does and has a file
    // open which is not meant to be inherited.
    let script = format!(
        "exec 9>'{home}/inherited'; '{BINARY}' --data-dir '{home}' --detach --no-reserve-ports & sleep 1000",
        home = home.path().display()
    );
    let mut provider = Group(
        Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap(),
    );
    let client = ForwarderClient::new(home.path());
    let end = Instant::now() + PATIENCE;
    while client.hello().await.is_err() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = client.hello().await.unwrap();
    let ip = own_ip();
    let port = route(&client, ip).await;
    let mut session = Session::open(ip, port);
    let inherited = fs::read_dir(format!("/proc/{}/fd", before.pid))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .any(|file| file.ends_with("inherited"));
    assert!(!inherited, "a file of the provider is still open");
    drop(client);

    provider.kill();
    assert!(session.works());
    assert!(Session::open(ip, port).works());

    // The next provider finds the same one, with everything in place.
    let (client, after) = home.ensure_running().await;
    assert_eq!(after.pid, before.pid);
    let status = &client.ports().await.unwrap()[0];
    assert_eq!((status.port, status.bound), (port, true));
    assert!(session.works());
    // The session that the test has dropped is gone, the other one is counted.
    let end = Instant::now() + PATIENCE;
    while client.stats().await.unwrap().open != 1 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_killed_forwarder_is_noticed_reaped_and_comes_back_with_its_routes() {
    let home = Home::new();
    let (client, before) = home.ensure_running().await;
    let ip = own_ip();
    let port = route(&client, ip).await;
    let mut session = Session::open(ip, port);
    let (watcher, _) = home.ensure_running().await;
    let watch = tokio::spawn(async move { watcher.watch().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!watch.is_finished());

    kill_process(home.pid().unwrap(), Signal::KILL).unwrap();
    tokio::time::timeout(PATIENCE, watch).await.unwrap().unwrap();
    assert!(session.line().is_ok_and(|line| line.is_empty()), "it died with the forwarder");
    let end = Instant::now() + PATIENCE;
    while stat(before.pid).is_some() {
        assert!(Instant::now() < end, "a zombie stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // The old socket is still there, and so are connections in TIME_WAIT.
    let (_, after) = home.ensure_running().await;
    assert_ne!(after.pid, before.pid);
    assert!(Session::open(ip, port).works(), "before the provider has said anything");
    // The client finds the new one by itself.
    assert!(client.ports().await.unwrap()[0].bound);
    assert_eq!(client.hello().await.unwrap().pid, after.pid);
}

#[tokio::test]
async fn signals_and_exit_codes_are_as_documented() {
    let home = Home::new();
    let mut child = Command::new(BINARY)
        .arg("--data-dir")
        .arg(home.path())
        .arg("--no-reserve-ports")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let client = ForwarderClient::new(home.path());
    let end = Instant::now() + PATIENCE;
    while client.hello().await.is_err() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pid = home.pid().unwrap();

    let second = Command::new(BINARY).arg("--data-dir").arg(home.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(EXIT_ALREADY_RUNNING));
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(message.contains(&format!("(process {pid})")), "{message}");

    kill_process(pid, Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    client.hello().await.unwrap();

    let ip = own_ip();
    let port = route(&client, ip).await;
    let mut session = Session::open(ip, port);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = Vec::new();
    let _ = session.0.read_to_end(&mut rest);
    assert!(rest.is_empty());
    assert!(!home.path().join("forwarder.sock").exists());
    TcpListener::bind((ip, port)).unwrap();

    let wrong = Command::new(BINARY).arg("--data-dir").arg("/dev/null/x").output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("/dev/null/x"));
    let usage = Command::new(BINARY).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let help = Command::new(BINARY).arg("--help").output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("Example:"));
}

#[tokio::test]
async fn a_forwarder_that_cannot_start_is_explained() {
    let home = Home::new();
    let start = async |binary: &Path, data_dir: &Path| {
        ForwarderClient::ensure_running(data_dir, binary, &home.log()).await.unwrap_err()
    };
    let error = start(Path::new("/nonexistent/golem-forwarder"), home.path()).await;
    assert!(matches!(error, ClientError::Start { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/golem-forwarder"), "{error}");

    // A data directory that is a file.
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let error = start(Path::new(BINARY), &file).await;
    assert!(matches!(error, ClientError::DidNotStart { .. }), "{error}");
    assert!(error.to_string().contains("ended at once"), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
}

#[tokio::test]
async fn thousands_of_idle_sessions_cost_two_files_each() {
    let home = Home::new();
    let (client, hello) = home.ensure_running().await;
    let ip = own_ip();
    let port = route(&client, ip).await;
    let files = || fs::read_dir(format!("/proc/{}/fd", hello.pid)).unwrap().count();
    let before = files();
    let mut sessions: Vec<Session> = (0..40).map(|_| Session::open(ip, port)).collect();
    wait_until("the pipes are back", || files() <= before + 2 * 40 + 2 * 32);
    assert!(sessions.iter_mut().all(Session::works));
    client.clear_route(port, true).await.unwrap();
    wait_until("they are gone", || files() <= before + 2 * 32);
}
