//! What is done when somebody does not want a VM to be made after all, or it takes too long: nothing is left of it.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use super::super::unwanted;
use crate::app::App;
use crate::error::{CliError, Kind, Result};
use crate::market::label;
use crate::rentals::{Rental, State};

/// From when on another interrupt means that cleaning up is not to be waited for either.
const AGAIN: Duration = Duration::from_secs(1);
/// How long cleaning up after an interruption may take.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// Carries `work`, which makes the VM `name`, to its end within `seconds`. The row of the attempt that is going
/// on is in `current`: when it is interrupted, or takes too long, that is destroyed again.
pub(in crate::commands) async fn guarded(
    app: &App<'_>,
    name: &str,
    seconds: u64,
    current: &Cell<Option<i64>>,
    work: impl Future<Output = Result<Rental>>,
) -> Result<Rental> {
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(Duration::from_secs(seconds), work) => outcome.ok(),
        () = interrupted() => {
            app.ui.note("interrupted");
            clean_up(app, current.get(), name).await?;
            return Err(CliError::new(Kind::Interrupted, format!("creating '{name}' was interrupted")));
        }
    };
    match outcome {
        Some(outcome) => outcome,
        None => {
            clean_up(app, current.get(), name).await?;
            Err(CliError::new(
                Kind::TimedOut,
                format!("creating '{name}' took longer than {seconds} s"),
            )
            .hint("allow more time with --timeout SECONDS, or choose another provider"))
        }
    }
}

/// Waits until somebody wants this to end.
pub(in crate::commands) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut hang_up)) =
            (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Destroys what the attempt that was going on may have left, within a bounded time.
async fn clean_up(app: &App<'_>, row: Option<i64>, name: &str) -> Result<()> {
    let Some(row) = row else { return Ok(()) };
    let rentals = app.rentals()?;
    let known = rentals.by_row(row)?;
    if known.as_ref().is_some_and(|rental| rental.settled_at.is_some()) {
        app.ui.note(&format!("'{name}' was made by an earlier create, and is kept"));
        return Ok(());
    }
    // First of all it is written down that it is not wanted: then even a kill leaves no doubt.
    rentals.set_state(row, State::Abandoned)?;
    let Some(rental) = rentals.by_row(row)? else { return Ok(()) };
    let progress = app.ui.progress(&format!("destroying '{name}' again"));
    let destroying = async {
        loop {
            match unwanted::reap_one(app, &rental, CLEAN_UP).await {
                Ok(true) => return None,
                // The request may still be on its way: asked again, until the time is up.
                Ok(false) => tokio::time::sleep(Duration::from_millis(500)).await,
                Err(error) => {
                    if !error.is_worth_a_retry() && error.code().is_none() {
                        return Some(error.to_string());
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    let bounded = if rental.vm_id.is_some() { CLEAN_UP } else { Duration::from_secs(4) };
    let left = tokio::select! {
        left = tokio::time::timeout(bounded, destroying) => left,
        // What wraps this command may pass one interrupt on twice; only a later one is meant.
        () = async {
            tokio::time::sleep(AGAIN).await;
            interrupted().await;
        } => Ok(Some("interrupted again".to_owned())),
    };
    drop(progress);
    app.sync_known_hosts()?;
    let at = label(&rental.provider.name, &rental.provider.id);
    match left {
        Ok(None) => app.ui.note(&format!("nothing is left of '{name}' at {at}")),
        Ok(Some(reason)) => app.ui.warn(&format!(
            "{at} could not be told to destroy '{name}' ({reason}); the next `golem vm` command tries again"
        )),
        Err(_) if rental.vm_id.is_none() => app.ui.note(&format!(
            "{at} has no '{name}'; should the request still arrive there, the next `golem vm` command destroys it"
        )),
        Err(_) => app.ui.warn(&format!(
            "{at} did not confirm that '{name}' is destroyed; the next `golem vm` command tries again"
        )),
    }
    Ok(())
}
