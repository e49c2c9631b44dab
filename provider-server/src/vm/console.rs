//! Consoles of running VMs that somebody speaks with: one at a time for each VM, who came last.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golem_vm_protocol::VmId;
use golem_vm_protocol::vm::MAX_CONSOLE_CHUNK;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backend::Duplex;

/// Output that waits for a slow reader, in bytes; what is older is left out.
const WAITING: usize = 64 * 1024;
/// Pieces of input that wait for the guest to read them.
const TYPED: usize = 16;
/// How long a piece of input waits for its place.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who reads a console.
#[async_trait::async_trait]
pub trait ConsoleReader: Send + Sync {
    /// Waits until the next piece can be sent. `false`: nobody reads it any more.
    async fn ready(&self) -> bool;

    /// Sends what the guest wrote after it had `skipped` so many bytes that are left out; `ended` says why it is the
    /// last piece. `false`: nobody reads it any more.
    async fn tell(&self, data: Vec<u8>, skipped: u64, ended: Option<&str>) -> bool;
}

/// Why nothing was typed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTyped {
    /// That console is not open.
    #[error(
        "its console is not open under that session, or somebody else has opened it since: open it again"
    )]
    NotOpen,
    /// A piece before it is missing.
    #[error("piece {expected} of what is typed has to come next, not piece {got}")]
    OutOfOrder {
        /// The one that has to come.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// The guest does not read.
    #[error("the guest takes no input at this moment: try again")]
    Full,
}

/// The consoles that are open. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Consoles {
    open: Arc<Mutex<HashMap<VmId, Session>>>,
}

#[derive(Debug, Clone)]
struct Session {
    name: String,
    /// The last piece that was taken, and where the next goes.
    typed: Arc<tokio::sync::Mutex<(u64, mpsc::Sender<Vec<u8>>)>>,
    taken_over: CancellationToken,
}

impl Consoles {
    /// Opens a VM's console under the name `session`, and ends whoever has it.
    #[must_use]
    pub fn open(&self, vm: VmId, session: &str) -> OpenConsole {
        let (sender, input) = mpsc::channel(TYPED);
        let taken_over = CancellationToken::new();
        let session = Session {
            name: session.to_owned(),
            typed: Arc::new(tokio::sync::Mutex::new((0, sender))),
            taken_over: taken_over.clone(),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = open.insert(vm, session) {
            before.taken_over.cancel();
        }
        OpenConsole { consoles: self.clone(), vm, input, taken_over }
    }

    /// Types a piece into a console that is open, and returns the number of the last piece that was taken. One that
    /// was taken already is not typed once more.
    ///
    /// # Errors
    /// [`NotTyped`].
    pub async fn type_in(
        &self,
        vm: VmId,
        session: &str,
        number: u64,
        data: Vec<u8>,
    ) -> Result<u64, NotTyped> {
        let found = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.get(&vm).filter(|found| found.name == session).cloned()
        };
        let found = found.ok_or(NotTyped::NotOpen)?;
        let mut typed = found.typed.lock().await;
        if number <= typed.0 {
            return Ok(typed.0);
        }
        let expected = typed.0 + 1;
        if number != expected {
            return Err(NotTyped::OutOfOrder { expected, got: number });
        }
        match tokio::time::timeout(PATIENCE, typed.1.send(data)).await {
            Ok(Ok(())) => {
                typed.0 = number;
                Ok(number)
            }
            Ok(Err(_)) => Err(NotTyped::NotOpen),
            Err(_) => Err(NotTyped::Full),
        }
    }
}

/// A console that is open, until this is dropped.
#[derive(Debug)]
pub struct OpenConsole {
    consoles: Consoles,
    vm: VmId,
    input: mpsc::Receiver<Vec<u8>>,
    taken_over: CancellationToken,
}

impl Drop for OpenConsole {
    fn drop(&mut self) {
        // Who has taken it over keeps it.
        if !self.taken_over.is_cancelled() {
            let mut open = self.consoles.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.remove(&self.vm);
        }
    }
}

impl OpenConsole {
    /// Carries what the guest writes to `reader` and what is typed to the guest, until either goes. The guest is
    /// never kept waiting by a reader who is slow.
    pub async fn carry(mut self, guest: Box<dyn Duplex>, reader: &dyn ConsoleReader) {
        let (mut output, mut to_guest) = tokio::io::split(guest);
        let (mut waiting, mut skipped) = (VecDeque::<u8>::new(), 0_u64);
        let mut buffer = vec![0; MAX_CONSOLE_CHUNK];
        let (taken_over, input) = (self.taken_over.clone(), &mut self.input);
        let mut typing = pin!(async move {
            while let Some(data) = input.recv().await {
                let written = to_guest.write_all(&data).await;
                if written.is_err() || to_guest.flush().await.is_err() {
                    break;
                }
            }
            // That it has ended is seen where it is read.
            std::future::pending::<()>().await;
        });
        let ended = loop {
            tokio::select! {
                () = taken_over.cancelled() => break "somebody has opened this console after you",
                () = typing.as_mut() => {}
                read = output.read(&mut buffer) => match read {
                    Ok(0) => break "the VM has ended, or its console has",
                    Ok(count) => {
                        waiting.extend(buffer.iter().take(count));
                        let too_much = waiting.len().saturating_sub(WAITING);
                        waiting.drain(..too_much);
                        skipped = skipped.saturating_add(too_much as u64);
                    }
                    Err(error) => {
                        tracing::debug!("a console ends: {error}");
                        break "its console can't be read any more";
                    }
                },
                reads = reader.ready(), if !waiting.is_empty() => {
                    let count = waiting.len().min(MAX_CONSOLE_CHUNK);
                    let data = waiting.drain(..count).collect();
                    if !reads || !reader.tell(data, std::mem::take(&mut skipped), None).await {
                        return;
                    }
                }
            }
        };
        while !waiting.is_empty() {
            let count = waiting.len().min(MAX_CONSOLE_CHUNK);
            let data = waiting.drain(..count).collect();
            if !reader.tell(data, std::mem::take(&mut skipped), None).await {
                return;
            }
        }
        reader.tell(Vec::new(), skipped, Some(ended)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const VM: VmId = VmId::from_bytes([5; 16]);

    /// What was told, the bytes that were left out, and how it ended.
    #[derive(Default)]
    struct Told(Mutex<(Vec<u8>, u64, Option<String>)>);

    /// One who reads nothing until it is let.
    struct Reader {
        told: Told,
        let_go: CancellationToken,
    }

    #[async_trait::async_trait]
    impl ConsoleReader for Reader {
        async fn ready(&self) -> bool {
            self.let_go.cancelled().await;
            true
        }

        async fn tell(&self, data: Vec<u8>, skipped: u64, ended: Option<&str>) -> bool {
            assert!(data.len() <= MAX_CONSOLE_CHUNK);
            let mut told = self.told.0.lock().unwrap();
            told.0.extend(data);
            told.1 += skipped;
            told.2 = ended.map(str::to_owned).or(told.2.take());
            true
        }
    }

    fn reader() -> Arc<Reader> {
        let let_go = CancellationToken::new();
        let_go.cancel();
        Arc::new(Reader { told: Told::default(), let_go })
    }

    fn carried(
        consoles: &Consoles,
        session: &str,
        reader: &Arc<Reader>,
    ) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
        let (here, there) = tokio::io::duplex(1024);
        let (open, reader) = (consoles.open(VM, session), Arc::clone(reader));
        let carried = tokio::spawn(async move { open.carry(Box::new(there), &*reader).await });
        (here, carried)
    }

    #[tokio::test]
    async fn what_is_typed_comes_once_and_in_order_and_what_is_said_comes_whole() {
        let (consoles, reader) = (Consoles::default(), reader());
        let (mut guest, carried) = carried(&consoles, "first", &reader);
        guest.write_all(b"login: ").await.unwrap();
        let typed = |number, text: &str| {
            let (consoles, data) = (consoles.clone(), text.as_bytes().to_vec());
            async move { consoles.type_in(VM, "first", number, data).await }
        };
        assert_eq!(typed(1, "ro").await, Ok(1));
        assert_eq!(typed(1, "ro").await, Ok(1));
        assert_eq!(typed(3, "x").await, Err(NotTyped::OutOfOrder { expected: 2, got: 3 }));
        assert_eq!(typed(2, "ot\n").await, Ok(2));
        let mut read = [0; 5];
        guest.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"root\n");
        drop(guest);
        carried.await.unwrap();
        {
            let told = reader.told.0.lock().unwrap();
            assert_eq!((told.0.as_slice(), told.1), (b"login: ".as_slice(), 0));
            assert!(told.2.as_deref().unwrap().contains("has ended"));
        }
        assert_eq!(typed(3, "x").await, Err(NotTyped::NotOpen));
    }

    #[tokio::test]
    async fn who_comes_last_has_it() {
        let (consoles, first, second) = (Consoles::default(), reader(), reader());
        let (_guest, ended) = carried(&consoles, "first", &first);
        let (_other, _goes_on) = carried(&consoles, "second", &second);
        ended.await.unwrap();
        assert!(first.told.0.lock().unwrap().2.as_deref().unwrap().contains("after you"));
        let typed = |session| consoles.type_in(VM, session, 1, vec![b'x']);
        assert_eq!(typed("first").await, Err(NotTyped::NotOpen));
        assert_eq!(typed("second").await, Ok(1));
    }

    #[tokio::test]
    async fn a_slow_reader_keeps_no_guest_waiting_and_learns_what_it_missed() {
        let consoles = Consoles::default();
        let slow = Arc::new(Reader { told: Told::default(), let_go: CancellationToken::new() });
        let (mut guest, carried) = carried(&consoles, "first", &slow);
        for _ in 0..100 {
            guest.write_all(&[b'x'; 1024]).await.unwrap();
        }
        drop(guest);
        carried.await.unwrap();
        let told = slow.told.0.lock().unwrap();
        assert_eq!(told.0.len() as u64 + told.1, 100 * 1024);
        assert!(told.0.len() <= WAITING && told.1 > 0);
    }
}
