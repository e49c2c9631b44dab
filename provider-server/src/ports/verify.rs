//! Has port checkers dial back, to find out which ports the world can reach.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golem_vm_node::client::{Call, ClientError, SignedClient, Target};
use golem_vm_node::clock::Clock;
use golem_vm_protocol::advertisement::OBSERVED_ADDRESS_HEADER;
use golem_vm_protocol::port_check::{CheckPortsRequest, CheckPortsResponse, MAX_PORTS};
use golem_vm_protocol::route;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::board::Answer;
use super::report::{Local, NotReached, PortsReport};
use super::{Backoff, PortBoard, PublicAddress, SeenBy};
use crate::config::Config;

/// Time for one checker to answer: a port that a firewall drops costs it 17 s, and all ports of a
/// request are looked at together, within its bounds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the API to accept a connection from this host.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(2);

/// When ports are verified again.
#[derive(Debug, Clone, Copy)]
pub struct VerifyPace {
    /// First wait after a round in which a port was not reached or nobody answered.
    pub first: Duration,
    /// Longest wait after such a round.
    pub longest: Duration,
    /// For how long new ports may gather before they are verified together.
    pub gather: Duration,
}

impl Default for VerifyPace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(30),
            longest: Duration::from_secs(600),
            gather: Duration::from_secs(1),
        }
    }
}

/// Verifies ports with the listed checkers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PortVerifier {
    board: PortBoard,
    api: SocketAddr,
    checkers: Vec<(String, Target)>,
    provider_ip: Option<String>,
    client: SignedClient,
    address: PublicAddress,
    clock: Arc<dyn Clock>,
    pace: VerifyPace,
    again: Arc<Notify>,
    /// What was asked about in the last round.
    asked: Arc<Mutex<Vec<u16>>>,
}

impl PortVerifier {
    /// A verifier of the ports on `board`. What the checkers see of this
    /// host's address goes to `address`.
    ///
    /// # Errors
    /// When the URL of a checker is none.
    pub fn new(
        config: &Config,
        board: PortBoard,
        client: SignedClient,
        address: PublicAddress,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ClientError> {
        let urls = if config.verify_ports { config.port_checkers.as_slice() } else { &[] };
        let checkers = urls
            .iter()
            .map(|url| Ok((url.clone(), Target::service(url)?)))
            .collect::<Result<_, _>>()?;
        // A checker dials the address that it sees, and no other. One that is set is sent along,
        // so that a difference is said and not advertised.
        let set = config.public_host.as_deref().and_then(|host| host.parse::<IpAddr>().ok());
        Ok(Self {
            api: reachable_here(SocketAddr::new(config.host, board.api_port())),
            board,
            checkers,
            provider_ip: set.map(|ip| ip.to_string()),
            client,
            address,
            clock,
            pace: VerifyPace::default(),
            again: Arc::new(Notify::new()),
            asked: Arc::default(),
        })
    }

    /// The same verifier at another pace.
    #[must_use]
    pub const fn with_pace(mut self, pace: VerifyPace) -> Self {
        self.pace = pace;
        self
    }

    /// Verifies until `shutdown`: now unless [`PortVerifier::check`] has done so, again with growing waits while a held port was not reached
    /// (its owner may have opened the firewall meanwhile) or nobody answered, and when a port has
    /// come that was not asked about.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut waits = Backoff::new(self.pace.first, self.pace.longest);
        let mut due = self.asked().is_empty();
        loop {
            if std::mem::take(&mut due) {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.round() => {}
                }
            }
            if self.checkers.is_empty() {
                shutdown.cancelled().await;
                return;
            }
            let wait = if self.board.has_unreached() {
                Some(waits.next())
            } else {
                waits.reset();
                None
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.again.notified() => {}
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = self.new_ports() => {}
            }
            due = true;
        }
    }

    /// Has [`PortVerifier::run`] verify again now.
    pub fn recheck(&self) {
        self.again.notify_one();
    }

    /// Asks every checker once, side by side, and returns what is known then.
    pub async fn check(&self) -> PortsReport {
        self.round().await;
        self.board.report()
    }

    fn asked(&self) -> Vec<u16> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks every checker once.
    async fn round(&self) {
        self.board.set_api(self.look_here().await);
        let ports = self.board.to_check();
        for (url, _) in &self.checkers {
            self.board.asking(url);
        }
        let asks = self.checkers.iter().map(|(url, target)| self.ask(url, target, &ports));
        futures_util::future::join_all(asks).await;
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = ports;
    }

    /// Whether the API accepts connections from this host.
    async fn look_here(&self) -> Local {
        let detail = match timeout(LOCAL_TIMEOUT, TcpStream::connect(self.api)).await {
            Ok(Ok(_)) => return Local::Held,
            Ok(Err(error)) => printable(&error.to_string(), 200),
            Err(_) => format!("no connection within {} s", LOCAL_TIMEOUT.as_secs()),
        };
        Local::Failed { detail: format!("{} does not answer here: {detail}", self.api) }
    }

    async fn ask(&self, url: &str, target: &Target, ports: &[u16]) {
        match self.answer(url, target, ports).await {
            Ok(answer) => self.board.answered(url, answer),
            Err(error) => {
                tracing::debug!("port checker: {error}");
                self.board.not_answered(url, &error.to_string());
            }
        }
    }

    async fn answer(
        &self,
        url: &str,
        target: &Target,
        ports: &[u16],
    ) -> Result<Answer, ClientError> {
        let mut results = BTreeMap::new();
        let mut dialled = None;
        let mut checker = self.client.id();
        for part in ports.chunks(MAX_PORTS) {
            let request = CheckPortsRequest {
                provider_ip: self.provider_ip.clone(),
                ports: part.iter().copied().map(i64::from).collect(),
            };
            let call = Call::post(route::CHECK_PORTS, &request)?.timeout(CHECK_TIMEOUT);
            let reply = self.client.call(target, &call).await?;
            // What the reply says of its author does not matter: this is who signed it.
            checker = reply.signer;
            let body: CheckPortsResponse = reply.reply.json()?;
            let seen = body.observed_address.as_deref().or_else(|| {
                reply
                    .reply
                    .headers
                    .get(OBSERVED_ADDRESS_HEADER)
                    .and_then(|value| value.to_str().ok())
            });
            if let Some(seen) = seen.and_then(|text| text.trim().parse().ok()) {
                self.address.observed(SeenBy::PortChecker, url, seen);
            }
            dialled = body.checked_address.map(|address| printable(&address, 64)).or(dialled);
            let mut said = body.results;
            for port in part {
                // A port that the checker says nothing about was not reached.
                let outcome = said.remove(port).map_or_else(
                    || {
                        Some(NotReached::Other {
                            detail: "the checker said nothing about it".into(),
                        })
                    },
                    |result| (!result.accessible).then(|| cause(result.error.as_deref())),
                );
                results.insert(*port, outcome);
            }
        }
        let micros = i64::try_from(self.clock.now_micros()).unwrap_or(i64::MAX);
        Ok(Answer { checker, at: Timestamp::from_unix_micros(micros), dialled, results })
    }

    /// Returns when a port is held that was not asked about in the last round.
    async fn new_ports(&self) {
        let asked = self.asked();
        let mut changes = self.board.changes();
        while self.board.to_check().iter().all(|port| asked.contains(port)) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        sleep(self.pace.gather).await;
    }
}

/// The cause behind a checker's words.
fn cause(error: Option<&str>) -> NotReached {
    let text = error.unwrap_or("no reason was given");
    let lower = text.to_lowercase();
    if lower.contains("timed out") || lower.contains("timeout") {
        NotReached::NoAnswer
    } else if lower.contains("refused") {
        NotReached::Refused
    } else {
        NotReached::Other { detail: printable(text, 200) }
    }
}

/// Where a listener on all addresses is reached from the host itself.
fn reachable_here(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, listening.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_in_the_words_of_all_checkers() {
        assert_eq!(cause(Some("Connection refused")), NotReached::Refused);
        assert_eq!(cause(Some("Connection timed out")), NotReached::NoAnswer);
        assert_eq!(cause(Some("[Errno 111] Connect call failed: refused")), NotReached::Refused);
        let odd = NotReached::Other { detail: "no\u{fffd}route".into() };
        assert_eq!(cause(Some("no\u{1b}route")), odd);
    }
}
