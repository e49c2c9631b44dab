//! Copying with holes where the content is zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes of one block, which is either written or left out.
const BLOCK: usize = 64 * 1024;

/// Writes what comes to `file` from byte `at` on. What is zero is left out, so the file has to be new there.
pub(super) struct SparseWriter<'a> {
    file: &'a File,
    at: u64,
    pending: Vec<u8>,
}

impl<'a> SparseWriter<'a> {
    pub(super) fn new(file: &'a File, at: u64) -> Self {
        Self { file, at, pending: Vec::with_capacity(BLOCK) }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let take = bytes.len().min(BLOCK - self.pending.len());
            self.pending.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.pending.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left; returns where the next byte would go.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        Ok(self.at)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.iter().any(|byte| *byte != 0) {
            self.file.write_all_at(&self.pending, self.at)?;
        }
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * BLOCK as u64).unwrap();
        let mut content = vec![0u8; 3 * BLOCK + 100];
        content[BLOCK + 5] = 7;
        content[3 * BLOCK + 99] = 9;
        let mut writer = SparseWriter::new(&file, 512);
        for part in content.chunks(1000) {
            writer.write(part).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 512 + content.len() as u64);
        let mut read = vec![1; content.len()];
        file.read_exact_at(&mut read, 512).unwrap();
        assert!(read == content);
    }
}
