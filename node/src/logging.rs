//! The log: to stderr, for a person on a terminal, as JSON lines otherwise.

use std::io::{IsTerminal as _, Write};

use golem_vm_protocol::text::{printable_json, printable_lines};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Libraries that log the bodies of what they send, which is where VMs' private host keys are: they
/// say no more than at level `info`, whatever the filter asks for.
const TELLTALES: [&str; 1] = ["bollard"];

/// What is logged, and how.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// A filter in the syntax of `RUST_LOG` (`debug`, `info,hyper=warn`). `RUST_LOG` wins over it.
    /// `None` is `info`.
    pub filter: Option<String>,
    /// JSON or not; `None` decides by whether stderr is a terminal.
    pub json: Option<bool>,
}

/// Why the log can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not in the syntax of `RUST_LOG`.
    #[error("the log filter {0:?} can't be read ({1}); write a level such as info or debug")]
    Filter(String, String),
    /// The process has a log already.
    #[error("the log is set up twice: {0}")]
    Twice(String),
}

/// Starts logging for the whole process. Call it once, first thing.
///
/// # Errors
/// [`LoggingError`].
pub fn init(options: &LogOptions) -> Result<(), LoggingError> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let text =
        from_environment.or_else(|| options.filter.clone()).unwrap_or_else(|| "info".to_owned());
    let filter =
        EnvFilter::try_new(&text).map_err(|e| LoggingError::Filter(text, e.to_string()))?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let twice = |e: tracing_subscriber::util::TryInitError| LoggingError::Twice(e.to_string());
    let silenced = filter_fn(|metadata| may_log(metadata.target(), *metadata.level()));
    if options.json.unwrap_or(!terminal) {
        let writer = || Harmless { to: std::io::stderr(), form: Form::Json };
        let builder = builder.with_writer(writer).json().flatten_event(true).with_span_list(false);
        builder.finish().with(silenced).try_init().map_err(twice)
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let form = if colour { Form::Coloured } else { Form::Plain };
        let builder = builder.with_writer(move || Harmless { to: std::io::stderr(), form });
        let builder = builder.compact().with_ansi(colour).with_target(false);
        builder.finish().with(silenced).try_init().map_err(twice)
    }
}

fn may_log(target: &str, level: Level) -> bool {
    let library = target.split("::").next().unwrap_or(target);
    level <= Level::INFO || !TELLTALES.contains(&library)
}

/// How log lines look before they are made harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// JSON.
    Json,
    /// Text.
    Plain,
    /// Text with escape sequences of our own; `tracing-subscriber` has escaped those of others.
    Coloured,
}

/// Writes log lines so that nothing in them, whoever's words they repeat, has power over a terminal.
#[derive(Debug)]
struct Harmless<W> {
    to: W,
    form: Form,
}

impl<W: Write> Write for Harmless<W> {
    /// A whole line, as the log's formatter writes it.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        match self.form {
            Form::Json => self.to.write_all(printable_json(&text).as_bytes())?,
            Form::Plain => self.to.write_all(printable_lines(&text).as_bytes())?,
            Form::Coloured => {
                for (at, part) in text.split('\u{1b}').enumerate() {
                    self.to.write_all(if at > 0 { b"\x1b" } else { b"" })?;
                    self.to.write_all(printable_lines(part).as_bytes())?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a log of `form` says when it repeats a stranger's words.
    fn logged(form: Form) -> String {
        #[derive(Clone, Default)]
        struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().map(|mut kept| kept.extend_from_slice(bytes)).ok();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let to = kept.clone();
        let builder = tracing_subscriber::fmt()
            .with_writer(move || Harmless { to: to.clone(), form })
            .with_ansi(form == Form::Coloured);
        let said = "a\u{1b}[2Jb\u{9b}31mc\u{202e}d\r\u{7f}";
        let log = || tracing::warn!(field = said, debug = ?said, "their words: {said}");
        match form {
            Form::Json => tracing::subscriber::with_default(builder.json().finish(), log),
            _ => tracing::subscriber::with_default(builder.compact().finish(), log),
        }
        let bytes = kept.0.lock().map(|kept| kept.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn a_strangers_words_have_no_power_in_the_log() {
        for form in [Form::Json, Form::Plain, Form::Coloured] {
            let log = logged(form);
            assert!(log.contains("their words"), "{log:?}");
            for dangerous in ["\u{1b}[2J", "\u{9b}", "\u{202e}", "\r", "\u{7f}"] {
                assert!(!log.contains(dangerous), "{form:?} passes {dangerous:?}: {log:?}");
            }
        }
    }

    #[test]
    fn what_a_library_sends_is_never_logged() {
        for level in [Level::DEBUG, Level::TRACE] {
            assert!(!may_log("bollard::docker", level) && !may_log("bollard", level));
            assert!(may_log("golem_vm_provider::vm", level));
        }
        assert!(may_log("bollard::docker", Level::INFO));
    }

    #[test]
    fn a_filter_that_can_not_be_read_is_named() {
        let options = LogOptions { filter: Some("golem=loudest".to_owned()), json: None };
        if std::env::var_os("RUST_LOG").is_none() {
            assert!(matches!(init(&options), Err(LoggingError::Filter(_, _))));
        }
    }
}
