//! QEMU's monitor protocol: lines of JSON over a Unix socket (QEMU's `docs/interop/qmp-spec`).

mod client;
mod message;
#[cfg(test)]
mod tests;

pub use client::{Qmp, QmpError};
pub use message::Event;

/// Reads what a monitor could have said, for the fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    use super::client::Lines;
    use super::message::{LONGEST_LINE, Message};

    /// Whatever a monitor says is read line by line, within bounds, and an event or an answer or nothing.
    pub(crate) fn read(bytes: &[u8]) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
        runtime.block_on(async {
            let mut lines = Lines::new(bytes);
            while let Ok(Some(line)) = lines.next().await {
                assert!(line.len() <= LONGEST_LINE && !line.contains(&b'\n'));
                let _ = Message::parse(&line);
            }
        });
    }
}
