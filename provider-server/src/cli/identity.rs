//! `golem-provider id` and `version`.

use std::process::ExitCode;

use golem_vm_node::key_file;
use serde_json::json;

use super::place::{self, PlaceArgs};
use super::terminal::{print, print_json};

pub(super) const EXAMPLES: &str = "\
The id is what requestors name with 'golem vm create --provider-id ID'.

Examples:
  golem-provider id
  golem-provider id --json";

pub(super) fn id(place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let data_dir = place::open_data_dir(Some(&place.data_path()?))?;
    let path = data_dir.key_path();
    let key = key_file::load_or_create(&path)?;
    if place.json {
        print_json(&json!({"provider_id": key.id(), "key": path}))?;
    } else {
        print(&format!("{}\n", key.id()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn version(place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    if place.json {
        print_json(&json!({"program": "golem-provider", "version": version}))?;
    } else {
        print(&format!("golem-provider {version}\n"));
    }
    Ok(ExitCode::SUCCESS)
}
