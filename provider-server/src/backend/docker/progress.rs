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
        for line in text.lines() {
            let line = without_colours(line).replace('\t', " ");
            if line.trim().is_empty() {
                continue;
            }
            let line = printable(line.trim_end(), LINE_CHARS);
            let _ = self.sender.send_timeout(line, PATIENCE).await;
        }
    }
}

/// `text` without the sequences that colour it on a terminal (ECMA-48, SGR).
pub(super) fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';');
        match end {
            Some(end) if part[end..].starts_with('m') => plain.push_str(&part[end + 1..]),
            _ => {
                plain.push_str("\x1b[");
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn lines_are_split_and_harmless() {
        let (sender, mut lines) = tokio::sync::mpsc::channel(8);
        Progress::new(sender).say("one\r\n\x1b[0m\n\x1b[1;91mtwo\x1b[2Jx\n").await;
        assert_eq!(lines.recv().await.unwrap(), "one");
        assert_eq!(lines.recv().await.unwrap(), "two\u{fffd}[2Jx");
        assert_eq!(lines.recv().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_went_away_is_no_error() {
        let (sender, lines) = tokio::sync::mpsc::channel(1);
        drop(lines);
        Progress::new(sender).say("anybody there?").await;
    }
}
