//! A conversation with an agent: one question, one answer, each with a deadline.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::{Fields, Frame, Kind, MAX_ANSWER, Reader, tag};
use crate::network::Addressing;
use crate::process::Peer;
use crate::seed::Identity;

/// How long a running guest may take for what is done at once. Emulated ones under load are slow.
const USUAL: Duration = Duration::from_secs(60);

/// How many bytes an agent may send that are no answer to what was asked, before it is given up.
const MOST_NONSENSE: usize = 256 * 1024;

/// The longest text of a guest's that is passed on, in characters.
const LONGEST_TEXT: usize = 300;

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The port can't be reached. Says nothing about the guest.
    #[error("the guest agent's port can't be reached: {0}")]
    Unreachable(#[from] io::Error),
    /// No answer in time: the guest has no agent, has not booted, or is busy.
    #[error("the guest agent did not answer within {0:?}")]
    Silent(Duration),
    /// The port was closed, or what came was no answer.
    #[error("the guest agent's port ended: {0}")]
    Broken(&'static str),
    /// The agent could not do it. Its own words.
    #[error("the guest agent could not do it: {step}: {why}")]
    Refused {
        /// What it was doing.
        step: String,
        /// Why it failed.
        why: String,
    },
}

/// A connection to the agent of one guest. Only one can be open per guest.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    reader: Reader,
}

impl Agent {
    /// Connects to the port of the machine whose process `peer` proves. The guest need not have started.
    ///
    /// # Errors
    /// [`AgentError::Unreachable`].
    pub async fn connect(peer: &Peer<'_>) -> Result<Self, AgentError> {
        Ok(Self::over(peer.connect().await?))
    }

    /// Over a connection that exists.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        Self { stream, reader: Reader::new(MAX_ANSWER) }
    }

    /// Waits until the agent answers, and tells its version. A guest that boots is waited for.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn hello(&mut self, within: Duration) -> Result<String, AgentError> {
        let answer = self.ask(Kind::Hello, Fields::new(), within).await?;
        Ok(text(&answer, tag::VERSION))
    }

    /// Waits until the guest has booted, and logs `user` in a few times inside it, so that it is warm. For
    /// templates only.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn settle(&mut self, user: &str, within: Duration) -> Result<(), AgentError> {
        let fields = Fields::new().with(tag::USER, user);
        self.ask(Kind::Settle, fields, within).await.map(drop)
    }

    /// Makes the guest another machine. `before` is what its network was. When this returns, the guest's random
    /// numbers, clock, host key, names, keys and addresses are its own.
    ///
    /// # Errors
    /// [`AgentError`]. After any of them the guest must not be let out: it may be half of one and half of the other.
    pub async fn apply(
        &mut self,
        identity: &Identity,
        before: Option<&Addressing>,
        within: Duration,
    ) -> Result<Duration, AgentError> {
        let mut seed = [0; 64];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let mut fields = Fields::new()
            .with(tag::SEED, seed)
            .with(tag::HOSTNAME, identity.hostname.as_str())
            .with(tag::MACHINE_ID, identity.machine_id.as_str())
            .with(tag::HOST_KEY, identity.host_key.private.as_str())
            .with(tag::HOST_KEY_PUBLIC, identity.host_key.public.as_str())
            .with(tag::USER, identity.user.as_str())
            .with(tag::AUTHORIZED_KEYS, identity.key_lines())
            .with(tag::NETWORK, network(&identity.network))
            .with(tag::CLOCK, now().to_be_bytes());
        if let Some(before) = before {
            fields = fields.with(tag::NETWORK_BEFORE, network(before));
        }
        let answer = self.ask(Kind::Apply, fields, within).await?;
        Ok(Duration::from_millis(answer.number(tag::MILLISECONDS).unwrap_or(0)))
    }

    /// Lets these keys log in as `user`, and of the provider's keys no others.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn authorize(&mut self, user: &str, keys: &[String]) -> Result<(), AgentError> {
        let fields = Fields::new()
            .with(tag::USER, user)
            .with(tag::AUTHORIZED_KEYS, crate::seed::key_lines(keys));
        self.ask(Kind::Authorize, fields, USUAL).await.map(drop)
    }

    /// Shows a line to whoever is logged in.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn notify(&mut self, line: &str) -> Result<(), AgentError> {
        let fields = Fields::new().with(tag::TEXT, line);
        self.ask(Kind::Notify, fields, USUAL).await.map(drop)
    }

    /// Makes the root file system as large as its disk.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn grow(&mut self, within: Duration) -> Result<(), AgentError> {
        self.ask(Kind::Grow, Fields::new(), within).await.map(drop)
    }

    /// Sets the guest's clock to the host's, after the guest was paused.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn set_clock(&mut self) -> Result<(), AgentError> {
        let fields = Fields::new().with(tag::CLOCK, now().to_be_bytes());
        self.ask(Kind::Clock, fields, USUAL).await.map(drop)
    }

    async fn ask(
        &mut self,
        kind: Kind,
        fields: Fields,
        within: Duration,
    ) -> Result<Fields, AgentError> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        let request = Frame { kind, id: u64::from_be_bytes(id), fields };
        let asking = async {
            self.stream.write_all(&request.encode()).await?;
            self.answer(request.id).await
        };
        let answer = timeout(within, asking).await.map_err(|_| AgentError::Silent(within))??;
        match answer.kind {
            Kind::Done => Ok(answer.fields),
            _ => Err(AgentError::Refused {
                step: text(&answer.fields, tag::STEP),
                why: text(&answer.fields, tag::WHY),
            }),
        }
    }

    /// The answer to the question `id`. Answers to older ones, whose asker gave up, are passed over.
    async fn answer(&mut self, id: u64) -> Result<Frame, AgentError> {
        let mut read = 0;
        let mut bytes = [0; 4096];
        loop {
            while let Some(frame) = self.reader.frame() {
                if frame.id == id && matches!(frame.kind, Kind::Done | Kind::Failed) {
                    return Ok(frame);
                }
            }
            let count = self.stream.read(&mut bytes).await?;
            if count == 0 {
                return Err(AgentError::Broken("the machine is gone"));
            }
            read += count;
            if read > MOST_NONSENSE {
                return Err(AgentError::Broken("it sent too much that is no answer"));
            }
            self.reader.push(&bytes[..count]);
        }
    }
}

fn network(network: &Addressing) -> String {
    let Addressing { mac, guest, prefix, gateway, resolver, .. } = network;
    format!("{mac} {guest} {prefix} {gateway} {resolver}")
}

/// The guest's words, printable.
fn text(fields: &Fields, tag: u8) -> String {
    let text = String::from_utf8_lossy(fields.get(tag).unwrap_or_default());
    text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads what a guest could have sent, for the fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    use super::*;

    /// Whatever comes: what is kept is bounded, what is read is written as it was, and texts harm no terminal.
    pub(crate) fn read(bytes: &[u8]) {
        let mut reader = Reader::new(MAX_ANSWER);
        for piece in bytes.chunks(97) {
            reader.push(piece);
            while let Some(frame) = reader.frame() {
                let mut again = Reader::new(MAX_ANSWER);
                again.push(&frame.encode());
                assert_eq!(again.frame().as_ref(), Some(&frame));
                let why = text(&frame.fields, tag::WHY);
                assert!(why.chars().count() <= LONGEST_TEXT && !why.contains('\x1b'));
            }
            assert!(reader.waiting() <= MAX_ANSWER + 17 + 97);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An agent that answers each question by what `answer` makes of it.
    fn played(answer: impl Fn(Frame) -> Vec<u8> + Send + 'static) -> Agent {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let mut reader = Reader::new(super::super::wire::MAX_REQUEST);
            let mut bytes = [0; 1000];
            while let Ok(count) = theirs.read(&mut bytes).await {
                reader.push(&bytes[..count]);
                while let Some(frame) = reader.frame() {
                    if theirs.write_all(&answer(frame)).await.is_err() {
                        return;
                    }
                }
                if count == 0 {
                    return;
                }
            }
        });
        Agent::over(ours)
    }

    fn done(request: &Frame, fields: Fields) -> Vec<u8> {
        Frame { kind: Kind::Done, id: request.id, fields }.encode()
    }

    #[tokio::test]
    async fn old_answers_and_garbage_are_passed_over() {
        let mut agent = played(|request| {
            let mut bytes = b"garbage".to_vec();
            let old = Frame { id: request.id ^ 1, ..request.clone() };
            bytes.extend(done(&old, Fields::new().with(tag::VERSION, "old")));
            bytes.extend(request.encode());
            bytes.extend(done(&request, Fields::new().with(tag::VERSION, "new\x1b[2J")));
            bytes
        });
        assert_eq!(agent.hello(USUAL).await.unwrap(), "new[2J");
        assert_eq!(agent.hello(USUAL).await.unwrap(), "new[2J");
    }

    #[tokio::test]
    async fn refusals_say_the_step_and_the_reason() {
        let mut agent = played(|request| {
            let fields = Fields::new().with(tag::STEP, "grow").with(tag::WHY, "no room");
            Frame { kind: Kind::Failed, id: request.id, fields }.encode()
        });
        let error = agent.grow(USUAL).await.unwrap_err();
        assert_eq!(error.to_string(), "the guest agent could not do it: grow: no room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_guest_is_given_up() {
        let mut agent = played(|_| Vec::new());
        let error = agent.notify("hello").await.unwrap_err();
        assert!(matches!(error, AgentError::Silent(_)), "{error}");
    }

    #[tokio::test]
    async fn a_guest_that_floods_is_given_up() {
        let mut agent = played(|_| vec![b'x'; MOST_NONSENSE + 1]);
        let error = agent.hello(USUAL).await.unwrap_err();
        assert!(matches!(error, AgentError::Broken(_)), "{error}");
    }
}
