//! The commands, one file each. Only here are results shown.

mod again;
mod clone;
mod config;
mod console;
mod create;
mod destroy;
mod discovered;
mod events;
mod failed;
mod id;
mod info;
mod keys;
mod lease;
mod list;
mod making;
mod power;
mod providers;
mod refresh;
mod resize;
mod settle;
mod snapshot;
mod ssh;
mod ssh_config;
mod stats;
mod unwanted;
mod version;
mod view;

use std::future::Future;

use crate::app::App;
use crate::args::{Command, VmCommand};
use crate::error::{CliError, Result};

/// Runs a command; the result is the process's exit code.
///
/// # Errors
/// Whatever ended the command.
pub fn run(app: &App<'_>, command: Command) -> Result<u8> {
    match command {
        Command::Version => version::run(app).map(|()| 0),
        Command::Id => id::run(app).map(|()| 0),
        Command::Config(command) => config::run(app, command).map(|()| 0),
        Command::Vm(command) => {
            tell_warnings(app)?;
            run_vm(app, *command)
        }
    }
}

fn run_vm(app: &App<'_>, command: VmCommand) -> Result<u8> {
    match &command {
        // It asks nobody; and a create or a clone settles all but what it goes on with itself.
        VmCommand::SshConfig(_) | VmCommand::Create(_) | VmCommand::Clone(_) => {}
        VmCommand::List => block_on(settle::all(app, None, false))??,
        _ => block_on(settle::all(app, None, true))??,
    }
    let done = match command {
        VmCommand::Ssh(args) => return ssh::run(app, &args),
        VmCommand::SshConfig(args) => ssh_config::run(app, &args),
        VmCommand::Providers(args) => block_on(providers::run(app, &args))?,
        VmCommand::Create(args) => block_on(create::run(app, &args))?,
        VmCommand::List => block_on(list::run(app))?,
        VmCommand::Info(args) => block_on(info::run(app, &args))?,
        VmCommand::Keys(command) => block_on(keys::run(app, &command))?,
        VmCommand::Start(args) => block_on(power::run(app, &args, power::Change::Start))?,
        VmCommand::Stop(args) => block_on(power::run(app, &args, power::Change::Stop))?,
        VmCommand::Restart(args) => block_on(power::run(app, &args, power::Change::Restart))?,
        VmCommand::Suspend(args) => block_on(power::run(app, &args, power::Change::Suspend))?,
        VmCommand::Resume(args) => block_on(power::run(app, &args, power::Change::Resume))?,
        VmCommand::Snapshot(command) => block_on(snapshot::run(app, &command))?,
        VmCommand::Clone(args) => block_on(clone::run(app, &args))?,
        VmCommand::Resize(args) => block_on(resize::run(app, &args))?,
        VmCommand::Console(args) => block_on(console::run(app, &args))?,
        VmCommand::Extend(args) => block_on(lease::extend(app, &args))?,
        VmCommand::Undelete(args) => block_on(lease::undelete(app, &args))?,
        VmCommand::Events(args) => block_on(events::run(app, &args))?,
        VmCommand::Stats(args) => block_on(stats::run(app, &args))?,
        VmCommand::Destroy(args) => block_on(destroy::run(app, &args))?,
        VmCommand::Purge(args) => block_on(destroy::purge(app, &args))?,
    };
    done.map(|()| 0)
}

/// Tells what is odd about the settings: each thing once, with `--verbose` always.
fn tell_warnings(app: &App<'_>) -> Result<()> {
    for warning in app.config.warnings() {
        if app.rentals()?.told(warning)? || app.ui.is_verbose() {
            app.ui.warn(warning);
        }
    }
    Ok(())
}

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::other("can't start the runtime").because(error))?;
    let result = runtime.block_on(future);
    // A thread that still waits for standard input must not keep the process alive.
    runtime.shutdown_background();
    Ok(result)
}
