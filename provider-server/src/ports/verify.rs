//! Has port checkers dial back, to find out which ports the world can reach.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golem_vm_node::client::{Call, ClientError, SignedClient, Target};
use golem_vm_node::clock::Clock;
use golem_vm_protocol::attestation::{AcceptedCheckers, AttestationError, Claim, PortAttestation};
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::port_check::{
    AttestedCheckRequest, AttestedCheckResponse, MAX_PORTS, NotProven, ProofResult,
};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{KeyId, route};
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
/// For how long an answer counts that attests nothing: it only says what is wrong.
const UNATTESTED: Duration = Duration::from_secs(1800);
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
        Ok(Self {
            api: reachable_here(SocketAddr::new(config.host, board.api_port())),
            board,
            checkers,
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

    /// Verifies until `shutdown`: now unless [`PortVerifier::check`] has done so, again with growing
    /// waits while a held port was not proven (its owner may have opened the firewall meanwhile) or a
    /// checker did not answer, when a port has come that was not asked about, and before what was
    /// attested expires.
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
            let now = self.now();
            self.board.forget_expired(now);
            let ages = self.board.ages();
            let mut wait = ages.map(|(half, _)| half.since(now).max(self.pace.first));
            if self.board.is_lacking() {
                // What counts no longer is forgotten in time, however long the wait is.
                let end = ages.map_or(Duration::MAX, |(_, end)| end.since(now));
                wait = Some(waits.next().min(end));
            } else {
                waits.reset();
            }
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
    ) -> Result<Answer, CheckError> {
        let asked_at = self.now();
        let mut answer = Answer {
            checker: self.client.id(),
            at: asked_at,
            dialled: None,
            results: BTreeMap::new(),
            attestations: Vec::new(),
            // While nothing was proven there is nothing that could expire.
            until: asked_at.plus(UNATTESTED),
        };
        // The first port, which may have to prove the address, is the API's in every part.
        let (first, rest) = ports.split_at(ports.len().min(1));
        for part in rest.chunks(MAX_PORTS - 1).chain(rest.is_empty().then_some(rest)) {
            let part = [first, part].concat();
            let request = AttestedCheckRequest { host: self.address.fixed(), ports: part.clone() };
            let call = Call::post(route::PORT_CHECKS, &request)?.timeout(CHECK_TIMEOUT);
            let reply = self.client.call(target, &call).await?;
            // What the reply says of its author does not matter: this is who signed it.
            answer.checker = reply.signer;
            let body: AttestedCheckResponse = reply.reply.json()?;
            if let Ok(seen) = body.observed_address.trim().parse() {
                self.address.observed(SeenBy::PortChecker, url, seen);
            }
            answer.dialled = Some(printable(&body.address, 64));
            if let Some(envelope) = body.attestation {
                let attested = self.verified(&envelope, reply.signer, &body.host)?;
                answer.at = attested.observed_at;
                answer.until = attested.expires_at;
                answer.attestations.push((body.host, envelope));
            }
            for port in part {
                // A port that the checker says nothing about was not proven.
                let outcome = match body.results.get(&port) {
                    None => Some(NotReached::Other {
                        detail: "the checker said nothing about it".into(),
                    }),
                    Some(ProofResult { proven: true, .. }) => None,
                    Some(result) => Some(cause(result)),
                };
                answer.results.insert(port, outcome);
            }
        }
        Ok(answer)
    }

    /// What a checker attests, if it is what requestors will believe.
    fn verified(
        &self,
        envelope: &Envelope,
        signer: KeyId,
        host: &str,
    ) -> Result<PortAttestation, CheckError> {
        let claim = Claim {
            provider: self.client.id(),
            host,
            ports: &[],
            now: self.now(),
            accepted: AcceptedCheckers::Only(&[signer]),
        };
        let attested = PortAttestation::verify(envelope, &claim)?;
        Ok(attested.attestation)
    }

    fn now(&self) -> Timestamp {
        let micros = i64::try_from(self.clock.now_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros(micros)
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

/// Why a checker's answer is not used.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Call(#[from] ClientError),
    #[error("the port checker's own word can't be used: {0}; compare its clock with this host's")]
    Attestation(#[from] AttestationError),
}

/// The cause that a checker names.
fn cause(result: &ProofResult) -> NotReached {
    match result.cause {
        Some(NotProven::NoAnswer) => NotReached::NoAnswer,
        Some(NotProven::Refused) => NotReached::Refused,
        Some(NotProven::NoProof) => NotReached::NoProof,
        Some(NotProven::WrongProof) => NotReached::WrongProof,
        Some(NotProven::NotTried | NotProven::Other) | None => {
            let said = result.detail.as_deref().unwrap_or("no reason was given");
            NotReached::Other { detail: printable(said, 200) }
        }
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
    fn a_cause_that_is_not_known_is_shown_in_the_checkers_words() {
        let timed_out = ProofResult::not_proven(NotProven::NoAnswer, "Connection timed out");
        assert_eq!(cause(&timed_out), NotReached::NoAnswer);
        let odd = NotReached::Other { detail: "no\u{fffd}route".into() };
        assert_eq!(cause(&ProofResult::not_proven(NotProven::Other, "no\u{1b}route")), odd);
        let novel = r#"{"proven": false, "cause": "of_tomorrow", "detail": "no\u001broute"}"#;
        assert_eq!(serde_json::from_str(novel).map(|result| cause(&result)).ok(), Some(odd));
    }
}
