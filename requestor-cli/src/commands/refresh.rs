//! Bringing the list of rentals up to date: the providers know the truth, and are asked side by
//! side. One that does not answer makes its VMs stale, never gone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use golem_vm_protocol::KeyId;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{Vm, VmStatus};

use crate::app::{App, now};
use crate::client::provider::CallError;
use crate::error::Result;
use crate::market::label;
use crate::rentals::{ProviderRef, Rental};

/// How long one provider may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A rental, and whether its provider has answered.
#[derive(Debug)]
pub(super) struct Seen {
    /// As far as it is known.
    pub(super) rental: Rental,
    /// Why its status is only the last known one, if so.
    pub(super) stale: Option<CallError>,
}

/// Asks all providers about all rentals.
pub(super) async fn all(app: &App<'_>) -> Result<Vec<Seen>> {
    let rentals = app.rentals()?;
    let known = rentals.all()?;
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let mut providers: BTreeMap<KeyId, ProviderRef> = BTreeMap::new();
    for rental in &known {
        providers.insert(rental.provider.id, rental.provider.clone());
    }
    let client = app.client()?;
    let asking = providers.values().map(async |provider| {
        let answer =
            app.reach(provider, async |provider| client.list(provider, DEADLINE).await).await;
        (provider.clone(), answer)
    });
    let answers = join_all(asking).await;

    let mut stale: BTreeMap<KeyId, CallError> = BTreeMap::new();
    for (provider, answer) in answers {
        match answer {
            Ok(vms) => reconcile(app, &provider, &vms, &known)?,
            Err(error) => {
                stale.insert(provider.id, error);
            }
        }
    }
    app.sync_known_hosts()?;
    let seen = rentals.all()?.into_iter().map(|rental| {
        let stale = stale.get(&rental.provider.id).cloned();
        Seen { rental, stale }
    });
    Ok(seen.collect())
}

/// Makes the rows of one provider say what it said. `known` are the rows as they were when it was
/// asked.
fn reconcile(app: &App<'_>, provider: &ProviderRef, vms: &[Vm], known: &[Rental]) -> Result<()> {
    let rentals = app.rentals()?;
    let abandoned = rentals.abandoned()?;
    // Read again: a create may have gone on while the provider was asked.
    let mine = rentals.all()?.into_iter().filter(|rental| rental.provider.id == provider.id);
    let mut matched: Vec<&str> = Vec::new();
    for rental in mine {
        let found = vms.iter().find(|vm| is_it(&rental, vm) && vm.status != VmStatus::Deleted);
        match found {
            // Which VM is its is for [`super::settle`] to find out, and not by its name.
            Some(vm) if rental.is_unsettled() && rental.vm_id.is_none() => matched.push(&vm.id),
            None if rental.is_unsettled() => {}
            Some(vm) => {
                matched.push(&vm.id);
                rentals.observed(rental.row, vm, now())?;
                tell_swapped(app, &rental, vm);
            }
            // What was made after the list was written, which may be long ago, can't be on it.
            None if !known.iter().any(|r| r.row == rental.row && r.vm_id == rental.vm_id) => {}
            None => gone(app, &rental)?,
        }
    }
    for vm in vms.iter().filter(|vm| vm.status != VmStatus::Deleted) {
        let unwanted = abandoned.iter().any(|a| a.provider.id == provider.id && is_it(a, vm));
        if matched.contains(&vm.id.as_str()) || unwanted {
            continue;
        }
        adopt(app, provider, vm)?;
    }
    Ok(())
}

/// Takes a VM onto the list that its provider says is ours, and tells it.
pub(super) fn adopt(app: &App<'_>, provider: &ProviderRef, vm: &Vm) -> Result<()> {
    let at = label(&provider.name, &provider.id);
    match app.rentals()?.adopt(provider, vm, now()) {
        Ok(_) => app.ui.note(&format!(
            "'{}' at {at} is yours too, though it was not on this machine's list; now it is",
            vm.name
        )),
        Err(_) => app.ui.warn(&format!(
            "you have another VM called '{}' at {at}, with the id {}",
            vm.name,
            printable(&vm.id, 40)
        )),
    }
    Ok(())
}

/// A provider that names another host key than at first has put another machine in the VM's place.
/// The first key stays pinned, so nobody logs in there; that is told.
fn tell_swapped(app: &App<'_>, rental: &Rental, vm: &Vm) {
    if let (Some(ssh), Some(named)) = (&rental.ssh, &vm.host_key)
        && ssh.host_key.without_comment() != named.without_comment()
    {
        let error = CallError::OtherHostKey {
            pinned: ssh.host_key.fingerprint(),
            named: named.fingerprint(),
        };
        let at = label(&rental.provider.name, &rental.provider.id);
        app.ui.warn(&format!("'{}' at {at}: {error}; nobody logs in there", rental.name));
    }
}

/// Whether a row is about this VM: by id where it is known, else by name.
fn is_it(rental: &Rental, vm: &Vm) -> bool {
    rental.vm_id.map_or_else(|| vm.name == rental.name, |id| vm.id == id.to_string())
}

/// The provider says, signed, that the VM does not exist: so it is taken off the list, and told.
pub(super) fn gone(app: &App<'_>, rental: &Rental) -> Result<()> {
    app.rentals()?.remove(rental.row, now())?;
    let at = label(&rental.provider.name, &rental.provider.id);
    let text = match rental.vm_id {
        Some(_) => format!(
            "'{name}' is gone: {at} has no such VM any more; it is off the list. What happened to it: golem vm \
             events {name}",
            name = rental.name
        ),
        None => {
            format!("the create of '{}' at {at} never got there; it is off the list", rental.name)
        }
    };
    app.ui.note(&text);
    Ok(())
}

/// Notes what the provider has answered about one rental.
pub(super) fn noted(app: &App<'_>, rental: &Rental, vm: &Vm) -> Result<Rental> {
    let rentals = app.rentals()?;
    rentals.observed(rental.row, vm, now())?;
    tell_swapped(app, rental, vm);
    Ok(rentals.by_row(rental.row)?.unwrap_or_else(|| rental.clone()))
}

/// Asks the provider about one rental. `None` when the provider says that it does not exist; the
/// row is gone then, and the person was told.
pub(super) async fn one(app: &App<'_>, rental: Rental) -> Result<Option<Seen>> {
    let client = app.client()?;
    let vm = rental.reference();
    let answer = app.reach(&rental.provider, async |provider| client.vm(provider, &vm).await).await;
    match answer {
        Ok(vm) if vm.status == VmStatus::Deleted => {
            gone(app, &rental)?;
            Ok(None)
        }
        Ok(vm) => Ok(Some(Seen { rental: noted(app, &rental, &vm)?, stale: None })),
        Err(error) if error.is_no_such_vm() => {
            if rental.is_unsettled() && rental.may_be_in_flight(now()) {
                return Ok(Some(Seen { rental, stale: None }));
            }
            gone(app, &rental)?;
            Ok(None)
        }
        Err(error) => Ok(Some(Seen { rental, stale: Some(error) })),
    }
}
