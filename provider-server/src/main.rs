//! `golem-provider`: see the library `golem_vm_provider`.

use std::process::ExitCode;

fn main() -> ExitCode {
    golem_vm_provider::cli::run(std::env::args_os())
}
