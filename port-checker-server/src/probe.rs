//! Dialling one address at many ports.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::port_check::NotProven;
use golem_vm_protocol::text::printable;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::proof;

/// How a port is dialled. Timeout, tries and pause are those of the original.
#[derive(Debug, Clone, Copy)]
pub struct ProbePolicy {
    /// Time for a connection, and again for a proof on it.
    pub timeout: Duration,
    /// Attempts at a connection before a port counts as closed.
    pub tries: u32,
    /// Pause between attempts.
    pub pause: Duration,
    /// Time for a whole request. Providers of the original give up after 30 s.
    pub deadline: Duration,
    /// Connections open or opening for one request at a time.
    pub side_by_side: usize,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            tries: 3,
            pause: Duration::from_secs(1),
            deadline: Duration::from_secs(27),
            side_by_side: 256,
        }
    }
}

/// What is looked for at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Whether a connection is accepted, by whomever.
    Open,
    /// Whether `provider` answers there.
    Proof {
        /// Who asks.
        checker: KeyId,
        /// Whose port it has to be.
        provider: KeyId,
    },
}

/// Why a port is not what was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub cause: NotProven,
    /// In words.
    pub detail: String,
}

impl Failure {
    /// A failure with its words.
    pub(crate) fn new(cause: NotProven, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }

    /// What a port that could not even be tried is told.
    fn not_tried() -> Self {
        Self::new(NotProven::NotTried, "Not checked: this port checker is busy; try again")
    }
}

/// Dials under one bound on open connections for all requests together.
#[derive(Debug, Clone)]
pub struct Prober {
    policy: ProbePolicy,
    connections: Arc<Semaphore>,
}

impl Prober {
    /// A prober that has at most `max_connections` connections open or opening at any moment.
    #[must_use]
    pub fn new(policy: ProbePolicy, max_connections: usize) -> Self {
        Self { policy, connections: Arc::new(Semaphore::new(max_connections)) }
    }

    /// Dials all `ports` of `address`, side by side as far as the bounds allow. Returns within the
    /// policy's deadline, with an entry for each port.
    pub async fn check(
        &self,
        address: IpAddr,
        ports: &BTreeSet<u16>,
        probe: Probe,
    ) -> BTreeMap<u16, Result<(), Failure>> {
        let deadline = Instant::now() + self.policy.deadline;
        let places = Arc::new(Semaphore::new(self.policy.side_by_side));
        let mut probes = JoinSet::new();
        for &port in ports {
            let (prober, places) = (self.clone(), Arc::clone(&places));
            // Aborted with the set if the request is abandoned.
            probes.spawn(async move {
                let address = SocketAddr::new(address, port);
                (port, prober.dial(address, probe, &places, deadline).await)
            });
        }
        let mut results = BTreeMap::new();
        while let Some(joined) = probes.join_next().await {
            if let Ok((port, result)) = joined {
                results.insert(port, result);
            }
        }
        // A probe that panicked is not a closed port.
        for &port in ports {
            results.entry(port).or_insert_with(|| {
                Err(Failure::new(NotProven::NotTried, "Not checked: an internal error"))
            });
        }
        results
    }

    /// Dials one port, once.
    ///
    /// # Errors
    /// What was found instead.
    pub async fn once(&self, address: IpAddr, port: u16, probe: Probe) -> Result<(), Failure> {
        let places = Semaphore::new(1);
        let deadline = Instant::now() + self.policy.timeout * 2;
        let prober = Self { policy: ProbePolicy { tries: 1, ..self.policy }, ..self.clone() };
        prober.dial(SocketAddr::new(address, port), probe, &places, deadline).await
    }

    async fn dial(
        &self,
        address: SocketAddr,
        probe: Probe,
        places: &Semaphore,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut found = Failure::not_tried();
        let attempts = async {
            for attempt in 0..self.policy.tries {
                if attempt > 0 {
                    sleep(self.policy.pause).await;
                }
                // Held while dialling only: a pause takes nobody's place.
                let Ok(_place) = places.acquire().await else { return false };
                let Ok(_permit) = self.connections.acquire().await else { return false };
                match self.attempt(address, probe).await {
                    Ok(()) => return true,
                    Err(failure) => found = failure,
                }
                // Whoever listens there has said what there is to say.
                if matches!(found.cause, NotProven::NoProof | NotProven::WrongProof) {
                    return false;
                }
            }
            false
        };
        let reached = timeout_at(deadline, attempts).await.unwrap_or(false);
        tracing::debug!(%address, reached, found = found.detail, "probed");
        if reached { Ok(()) } else { Err(found) }
    }

    async fn attempt(&self, address: SocketAddr, probe: Probe) -> Result<(), Failure> {
        let stream = match timeout(self.policy.timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(describe(&error)),
            Err(_) => return Err(Failure::new(NotProven::NoAnswer, TIMED_OUT)),
        };
        match probe {
            Probe::Open => Ok(()),
            Probe::Proof { checker, provider } => {
                proof::ask(stream, address, checker, provider, self.policy.timeout).await
            }
        }
    }
}

const TIMED_OUT: &str = "Connection timed out";

/// The original's words where it has some, else the operating system's.
fn describe(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::new(NotProven::Refused, "Connection refused"),
        io::ErrorKind::TimedOut => Failure::new(NotProven::NoAnswer, TIMED_OUT),
        _ => {
            let text = error.to_string();
            // Rust appends " (os error 113)", which says nothing to a person.
            let said = text.split(" (os error").next().unwrap_or(&text);
            Failure::new(NotProven::Other, printable(said, 200))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn quick() -> ProbePolicy {
        ProbePolicy {
            timeout: Duration::from_millis(200),
            tries: 2,
            pause: Duration::from_millis(1),
            deadline: Duration::from_secs(20),
            side_by_side: 8,
        }
    }

    fn closed(cause: NotProven, detail: &str) -> Result<(), Failure> {
        Err(Failure::new(cause, detail))
    }

    async fn open() -> (TcpListener, u16) {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn open_and_closed_ports_are_told_apart() {
        let (_held, first) = open().await;
        let (released, second) = open().await;
        drop(released);
        let results =
            Prober::new(quick(), 1).check(LOOPBACK, &[first, second].into(), Probe::Open).await;
        assert_eq!(results[&first], Ok(()));
        assert_eq!(results[&second], closed(NotProven::Refused, "Connection refused"));
    }

    #[tokio::test]
    async fn a_port_that_does_not_answer_timed_out() {
        // A listener whose queue is full drops what comes next.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((LOOPBACK, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) =
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            held.push(stream);
        }
        let results =
            Prober::new(quick(), 8).check(LOOPBACK, &[address.port()].into(), Probe::Open).await;
        assert_eq!(results[&address.port()], closed(NotProven::NoAnswer, TIMED_OUT));
    }

    #[tokio::test]
    async fn without_room_a_port_is_not_called_closed() {
        let (_held, port) = open().await;
        let policy = ProbePolicy { deadline: Duration::from_millis(50), ..quick() };
        let prober = Prober::new(policy, 1);
        let _all = Arc::clone(&prober.connections).acquire_owned().await.unwrap();
        let results = prober.check(LOOPBACK, &[port].into(), Probe::Open).await;
        assert_eq!(results[&port], Err(Failure::not_tried()));
    }

    #[test]
    fn errors_are_in_a_persons_words() {
        let error = io::Error::from_raw_os_error(113);
        assert_eq!(describe(&error), Failure::new(NotProven::Other, "No route to host"));
        let refused = describe(&io::ErrorKind::ConnectionRefused.into());
        assert_eq!(refused, Failure::new(NotProven::Refused, "Connection refused"));
    }
}
