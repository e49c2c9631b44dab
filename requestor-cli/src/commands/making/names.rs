//! The name of a VM that is to be made: whether it is free, and its row.

use golem_vm_protocol::VmName;
use golem_vm_protocol::vm::VmStatus;

use super::super::{refresh, settle};
use crate::app::{App, now};
use crate::error::{CliError, Kind, Result};
use crate::fail_point::{FailPoint, reached};
use crate::market::label;
use crate::rentals::{Claim, NewRental, Rental, State};

/// The rental of that name if its making was cut off, and it is the same that is wanted now; `None` when the name is
/// free.
pub(in crate::commands) async fn unfinished(
    app: &App<'_>,
    name: &VmName,
    is_same: impl Fn(&Rental) -> bool,
) -> Result<Option<(Rental, Claim)>> {
    let rentals = app.rentals()?;
    let Some(rental) = rentals.by_name(name)? else { return Ok(None) };
    let Some(claim) = rentals.claim(&rental.idempotency_key)? else {
        return Err(CliError::new(
            Kind::Refused,
            format!("another golem is creating '{}' at this moment", rental.name),
        )
        .hint("wait for it, or choose another name"));
    };
    if rental.state == State::Pending && is_same(&rental) {
        return Ok(Some((rental, claim)));
    }
    drop(claim);
    if rental.is_unsettled() {
        settle::one(app, &rental).await?;
    }
    let Some(rental) = rentals.by_name(name)? else { return Ok(None) };
    match rental.state {
        State::Pending if rental.is_unsettled() => Err(CliError::new(
            Kind::Refused,
            format!("a create of '{}' with other figures was cut off", rental.name),
        )
        .hint("give the same command again to go on with it")
        .hint(format!("or drop it: golem vm destroy {}", rental.name))),
        State::Pending | State::Active | State::Abandoned => taken(app, rental).await,
    }
}

/// The name is in use here, unless the provider says that the VM is gone.
async fn taken<T>(app: &App<'_>, rental: Rental) -> Result<Option<T>> {
    let name = rental.name.clone();
    let at = label(&rental.provider.name, &rental.provider.id);
    let Some(seen) = refresh::one(app, rental).await? else { return Ok(None) };
    let status = if seen.stale.is_some() { VmStatus::Unknown } else { seen.rental.status };
    Err(name_taken(&name, &format!("at {at}, {status}")))
}

fn name_taken(name: &VmName, which: &str) -> CliError {
    CliError::new(Kind::Refused, format!("you have a VM called '{name}' already ({which})"))
        .hint(format!("use it: golem vm ssh {name}"))
        .hint("or choose another name")
}

/// Stores what is about to be done.
pub(in crate::commands) fn intend(app: &App<'_>, new: &NewRental) -> Result<(Rental, Claim)> {
    let rentals = app.rentals()?;
    let claim = rentals
        .claim(&new.idempotency_key)?
        .ok_or_else(|| CliError::other("a key that was made this moment is in use already"))?;
    let rental = rentals.insert(new, now())?;
    reached(FailPoint::Intended);
    Ok((rental, claim))
}
