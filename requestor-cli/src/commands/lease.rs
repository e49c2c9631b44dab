//! `golem vm extend` and `undelete`

use std::time::Duration;

use golem_vm_protocol::vm::{ExtendLease, Lease, UndeleteVm, Vm};
use golem_vm_protocol::{ErrorCode, route};

use super::again::persistently;
use super::failed::with_undelete;
use super::list::tell_end;
use super::refresh;
use super::view::VmView;
use crate::app::{App, now};
use crate::args::{ExtendArgs, UndeleteArgs};
use crate::client::provider::{ASK, CallError};
use crate::error::{CliError, Kind, Result};
use crate::lease::sentence;
use crate::rentals::Rental;

/// Makes the lease end later. The provider is told the moment and not the span, so that asking again
/// after a lost answer adds nothing more.
pub(super) async fn extend(app: &App<'_>, args: &ExtendArgs) -> Result<()> {
    let rental = known(app, &args.name).await?;
    let name = rental.name.clone();
    let doing = format!("extend the lease of '{name}'");
    let Some(lease) = &rental.lease else {
        return Err(CliError::new(Kind::Refused, format!("can't {doing}"))
            .because("its provider is of an older release, which ends no VM by itself"));
    };
    if lease.ended_at.is_some() {
        return Err(ended(&rental, &doing));
    }
    let Some(end) = lease.expires_at else {
        return Err(CliError::new(Kind::Refused, format!("can't {doing}"))
            .because("it does not end by itself"));
    };
    let to = ExtendLease { expires_at: end.plus(Duration::from_secs(args.lease)) };
    let client = app.client()?;
    let target = route::vm_extend(&rental.reference());
    let _progress = app.ui.is_verbose().then(|| app.ui.progress(&doing));
    let answer = persistently(ASK, async || {
        app.reach(&rental.provider, async |provider| client.post(provider, &target, &to).await)
            .await
    })
    .await;
    let rental = changed(app, &rental, &doing, answer)?;
    told(app, &rental, |lease| format!("'{name}' ends {}", sentence(lease, now())))
}

/// Has a VM back that is only kept.
pub(super) async fn undelete(app: &App<'_>, args: &UndeleteArgs) -> Result<()> {
    let rental = known(app, &args.name).await?;
    let name = rental.name.clone();
    if let Some(lease) = &rental.lease
        && lease.ended_at.is_none()
    {
        app.ui.note(&format!("'{name}' is not given up: there is nothing to bring back"));
        return told(app, &rental, |lease| format!("'{name}' ends {}", sentence(lease, now())));
    }
    let wanted = UndeleteVm { duration_seconds: args.lease };
    let client = app.client()?;
    let target = route::vm_undelete(&rental.reference());
    let answer = persistently(ASK, async || {
        app.reach(&rental.provider, async |provider| client.post(provider, &target, &wanted).await)
            .await
    })
    .await;
    let rental = changed(app, &rental, &format!("bring '{name}' back"), answer)?;
    told(app, &rental, |lease| {
        format!("'{name}' is back, and {}; it ends {}", rental.status, sentence(lease, now()))
    })?;
    app.ui.note(&format!("start it: golem vm start {name}"));
    Ok(())
}

/// The rental as its provider sees it now.
async fn known(app: &App<'_>, name: &str) -> Result<Rental> {
    let rental = app.find(name)?;
    let name = rental.name.clone();
    let Some(seen) = refresh::one(app, rental).await? else {
        return Err(CliError::not_found(format!("'{name}' does not exist any more"))
            .hint(format!("see what happened to it: golem vm events {name}")));
    };
    match seen.stale {
        None => Ok(seen.rental),
        Some(error) => Err(error.into_cli(&format!("ask about '{name}'"), &seen.rental.provider)),
    }
}

/// Notes what the provider answered.
fn changed(
    app: &App<'_>,
    rental: &Rental,
    doing: &str,
    answer: std::result::Result<Vm, CallError>,
) -> Result<Rental> {
    match answer {
        Ok(vm) => refresh::noted(app, rental, &vm),
        Err(error) if error.is_no_such_vm() => {
            refresh::gone(app, rental)?;
            Err(CliError::not_found(format!("'{}' does not exist any more", rental.name)))
        }
        Err(error) => {
            let code = error.code();
            let told = error.into_cli(doing, &rental.provider);
            Err(match code {
                Some(ErrorCode::StateConflict) => with_undelete(told, rental),
                Some(ErrorCode::NotFound) => {
                    told.because("its provider is of an older release, which gives no leases")
                }
                _ => told,
            })
        }
    }
}

/// Shows the lease, as JSON with all of the VM.
fn told(app: &App<'_>, rental: &Rental, line: impl Fn(&Lease) -> String) -> Result<()> {
    if app.ui.is_json() {
        return app.ui.json(&VmView::of(app, rental, false)?);
    }
    match &rental.lease {
        Some(lease) => app.ui.line(&line(lease))?,
        None => app.ui.line(&format!("'{}' does not end by itself", rental.name))?,
    }
    tell_end(app, rental);
    Ok(())
}

/// A VM that is only kept can do nothing but come back.
fn ended(rental: &Rental, doing: &str) -> CliError {
    let error = CliError::new(Kind::Refused, format!("can't {doing}"));
    let error = match &rental.lease {
        Some(lease) => error.because(format!("its lease has {}", sentence(lease, now()))),
        None => error,
    };
    with_undelete(error, rental)
}
