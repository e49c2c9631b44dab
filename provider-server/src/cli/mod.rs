//! `golem-provider`: what the owner types.
//!
//! | module | what it does |
//! |---|---|
//! | `start`, `background` | runs the provider, here or in a session of its own |
//! | `stop`, `status`, `ports`, `quarantine` | speak to the running provider over its control socket |
//! | `doctor`, `events`, `image`, `purge` | the same, and without a running provider take its lock and work themselves |
//! | `accept_engine` | writes down that another engine is the right one |
//! | `identity`, `settings` | id, version, settings with their origin |
//! | `place` | which data directory and which settings are meant |
//! | `remote`, `offline` | the two ways to get something done |
//! | `exit_code`, `terminal`, `lines`, `table` | how it is said |

mod accept_engine;
mod background;
mod doctor;
mod events;
mod exit_code;
mod identity;
mod image;
mod lines;
mod offline;
mod place;
mod ports;
mod purge;
mod quarantine;
mod remote;
mod settings;
mod start;
mod status;
mod stop;
mod table;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use place::PlaceArgs;

const EXAMPLES: &str = "\
To rent this machine out:
  golem-provider doctor                    is it fit for that, and if not, what to do
  golem-provider image build debian-12     what the VMs boot from
  golem-provider start --discovery-url http://discovery.example:9001 \\
                       --port-checkers http://checker.example:9000

Then:
  golem-provider status                    what is rented, and how the machine is
  golem-provider events                    what happened to the VMs
  golem-provider stop                      VMs and their SSH sessions go on

Exit codes:
  0  done
  1  it failed; the message says what and what to do
  2  a flag or a setting that is not understood
  3  the provider does not run
  4  the backend (the Docker Engine) is not available
  5  the provider runs already: its data directory is in use";

#[derive(Debug, Parser)]
#[command(
    name = "golem-provider",
    version,
    about = "Rents out VMs on this machine",
    long_about = "Rents out VMs on this machine, to requestors anywhere who reach them over plain SSH.\n\n\
                  Start it with 'golem-provider start'.",
    after_help = EXAMPLES,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the provider until it is stopped (Ctrl-C, SIGTERM or 'golem-provider stop')
    Start(Box<start::StartArgs>),
    /// Stop the running provider; VMs and their SSH sessions go on
    Stop(stop::StopArgs),
    /// Show how the running provider is: capacity, ports, images, VMs
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// Look at everything that renting out needs, and say what to do about what is wrong
    #[command(after_help = doctor::EXAMPLES)]
    Doctor,
    /// What VMs boot from
    #[command(subcommand, after_help = image::EXAMPLES)]
    Image(image::ImageCommand),
    /// Show what happened to the VMs: every change of a state, with its time, who made it and why
    Events(events::EventsArgs),
    /// Have port checkers look at the ports again, now
    #[command(after_help = ports::EXAMPLES)]
    VerifyPorts,
    /// Cut one VM off from all network, or let it back
    Quarantine(quarantine::QuarantineArgs),
    /// Take the Docker Engine that answers for the one that has the VMs, after the other was lost
    AcceptEngine(accept_engine::AcceptEngineArgs),
    /// Remove every VM, image and network of this provider, and end it
    Purge(purge::PurgeArgs),
    /// Show this provider's id; makes its key if there is none
    #[command(after_help = identity::EXAMPLES)]
    Id,
    /// Show every setting, its value, and where that came from
    #[command(after_help = settings::EXAMPLES)]
    Config,
    /// Show the version
    Version,
    /// Show where a test can have this program killed
    #[cfg(feature = "fail-points")]
    #[command(hide = true)]
    FailPoints,
}

/// Parses the command line, does what it says, and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit_code::USAGE));
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code::of(&error))
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let place = cli.place;
    match cli.command {
        Command::Start(args) => start::run(&place, &args),
        Command::Stop(args) => block_on(stop::run(&place, &args)),
        Command::Status => block_on(status::run(&place)),
        Command::Doctor => block_on(doctor::run(&place)),
        Command::Image(command) => block_on(image::run(&place, &command)),
        Command::Events(args) => block_on(events::run(&place, &args)),
        Command::VerifyPorts => block_on(ports::verify(&place)),
        Command::Quarantine(args) => block_on(quarantine::run(&place, &args)),
        Command::AcceptEngine(args) => accept_engine::run(&place, &args),
        Command::Purge(args) => block_on(purge::run(&place, &args)),
        Command::Id => identity::id(&place),
        Command::Config => settings::run(&place),
        Command::Version => identity::version(&place),
        #[cfg(feature = "fail-points")]
        Command::FailPoints => {
            crate::fail_point::names().for_each(|name| terminal::print(&format!("{name}\n")));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs one of the owner's commands, which need no second thread for their own work.
fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(work))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::TABLE;

    #[test]
    fn the_command_line_is_sound_and_every_setting_has_a_flag() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        let help = command.find_subcommand_mut("start").unwrap().render_long_help().to_string();
        for spec in TABLE.settings {
            assert!(
                help.contains(spec.name()) || spec.name() == place::DATA_DIR,
                "{} is not in the help of start",
                spec.name()
            );
        }
    }

    #[test]
    fn every_command_has_an_example_or_is_one() {
        let command = Cli::command();
        for sub in command.get_subcommands() {
            let plain = sub.is_hide_set() || ["version", "help"].contains(&sub.get_name());
            assert!(plain || sub.get_after_help().is_some(), "{} has no example", sub.get_name());
        }
    }
}
