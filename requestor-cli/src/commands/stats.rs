//! `golem vm stats`

use std::time::Duration;

use golem_vm_protocol::vm::VmStats;
use tokio::time::sleep;

use super::list::tell_end;
use super::refresh;
use crate::app::App;
use crate::args::StatsArgs;
use crate::error::{CliError, Result};

const PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn run(app: &App<'_>, args: &StatsArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let client = app.client()?;
    let vm = rental.reference();
    let show = async {
        loop {
            let answer = app
                .reach(&rental.provider, async |provider| client.stats(provider, &vm).await)
                .await;
            match answer {
                Ok(stats) => one(app, &rental.name.to_string(), &stats, args.watch)?,
                Err(error) if error.is_no_such_vm() => {
                    refresh::gone(app, &rental)?;
                    return Err(CliError::not_found(format!(
                        "'{}' does not exist any more",
                        rental.name
                    )));
                }
                Err(error) => {
                    return Err(
                        error.into_cli(&format!("measure '{}'", rental.name), &rental.provider)
                    );
                }
            }
            if !args.watch {
                tell_end(app, &rental);
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        result = show => result,
        // Watching ends by being interrupted: that is no failure.
        _ = tokio::signal::ctrl_c(), if args.watch => Ok(()),
    }
}

fn one(app: &App<'_>, name: &str, stats: &VmStats, watch: bool) -> Result<()> {
    if app.ui.is_json() {
        return app.ui.json(stats);
    }
    let text = rows(name, stats);
    if watch && app.ui.decorates() {
        // Home, and clear what is below.
        return app.ui.out(&format!("\x1b[H\x1b[J{text}"));
    }
    app.ui.out(&text)
}

fn rows(name: &str, stats: &VmStats) -> String {
    let memory = format!(
        "{} of {} ({}%)",
        bytes(stats.memory_used_bytes),
        bytes(stats.memory_limit_bytes),
        percent(stats.memory_used_bytes, stats.memory_limit_bytes)
    );
    let mut rows = vec![
        ("VM", name.to_owned()),
        ("CPU", format!("{:.1}% of one core", stats.cpu_percent)),
        ("Memory", memory),
        ("Received", bytes(stats.network_received_bytes)),
        ("Sent", bytes(stats.network_sent_bytes)),
    ];
    // From outside a virtual machine nobody can count them.
    if stats.processes > 0 {
        rows.insert(3, ("Processes", stats.processes.to_string()));
    }
    if let Some(disk) = stats.disk_used_bytes {
        rows.push(("Disk written", bytes(disk)));
    }
    rows.iter().map(|(name, value)| format!("{name:14}{value}\n")).collect()
}

/// A number of bytes for people, in binary units.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_binary_units() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert!(bytes(u64::MAX).ends_with("PiB"));
        assert_eq!(percent(1, 0), 0);
        assert_eq!(percent(512, 1024), 50);
    }
}
