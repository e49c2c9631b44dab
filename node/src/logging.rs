//! The log: to stderr, for a person on a terminal, as JSON lines otherwise.

use std::io::IsTerminal as _;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let twice = |e: tracing_subscriber::util::TryInitError| LoggingError::Twice(e.to_string());
    let silenced = filter_fn(|metadata| may_log(metadata.target(), *metadata.level()));
    if options.json.unwrap_or(!terminal) {
        let builder = builder.json().flatten_event(true).with_span_list(false);
        builder.finish().with(silenced).try_init().map_err(twice)
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let builder = builder.compact().with_ansi(colour).with_target(false);
        builder.finish().with(silenced).try_init().map_err(twice)
    }
}

fn may_log(target: &str, level: Level) -> bool {
    let library = target.split("::").next().unwrap_or(target);
    level <= Level::INFO || !TELLTALES.contains(&library)
}

#[cfg(test)]
mod tests {
    use super::*;

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
