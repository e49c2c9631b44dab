//! A machine's way out: its network is set up inside, and slirp4netns made its uplink.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchown, openat};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, Command};
use tokio::task::JoinHandle;

use super::addressing::{GATEWAY_MAC, MTU, UPLINK_ADDRESS, UPLINK_NETWORK};
use super::ruleset::{GUEST_SIDE, SSH_PORT, UPLINK};
use super::{Inside, NetworkError, Ruleset, program};
use crate::process::{Peer, ProcessIdentity, RunAs};

/// What sets up the guest's side.
const PREPARE: &str = include_str!("prepare.sh");
/// What becomes slirp4netns.
const BECOME: &str = include_str!("uplink.sh");

/// slirp4netns is there in 50 ms; on a host whose CPUs are all busy it takes long.
const READY: Duration = Duration::from_secs(30);
/// How long a process may take to end after SIGKILL.
const ENDED: Duration = Duration::from_secs(20);
/// Between two looks whether it is there.
const LOOK: Duration = Duration::from_millis(5);
/// How many ports of the machine's loopback address are tried: another program may have one.
const PORTS: u16 = 16;
/// Longest answer of slirp4netns, in bytes; usual are 30.
const ANSWER_MAX: u64 = 4096;
/// What is kept of its messages, in bytes.
const SAID_MAX: usize = 2000;

/// Name of its socket.
const SOCKET: &str = "api";

/// Memory for each connection: two buffers of 128 KiB (libslirp's TCP_SNDSPACE and TCP_RCVSPACE).
const KIB_PER_CONNECTION: u64 = 256;
/// Memory for itself.
const KIB_OWN: u64 = 256 << 10;
/// Files besides the connections'.
const FILES_OWN: u64 = 64;

/// A directory for the uplink's socket, which is made anew.
#[derive(Debug, Clone, Copy)]
pub struct Folder<'a> {
    /// Where it is.
    pub outside: &'a Path,
    /// Where the machine's user sees it in the machine's mount namespace.
    pub inside: &'a Path,
}

/// A machine's uplink. Whoever has it keeps it: it outlives this program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// slirp4netns.
    pub process: ProcessIdentity,
    /// Where on this host the guest's SSH server is reached.
    pub ssh: SocketAddr,
}

/// Gives the machine whose process waits `inside` its network. `note` is called with the uplink's process before
/// that is let go on: what it writes down outlives this program, so that [`lower`] ends the process whatever
/// happens. Until then the process ends by itself when this program does.
///
/// # Errors
/// Why it has none. Then the uplink's process has ended, and its directory is gone. What was set up inside is left
/// to the end of the machine's process, and is set up anew by another call.
pub async fn raise(
    inside: Inside<'_>,
    ruleset: &Ruleset<'_>,
    folder: Folder<'_>,
    note: impl FnOnce(&ProcessIdentity) -> io::Result<()>,
) -> Result<Uplink, NetworkError> {
    let addressing = ruleset.addressing;
    let gateway = format!("{}/{}", addressing.gateway, addressing.prefix);
    let words = [
        "sh",
        "-c",
        PREPARE,
        "golem-network",
        GUEST_SIDE,
        &addressing.guest.to_string(),
        &addressing.mac.to_string(),
        &gateway,
        &GATEWAY_MAC.to_string(),
        &MTU.to_string(),
    ];
    inside.run(&words, &ruleset.text()).await?;
    anew(inside, ruleset, folder, note).await
}

/// Gives a machine whose guest runs another uplink, in the place of one whose process has ended: what is inside its
/// namespaces is still as [`raise`] has set it up, but for the uplink's end. `note` is as there.
///
/// # Errors
/// Why it has none. Then the uplink's process has ended, and its directory is gone; this can be called again.
pub async fn reconnect(
    inside: Inside<'_>,
    ruleset: &Ruleset<'_>,
    folder: Folder<'_>,
    note: impl FnOnce(&ProcessIdentity) -> io::Result<()>,
) -> Result<Uplink, NetworkError> {
    // The rules come first, as always.
    replace_rules(inside, ruleset).await?;
    anew(inside, ruleset, folder, note).await
}

async fn anew(
    inside: Inside<'_>,
    ruleset: &Ruleset<'_>,
    folder: Folder<'_>,
    note: impl FnOnce(&ProcessIdentity) -> io::Result<()>,
) -> Result<Uplink, NetworkError> {
    make(folder.outside, inside.run_as).map_err(|error| {
        let path = folder.outside.display();
        NetworkError::Io(format!("the directory {path} can't be made: {error}"))
    })?;
    let started = start(inside, ruleset, folder, note).await;
    if started.is_err() {
        let _ = remove(folder.outside);
    }
    started
}

/// Puts other rules in place of those of a machine that runs. Connections that they allow stay open.
///
/// # Errors
/// Why they are not in place; then the earlier ones are.
pub async fn replace_rules(inside: Inside<'_>, ruleset: &Ruleset<'_>) -> Result<(), NetworkError> {
    inside.run(&["nft", "-f", "-"], &ruleset.text()).await.map(drop)
}

/// Ends a machine's uplink and removes its directory. Does nothing where neither is there. What is inside its
/// namespaces ends with the machine's process.
///
/// # Errors
/// Why something is left.
pub async fn lower(process: &ProcessIdentity, folder: &Path) -> Result<(), NetworkError> {
    end(process).await?;
    remove(folder).map_err(|error| {
        NetworkError::Io(format!("the directory {} can't be removed: {error}", folder.display()))
    })
}

async fn end(process: &ProcessIdentity) -> Result<(), NetworkError> {
    match process.kill(ENDED).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(NetworkError::Io(format!(
            "the uplink's process {} has not ended within {} s",
            process.pid,
            ENDED.as_secs()
        ))),
        Err(error) => {
            let pid = process.pid;
            Err(NetworkError::Io(format!("the uplink's process {pid} can't be ended: {error}")))
        }
    }
}

/// Makes the directory anew, for the machine's user alone.
fn make(folder: &Path, run_as: RunAs) -> io::Result<()> {
    remove(folder)?;
    std::fs::DirBuilder::new().create(folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // By the directory itself: the machine's user may be able to put something else in its place.
    let opened = openat(CWD, folder, flags, Mode::empty())?;
    rustix::fs::fchmod(&opened, Mode::RWXU)?;
    if let RunAs::User { id, .. } = run_as {
        fchown(&opened, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The command that waits, and becomes slirp4netns.
fn words(inside: &Inside<'_>, ruleset: &Ruleset<'_>, program: &Path, at: &Path) -> Vec<String> {
    let connections = u64::from(ruleset.rules.caps.connections);
    let mut words = inside.as_user();
    words.extend(["setsid", "sh", "-c", BECOME, "golem-uplink"].map(str::to_owned));
    words.push(at.display().to_string());
    // Of UDP it remembers each for 4 minutes, longer than they count as connections.
    words.push((connections.saturating_mul(2) + FILES_OWN).to_string());
    words.push((connections.saturating_mul(KIB_PER_CONNECTION) + KIB_OWN).to_string());
    words.push(program.display().to_string());
    let arguments = format!(
        "--configure --mtu={MTU} --cidr={UPLINK_NETWORK} --disable-host-loopback --enable-sandbox \
         --enable-seccomp --api-socket={SOCKET} {} {UPLINK}",
        inside.process.pid
    );
    words.extend(arguments.split(' ').map(str::to_owned));
    words
}

async fn start(
    inside: Inside<'_>,
    ruleset: &Ruleset<'_>,
    folder: Folder<'_>,
    note: impl FnOnce(&ProcessIdentity) -> io::Result<()>,
) -> Result<Uplink, NetworkError> {
    let missing =
        |program: &str, package| NetworkError::Missing { program: program.to_owned(), package };
    let slirp =
        program::find("slirp4netns").ok_or_else(|| missing("slirp4netns", "slirp4netns"))?;
    inside.proved()?;
    let at = inside.seen(folder.outside, folder.inside);
    let mut words = words(&inside, ruleset, &slirp, at);
    let first = words.remove(0);
    let first: PathBuf = program::find(&first).ok_or_else(|| missing(&first, "util-linux"))?;
    let failed = |error: io::Error| NetworkError::Uplink(error.to_string());
    let mut child = Command::new(first)
        .args(words)
        .env_clear()
        .env("PATH", program::path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let pid = child.id().ok_or_else(|| failed(io::Error::other("it has no pid")))?;
    let process = ProcessIdentity::of(pid).map_err(failed)?;
    let (Some(mut go), Some(said)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(failed(io::Error::other("it has no pipes")));
    };
    let said = Said::listen(said);
    // Whoever started a process is who has to notice its end; it goes on when this program does not.
    tokio::spawn(async move { child.wait().await });
    let opened = async {
        note(&process).map_err(|error| {
            NetworkError::Io(format!("the uplink's process can't be written down: {error}"))
        })?;
        // One that has ended already has said why.
        let _ = go.write_all(b"go\n").await;
        drop(go);
        open(&process, ruleset, folder.outside, &said).await
    };
    match opened.await {
        Ok(ssh) => Ok(Uplink { process, ssh }),
        Err(error) => {
            end(&process).await?;
            Err(error)
        }
    }
}

/// Waits until it is there, and has it pass on connections to the guest's SSH server. Where they come in.
async fn open(
    process: &ProcessIdentity,
    ruleset: &Ruleset<'_>,
    folder: &Path,
    said: &Said,
) -> Result<SocketAddr, NetworkError> {
    let peer = Peer::new(folder, SOCKET, process);
    let began = Instant::now();
    let entrance = ruleset.addressing.entrance;
    let mut refused = String::new();
    for port in SSH_PORT..SSH_PORT + PORTS {
        let question = serde_json::json!({
            "execute": "add_hostfwd",
            "arguments": {
                "proto": "tcp",
                "host_addr": entrance,
                "host_port": port,
                "guest_addr": UPLINK_ADDRESS,
                "guest_port": SSH_PORT,
            },
        });
        let answer = loop {
            let left = READY.saturating_sub(began.elapsed());
            let asked = tokio::time::timeout(left, ask(&peer, &question)).await;
            let why = match asked {
                Ok(Ok(answer)) => break answer,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if !process.alive().unwrap_or(true) {
                return Err(NetworkError::Uplink(said.all().await));
            }
            if began.elapsed() >= READY {
                let seconds = READY.as_secs();
                return Err(NetworkError::Uplink(format!("not there after {seconds} s: {why}")));
            }
            tokio::time::sleep(LOOK).await;
        };
        if answer.get("return").is_some() {
            return Ok(SocketAddr::new(IpAddr::V4(entrance), port));
        }
        refused = answer.to_string();
    }
    let last = SSH_PORT + PORTS - 1;
    let refused = program::in_one_line(&refused);
    Err(NetworkError::Uplink(format!(
        "no port of {entrance} from {SSH_PORT} to {last} can be listened at: {refused}"
    )))
}

/// Asks slirp4netns one question. It answers one for each connection.
async fn ask(peer: &Peer<'_>, question: &serde_json::Value) -> io::Result<serde_json::Value> {
    let mut stream = peer.connect().await?;
    stream.write_all(question.to_string().as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// What a process says, as long as this is kept; then it speaks to nobody.
#[derive(Debug)]
struct Said {
    heard: Arc<Mutex<Vec<u8>>>,
    listening: JoinHandle<()>,
}

impl Said {
    fn listen(mut from: ChildStderr) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            let mut piece = [0; 1024];
            while let Ok(length @ 1..) = from.read(&mut piece).await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(piece.get(..length).unwrap_or_default());
                let surplus = kept.len().saturating_sub(SAID_MAX);
                kept.drain(..surplus);
            }
        });
        Self { heard, listening }
    }

    /// All that was said by one that has ended.
    async fn all(&self) -> String {
        let began = Instant::now();
        while !self.listening.is_finished() && began.elapsed() < ENDED {
            tokio::time::sleep(LOOK).await;
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let said = program::in_one_line(&String::from_utf8_lossy(&heard));
        if said.is_empty() { "slirp4netns ended without a word".to_owned() } else { said }
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
