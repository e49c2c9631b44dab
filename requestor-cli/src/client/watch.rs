//! A provider's stream of what happens to a VM. It is for showing only: what became of anything is asked with
//! an ordinary call.

use std::collections::VecDeque;
use std::time::Duration;

use golem_vm_protocol::signature::{claims_to_stream, verify_stream};
use golem_vm_protocol::vm::{StreamReader, VmEvent};
use golem_vm_protocol::{VmRef, route};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::exchange::{Head, believed};
use super::provider::{ASK, CallError, ProviderClient};
use crate::rentals::ProviderRef;

/// So long without a byte a stream counts as broken; a provider sends something every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// Most bytes that are read from one stream.
const MAX_BYTES: usize = 16 << 20;

/// Events as they happen, each of which the provider signed for this very request.
pub struct EventStream {
    head: Head,
    reader: StreamReader,
    /// Those that have come and were not taken.
    ready: VecDeque<VmEvent>,
    /// Bytes that may still come.
    left: usize,
    /// Why nothing more is believed.
    broken: Option<CallError>,
}

impl ProviderClient {
    /// Follows what happens to a VM behind the event with number `after`.
    ///
    /// # Errors
    /// [`CallError`]; a provider of an older release refuses with `not_found`.
    pub async fn watch(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        after: u64,
    ) -> Result<EventStream, CallError> {
        let target = format!("{}?after={after}", route::vm_event_stream(vm));
        let open = async {
            let head = self.send(provider, &Method::GET, &target, b"", None).await?;
            let (status, headers) = (head.parts.status, &head.parts.headers);
            if !claims_to_stream(headers) {
                head.whole(provider).await?;
                return Err(CallError::Malformed("it is no stream of events".to_owned()));
            }
            let signer = verify_stream(status.as_u16(), headers, &head.signature);
            believed(signer, status, &provider.id)?;
            let reader = StreamReader::new(provider.id, head.nonce, vm, after);
            Ok(EventStream { head, reader, ready: VecDeque::new(), left: MAX_BYTES, broken: None })
        };
        timeout(ASK, open).await.unwrap_or(Err(CallError::TimedOut(ASK)))
    }
}

impl EventStream {
    /// The next event; `None` when the provider has ended the stream.
    ///
    /// # Errors
    /// [`CallError`]; nothing more comes then.
    pub async fn next(&mut self) -> Result<Option<VmEvent>, CallError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
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
            self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| {
                CallError::Malformed(format!("its stream is longer than {} MiB", MAX_BYTES >> 20))
            })?;
            let mut events = Vec::new();
            let read = self.reader.push(&bytes, &mut events);
            self.ready.extend(events);
            if let Err(error) = read {
                self.broken = Some(CallError::NotTheProvider(error.to_string()));
            }
        }
    }
}
