//! Somebody between a requestor and a provider, who reads everything and does with it as told.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long either side may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a port proof's line begins with, and no request's.
const PROOF_BEGINS: &[u8; 2] = b"GO";

/// A request or a reply, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The request line or the status line.
    pub first: String,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// A reply of nobody in particular.
    #[must_use]
    pub fn forged(status: &str, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), "application/problem+json".to_owned())];
        Self { first: format!("HTTP/1.1 {status}"), headers, body: body.into() }
    }

    /// Sets a header, or adds it.
    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The status, if it is a reply.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.first.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
                _ => return None,
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
        let mut lines = head.split("\r\n").map(str::to_owned);
        let first = lines.next()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| {
                line.split_once(':').map(|(name, value)| (name.into(), value.trim().into()))
            })
            .collect();
        let mut message = Self { first, headers, body: bytes.split_off(end + 4) };
        let length = message.header("content-length").and_then(|text| text.parse().ok());
        let mut missing = vec![0; length.unwrap_or(0_usize).saturating_sub(message.body.len())];
        stream.read_exact(&mut missing).ok()?;
        message.body.extend_from_slice(&missing);
        Some(message)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut message = self.clone();
        message.set("content-length", &self.body.len().to_string());
        message.set("connection", "close");
        let mut text = format!("{}\r\n", message.first);
        for (name, value) in &message.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        [text.into_bytes(), message.body].concat()
    }
}

/// What becomes of one request.
#[derive(Debug, Clone)]
pub enum Meddling {
    /// It is passed on as it is, and so is the reply.
    Pass,
    /// This goes to the provider in its place; the reply is passed on.
    Instead(Message),
    /// The provider never sees it; this is the answer.
    Answer(Message),
    /// The provider gets it; this is the answer, whatever the provider says.
    ObeyAndAnswer(Message),
    /// The provider's reply is changed so.
    Reply(fn(&mut Message)),
    /// The provider gets it; nobody hears its reply.
    LoseReply,
    /// The provider gets it; only so many bytes of its reply arrive.
    CutReply(usize),
    /// The provider never gets it, and nobody says so.
    Lose,
    /// The provider gets it twice; the second reply arrives.
    Twice,
    /// The provider gets a copy with another body first; the reply to that arrives, and the request
    /// itself afterwards.
    CopyFirst,
}

type Plan = Box<dyn FnMut(&Message) -> Meddling + Send>;
/// A request, and the provider's last reply to it.
type Exchange = (Message, Option<Message>);

/// A proxy of which nobody knows, on 127.0.0.1, before a provider on another address.
pub struct Meddler {
    upstream: String,
    plan: Arc<Mutex<Plan>>,
    seen: Arc<Mutex<Vec<Exchange>>>,
}

impl Meddler {
    /// Answers at `127.0.0.1:port` for the API at `upstream:port`, and passes everything on.
    #[must_use]
    pub fn before_api(upstream: &str, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let meddler = Self {
            upstream: format!("{upstream}:{port}"),
            plan: Arc::new(Mutex::new(Box::new(|_| Meddling::Pass))),
            seen: Arc::default(),
        };
        let (upstream, plan, seen) =
            (meddler.upstream.clone(), Arc::clone(&meddler.plan), Arc::clone(&meddler.seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (upstream, plan, seen) =
                    (upstream.clone(), Arc::clone(&plan), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &upstream, &plan, &seen));
            }
        });
        meddler
    }

    /// From now on does with each request what `plan` says.
    pub fn set(&self, plan: impl FnMut(&Message) -> Meddling + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// From now on passes everything on.
    pub fn pass(&self) {
        self.set(|_| Meddling::Pass);
    }

    /// Does `meddling` to the next request that begins like this (`POST /api`), and passes all others on.
    pub fn once(&self, begins: &str, meddling: Meddling) {
        let begins = begins.to_owned();
        let mut left = Some(meddling);
        self.set(move |request| {
            if request.first.starts_with(&begins) { left.take() } else { None }
                .unwrap_or(Meddling::Pass)
        });
    }

    /// All requests that came, with the last reply that the provider gave to each.
    #[must_use]
    pub fn seen(&self) -> Vec<(Message, Option<Message>)> {
        self.seen.lock().unwrap().clone()
    }

    /// Sends a request to the provider, as it was recorded.
    #[must_use]
    pub fn send(&self, request: &Message) -> Option<Message> {
        forward(&self.upstream, request)
    }
}

impl std::fmt::Debug for Meddler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meddler").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

fn serve(mut stream: TcpStream, upstream: &str, plan: &Mutex<Plan>, seen: &Mutex<Vec<Exchange>>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Who asks for a port proof is answered by the provider, and speaks no HTTP.
    if asks_for_proof(&stream) {
        if let Ok(outward) = TcpStream::connect(upstream) {
            join(&stream, &outward);
        }
        return;
    }
    // Who only looks if the port is open says nothing.
    let Some(request) = Message::read(&mut stream) else { return };
    let meddling = plan.lock().unwrap()(&request);
    let pass = |request: &Message| forward(upstream, request);
    let (replied, answer) = match meddling {
        Meddling::Pass => {
            let reply = pass(&request);
            (reply.clone(), reply)
        }
        Meddling::Instead(other) => {
            let reply = pass(&other);
            (reply.clone(), reply)
        }
        Meddling::Answer(answer) => (None, Some(answer)),
        Meddling::ObeyAndAnswer(answer) => (pass(&request), Some(answer)),
        Meddling::Reply(change) => {
            let reply = pass(&request);
            let changed = reply.clone().map(|mut reply| {
                change(&mut reply);
                reply
            });
            (reply, changed)
        }
        Meddling::LoseReply => (pass(&request), None),
        Meddling::CutReply(length) => {
            let reply = pass(&request);
            if let Some(reply) = &reply {
                let bytes = reply.bytes();
                let _ = stream.write_all(&bytes[..length.min(bytes.len() - 1)]);
            }
            (reply, None)
        }
        Meddling::Lose => (None, None),
        Meddling::Twice => {
            let first = pass(&request);
            (first, pass(&request))
        }
        Meddling::CopyFirst => {
            let mut copy = request.clone();
            copy.body.push(b' ');
            let answer = pass(&copy);
            (pass(&request), answer)
        }
    };
    seen.lock().unwrap().push((request, replied));
    if let Some(answer) = answer {
        let _ = stream.write_all(&answer.bytes());
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn forward(upstream: &str, request: &Message) -> Option<Message> {
    let mut stream = TcpStream::connect(upstream).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(&request.bytes()).ok()?;
    Message::read(&mut stream)
}

/// Carries bytes from `127.0.0.1:port` to `upstream:port` and back, for as long as the test runs.
pub fn carry(upstream: &str, port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let upstream = format!("{upstream}:{port}");
    std::thread::spawn(move || {
        for inward in listener.incoming().map_while(Result::ok) {
            let Ok(outward) = TcpStream::connect(&upstream) else { continue };
            join(&inward, &outward);
        }
    });
}

/// Whether the first bytes are a proof line's and no request's: that is clear with the second one.
fn asks_for_proof(stream: &TcpStream) -> bool {
    let mut first = [0; 2];
    loop {
        match stream.peek(&mut first) {
            Ok(1) if first[0] == PROOF_BEGINS[0] => std::thread::sleep(Duration::from_millis(1)),
            Ok(length) => return length == first.len() && first == *PROOF_BEGINS,
            Err(_) => return false,
        }
    }
}

/// Carries bytes both ways until both sides have ended.
fn join(one: &TcpStream, other: &TcpStream) {
    for (from, to) in [(one, other), (other, one)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
