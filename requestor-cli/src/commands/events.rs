//! `golem vm events`

use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{Actor, EventKind, VmEvent, VmStage};
use golem_vm_protocol::{ErrorCode, VmRef};
use serde_json::json;
use tokio::time::sleep;

use super::list::tell_end;
use super::view::original_time;
use crate::app::App;
use crate::args::EventsArgs;
use crate::client::provider::CallError;
use crate::error::{CliError, Result};
use crate::rentals::ProviderRef;
use crate::table::Columns;

/// Events in one answer.
const PAGE: u32 = 1_000;
/// Most events that are asked for: a provider keeps fewer.
const MOST: usize = 100_000;
/// How often a provider is asked that tells nothing by itself.
const PAUSE: Duration = Duration::from_secs(2);

/// Whose history is asked for.
struct Subject {
    name: String,
    vm: VmRef,
    provider: ProviderRef,
}

pub(super) async fn run(app: &App<'_>, args: &EventsArgs) -> Result<()> {
    let subject = subject(app, &args.name)?;
    let failed = |error: CallError| explained(&subject, error);
    let mut events = history(app, &subject, 0).await.map_err(failed)?;
    let last = events.last().cloned();
    if let Some(limit) = args.limit {
        let all = events.len();
        events.drain(..all.saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX)));
    }
    if !args.follow {
        return shown(app, &subject, &events);
    }
    if app.ui.is_json() {
        events.iter().try_for_each(|event| app.ui.json(event))?;
    } else {
        app.ui.out(&table(app, &subject, &events))?;
    }
    tokio::select! {
        followed = follow(app, &subject, last) => followed,
        // Following ends by being interrupted: that is no failure.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// The VM that is called so, or the last one that was.
fn subject(app: &App<'_>, text: &str) -> Result<Subject> {
    match app.find(text) {
        Ok(rental) => Ok(Subject {
            name: rental.name.to_string(),
            vm: rental.reference(),
            provider: rental.provider,
        }),
        Err(unknown) => match app.rentals()?.gone(text)? {
            Some(gone) => Ok(Subject {
                name: gone.name.to_string(),
                vm: gone.vm_id.into(),
                provider: gone.provider,
            }),
            None => Err(unknown),
        },
    }
}

/// All that happened behind the event with number `after`.
async fn history(
    app: &App<'_>,
    subject: &Subject,
    after: u64,
) -> std::result::Result<Vec<VmEvent>, CallError> {
    let client = app.client().map_err(|error: CliError| CallError::Local(error.one_line()))?;
    let (mut events, mut after) = (Vec::new(), after);
    loop {
        let page = app
            .reach(&subject.provider, async |provider| {
                client.events(provider, &subject.vm, after, PAGE).await
            })
            .await?;
        // Each number is higher than the one before, so that this comes to an end.
        for event in page.events {
            if event.number > after {
                after = event.number;
                events.push(event);
            }
        }
        match page.next {
            Some(next) if next == after && events.len() < MOST => {}
            _ => return Ok(events),
        }
    }
}

/// Shows what happens from now on, until the VM is gone.
async fn follow(app: &App<'_>, subject: &Subject, last: Option<VmEvent>) -> Result<()> {
    let client = app.client()?;
    let mut over = last.as_ref().is_some_and(is_last);
    let mut after = last.map_or(0, |event| event.number);
    let mut told = false;
    while !over {
        let answer = app
            .reach(&subject.provider, async |provider| {
                client.watch(provider, &subject.vm, after).await
            })
            .await;
        let broken = match answer {
            Ok(mut stream) => loop {
                match stream.next().await {
                    // One that was left out is asked for below.
                    Ok(Some(event)) if event.number == after + 1 => {
                        told = false;
                        after = event.number;
                        over = is_last(&event);
                        line(app, &event)?;
                    }
                    Ok(_) => break None,
                    Err(error) => break Some(error),
                }
                if over {
                    return Ok(());
                }
            },
            Err(error) => Some(error),
        };
        match broken {
            None => {}
            // One of an older release, or one that is busy, is asked again and again.
            Some(error) if goes_on(&error) => {
                if !told {
                    app.ui.detail(&format!("following '{}' by asking: {error}", subject.name));
                }
                told = true;
            }
            Some(error) => return Err(explained(subject, error)),
        }
        match history(app, subject, after).await {
            Ok(missed) => {
                for event in missed {
                    after = event.number;
                    over = is_last(&event);
                    line(app, &event)?;
                }
            }
            Err(error) if error.is_worth_a_retry() => {}
            Err(error) => return Err(explained(subject, error)),
        }
        if !over {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

fn goes_on(error: &CallError) -> bool {
    error.is_worth_a_retry()
        || matches!(error, CallError::NotTheProvider(_) | CallError::Malformed(_))
        || error.code() == Some(ErrorCode::NotFound)
}

/// Nothing happens to a VM after this.
const fn is_last(event: &VmEvent) -> bool {
    matches!(event.kind, EventKind::State)
        && matches!(event.to, VmStage::Destroyed | VmStage::Failed)
}

fn explained(subject: &Subject, error: CallError) -> CliError {
    let code = error.code();
    let told =
        error.into_cli(&format!("ask what happened to '{}'", subject.name), &subject.provider);
    match code {
        Some(ErrorCode::NotFound) => {
            told.because("it is of an older release, which keeps no histories")
        }
        Some(ErrorCode::VmNotFound) => {
            told.because("it keeps no history of that VM, or does not any more")
        }
        _ => told,
    }
}

fn shown(app: &App<'_>, subject: &Subject, events: &[VmEvent]) -> Result<()> {
    if app.ui.is_json() {
        return app.ui.json(&json!({ "events": events }));
    }
    if events.is_empty() {
        app.ui.note(&format!("nothing is known to have happened to '{}'", subject.name));
        return Ok(());
    }
    app.ui.out(&table(app, subject, events))?;
    if let Ok(rental) = app.find(&subject.name) {
        tell_end(app, &rental);
    }
    Ok(())
}

fn table(app: &App<'_>, subject: &Subject, events: &[VmEvent]) -> String {
    let mut table = Columns::new(&[">No", "Time (UTC)", "What", "By", "Why", "Detail"]);
    for event in events {
        table.row(cells(event).to_vec());
    }
    table.render(&app.ui, &format!("🕑 What happened to {}", subject.name))
}

/// One more event, or for programs one more line.
fn line(app: &App<'_>, event: &VmEvent) -> Result<()> {
    if app.ui.is_json() {
        return app.ui.json(event);
    }
    let [number, time, what, by, why, detail] = cells(event);
    app.ui.line(format!("{number:>2}  {time}  {what:21}  {by:8}  {why}  {detail}").trim_end())
}

fn cells(event: &VmEvent) -> [String; 6] {
    let what = match (event.kind, event.from) {
        (EventKind::State, Some(from)) => format!("{from} → {}", event.to),
        (EventKind::State, None) => event.to.to_string(),
        (kind, _) => kind.to_string(),
    };
    let by = match event.actor {
        Actor::Requestor => "you",
        Actor::ProviderOwner => "owner of the provider",
        Actor::Provider => "provider",
        Actor::Guest => "VM",
        Actor::Host => "host",
        _ => "unknown",
    };
    [
        event.number.to_string(),
        original_time(event.at),
        what,
        by.to_owned(),
        event.cause.as_str().replace('_', " "),
        event.detail.as_deref().map(|text| printable(text, 200)).unwrap_or_default(),
    ]
}
