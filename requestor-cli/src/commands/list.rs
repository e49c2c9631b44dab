//! `golem vm list`

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::VmStatus;
use serde_json::json;

use super::refresh::{self, Seen};
use super::view::{VmView, age, original_time};
use crate::app::{App, now};
use crate::error::Result;
use crate::lease::{ends_cell, ends_soon, warning};
use crate::market::{dollars, kind_of, label, usd};
use crate::rentals::Rental;
use crate::table::Columns;

/// Which column says when a VM's lease ends.
const ENDS: usize = 9;

pub(super) async fn run(app: &App<'_>) -> Result<()> {
    let seen = {
        let _progress = app.ui.is_verbose().then(|| app.ui.progress("asking your providers"));
        refresh::all(app).await?
    };
    if app.ui.is_json() {
        let vms: Result<Vec<VmView>> =
            seen.iter().map(|s| VmView::of(app, &s.rental, s.stale.is_some())).collect();
        return app.ui.json(&json!({ "vms": vms? }));
    }
    if seen.is_empty() {
        app.ui.note("you have no VMs; `golem vm create NAME` rents one");
    } else {
        app.ui.out(&table(app, &seen))?;
    }
    tell_stale(app, &seen);
    for Seen { rental, .. } in &seen {
        tell_end(app, rental);
    }
    Ok(())
}

/// Warns when the lease of a VM ends soon, or has ended, as far as it is known.
pub(super) fn tell_end(app: &App<'_>, rental: &Rental) {
    let lease = rental.lease.as_ref();
    if let Some(text) = lease.and_then(|lease| warning(rental.name.as_str(), lease, now())) {
        app.ui.warn(&text);
    }
}

fn tell_stale(app: &App<'_>, seen: &[Seen]) {
    let mut told = Vec::new();
    for Seen { rental, stale } in seen {
        let Some(error) = stale else { continue };
        if !told.contains(&rental.provider.id) {
            told.push(rental.provider.id);
            let provider = label(&rental.provider.name, &rental.provider.id);
            app.ui.warn(&format!("{provider}: {error}; its VMs are shown as last known"));
        }
    }
}

/// What it is, in one word.
pub(super) const fn status_word(rental: &Rental) -> &'static str {
    match rental.status {
        VmStatus::Stopped if rental.suspended => "suspended",
        status => status.as_str(),
    }
}

/// The status in a word or two; a stale one says of when it is.
pub(super) fn status_text(seen: &Seen) -> String {
    let rental = &seen.rental;
    let mut text = status_word(rental).to_owned();
    if rental.is_unsettled() {
        text.push_str(" (create not finished)");
    }
    if seen.stale.is_some() {
        text.push_str(&format!(" (stale, {})", age(now(), rental.status_at)));
    }
    text
}

fn table(app: &App<'_>, seen: &[Seen]) -> String {
    let mut table = Columns::new(&[
        "Name",
        "Status",
        "Provider",
        "CPU",
        "Memory",
        "Storage",
        "Isolation",
        "SSH",
        ">USD/month",
        "Ends",
        "Created (UTC)",
    ]);
    let now = now();
    for item in seen {
        let rental = &item.rental;
        let ssh = rental.ssh.as_ref().map_or_else(
            || "-".to_owned(),
            |ssh| format!("{}:{}", printable(&ssh.host, 64), ssh.port),
        );
        table.row(vec![
            rental.name.to_string(),
            status_text(item),
            label(&rental.provider.name, &rental.provider.id),
            rental.resources.cpu.to_string(),
            format!("{}GB", rental.resources.memory),
            format!("{}GB", rental.resources.storage),
            rental
                .isolation
                .map_or_else(|| "-".to_owned(), |i| kind_of(i, rental.accel.as_deref())),
            ssh,
            rental.usd_micro_month.map_or_else(|| "-".to_owned(), |price| dollars(usd(price))),
            ends_cell(rental.lease.as_ref(), now),
            original_time(rental.created_at),
        ]);
        if rental.lease.as_ref().is_some_and(|l| ends_soon(l, now) || l.ended_at.is_some()) {
            table.attention(ENDS);
        }
    }
    table.render(&app.ui, &format!("💻 Your VMs ({} total)", seen.len()))
}
