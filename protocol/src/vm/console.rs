//! A VM's serial console: what it has said, and speaking with it.

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::StreamError;
use super::frames::Frames;
use crate::document::{Document, DocumentError, Envelope};
use crate::identity::{KeyId, KeyPair};
use crate::problem::FieldError;
use crate::signature::Nonce;
use crate::text::printable;

/// Most bytes of a console's output in one event of its stream.
pub const MAX_CONSOLE_CHUNK: usize = 4096;
/// Most bytes that are typed at a time.
pub const MAX_CONSOLE_INPUT: usize = 4096;
/// Most bytes of `GET /api/v1/vms/{name}/console`.
pub const MAX_CONSOLE_LOG: usize = 256 * 1024;

/// Bytes that may be anything: base64 (RFC 4648, with padding) on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = BASE64.decode(text.as_bytes());
        bytes.map(Self).map_err(|_| serde::de::Error::custom("it is not base64"))
    }
}

/// `GET /api/v1/vms/{name}/console`: the end of what the VM has written to its console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleLog {
    /// The VM's id.
    pub vm_id: String,
    /// At most [`MAX_CONSOLE_LOG`] bytes, as the guest wrote them: they may be anything, and are never to be
    /// shown on a terminal that was not asked for it.
    pub data: Bytes,
    /// Whether there was more before it.
    pub truncated: bool,
}

/// `POST /api/v1/vms/{name}/console/input`, as it arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleInput {
    /// Into which console: the `nonce` of the request that opened its stream (empty for an unsigned one).
    pub session: String,
    /// Which piece it is, from 1. A piece that was taken already is not typed once more.
    pub number: u64,
    /// What is typed: 1 to [`MAX_CONSOLE_INPUT`] bytes.
    pub data: Bytes,
}

impl ConsoleInput {
    /// Checks every field.
    ///
    /// # Errors
    /// All wrong fields, each with a JSON pointer and what would be right.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = Vec::new();
        if self.number == 0 {
            errors.push(FieldError::new("/number", "pieces are counted from 1"));
        }
        if self.data.0.is_empty() || self.data.0.len() > MAX_CONSOLE_INPUT {
            errors.push(FieldError::new("/data", format!("1 to {MAX_CONSOLE_INPUT} bytes")));
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// The answer to [`ConsoleInput`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleTaken {
    /// The last piece that was typed.
    pub number: u64,
}

/// What `GET /api/v1/vms/{name}/console/stream` sends: the `data` of each server-sent event is the envelope of
/// this document, signed by the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleOutput {
    /// The `nonce` of the request's signature: what was said to another request is not taken for it.
    pub nonce: String,
    /// Which piece of this stream it is, from 1 and without gaps.
    pub number: u64,
    /// What the guest wrote: at most [`MAX_CONSOLE_CHUNK`] bytes, as they were.
    pub data: Bytes,
    /// How many bytes before these the guest wrote that its reader was too slow for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// Why nothing follows: the VM has stopped, somebody else has opened the console, … Only with the last piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Document for ConsoleOutput {
    const TYPE: &'static str = "vm-console";
}

/// The piece as it goes into the stream.
///
/// # Errors
/// [`DocumentError`] when it is too large, or can't be written.
pub fn console_frame(piece: &ConsoleOutput, key: &KeyPair) -> Result<String, DocumentError> {
    let envelope = Envelope::seal(piece, key)?;
    let data = serde_json::to_string(&envelope)
        .map_err(|error| DocumentError::Content(error.to_string()))?;
    Ok(format!("id: {}\nevent: output\ndata: {data}\n\n", piece.number))
}

/// Reads the stream of a console, and gives only what the one who was asked signed for this request, in order and
/// without gaps. The head is to be checked before, with
/// [`verify_stream`](crate::signature::verify_stream).
#[derive(Debug)]
pub struct ConsoleReader {
    signer: KeyId,
    nonce: String,
    last: u64,
    frames: Frames,
}

impl ConsoleReader {
    /// For the stream that `signer` sends to the request with `nonce`.
    #[must_use]
    pub fn new(signer: KeyId, nonce: &Nonce) -> Self {
        Self { signer, nonce: nonce.to_string(), last: 0, frames: Frames::default() }
    }

    /// Reads the next bytes, and puts the pieces that they complete behind `pieces`.
    ///
    /// # Errors
    /// [`StreamError`]; nothing that follows is to be read then. What came before it is in `pieces`.
    pub fn push(
        &mut self,
        bytes: &[u8],
        pieces: &mut Vec<ConsoleOutput>,
    ) -> Result<(), StreamError> {
        let (signer, nonce, last) = (self.signer, &self.nonce, &mut self.last);
        self.frames.push(bytes, |data| {
            let unreadable = |error: serde_json::Error| {
                StreamError::Unreadable(printable(&error.to_string(), 200))
            };
            let envelope: Envelope = serde_json::from_slice(data).map_err(unreadable)?;
            let verified = envelope.open::<ConsoleOutput>()?;
            let piece = verified.content;
            if verified.signer != signer {
                return Err(StreamError::WrongSigner(verified.signer));
            }
            if piece.nonce != *nonce {
                return Err(StreamError::OtherRequest);
            }
            let expected = last.saturating_add(1);
            if piece.number != expected {
                return Err(StreamError::OutOfOrder { expected, got: piece.number });
            }
            *last = expected;
            pieces.push(piece);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vm::{KEEP_ALIVE, MAX_STREAM_LINE};

    const NONCE: Nonce = Nonce::from_bytes([4; 16]);

    fn key() -> KeyPair {
        KeyPair::from_secret_bytes([1; 32]).unwrap()
    }

    fn piece(number: u64, data: &[u8]) -> ConsoleOutput {
        let data = Bytes(data.to_vec());
        ConsoleOutput { nonce: NONCE.to_string(), number, data, skipped: 0, ended: None }
    }

    fn read(bytes: &[u8], cut: usize) -> (Result<(), StreamError>, Vec<ConsoleOutput>) {
        let (mut reader, mut pieces) = (ConsoleReader::new(key().id(), &NONCE), Vec::new());
        let result = bytes.chunks(cut).try_for_each(|part| reader.push(part, &mut pieces));
        (result, pieces)
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        let (first, last) = (piece(1, b"login: \x1b[0m\xff"), piece(2, b""));
        let last = ConsoleOutput { skipped: 7, ended: Some("it has stopped".into()), ..last };
        let frames = [&first, &last].map(|piece| console_frame(piece, &key()).unwrap());
        let text = frames.join(KEEP_ALIVE);
        for cut in [1, 7, text.len()] {
            assert_eq!(read(text.as_bytes(), cut), (Ok(()), vec![first.clone(), last.clone()]));
        }
    }

    #[test]
    fn only_what_was_said_to_this_request_by_who_was_asked_and_in_order_is_believed() {
        let other = KeyPair::from_secret_bytes([2; 32]).unwrap();
        let strange = console_frame(&piece(1, b"x"), &other).unwrap();
        assert_eq!(read(strange.as_bytes(), 9).0, Err(StreamError::WrongSigner(other.id())));
        let foreign = ConsoleOutput { nonce: "another".into(), ..piece(1, b"x") };
        let foreign = console_frame(&foreign, &key()).unwrap();
        assert_eq!(read(foreign.as_bytes(), 9).0, Err(StreamError::OtherRequest));
        let once = console_frame(&piece(1, b"x"), &key()).unwrap();
        let twice = once.repeat(2);
        let (result, pieces) = read(twice.as_bytes(), 9);
        assert_eq!(result, Err(StreamError::OutOfOrder { expected: 2, got: 1 }));
        assert_eq!(pieces.len(), 1);
    }

    #[test]
    fn the_largest_piece_fits() {
        let large = ConsoleOutput {
            skipped: u64::MAX,
            ended: Some("x".repeat(200)),
            ..piece(1, &vec![0xff; MAX_CONSOLE_CHUNK])
        };
        let frame = console_frame(&large, &key()).unwrap();
        assert!(frame.lines().all(|line| line.len() <= MAX_STREAM_LINE));
        assert_eq!(read(frame.as_bytes(), 1000).1, [large]);
    }

    #[test]
    fn what_is_typed_is_bounded_and_numbered() {
        let input = |number, length| ConsoleInput {
            session: NONCE.to_string(),
            number,
            data: Bytes(vec![b'x'; length]),
        };
        assert_eq!(input(1, MAX_CONSOLE_INPUT).validate(), Ok(()));
        assert_eq!(input(0, 0).validate().unwrap_err().len(), 2);
        assert!(input(1, MAX_CONSOLE_INPUT + 1).validate().is_err());
        let bad = r#"{"session":"","number":1,"data":"%%"}"#;
        assert!(serde_json::from_str::<ConsoleInput>(bad).is_err());
    }
}
