//! The lines of long work: the last few of them, live, on a terminal; all of them elsewhere.

use std::io::Write as _;

use golem_vm_protocol::text::printable;

use super::terminal::{self, Style, Tone};

/// How many lines are shown at a time on a terminal.
const WINDOW: usize = 6;
/// Longest line that is kept, in characters.
const LONGEST: usize = 1000;

/// Lines on standard error, so that standard output holds the result alone.
pub(super) struct LiveLines {
    style: Style,
    window: Vec<String>,
    /// How many lines of the window are on the screen.
    drawn: usize,
}

impl LiveLines {
    pub(super) fn new() -> Self {
        Self { style: Style::of_stderr(), window: Vec::new(), drawn: 0 }
    }

    /// Shows one more line.
    pub(super) fn show(&mut self, line: &str) {
        let line = printable(line.trim_end(), LONGEST);
        if !self.style.terminal {
            eprintln!("{line}");
            return;
        }
        self.window.push(line);
        let surplus = self.window.len().saturating_sub(WINDOW);
        self.window.drain(..surplus);
        let width = terminal::columns(std::io::stderr()).unwrap_or(80).max(20);
        let text = self.redraw(usize::from(width));
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }

    /// Takes the lines off the screen, unless they may explain a failure.
    pub(super) fn end(&mut self, keep: bool) {
        if !keep && self.drawn > 0 {
            eprint!("\u{1b}[{}A\u{1b}[J", self.drawn);
        }
        self.drawn = 0;
        self.window.clear();
    }

    fn redraw(&mut self, width: usize) -> String {
        let mut text = match self.drawn {
            0 => String::new(),
            drawn => format!("\u{1b}[{drawn}A\u{1b}[J"),
        };
        for line in &self.window {
            // One row each, or the next redraw would not find their beginning.
            let short: String = line.chars().take(width.saturating_sub(3)).collect();
            text.push_str(&self.style.paint(Tone::Faint, &format!("  {short}")));
            text.push('\n');
        }
        self.drawn = self.window.len();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_drawn_over_itself() {
        let style = Style { terminal: true, colour: false };
        let window = vec!["abcdefghij".to_owned(), "b".to_owned()];
        let mut lines = LiveLines { style, window, drawn: 0 };
        assert_eq!(lines.redraw(8), "  abcde\n  b\n");
        assert_eq!(lines.redraw(8), "\u{1b}[2A\u{1b}[J  abcde\n  b\n");
    }
}
