//! `golem-provider events`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use golem_vm_protocol::text::{printable, printable_json};
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{EventKind, VmStage};
use serde_json::json;

use super::offline::open_store;
use super::place::PlaceArgs;
use super::remote::Remote;
use super::terminal::{Style, Tone, print, print_json};
use crate::control::events::MAX_LIMIT;
use crate::control::messages::{self, EventsQuery, OwnerEvent, OwnerEvents};

/// For how long the running provider is asked to wait for something new, in seconds.
const WAIT: u64 = 20;
/// For how long its answer is waited for.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often it is looked whether the provider that did not answer is ending.
const ENDING_TRIES: u32 = 25;
/// How much of an owner's id is shown to a person, in characters.
const SHORT_ID: usize = 12;
/// Longest text that is shown, in characters.
const LONGEST: usize = 500;

#[derive(Debug, Args)]
#[command(after_help = "\
Every change of every VM's state is written down with its time, who made it and why, and is kept for 90
days after the VM is gone. Works with a running provider, and without one.

Examples:
  golem-provider events
  golem-provider events web-1 --limit 500
  golem-provider events vm_01JD8Q3V5RWX9Y2Z4B6C8D0EFG --json
  golem-provider events --follow

With --json an object with a list; with --follow as well, one object per line.

Exit codes: 0 done, 3 with --follow: the provider does not run, or has ended.")]
pub(super) struct EventsArgs {
    /// Only of VMs with this id or name, there or gone
    vm: Option<String>,
    /// Go on with what happens, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// The last N events, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LIMIT)))]
    limit: u32,
}

pub(super) async fn run(place: &PlaceArgs, args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let query = EventsQuery { vm: args.vm.clone(), limit: args.limit, ..EventsQuery::default() };
    let style = Style::of_stdout();
    let remote =
        if args.follow { Some(Remote::require(place).await?) } else { Remote::find(place).await? };
    let events = match &remote {
        Some(remote) => ask(remote, &query).await?,
        None => look(place, &query).await?,
    };
    if !args.follow {
        if place.json {
            print_json(&json!({ "events": events }))?;
        } else if events.is_empty() {
            print("Nothing is written down.\n");
        } else {
            print(&format!("{}{}", heading(style), lines(&events, style)));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !place.json {
        print(&heading(style));
    }
    show(place, &events, style)?;
    // Without any so far, what comes is behind none.
    let mut after = events.last().map_or(0, |event| event.id);
    loop {
        // Asked for anew each time: it says so itself if the provider has ended.
        let remote = Remote::require(place).await?;
        let query = EventsQuery {
            after: Some(after),
            limit: MAX_LIMIT,
            wait_seconds: WAIT,
            ..query.clone()
        };
        let events = match ask(&remote, &query).await {
            Ok(events) => events,
            // A provider that is just ending is soon seen to be gone.
            Err(error) => {
                for _ in 0..ENDING_TRIES {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    Remote::require(place).await?;
                }
                return Err(error);
            }
        };
        show(place, &events, style)?;
        after = events.last().map_or(after, |event| event.id);
    }
}

async fn ask(remote: &Remote, query: &EventsQuery) -> anyhow::Result<Vec<OwnerEvent>> {
    let path = format!("{}?{}", messages::EVENTS, written(query));
    let told: OwnerEvents = remote.get_within(&path, DEADLINE).await?;
    Ok(told.events)
}

/// The query as it stands in a path.
fn written(query: &EventsQuery) -> String {
    let mut text = format!("limit={}&wait_seconds={}", query.limit, query.wait_seconds);
    if let Some(after) = query.after {
        text.push_str(&format!("&after={after}"));
    }
    if let Some(vm) = &query.vm {
        let escaped: String = vm
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect();
        text.push_str(&format!("&vm={escaped}"));
    }
    text
}

/// Without a running provider: from its database, which nobody else may have meanwhile.
async fn look(place: &PlaceArgs, query: &EventsQuery) -> anyhow::Result<Vec<OwnerEvent>> {
    let (_, data_dir) = place.open()?;
    let _lock = data_dir.lock()?;
    if !data_dir.state_db().exists() {
        return Ok(Vec::new());
    }
    let store = open_store(&data_dir)?;
    let events = crate::control::events::read(&store, query).await;
    store.close().await;
    events.map_err(|error| match error {
        crate::vm::VmError::Invalid(fields) => {
            let said: Vec<_> = fields.into_iter().map(|field| field.detail).collect();
            anyhow::anyhow!(said.join("; "))
        }
        error => error.into(),
    })
}

fn show(place: &PlaceArgs, events: &[OwnerEvent], style: Style) -> anyhow::Result<()> {
    if !place.json {
        print(&lines(events, style));
        return Ok(());
    }
    for event in events {
        print(&format!("{}\n", printable_json(&serde_json::to_string(event)?)));
    }
    Ok(())
}

fn row(columns: [&str; 6]) -> String {
    let [at, name, owner, change, actor, why] = columns;
    format!("{at:<20}  {name:<16}  {owner:<SHORT_ID$}  {change:<22}  {actor:<14}  {why}")
}

fn heading(style: Style) -> String {
    let text = row(["TIME", "VM", "OWNER", "WHAT", "BY", "WHY"]);
    format!("{}\n", style.paint(Tone::Strong, &text))
}

/// A line for each event.
fn lines(events: &[OwnerEvent], style: Style) -> String {
    let lines = events.iter().map(|told| {
        let event = &told.event;
        let change = match (event.kind, event.from) {
            (EventKind::State, Some(from)) => format!("{from} → {}", event.to),
            (EventKind::State, None) => event.to.to_string(),
            (kind, _) => kind.to_string(),
        };
        let tone = match (event.kind, event.to) {
            (EventKind::State, VmStage::Error | VmStage::Failed) => Some(Tone::Bad),
            (EventKind::State, VmStage::Running) => Some(Tone::Good),
            (EventKind::State, VmStage::Retained) | (EventKind::Lease | EventKind::Note, _) => {
                Some(Tone::Warning)
            }
            (EventKind::Progress, _) => Some(Tone::Faint),
            _ => None,
        };
        let why = match &event.detail {
            Some(detail) => format!("{}: {}", event.cause, printable(detail, LONGEST)),
            None => event.cause.to_string(),
        };
        let at = Timestamp::from_unix_seconds(event.at.unix_seconds()).to_string();
        let owner: String = told.owner.chars().take(SHORT_ID).collect();
        let name = printable(&told.name, 64);
        let text = row([&at, &name, &owner, &change, event.actor.as_str(), &why]);
        format!("{}\n", tone.map_or(text.clone(), |tone| style.paint(tone, &text)))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use golem_vm_protocol::VmResources;
    use golem_vm_protocol::vm::{Actor, Cause, VmEvent};

    use super::*;

    fn event() -> OwnerEvent {
        OwnerEvent {
            id: 7,
            vm: "vm_1".into(),
            name: "web-1".into(),
            owner: "o".repeat(52),
            event: VmEvent {
                vm_id: "vm_1".into(),
                number: 2,
                at: Timestamp::from_unix_seconds(1_800_000_000),
                steady_micros: 5,
                kind: EventKind::State,
                from: Some(VmStage::Running),
                to: VmStage::Error,
                actor: Actor::Host,
                cause: Cause::InstanceGone,
                detail: Some("it is gone\u{1b}[2J".into()),
                resources: VmResources { cpu: 1, memory: 1, storage: 10 },
                delivered_micros: 0,
            },
        }
    }

    #[test]
    fn an_event_is_one_harmless_line() {
        let plain = Style { terminal: false, colour: false };
        assert_eq!(
            lines(&[event()], plain),
            "2027-01-15T08:00:00Z  web-1             oooooooooooo  running → error         host            \
             instance_gone: it is gone\u{fffd}[2J\n"
        );
        let coloured = lines(&[event()], Style { terminal: true, colour: true });
        assert!(coloured.starts_with("\u{1b}[31m2027"), "{coloured:?}");
    }

    #[test]
    fn a_query_stands_in_a_path_whatever_it_is() {
        let query = EventsQuery { vm: Some("a b&c=ü".into()), limit: 5, ..EventsQuery::default() };
        assert_eq!(written(&query), "limit=5&wait_seconds=0&vm=a%20b%26c%3D%C3%BC");
    }
}
