//! What became of creates that were cut off. Before a command about VMs does anything else, whatever an
//! earlier golem could not bring to its end is looked after: the provider is asked, by the key under which
//! the VM was asked for, and one line tells what it said.
//!
//! ```text
//!   pending, and nobody is at it ─▶ which VM? ─▶ how far? ──▶ made: taken over, as if create had said so
//!                                      │            ├──────▶ failed: forgotten
//!                                      │            ├──────▶ still going on: asked again next time
//!                                      │            └──────▶ no answer: asked again next time
//!                                      ├──────▶ none, and none can come any more: forgotten
//!                                      └──────▶ none yet: asked again next time
//!   abandoned ───────────────────▶ destroyed, or tried again next time
//! ```

use std::time::Duration;

use futures_util::future::join_all;
use golem_vm_protocol::vm::{OperationStatus, Vm, VmStatus};
use golem_vm_protocol::{ErrorCode, VmName};

use super::making::not_as_asked;
use super::ssh::usable_access;
use super::{refresh, unwanted};
use crate::app::{App, now};
use crate::client::provider::{Access, CallError, Created, vm_id};
use crate::error::{CliError, Result};
use crate::fail_point::{FailPoint, reached};
use crate::lease::minute;
use crate::market::label;
use crate::rentals::Rental;

/// How long one provider may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// For so long after a provider's silence only `list` and `create` ask it again.
const SPARED: Duration = Duration::from_secs(60);

/// Which VM stands behind a create whose answer never came.
pub(super) enum Learned {
    /// This one; the row knows its id now.
    Is(Box<Rental>),
    /// The provider has no VM of that name.
    Nothing,
    /// It has this one of that name, which something else has made.
    Another(Box<Vm>),
}

/// What became of a create.
enum Became {
    /// The VM is there.
    Made,
    /// It could not be made, for this reason; nothing of it is left.
    Failed(String),
    /// Nothing was or will be made.
    Nothing(&'static str),
    /// The provider is at it.
    GoingOn(String),
    /// That is not known yet.
    Open(String),
    /// Another golem is at it.
    NotOurs,
}

/// Settles everything that is unfinished but a create of `but`, which the caller goes on with. Who is `hasty`
/// does not wait for a provider that was silent a moment ago.
pub(super) async fn all(app: &App<'_>, but: Option<&VmName>, hasty: bool) -> Result<()> {
    let rentals = app.rentals()?;
    let due = |rental: &Rental| {
        !hasty || rental.silent_at.is_none_or(|silent| now().since(silent) >= SPARED)
    };
    let mut pending = rentals.all()?;
    pending.retain(|rental| rental.is_unsettled() && Some(&rental.name) != but && due(rental));
    let mut abandoned = rentals.abandoned()?;
    abandoned.retain(due);
    rentals.release_claims()?;
    if pending.is_empty() && abandoned.is_empty() {
        return Ok(());
    }
    let settling = join_all(pending.iter().map(|rental| one(app, rental)));
    let (settled, ()) = tokio::join!(settling, unwanted::reap(app, &abandoned, DEADLINE));
    settled.into_iter().collect::<Result<Vec<()>>>()?;
    app.sync_known_hosts()
}

/// Finds out what became of one create that was cut off, and tells it.
pub(super) async fn one(app: &App<'_>, rental: &Rental) -> Result<()> {
    let became = match tokio::time::timeout(DEADLINE, settled(app, rental)).await {
        Ok(became) => became?,
        Err(_) => Became::Open(CallError::TimedOut(DEADLINE).to_string()),
    };
    let what = format!(
        "the create of '{}' at {}, begun {} UTC and cut off,",
        rental.name,
        label(&rental.provider.name, &rental.provider.id),
        minute(rental.created_at)
    );
    match became {
        Became::Made => {
            reached(FailPoint::Settled);
            app.ui.note(&format!("{what} has succeeded: golem vm ssh {}", rental.name));
        }
        Became::Failed(why) => app.ui.warn(&format!("{what} has failed: {why}")),
        Became::Nothing(why) => app.ui.note(&format!("{what} came to nothing: {why}")),
        Became::GoingOn(phase) => app.ui.note(&format!("{what} is still going on ({phase})")),
        Became::Open(why) => {
            app.rentals()?.silent(rental.row, now())?;
            app.ui.note(&format!("{what} is not decided yet: {why}"));
        }
        Became::NotOurs => {}
    }
    Ok(())
}

async fn settled(app: &App<'_>, rental: &Rental) -> Result<Became> {
    let rentals = app.rentals()?;
    let Some(_claim) = rentals.claim(&rental.idempotency_key)? else { return Ok(Became::NotOurs) };
    let Some(rental) = rentals.by_row(rental.row)?.filter(Rental::is_unsettled) else {
        return Ok(Became::NotOurs);
    };
    if rental.was_never_sent() {
        rentals.remove(rental.row, now())?;
        return Ok(Became::Nothing("nothing was sent"));
    }
    let rental = match rental.vm_id {
        Some(_) => rental,
        None => match learn(app, &rental).await {
            Ok(Learned::Is(rental)) => *rental,
            Ok(Learned::Nothing) if rental.may_be_in_flight(now()) => {
                return Ok(Became::Open("its request may still be on its way".to_owned()));
            }
            Ok(Learned::Nothing) => {
                rentals.remove(rental.row, now())?;
                return Ok(Became::Nothing("it never got there"));
            }
            Ok(Learned::Another(vm)) => {
                rentals.remove(rental.row, now())?;
                leave(app, &rental, &vm)?;
                return Ok(Became::Nothing("another VM of that name was there already"));
            }
            Err(error) => return Ok(Became::Open(error.to_string())),
        },
    };
    match how_far(app, &rental).await {
        Ok(Far::There(vm)) => made(app, rental, &vm).await,
        Ok(Far::GoingOn(phase)) => Ok(Became::GoingOn(phase)),
        Ok(Far::Failed(why)) => {
            rentals.remove(rental.row, now())?;
            Ok(Became::Failed(why))
        }
        Err(error) => Ok(Became::Open(error.to_string())),
    }
}

/// How far the provider is with a VM.
enum Far {
    There(Box<Vm>),
    GoingOn(String),
    Failed(String),
}

async fn how_far(app: &App<'_>, rental: &Rental) -> std::result::Result<Far, CallError> {
    let client = app.client().map_err(local)?;
    if let Some(id) = &rental.operation_id {
        let answer = app
            .reach(&rental.provider, async |provider| client.operation(provider, id).await)
            .await;
        match answer {
            Ok(operation) => match operation.status {
                OperationStatus::Ready => {}
                OperationStatus::Failed => {
                    return Ok(Far::Failed(
                        operation.error.unwrap_or_else(|| "its provider gave no reason".to_owned()),
                    ));
                }
                OperationStatus::Creating | OperationStatus::Unknown => {
                    return Ok(Far::GoingOn(
                        operation.phase.unwrap_or_else(|| "making the VM".to_owned()),
                    ));
                }
            },
            // The VM itself knows as well.
            Err(error) if error.code() == Some(ErrorCode::OperationNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let vm = rental.reference();
    let answer = app.reach(&rental.provider, async |provider| client.vm(provider, &vm).await).await;
    match answer {
        Ok(vm) if vm.status == VmStatus::Creating => Ok(Far::GoingOn("making the VM".to_owned())),
        Ok(vm) if vm.status == VmStatus::Deleted => Ok(Far::Failed("it was destroyed".to_owned())),
        Ok(vm) => Ok(Far::There(Box::new(vm))),
        Err(error) if error.is_no_such_vm() => {
            Ok(Far::Failed("its provider has no such VM any more".to_owned()))
        }
        Err(error) => Err(error),
    }
}

/// The VM is there: it is taken over if it is what was asked for, and destroyed if it is not.
async fn made(app: &App<'_>, rental: Rental, vm: &Vm) -> Result<Became> {
    let rentals = app.rentals()?;
    rentals.observed(rental.row, vm, now())?;
    let mut wrong = not_as_asked(&rental, vm);
    if vm.status == VmStatus::Error {
        wrong.push(vm.error_message.clone().unwrap_or_else(|| "it does not run".to_owned()));
    }
    if !wrong.is_empty() {
        unwanted::give_up(app, &rental)?;
        let known = rentals.by_row(rental.row)?.unwrap_or(rental);
        let left = match unwanted::reap_one(app, &known, DEADLINE).await {
            Ok(_) => "it is given back",
            Err(_) => "it is given back as soon as its provider answers",
        };
        return Ok(Became::Failed(format!("{}; {left}", wrong.join("; "))));
    }
    reached(FailPoint::Found);
    // Best effort: whoever logs in asks again.
    let client = app.client()?;
    let reference = rental.reference();
    let access = app
        .reach(&rental.provider, async |provider| client.access(provider, &reference).await)
        .await;
    if let Ok(Access::Ready(access)) = access
        && let Ok(access) = usable_access(&rental, &access)
    {
        rentals.set_access(rental.row, &access)?;
    }
    rentals.settled(rental.row, now())?;
    Ok(Became::Made)
}

/// Finds out which VM the create of a row without an id has made. Where there is one of that name, the request
/// is sent once more: under its key it is answered with the VM that it made, and makes no other one, for the
/// name is taken.
pub(super) async fn learn(
    app: &App<'_>,
    rental: &Rental,
) -> std::result::Result<Learned, CallError> {
    let client = app.client().map_err(local)?;
    let rentals = app.rentals().map_err(local)?;
    let vm = rental.reference();
    let there = app.reach(&rental.provider, async |provider| client.vm(provider, &vm).await).await;
    let there = match there {
        Ok(vm) => vm,
        Err(error) if error.is_no_such_vm() => return Ok(Learned::Nothing),
        Err(error) => return Err(error),
    };
    let answer =
        app.reach(&rental.provider, async |provider| client.create(provider, rental).await).await;
    match answer {
        Ok(created) => {
            reached(FailPoint::Learned);
            match &created {
                Created::Accepted(accepted) => {
                    let id = vm_id(&accepted.vm_id)?;
                    rentals.accepted(rental.row, id, &accepted.job_id).map_err(local)?;
                }
                Created::Ready(vm) => {
                    vm_id(&vm.id)?;
                    rentals.observed(rental.row, vm, now()).map_err(local)?;
                }
            }
            let known = rentals.by_row(rental.row).map_err(local)?;
            Ok(known.map_or(Learned::Nothing, |known| Learned::Is(Box::new(known))))
        }
        Err(error) => match error.code() {
            Some(code) if !CallError::leaves_open(code) => Ok(Learned::Another(Box::new(there))),
            _ => Err(error),
        },
    }
}

/// Leaves a VM alone that something else has made, and sees to it that it is on the list.
pub(super) fn leave(app: &App<'_>, rental: &Rental, vm: &Vm) -> Result<()> {
    let on_list = app.rentals()?.all()?.iter().any(|known| {
        known.provider.id == rental.provider.id
            && known.vm_id.is_some_and(|id| id.to_string() == vm.id)
    });
    match vm.status {
        VmStatus::Error | VmStatus::Deleted => Ok(()),
        _ if on_list => Ok(()),
        _ => refresh::adopt(app, &rental.provider, vm),
    }
}

fn local(error: CliError) -> CallError {
    CallError::Local(error.one_line())
}
