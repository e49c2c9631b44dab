//! Streams of a provider: what happens to a VM, and what its console says. Each piece is signed for the very request
//! that asked for it.

use std::collections::VecDeque;
use std::time::Duration;

use golem_vm_protocol::signature::{Nonce, claims_to_stream, verify_stream};
use golem_vm_protocol::vm::{ConsoleOutput, ConsoleReader, StreamError, StreamReader, VmEvent};
use golem_vm_protocol::{VmRef, route};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::exchange::{Head, believed};
use super::provider::{ASK, CallError, ProviderClient};
use crate::rentals::ProviderRef;

/// So long without a byte a stream counts as broken; a provider sends something every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// Most bytes that are read from one stream of events.
const MAX_EVENT_BYTES: u64 = 16 << 20;

/// What takes a stream's bytes, and gives the pieces that they complete and that can be believed.
pub trait Reader {
    /// One of them.
    type Piece;

    /// Takes the next bytes, and puts what they complete behind `pieces`.
    ///
    /// # Errors
    /// Why nothing more is to be read.
    fn push(&mut self, bytes: &[u8], pieces: &mut Vec<Self::Piece>) -> Result<(), StreamError>;
}

impl Reader for StreamReader {
    type Piece = VmEvent;

    fn push(&mut self, bytes: &[u8], pieces: &mut Vec<VmEvent>) -> Result<(), StreamError> {
        self.push(bytes, pieces)
    }
}

impl Reader for ConsoleReader {
    type Piece = ConsoleOutput;

    fn push(&mut self, bytes: &[u8], pieces: &mut Vec<ConsoleOutput>) -> Result<(), StreamError> {
        self.push(bytes, pieces)
    }
}

/// A stream that is open.
pub struct Stream<R: Reader> {
    head: Head,
    reader: R,
    /// What has come and was not taken.
    ready: VecDeque<R::Piece>,
    /// Bytes that may still come.
    left: u64,
    /// Why nothing more is believed.
    broken: Option<CallError>,
}

impl ProviderClient {
    /// Follows what happens to a VM behind the event with number `after`. It is for showing only: what became of
    /// anything is asked with an ordinary call.
    ///
    /// # Errors
    /// [`CallError`]; a provider of an older release refuses with `not_found`.
    pub async fn watch(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        after: u64,
    ) -> Result<Stream<StreamReader>, CallError> {
        let target = format!("{}?after={after}", route::vm_event_stream(vm));
        let reader = |nonce| StreamReader::new(provider.id, nonce, vm, after);
        self.open(provider, &target, MAX_EVENT_BYTES, reader).await
    }

    /// Opens a VM's console: what it says from now on.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn console(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
    ) -> Result<Stream<ConsoleReader>, CallError> {
        let reader = |nonce| ConsoleReader::new(provider.id, &nonce);
        // It is shown as it comes, and nothing of it is kept.
        self.open(provider, &route::vm_console_stream(vm), u64::MAX, reader).await
    }

    async fn open<R: Reader>(
        &self,
        provider: &ProviderRef,
        target: &str,
        left: u64,
        reader: impl FnOnce(Nonce) -> R,
    ) -> Result<Stream<R>, CallError> {
        let open = async {
            let head = self.send(provider, &Method::GET, target, b"", None).await?;
            let (status, headers) = (head.parts.status, &head.parts.headers);
            if !claims_to_stream(headers) {
                head.whole(provider).await?;
                return Err(CallError::Malformed("it is no stream of events".to_owned()));
            }
            let signer = verify_stream(status.as_u16(), headers, &head.signature);
            believed(signer, status, &provider.id)?;
            let reader = reader(head.nonce);
            Ok(Stream { head, reader, ready: VecDeque::new(), left, broken: None })
        };
        timeout(ASK, open).await.unwrap_or(Err(CallError::TimedOut(ASK)))
    }
}

impl<R: Reader> Stream<R> {
    /// The `nonce` of the request that opened it.
    #[must_use]
    pub fn nonce(&self) -> String {
        self.head.nonce.to_string()
    }

    /// The next piece; `None` when the provider has ended the stream. Nothing is lost when this is dropped before
    /// its end.
    ///
    /// # Errors
    /// [`CallError`]; nothing more comes then.
    pub async fn next(&mut self) -> Result<Option<R::Piece>, CallError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            // What came before the fault is good, and was given first.
            if let Some(error) = &self.broken {
                return Err(error.clone());
            }
            let frame = timeout(SILENCE, self.head.body.frame())
                .await
                .map_err(|_| CallError::TimedOut(SILENCE))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| CallError::Lost(error.to_string()))?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                CallError::Malformed(format!(
                    "its stream is longer than {} MiB",
                    MAX_EVENT_BYTES >> 20
                ))
            })?;
            let mut pieces = Vec::new();
            let read = self.reader.push(&bytes, &mut pieces);
            self.ready.extend(pieces);
            if let Err(error) = read {
                self.broken = Some(CallError::NotTheProvider(error.to_string()));
            }
        }
    }
}
