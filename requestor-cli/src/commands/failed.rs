//! Why something could not be done to a VM, and what to type then.

use golem_vm_protocol::ErrorCode;

use super::refresh;
use crate::app::App;
use crate::client::provider::CallError;
use crate::error::{CliError, Result};
use crate::rentals::Rental;

/// The failure of a call about a VM that exists. `doing` completes "can't …".
pub(super) async fn explained(
    app: &App<'_>,
    rental: &Rental,
    doing: &str,
    error: CallError,
) -> CliError {
    match explanation(app, rental, doing, error).await {
        Ok(error) | Err(error) => error,
    }
}

async fn explanation(
    app: &App<'_>,
    rental: &Rental,
    doing: &str,
    error: CallError,
) -> Result<CliError> {
    let name = &rental.name;
    if error.is_no_such_vm() {
        refresh::gone(app, rental)?;
        return Ok(CliError::not_found(format!("'{name}' does not exist any more")));
    }
    let code = error.code();
    let told = error.into_cli(doing, &rental.provider);
    Ok(match code {
        // The provider says how to have back what is only kept; what to type is ours to say.
        Some(ErrorCode::StateConflict) => match refresh::one(app, rental.clone()).await? {
            Some(seen) => with_next_step(told, &seen.rental),
            None => told,
        },
        Some(ErrorCode::NotFound) => {
            told.because("its provider is of an older release, which can't do that")
        }
        Some(ErrorCode::SnapshotNotFound | ErrorCode::SnapshotExists) => {
            told.hint(format!("golem vm snapshot list {name}"))
        }
        Some(ErrorCode::TooManySnapshots) => {
            told.hint(format!("golem vm snapshot delete {name} SNAPSHOT"))
        }
        _ => told,
    })
}

fn with_next_step(error: CliError, rental: &Rental) -> CliError {
    if rental.lease.as_ref().is_some_and(|lease| lease.ended_at.is_some()) {
        return with_undelete(error, rental);
    }
    if rental.suspended {
        return error.hint(format!("let it go on first: golem vm resume {}", rental.name));
    }
    error
}

/// A failure with how to have the VM back.
pub(super) fn with_undelete(error: CliError, rental: &Rental) -> CliError {
    error.hint(format!("golem vm undelete {}", rental.name))
}
