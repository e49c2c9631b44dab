//! `golem-provider stop`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use golem_vm_node::data_dir::{DataDir, DataDirError};
use serde_json::json;

use super::place::PlaceArgs;
use super::remote::Remote;
use super::terminal::{print, print_json};
use crate::control::messages::{self, Status};

/// How often it is looked whether the provider is gone.
const POLL: Duration = Duration::from_millis(50);
/// How long the provider may take to take notice.
const NOTICE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "\
VMs go on, and so does golem-forwarder, which carries their SSH sessions: the next start finds both.
To end them too: golem-provider purge.

Examples:
  golem-provider stop
  golem-provider stop --timeout 120
  golem-provider stop --data-dir ~/other-provider")]
pub(super) struct StopArgs {
    /// Seconds to wait until it is gone
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

pub(super) async fn run(place: &PlaceArgs, args: &StopArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::require(place).await?;
    // Only to say more; one that can't answer this can still be stopped.
    let status = remote.get::<Status>(messages::STATUS).await.ok();
    remote.post::<serde_json::Value>(messages::STOP, &json!(null), NOTICE).await?;
    wait_until_gone(&remote.data, Duration::from_secs(args.timeout)).await?;
    let vms = status.as_ref().map(|status| status.vms.len());
    if place.json {
        print_json(&json!({"stopped": true, "vms": vms}))?;
    } else {
        print(&match vms {
            Some(0) | None => "The provider has stopped.\n".to_owned(),
            Some(1) => {
                "The provider has stopped. Its VM goes on, and so does its SSH (golem-forwarder).\n"
                    .to_owned()
            }
            Some(count) => format!(
                "The provider has stopped. Its {count} VMs go on, and so does their SSH (golem-forwarder).\n"
            ),
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the provider has let go of its data directory, which it does last of all.
pub(super) async fn wait_until_gone(
    data: &std::path::Path,
    timeout: Duration,
) -> anyhow::Result<()> {
    let data_dir = DataDir::open(data)?;
    let until = tokio::time::Instant::now() + timeout;
    loop {
        match data_dir.lock() {
            Ok(_) => return Ok(()),
            Err(DataDirError::InUse { pid, .. }) if tokio::time::Instant::now() >= until => {
                let who = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                bail!(
                    "the provider{who} has not ended within {} s; it finishes requests that were \
                     begun. Wait longer with --timeout, or end it with 'kill -9': VMs go on then too",
                    timeout.as_secs()
                );
            }
            Err(DataDirError::InUse { .. }) => tokio::time::sleep(POLL).await,
            Err(error) => return Err(error.into()),
        }
    }
}
