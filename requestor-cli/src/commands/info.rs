//! `golem vm info`, and the block of facts about one VM that `create` ends with.

use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::in_words;

use super::list::{status_text, tell_end};
use super::making::Laps;
use super::refresh::{self, Seen};
use super::view::{VmView, original_time};
use crate::app::{App, now};
use crate::args::NameArgs;
use crate::error::{CliError, Result};
use crate::lease::sentence;
use crate::market::{EMULATED, dollars, label, usd};
use crate::ssh::openssh;

pub(super) async fn run(app: &App<'_>, args: &NameArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let name = rental.name.clone();
    let Some(mut seen) = refresh::one(app, rental).await? else {
        return Err(CliError::not_found(format!("'{name}' does not exist any more")));
    };
    if seen.stale.is_none() && seen.rental.ssh.is_none() {
        // Best effort: a VM that is not up yet has no access.
        if let Ok(rental) = super::ssh::with_access(app, seen.rental.clone()).await {
            seen.rental = rental;
        }
    }
    show(app, &seen, &format!("💻 {name}"), None)
}

/// Shows one VM, as JSON or as a block under `title`; one that was made just now with how long that took.
pub(super) fn show(app: &App<'_>, seen: &Seen, title: &str, laps: Option<&Laps>) -> Result<()> {
    if app.ui.is_json() {
        let mut view = VmView::of(app, &seen.rental, seen.stale.is_some())?;
        view.took_ms = laps.map(Laps::json);
        return app.ui.json(&view);
    }
    let mut facts = facts(app, seen)?;
    facts.extend(laps.map(|laps| ("Took", laps.words())));
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let lines: Vec<String> =
        facts.iter().map(|(name, value)| format!("{name:width$}{value}")).collect();
    let mut text = String::new();
    if app.ui.decorates() {
        let rule = "─".repeat(48);
        let title = app.ui.out_styled("1", title);
        text.push_str(&format!("{rule}\n  {title}\n{rule}\n{}\n{rule}\n", lines.join("\n")));
    } else {
        text.push_str(&format!("{}\n", lines.join("\n")));
    }
    app.ui.out(&text)?;
    if let Some(error) = &seen.stale {
        let provider = label(&seen.rental.provider.name, &seen.rental.provider.id);
        app.ui.warn(&format!("{provider}: {error}; this is what was last known"));
    }
    tell_end(app, &seen.rental);
    Ok(())
}

fn facts(app: &App<'_>, seen: &Seen) -> Result<Vec<(&'static str, String)>> {
    let rental = &seen.rental;
    let size = &rental.resources;
    let known_hosts = app.known_hosts_path()?;
    let mut facts = vec![("Name", rental.name.to_string()), ("Status", status_text(seen))];
    if let Some(problem) = &rental.problem {
        facts.push(("Problem", printable(problem, 500)));
    }
    if let Some(id) = rental.vm_id {
        facts.push(("Id", id.to_string()));
    }
    facts.push((
        "Provider",
        format!("{}, {}", printable(&rental.provider.name, 64), rental.provider.id),
    ));
    facts.push((
        "Size",
        format!("{} vCPU, {} GB memory, {} GB disk", size.cpu, size.memory, size.storage),
    ));
    if let Some(image) = &rental.image {
        facts.push(("Image", printable(image, 128)));
    }
    if let Some(digest) = &rental.image_digest {
        facts.push(("Digest", printable(digest, 80)));
    }
    if let Some(isolation) = rental.isolation {
        let meaning = match isolation {
            golem_vm_protocol::vm::Isolation::Container => "shares the host's kernel",
            golem_vm_protocol::vm::Isolation::Vm => "has a kernel of its own",
            golem_vm_protocol::vm::Isolation::Unknown => "a newer golem knows what that is",
        };
        facts.push(("Isolation", format!("{isolation} ({meaning})")));
    }
    if let Some(accel) = &rental.accel {
        facts.push(("Processor", processor(accel)));
    }
    if let Some(backend) = &rental.backend {
        facts.push(("Made by", printable(backend, 32)));
    }
    if !rental.abilities.is_empty() {
        let words: Vec<String> =
            rental.abilities.iter().map(|ability| ability.as_str().replace('_', " ")).collect();
        facts.push(("Can", words.join(", ")));
    }
    if let Some(price) = rental.usd_micro_month {
        facts.push(("Price", format!("{} per month", dollars(usd(price)))));
    }
    facts.push(("Created", format!("{} UTC", original_time(rental.created_at))));
    if let Some(lease) = &rental.lease {
        facts.push(("Ends", sentence(lease, now())));
        if let Some(seconds) = lease.stop_when_idle_seconds {
            facts.push(("When idle", format!("it is stopped after {}", in_words(seconds))));
        }
    }
    if let Some(target) = App::target(rental, &known_hosts) {
        facts.push(("Host key", target.access.host_key.fingerprint()));
        facts.push(("Log in", format!("golem vm ssh {}", rental.name)));
        facts.push(("or", openssh::shell_command(&target)));
    }
    Ok(facts)
}

/// What a virtual machine's processor is, in words.
fn processor(accel: &str) -> String {
    match accel {
        EMULATED => "emulated in software: slow".to_owned(),
        "kvm" => "the host's (kvm)".to_owned(),
        other => printable(other, 32),
    }
}
