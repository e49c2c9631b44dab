//! Server-sent events in the narrow form of `docs/http-api.md`, as bytes come in.

use super::{MAX_STREAM_LINE, StreamError};

/// Cuts a stream into events, however its bytes arrive.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The `data` of the event that has not ended yet.
    data: Option<Vec<u8>>,
}

impl Frames {
    /// Takes the next bytes, and gives the `data` of each event that they complete to `take`. What has not
    /// ended with its empty line is no event.
    ///
    /// # Errors
    /// What is wrong with the stream, or what `take` says; nothing that follows is to be read then.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            if self.line.len() + text.len() > MAX_STREAM_LINE {
                return Err(StreamError::TooLong);
            }
            self.line.extend_from_slice(text);
            if ended {
                let line = std::mem::take(&mut self.line);
                if let Some(data) = self.line(&line)? {
                    take(&data)?;
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Vec<u8>>, StreamError> {
        if line.is_empty() {
            return Ok(self.data.take());
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            let data = data.strip_prefix(b" ").unwrap_or(data);
            if self.data.replace(data.to_vec()).is_some() {
                return Err(StreamError::Unreadable("it has two lines of data".to_owned()));
            }
        }
        // Comments, and names and numbers that are not signed.
        Ok(None)
    }
}
