//! What a person and a program see: results on stdout, everything else on stderr.
//!
//! Colour never carries meaning alone, icons and live progress appear only on a terminal, and
//! nothing but results is ever written to stdout, so that `--json` and pipes stay clean.

mod progress;
mod raw_terminal;

use std::io::{BufRead as _, ErrorKind, IsTerminal as _, Write as _};

use golem_vm_protocol::text::{printable_json, printable_lines};
use indicatif::{MultiProgress, ProgressDrawTarget};

pub use progress::Progress;
pub use raw_terminal::RawTerminal;

use crate::client::pauses::Notice;
use crate::error::{CliError, Result};

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a command shows what it does.
#[derive(Debug)]
pub struct Ui {
    json: bool,
    quiet: bool,
    verbose: bool,
    stdin_terminal: bool,
    stdout_terminal: bool,
    stderr_terminal: bool,
    color_out: bool,
    color_err: bool,
    bars: MultiProgress,
}

/// What the command line and the environment say about showing things.
#[derive(Debug, Clone, Copy, Default)]
pub struct UiOptions {
    /// Results as JSON.
    pub json: bool,
    /// No progress and no remarks.
    pub quiet: bool,
    /// More remarks.
    pub verbose: bool,
    /// Colour.
    pub color: ColorChoice,
    /// Whether `NO_COLOR` is set to something.
    pub no_color: bool,
    /// Whether the terminal can't do more than text (`TERM=dumb`).
    pub dumb: bool,
}

impl Ui {
    /// Over this process's standard streams.
    #[must_use]
    pub fn of_process(options: &UiOptions) -> Self {
        let stdout_terminal = std::io::stdout().is_terminal();
        let stderr_terminal = std::io::stderr().is_terminal();
        let color = |terminal: bool| match options.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !options.no_color && !options.dumb,
        };
        let live = stderr_terminal && !options.quiet && !options.dumb;
        Self {
            json: options.json,
            quiet: options.quiet,
            verbose: options.verbose,
            stdin_terminal: std::io::stdin().is_terminal(),
            stdout_terminal,
            stderr_terminal: stderr_terminal && !options.dumb,
            color_out: color(stdout_terminal),
            color_err: color(stderr_terminal),
            bars: MultiProgress::with_draw_target(if live {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            }),
        }
    }

    /// Whether results are wanted as JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether remarks about details are wanted.
    #[must_use]
    pub const fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether results go to a person's screen: icons, titles and ages may be used.
    #[must_use]
    pub const fn decorates(&self) -> bool {
        self.stdout_terminal
    }

    /// Whether results may be coloured.
    #[must_use]
    pub const fn colors(&self) -> bool {
        self.color_out
    }

    /// Whether a person is there who reads and types.
    #[must_use]
    pub const fn can_type(&self) -> bool {
        self.stdin_terminal && self.stdout_terminal
    }

    /// Whether a person is there to be asked.
    #[must_use]
    pub const fn can_ask(&self) -> bool {
        self.stdin_terminal && self.stderr_terminal
    }

    /// Writes text to stdout. A reader that went away (`| head`) is no failure.
    ///
    /// # Errors
    /// When stdout can't be written for another reason.
    pub fn out(&self, text: &str) -> Result<()> {
        let mut written = Ok(());
        self.bars.suspend(|| {
            let mut stdout = std::io::stdout().lock();
            written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        });
        match written {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(CliError::other("can't write to standard output").because(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes one line to stdout.
    ///
    /// # Errors
    /// As [`Ui::out`].
    pub fn line(&self, line: &str) -> Result<()> {
        self.out(&format!("{line}\n"))
    }

    /// Writes a value as JSON and a line end: indented on a terminal, compact otherwise.
    ///
    /// # Errors
    /// As [`Ui::out`].
    pub fn json(&self, value: &impl serde::Serialize) -> Result<()> {
        let text = if self.stdout_terminal {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        let text =
            text.map_err(|e| CliError::other("can't write the result as JSON").because(e))?;
        self.line(&printable_json(&text))
    }

    /// A remark about what happens; not with `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.err_line(&printable_lines(text));
        }
    }

    /// What says so, from below, when a command has to wait for somebody; not with `--quiet`.
    #[must_use]
    pub fn notice(&self) -> Notice {
        let (bars, quiet) = (self.bars.clone(), self.quiet);
        Notice::new(move |text| {
            if !quiet {
                bars.suspend(|| {
                    let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(text));
                });
            }
        })
    }

    /// A remark about details; only with `--verbose`.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.err_line(&printable_lines(text));
        }
    }

    /// Something a person should know although the command goes on.
    pub fn warn(&self, text: &str) {
        self.err_line(&format!("{} {}", self.styled("33", "warning:"), printable_lines(text)));
    }

    /// More about a warning, on a line of its own.
    pub fn remark(&self, text: &str) {
        self.err_line(&printable_lines(text));
    }

    /// A failure with its reasons and what to do next.
    pub fn error(&self, error: &CliError) {
        let message = printable_lines(&error.message);
        let mut text = format!("{} {message}", self.styled("1;31", "error:"));
        for cause in &error.causes {
            let cause = printable_lines(cause);
            text.push_str(&format!("\n  {} {cause}", self.styled("2", "because:")));
        }
        for hint in &error.hints {
            let hint = printable_lines(hint);
            text.push_str(&format!("\n{} {hint}", self.styled("36", "hint:")));
        }
        self.err_line(&text);
    }

    /// The failure that ends the command: for a person on stderr, with `--json` for a program on
    /// stdout too.
    pub fn fail(&self, error: &CliError) {
        self.error(error);
        if self.json {
            // Nothing can be done about a stdout that is gone.
            let _ = self.json(&error.to_json());
        }
    }

    /// Shows that something is going on. On a terminal a spinner, otherwise a line per step.
    #[must_use]
    pub fn progress(&self, first: &str) -> Progress {
        let live = self.stderr_terminal && !self.quiet;
        Progress::start(&self.bars, live, self.quiet, first)
    }

    /// Asks a yes-or-no question; no is the default. Only where [`Ui::can_ask`].
    #[must_use]
    pub fn confirm(&self, question: &str) -> bool {
        if !self.can_ask() {
            return false;
        }
        let mut answer = String::new();
        self.bars.suspend(|| {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{question} [y/N] ");
            let _ = stderr.flush();
            let _ = std::io::stdin().lock().read_line(&mut answer);
        });
        matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
    }

    /// Asks for a number from 1 to `count`; the result counts from 0. Only where [`Ui::can_ask`].
    #[must_use]
    pub fn choose(&self, question: &str, count: usize) -> Option<usize> {
        let mut answer = String::new();
        self.bars.suspend(|| {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{question} [1-{count}] ");
            let _ = stderr.flush();
            let _ = std::io::stdin().lock().read_line(&mut answer);
        });
        let number = answer.trim().parse::<usize>().ok()?;
        (1..=count).contains(&number).then(|| number - 1)
    }

    /// `text` in an SGR style on stdout, where colour is wanted there.
    #[must_use]
    pub fn out_styled(&self, sgr: &str, text: &str) -> String {
        if self.color_out { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn styled(&self, sgr: &str, text: &str) -> String {
        if self.color_err { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn err_line(&self, text: &str) {
        // Nothing can be done about a stderr that is gone.
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }
}
