//! `golem vm create`
//!
//! ```text
//!  what is wanted ─▶ key ─▶ a create that was cut off? ──yes──▶ attempt (same provider and key)
//!                             │ no                                 │
//!                             ▼                                    │ it failed
//!                    providers, best first ◀─────────────────────-─┘
//!                             │ at most five
//!                             ▼
//!                          attempt ──▶ a login worked ──▶ shown
//! ```
//!
//! Each attempt is a row in the list of rentals before anything is sent, so that whatever cuts it
//! off, the next command knows what to look for ([`super::settle`]). At every moment at most one attempt is
//! wanted; those before it were refused, destroyed, or are marked to be destroyed.

mod choice;
mod cloud_init;
mod wanted;

use std::cell::Cell;

use self::wanted::Wanted;
use super::making::{self, Attempt, Failure, Laps};
use super::{discovered, info, refresh, settle};
use crate::app::App;
use crate::args::CreateArgs;
use crate::error::{CliError, Kind, Result};
use crate::fail_point::{FailPoint, reached};
use crate::market::{Candidate, changes, dollars, label, usd};
use crate::rentals::{Claim, NewRental, Rental, fresh_key};

/// Most providers that are tried.
const MAX_PROVIDERS: usize = 5;

pub(super) async fn run(app: &App<'_>, args: &CreateArgs) -> Result<()> {
    // The row of the attempt that is going on, for whatever interrupts it.
    let current = Cell::new(None);
    let laps = Laps::start();
    let work = create(app, args, &current, &laps);
    let rental =
        making::guarded(app, &args.name, args.terms.timeout, &current, Box::pin(work)).await?;
    let title = format!("✅ '{}' is ready", rental.name);
    info::show(app, &refresh::Seen { rental, stale: None }, &title, Some(&laps))
}

async fn create(
    app: &App<'_>,
    args: &CreateArgs,
    current: &Cell<Option<i64>>,
    laps: &Laps,
) -> Result<Rental> {
    let wanted = Wanted::of(app, args).await?;
    let mut failures: Vec<CliError> = Vec::new();
    let progress = app.ui.progress(&format!("creating '{}'", wanted.name));

    let doing = format!("create '{}'", wanted.name);
    let attempt = |resumed| Attempt {
        app,
        progress: &progress,
        doing: &doing,
        laps,
        key: &wanted.key,
        resumed,
        elsewhere: wanted.provider.is_none(),
    };
    settle::all(app, Some(&wanted.name), false).await?;
    if let Some((rental, _claim)) =
        making::unfinished(app, &wanted.name, |rental| wanted.is_same_as(rental)).await?
    {
        current.set(Some(rental.row));
        app.ui.note(&format!(
            "going on with the create of '{}' at {} that was cut off",
            wanted.name,
            label(&rental.provider.name, &rental.provider.id)
        ));
        match attempt(true).run(rental).await {
            Ok(rental) => return Ok(rental),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Next(error) | Failure::OfferChanged(error)) => {
                tell_failure(app, &error);
                failures.push(error);
            }
        }
        current.set(None);
    }

    progress.step("looking for a provider");
    let discovery = app.discovery()?;
    let candidates = choice::candidates(app, &discovery, &wanted).await?;
    laps.lap("search");
    let chosen = candidates.len() == 1 && wanted.provider.is_some();
    let mut candidates = candidates.into_iter().take(MAX_PROVIDERS).peekable();
    while let Some((mut candidate, reason)) = candidates.next() {
        if chosen {
            let price = dollars(usd(candidate.price(&wanted.resources)));
            app.ui.note(&format!("renting from {}: {price} per month", candidate.label()));
        } else {
            app.ui.note(&format!("renting from {}: {}", candidate.label(), reason.0));
        }
        // Once more when only its terms have changed, for they may be as good.
        for again in [false, true] {
            let (rental, _claim) = intend(app, &wanted, &candidate)?;
            current.set(Some(rental.row));
            let error = match attempt(false).run(rental).await {
                Ok(rental) => return Ok(rental),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Next(error)) => error,
                Err(Failure::OfferChanged(error)) if again => error,
                Err(Failure::OfferChanged(error)) => {
                    current.set(None);
                    match renewed(app, &discovery, &wanted, &candidate, chosen, error).await {
                        Ok(new) => {
                            candidate = new;
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            current.set(None);
            // The last one's is told at the end, with all the others.
            if candidates.peek().is_some() {
                tell_failure(app, &error);
            }
            failures.push(error);
            break;
        }
    }
    drop(progress);
    Err(all_failed(&wanted, failures))
}

fn tell_failure(app: &App<'_>, error: &CliError) {
    if error.kind == Kind::Security {
        app.ui.warn(&error.one_line());
    } else {
        app.ui.note(&error.one_line());
    }
}

/// The failure of the whole command, from those of the providers that were tried.
fn all_failed(wanted: &Wanted, mut failures: Vec<CliError>) -> CliError {
    if failures.len() == 1
        && let Some(only) = failures.pop()
    {
        return only;
    }
    let kinds: Vec<Kind> = failures.iter().map(|failure| failure.kind).collect();
    let kind = match kinds.first() {
        Some(first) if kinds.iter().all(|kind| kind == first) => *first,
        _ if kinds.contains(&Kind::Security) => Kind::Security,
        _ => Kind::Refused,
    };
    let mut error = CliError::new(
        kind,
        format!("none of the {} providers that were tried made '{}'", failures.len(), wanted.name),
    );
    for failure in failures {
        // The first part, "can't create ...", is the same for all.
        let why = failure.causes.join(": ");
        error = error.because(if why.is_empty() { failure.message } else { why });
    }
    error.hint("golem vm providers")
}

/// Stores what is about to be done.
fn intend(app: &App<'_>, wanted: &Wanted, candidate: &Candidate) -> Result<(Rental, Claim)> {
    reached(FailPoint::Chosen);
    let new = NewRental {
        name: wanted.name.clone(),
        provider: candidate.reference(),
        idempotency_key: fresh_key()?,
        request: wanted.request(Some(candidate.accepted()))?,
        cloned_from: None,
        resources: wanted.resources,
        usd_micro_month: Some(candidate.price(&wanted.resources)),
        identity: Some(wanted.key.identity.clone()),
        agreed: Some(candidate.agreed(&wanted.wish)),
    };
    making::intend(app, &new)
}

/// The provider's new terms, if they suit as well as those that were accepted, or a person who has
/// `chosen` this provider accepts them.
async fn renewed(
    app: &App<'_>,
    discovery: &crate::client::discovery::Discovery,
    wanted: &Wanted,
    old: &Candidate,
    chosen: bool,
    refused: CliError,
) -> Result<Candidate> {
    let listing = discovered::one(app, discovery, &old.id).await?;
    let Some(new) = listing.as_ref().and_then(Candidate::of) else {
        return Err(refused.because("it is not listed any more"));
    };
    if new.digest == old.digest {
        return Err(refused.because("its new terms are not listed yet; try again in a moment"));
    }
    if let Some(objection) = wanted.wish.objection(&new.advertisement) {
        return Err(refused.because(format!("by now it {objection}")));
    }
    let changes = changes(old, &new, &wanted.resources, &wanted.wish);
    let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let worse = changes.iter().any(|change| change.worse);
    if worse && chosen && app.ui.can_ask() {
        app.ui.note(&format!("{} has changed its terms: {}", new.label(), told.join("; ")));
        return if app.ui.confirm("Accept the new ones?") { Ok(new) } else { Err(refused) };
    }
    if worse {
        let refused = told.iter().fold(refused, CliError::because);
        return Err(if chosen {
            refused.hint("the same command again accepts the new terms")
        } else {
            refused
        });
    }
    let told =
        if told.is_empty() { "none of those that matter here".to_owned() } else { told.join("; ") };
    app.ui.note(&format!(
        "{} has changed its terms meanwhile ({told}); going on, for none is worse",
        new.label()
    ));
    Ok(new)
}
