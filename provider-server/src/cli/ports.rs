//! `golem-provider verify-ports`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::place::PlaceArgs;
use super::remote::Remote;
use super::terminal::{Style, print, print_json};
use super::{exit_code, status};
use crate::control::messages::{self, Status};

pub(super) const EXAMPLES: &str = "\
The running provider asks its port checkers again, after a firewall or a router was changed, say.

Examples:
  golem-provider verify-ports
  golem-provider verify-ports --json

Exit codes: 0 at least one port can be handed out, 1 none can, 3 the provider does not run.";

/// How long all checkers together may take.
const DEADLINE: Duration = Duration::from_secs(180);

pub(super) async fn verify(place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::require(place).await?;
    let style = Style::of_stdout();
    if style.terminal && !place.json {
        eprintln!("Asking the port checkers…");
    }
    remote.post::<serde_json::Value>(messages::VERIFY_PORTS, &json!(null), DEADLINE).await?;
    let ports = remote.get::<Status>(messages::STATUS).await?.ports;
    if place.json {
        print_json(&ports)?;
    } else {
        print(&status::ports_text(&ports, style));
    }
    Ok(if ports.usable > 0 { ExitCode::SUCCESS } else { ExitCode::from(exit_code::FAILURE) })
}
