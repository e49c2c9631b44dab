//! `golem vm destroy` and `golem vm purge`

use serde_json::json;

use super::refresh;
use super::view::VmView;
use crate::app::{App, now};
use crate::args::{DestroyArgs, PurgeArgs};
use crate::client::provider::{CallError, DESTROY};
use crate::error::{CliError, Kind, Result};
use crate::lease::minute;
use crate::market::label;
use crate::rentals::{Rental, State};

pub(super) async fn run(app: &App<'_>, args: &DestroyArgs) -> Result<()> {
    let mut rentals: Vec<Rental> = Vec::new();
    for name in &args.names {
        let rental = app.find(name)?;
        if !rentals.iter().any(|known| known.row == rental.row) {
            rentals.push(rental);
        }
    }
    if args.keep {
        return keep_all(app, &rentals).await;
    }
    all(app, &rentals, args.yes, args.forget).await
}

pub(super) async fn purge(app: &App<'_>, args: &PurgeArgs) -> Result<()> {
    let rentals = app.rentals()?.all()?;
    if rentals.is_empty() {
        app.ui.note("you have no VMs");
    }
    all(app, &rentals, args.yes, args.forget).await
}

/// Destroys these, after asking. All are tried; the first failure is the command's.
async fn all(app: &App<'_>, rentals: &[Rental], yes: bool, forget: bool) -> Result<()> {
    if !rentals.is_empty() && !yes {
        let names: Vec<_> = rentals.iter().map(|rental| rental.name.as_str()).collect();
        let names = names.join(", ");
        if !app.ui.can_ask() {
            return Err(CliError::usage(format!("destroying {names} needs --yes"))
                .because("nobody is at a terminal to be asked"));
        }
        if !app.ui.confirm(&format!("Destroy {names} and everything in it?")) {
            app.ui.note("nothing was destroyed");
            return Ok(());
        }
    }
    let mut destroyed = Vec::new();
    let mut failure = None;
    for rental in rentals {
        match one(app, rental, forget).await {
            Ok(()) => destroyed.push(rental.name.as_str()),
            Err(error) => {
                if let Some(earlier) = failure.replace(error) {
                    app.ui.error(&earlier);
                }
            }
        }
    }
    app.sync_known_hosts()?;
    if app.ui.is_json() {
        return match failure {
            Some(error) => Err(error.although("destroyed", json!(destroyed))),
            None => app.ui.json(&json!({ "destroyed": destroyed })),
        };
    }
    for name in destroyed {
        app.ui.line(&format!("'{name}' is destroyed"))?;
    }
    failure.map_or(Ok(()), Err)
}

async fn one(app: &App<'_>, rental: &Rental, forget: bool) -> Result<()> {
    let client = app.client()?;
    let vm = rental.reference();
    let answer = {
        let _progress = app.ui.progress(&format!("destroying '{}'", rental.name));
        app.reach(&rental.provider, async |provider| client.destroy(provider, &vm, DESTROY).await)
            .await
    };
    let rentals = app.rentals()?;
    match answer {
        Ok(()) => rentals.remove(rental.row, now()),
        Err(error) if error.is_no_such_vm() && !rental.may_be_in_flight(now()) => {
            app.ui.detail(&format!("the provider had no '{}' any more", rental.name));
            rentals.remove(rental.row, now())
        }
        // Its create may still be on its way: it is looked after until that is out of the question.
        Err(error) if error.is_no_such_vm() => rentals.set_state(rental.row, State::Abandoned),
        Err(error @ (CallError::Refused(_) | CallError::Local(_))) => {
            Err(error.into_cli(&format!("destroy '{}'", rental.name), &rental.provider))
        }
        Err(error) if forget => {
            rentals.set_state(rental.row, State::Abandoned)?;
            app.ui.warn(&format!(
                "'{}' is forgotten here, but may go on at {} ({error}); it is destroyed if that \
                 provider ever answers again",
                rental.name,
                label(&rental.provider.name, &rental.provider.id)
            ));
            Ok(())
        }
        Err(error) => Err(error
            .into_cli(&format!("destroy '{}'", rental.name), &rental.provider)
            .hint("try again later, or give up on that provider with --forget")),
    }
}

/// Gives these up the soft way. All are tried; the first failure is the command's. Nobody is asked: what is
/// given up can be had back.
async fn keep_all(app: &App<'_>, rentals: &[Rental]) -> Result<()> {
    let mut kept = Vec::new();
    let mut failure = None;
    for rental in rentals {
        match keep_one(app, rental).await {
            Ok(rental) => kept.push(rental),
            Err(error) => {
                if let Some(earlier) = failure.replace(error) {
                    app.ui.error(&earlier);
                }
            }
        }
    }
    if app.ui.is_json() {
        let views: Result<Vec<VmView>> =
            kept.iter().map(|rental| VmView::of(app, rental, false)).collect();
        let views = json!(views?);
        return match failure {
            Some(error) => Err(error.although("kept", views)),
            None => app.ui.json(&json!({ "kept": views })),
        };
    }
    for rental in kept {
        let (name, lease) = (&rental.name, rental.lease.as_ref());
        let until = match lease.and_then(|lease| lease.erased_at) {
            Some(moment) => format!("until {} UTC", minute(moment)),
            None => "for a while".to_owned(),
        };
        app.ui.line(&format!(
            "'{name}' is {}, and kept {until}; have it back with: golem vm undelete {name}",
            rental.status
        ))?;
    }
    failure.map_or(Ok(()), Err)
}

async fn keep_one(app: &App<'_>, rental: &Rental) -> Result<Rental> {
    let client = app.client()?;
    let (name, vm) = (&rental.name, rental.reference());
    let doing = format!("give '{name}' up and keep it");
    let failed = |error: CallError| error.into_cli(&doing, &rental.provider);
    let _progress = app.ui.progress(&format!("giving '{name}' up"));
    // A provider that knows nothing of keeping would destroy it at once.
    let answer = app.reach(&rental.provider, async |provider| client.vm(provider, &vm).await).await;
    let answer = match answer {
        Ok(seen) if seen.lease.is_none() => {
            return Err(CliError::new(Kind::Refused, format!("can't {doing}"))
                .because("its provider is of an older release, which keeps nothing")
                .hint(format!("destroy it: golem vm destroy {name}")));
        }
        Ok(_) => {
            app.reach(&rental.provider, async |provider| client.give_up(provider, &vm).await).await
        }
        Err(error) => Err(error),
    };
    let rentals = app.rentals()?;
    match answer {
        Ok(Some(vm)) => {
            rentals.observed(rental.row, &vm, now())?;
            Ok(rentals.by_row(rental.row)?.unwrap_or_else(|| rental.clone()))
        }
        Ok(None) => {
            rentals.remove(rental.row, now())?;
            Err(CliError::other(format!("'{name}' is destroyed: its provider did not keep it")))
        }
        Err(error) if error.is_no_such_vm() => {
            refresh::gone(app, rental)?;
            Err(CliError::not_found(format!("'{name}' does not exist any more")))
        }
        Err(error) => Err(failed(error)),
    }
}
