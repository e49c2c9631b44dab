//! Dialling one address at many ports.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::port_check::PortResult;
use golem_vm_protocol::text::printable;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How a port is dialled. The default is what the original does.
#[derive(Debug, Clone, Copy)]
pub struct ProbePolicy {
    /// Time for one attempt.
    pub timeout: Duration,
    /// Attempts before a port counts as closed.
    pub tries: u32,
    /// Pause between attempts.
    pub pause: Duration,
    /// Time for a whole request. Providers give up after 30 s.
    pub deadline: Duration,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            tries: 3,
            pause: Duration::from_secs(1),
            deadline: Duration::from_secs(27),
        }
    }
}

/// What a port that could not even be tried is told.
const NOT_TRIED: &str = "Not checked: this port checker is busy; try again";

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

    /// Dials all `ports` of `address`, side by side as far as the bound allows. Returns within the
    /// policy's deadline, with an entry for each port.
    pub async fn check(&self, address: IpAddr, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortResult> {
        let deadline = Instant::now() + self.policy.deadline;
        let mut probes = JoinSet::new();
        for &port in ports {
            let prober = self.clone();
            // Aborted with the set if the request is abandoned.
            probes.spawn(async move {
                (port, prober.dial(SocketAddr::new(address, port), deadline).await)
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
            results.entry(port).or_insert_with(|| closed("Not checked: an internal error"));
        }
        results
    }

    async fn dial(&self, address: SocketAddr, deadline: Instant) -> PortResult {
        let mut found = NOT_TRIED.to_owned();
        let attempts = async {
            for attempt in 0..self.policy.tries {
                if attempt > 0 {
                    sleep(self.policy.pause).await;
                }
                // Held while dialling only: a pause takes nobody's place.
                let Ok(_permit) = self.connections.acquire().await else { return false };
                match timeout(self.policy.timeout, TcpStream::connect(address)).await {
                    Ok(Ok(_)) => return true,
                    Ok(Err(error)) => found = describe(&error),
                    Err(_) => found = TIMED_OUT.to_owned(),
                }
            }
            false
        };
        let reached = timeout_at(deadline, attempts).await.unwrap_or(false);
        tracing::debug!(%address, reached, found, "probed");
        if reached { PortResult { accessible: true, error: None } } else { closed(&found) }
    }
}

const TIMED_OUT: &str = "Connection timed out";

fn closed(error: &str) -> PortResult {
    PortResult { accessible: false, error: Some(error.to_owned()) }
}

/// The original's words where it has some, else the operating system's.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection refused".to_owned(),
        io::ErrorKind::TimedOut => TIMED_OUT.to_owned(),
        _ => {
            let text = error.to_string();
            // Rust appends " (os error 113)", which says nothing to a person.
            let said = text.split(" (os error").next().unwrap_or(&text);
            printable(said, 200)
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
        }
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
        let results = Prober::new(quick(), 1).check(LOOPBACK, &[first, second].into()).await;
        assert_eq!(results[&first], PortResult { accessible: true, error: None });
        assert_eq!(results[&second], closed("Connection refused"));
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
        let results = Prober::new(quick(), 8).check(LOOPBACK, &[address.port()].into()).await;
        assert_eq!(results[&address.port()], closed("Connection timed out"));
    }

    #[tokio::test]
    async fn without_room_a_port_is_not_called_closed() {
        let (_held, port) = open().await;
        let policy = ProbePolicy { deadline: Duration::from_millis(50), ..quick() };
        let prober = Prober::new(policy, 1);
        let _all = Arc::clone(&prober.connections).acquire_owned().await.unwrap();
        assert_eq!(prober.check(LOOPBACK, &[port].into()).await[&port], closed(NOT_TRIED));
    }

    #[test]
    fn errors_are_in_a_persons_words() {
        let error = io::Error::from_raw_os_error(113);
        assert_eq!(describe(&error), "No route to host");
        assert_eq!(describe(&io::ErrorKind::ConnectionRefused.into()), "Connection refused");
    }
}
