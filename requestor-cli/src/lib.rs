//! The `golem` command: find providers, rent VMs from them, and use them over plain SSH.
//!
//! ```text
//!   args ──▶ commands ──▶ market      which provider suits best (no I/O)
//!               │   ├───▶ client      discovery and providers: signed, with deadlines
//!               │   ├───▶ rentals     what was rented, stored before anything is sent
//!               │   └───▶ ssh         keys, pinned host keys, OpenSSH, the built-in client
//!               ▼
//!               ui                    results on stdout, everything else on stderr
//! ```
//!
//! Nothing below `commands` prints. No runtime is started and no connection is opened before a
//! command needs one.

pub mod app;
pub mod args;
pub mod atomic_file;
pub mod client;
pub mod commands;
pub mod config;
pub mod console_text;
pub mod environment;
pub mod error;
pub mod fail_point;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod lease;
pub mod market;
pub mod rentals;
pub mod ssh;
pub mod table;
pub mod ui;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

pub use environment::Environment;

use app::App;
use args::Args;
use config::{Config, Overrides};
use error::CliError;
use ui::{Ui, UiOptions};

/// Runs one command line, and returns the code that the process is to end with.
pub fn run(args: impl IntoIterator<Item = OsString>, environment: &Environment) -> ExitCode {
    let words: Vec<OsString> = args.into_iter().collect();
    let args = match Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no failures, and go to stdout.
            let _ = error.print();
            let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
            if json && error.exit_code() != 0 {
                println!("{}", misused(&error).to_json());
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let ui = Ui::of_process(&UiOptions {
        json: args.global.json,
        quiet: args.global.quiet,
        verbose: args.global.verbose,
        color: args.global.color,
        no_color: environment.variable("NO_COLOR").is_some(),
        dumb: environment.variable("TERM") == Some("dumb"),
    });
    let overrides =
        Overrides { discovery_url: args.global.discovery_url, base_dir: args.global.base_dir };
    let config = match Config::load(&overrides, environment) {
        Ok(config) => config,
        Err(error) => {
            ui.fail(&error);
            return ExitCode::from(error.kind.exit_code());
        }
    };
    let app = App::new(ui, config, environment);
    match commands::run(&app, args.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            app.ui.fail(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// A command line that can't be read, for programs.
fn misused(error: &clap::Error) -> CliError {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(first);
    CliError::usage(golem_vm_protocol::text::printable(message, 300)).hint("golem --help")
}
