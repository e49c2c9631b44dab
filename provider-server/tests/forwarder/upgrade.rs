//! An upgrade of the forwarder while it runs: the real program becomes another one.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use golem_vm_provider::forwarder::wire::RefusalCode;
use golem_vm_provider::forwarder::{build_of, successor_of};

use super::*;

/// Another build, as far as anybody can tell.
fn other_build(home: &Home, name: &str) -> PathBuf {
    install(Path::new(BINARY), home.path().join(name))
}

/// Copies a program, in a process of its own: a file that this process had open for writing could not be
/// executed while a child that another test has just started still has it as well.
pub(super) fn install(from: &Path, to: PathBuf) -> PathBuf {
    assert!(Command::new("cp").arg(from).arg(&to).status().unwrap().success());
    to
}

/// A program that says that it can take over, and then is this script.
fn script(home: &Home, name: &str, when_asked: &str, then: &str) -> PathBuf {
    let path = home.path().join(format!("{name}.text"));
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--can-take-over*) {when_asked}; echo 'golem-forwarder takes over 1'; exit 0;; esac\n{then}\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    install(&path, home.path().join(name))
}

/// A session on which numbered bytes go to the VM and come back all the time, until it is asked.
struct Flowing {
    stop: Arc<AtomicBool>,
    there_and_back: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

impl Flowing {
    fn start(session: Session) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let there_and_back = Arc::new(AtomicU64::new(0));
        let mut writer = session.0.get_ref().try_clone().unwrap();
        let mut reader = session.0;
        let threads = vec![
            std::thread::spawn({
                let stop = Arc::clone(&stop);
                move || {
                    let mut at = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let piece: Vec<u8> = (at..at + 7919).map(pattern).collect();
                        writer.write_all(&piece).unwrap();
                        at += 7919;
                    }
                    writer.shutdown(Shutdown::Write).unwrap();
                }
            }),
            std::thread::spawn({
                let there_and_back = Arc::clone(&there_and_back);
                move || {
                    let mut at = 0;
                    let mut piece = vec![0; 64 * 1024];
                    loop {
                        let read = reader.read(&mut piece).unwrap();
                        if read == 0 {
                            return;
                        }
                        for byte in &piece[..read] {
                            assert_eq!(*byte, pattern(at), "byte {at} is another one");
                            at += 1;
                        }
                        there_and_back.store(at, Ordering::Relaxed);
                    }
                }
            }),
        ];
        Self { stop, there_and_back, threads }
    }

    fn so_far(&self) -> u64 {
        self.there_and_back.load(Ordering::Relaxed)
    }

    /// Ends it, and returns how many bytes came back: all of them, in order.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.there_and_back.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_live_through_two_upgrades_and_nobody_is_refused() {
    let home = Home::new();
    let (client, first) = home.ensure_running().await;
    let ip = own_ip();
    let port = route(&client, ip).await;
    assert_eq!(first.build.as_deref(), Some(build_of(Path::new(BINARY)).unwrap().as_str()));

    let mut idle = Session::open(ip, port);
    let flowing: Vec<Flowing> = (0..8).map(|_| Flowing::start(Session::open(ip, port))).collect();
    // Says nothing for as long as the upgrades take, and then that it speaks SSH.
    let mut silent = TcpStream::connect((ip, port)).unwrap();
    // Has closed its half.
    let mut half = Session::open(ip, port);
    half.0.get_mut().write_all(b"last words\n").unwrap();
    half.0.get_mut().shutdown(Shutdown::Write).unwrap();

    // Meanwhile somebody comes all the time, and is never refused or left without an answer.
    let stop = Arc::new(AtomicBool::new(false));
    let coming = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let (mut count, mut longest) = (0_u32, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                assert!(Session::open(ip, port).works());
                longest = longest.max(began.elapsed());
                count += 1;
            }
            (count, longest)
        }
    });

    for name in ["second", "third"] {
        let program = other_build(&home, name);
        let before: Vec<u64> = flowing.iter().map(Flowing::so_far).collect();
        let now = client.upgrade(Some(&program)).await.unwrap();
        assert_eq!(now.pid, first.pid, "it is the same process");
        assert_eq!(now.start_ticks, first.start_ticks);
        assert_eq!(now.build, Some(build_of(&program).unwrap()));
        assert_eq!(fs::read_link(format!("/proc/{}/exe", now.pid)).unwrap(), program);
        // Asked again, it does nothing.
        assert_eq!(
            client.upgrade(Some(&program)).await.unwrap().started_unix_ms,
            now.started_unix_ms
        );
        wait_until("bytes flow again in every session", || {
            flowing.iter().zip(&before).all(|(flowing, before)| flowing.so_far() > before + 100_000)
        });
        assert!(idle.works());
    }
    stop.store(true, Ordering::Relaxed);
    let (count, longest) = coming.join().unwrap();
    println!("{count} came meanwhile, the longest waited {longest:?}");
    assert!(count > 0);

    silent.write_all(b"SSH-2.0-late\n").unwrap();
    let mut silent = BufReader::new(silent);
    for expected in ["hello\n", "SSH-2.0-late\n"] {
        let mut line = String::new();
        silent.read_line(&mut line).unwrap();
        assert_eq!(line, expected, "greeted once");
    }
    assert_eq!(half.line().unwrap(), "last words\n");
    assert_eq!(half.line().unwrap(), "", "and the other half ends as well");
    for flowing in flowing {
        assert!(flowing.finish() > 0);
    }

    // It counts on, holds the lock, and still cuts what it is told to.
    let stats = client.stats().await.unwrap();
    assert!(stats.ports[0].sessions >= 10 + u64::from(count), "{stats:?}");
    let second = Command::new(BINARY).arg("--data-dir").arg(home.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(EXIT_ALREADY_RUNNING));
    client.clear_route(port, true).await.unwrap();
    assert!(idle.line().is_ok_and(|line| line.is_empty()), "unrouted is cut");
    wait_until("all are gone", || {
        let files = fs::read_dir(format!("/proc/{}/fd", first.pid)).unwrap();
        let sockets = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        sockets.filter(|file| file.to_string_lossy().starts_with("socket:")).count() <= 8
    });
}

#[tokio::test]
async fn what_can_not_take_over_is_refused_and_nothing_is_lost() {
    let home = Home::new();
    let (client, hello) = home.ensure_running().await;
    let ip = own_ip();
    let port = route(&client, ip).await;
    let mut session = Session::open(ip, port);
    let gone = script(&home, "gone", "rm \"$0\"", "exit 1");
    let other_format =
        script(&home, "other", "echo 'golem-forwarder takes over 2'; exit 0", "exit 1");
    for program in [
        Path::new("/nonexistent/golem-forwarder"),
        Path::new("/bin/false"),
        Path::new("/bin/true"),
        home.path(),
        &other_format,
        // It is gone when it is executed, with everything packed up.
        &gone,
    ] {
        let refused = client.upgrade(Some(program)).await.unwrap_err();
        assert!(
            matches!(&refused, ClientError::Refused(why) if why.code == RefusalCode::NotUpgraded
                && why.message.contains(&*program.to_string_lossy())),
            "{refused}"
        );
        assert!(session.works(), "{}", program.display());
        assert!(Session::open(ip, port).works(), "{}", program.display());
    }
    let now = client.hello().await.unwrap();
    assert_eq!((now.pid, now.started_unix_ms), (hello.pid, hello.started_unix_ms));

    // What a provider finds out by itself.
    let other = other_build(&home, "golem-forwarder");
    assert_eq!(successor_of(&now, Path::new(BINARY)).await, None, "it is that one");
    assert_eq!(successor_of(&now, &other).await.as_deref(), Some(other.as_path()));
    let in_place = Hello { build: Some("0".to_owned()), ..now.clone() };
    assert_eq!(
        successor_of(&in_place, Path::new("/bin/false")).await.as_deref(),
        Some(Path::new(BINARY))
    );
    assert_eq!(successor_of(&now, Path::new("/bin/false")).await, None);
    let too_old = Hello { build: None, ..now };
    assert_eq!(successor_of(&too_old, &other).await, None);
}

#[tokio::test]
async fn killed_in_the_middle_of_an_upgrade_it_comes_back_with_its_routes() {
    let home = Home::new();
    let (client, hello) = home.ensure_running().await;
    let ip = own_ip();
    let port = route(&client, ip).await;
    let mut session = Session::open(ip, port);
    // Has everything, and does nothing with it.
    let middle =
        script(&home, "middle", ":", "echo yes > \"$(dirname \"$0\")/reached\"; exec sleep 1000");
    let (upgrading, watcher) =
        (ForwarderClient::new(home.path()), ForwarderClient::new(home.path()));
    let upgrading = tokio::spawn(async move { upgrading.upgrade(Some(&middle)).await });
    let reached = home.path().join("reached");
    let end = Instant::now() + PATIENCE;
    while !reached.exists() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A connection that comes now is held by the kernel, and so is the port.
    let waiting = TcpStream::connect((ip, port)).unwrap();
    assert!(TcpListener::bind((ip, port)).is_err(), "nobody else gets the port");
    let watch = tokio::spawn(async move { watcher.watch().await });
    kill_process(Pid::from_raw(i32::try_from(hello.pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    tokio::time::timeout(PATIENCE, watch).await.unwrap().unwrap();
    upgrading.await.unwrap().unwrap_err();
    assert!(session.line().map_or(true, |line| line.is_empty()), "it died with the process");
    drop(waiting);

    let (_, after) = home.ensure_running().await;
    assert_ne!(after.pid, hello.pid);
    assert!(Session::open(ip, port).works());
}

#[tokio::test]
async fn the_program_itself_can_be_asked_to_upgrade_the_running_one() {
    let home = Home::new();
    let upgrade = |program: &Path| {
        Command::new(program).arg("--data-dir").arg(home.path()).arg("--upgrade").output().unwrap()
    };
    let nobody = upgrade(Path::new(BINARY));
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no golem-forwarder answers"));

    let (client, before) = home.ensure_running().await;
    let ip = own_ip();
    let port = route(&client, ip).await;
    let mut session = Session::open(ip, port);
    let program = other_build(&home, "golem-forwarder");
    let done = upgrade(&program);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(
        said.contains(&format!("process {}", before.pid)) && said.contains("carries 1 session"),
        "{said}"
    );
    assert!(session.works());
    assert_eq!(client.hello().await.unwrap().program.as_deref(), Some(program.as_path()));
    // Replaced in its place, as an installation does it: it becomes what now stands there.
    fs::remove_file(&program).unwrap();
    other_build(&home, "golem-forwarder");
    let now = client.upgrade(None).await.unwrap();
    assert_eq!(now.build, Some(build_of(&program).unwrap()));
    assert!(session.works());
}
