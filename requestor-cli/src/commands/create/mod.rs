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

mod attempt;
mod choice;
mod listening;
mod wanted;

use std::cell::Cell;
use std::time::Duration;

use golem_vm_protocol::VmName;
use golem_vm_protocol::vm::VmStatus;

use self::attempt::{Attempt, Failure};
use self::wanted::Wanted;
use super::{discovered, info, refresh, settle, unwanted};
use crate::app::{App, now};
use crate::args::CreateArgs;
use crate::error::{CliError, Kind, Result};
use crate::fail_point::{FailPoint, reached};
use crate::market::{Candidate, changes, dollars, label, usd};
use crate::rentals::{Claim, NewRental, Rental, State};

/// Most providers that are tried.
const MAX_PROVIDERS: usize = 5;
/// From when on another interrupt means that cleaning up is not to be waited for either.
const AGAIN: Duration = Duration::from_secs(1);
/// How long cleaning up after an interruption may take.
const CLEAN_UP: Duration = Duration::from_secs(20);

pub(super) async fn run(app: &App<'_>, args: &CreateArgs) -> Result<()> {
    // The row of the attempt that is going on, for whatever interrupts it.
    let current = Cell::new(None);
    let deadline = Duration::from_secs(args.timeout);
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(deadline, create(app, args, &current)) => outcome.ok(),
        () = interrupted() => {
            app.ui.note("interrupted");
            clean_up(app, current.get(), &args.name).await?;
            return Err(CliError::new(Kind::Interrupted, format!("creating '{}' was interrupted", args.name)));
        }
    };
    let Some(outcome) = outcome else {
        clean_up(app, current.get(), &args.name).await?;
        return Err(CliError::new(
            Kind::TimedOut,
            format!("creating '{}' took longer than {} s", args.name, args.timeout),
        )
        .hint("allow more time with --timeout SECONDS, or choose another provider"));
    };
    let rental = outcome?;
    let title = format!("✅ '{}' is ready", rental.name);
    info::show(app, &refresh::Seen { rental, stale: None }, &title)
}

/// Waits until somebody wants this to end.
async fn interrupted() {
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

async fn create(app: &App<'_>, args: &CreateArgs, current: &Cell<Option<i64>>) -> Result<Rental> {
    let wanted = Wanted::of(app, args).await?;
    let mut failures: Vec<CliError> = Vec::new();
    let progress = app.ui.progress(&format!("creating '{}'", wanted.name));

    settle::all(app, Some(&wanted.name), false).await?;
    if let Some((rental, _claim)) = unfinished(app, &wanted).await? {
        current.set(Some(rental.row));
        app.ui.note(&format!(
            "going on with the create of '{}' at {} that was cut off",
            wanted.name,
            label(&rental.provider.name, &rental.provider.id)
        ));
        let attempt = Attempt { app, wanted: &wanted, progress: &progress, resumed: true };
        match attempt.run(rental).await {
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
            let attempt = Attempt { app, wanted: &wanted, progress: &progress, resumed: false };
            let error = match attempt.run(rental).await {
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

/// The rental of that name if its create was cut off; `None` when the name is free.
async fn unfinished(app: &App<'_>, wanted: &Wanted) -> Result<Option<(Rental, Claim)>> {
    let rentals = app.rentals()?;
    let Some(rental) = rentals.by_name(&wanted.name)? else { return Ok(None) };
    let Some(claim) = rentals.claim(&rental.idempotency_key)? else {
        return Err(CliError::new(
            Kind::Refused,
            format!("another golem is creating '{}' at this moment", rental.name),
        )
        .hint("wait for it, or choose another name"));
    };
    if rental.state == State::Pending && wanted.is_same_as(&rental) {
        return Ok(Some((rental, claim)));
    }
    drop(claim);
    if rental.is_unsettled() {
        settle::one(app, &rental).await?;
    }
    let Some(rental) = rentals.by_name(&wanted.name)? else { return Ok(None) };
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
fn intend(app: &App<'_>, wanted: &Wanted, candidate: &Candidate) -> Result<(Rental, Claim)> {
    reached(FailPoint::Chosen);
    let request = wanted.request(Some(candidate.accepted()))?;
    let new = NewRental {
        name: wanted.name.clone(),
        provider: candidate.reference(),
        idempotency_key: wanted::fresh_key()?,
        request,
        resources: wanted.resources,
        usd_micro_month: Some(candidate.price(&wanted.resources)),
        identity: Some(wanted.key.identity.clone()),
        agreed: Some(candidate.agreed(&wanted.wish)),
    };
    let rentals = app.rentals()?;
    let claim = rentals
        .claim(&new.idempotency_key)?
        .ok_or_else(|| CliError::other("a key that was made this moment is in use already"))?;
    let rental = rentals.insert(&new, now())?;
    reached(FailPoint::Intended);
    Ok((rental, claim))
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
