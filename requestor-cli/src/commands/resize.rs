//! `golem vm resize`

use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::route;
use golem_vm_protocol::vm::{ResizeVm, Vm, VmResources, VmStatus};

use super::again::persistently;
use super::failed::explained;
use super::list::tell_end;
use super::refresh;
use super::view::VmView;
use crate::app::App;
use crate::args::ResizeArgs;
use crate::client::provider::{ACT, CallError};
use crate::error::{CliError, Kind, Result};
use crate::market::{dollars, usd};

pub(super) async fn run(app: &App<'_>, args: &ResizeArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let name = rental.name.clone();
    let doing = format!("resize '{name}'");
    let client = app.client()?;
    let vm = rental.reference();
    // What it is now, and what it costs: signed, and not as it was once noted.
    let answer = app.reach(&rental.provider, async |provider| client.vm(provider, &vm).await).await;
    let before = match answer {
        Ok(vm) => vm,
        Err(error) => return Err(explained(app, &rental, &doing, error).await),
    };
    let rental = refresh::noted(app, &rental, &before)?;
    let old = before.resources;
    let new = VmResources {
        cpu: args.cpu.unwrap_or(old.cpu),
        memory: args.memory.unwrap_or(old.memory),
        storage: args.storage.unwrap_or(old.storage),
    };
    check(&doing, &old, &new)?;
    app.ui.note(&cost(name.as_str(), &old, &new, before.prices.as_ref()));
    if new == old {
        app.ui.note("that is its size already");
    }
    let target = route::vm_resize(&vm);
    let wanted = ResizeVm { resources: new };
    let answer: std::result::Result<Vm, CallError> = {
        let _progress = app.ui.progress(&format!("resizing '{name}'"));
        persistently(ACT, async || {
            app.reach(&rental.provider, async |provider| {
                client.post(provider, &target, &wanted).await
            })
            .await
        })
        .await
    };
    let vm = match answer {
        Ok(vm) => vm,
        Err(error) => return Err(explained(app, &rental, &doing, error).await),
    };
    let rental = refresh::noted(app, &rental, &vm)?;
    if vm.resources != new {
        return Err(CliError::new(Kind::Refused, format!("can't {doing}"))
            .because(format!("its provider says that it has {} now", words(&vm.resources))));
    }
    if app.ui.is_json() {
        return app.ui.json(&VmView::of(app, &rental, false)?);
    }
    app.ui.line(&format!("'{name}' has {}", words(&new)))?;
    let at_next_start = (old.cpu, old.memory) != (new.cpu, new.memory);
    if at_next_start && vm.status == VmStatus::Running {
        app.ui.note(&format!(
            "its CPU and memory are those from its next start on: golem vm restart {name}"
        ));
    }
    if old.storage != new.storage {
        app.ui.note("the file system in it is as large as before until the VM grows it, which most do when they start");
    }
    tell_end(app, &rental);
    Ok(())
}

/// Whether a VM can be that big.
fn check(doing: &str, old: &VmResources, new: &VmResources) -> Result<()> {
    if let Some(error) = new.size_errors("").into_iter().next() {
        return Err(CliError::usage(format!("can't {doing}")).because(error.detail));
    }
    if new.storage < old.storage {
        return Err(CliError::usage(format!("can't {doing}")).because(format!(
            "its disk has {} GB, and no disk is ever made smaller",
            old.storage
        )));
    }
    Ok(())
}

/// What changes, and what it will cost.
fn cost(name: &str, old: &VmResources, new: &VmResources, prices: Option<&Prices>) -> String {
    let price = |size| prices.map(|prices| dollars(usd(prices.per_month(size))));
    let money = match (price(old), price(new)) {
        (Some(before), Some(after)) if before == after => format!("{after} per month, as before"),
        (Some(before), Some(after)) => format!("{after} per month in place of {before}"),
        _ => "its provider names no price".to_owned(),
    };
    format!("'{name}': {} → {}: {money}", words(old), words(new))
}

fn words(size: &VmResources) -> String {
    format!("{} vCPU, {} GB memory, {} GB disk", size.cpu, size.memory, size.storage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_costs_is_told_before() {
        let old = VmResources { cpu: 1, memory: 1, storage: 10 };
        let new = VmResources { cpu: 2, memory: 4, storage: 20 };
        let prices =
            Prices { core_month: 5_000_000, gb_ram_month: 2_000_000, gb_storage_month: 100_000 };
        assert_eq!(
            cost("box", &old, &new, Some(&prices)),
            "'box': 1 vCPU, 1 GB memory, 10 GB disk → 2 vCPU, 4 GB memory, 20 GB disk: $20.00 per month in place of $8.00"
        );
        assert!(cost("box", &old, &old, Some(&prices)).ends_with("$8.00 per month, as before"));
        assert!(cost("box", &old, &new, None).ends_with("names no price"));
        assert!(check("x", &old, &new).is_ok());
        assert!(check("x", &new, &old).is_err());
        assert!(check("x", &old, &VmResources { cpu: 3, ..old }).is_err());
    }
}
