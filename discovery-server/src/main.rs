//! `golem-discovery`: see the library of the same crate.

use std::process::ExitCode;

use clap::Parser as _;
use golem_vm_discovery::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
