//! The commands about what a VM can do beside starting and stopping.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::terms::TermsArgs;
use super::vm::NameArgs;

/// What to do about the snapshots of a VM.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep what a VM's disk is now, and where it can be its memory
    #[command(after_help = "\
Of a VM that runs it has the memory too, where its provider can do that: going back to it, the VM
runs on as it ran then. Without SNAPSHOT it is called after the time.

Examples:
  golem vm snapshot create my-webserver
  golem vm snapshot create my-webserver before-upgrade --json")]
    Create(SnapshotCreateArgs),
    /// List a VM's snapshots
    #[command(visible_alias = "ls", after_help = "Example:\n  golem vm snapshot list my-webserver")]
    List(NameArgs),
    /// Take a VM back to a snapshot: what it has written since is lost
    #[command(after_help = "\
What runs in it is ended as by a power cut. Its address, host key, name and lease stay, and so do
the SSH keys that may log in, and the snapshot. At a terminal it asks first.

Example:
  golem vm snapshot restore my-webserver before-upgrade --yes")]
    Restore(SnapshotRestoreArgs),
    /// Delete a snapshot
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  golem vm snapshot delete my-webserver before-upgrade"
    )]
    Delete(SnapshotArgs),
}

/// `golem vm snapshot create`
#[derive(Debug, Clone, ClapArgs)]
pub struct SnapshotCreateArgs {
    /// The VM's name or id
    pub name: String,
    /// What to call it: a-z, 0-9 and '-', at most 32 characters
    pub snapshot: Option<String>,
}

/// A command about one snapshot.
#[derive(Debug, Clone, ClapArgs)]
pub struct SnapshotArgs {
    /// The VM's name or id
    pub name: String,
    /// The snapshot's name
    pub snapshot: String,
}

/// `golem vm snapshot restore`
#[derive(Debug, Clone, ClapArgs)]
pub struct SnapshotRestoreArgs {
    /// The VM's name or id
    pub name: String,
    /// The snapshot's name
    pub snapshot: String,
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `golem vm clone`
#[derive(Debug, Clone, ClapArgs)]
pub struct CloneArgs {
    /// The name or id of the VM that is cloned
    pub name: String,
    /// What to call the new one: a-z, 0-9 and '-', 3 to 64 characters
    pub new: String,
    /// The SSH key to log in with, either half, in place of those of the VM that is cloned; more may be
    /// given, the first is used from here
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Vec<PathBuf>,
    /// For how long
    #[command(flatten)]
    pub terms: TermsArgs,
}

/// `golem vm resize`
#[derive(Debug, Clone, ClapArgs)]
#[command(group(clap::ArgGroup::new("size").required(true).multiple(true).args(["cpu", "memory", "storage"])))]
pub struct ResizeArgs {
    /// The VM's name or id
    pub name: String,
    /// vCPUs: 1, 2, 4, 8 or 16
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// Memory in GB: 1, 2, 4, 8, 16, 32 or 64
    #[arg(long, value_name = "GB")]
    pub memory: Option<u32>,
    /// Disk in GB; never less than it has
    #[arg(long, value_name = "GB")]
    pub storage: Option<u32>,
}

/// `golem vm console`
#[derive(Debug, Clone, ClapArgs)]
pub struct ConsoleArgs {
    /// The VM's name or id
    pub name: String,
    /// What it has written so far, and nothing else: that is the default
    #[arg(long, conflicts_with_all = ["follow", "interactive"])]
    pub log: bool,
    /// Go on with what it writes from now on, until it ends or you interrupt it
    #[arg(long, short, conflicts_with = "interactive")]
    pub follow: bool,
    /// Speak with it: every key is the VM's; Ctrl-] leaves
    #[arg(long, short, conflicts_with = "json")]
    pub interactive: bool,
}
