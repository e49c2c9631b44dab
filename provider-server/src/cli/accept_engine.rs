//! `golem-provider accept-engine`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::exit_code::{self, Coded};
use super::place::PlaceArgs;
use super::terminal::{confirm, print, print_json};
use crate::backend::docker::DockerBackend;

#[derive(Debug, Args)]
#[command(after_help = "\
A provider that finds another Docker Engine than the one on which its VMs were made, or one that has
lost all its data, takes no VM for gone: that engine may come back. This says that it does not. The
engine that answers next is taken for the right one, by a running provider within seconds; VMs that
are not on it are shown as gone to their owners, who can only destroy them.

Examples:
  golem-provider accept-engine
  golem-provider accept-engine --yes --json

Exit codes: 0 done, 1 it was not confirmed or can't be written down.")]
pub(super) struct AcceptEngineArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn run(place: &PlaceArgs, args: &AcceptEngineArgs) -> anyhow::Result<ExitCode> {
    let (_, data_dir) = place.open()?;
    if !args.yes {
        let question = "Take whichever Docker Engine answers next for the one that has the VMs, and those that are \
                        not on it for gone?";
        let answer = confirm(question)?.ok_or_else(|| {
            Coded::usage("this can give VMs up, and there is no terminal to ask on: add --yes")
        })?;
        if !answer {
            print("Nothing was changed.\n");
            return Ok(ExitCode::from(exit_code::FAILURE));
        }
    }
    let before = DockerBackend::accept_any_engine(data_dir.path())
        .with_context(|| format!("can't write to {}", data_dir.path().display()))?;
    if place.json {
        print_json(&json!({ "given_up": before }))?;
    } else {
        print(&match before {
            Some(id) => format!("The engine {id} is given up; the next that answers is taken.\n"),
            None => "No engine was known to have VMs; the next that answers is taken.\n".to_owned(),
        });
    }
    Ok(ExitCode::SUCCESS)
}
