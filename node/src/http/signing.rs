//! The server's side of the profile `golem-v1`: is this request meant for us, fresh, and new?

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::http::HeaderMap;
use golem_vm_protocol::document::DocumentError;
use golem_vm_protocol::signature::{
    Nonce, RequestParts, RequestSignature, SignedHeaders, VerifiedRequest, WINDOW_SECONDS,
    sign_response, sign_stream, verify_request,
};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::{Timestamp, in_words};
use golem_vm_protocol::vm::{ConsoleOutput, VmEvent, console_frame, stream_frame};
use golem_vm_protocol::{ErrorCode, KeyId, KeyPair, Problem};

use super::caller::Caller;
use super::nonce_journal::{NonceJournal, Served};
use super::nonces::{NonceLimits, NonceMemory, Refusal};
use super::peer::Peer;
use super::problem::ProblemResponse;
use crate::clock::Clock;

/// A `host:port` under which a public service is reached, as it stands in a `…_PUBLIC_NAMES`
/// setting. Lower case; the port is always written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicName(String);

impl AsRef<str> for PublicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PublicName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for PublicName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("//") {
            return Err("write host:port, without http:// or a path".to_owned());
        }
        let (host, port) = text.rsplit_once(':').ok_or("write host:port, the port as well")?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let good_host = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
            }
        };
        if !good_host {
            return Err(
                "the host is neither a name, an IPv4 address nor an IPv6 address in brackets"
                    .to_owned(),
            );
        }
        if !port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == port) {
            return Err("the port is not a number from 1 to 65535".to_owned());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// The names under which a server accepts requests: what `Golem-Recipient` may say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipients(BTreeSet<String>);

impl Recipients {
    /// Only the server's own id, which is always accepted: for providers.
    #[must_use]
    pub fn own_id() -> Self {
        Self::default()
    }

    /// The `host:port` names under which a public service is reached, in any case of letters. A
    /// service that is bound to loopback also accepts `127.0.0.1`, `localhost` and `[::1]` with its
    /// port; one that is not does not, since a request signed for somebody else's loopback could
    /// be replayed to it.
    #[must_use]
    pub fn service<I>(public_names: I, bound: SocketAddr) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut names: BTreeSet<String> = public_names
            .into_iter()
            .map(|name| name.as_ref().trim().to_ascii_lowercase())
            .collect();
        if bound.ip().to_canonical().is_loopback() {
            let port = bound.port();
            names.insert(format!("{}:{port}", shown_host(bound)));
            names.extend(["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}")));
        }
        Self(names)
    }

    /// Whether no name is accepted but the server's id.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    fn accepts(&self, recipient: &str, own: KeyId) -> bool {
        self.0.contains(&recipient.to_ascii_lowercase()) || recipient == own.to_string()
    }
}

fn shown_host(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// A server's key, names, clock and memory: all it takes to check requests and sign replies.
#[derive(Debug)]
pub struct Signing {
    key: KeyPair,
    recipients: Recipients,
    clock: Arc<dyn Clock>,
    /// Since when, by `clock`, this process knows what was served.
    began: Mutex<Began>,
    // Plain mutexes: held for a few map operations, or for writing 56 bytes, never across an await.
    nonces: Mutex<NonceMemory>,
    journal: Option<Mutex<NonceJournal>>,
}

/// Since when a process knows what was served.
#[derive(Debug)]
struct Began {
    /// In seconds; what was signed until then may have been served by an earlier process.
    started: u64,
    /// What the clock showed at a moment.
    wall: u64,
    at: Instant,
}

impl Began {
    fn now(now: u64) -> Self {
        Self { started: now, wall: now, at: Instant::now() }
    }

    /// The second until which what was signed is refused, with the clock at `now`. Where the clock was
    /// set back to before the start, that is the moment in which this is noticed: else nobody would be
    /// served until it shows the time of the start again.
    fn started(&mut self, now: u64) -> u64 {
        let expected = self.wall.saturating_add(self.at.elapsed().as_secs());
        if now.abs_diff(expected) > WINDOW_SECONDS {
            if now < self.started {
                tracing::warn!(
                    "this machine's clock was set back by {}; what is signed from now on is served",
                    in_words(expected - now)
                );
                self.started = now;
            }
            (self.wall, self.at) = (now, Instant::now());
        }
        self.started
    }
}

impl Signing {
    /// Begins now, by `clock`: whatever was signed before the end of this second is refused as
    /// stale, because this process can't know whether the one before it has served it.
    #[must_use]
    pub fn new(key: KeyPair, recipients: Recipients, clock: Arc<dyn Clock>) -> Self {
        Self::with_nonce_limits(key, recipients, clock, NonceLimits::default())
    }

    /// [`Signing::new`] with other bounds on the memory of requests.
    #[must_use]
    pub fn with_nonce_limits(
        key: KeyPair,
        recipients: Recipients,
        clock: Arc<dyn Clock>,
        limits: NonceLimits,
    ) -> Self {
        let began = Mutex::new(Began::now(clock.now()));
        let nonces = Mutex::new(NonceMemory::new(limits));
        Self { key, recipients, clock, began, nonces, journal: None }
    }

    /// The same, which remembers over a restart what it has served of those whose clocks are ahead, in
    /// the file `path` (and `path` with other endings).
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub fn remembering(mut self, path: &Path) -> std::io::Result<Self> {
        let now = self.clock.now();
        let (journal, left) = NonceJournal::open(path, now)?;
        let nonces = self.nonces.get_mut().unwrap_or_else(PoisonError::into_inner);
        for served in left {
            // There was room for them.
            let _ = nonces.take(served.key, served.nonce, None, served.created, now);
        }
        self.journal = Some(Mutex::new(journal));
        Ok(self)
    }

    /// Writes down what would pass for new after a restart.
    fn write_down(&self, request: &VerifiedRequest, now: u64) -> Result<(), ProblemResponse> {
        let Some(journal) = self.journal.as_ref().filter(|_| request.created > now) else {
            return Ok(());
        };
        let VerifiedRequest { signer: key, nonce, created, .. } = *request;
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal
            .append(Served { key, nonce, created }, now)
            .map_err(|error| ProblemResponse::internal(&format!("served requests: {error}")))
    }

    /// The server's id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.key.id()
    }

    /// Who sent the request, and what makes it unique if it is signed; or why it is refused.
    pub(super) fn identify(
        &self,
        parts: &RequestParts<'_>,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<(Caller, Option<Nonce>), ProblemResponse> {
        let request = match verify_request(parts, headers) {
            Ok(None) => return Ok((Caller::Anonymous, None)),
            Ok(Some(request)) => request,
            Err(error) => {
                return Err(ProblemResponse::new(ErrorCode::SignatureInvalid, error.to_string()));
            }
        };
        if !self.recipients.accepts(&request.recipient, self.id()) {
            let detail = format!(
                "the request is meant for \"{}\"; this server has the id {}{}",
                printable(&request.recipient, 100),
                self.id(),
                names_hint(&self.recipients),
            );
            return Err(ProblemResponse::new(ErrorCode::WrongRecipient, detail));
        }
        let now = self.clock.now();
        if request.created.abs_diff(now) > WINDOW_SECONDS {
            return Err(skew(request.created, now).into());
        }
        let started = self.began.lock().unwrap_or_else(PoisonError::into_inner).started(now);
        if request.created <= started {
            let detail = format!(
                "the request was signed at {} and this server started at {started} (seconds since \
                 1970); sign it once more",
                request.created
            );
            return Err(ProblemResponse::new(ErrorCode::SignatureStale, detail));
        }
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = nonces.take(request.signer, request.nonce, peer.bucket(), request.created, now);
        drop(nonces);
        match taken {
            Ok(()) => {
                self.write_down(&request, now)?;
                Ok((Caller::Verified(request.signer), Some(request.nonce)))
            }
            Err(Refusal::Seen) => Err(ProblemResponse::new(
                ErrorCode::Replayed,
                "this very request was served before; sign a new one",
            )),
            Err(Refusal::KeyFull) => Err(ProblemResponse::new(
                ErrorCode::RateLimited,
                "this key has sent too many requests within two minutes; wait and try again",
            )),
            Err(Refusal::AddressFull) => Err(ProblemResponse::new(
                ErrorCode::RateLimited,
                "your address has sent too many signed requests within two minutes; wait and try again",
            )),
            Err(Refusal::Forgotten(seconds)) => Err(ProblemResponse::new(
                ErrorCode::Unavailable,
                format!(
                    "this server's clock was set back, and which of these requests it has served is \
                     forgotten; try again in {}",
                    in_words(seconds)
                ),
            )),
            Err(Refusal::Full) => {
                tracing::warn!("the memory of signed requests is full; requests are refused");
                Err(ProblemResponse::new(
                    ErrorCode::Unavailable,
                    "this server is too busy for signed requests; try again",
                ))
            }
        }
    }

    /// The headers that sign a reply to the request that carried `request`.
    pub(super) fn sign(
        &self,
        status: u16,
        body: &[u8],
        request: &RequestSignature,
    ) -> SignedHeaders {
        sign_response(&self.key, status, body, request, self.clock.now())
    }

    /// The headers that sign the head of a stream which answers the request that carried `request`.
    pub(super) fn sign_stream(&self, request: &RequestSignature) -> SignedHeaders {
        sign_stream(&self.key, request, self.clock.now())
    }

    /// An event as it goes into the stream that answers the request with `nonce`.
    pub(super) fn frame(&self, event: &VmEvent, nonce: &str) -> Result<String, DocumentError> {
        stream_frame(event, nonce, &self.key)
    }

    /// What a console said as it goes into its stream.
    pub(super) fn console_frame(&self, piece: &ConsoleOutput) -> Result<String, DocumentError> {
        console_frame(piece, &self.key)
    }
}

fn names_hint(recipients: &Recipients) -> String {
    if recipients.is_empty() {
        return String::new();
    }
    let names: Vec<_> = recipients.iter().collect();
    format!(" and the names {}", printable(&names.join(", "), 300))
}

/// Says by how much the clocks differ, for a person and, in `server_time`, for a program.
fn skew(created: u64, now: u64) -> Problem {
    let (which, when) = if created > now { ("ahead of", "after") } else { ("behind", "before") };
    let apart = in_words(created.abs_diff(now));
    let detail = format!(
        "your clock is {apart} {which} this server's: the request was signed {apart} {when} this \
         server's time ({now} seconds since 1970), and at most {WINDOW_SECONDS} s are allowed. Set \
         your clock (timedatectl set-ntp true), or ask the operator to set the server's"
    );
    Problem {
        server_time: Some(Timestamp::from_unix_seconds(now)),
        ..Problem::new(ErrorCode::ClockSkew, detail)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::signature::{Nonce, sign_request};

    use super::*;
    use crate::clock::ManualClock;

    const PEER: Peer = Peer::Local(super::super::peer::LocalPeer { uid: None, pid: None });

    fn key(seed: u8) -> KeyPair {
        KeyPair::from_secret_bytes([seed; 32]).unwrap()
    }

    fn server(recipients: Recipients) -> (Arc<ManualClock>, Signing) {
        let clock = Arc::new(ManualClock::at(1000));
        (Arc::clone(&clock), Signing::new(key(1), recipients, clock))
    }

    fn ask(
        signing: &Signing,
        recipient: &str,
        created: u64,
        nonce: u8,
    ) -> Result<Caller, ErrorCode> {
        let parts = RequestParts::new("GET", "/x", b"");
        let nonce = Nonce::from_bytes([nonce; 16]);
        let (headers, _) = sign_request(&key(2), &parts, recipient, None, created, nonce).unwrap();
        signing
            .identify(&parts, &headers.into_iter().collect(), &PEER)
            .map(|(caller, _)| caller)
            .map_err(|refusal| refusal.0.code)
    }

    #[test]
    fn names_are_those_configured_and_loopback_only_when_bound_to_it() {
        let public = Recipients::service(["Disco.example:9001"], "0.0.0.0:9001".parse().unwrap());
        assert_eq!(public.iter().collect::<Vec<_>>(), ["disco.example:9001"]);
        let local = Recipients::service(Vec::<String>::new(), "127.0.0.5:9001".parse().unwrap());
        let names: Vec<_> = local.iter().collect();
        assert_eq!(names, ["127.0.0.1:9001", "127.0.0.5:9001", "[::1]:9001", "localhost:9001"]);

        let (clock, signing) = server(public);
        clock.set(1001);
        assert!(ask(&signing, "DISCO.example:9001", 1001, 1).is_ok());
        assert!(ask(&signing, &signing.id().to_string(), 1001, 2).is_ok());
        assert_eq!(ask(&signing, "127.0.0.1:9001", 1001, 3), Err(ErrorCode::WrongRecipient));
        assert_eq!(ask(&signing, "disco.example", 1001, 4), Err(ErrorCode::WrongRecipient));
    }

    #[test]
    fn the_window_the_start_and_the_nonce_are_checked() {
        let (clock, signing) = server(Recipients::own_id());
        let own = signing.id().to_string();
        assert_eq!(ask(&signing, &own, 1000, 1), Err(ErrorCode::SignatureStale));
        clock.set(1001);
        assert_eq!(ask(&signing, &own, 1000, 1), Err(ErrorCode::SignatureStale));
        assert_eq!(ask(&signing, &own, 1001, 1), Ok(Caller::Verified(key(2).id())));
        assert_eq!(ask(&signing, &own, 1001, 1), Err(ErrorCode::Replayed));
        assert!(ask(&signing, &own, 1061, 2).is_ok());
        assert_eq!(ask(&signing, &own, 1062, 3), Err(ErrorCode::ClockSkew));
        clock.set(1100);
        assert!(ask(&signing, &own, 1040, 4).is_ok());
        assert_eq!(ask(&signing, &own, 1039, 5), Err(ErrorCode::ClockSkew));
    }

    #[test]
    fn a_clock_that_is_set_back_by_a_day_locks_nobody_out_and_revives_nothing() {
        const DAY: u64 = 86_400;
        let (clock, signing) = server(Recipients::own_id());
        clock.set(10 * DAY);
        let id = signing.id().to_string();
        ask(&signing, &id, 10 * DAY, 1).unwrap();
        // The first request after the jump is of the second in which it is noticed.
        clock.set(9 * DAY);
        let earlier = Signing::new(key(1), Recipients::own_id(), clock.clone());
        clock.set(9 * DAY - 200);
        assert_eq!(ask(&earlier, &id, 9 * DAY - 200, 2), Err(ErrorCode::SignatureStale));
        clock.set(9 * DAY - 199);
        ask(&earlier, &id, 9 * DAY - 199, 3).unwrap();
        assert_eq!(ask(&earlier, &id, 9 * DAY - 199, 3), Err(ErrorCode::Replayed));
        // One that has run all the while knows what it has served when that time comes again.
        clock.set(9 * DAY);
        ask(&signing, &id, 9 * DAY, 4).unwrap();
        clock.set(10 * DAY);
        assert_eq!(ask(&signing, &id, 10 * DAY, 1), Err(ErrorCode::Replayed));
        clock.set(9 * DAY);
        assert_eq!(ask(&signing, &id, 9 * DAY, 4), Err(ErrorCode::Replayed));
    }

    #[test]
    fn over_a_restart_nothing_is_served_twice_whatever_the_signers_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(1000));
        let start = || {
            let signing = Signing::new(key(1), Recipients::own_id(), clock.clone());
            signing.remembering(&dir.path().join("served")).unwrap()
        };
        let before = start();
        let own = before.id().to_string();
        clock.set(1001);
        assert!(ask(&before, &own, 1001, 1).is_ok());
        // From somebody whose clock is half a minute ahead.
        assert!(ask(&before, &own, 1031, 2).is_ok());
        drop(before);
        clock.set(1002);
        let after = start();
        assert_eq!(ask(&after, &own, 1001, 1), Err(ErrorCode::SignatureStale));
        for now in [1003, 1031, 1091] {
            clock.set(now);
            assert_eq!(ask(&after, &own, 1031, 2), Err(ErrorCode::Replayed), "at {now}");
        }
        assert!(ask(&after, &own, 1091, 3).is_ok());
    }

    #[test]
    fn public_names_are_host_and_port() {
        for good in ["disco.example:9001", "192.0.2.1:80", "[2001:db8::1]:9001", "DISCO:1"] {
            assert_eq!(good.parse::<PublicName>().unwrap().as_ref(), good.to_lowercase());
        }
        for bad in [
            "",
            "disco",
            ":9001",
            "a:0",
            "a:65536",
            "a:01",
            "http://a:1",
            "2001:db8::1:9001",
            "a b:1",
            "a:1/x",
        ] {
            assert!(bad.parse::<PublicName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_skew_says_by_how_much() {
        let slow = skew(1000, 1250);
        assert!(slow.detail.contains("4 min 10 s behind this server's"), "{}", slow.detail);
        assert_eq!(slow.server_time, Some(Timestamp::from_unix_seconds(1250)));
        let fast = skew(9000, 1000).detail;
        assert!(fast.contains("2 h 13 min ahead of this server's"), "{fast}");
    }
}
