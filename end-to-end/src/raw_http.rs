//! HTTP by hand, for bytes that no client would send.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// How long a server may be silent until it is told that nothing more comes, and in all.
const PATIENCE: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(30);

/// What came back, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status; none if the server said nothing that begins like HTTP.
    pub status: Option<u16>,
    /// The stable code of a problem.
    pub code: Option<String>,
    /// All of it.
    pub text: String,
}

/// A connection to `address` that comes from `source`, one of this machine's own addresses: how a test
/// plays several strangers.
#[must_use]
pub fn connect_from(source: Ipv4Addr, address: &str) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(source, 0)).unwrap();
    connect(&socket, &address.parse::<SocketAddr>().unwrap()).unwrap();
    TcpStream::from(socket)
}

/// Sends exactly these bytes and reads until the server has nothing more to say.
#[must_use]
pub fn exchange(address: &str, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    // The server may have made up its mind, and closed, before it has read everything.
    let _ = stream.write_all(bytes);
    let mut reply = Vec::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let silent = stream.read_to_end(&mut reply).is_err() && reply.is_empty();
    if silent {
        // It waits for more; there is none. Not said at once: whoever hangs up is not answered.
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = stream.read_to_end(&mut reply);
    }
    let text = String::from_utf8_lossy(&reply).into_owned();
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| digits.parse().ok());
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let code = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|problem| problem["code"].as_str().map(str::to_owned));
    Reply { status, code, text }
}
