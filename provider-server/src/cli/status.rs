//! `golem-provider status`.

mod backends;
mod images;
mod vms;

pub(super) use images::image_table;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;

use super::place::PlaceArgs;
use super::remote::Remote;
use super::table::Rows;
use super::terminal::{Style, Tone, print, print_json};
use crate::capacity::{cores, gib};
use crate::control::messages::{self, DiscoveryStatus, PortsStatus, Status};
use crate::ports::display;

pub(super) const EXAMPLES: &str = "\
Examples:
  golem-provider status
  golem-provider status --json
  golem-provider status --data-dir ~/second

Exit codes: 0 it runs, 3 it does not run.";

/// Width of a bar, in characters.
const BAR: u32 = 20;

pub(super) async fn run(place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::require(place).await?;
    let status: Status = remote.get(messages::STATUS).await?;
    if place.json {
        print_json(&status)?;
    } else {
        print(&text(&status, SystemTime::now().into(), Style::of_stdout()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole status, for a person.
fn text(status: &Status, now: Timestamp, style: Style) -> String {
    let mut out = String::new();
    who(&mut out, status, now, style);
    out.push('\n');
    host(&mut out, status, style);
    out.push('\n');
    capacity(&mut out, status, style);
    out.push('\n');
    out.push_str(&ports_text(&status.ports, style));
    discovery(&mut out, &status.discovery, now, style);
    out.push('\n');
    images::show(&mut out, &status.images, style);
    out.push('\n');
    vms::show(&mut out, &status.vms, now, style);
    vms::orphans(&mut out, &status.orphans, style);
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "  {name:<13} {value}");
}

fn heading(style: Style, text: &str) -> String {
    style.paint(Tone::Strong, text)
}

fn who(out: &mut String, status: &Status, now: Timestamp, style: Style) {
    let _ = writeln!(out, "{}", heading(style, &printable(&status.name, 64)));
    line(out, "id", &status.provider_id.to_string());
    line(
        out,
        "running for",
        &format!(
            "{} (process {}, version {})",
            age(now.since(status.started_at)),
            status.pid,
            status.version
        ),
    );
    line(out, "api", &status.api);
    line(
        out,
        "advertised at",
        &match &status.public_host {
            Some(host) => printable(host, 255),
            None => style.paint(
                Tone::Warning,
                "not known yet: no port checker or discovery server has said",
            ),
        },
    );
    for backend in &status.backends {
        backends::show(out, backend, style);
    }
}

fn host(out: &mut String, status: &Status, style: Style) {
    let _ = writeln!(out, "{}", heading(style, "Host"));
    let resources = status.host.resources;
    let used = |total: u64, free: u64| total.saturating_sub(free);
    let memory = used(resources.memory_total_mib, resources.memory_available_mib);
    let disk = used(resources.disk_total_mib, resources.disk_free_mib);
    let cpu = f64::from(status.host.cpu_percent).clamp(0.0, 100.0);
    line(out, "cpu", &gauge(cpu, &format!("of {} CPUs", resources.cpus), style));
    let share = |used: u64, total: u64| percent(used, total);
    line(
        out,
        "memory",
        &gauge(
            share(memory, resources.memory_total_mib),
            &format!("{} of {} GB in use", gib(memory), gib(resources.memory_total_mib)),
            style,
        ),
    );
    line(
        out,
        "disk",
        &gauge(
            share(disk, resources.disk_total_mib),
            &format!("{} of {} GB in use", gib(disk), gib(resources.disk_total_mib)),
            style,
        ),
    );
}

fn percent(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "MiB stay far below 2^52")]
    let share = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    share
}

/// `percent` as a figure, and on a terminal as a bar before it.
fn gauge(percent: f64, words: &str, style: Style) -> String {
    let figure = format!("{percent:>3.0} %  {words}");
    if !style.terminal {
        return figure;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 20")]
    let filled = (percent.clamp(0.0, 100.0) / 100.0 * f64::from(BAR)).round() as usize;
    let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR as usize - filled));
    let tone = if percent >= 95.0 {
        Tone::Bad
    } else if percent >= 80.0 {
        Tone::Warning
    } else {
        Tone::Good
    };
    format!("{}  {figure}", style.paint(tone, &bar))
}

fn capacity(out: &mut String, status: &Status, style: Style) {
    let capacity = status.capacity;
    let mut rows = Rows::new(&["CAPACITY", "OFFERED", "RESERVED", "FREE"], style);
    let mut add = |name: &str, amounts: [u64; 3], show: fn(u64) -> String, unit: &str| {
        let [offered, reserved, free] =
            amounts.map(|amount| (format!("{}{unit}", show(amount)), None));
        rows.add([(name.to_owned(), None), offered, reserved, free]);
    };
    let each = [capacity.offered, capacity.reserved, capacity.free];
    add("vCPUs", each.map(|amount| amount.cpu_millis), cores, "");
    add("memory", each.map(|amount| amount.memory_mib), gib, " GB");
    add("disk", each.map(|amount| amount.storage_mib), gib, " GB");
    out.push_str(&rows.render());
}

/// The access ports, for a person.
pub(super) fn ports_text(ports: &PortsStatus, style: Style) -> String {
    let mut out = format!("{}\n", heading(style, "Ports"));
    let all = u32::from(ports.last.saturating_sub(ports.first)) + 1;
    let tone = if ports.usable == 0 {
        Tone::Bad
    } else if ports.bound < all || !ports.problems.is_empty() {
        Tone::Warning
    } else {
        Tone::Good
    };
    let state = format!(
        "{} of {all} held, {} can be handed out, {} in use",
        ports.bound, ports.usable, ports.in_use
    );
    line(&mut out, &format!("{}-{}", ports.first, ports.last), &style.paint(tone, &state));
    let verified = match (ports.verified_from_outside, ports.verified_at) {
        (false, _) => style.paint(Tone::Warning, "not from outside; advertised as unverified"),
        (true, None) => style.paint(Tone::Warning, "not yet"),
        (true, Some(at)) => format!("from outside, at {}", moment(at)),
    };
    line(&mut out, "verified", &verified);
    for checker in ports.checkers.iter().filter(|checker| checker.answered_at.is_some()) {
        line(&mut out, "by", &display::checker_text(checker));
    }
    for problem in &ports.problems {
        let _ = writeln!(out, "  {} {}", style.paint(Tone::Bad, "!"), printable(problem, 1000));
    }
    out
}

fn discovery(out: &mut String, servers: &[DiscoveryStatus], now: Timestamp, style: Style) {
    let _ = writeln!(out, "{}", heading(style, "Discovery"));
    if servers.is_empty() {
        let _ = writeln!(
            out,
            "  {}",
            style.paint(
                Tone::Warning,
                "none is set (GOLEM_PROVIDER_DISCOVERY_URL): nothing is advertised"
            )
        );
    }
    for server in servers {
        let taken = match (server.published_at, server.sequence) {
            (Some(at), Some(sequence)) => {
                format!("took advertisement {sequence} {} ago", age(now.since(at)))
            }
            _ => "has taken no advertisement yet".to_owned(),
        };
        let _ = write!(out, "  {}  {taken}", printable(&server.url, 200));
        if let Some(problem) = &server.problem {
            let _ =
                write!(out, "\n  {} {}", style.paint(Tone::Warning, "!"), printable(problem, 500));
        }
        out.push('\n');
    }
}

/// A moment, to the second.
fn moment(at: Timestamp) -> String {
    Timestamp::from_unix_seconds(at.unix_seconds()).to_string()
}

/// A span of time in its largest unit that fits.
fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;
    use crate::backend::{BackendKind, ImageDigest};
    use crate::capacity::Amount;
    use crate::control::messages::{CapacityStatus, HostUse, OrphanLine};
    use crate::host::HostResources;
    use crate::images::{ImageInfo, ImageRow};

    const PLAIN: Style = Style { terminal: false, colour: false };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn status() -> Status {
        let amount = |cpu: u64, gb: u64| Amount {
            cpu_millis: cpu,
            memory_mib: gb * 1024,
            storage_mib: gb * 2048,
        };
        Status {
            provider_id: KeyPair::from_secret_bytes([7; 32]).unwrap().id(),
            name: "lovelace".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 42,
            started_at: at(0),
            api: "0.0.0.0:7466".to_owned(),
            public_host: Some("203.0.113.7".to_owned()),
            backends: backends::tests::each(),
            open_to_strangers: false,
            host: HostUse {
                resources: HostResources {
                    cpus: 4,
                    memory_total_mib: 8192,
                    memory_available_mib: 6144,
                    disk_total_mib: 102_400,
                    disk_free_mib: 51_200,
                },
                cpu_percent: 12.4,
            },
            capacity: CapacityStatus {
                offered: amount(4000, 8),
                reserved: amount(1500, 2),
                free: amount(2500, 6),
            },
            ports: PortsStatus {
                first: 50_800,
                last: 50_899,
                bound: 100,
                usable: 99,
                in_use: 1,
                verified_from_outside: true,
                verified_at: Some(at(5)),
                checkers: Vec::new(),
                problems: vec!["50801 is closed\u{1b}[2J".to_owned()],
            },
            discovery: vec![DiscoveryStatus {
                url: "http://d:9001".to_owned(),
                published_at: Some(at(3500)),
                sequence: Some(3),
                problem: None,
            }],
            images: vec![ImageInfo {
                row: ImageRow {
                    name: "debian-12".to_owned(),
                    digest: ImageDigest::new("sha256:0123456789abcdef"),
                    backend: BackendKind::Docker,
                    built: true,
                    created_at: at(0),
                },
                details: crate::backend::ImageDetails {
                    size_bytes: Some(123_456_789),
                    ..crate::backend::ImageDetails::default()
                },
                offered: true,
            }],
            vms: vms::tests::lines(),
            orphans: vec![OrphanLine {
                instance: "golem-vm_2".to_owned(),
                first_seen_at: at(0),
                removed_in_seconds: 7200,
            }],
        }
    }

    #[test]
    fn a_pipe_gets_plain_text() {
        let shown = text(&status(), at(3600), PLAIN);
        for part in [
            "lovelace\n",
            "running for   60 min (process 42, version 0.1.0)",
            "advertised at 203.0.113.7",
            "  docker        Docker Engine 20.10",
            "container; enforced: cpu, memory",
            "only trusted requestors are served: no firewall",
            "  qemu          away, and with it 2 VMs: no /usr/bin/qemu",
            "vm, emulated (slow): KVM hangs; nothing is enforced",
            " 12 %  of 4 CPUs",
            " 25 %  2 of 8 GB in use",
            " vCPUs     4        1.5       2.5\n",
            "100 of 100 held, 99 can be handed out, 1 in use",
            "from outside, at 2027-01-15T08:00:05Z",
            "! 50801 is closed\u{fffd}[2J",
            "http://d:9001  took advertisement 3 100 s ago",
            " debian-12  docker   yes       124 MB  -         -          built",
            "sha256:0123456789ab\n",
        ] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
        assert!(!shown.contains('\u{1b}') && !shown.contains('█'), "{shown}");
    }

    #[test]
    fn a_terminal_gets_bars_and_colours() {
        let shown = text(&status(), at(0), Style { terminal: true, colour: true });
        assert!(shown.contains("█████░░░░░░░░░░░░░░░"), "{shown}");
        assert!(shown.contains("\u{1b}[1mlovelace"), "{shown}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let empty = Status {
            public_host: None,
            discovery: Vec::new(),
            images: Vec::new(),
            vms: Vec::new(),
            orphans: Vec::new(),
            ..status()
        };
        let shown = text(&empty, at(0), PLAIN);
        for part in
            ["not known yet", "GOLEM_PROVIDER_DISCOVERY_URL", "image build debian-12", "No VMs"]
        {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
    }

    #[test]
    fn ages_are_in_the_unit_that_fits() {
        let shown =
            [1, 119, 120, 7199, 7200, 172_799, 172_800].map(|s| age(Duration::from_secs(s)));
        assert_eq!(shown, ["1 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
