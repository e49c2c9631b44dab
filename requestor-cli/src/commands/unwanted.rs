//! Destroying what is not wanted any more: VMs that a provider made, or may have made, for a create that went
//! on elsewhere or was given up. What can't be done now is done by a later run.

use std::time::Duration;

use futures_util::future::join_all;

use super::settle::{Learned, learn, leave};
use crate::app::{App, now};
use crate::client::provider::CallError;
use crate::fail_point::{FailPoint, reached};
use crate::market::label;
use crate::rentals::{Rental, State};

/// Destroys what was abandoned, where the provider answers.
pub(super) async fn reap(app: &App<'_>, abandoned: &[Rental], deadline: Duration) {
    join_all(abandoned.iter().map(async |rental| {
        let Err(error) = reap_one(app, rental, deadline).await else { return };
        app.ui.detail(&format!(
            "what is left of '{}' at {} could not be destroyed yet: {error}",
            rental.name,
            label(&rental.provider.name, &rental.provider.id)
        ));
        // Only spares the next commands the wait.
        let _ = app.rentals().and_then(|rentals| rentals.silent(rental.row, now()));
    }))
    .await;
}

/// Destroys one abandoned VM. `Ok(true)` means that the provider has none any more; `Ok(false)`
/// that it has none now, but a request may still be on its way there.
pub(super) async fn reap_one(
    app: &App<'_>,
    rental: &Rental,
    deadline: Duration,
) -> Result<bool, CallError> {
    let work = reap_now(app, rental, deadline);
    tokio::time::timeout(deadline, work).await.unwrap_or(Err(CallError::TimedOut(deadline)))
}

async fn reap_now(app: &App<'_>, rental: &Rental, deadline: Duration) -> Result<bool, CallError> {
    let local = |error: crate::error::CliError| CallError::Local(error.one_line());
    let rentals = app.rentals().map_err(local)?;
    // As it is now: whoever asks may have read it before the request was sent.
    let Some(mut rental) = rentals.by_row(rental.row).map_err(local)? else { return Ok(true) };
    let row = rental.row;
    let forget = || rentals.remove(row, now()).map_err(local);
    if rental.was_never_sent() {
        // Nothing was ever sent.
        forget()?;
        return Ok(true);
    }
    if rental.vm_id.is_none() {
        let same_name = rentals
            .by_name(&rental.name)
            .map_err(local)?
            .filter(|other| other.provider.id == rental.provider.id);
        match same_name {
            // The name is the newer one's, and a provider has each name once: ours is not there.
            Some(other) if other.vm_id.is_some() => {
                forget()?;
                return Ok(true);
            }
            // Which of the two the provider made is not known yet.
            Some(_) => return Ok(false),
            None => {}
        }
        // Another VM of that name is not ours to destroy.
        match learn(app, &rental).await? {
            Learned::Is(known) => rental = *known,
            Learned::Nothing if rental.may_be_in_flight(now()) => return Ok(false),
            Learned::Nothing => {
                forget()?;
                return Ok(true);
            }
            Learned::Another(vm) => {
                forget()?;
                leave(app, &rental, &vm).map_err(local)?;
                return Ok(true);
            }
        }
    }
    let client = app.client().map_err(local)?;
    let vm = rental.reference();
    let answer = app
        .reach(&rental.provider, async |provider| client.destroy(provider, &vm, deadline).await)
        .await;
    match answer {
        Err(error) if !error.is_no_such_vm() => Err(error),
        Ok(()) | Err(_) => {
            reached(FailPoint::Destroyed);
            forget()?;
            reached(FailPoint::DestroyedNoted);
            Ok(true)
        }
    }
}

/// Writes down that a VM is not wanted: from then on it is destroyed whenever its provider answers.
pub(super) fn give_up(app: &App<'_>, rental: &Rental) -> crate::error::Result<()> {
    app.rentals()?.set_state(rental.row, State::Abandoned)?;
    reached(FailPoint::Unwanted);
    Ok(())
}
