//! What the provider and the forwarder say to each other.
//!
//! One JSON object per line in each direction over a Unix socket, one reply per request, in order.
//! Every line carries the protocol version (`v`) and the number of the request (`id`), which the
//! reply repeats. A line is at most [`MAX_LINE`] bytes. All requests can be repeated without harm.
//!
//! `hello` is answered whatever version the other side speaks, so that a provider can say that the
//! running forwarder is older or newer than itself; its fields are never taken away.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of this protocol. It rises when an old forwarder would misunderstand a new
/// provider, not when a request is added.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest request or reply, in bytes, the line end included.
pub const MAX_LINE: usize = 2 * 1024 * 1024;

/// Most ports that can be offered, and most routes.
pub const MAX_PORTS: usize = 8192;

/// Longest VM name or id in a route, in bytes.
pub const MAX_VM_NAME: usize = 128;

/// Where the connections to one port go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The port that people connect to.
    pub port: u16,
    /// The VM's SSH server.
    pub target: SocketAddr,
    /// The VM's id, for logs and statistics.
    pub vm: String,
}

/// What the provider asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you? Answered by [`Reply::Hello`].
    Hello,
    /// The full set of ports to hold. Ports that are not in it are released, unless a route leads
    /// through them. Answered by [`Reply::Ports`], for every port that is held or wanted.
    Offer {
        /// The local address to listen on, `0.0.0.0` or `::` for all.
        listen_ip: IpAddr,
        /// The ports, 1 to 65535 each.
        ports: BTreeSet<u16>,
    },
    /// The state of the ports. Answered by [`Reply::Ports`].
    Ports,
    /// The full table of routes, in place of the one before. Answered by [`Reply::Ports`].
    Routes {
        /// The routes, at most one per port.
        routes: Vec<Route>,
        /// Whether the sessions of the routes that are not in the new table are cut.
        #[serde(default)]
        close_removed: bool,
    },
    /// Adds or replaces one route. New connections go to the new target, open ones stay where
    /// they are. Answered by [`Reply::Ports`] for this port.
    SetRoute {
        /// The route.
        route: Route,
    },
    /// Removes one route. Answered by [`Reply::Ports`] for this port, without a port if it has
    /// been released.
    ClearRoute {
        /// The port.
        port: u16,
        /// Whether the sessions of this port are cut.
        close_sessions: bool,
    },
    /// What goes through the ports. Answered by [`Reply::Stats`].
    Stats,
    /// Become another program, and lose nothing: ports and sessions stay. A forwarder that is of that
    /// build already answers by [`Reply::Hello`]. One that becomes it closes its control connections; asked
    /// again, it answers so.
    Upgrade {
        /// The program, by its absolute path; the one that it was started as if none is named.
        #[serde(default)]
        program: Option<PathBuf>,
    },
    /// End: all ports are released and all sessions are cut. Answered by [`Reply::Done`].
    Shutdown,
}

/// What the forwarder answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To everything that concerns ports and routes.
    Ports {
        /// One entry per port, in rising order.
        ports: Vec<PortStatus>,
    },
    /// To [`Request::Stats`].
    Stats(Stats),
    /// To [`Request::Shutdown`].
    Done,
    /// The request was not carried out.
    Error(Refusal),
}

/// Who a forwarder is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol that it speaks.
    pub protocol_version: u32,
    /// The version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it was started, in milliseconds since 1970 UTC.
    pub started_unix_ms: u64,
    /// The process's start in clock ticks since boot (field 22 of `/proc/PID/stat`), which
    /// together with `pid` names the process for good; only on Linux.
    #[serde(default)]
    pub start_ticks: Option<u64>,
    /// For how long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// Whether it answers port checkers. One of an earlier version closes their connections.
    #[serde(default)]
    pub proofs: bool,
    /// Which program it is: see [`super::build_of`]. One of an earlier version does not tell, and can't be
    /// upgraded while it runs.
    #[serde(default)]
    pub build: Option<String>,
    /// Where that program was when it was started.
    #[serde(default)]
    pub program: Option<PathBuf>,
}

/// The state of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The port.
    pub port: u16,
    /// Whether the forwarder listens on it.
    pub bound: bool,
    /// Why it does not; it goes on trying.
    #[serde(default)]
    pub failure: Option<BindFailure>,
    /// Whether the port is in the offered set. One that is not is held only for its route.
    pub offered: bool,
    /// Where its connections go.
    #[serde(default)]
    pub route: Option<Route>,
}

/// Why a port could not be bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindFailure {
    /// The kind of failure.
    pub reason: BindFailureReason,
    /// The system's own words.
    pub detail: String,
}

/// The kinds of reasons for which a port can't be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindFailureReason {
    /// Another program has the port (`EADDRINUSE`).
    InUse,
    /// The forwarder is not allowed to have it (`EACCES`, `EPERM`), such as a port below 1024.
    Permission,
    /// This machine does not have the address to listen on (`EADDRNOTAVAIL`).
    Address,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// What goes through the forwarder. Counts start with the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Open sessions on all ports.
    pub open: u64,
    /// Sessions at most on all ports at once.
    pub limit: u64,
    /// Sessions at most on one port at once.
    pub limit_per_port: u64,
    /// One entry per port that carries a route or a session, in rising order.
    pub ports: Vec<PortStats>,
}

/// What goes through one port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// The port.
    pub port: u16,
    /// The VM that it leads to, if it has a route.
    #[serde(default)]
    pub vm: Option<String>,
    /// Open sessions on this port.
    pub open: u64,
    /// Connections that were closed at once because the port or the forwarder was full.
    pub turned_away: u64,
    /// Sessions so far to this VM, the open ones included.
    pub sessions: u64,
    /// Sessions that ended because the VM could not be reached.
    pub unreachable: u64,
    /// Bytes from clients to this VM.
    pub bytes_in: u64,
    /// Bytes from this VM to clients.
    pub bytes_out: u64,
    /// When a byte last went either way, in milliseconds since 1970 UTC.
    #[serde(default)]
    pub last_activity_unix_ms: Option<u64>,
    /// For how many milliseconds no byte of an SSH client's session has gone either way; since the
    /// route was made, if none has. Clocks that are set don't change it, and time in which this machine
    /// sleeps is not counted. Only for ports with a route; one of an earlier version does not tell.
    #[serde(default)]
    pub quiet_ms: Option<u64>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind of refusal.
    pub code: RefusalCode,
    /// What is wrong, for a person.
    pub message: String,
}

impl Refusal {
    /// A refusal with its explanation.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request is not one, or its values can't be. The connection is closed.
    BadRequest,
    /// The line is longer than [`MAX_LINE`]. The connection is closed.
    TooLong,
    /// The other side speaks another version of the protocol.
    ProtocolVersion,
    /// A route was set before any ports were offered, so the address to listen on is not known.
    NothingOffered,
    /// It can't become that program, and goes on as it is.
    NotUpgraded,
    /// Other users than the forwarder's own and root may not control it.
    Forbidden,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What every line has, whatever the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// The version of the protocol that the sender speaks.
    #[serde(default)]
    pub v: u32,
    /// The number of the request.
    #[serde(default)]
    pub id: u64,
}

#[derive(Serialize)]
struct Line<'a, T> {
    v: u32,
    id: u64,
    #[serde(flatten)]
    message: &'a T,
}

/// One message as a line, with its line end.
///
/// # Errors
/// None for the types of this module; serde's signature has one.
pub fn encode<T: Serialize>(id: u64, message: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(&Line { v: PROTOCOL_VERSION, id, message })?;
    line.push(b'\n');
    Ok(line)
}

/// The header of a line.
///
/// # Errors
/// When the line is not a JSON object.
pub fn decode_header(line: &[u8]) -> Result<Header, serde_json::Error> {
    serde_json::from_slice(line)
}

/// The message of a line.
///
/// # Errors
/// When the line is not such a message.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

/// Checks the values of a request that its types can't.
///
/// # Errors
/// [`RefusalCode::BadRequest`], naming the value.
pub fn validate(request: &Request) -> Result<(), Refusal> {
    let bad = |message: String| Err(Refusal::new(RefusalCode::BadRequest, message));
    let check_route = |route: &Route| -> Result<(), Refusal> {
        if route.port == 0 || route.target.port() == 0 {
            return bad("port 0 can't be routed".to_owned());
        }
        if route.vm.is_empty() || route.vm.len() > MAX_VM_NAME {
            return bad(format!(
                "the VM of port {} must have 1 to {MAX_VM_NAME} bytes, not {}",
                route.port,
                route.vm.len()
            ));
        }
        if route.vm.chars().any(char::is_control) {
            return bad(format!("the VM of port {} contains control characters", route.port));
        }
        Ok(())
    };
    match request {
        Request::Offer { ports, .. } => {
            if ports.contains(&0) {
                return bad("port 0 can't be offered".to_owned());
            }
            if ports.len() > MAX_PORTS {
                return bad(format!(
                    "{} ports are too many, at most {MAX_PORTS} can be offered",
                    ports.len()
                ));
            }
            Ok(())
        }
        Request::Routes { routes, .. } => {
            if routes.len() > MAX_PORTS {
                return bad(format!(
                    "{} routes are too many, at most {MAX_PORTS} can be set",
                    routes.len()
                ));
            }
            let mut seen = BTreeSet::new();
            for route in routes {
                check_route(route)?;
                if !seen.insert(route.port) {
                    return bad(format!("port {} has two routes", route.port));
                }
            }
            Ok(())
        }
        Request::SetRoute { route } => check_route(route),
        Request::Upgrade { program: Some(program) } if !program.is_absolute() => {
            bad(format!("the program {} has no absolute path", program.display()))
        }
        Request::Hello
        | Request::Upgrade { .. }
        | Request::Ports
        | Request::ClearRoute { .. }
        | Request::Stats
        | Request::Shutdown => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn text(line: &[u8]) -> &str {
        std::str::from_utf8(line).unwrap()
    }

    #[test]
    fn the_lines_are_pinned() {
        assert_eq!(
            text(&encode(7, &Request::Hello).unwrap()),
            "{\"v\":1,\"id\":7,\"op\":\"hello\"}\n"
        );
        let offer = Request::Offer {
            listen_ip: "0.0.0.0".parse().unwrap(),
            ports: BTreeSet::from([50800, 50801]),
        };
        assert_eq!(
            text(&encode(8, &offer).unwrap()),
            "{\"v\":1,\"id\":8,\"op\":\"offer\",\"listen_ip\":\"0.0.0.0\",\"ports\":[50800,50801]}\n"
        );
        let route =
            Route { port: 50800, target: "172.17.0.2:22".parse().unwrap(), vm: "vm_x".to_owned() };
        assert_eq!(
            text(&encode(9, &Request::SetRoute { route }).unwrap()),
            "{\"v\":1,\"id\":9,\"op\":\"set_route\",\"route\":{\"port\":50800,\"target\":\"172.17.0.2:22\",\"vm\":\"vm_x\"}}\n"
        );
        let upgrade = Request::Upgrade { program: Some("/usr/bin/golem-forwarder".into()) };
        assert_eq!(
            text(&encode(10, &upgrade).unwrap()),
            "{\"v\":1,\"id\":10,\"op\":\"upgrade\",\"program\":\"/usr/bin/golem-forwarder\"}\n"
        );
        let refusal = Reply::Error(Refusal::new(RefusalCode::TooLong, "no"));
        assert_eq!(
            text(&encode(0, &refusal).unwrap()),
            "{\"v\":1,\"id\":0,\"reply\":\"error\",\"code\":\"too_long\",\"message\":\"no\"}\n"
        );
    }

    #[test]
    fn a_line_goes_there_and_back() {
        let request = Request::ClearRoute { port: 50800, close_sessions: true };
        let line = encode(3, &request).unwrap();
        assert_eq!(decode_header(&line).unwrap(), Header { v: 1, id: 3 });
        assert_eq!(decode::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn unknown_reasons_and_codes_of_later_versions_are_read() {
        let failure: BindFailure = decode(br#"{"reason":"eaten","detail":"x"}"#).unwrap();
        assert_eq!(failure.reason, BindFailureReason::Other);
        let refusal: Refusal = decode(br#"{"code":"novel","message":"x"}"#).unwrap();
        assert_eq!(refusal.code, RefusalCode::Unknown);
    }

    #[test]
    fn impossible_values_are_refused() {
        let route = |port: u16, vm: &str| Route {
            port,
            target: "127.0.0.1:22".parse().unwrap(),
            vm: vm.to_owned(),
        };
        let refused =
            |request: Request| validate(&request).unwrap_err().code == RefusalCode::BadRequest;
        assert!(refused(Request::Upgrade { program: Some("golem-forwarder".into()) }));
        assert!(refused(Request::SetRoute { route: route(0, "a") }));
        assert!(refused(Request::SetRoute { route: route(1, "") }));
        assert!(refused(Request::SetRoute { route: route(1, "a\u{1b}b") }));
        assert!(refused(Request::SetRoute { route: route(1, &"a".repeat(MAX_VM_NAME + 1)) }));
        let twice = vec![route(1, "a"), route(1, "b")];
        assert!(refused(Request::Routes { routes: twice, close_removed: false }));
        let listen_ip = "0.0.0.0".parse().unwrap();
        assert!(refused(Request::Offer { listen_ip, ports: BTreeSet::from([0]) }));
        assert!(refused(Request::Offer { listen_ip, ports: (1..=8193).collect() }));
        assert!(validate(&Request::Offer { listen_ip, ports: (1..=8192).collect() }).is_ok());
    }
}
