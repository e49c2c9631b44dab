//! Finding out that the other side of a connection has vanished: a machine without power or a network that
//! is gone says nothing.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// When a silent connection is asked whether it is alive.
///
/// A connection counts as dead after `after` and `times` times `every` of silence: ten minutes unless set
/// otherwise, so that a network that is cut for a while, or a VM that is suspended, does not end a session.
/// One whose peer answers is kept for as long as it likes.
///
/// While bytes wait for their receipt the kernel asks by sending them again, and gives up after about a
/// quarter of an hour (`net.ipv4.tcp_retries2`). `TCP_USER_TIMEOUT` would shorten that, and is not set: it
/// also ends the connection of a peer that answers and only does not read, such as that of somebody who has
/// stopped the output of a command and gone for lunch.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// How long nothing was heard when it is asked first; whole seconds, at least one.
    pub after: Duration,
    /// How often it is asked then; whole seconds, at least one.
    pub every: Duration,
    /// How often without an answer until it counts as dead.
    pub times: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { after: Duration::from_secs(120), every: Duration::from_secs(60), times: 8 }
    }
}

/// Sets a connection up for interactive use, and for being found dead. A failure leaves it slower or
/// longer-lived, and is no reason to refuse it.
pub(super) fn prepare(stream: &TcpStream, keepalive: &Keepalive) {
    let all = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, keepalive.after)?;
        sockopt::set_tcp_keepintvl(stream, keepalive.every)?;
        sockopt::set_tcp_keepcnt(stream, keepalive.times)
    };
    if let Err(error) = all() {
        tracing::debug!("can't set the options of a connection: {error}");
    }
}
