//! Whom the output is for: a person at a terminal, or a program.

use std::io::{BufRead as _, IsTerminal, Write as _};

use golem_vm_protocol::text::printable_json;

/// How the output may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    /// Whether a person reads it on a terminal.
    pub(super) terminal: bool,
    /// Whether it may have colours.
    pub(super) colour: bool,
}

/// What a text is to say by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warning,
    Bad,
    Strong,
    Faint,
}

impl Style {
    /// For standard output.
    pub(super) fn of_stdout() -> Self {
        Self::of(&std::io::stdout())
    }

    /// For standard error.
    pub(super) fn of_stderr() -> Self {
        Self::of(&std::io::stderr())
    }

    fn of(stream: &impl IsTerminal) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = stream.is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { terminal, colour: terminal && !dumb && !set("NO_COLOR") }
    }

    /// `text` in the colour of `tone`, where there are colours.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// The width of the terminal behind `stream`, in columns; `None` where it is not known.
pub(super) fn columns(stream: impl std::os::fd::AsFd) -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// Asks the person at the terminal. `Ok(None)` when there is none to ask.
pub(super) fn confirm(question: &str) -> std::io::Result<Option<bool>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}

/// Prints text to standard output; that nobody reads it any more is no failure of ours.
pub(super) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints a value as indented JSON.
///
/// # Errors
/// When it can't be written as JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", printable_json(&serde_json::to_string_pretty(value)?)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_only() {
        let style = Style { terminal: false, colour: false };
        assert_eq!(style.paint(Tone::Bad, "x"), "x");
        let style = Style { terminal: true, colour: true };
        assert_eq!(style.paint(Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
