//! Lines of bounded length, read and written.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::wire::MAX_LINE;

/// Why no line could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// More than [`MAX_LINE`] bytes without a line end.
    #[error("a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// The connection ended in the middle of a line.
    #[error("the connection ended in the middle of a line")]
    CutOff,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The next line without its end; none when the connection has ended.
pub(super) async fn read_line<R>(reader: &mut R) -> Result<Option<Vec<u8>>, FrameError>
where
    R: AsyncBufRead + Unpin,
{
    let mut line = Vec::new();
    // One byte more than allowed tells a line that just fits from one that does not.
    let limit = MAX_LINE as u64 + 1;
    (&mut *reader).take(limit).read_until(b'\n', &mut line).await?;
    if line.len() > MAX_LINE {
        return Err(FrameError::TooLong);
    }
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(FrameError::CutOff),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn lines_end_where_they_should() {
        let mut input: &[u8] = b"one\n\ntwo";
        assert_eq!(read_line(&mut input).await.unwrap().unwrap(), b"one");
        assert_eq!(read_line(&mut input).await.unwrap().unwrap(), b"");
        assert!(matches!(read_line(&mut input).await, Err(FrameError::CutOff)));
        assert!(read_line(&mut input).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let mut fits = vec![b'x'; MAX_LINE - 1];
        fits.push(b'\n');
        let mut input = fits.as_slice();
        assert_eq!(read_line(&mut input).await.unwrap().unwrap().len(), MAX_LINE - 1);

        let mut long = vec![b'x'; MAX_LINE];
        long.push(b'\n');
        let mut input = long.as_slice();
        assert!(matches!(read_line(&mut input).await, Err(FrameError::TooLong)));
    }
}
