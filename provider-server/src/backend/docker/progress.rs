//! Lines of progress on their way to a person.

use std::time::Duration;

use golem_vm_protocol::text::printable;

use crate::backend::ProgressSender;

/// Longest line passed on, in characters.
const LINE_CHARS: usize = 300;

/// How long a reader may keep us waiting before it misses a line.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the lines go. A reader that went away or does not read holds nothing up.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    sender: ProgressSender,
}

impl Progress {
    pub(super) const fn new(sender: ProgressSender) -> Self {
        Self { sender }
    }

    /// Passes on every line of `text`, made printable.
    pub(super) async fn say(&self, text: &str) {
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let line = printable(&line.replace('\t', " "), LINE_CHARS);
            let _ = self.sender.send_timeout(line, PATIENCE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn lines_are_split_and_harmless() {
        let (sender, mut lines) = tokio::sync::mpsc::channel(8);
        Progress::new(sender).say("one\r\n\n\x1b[1mtwo\n").await;
        assert_eq!(lines.recv().await.unwrap(), "one");
        assert_eq!(lines.recv().await.unwrap(), "\u{fffd}[1mtwo");
        assert_eq!(lines.recv().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_went_away_is_no_error() {
        let (sender, lines) = tokio::sync::mpsc::channel(1);
        drop(lines);
        Progress::new(sender).say("anybody there?").await;
    }
}
