//! How a running forwarder becomes another program without losing anything: the process stays, with all its
//! sockets, and what belongs to them is written down for the program that is executed in its place.
//!
//! Nothing is ever free for anybody else, no connection is refused (the kernel holds those that come
//! meanwhile), and no session is cut. See `docs/decisions/0009-the-forwarder-becomes-its-successor.md`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use data_encoding::BASE64;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use super::carriers::Packed;
use super::flow::{Flow, Held, Stage};
use super::session::Session;
use super::state::State;
use super::traffic::Counts;
use super::wire::Hello;

/// The version of what is written down. It rises when an earlier program would misunderstand it.
const FORMAT: u32 = 1;

/// The argument with which a program is asked whether it can take over; the format follows.
pub const CAN_TAKE_OVER: &str = "--can-take-over";

/// The argument with which a program takes over; the number of a file follows.
pub const TAKE_OVER: &str = "--take-over";

/// How long a program may take to say whether it can take over.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// What a program says that can take over.
#[must_use]
pub fn can_take_over(format: u32) -> Option<String> {
    (format == FORMAT).then(|| format!("golem-forwarder takes over {format}\n"))
}

/// Which program a file holds: another one after each build or installation, and the same for as long as
/// the file is not touched.
///
/// # Errors
/// When there is no such file.
pub fn build_of(program: &Path) -> io::Result<String> {
    let file = std::fs::metadata(program)?;
    let modified = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
    Ok(format!("{:x}-{modified:x}-{:x}", file.ino(), file.size()))
}

/// Asks a program whether it can take over from this one when it is started with `arguments`.
///
/// # Errors
/// A sentence that says why not.
pub(super) async fn probe(program: &Path, arguments: &[OsString]) -> Result<(), String> {
    let asked = Command::new(program)
        .args(arguments)
        .args([CAN_TAKE_OVER, &FORMAT.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let shown = program.display();
    match timeout(PROBE_DEADLINE, asked).await {
        Err(_) => Err(format!("{shown} does not say within 5 s whether it can take over")),
        Ok(Err(error)) => Err(format!("{shown} can't be started: {error}")),
        Ok(Ok(output)) if output.stdout == can_take_over(FORMAT).unwrap_or_default().as_bytes() => {
            Ok(())
        }
        Ok(Ok(output)) => Err(format!(
            "{shown} is no golem-forwarder that can take over from this one ({})",
            output.status
        )),
    }
}

/// Whether a program says that it is a golem-forwarder that can take over from one of this version.
async fn is_successor(program: &Path) -> bool {
    let arguments = ["--data-dir".into(), "/".into()];
    probe(program, &arguments).await.is_ok()
}

/// The program that a running forwarder should become, if it is of another build than what there is now:
/// `own`, or, where that is no forwarder because somebody else starts it (its systemd unit), what now stands
/// where it was started from. None as well if it can't tell its build, and so can't become another.
pub async fn successor_of(running: &Hello, own: &Path) -> Option<PathBuf> {
    let build = running.build.as_ref()?;
    for program in [Some(own), running.program.as_deref()].into_iter().flatten() {
        match build_of(program) {
            Ok(there) if there == *build => return None,
            Ok(_) if is_successor(program).await => return Some(program.to_owned()),
            _ => {}
        }
    }
    None
}

/// Everything that one program leaves to the next.
#[derive(Debug)]
pub(super) struct Inheritance {
    /// The lock of the data directory, which is held for as long as this file is open.
    pub(super) lock: File,
    /// Where the provider speaks to the forwarder.
    pub(super) control: std::os::unix::net::UnixListener,
    /// The offered ports and the routes.
    pub(super) state: State,
    /// The ports that are held or carry sessions.
    pub(super) ports: Vec<PackedPort>,
    /// The sessions.
    pub(super) sessions: Vec<Packed>,
}

/// A port that nobody accepts on at the moment.
#[derive(Debug)]
pub(super) struct PackedPort {
    /// Its number.
    pub(super) port: u16,
    /// Its listening socket, if it is held.
    pub(super) listener: Option<std::net::TcpListener>,
    /// How many connections were closed at once for want of room.
    pub(super) turned_away: u64,
    /// Its VM, and what has gone there.
    pub(super) traffic: Option<(String, Counts)>,
}

/// The same, written down. Fields are only ever added, with a default.
#[derive(Debug, Serialize, Deserialize)]
pub struct Parcel {
    format: u32,
    lock: RawFd,
    control: RawFd,
    state: State,
    ports: Vec<PortParcel>,
    sessions: Vec<SessionParcel>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PortParcel {
    port: u16,
    listener: Option<RawFd>,
    turned_away: u64,
    traffic: Option<(String, Counts)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionParcel {
    port: u16,
    vm: Option<String>,
    peer: SocketAddr,
    age_ms: u64,
    target: SocketAddr,
    client: RawFd,
    vm_side: Option<RawFd>,
    heard: String,
    is_ssh: bool,
    inwards: FlowParcel,
    outwards: FlowParcel,
}

#[derive(Debug, Serialize, Deserialize)]
struct FlowParcel {
    held: String,
    stage: Stage,
}

/// Executes `program` in place of this one. Returns only if that fails, with everything as it was.
pub(super) fn become_program(
    program: &Path,
    arguments: &[OsString],
    inheritance: Inheritance,
) -> (io::Error, io::Result<Inheritance>) {
    let parcel = Parcel::pack(inheritance);
    let error = match parcel.hand_over() {
        Ok(file) => {
            use std::os::unix::process::CommandExt as _;
            std::process::Command::new(program)
                .args(arguments)
                .arg(TAKE_OVER)
                .arg(file.as_raw_fd().to_string())
                .exec()
        }
        Err(error) => error,
    };
    (error, parcel.unpack())
}

/// Takes over what the program before this one has left. To be called at the very start, before anything is
/// opened.
///
/// # Errors
/// When it can't be understood. Then all of it is given up, and this program can start as any other.
pub fn take_over(file: RawFd) -> io::Result<Parcel> {
    let taken = (|| {
        let mut text = String::new();
        File::from(adopt(file)?).read_to_string(&mut text)?;
        let parcel: Parcel = serde_json::from_str(&text)?;
        if parcel.format != FORMAT {
            return Err(io::Error::other(format!("format {} instead of {FORMAT}", parcel.format)));
        }
        Ok(parcel)
    })();
    if taken.is_err() {
        super::detach::close_inherited();
    }
    taken
}

impl Parcel {
    /// From here on the files belong to nobody.
    fn pack(from: Inheritance) -> Self {
        let ports = from.ports.into_iter().map(|port| PortParcel {
            port: port.port,
            listener: port.listener.map(std::net::TcpListener::into_raw_fd),
            turned_away: port.turned_away,
            traffic: port.traffic,
        });
        Self {
            format: FORMAT,
            lock: from.lock.into_raw_fd(),
            control: from.control.into_raw_fd(),
            state: from.state,
            ports: ports.collect(),
            sessions: from.sessions.into_iter().filter_map(SessionParcel::pack).collect(),
        }
    }

    fn files(&self) -> impl Iterator<Item = RawFd> {
        let listeners = self.ports.iter().filter_map(|port| port.listener);
        let sessions = self.sessions.iter().flat_map(|s| [Some(s.client), s.vm_side]).flatten();
        [self.lock, self.control].into_iter().chain(listeners).chain(sessions)
    }

    /// Writes it down, and lets the next program have all of its files.
    fn hand_over(&self) -> io::Result<File> {
        let mut file = paper()?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.seek(SeekFrom::Start(0))?;
        for number in self.files() {
            // SAFETY: `pack` has taken the file out of its owner's hands without closing it, and nobody
            // else closes it before it is adopted.
            #[allow(unsafe_code)]
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(file, FdFlags::empty())?;
        }
        fcntl_setfd(&file, FdFlags::empty())?;
        Ok(file)
    }

    /// Takes hold of all of it. Needs a runtime.
    ///
    /// # Errors
    /// When something in it can't be.
    pub(super) fn unpack(self) -> io::Result<Inheritance> {
        let mut numbers: Vec<RawFd> = self.files().collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() != all {
            return Err(io::Error::other("one file stands there twice"));
        }
        let ports = self.ports.into_iter().map(|port| {
            Ok(PackedPort {
                port: port.port,
                listener: port.listener.map(adopt).transpose()?.map(Into::into),
                turned_away: port.turned_away,
                traffic: port.traffic,
            })
        });
        let ports = ports.collect::<io::Result<_>>()?;
        let sessions = self.sessions.into_iter().filter_map(|session| {
            let unpacked = session.unpack();
            unpacked.inspect_err(|error| tracing::warn!("a session is lost: {error}")).ok()
        });
        Ok(Inheritance {
            lock: adopt(self.lock)?.into(),
            control: adopt(self.control)?.into(),
            state: self.state,
            ports,
            sessions: sessions.collect(),
        })
    }
}

impl SessionParcel {
    /// None when its connections have failed meanwhile.
    fn pack(packed: Packed) -> Option<Self> {
        let Session { client, target, vm, heard, is_ssh, inwards, outwards } = *packed.session;
        let flow = |flow: Flow| {
            let held = BASE64.encode(&flow.held.into_bytes().ok()?);
            Some(FlowParcel { held, stage: flow.stage })
        };
        let (inwards, outwards) = (flow(inwards)?, flow(outwards)?);
        let vm_side = vm.map(tokio::net::TcpStream::into_std).transpose().ok()?;
        Some(Self {
            port: packed.port,
            vm: packed.vm,
            peer: packed.peer,
            age_ms: u64::try_from(packed.age.as_millis()).unwrap_or(u64::MAX),
            target,
            client: client.into_std().ok()?.into_raw_fd(),
            vm_side: vm_side.map(std::net::TcpStream::into_raw_fd),
            heard: BASE64.encode(&heard),
            is_ssh,
            inwards,
            outwards,
        })
    }

    fn unpack(self) -> io::Result<Packed> {
        let bytes = |text: &str| BASE64.decode(text.as_bytes()).map_err(io::Error::other);
        let stream = |number| {
            let stream: std::net::TcpStream = adopt(number)?.into();
            Ok::<_, io::Error>(stream)
        };
        let flow = |flow: &FlowParcel| {
            Ok::<_, io::Error>(Flow { held: Held::from(bytes(&flow.held)?), stage: flow.stage })
        };
        let (client, vm) = (stream(self.client)?, self.vm_side.map(stream).transpose()?);
        Ok(Packed {
            port: self.port,
            vm: self.vm,
            peer: self.peer,
            age: Duration::from_millis(self.age_ms),
            session: Box::new(Session {
                client: tokio::net::TcpStream::from_std(client)?,
                target: self.target,
                vm: vm.map(tokio::net::TcpStream::from_std).transpose()?,
                heard: bytes(&self.heard)?,
                is_ssh: self.is_ssh,
                inwards: flow(&self.inwards)?,
                outwards: flow(&self.outwards)?,
            }),
        })
    }
}

/// A file without a name, for this process and the program that takes over.
fn paper() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::memfd_create("golem-forwarder", rustix::fs::MemfdFlags::CLOEXEC)?.into());
    #[cfg(not(target_os = "linux"))]
    return Err(io::Error::new(io::ErrorKind::Unsupported, "only on Linux"));
}

/// Takes hold of an open file, which no program that is started later is to have.
fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other(format!("file {number} can't be one of them")));
    }
    // SAFETY: the number stands in a parcel, once (`unpack` looks). What stands there was taken out of its
    // owner's hands by `pack`, in this program or in the one before it.
    #[allow(unsafe_code)]
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&file, FdFlags::CLOEXEC)?;
    Ok(file)
}
