//! HTTP by hand, for bytes that no client would send.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

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

/// Sends exactly these bytes and reads until the server has nothing more to say.
#[must_use]
pub fn exchange(address: &str, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The server may have made up its mind, and closed, before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
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
