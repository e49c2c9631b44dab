//! The forwarder's table, asked over its own socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Where one port leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// The port.
    pub port: u16,
    /// The VM's id.
    pub vm: String,
    /// Its SSH server.
    pub target: String,
}

/// Where the forwarder of this data directory leads; `None` when none answers.
pub(super) fn routes(data_dir: &Path) -> Option<Vec<Route>> {
    let mut stream = UnixStream::connect(data_dir.join("forwarder.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    writeln!(stream, "{}", json!({"v": 1, "id": 1, "op": "ports"})).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    let reply: Value = serde_json::from_str(&line).ok()?;
    let ports = reply["ports"].as_array().unwrap_or_else(|| panic!("no ports in {reply}"));
    let routed = ports.iter().filter(|port| !port["route"].is_null());
    let routes = routed.map(|port| {
        let route = &port["route"];
        Route {
            port: port["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap(),
            vm: route["vm"].as_str().unwrap().to_owned(),
            target: route["target"].as_str().unwrap().to_owned(),
        }
    });
    Some(routes.collect())
}
