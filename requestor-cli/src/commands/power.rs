//! `golem vm start`, `stop` and `restart`

use std::time::Duration;

use golem_vm_protocol::vm::VmStatus;
use golem_vm_protocol::{ErrorCode, route};
use tokio::time::{Instant, sleep};

use super::lease::with_undelete;
use super::list::tell_end;
use super::refresh;
use super::view::VmView;
use crate::app::App;
use crate::args::NameArgs;
use crate::client::provider::{ACT, CallError};
use crate::error::{CliError, Kind, Result};

/// What is done to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Both, in the other order.
    Restart,
}

impl Change {
    const fn words(self) -> (&'static str, &'static str, VmStatus) {
        match self {
            Self::Start => ("start", "starting", VmStatus::Running),
            Self::Stop => ("stop", "stopping", VmStatus::Stopped),
            Self::Restart => ("restart", "restarting", VmStatus::Running),
        }
    }
}

pub(super) async fn run(app: &App<'_>, args: &NameArgs, change: Change) -> Result<()> {
    let rental = app.find(&args.name)?;
    let name = rental.name.clone();
    let (verb, doing, wanted) = change.words();
    let client = app.client()?;
    let vm = rental.reference();
    let target = match change {
        Change::Start => route::vm_start(&vm),
        Change::Stop => route::vm_stop(&vm),
        Change::Restart => route::vm_restart(&vm),
    };
    let failed = |error: CallError| error.into_cli(&format!("{verb} '{name}'"), &rental.provider);

    let progress = app.ui.progress(&format!("{doing} '{name}'"));
    let answer =
        app.reach(&rental.provider, async |provider| client.change(provider, &target).await).await;
    match answer {
        Ok(()) => {}
        Err(error) if error.is_no_such_vm() => {
            drop(progress);
            refresh::gone(app, &rental)?;
            return Err(CliError::not_found(format!("'{name}' does not exist any more")));
        }
        // The provider says how to have back what is only kept; what to type is ours to say.
        Err(error) if error.code() == Some(ErrorCode::StateConflict) => {
            drop(progress);
            let told = failed(error);
            let seen = refresh::one(app, rental.clone()).await?;
            let kept = seen.is_some_and(|seen| {
                seen.rental.lease.is_some_and(|lease| lease.ended_at.is_some())
            });
            return Err(if kept { with_undelete(told, &rental) } else { told });
        }
        Err(error) => return Err(failed(error)),
    }
    // The provider may answer before the VM is where it should be.
    let started = Instant::now();
    let seen = loop {
        let Some(seen) = refresh::one(app, rental.clone()).await? else {
            return Err(CliError::not_found(format!("'{name}' does not exist any more")));
        };
        match (&seen.stale, seen.rental.status) {
            (None, status) if status == wanted => break seen,
            (None, VmStatus::Error) => {
                return Err(CliError::new(
                    Kind::Refused,
                    format!("'{name}' could not be {verb}ed"),
                )
                .hint(format!("golem vm info {name}")));
            }
            (Some(error), _) if started.elapsed() >= ACT || !error.is_worth_a_retry() => {
                return Err(failed(error.clone()));
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
    };
    drop(progress);
    if app.ui.is_json() {
        return app.ui.json(&VmView::of(app, &seen.rental, false)?);
    }
    app.ui.line(&format!("'{name}' is {wanted}"))?;
    tell_end(app, &seen.rental);
    Ok(())
}
