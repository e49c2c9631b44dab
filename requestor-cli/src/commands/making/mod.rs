//! Making a VM, whether anew or as a clone: from the row that is written before anything is sent to a login that
//! worked, and what is done when it is interrupted on the way.

mod attempt;
mod given_up;
mod interruption;
mod laps;
mod listening;
mod names;
mod proof;

pub(super) use attempt::{Attempt, Failure};
pub(super) use interruption::{guarded, interrupted};
pub(super) use laps::Laps;
pub(super) use names::{intend, unfinished};
pub(super) use proof::not_as_asked;
