//! The log: to stderr, for a person on a terminal, as JSON lines otherwise.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let twice = |e: tracing_subscriber::util::TryInitError| LoggingError::Twice(e.to_string());
    if options.json.unwrap_or(!terminal) {
        builder.json().flatten_event(true).with_span_list(false).finish().try_init().map_err(twice)
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.compact().with_ansi(colour).with_target(false).finish().try_init().map_err(twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_can_not_be_read_is_named() {
        let options = LogOptions { filter: Some("golem=loudest".to_owned()), json: None };
        if std::env::var_os("RUST_LOG").is_none() {
            assert!(matches!(init(&options), Err(LoggingError::Filter(_, _))));
        }
    }
}
