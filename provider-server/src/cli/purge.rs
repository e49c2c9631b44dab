//! `golem-provider purge`: nothing of this provider is left on the machine but its key.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use golem_vm_protocol::text::printable;
use serde_json::json;

use super::exit_code::{self, Coded};
use super::offline::Offline;
use super::place::PlaceArgs;
use super::remote::Remote;
use super::stop::wait_until_gone;
use super::terminal::{confirm, print, print_json};
use golem_vm_protocol::vm::{Actor, Cause};

use crate::backend::BackendKind;
use crate::control::messages::{self, Purged, Status};
use crate::forwarder::{ClientError, ForwarderClient};
use crate::images::{ImageRegister as _, ImageRow};
use crate::vm::history::Reason;
use crate::vm::repository::VmRepository as _;

/// How long the running provider may take to destroy everything.
const DEADLINE: Duration = Duration::from_secs(900);
/// How long it may take to end after that.
const ENDING: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
#[command(after_help = "\
Every VM is destroyed with its disk, every SSH session ends, images are given up, golem-forwarder
and the provider end. The key stays: remove the data directory to forget this provider altogether.

Examples:
  golem-provider purge
  golem-provider purge --yes --json")]
pub(super) struct PurgeArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(place: &PlaceArgs, args: &PurgeArgs) -> anyhow::Result<ExitCode> {
    let data = place.data_path()?;
    let remote = Remote::at(data.clone()).await?;
    if remote.is_none() && !data.join("key").exists() {
        if place.json {
            print_json(&nothing())?;
        } else {
            print(&format!("There is no provider in {}.\n", data.display()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !asked(remote.as_ref(), &data).await? {
        print("Nothing was removed.\n");
        return Ok(ExitCode::from(exit_code::FAILURE));
    }
    let purged = match remote {
        Some(remote) => {
            let purged = remote.post::<Purged>(messages::PURGE, &json!(null), DEADLINE).await?;
            wait_until_gone(&data, ENDING).await?;
            purged
        }
        None => purge_here(place).await?,
    };
    if place.json {
        print_json(&purged)?;
    } else {
        print(&text(&purged, &data));
    }
    Ok(if purged.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit_code::FAILURE)
    })
}

const fn nothing() -> Purged {
    Purged { vms: Vec::new(), images: Vec::new(), problems: Vec::new() }
}

async fn asked(remote: Option<&Remote>, data: &Path) -> anyhow::Result<bool> {
    let what = match remote {
        Some(remote) => {
            let status = remote.get::<Status>(messages::STATUS).await?;
            format!("{} VMs of {}", status.vms.len(), printable(&status.name, 64))
        }
        None => format!("all VMs of the provider in {}", data.display()),
    };
    let question = format!("Destroy {what} with their disks, and remove the images?");
    confirm(&question)?.ok_or_else(|| {
        Coded::usage("this destroys VMs, and there is no terminal to ask on: add --yes").into()
    })
}

fn text(purged: &Purged, data: &Path) -> String {
    let mut out = format!("Removed {} VMs and {} images.\n", purged.vms.len(), purged.images.len());
    if purged.problems.is_empty() {
        out.push_str(&format!(
            "The provider's key is still in {}: remove that directory to forget this provider.\n",
            data.display()
        ));
    } else {
        out.push_str("What could not be removed:\n");
        for problem in &purged.problems {
            out.push_str(&format!("  {}\n", printable(problem, 1000)));
        }
        out.push_str("Put that right and run 'golem-provider purge' again.\n");
    }
    out
}

/// Removes everything without a running provider.
async fn purge_here(place: &PlaceArgs) -> anyhow::Result<Purged> {
    let offline = Offline::open(place).await?;
    let purged = remove_all(&offline).await;
    let purged = match purged {
        Ok(mut purged) => {
            if purged.problems.is_empty() {
                end_forwarder(&offline, &mut purged).await;
            }
            Ok(purged)
        }
        Err(error) => Err(error),
    };
    offline.close().await;
    purged
}

async fn remove_all(offline: &Offline) -> anyhow::Result<Purged> {
    let records = offline.store.all().await?;
    let images = offline.store.images().await?;
    let in_use = |kind| {
        records.iter().any(|record| record.terms.backend == kind)
            || images.iter().any(|image| image.backend == kind)
    };
    // Asked first: with one that does not answer and has something, nothing is begun.
    let (mut asked, mut away) = (Vec::new(), None);
    for member in &*offline.backends.now() {
        let listed = match offline.backends.of(member.kind) {
            Ok(present) => present.backend.list().await.map(|listed| (present.backend, listed)),
            Err(error) => Err(error),
        };
        match listed {
            Ok(one) => asked.push(one),
            Err(error) if in_use(member.kind) || offline.names(member.kind) => {
                return Err(error.into());
            }
            Err(error) => away = away.or(Some(error)),
        }
    }
    if asked.is_empty()
        && let Some(error) = away
    {
        return Err(error.into());
    }
    let mut purged = nothing();
    for (backend, mut instances) in asked {
        let of_it = records.iter().filter(|record| record.terms.backend == backend.kind());
        instances.extend(of_it.map(|record| record.instance()));
        instances.sort_unstable();
        instances.dedup();
        let destroyed = join_all(instances.iter().map(|id| backend.destroy(*id))).await;
        for (id, outcome) in instances.iter().zip(destroyed) {
            match outcome {
                Ok(()) => {
                    let reason = Reason::new(Actor::ProviderOwner, Cause::Purged);
                    offline.store.remove(id.vm(), reason).await?;
                    purged.vms.push(id.vm().to_string());
                }
                Err(error) => purged.problems.push(format!("{id}: {error}")),
            }
        }
        remove_images(offline, &images, backend.kind(), &mut purged).await;
        if let Err(error) = backend.clean_up().await {
            purged.problems.push(error.to_string());
        }
    }
    Ok(purged)
}

async fn remove_images(
    offline: &Offline,
    images: &[ImageRow],
    backend: BackendKind,
    purged: &mut Purged,
) {
    for image in images.iter().filter(|image| image.backend == backend) {
        match offline.images.remove(&image.name, Some(backend)).await {
            Ok(()) => purged.images.push(image.name.clone()),
            Err(error) => purged.problems.push(format!("image {}: {error}", image.name)),
        }
    }
}

async fn end_forwarder(offline: &Offline, purged: &mut Purged) {
    let ended = match ForwarderClient::connect(offline.data_dir.path()).await {
        Ok((client, _)) => client.shutdown().await,
        Err(ClientError::NotRunning { .. }) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        purged.problems.push(error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said() {
        let done = Purged { vms: vec!["vm_1".to_owned()], ..nothing() };
        assert!(text(&done, Path::new("/d")).starts_with("Removed 1 VMs and 0 images.\n"));
        let left = Purged { problems: vec!["golem-vm_1: busy\u{7}".to_owned()], ..nothing() };
        assert!(text(&left, Path::new("/d")).contains("  golem-vm_1: busy\u{fffd}\n"));
    }
}
