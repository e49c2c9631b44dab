//! A stream of a VM's events as bytes: written by the provider, read and checked by whoever asked for it.
//!
//! It is `text/event-stream` in the narrow form that is described in `docs/http-api.md`: lines end with a
//! line feed, and each event has one `data` line, the [`Envelope`] of a [`StreamedEvent`].

use super::frames::Frames;
use super::{StreamedEvent, VmEvent, VmRef};
use crate::document::{DocumentError, Envelope};
use crate::identity::{KeyId, KeyPair};
use crate::signature::Nonce;
use crate::text::printable;

/// Longest line that is read, in bytes without its line feed: an envelope of the largest document fits.
pub const MAX_STREAM_LINE: usize = 16 * 1024;
/// What is sent while nothing happens, so that both sides see that the other is there.
pub const KEEP_ALIVE: &str = ":\n\n";
/// Longest `detail` that is sent, in characters.
const MAX_DETAIL_CHARS: usize = 1000;

/// Why a stream is not believed, or not understood, any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A line without end.
    #[error("a line of the stream is longer than {MAX_STREAM_LINE} bytes")]
    TooLong,
    /// An event is not in the form that is expected.
    #[error("an event of the stream can't be read: {0}")]
    Unreadable(String),
    /// An event's signature is not good.
    #[error("an event of the stream can't be trusted: {0}")]
    Document(#[from] DocumentError),
    /// Somebody else signed it.
    #[error("an event of the stream is signed by {0}, who was not asked")]
    WrongSigner(KeyId),
    /// It was said to another request.
    #[error("an event of the stream was sent to another request")]
    OtherRequest,
    /// It is about another VM.
    #[error("an event of the stream is about another VM, {}", printable(.0, 80))]
    OtherVm(String),
    /// Events were left out, or come again.
    #[error("the stream goes on with event {got} where event {expected} should be")]
    OutOfOrder {
        /// The number that should follow.
        expected: u64,
        /// The number that came.
        got: u64,
    },
}

/// The event as it goes into the stream that answers the request with `nonce` (empty: an unsigned one).
///
/// # Errors
/// [`DocumentError`] when the event is too large, or can't be written.
pub fn stream_frame(event: &VmEvent, nonce: &str, key: &KeyPair) -> Result<String, DocumentError> {
    let mut event = event.clone();
    if let Some(detail) = event.detail.as_mut() {
        *detail = printable(detail, MAX_DETAIL_CHARS);
    }
    let (number, kind) = (event.number, event.kind);
    let envelope = Envelope::seal(&StreamedEvent { nonce: nonce.to_owned(), event }, key)?;
    let data = serde_json::to_string(&envelope)
        .map_err(|error| DocumentError::Content(error.to_string()))?;
    Ok(format!("id: {number}\nevent: {kind}\ndata: {data}\n\n"))
}

/// The number in `Last-Event-ID`, or in `after`: digits only, at most 2^53 - 1.
#[must_use]
pub fn event_number(text: &str) -> Option<u64> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten()?;
    (number <= 9_007_199_254_740_991).then_some(number)
}

/// Reads a stream, and gives only events that the one who was asked signed for this request, of one VM, in
/// order and without gaps. The head is to be checked before, with
/// [`verify_stream`](crate::signature::verify_stream).
#[derive(Debug)]
pub struct StreamReader {
    signer: KeyId,
    nonce: String,
    /// The VM's id, once it is known.
    vm: Option<String>,
    /// The number of the last event.
    last: u64,
    /// Whether an event was read: the next one follows it directly.
    begun: bool,
    frames: Frames,
}

impl StreamReader {
    /// For the stream that `signer` sends to the request with `nonce`, which asked for what happened to `vm`
    /// behind the event `after`.
    #[must_use]
    pub fn new(signer: KeyId, nonce: Nonce, vm: &VmRef, after: u64) -> Self {
        let vm = match vm {
            VmRef::Id(_, text) => Some(text.clone()),
            VmRef::Name(_) => None,
        };
        let (nonce, frames) = (nonce.to_string(), Frames::default());
        Self { signer, nonce, vm, last: after, begun: false, frames }
    }

    /// The number of the last event that was read: what to go on behind.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Reads the next bytes, and puts the events that they complete behind `events`. What has not ended with its
    /// empty line is no event.
    ///
    /// # Errors
    /// [`StreamError`]; nothing that follows is to be read then. What came before it is in `events`.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<VmEvent>) -> Result<(), StreamError> {
        let mut frames = std::mem::take(&mut self.frames);
        let read = frames.push(bytes, |data| self.event(data).map(|event| events.push(event)));
        self.frames = frames;
        read
    }

    fn event(&mut self, data: &[u8]) -> Result<VmEvent, StreamError> {
        let unreadable =
            |error: serde_json::Error| StreamError::Unreadable(printable(&error.to_string(), 200));
        let envelope: Envelope = serde_json::from_slice(data).map_err(unreadable)?;
        let verified = envelope.open::<StreamedEvent>()?;
        let StreamedEvent { nonce, event } = verified.content;
        if verified.signer != self.signer {
            return Err(StreamError::WrongSigner(verified.signer));
        }
        if nonce != self.nonce {
            return Err(StreamError::OtherRequest);
        }
        if self.vm.as_ref().is_some_and(|vm| *vm != event.vm_id) {
            return Err(StreamError::OtherVm(event.vm_id));
        }
        // What is before the first one may be forgotten by now.
        let expected = self.last.saturating_add(1);
        if event.number < expected || self.begun && event.number != expected {
            return Err(StreamError::OutOfOrder { expected, got: event.number });
        }
        self.vm = Some(event.vm_id.clone());
        (self.last, self.begun) = (event.number, true);
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::time::Timestamp;
    use crate::vm::{Actor, Cause, EventKind, VmId, VmResources, VmStage};

    const NONCE: Nonce = Nonce::from_bytes([4; 16]);

    fn key() -> KeyPair {
        KeyPair::from_secret_bytes([1; 32]).unwrap()
    }

    fn vm() -> VmRef {
        VmId::from_bytes([3; 16]).into()
    }

    fn event(number: u64) -> VmEvent {
        VmEvent {
            vm_id: vm().as_str().to_owned(),
            number,
            at: Timestamp::from_unix_seconds(1_000_000),
            steady_micros: 5,
            kind: EventKind::State,
            from: None,
            to: VmStage::Creating,
            actor: Actor::Requestor,
            cause: Cause::Requested,
            detail: None,
            resources: VmResources { cpu: 1, memory: 1, storage: 10 },
            delivered_micros: 0,
        }
    }

    fn frame(event: &VmEvent) -> String {
        stream_frame(event, &NONCE.to_string(), &key()).unwrap()
    }

    fn reader(after: u64) -> StreamReader {
        StreamReader::new(key().id(), NONCE, &vm(), after)
    }

    fn push(reader: &mut StreamReader, bytes: &[u8]) -> Result<Vec<VmEvent>, StreamError> {
        let mut events = Vec::new();
        reader.push(bytes, &mut events).map(|()| events)
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        let text = format!("{}{KEEP_ALIVE}{}", frame(&event(1)), frame(&event(2)));
        assert_eq!(push(&mut reader(0), text.as_bytes()).unwrap(), [event(1), event(2)]);
        let mut slow = reader(0);
        let read: Vec<_> =
            text.bytes().flat_map(|byte| push(&mut slow, &[byte]).unwrap()).collect();
        assert_eq!(read, [event(1), event(2)]);
        assert_eq!(slow.last(), 2);
        // What has not ended is no event.
        let text = frame(&event(1));
        assert_eq!(push(&mut reader(0), &text.as_bytes()[..text.len() - 1]).unwrap(), []);
    }

    #[test]
    fn only_what_was_said_to_this_request_by_who_was_asked_is_believed() {
        let other = KeyPair::from_secret_bytes([2; 32]).unwrap();
        let nonce = NONCE.to_string();
        let strange = stream_frame(&event(1), &nonce, &other).unwrap();
        assert_eq!(
            push(&mut reader(0), strange.as_bytes()),
            Err(StreamError::WrongSigner(other.id()))
        );
        let old = stream_frame(&event(1), "BQUFBQUFBQUFBQUFBQUFBQ", &key()).unwrap();
        assert_eq!(push(&mut reader(0), old.as_bytes()), Err(StreamError::OtherRequest));
        let mut events = Vec::new();
        let both = frame(&event(1)) + &old;
        let read = reader(0).push(both.as_bytes(), &mut events);
        assert_eq!((read, events), (Err(StreamError::OtherRequest), vec![event(1)]));
        let altered = frame(&event(1)).replace("payload\":\"eyJ", "payload\":\"eyK");
        assert!(matches!(
            push(&mut reader(0), altered.as_bytes()),
            Err(StreamError::Document(DocumentError::Signature(_)))
        ));
        let foreign = VmEvent { vm_id: VmId::from_bytes([9; 16]).to_string(), ..event(1) };
        let read = push(&mut reader(0), frame(&foreign).as_bytes());
        assert_eq!(read, Err(StreamError::OtherVm(foreign.vm_id.clone())));
        // Asked for by its name, the first one says which VM it is.
        let mut by_name = StreamReader::new(key().id(), NONCE, &"box".parse().unwrap(), 0);
        assert_eq!(push(&mut by_name, frame(&event(1)).as_bytes()).unwrap(), [event(1)]);
        let second = VmEvent { number: 2, ..foreign };
        assert!(matches!(
            push(&mut by_name, frame(&second).as_bytes()),
            Err(StreamError::OtherVm(_))
        ));
    }

    #[test]
    fn nothing_is_left_out_and_nothing_comes_twice() {
        let mut resumed = reader(6);
        let err = push(&mut resumed, frame(&event(6)).as_bytes());
        assert_eq!(err, Err(StreamError::OutOfOrder { expected: 7, got: 6 }));
        let mut resumed = reader(6);
        // Older ones may be forgotten by the provider.
        assert_eq!(push(&mut resumed, frame(&event(9)).as_bytes()).unwrap(), [event(9)]);
        for wrong in [9, 11] {
            let mut gap = reader(8);
            push(&mut gap, frame(&event(9)).as_bytes()).unwrap();
            let err = push(&mut gap, frame(&event(wrong)).as_bytes());
            assert_eq!(err, Err(StreamError::OutOfOrder { expected: 10, got: wrong }));
        }
    }

    #[test]
    fn what_has_no_end_or_makes_no_sense_is_refused() {
        let mut reader_of_much = reader(0);
        let chunk = vec![b'x'; 1000];
        let error = (0..100).find_map(|_| push(&mut reader_of_much, &chunk).err());
        assert_eq!(error, Some(StreamError::TooLong));
        let twice = frame(&event(1)).replace("data: ", "data: {}\ndata: ");
        assert!(matches!(push(&mut reader(0), twice.as_bytes()), Err(StreamError::Unreadable(_))));
        assert!(matches!(
            push(&mut reader(0), b"data: hello\n\n"),
            Err(StreamError::Unreadable(_))
        ));
        assert_eq!(push(&mut reader(0), b": hello\nretry: 1\nunknown\n\n\n").unwrap(), []);
    }

    #[test]
    fn the_longest_detail_fits() {
        let long = VmEvent { detail: Some("\u{10ffff}\u{1}\"ü".repeat(5000)), ..event(1) };
        let frame = frame(&long);
        assert!(frame.lines().all(|line| line.len() <= MAX_STREAM_LINE));
        assert_eq!(push(&mut reader(0), frame.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn numbers_of_events_have_one_meaning() {
        assert_eq!(event_number("0"), Some(0));
        assert_eq!(event_number("9007199254740991"), Some(9_007_199_254_740_991));
        for bad in ["", "-1", "+1", " 1", "1 ", "9007199254740992", "99999999999999999999", "x"] {
            assert_eq!(event_number(bad), None, "{bad}");
        }
    }
}
