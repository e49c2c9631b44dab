//! `golem vm snapshot`: what a VM's disk, and where it can be its memory, was at one moment.

use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{
    CreateSnapshot, SnapshotName, SnapshotNameError, Vm, VmSnapshot, VmSnapshots, VmStatus,
};
use golem_vm_protocol::{ErrorCode, route};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::again::persistently;
use super::failed::explained;
use super::list::{status_text, tell_end};
use super::refresh::{self, Seen};
use super::stats::bytes;
use super::view::{VmView, original_time};
use crate::app::{App, now};
use crate::args::{
    NameArgs, SnapshotArgs, SnapshotCommand, SnapshotCreateArgs, SnapshotRestoreArgs,
};
use crate::client::provider::{ACT, CallError};
use crate::error::{CliError, Result};
use crate::rentals::{Rental, fresh_key};
use crate::table::Columns;

pub(super) async fn run(app: &App<'_>, command: &SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Create(args) => create(app, args).await,
        SnapshotCommand::List(args) => list(app, args).await,
        SnapshotCommand::Restore(args) => restore(app, args).await,
        SnapshotCommand::Delete(args) => delete(app, args).await,
    }
}

async fn create(app: &App<'_>, args: &SnapshotCreateArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let name = match &args.snapshot {
        Some(text) => snapshot_name(text)?,
        None => by_time(now())?,
    };
    let doing = format!("make the snapshot '{name}' of '{}'", rental.name);
    let client = app.client()?;
    let target = route::vm_snapshots(&rental.reference());
    let body = CreateSnapshot { name: name.to_string() };
    // Under one key, so that a lost answer does not make a second one.
    let key = fresh_key()?;
    let answer: std::result::Result<VmSnapshots, CallError> = {
        let _progress = app.ui.progress(&format!("making a snapshot of '{}'", rental.name));
        persistently(ACT, async || {
            app.reach(&rental.provider, async |provider| {
                client.post_once(provider, &target, &body, &key).await
            })
            .await
        })
        .await
    };
    let all = match answer {
        Ok(all) => all,
        Err(error) => return Err(explained(app, &rental, &doing, error).await),
    };
    let made = all.snapshots.iter().find(|snapshot| snapshot.name == name);
    if app.ui.is_json() {
        let snapshot = made.map(one);
        return app.ui.json(&json!({
            "name": rental.name, "vm_id": all.vm_id, "snapshot": snapshot,
        }));
    }
    let what = match made {
        Some(made) if made.with_memory => "with its memory",
        _ => "of its disk",
    };
    app.ui.line(&format!("'{}' has the snapshot '{name}', {what}", rental.name))?;
    app.ui.note(&format!("go back to it: golem vm snapshot restore {} {name}", rental.name));
    tell_end(app, &rental);
    Ok(())
}

async fn list(app: &App<'_>, args: &NameArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let client = app.client()?;
    let target = route::vm_snapshots(&rental.reference());
    let answer: std::result::Result<VmSnapshots, CallError> =
        app.reach(&rental.provider, async |provider| client.ask(provider, &target).await).await;
    let all = match answer {
        Ok(all) => all,
        Err(error) => {
            let doing = format!("ask for the snapshots of '{}'", rental.name);
            return Err(explained(app, &rental, &doing, error).await);
        }
    };
    if app.ui.is_json() {
        let snapshots: Vec<Value> = all.snapshots.iter().map(one).collect();
        return app.ui.json(&json!({
            "name": rental.name, "vm_id": all.vm_id, "snapshots": snapshots,
        }));
    }
    if all.snapshots.is_empty() {
        app.ui.note(&format!(
            "'{name}' has no snapshots; `golem vm snapshot create {name}` makes one",
            name = rental.name
        ));
        return Ok(());
    }
    let mut table = Columns::new(&["Snapshot", "Made (UTC)", "Has", "Size of the VM", ">Takes"]);
    for snapshot in &all.snapshots {
        let size = snapshot.resources;
        table.row(vec![
            printable(snapshot.name.as_str(), 64),
            original_time(snapshot.created_at),
            if snapshot.with_memory { "disk and memory" } else { "disk" }.to_owned(),
            format!("{} vCPU, {} GB, {} GB disk", size.cpu, size.memory, size.storage),
            snapshot.bytes.map_or_else(|| "-".to_owned(), bytes),
        ]);
    }
    let title = format!("📷 Snapshots of {} ({} total)", rental.name, all.snapshots.len());
    app.ui.out(&table.render(&app.ui, &title))?;
    tell_end(app, &rental);
    Ok(())
}

async fn restore(app: &App<'_>, args: &SnapshotRestoreArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let name = snapshot_name(&args.snapshot)?;
    let question =
        format!("Take '{}' back to '{name}'? What it has written since is lost.", rental.name);
    if !args.yes && app.ui.can_ask() && !app.ui.confirm(&question) {
        app.ui.note("nothing was changed");
        return Ok(());
    }
    let target = route::vm_snapshot_restore(&rental.reference(), &name);
    let answer = {
        let _progress = app.ui.progress(&format!("taking '{}' back to '{name}'", rental.name));
        acted(app, &rental, Method::POST, &target).await
    };
    let doing = format!("take '{}' back to '{name}'", rental.name);
    let rental = match answer {
        Ok(vm) => refresh::noted(app, &rental, &vm)?,
        Err(error) => return Err(explained(app, &rental, &doing, error).await),
    };
    if app.ui.is_json() {
        return app.ui.json(&VmView::of(app, &rental, false)?);
    }
    let is = status_text(&Seen { rental: rental.clone(), stale: None });
    app.ui.line(&format!("'{}' is as it was at '{name}', and {is}", rental.name))?;
    if rental.status == VmStatus::Stopped {
        app.ui.note(&format!("start it: golem vm start {}", rental.name));
    }
    tell_end(app, &rental);
    Ok(())
}

async fn delete(app: &App<'_>, args: &SnapshotArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let name = snapshot_name(&args.snapshot)?;
    let target = route::vm_snapshot(&rental.reference(), &name);
    // Once it may have been obeyed, that it is not there means that it was.
    let mut may_be_gone = false;
    let answer = {
        let _progress = app.ui.progress(&format!("deleting the snapshot '{name}'"));
        let started = Instant::now();
        loop {
            match acted(app, &rental, Method::DELETE, &target).await {
                Err(error) if error.is_worth_a_retry() && started.elapsed() < ACT => {
                    may_be_gone |= error.is_ambiguous();
                    sleep(Duration::from_millis(500)).await;
                }
                Err(error) if may_be_gone && error.code() == Some(ErrorCode::SnapshotNotFound) => {
                    break Ok(None);
                }
                Ok(vm) => break Ok(Some(vm)),
                Err(error) => break Err(error),
            }
        }
    };
    match answer {
        Ok(Some(vm)) => drop(refresh::noted(app, &rental, &vm)?),
        Ok(None) => {}
        Err(error) => {
            let doing = format!("delete the snapshot '{name}' of '{}'", rental.name);
            return Err(explained(app, &rental, &doing, error).await);
        }
    }
    if app.ui.is_json() {
        return app.ui.json(&json!({ "name": rental.name, "deleted": name.as_str() }));
    }
    app.ui.line(&format!("the snapshot '{name}' of '{}' is deleted", rental.name))?;
    tell_end(app, &rental);
    Ok(())
}

/// One snapshot, for programs.
fn one(snapshot: &VmSnapshot) -> Value {
    json!({
        "name": snapshot.name, "created_at": snapshot.created_at,
        "with_memory": snapshot.with_memory, "resources": snapshot.resources,
        "bytes": snapshot.bytes,
    })
}

async fn acted(
    app: &App<'_>,
    rental: &Rental,
    method: Method,
    target: &str,
) -> std::result::Result<Vm, CallError> {
    let client = app.client().map_err(|error| CallError::Local(error.one_line()))?;
    app.reach(&rental.provider, async |provider| client.act(provider, method.clone(), target).await)
        .await
}

fn snapshot_name(text: &str) -> Result<SnapshotName> {
    text.parse().map_err(|error: SnapshotNameError| {
        CliError::usage(format!("'{}' can't be the name of a snapshot", printable(text, 80)))
            .because(error)
    })
}

/// A name for a snapshot that was given none: when it was asked for.
fn by_time(now: Timestamp) -> Result<SnapshotName> {
    let digits: String = original_time(now)
        .chars()
        .map(|c| if c == ' ' { '-' } else { c })
        .filter(|c| *c != ':')
        .collect();
    snapshot_name(&digits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_without_a_name_is_called_after_its_time() {
        let time = Timestamp::from_unix_micros(1_795_221_279_155_948);
        assert_eq!(by_time(time).unwrap().as_str(), "2026-11-21-003439");
        assert!(snapshot_name("No!").is_err());
    }
}
