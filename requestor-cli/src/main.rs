//! The `golem` command. All of it is in the library.

use std::process::ExitCode;

use request_vm_on_golem::{Environment, run};

fn main() -> ExitCode {
    run(std::env::args_os(), &Environment::of_process())
}
