//! `golem-provider quarantine`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use golem_vm_protocol::text::printable;

use super::place::PlaceArgs;
use super::remote::Remote;
use super::terminal::{print, print_json};
use crate::control::messages::{self, Quarantine, VmLine};

/// The firewall is done at once, unless something else keeps it busy.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing that the VM sends leaves it any more: not to the internet, nor an answer to its own SSH, so
that open sessions stand still and new ones time out. It goes on running. 'golem vm info' tells its
owner. It stays so over restarts of the VM, the provider and the host, until it is released.

Examples:
  golem-provider quarantine vm_01JD8Q3V5RWX9Y2Z4B6C8D0EFG
  golem-provider quarantine web-1 --json
  golem-provider quarantine web-1 --release

Exit codes: 0 done, 1 there is no such VM or guests are not contained here, 3 the provider does not run.")]
pub(super) struct QuarantineArgs {
    /// The VM: its id, its instance's name, or its name where only one has that
    vm: String,
    /// Let it back
    #[arg(long)]
    release: bool,
}

pub(super) async fn run(place: &PlaceArgs, args: &QuarantineArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::require(place).await?;
    let wanted = Quarantine { vm: args.vm.clone(), cut_off: !args.release };
    let vm: VmLine = remote.post(messages::QUARANTINE, &wanted, DEADLINE).await?;
    if place.json {
        print_json(&vm)?;
    } else {
        let name = printable(&vm.name, 64);
        print(&match vm.quarantined_at {
            Some(since) => format!(
                "{name} ({}) is cut off from all network since {since}.\n\
                 'golem-provider quarantine {} --release' lets it back.\n",
                vm.id, vm.id
            ),
            None => format!("{name} ({}) has its network back.\n", vm.id),
        });
    }
    Ok(ExitCode::SUCCESS)
}
