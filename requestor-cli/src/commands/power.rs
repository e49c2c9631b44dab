//! `golem vm start`, `stop`, `restart`, `suspend` and `resume`

use std::time::Duration;

use golem_vm_protocol::vm::VmStatus;
use golem_vm_protocol::{VmRef, route};
use tokio::time::{Instant, sleep};

use super::failed::explained;
use super::list::tell_end;
use super::refresh::{self, Seen};
use super::view::VmView;
use crate::app::App;
use crate::args::NameArgs;
use crate::client::provider::ACT;
use crate::error::{CliError, Kind, Result};
use crate::rentals::Rental;

/// What is done to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Both, in the other order.
    Restart,
    /// Keep its memory on its disk, and end it.
    Suspend,
    /// Let it go on from there.
    Resume,
}

/// What is said of it.
struct Words {
    verb: &'static str,
    doing: &'static str,
    done: &'static str,
    /// What the VM is then.
    is: &'static str,
}

impl Change {
    const fn words(self) -> Words {
        let (verb, doing, done, is) = match self {
            Self::Start => ("start", "starting", "started", "running"),
            Self::Stop => ("stop", "stopping", "stopped", "stopped"),
            Self::Restart => ("restart", "restarting", "restarted", "running"),
            Self::Suspend => ("suspend", "suspending", "suspended", "suspended"),
            Self::Resume => ("resume", "resuming", "resumed", "running"),
        };
        Words { verb, doing, done, is }
    }

    fn target(self, vm: &VmRef) -> String {
        match self {
            Self::Start => route::vm_start(vm),
            Self::Stop => route::vm_stop(vm),
            Self::Restart => route::vm_restart(vm),
            Self::Suspend => route::vm_suspend(vm),
            Self::Resume => route::vm_resume(vm),
        }
    }

    fn is_done(self, rental: &Rental) -> bool {
        match self {
            Self::Start | Self::Restart | Self::Resume => rental.status == VmStatus::Running,
            Self::Stop => rental.status == VmStatus::Stopped,
            Self::Suspend => rental.status == VmStatus::Stopped && rental.suspended,
        }
    }
}

pub(super) async fn run(app: &App<'_>, args: &NameArgs, change: Change) -> Result<()> {
    let rental = app.find(&args.name)?;
    let name = rental.name.clone();
    let words = change.words();
    let client = app.client()?;
    let target = change.target(&rental.reference());
    let doing = format!("{} '{name}'", words.verb);

    let progress = app.ui.progress(&format!("{} '{name}'", words.doing));
    let answer =
        app.reach(&rental.provider, async |provider| client.change(provider, &target).await).await;
    if let Err(error) = answer {
        drop(progress);
        return Err(explained(app, &rental, &doing, error).await);
    }
    let seen = settled(app, &rental, change).await?;
    drop(progress);
    if app.ui.is_json() {
        return app.ui.json(&VmView::of(app, &seen.rental, false)?);
    }
    app.ui.line(&format!("'{name}' is {}", words.is))?;
    tell_end(app, &seen.rental);
    Ok(())
}

/// Waits until it is done: the provider may answer before the VM is where it should be.
async fn settled(app: &App<'_>, rental: &Rental, change: Change) -> Result<Seen> {
    let (name, words) = (&rental.name, change.words());
    let started = Instant::now();
    loop {
        let Some(seen) = refresh::one(app, rental.clone()).await? else {
            return Err(CliError::not_found(format!("'{name}' does not exist any more")));
        };
        match (&seen.stale, seen.rental.status) {
            (None, _) if change.is_done(&seen.rental) => return Ok(seen),
            (None, VmStatus::Error) => {
                return Err(CliError::new(
                    Kind::Refused,
                    format!("'{name}' could not be {}", words.done),
                )
                .hint(format!("golem vm info {name}")));
            }
            (Some(error), _) if started.elapsed() >= ACT || !error.is_worth_a_retry() => {
                return Err(error
                    .clone()
                    .into_cli(&format!("{} '{name}'", words.verb), &rental.provider));
            }
            (None, status) if started.elapsed() >= ACT => {
                return Err(CliError::new(
                    Kind::TimedOut,
                    format!("'{name}' is still {status} after {} s", ACT.as_secs()),
                )
                .hint(format!("golem vm info {name}")));
            }
            _ => sleep(Duration::from_millis(500)).await,
        }
    }
}
