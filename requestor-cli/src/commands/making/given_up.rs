//! What an attempt leaves that gave no VM, or none that is good.

use std::time::Duration;

use super::super::unwanted;
use super::attempt::{Attempt, Failure};
use crate::client::provider::CallError;
use crate::error::CliError;
use crate::market::label;
use crate::rentals::Rental;

/// How long destroying what is not wanted may take before it is left for later.
const UNDO: Duration = Duration::from_secs(20);

impl Attempt<'_> {
    /// Gives up on this provider without knowing what it has: that is found out, and destroyed, as
    /// soon as it answers.
    pub(super) async fn abandon(&self, rental: &Rental, error: CallError) -> Failure {
        if let Err(error) = self.leave(rental) {
            return Failure::Final(error);
        }
        // It may have been one bad answer only.
        let _ = unwanted::reap_one(self.app, rental, Duration::from_secs(5)).await;
        let told = error.into_cli(self.doing, &rental.provider);
        self.app.ui.detail("should the VM exist there, it is destroyed when that provider answers");
        Failure::Next(told)
    }

    /// Whether a VM that can't be logged in to may be given back without asking: not where the
    /// person wanted this very provider, and not where the create was cut off before, for then
    /// somebody may have used the VM since.
    pub(super) fn may_give_back(&self) -> bool {
        !self.resumed && self.elsewhere
    }

    /// Destroys a VM that was made just now and is not good; keeps one that was there before.
    pub(super) async fn undo_if_new(&self, rental: &Rental, why: CliError) -> Failure {
        match self.resumed {
            true => Failure::Final(kept(rental, why)),
            false => self.undo(rental, why).await,
        }
    }

    /// Destroys a VM that exists and is not good, now or when the provider answers.
    pub(super) async fn undo(&self, rental: &Rental, why: CliError) -> Failure {
        if let Err(error) = self.leave(rental) {
            return Failure::Final(error);
        }
        self.progress.step("giving it back");
        if let Err(error) = unwanted::reap_one(self.app, rental, UNDO).await {
            self.app.ui.warn(&format!(
                "'{}' at {} could not be destroyed yet ({error}); the next `golem vm` command tries again",
                rental.name,
                label(&rental.provider.name, &rental.provider.id)
            ));
        }
        Failure::Next(why)
    }

    fn leave(&self, rental: &Rental) -> Result<(), CliError> {
        unwanted::give_up(self.app, rental)
    }

    pub(super) fn next(&self, rental: &Rental, error: CallError) -> Failure {
        Failure::Next(error.into_cli(self.doing, &rental.provider))
    }
}

/// A failure that leaves the VM rented.
pub(super) fn kept(rental: &Rental, error: CliError) -> CliError {
    error
        .hint(format!("the VM is rented and kept; try again: golem vm ssh {}", rental.name))
        .hint(format!("or give it back: golem vm destroy {}", rental.name))
}
