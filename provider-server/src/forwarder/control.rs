//! Answers the provider on one control connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::frame::{self, FrameError};
use super::handover::build_of;
use super::table::Table;
use super::wire::{self, Hello, PROTOCOL_VERSION, Refusal, RefusalCode, Reply, Request};

/// How long the provider may take to read a reply.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long and how much is still read from a connection that is about to be closed, so that the
/// last reply arrives: closing with unread input discards it.
const LAST_READ: (Duration, u64) = (Duration::from_secs(1), 64 * 1024 * 1024);

/// What a control connection needs to answer.
#[derive(Debug)]
pub(super) struct Control {
    /// The ports and routes.
    pub(super) table: Mutex<Table>,
    /// Who this is; the uptime is filled in.
    pub(super) identity: Identity,
    /// Ends the process.
    pub(super) shutdown: CancellationToken,
    /// Takes orders to become another program.
    pub(super) upgrades: mpsc::Sender<Upgrade>,
}

/// An order to become another program.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// Which one.
    pub(super) program: PathBuf,
    /// Why it could not be done. When it is done, there is nobody left to say so.
    pub(super) failed: oneshot::Sender<String>,
}

/// Who this forwarder is.
#[derive(Debug)]
pub(super) struct Identity {
    /// When it began, in milliseconds since 1970 UTC.
    pub(super) started_unix_ms: u64,
    /// The same by a clock that nobody sets.
    pub(super) started: std::time::Instant,
    /// The process's start in clock ticks since boot.
    pub(super) start_ticks: Option<u64>,
    /// The program's file, and which build of it this is.
    pub(super) program: Option<(PathBuf, String)>,
}

impl Identity {
    fn hello(&self) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_unix_ms: self.started_unix_ms,
            start_ticks: self.start_ticks,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            proofs: true,
            build: self.program.as_ref().map(|(_, build)| build.clone()),
            program: self.program.as_ref().map(|(path, _)| path.clone()),
        }
    }
}

/// Answers one connection until it ends. Whatever happens to it, ports and sessions stay.
pub(super) async fn serve(mut stream: UnixStream, control: Arc<Control>) {
    if let Err(refusal) = check_peer(&stream) {
        tracing::warn!("a control connection was refused: {}", refusal.message);
        let _ = send(&mut stream, 0, &Reply::Error(refusal)).await;
        return;
    }
    let mut stream = BufReader::new(stream);
    loop {
        // Between two requests, never in the middle of one.
        let line = tokio::select! {
            biased;
            () = control.shutdown.cancelled() => return,
            line = frame::read_line(&mut stream) => line,
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error @ FrameError::TooLong) => {
                return part(stream, 0, Refusal::new(RefusalCode::TooLong, error.to_string()))
                    .await;
            }
            Err(error) => {
                tracing::debug!("a control connection ended: {error}");
                return;
            }
        };
        let header = match wire::decode_header(&line) {
            Ok(header) => header,
            Err(error) => {
                let refusal =
                    Refusal::new(RefusalCode::BadRequest, format!("not a request: {error}"));
                return part(stream, 0, refusal).await;
            }
        };
        let request = match wire::decode::<Request>(&line) {
            Ok(Request::Hello) => Ok(Request::Hello),
            _ if header.v != PROTOCOL_VERSION => Err(Refusal::new(
                RefusalCode::ProtocolVersion,
                format!(
                    "this forwarder speaks version {PROTOCOL_VERSION} of the control protocol, the request version {}",
                    header.v
                ),
            )),
            Ok(request) => match wire::validate(&request) {
                Ok(()) => Ok(request),
                Err(refusal) => Err(refusal),
            },
            Err(error) => {
                let refusal =
                    Refusal::new(RefusalCode::BadRequest, format!("not a request: {error}"));
                return part(stream, header.id, refusal).await;
            }
        };
        let ends = matches!(request, Ok(Request::Shutdown));
        let reply = match request {
            Ok(request) => answer(request, &control).await.unwrap_or_else(Reply::Error),
            Err(refusal) => Reply::Error(refusal),
        };
        if let Reply::Error(refusal) = &reply {
            tracing::warn!("a request was refused: {}", refusal.message);
        }
        if let Err(error) = send(stream.get_mut(), header.id, &reply).await {
            tracing::debug!("a reply could not be sent: {error}");
            return;
        }
        if ends {
            tracing::info!("ending, as the provider asked");
            control.shutdown.cancel();
            return;
        }
    }
}

async fn answer(request: Request, control: &Control) -> Result<Reply, Refusal> {
    let ports = |ports| Reply::Ports { ports };
    match request {
        Request::Hello => Ok(Reply::Hello(control.identity.hello())),
        Request::Offer { listen_ip, ports: offered } => {
            Ok(ports(control.table.lock().await.offer(listen_ip, offered).await))
        }
        Request::Ports => Ok(ports(control.table.lock().await.status())),
        Request::Routes { routes, close_removed } => {
            control.table.lock().await.set_routes(routes, close_removed).await.map(ports)
        }
        Request::SetRoute { route } => control.table.lock().await.set_route(route).await.map(ports),
        Request::ClearRoute { port, close_sessions } => {
            Ok(ports(control.table.lock().await.clear_route(port, close_sessions).await))
        }
        Request::Stats => Ok(Reply::Stats(control.table.lock().await.stats())),
        Request::Upgrade { program } => upgrade(program, control).await,
        // Answered before it is done: afterwards there is nobody to answer.
        Request::Shutdown => Ok(Reply::Done),
    }
}

async fn upgrade(program: Option<PathBuf>, control: &Control) -> Result<Reply, Refusal> {
    let refused = |why: String| Refusal::new(RefusalCode::NotUpgraded, why);
    let own = control.identity.program.as_ref();
    let program = program.or_else(|| own.map(|(path, _)| path.clone())).ok_or_else(|| {
        refused("it is not known which program this one was started as: name it".to_owned())
    })?;
    let build = build_of(&program)
        .map_err(|error| refused(format!("can't look at {}: {error}", program.display())))?;
    if own.is_some_and(|(_, own)| *own == build) {
        return Ok(Reply::Hello(control.identity.hello()));
    }
    let (failed, failure) = oneshot::channel();
    let ended = || refused("this forwarder is about to end".to_owned());
    control.upgrades.send(Upgrade { program, failed }).await.map_err(|_| ended())?;
    Err(failure.await.map_or_else(|_| ended(), refused))
}

/// Only the user that the forwarder runs as, and root, who could do it anyway. The socket's mode
/// says the same; this holds when the mode was changed.
fn check_peer(stream: &UnixStream) -> Result<(), Refusal> {
    let peer = stream.peer_cred().map_err(|error| {
        Refusal::new(RefusalCode::Forbidden, format!("can't tell whose connection it is: {error}"))
    })?;
    check_user(peer.uid(), rustix::process::geteuid().as_raw())
}

fn check_user(peer: u32, own: u32) -> Result<(), Refusal> {
    if peer == own || peer == 0 {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Forbidden,
        format!("user {peer} may not control the forwarder of user {own}"),
    ))
}

async fn send(stream: &mut UnixStream, id: u64, reply: &Reply) -> std::io::Result<()> {
    let line = wire::encode(id, reply).map_err(std::io::Error::other)?;
    timeout(WRITE_DEADLINE, stream.write_all(&line)).await?
}

/// Sends a last reply and closes the connection.
async fn part(mut stream: BufReader<UnixStream>, id: u64, refusal: Refusal) {
    tracing::warn!("a control connection is closed: {}", refusal.message);
    if send(stream.get_mut(), id, &Reply::Error(refusal)).await.is_err() {
        return;
    }
    let _ = stream.get_mut().shutdown().await;
    let mut rest = stream.take(LAST_READ.1);
    let _ = timeout(LAST_READ.0, tokio::io::copy_buf(&mut rest, &mut tokio::io::sink())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_and_root_may_control_it() {
        assert!(check_user(1000, 1000).is_ok());
        assert!(check_user(0, 1000).is_ok());
        assert_eq!(
            check_user(1001, 1000).map_err(|refusal| refusal.code),
            Err(RefusalCode::Forbidden)
        );
        assert!(check_user(1000, 0).is_err());
    }
}
