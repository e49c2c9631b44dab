//! A connection to a monitor.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::message::{self, Event, LONGEST_LINE, Message};
use crate::process::Peer;

/// How long a monitor may take to greet: it says nothing while another client has it.
const GREETING: Duration = Duration::from_secs(10);
/// How long a command may take that says nothing else. Usual are 0.3 ms.
const USUAL: Duration = Duration::from_secs(20);
/// How many events may wait for a reader before the oldest are dropped.
const EVENTS: usize = 64;

/// Why a monitor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody answers there, or not in time. Says nothing about the machine.
    #[error("QEMU's monitor at {0} can't be reached: {1}")]
    Unreachable(PathBuf, io::Error),
    /// It was reached and is gone, or said what no monitor says.
    #[error("QEMU's monitor went away at '{0}'")]
    Gone(&'static str),
    /// It did not answer a command in time. It may still carry it out.
    #[error("QEMU did not answer '{0}' within {1:?}")]
    Silent(&'static str, Duration),
    /// It refused a command.
    #[error("QEMU refused '{0}': {1}")]
    Refused(&'static str, String),
    /// It answered something else than what is known of that command.
    #[error("QEMU's answer to '{0}' can't be understood: {1}")]
    Strange(&'static str, String),
}

/// Where the answer to a command goes.
type Answer = oneshot::Sender<Result<Value, QmpError>>;

struct Asked {
    name: &'static str,
    arguments: Value,
    answer: Answer,
}

/// A machine's monitor. It takes one connection at a time; dropping this gives it free.
#[derive(Debug)]
pub struct Qmp {
    asked: mpsc::Sender<Asked>,
    events: broadcast::Sender<Event>,
}

impl Qmp {
    /// Connects to the monitor of the process that is proved by `peer`, and asks for nothing yet.
    ///
    /// # Errors
    /// [`QmpError::Unreachable`] when nobody answers there, or another process, or the monitor does not greet
    /// within 10 s because somebody else uses it.
    pub async fn connect(peer: &Peer<'_>) -> Result<Self, QmpError> {
        let unreachable = |error| QmpError::Unreachable(peer.path(), error);
        let stream = peer.connect().await.map_err(unreachable)?;
        let opened = timeout(GREETING, Self::open(stream)).await;
        opened
            .map_err(|_| unreachable(io::Error::new(io::ErrorKind::TimedOut, "it does not greet")))?
            .map_err(unreachable)
    }

    /// Takes the greeting, and leaves the mode in which the monitor only negotiates.
    async fn open(stream: UnixStream) -> io::Result<Self> {
        let (read, mut write) = stream.into_split();
        let mut lines = Lines::new(read);
        let strange = || io::Error::other("what answers there is no monitor");
        if lines.next().await?.and_then(|line| Message::parse(&line)) != Some(Message::Greeting) {
            return Err(strange());
        }
        write.write_all(&message::command(0, "qmp_capabilities", &Value::Null)).await?;
        loop {
            match lines.next().await?.and_then(|line| Message::parse(&line)) {
                Some(Message::Done { id: Some(0), .. }) => break,
                Some(Message::Event(_)) => {}
                _ => return Err(strange()),
            }
        }
        let (asked, orders) = mpsc::channel(16);
        let (events, _) = broadcast::channel(EVENTS);
        tokio::spawn(serve(lines, write, orders, events.clone()));
        Ok(Self { asked, events })
    }

    /// Events from now on. A reader that is too slow misses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Has a command carried out; `arguments` is an object, or `null` where there are none.
    ///
    /// # Errors
    /// What [`QmpError`] lists. After [`QmpError::Gone`] and [`QmpError::Silent`] nobody knows whether it was
    /// carried out.
    pub async fn execute(&self, name: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(name, arguments, USUAL).await
    }

    /// [`execute`](Self::execute) for what may take longer.
    ///
    /// # Errors
    /// The same.
    pub async fn execute_within(
        &self,
        name: &'static str,
        arguments: Value,
        within: Duration,
    ) -> Result<Value, QmpError> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            let asked = Asked { name, arguments, answer };
            self.asked.send(asked).await.map_err(|_| QmpError::Gone(name))?;
            answered.await.map_err(|_| QmpError::Gone(name))?
        };
        timeout(within, asking).await.map_err(|_| QmpError::Silent(name, within))?
    }

    /// How the machine is: QEMU's word for it (`running`, `paused`, `shutdown`, `guest-panicked`, `inmigrate`,
    /// `internal-error`, `io-error`, …; `RunState` in QEMU's QMP reference).
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn status(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", Value::Null).await?;
        let status = answer.get("status").and_then(Value::as_str).map(str::to_owned);
        status.ok_or_else(|| QmpError::Strange("query-status", answer.to_string()))
    }

    /// Runs a job (`snapshot-save` and its like) to its end: `arguments` gets the job's id.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with the job's own reason when it fails.
    pub async fn run_job(
        &self,
        name: &'static str,
        mut arguments: Value,
        within: Duration,
    ) -> Result<(), QmpError> {
        let id = format!("golem-{name}");
        arguments["job-id"] = json!(id);
        let mut events = self.events();
        let working = async {
            // One that was cut off by this program's end may still be there, concluded.
            let _ = self.execute("job-dismiss", json!({ "id": id })).await;
            self.execute(name, arguments).await?;
            loop {
                let jobs = self.execute("query-jobs", Value::Null).await?;
                let ours =
                    jobs.as_array().into_iter().flatten().find(|job| job["id"] == id.as_str());
                match ours {
                    Some(job) if job["status"] == "concluded" => {
                        let error = job.get("error").and_then(Value::as_str).map(str::to_owned);
                        self.execute("job-dismiss", json!({ "id": id })).await?;
                        return error.map_or(Ok(()), |error| Err(QmpError::Refused(name, error)));
                    }
                    Some(_) => {}
                    None => return Err(QmpError::Strange(name, "its job is gone".to_owned())),
                }
                // Woken by the job's own event; looked at again in any case.
                let _ = timeout(Duration::from_millis(200), async {
                    while let Ok(event) = events.recv().await {
                        if event.name == "JOB_STATUS_CHANGE" {
                            break;
                        }
                    }
                })
                .await;
            }
        };
        timeout(within, working).await.map_err(|_| QmpError::Silent(name, within))?
    }
}

/// Carries commands to the monitor and answers and events back, until one of the two sides is gone.
async fn serve(
    mut lines: Lines<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
    mut orders: mpsc::Receiver<Asked>,
    events: broadcast::Sender<Event>,
) {
    let mut waiting: HashMap<u64, (&'static str, Answer)> = HashMap::new();
    let mut id = 0;
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Asked { name, arguments, answer }) = order else { return };
                id += 1;
                waiting.insert(id, (name, answer));
                if write.write_all(&message::command(id, name, &arguments)).await.is_err() {
                    return;
                }
            }
            line = lines.next() => {
                let Ok(Some(line)) = line else { return };
                let (id, result) = match Message::parse(&line) {
                    Some(Message::Event(event)) => {
                        // That nobody listens is no error.
                        let _ = events.send(event);
                        continue;
                    }
                    Some(Message::Done { id: Some(id), value }) => (id, Ok(value)),
                    Some(Message::Refused { id: Some(id), reason }) => (id, Err(reason)),
                    _ => return,
                };
                // Whoever asked may have given up meanwhile.
                if let Some((name, answer)) = waiting.remove(&id) {
                    let _ = answer.send(result.map_err(|reason| QmpError::Refused(name, reason)));
                }
            }
        }
    }
}

/// Lines of at most [`LONGEST_LINE`] bytes.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    /// The line that has begun. It is kept here, so that giving up in the middle of waiting loses nothing.
    begun: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), begun: Vec::new() }
    }

    /// The next line without its end; `None` when there are no more. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let piece = self.reader.fill_buf().await?;
            if piece.is_empty() {
                return Ok(None);
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(piece.len());
            if self.begun.len() + taken > LONGEST_LINE {
                return Err(io::Error::other(format!("a line of more than {LONGEST_LINE} bytes")));
            }
            self.begun.extend_from_slice(&piece[..taken]);
            self.reader.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
        }
    }
}
