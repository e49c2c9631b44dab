//! `golem-discovery`: see the library of the same crate.

use std::process::ExitCode;

use clap::Parser as _;
use golem_vm_discovery::cli::Cli;
use golem_vm_node::settings::SettingsError;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // A setting that is not understood is wrong usage, wherever it was set.
            if error.is::<SettingsError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
