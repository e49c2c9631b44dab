//! How long it takes from Enter to a login: `golem vm create` against markets that run, by the clock of who waits for
//! it. `scripts/bench vm-start` brings the markets up and runs this.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use golem_vm_end_to_end::{Place, Requestor};
use serde_json::{Value, json};

/// Rents VMs one after the other, each from Enter to the first login under its own host key, and says where the time
/// went. The rivals take turns, so that whatever else the machine does hits all of them.
#[derive(Debug, Parser)]
#[command(
    name = "vm-start",
    after_help = "Exit codes: 0 measured, 1 a VM could not be rented (its last words are told)."
)]
struct Arguments {
    /// The discovery server of a market whose provider has virtual machines
    #[arg(long, value_name = "URL")]
    machines: Option<String>,
    /// The discovery server of a market whose provider has containers
    #[arg(long, value_name = "URL")]
    containers: Option<String>,
    /// VMs of each rival that count; one more is made before
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The same for those that are booted; 0 leaves them out
    #[arg(long, value_name = "N", default_value_t = 3)]
    cold_rounds: u32,
    /// The image of them all; without it, the provider's default
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Prints every measurement as JSON
    #[arg(long)]
    json: bool,
}

/// One way to get a VM.
struct Rival {
    name: &'static str,
    isolation: &'static str,
    /// What makes a provider boot it rather than resume it.
    cloud_init: bool,
    rounds: u32,
    requestor: Requestor,
    runs: Vec<Run>,
}

/// One VM.
#[derive(Debug, Default)]
struct Run {
    /// From the start of the program to its end, which is behind the login.
    total: Duration,
    /// Each part in its order, in milliseconds.
    parts: Vec<(String, f64)>,
    /// What it ran on.
    accel: Option<String>,
    image: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut rivals = rivals(&arguments);
    if rivals.is_empty() {
        eprintln!("Give --machines URL, --containers URL, or both.");
        return ExitCode::FAILURE;
    }
    let load = load();
    let most = rivals.iter().map(|rival| rival.rounds).max().unwrap_or(0);
    // The first one of each is not counted: programs and images are in memory afterwards, and templates are there.
    for round in 0..=most {
        for rival in &mut rivals {
            if round > rival.rounds {
                continue;
            }
            match one(rival, arguments.image.as_deref(), round) {
                Ok(run) => {
                    eprintln!("{} {round}: {:.2} s", rival.name, run.total.as_secs_f64());
                    if round > 0 {
                        rival.runs.push(run);
                    }
                }
                Err(why) => {
                    eprintln!("{} {round} failed:\n{why}", rival.name);
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    if arguments.json {
        println!("{}", all(&rivals));
        return ExitCode::SUCCESS;
    }
    println!("load of the machine: {load} before, {} after\n", self::load());
    print!("{}", table(&rivals));
    ExitCode::SUCCESS
}

fn rivals(arguments: &Arguments) -> Vec<Rival> {
    let rival = |name, isolation, cloud_init, rounds, discovery: &String| {
        let place = Place::new(std::path::Path::new("/"));
        let requestor = Requestor::new(&place, discovery);
        Rival { name, isolation, cloud_init, rounds, requestor, runs: Vec::new() }
    };
    let mut rivals = Vec::new();
    if let Some(url) = &arguments.machines {
        rivals.push(rival("resumed", "vm", false, arguments.rounds, url));
        if arguments.cold_rounds > 0 {
            rivals.push(rival("cold boot", "vm", true, arguments.cold_rounds, url));
        }
    }
    if let Some(url) = &arguments.containers {
        rivals.push(rival("Docker", "container", false, arguments.rounds, url));
    }
    rivals
}

/// Rents one VM, and gives it back.
fn one(rival: &Rival, image: Option<&str>, round: u32) -> Result<Run, String> {
    let name = format!("start-{round}");
    let user_data = rival.requestor.home().join("user-data");
    std::fs::write(&user_data, "#cloud-config\ntimezone: Etc/UTC\n").map_err(|e| e.to_string())?;
    let mut words = vec!["--json", "vm", "create", &name, "--isolation", rival.isolation];
    if rival.cloud_init {
        words.extend(["--cloud-init", user_data.to_str().unwrap()]);
    }
    if let Some(image) = image {
        words.extend(["--image", image]);
    }
    let began = Instant::now();
    let created = rival.requestor.command(&words).stdin(Stdio::null()).output();
    let total = began.elapsed();
    let created = created.map_err(|error| error.to_string())?;
    if !created.status.success() {
        return Err(String::from_utf8_lossy(&created.stderr).into_owned());
    }
    let vm: Value = serde_json::from_slice(&created.stdout).map_err(|error| error.to_string())?;
    let events = rival.requestor.golem(&["--json", "vm", "events", &name]);
    let destroyed = rival.requestor.golem(&["vm", "destroy", &name, "--yes"]);
    if destroyed.code != 0 {
        return Err(destroyed.stderr);
    }
    Ok(Run {
        total,
        parts: parts(&vm, &events.json(), total),
        accel: vm["accel"].as_str().map(str::to_owned),
        image: format!("{} {}", text(&vm["image"]), text(&vm["image_digest"])),
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Where the time went: `golem`'s own parts, and within the making of the VM those of its provider.
fn parts(vm: &Value, events: &Value, total: Duration) -> Vec<(String, f64)> {
    let took = |part: &str| vm["took_ms"][part].as_f64().unwrap_or(0.0);
    let mut parts = vec![
        ("golem: its start and end".to_owned(), total.as_secs_f64() * 1e3 - took("total")),
        ("golem: search the advertisements".to_owned(), took("search")),
        ("golem: the request is accepted".to_owned(), took("ask")),
    ];
    let mut rest = took("make");
    for (what, milliseconds) in phases(events) {
        rest -= milliseconds;
        parts.push((format!("provider: {what}"), milliseconds));
    }
    parts.push(("golem: hear of it".to_owned(), rest));
    for (what, part) in [
        ("where it answers", "open"),
        ("banner and host key", "connect"),
        ("login and first command", "log_in"),
    ] {
        parts.push((format!("golem: {what}"), took(part)));
    }
    parts
}

/// What the provider did until the VM ran, each with its milliseconds by the provider's steady clock.
fn phases(events: &Value) -> Vec<(String, f64)> {
    let events = events["events"].as_array().cloned().unwrap_or_default();
    let mut phases: Vec<(String, f64)> = Vec::new();
    for pair in events.windows(2) {
        let [event, next] = pair else { continue };
        let at = |event: &Value| event["steady_micros"].as_f64().unwrap_or(0.0) / 1e3;
        let what = event["detail"].as_str().unwrap_or("admit it").to_owned();
        if event["to"] == "running" {
            break;
        }
        phases.push((what, at(next) - at(event)));
    }
    phases
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn table(rivals: &[Rival]) -> String {
    let mut text =
        String::from("| from Enter to the login | runs | median | fastest | slowest | runs on |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for rival in rivals {
        let totals: Vec<f64> = rival.runs.iter().map(|run| run.total.as_secs_f64()).collect();
        let accel = rival.runs.first().and_then(|run| run.accel.clone());
        text.push_str(&format!(
            "| {} | {} | **{:.2} s** | {:.2} s | {:.2} s | {} |\n",
            rival.name,
            totals.len(),
            median(totals.clone()),
            totals.iter().copied().fold(f64::INFINITY, f64::min),
            totals.iter().copied().fold(0.0, f64::max),
            accel.unwrap_or_else(|| rival.isolation.to_owned()),
        ));
    }
    text.push_str("\n| median, ms |");
    for rival in rivals {
        text.push_str(&format!(" {} |", rival.name));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(rivals.len()));
    text.push('\n');
    for part in order(rivals) {
        text.push_str(&format!("| {part} |"));
        for rival in rivals {
            let values = values(rival, &part);
            match values.is_empty() {
                true => text.push_str(" |"),
                false => text.push_str(&format!(" {:.0} |", median(values))),
            }
        }
        text.push('\n');
    }
    text
}

fn values(rival: &Rival, part: &str) -> Vec<f64> {
    let of = |run: &Run| run.parts.iter().find(|(name, _)| name == part).map(|(_, ms)| *ms);
    rival.runs.iter().filter_map(of).collect()
}

/// All parts, in the order in which they come.
fn order(rivals: &[Rival]) -> Vec<String> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for run in rivals.iter().flat_map(|rival| &rival.runs) {
        for (place, (part, _)) in run.parts.iter().enumerate() {
            let known = places.entry(part.clone()).or_insert(place);
            *known = (*known).max(place);
        }
    }
    let mut parts: Vec<(usize, String)> =
        places.into_iter().map(|(part, place)| (place, part)).collect();
    parts.sort();
    parts.into_iter().map(|(_, part)| part).collect()
}

fn all(rivals: &[Rival]) -> Value {
    let runs = |rival: &Rival| -> Vec<Value> {
        let run = |run: &Run| {
            json!({ "total_s": run.total.as_secs_f64(), "parts_ms": run.parts, "accel": run.accel,
                    "image": run.image })
        };
        rival.runs.iter().map(run).collect()
    };
    rivals.iter().map(|rival| json!({ "rival": rival.name, "runs": runs(rival) })).collect()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
