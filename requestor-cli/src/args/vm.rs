//! The commands under `golem vm`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use golem_vm_protocol::vm::Isolation;

use super::life::{CloneArgs, ConsoleArgs, ResizeArgs, SnapshotCommand};
use super::terms::{TermsArgs, lease_span};
use crate::image::ImageWish;

/// What to do about VMs.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// List who offers what
    #[command(after_help = "\
Examples:
  golem vm providers
  golem vm providers --cpu 2 --memory 4 --storage 20 --max-usd-per-month 20
  golem vm providers --isolation vm --country SE --json")]
    Providers(ProvidersArgs),
    /// Rent a VM
    #[command(after_help = "\
Without --provider-id the best match is taken: ports verified, guests contained, cheapest for the
size, not emulated, heard of last. If that one fails the next one is tried, at most five. Where an
isolation or an image is asked for, nobody else than who offers it is.
The same command again after an interruption goes on with the same VM.
A VM is rented until its lease ends: after --for SPAN (90m, 2h, 7d), else after what its provider
gives by default. Then it is stopped and kept for a while (golem vm undelete brings it back), or
with --on-expiry destroy erased at once. golem vm extend makes a lease longer.

Examples:
  golem vm create box
  golem vm create box --for 2h --on-expiry destroy
  golem vm create box --for 7d --stop-when-idle 30m
  golem vm create my-webserver --cpu 2 --memory 4 --storage 20
  golem vm create box --isolation vm --image debian-12
  golem vm create box --isolation vm --cloud-init user-data.yaml
  golem vm create box --provider-id provider-1 --image ubuntu-24.04 --ssh-key ~/.ssh/work.pub")]
    Create(CreateArgs),
    /// List your VMs, as their providers see them now
    #[command(visible_alias = "ls", after_help = "Example:\n  golem vm list --json")]
    List,
    /// Show one VM
    #[command(after_help = "Example:\n  golem vm info my-webserver")]
    Info(NameArgs),
    /// Log in to a VM, or run a command in it
    #[command(
        visible_alias = "connect",
        after_help = "\
The exit code is the remote command's; 255 when a signal ended it, or the connection failed. No
agent, port or display of yours is forwarded unless you ask for it. With --json nothing is opened: it prints where and how to
connect. For scp, rsync and editors see `golem vm ssh-config`.

Examples:
  golem vm ssh my-webserver
  golem vm ssh my-webserver -- sudo apt-get update
  tar c . | golem vm ssh my-webserver -- tar x"
    )]
    Ssh(SshArgs),
    /// Print blocks for ~/.ssh/config, for scp, rsync, sftp and editors
    #[command(after_help = "\
Examples:
  golem vm ssh-config > ~/.ssh/golem.conf      then `Include golem.conf` in ~/.ssh/config
  golem vm ssh-config my-webserver > c; scp -F c file my-webserver:; rsync -e 'ssh -F c' -a . my-webserver:")]
    SshConfig(SshConfigArgs),
    /// Show and change which SSH keys may log in to a VM
    #[command(subcommand, arg_required_else_help = true)]
    Keys(KeysCommand),
    /// Start a stopped VM
    #[command(after_help = "Example:\n  golem vm start my-webserver")]
    Start(NameArgs),
    /// Stop a VM; its disk is kept
    #[command(after_help = "Example:\n  golem vm stop my-webserver")]
    Stop(NameArgs),
    /// Stop a VM and start it again
    #[command(after_help = "Example:\n  golem vm restart my-webserver")]
    Restart(NameArgs),
    /// Keep a VM's memory on its disk, and end it; golem vm resume lets it go on where it was
    #[command(after_help = "\
It holds what it is rented for, as a stopped one does. golem vm start lets it go on as well.

Example:
  golem vm suspend my-webserver")]
    Suspend(NameArgs),
    /// Let a suspended VM go on where it was
    #[command(after_help = "Example:\n  golem vm resume my-webserver")]
    Resume(NameArgs),
    /// Make, list, delete and go back to snapshots of a VM
    #[command(subcommand, visible_alias = "snapshots", arg_required_else_help = true)]
    Snapshot(SnapshotCommand),
    /// Rent a VM whose disk begins as another one's is now
    #[command(after_help = "\
It is on the same provider, of the same size, at today's price, with an address, host key and lease
of its own, and the SSH keys of the VM that is cloned unless others are given. Snapshots and memory
are not cloned. The same command again after an interruption goes on with the same VM.

Examples:
  golem vm clone my-webserver second
  golem vm clone my-webserver second --for 2h --on-expiry destroy")]
    Clone(CloneArgs),
    /// Give a VM more, or less, of what it has
    #[command(after_help = "\
It says what it will cost, and does it. The disk has its new size at once where the VM's provider
can do that while it runs, and never becomes smaller; CPU and memory are those of its next start.

Examples:
  golem vm resize my-webserver --storage 40
  golem vm resize my-webserver --cpu 4 --memory 8; golem vm restart my-webserver")]
    Resize(ResizeArgs),
    /// Show what a VM wrote to its console, or speak with it there
    #[command(after_help = "\
The console is what a screen and keyboard would be: what the kernel says when it starts, and a login
prompt. Without a flag it shows what was written so far. Its colours and cursor movements are left
out; with --json `data` has the bytes as they were, in base64. Interactive, they go to your terminal
as they are. Whoever opens it last has it.

Examples:
  golem vm console my-webserver
  golem vm console my-webserver --follow
  golem vm console my-webserver --interactive      Ctrl-] leaves")]
    Console(ConsoleArgs),
    /// Make a VM's lease end later
    #[command(after_help = "\
The span is added to when the lease ends now; spans are such as 90m, 3h, 1h30m, 7d or 2w.

Examples:
  golem vm extend my-webserver --for 3h
  golem vm extend my-webserver --for 7d --json")]
    Extend(ExtendArgs),
    /// Have a VM back whose lease has ended, or that was given back with --keep
    #[command(after_help = "\
It is stopped then; golem vm start starts it. Its lease is a new one: as long as --for says, else
what its provider gives by default.

Examples:
  golem vm undelete my-webserver
  golem vm undelete my-webserver --for 2h")]
    Undelete(UndeleteArgs),
    /// Show what a VM uses
    #[command(after_help = "Example:\n  golem vm stats my-webserver --watch")]
    Stats(StatsArgs),
    /// Show what happened to a VM, and who or what did it
    #[command(after_help = "\
Also of a VM that is gone: by its name, or by its id where another one has the name by now. Golem
remembers for 90 days who had it; the provider keeps a history for as long as it likes. Times are
UTC. With --json it is {\"events\": [...]}, with --follow too one event per line.

Examples:
  golem vm events my-webserver
  golem vm events my-webserver --follow
  golem vm events my-webserver --limit 20 --json")]
    Events(EventsArgs),
    /// Give VMs back: everything in them is gone at once
    #[command(
        visible_alias = "delete",
        after_help = "\
With --keep a VM is stopped, and its disk kept for its provider's grace period: until then golem vm
undelete brings it back.

Examples:
  golem vm destroy my-webserver
  golem vm destroy one two --yes
  golem vm destroy my-webserver --keep"
    )]
    Destroy(DestroyArgs),
    /// Give all your VMs back
    #[command(after_help = "Example:\n  golem vm purge --yes")]
    Purge(PurgeArgs),
}

/// `golem vm providers`
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ProvidersArgs {
    /// At least so many vCPUs free
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// At least so much memory free, in GB
    #[arg(long, value_name = "GB")]
    pub memory: Option<u32>,
    /// At least so much disk free, in GB
    #[arg(long, value_name = "GB")]
    pub storage: Option<u32>,
    /// Only in this country (two letters)
    #[arg(long, value_name = "CC", value_parser = country)]
    pub country: Option<String>,
    /// Only of this architecture (x86_64, aarch64)
    #[arg(long, value_name = "ARCH")]
    pub platform: Option<String>,
    /// Only with this isolation: container (shares the host's kernel) or vm (has its own)
    #[arg(long, value_name = "KIND")]
    pub isolation: Option<Isolation>,
    /// Only with this image, such as debian-12, or debian-12@sha256:... for exactly that one
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<ImageWish>,
    /// Only up to this price, for the size asked for (1 vCPU, 1 GB, 10 GB where none is)
    #[arg(long, value_name = "USD", value_parser = price)]
    pub max_usd_per_month: Option<f64>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: Option<u32>,
    /// All that discovery knows, not only its first page
    #[arg(long, conflicts_with = "limit")]
    pub all_pages: bool,
    /// Also those that sign nothing; nobody vouches for what they say, and they can't be rented
    #[arg(long)]
    pub unverified: bool,
}

/// `golem vm create`
#[derive(Debug, Clone, ClapArgs)]
pub struct CreateArgs {
    /// What to call it: a-z, 0-9 and '-', 3 to 64 characters
    pub name: String,
    /// From this provider: its id, the first 8 or more characters of it, or its name
    #[arg(long, visible_alias = "provider", value_name = "PROVIDER")]
    pub provider_id: Option<String>,
    /// vCPUs: 1, 2, 4, 8 or 16
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpu: u32,
    /// Memory in GB: 1, 2, 4, 8, 16, 32 or 64
    #[arg(long, value_name = "GB", default_value_t = 1)]
    pub memory: u32,
    /// Disk in GB: 10 or more
    #[arg(long, value_name = "GB", default_value_t = 10)]
    pub storage: u32,
    /// What it boots from, such as debian-12, or debian-12@sha256:... for exactly that one; without it, the
    /// provider's default
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<ImageWish>,
    /// The SSH key to log in with, either half; more may be given, the first is used from here
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Vec<PathBuf>,
    /// With this isolation: container (shares the host's kernel) or vm (has its own)
    #[arg(long, value_name = "KIND")]
    pub isolation: Option<Isolation>,
    /// In this country (two letters)
    #[arg(long, value_name = "CC", value_parser = country)]
    pub country: Option<String>,
    /// Of this architecture (x86_64, aarch64)
    #[arg(long, value_name = "ARCH")]
    pub platform: Option<String>,
    /// For at most this price
    #[arg(long, value_name = "USD", value_parser = price)]
    pub max_usd_per_month: Option<f64>,
    /// For how long
    #[command(flatten)]
    pub terms: TermsArgs,
    /// Your own cloud-init for the first boot of a virtual machine: a file, or - for standard input; at most
    /// 32 KiB. It can't take away your login. With it a VM is booted and not resumed, which takes longer
    #[arg(long, value_name = "FILE")]
    pub cloud_init: Option<PathBuf>,
    /// Log in with the built-in SSH client even where OpenSSH is needed for the key
    #[arg(long)]
    pub builtin: bool,
}

/// A command about one VM.
#[derive(Debug, Clone, ClapArgs)]
pub struct NameArgs {
    /// The VM's name or id
    pub name: String,
}

/// What to do about the keys of a VM.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// List the keys that may log in
    #[command(
        visible_alias = "ls",
        after_help = "\
What you wrote into ~/.ssh/authorized_keys inside the VM is yours, and not listed here.

Example:
  golem vm keys list my-webserver"
    )]
    List(NameArgs),
    /// Let more keys log in
    #[command(after_help = "\
At once if the VM runs, otherwise when it starts next. They may log in as ubuntu and as root.

Examples:
  golem vm keys add my-webserver ~/.ssh/laptop.pub
  golem vm keys add my-webserver ann.pub bob.pub --json")]
    Add(KeysChangeArgs),
    /// Let keys not log in any more
    #[command(
        visible_alias = "rm",
        after_help = "\
At once if the VM runs, otherwise when it starts next. Sessions that are open stay; `golem vm
restart` ends them. The last key is removed only with --force. Exit code 3: the VM has no such key.

Examples:
  golem vm keys remove my-webserver ~/.ssh/old.pub
  golem vm keys remove my-webserver SHA256:bTNRkhE+PeBkUGM1JU9QUwCt2U1IbS0Bqe1bbtJPoFc"
    )]
    Remove(KeysRemoveArgs),
}

/// `golem vm keys add`
#[derive(Debug, Clone, ClapArgs)]
pub struct KeysChangeArgs {
    /// The VM's name or id
    pub name: String,
    /// Key files, either half
    #[arg(required = true, value_name = "KEYFILE")]
    pub keys: Vec<PathBuf>,
}

/// `golem vm keys remove`
#[derive(Debug, Clone, ClapArgs)]
pub struct KeysRemoveArgs {
    /// The VM's name or id
    pub name: String,
    /// Key files, either half, or fingerprints (SHA256:...)
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<OsString>,
    /// Also if no key is left then
    #[arg(long)]
    pub force: bool,
}

/// `golem vm ssh`
#[derive(Debug, Clone, ClapArgs)]
pub struct SshArgs {
    /// Use the built-in client rather than the system's OpenSSH
    #[arg(long)]
    pub builtin: bool,
    /// Let the VM use your SSH agent while you are logged in: whoever has root there, its provider
    /// too, can then log in as you elsewhere
    #[arg(short = 'A', long)]
    pub forward_agent: bool,
    /// Log in as this user
    #[arg(short = 'l', long = "login", value_name = "USER")]
    pub user: Option<String>,
    /// A terminal on the other side also for a command
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The VM's name or id
    pub name: String,
    /// A command to run in place of a shell
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `golem vm ssh-config`
#[derive(Debug, Clone, ClapArgs)]
pub struct SshConfigArgs {
    /// Only this VM
    pub name: Option<String>,
}

/// `golem vm stats`
#[derive(Debug, Clone, ClapArgs)]
pub struct StatsArgs {
    /// The VM's name or id
    pub name: String,
    /// Again every 2 seconds, until interrupted
    #[arg(long, short)]
    pub watch: bool,
}

/// `golem vm extend`
#[derive(Debug, Clone, ClapArgs)]
pub struct ExtendArgs {
    /// The VM's name or id
    pub name: String,
    /// So much longer than now: 90m, 3h, 7d
    #[arg(long = "for", value_name = "SPAN", value_parser = lease_span)]
    pub lease: u64,
}

/// `golem vm undelete`
#[derive(Debug, Clone, ClapArgs)]
pub struct UndeleteArgs {
    /// The VM's name or id
    pub name: String,
    /// For so long from now: 90m, 2h, 7d; without it, the provider's default
    #[arg(long = "for", value_name = "SPAN", value_parser = lease_span)]
    pub lease: Option<u64>,
}

/// `golem vm events`
#[derive(Debug, Clone, ClapArgs)]
pub struct EventsArgs {
    /// The VM's name or id
    pub name: String,
    /// Go on with what happens from now on, until it is gone or you interrupt it
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last N
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// `golem vm destroy`
#[derive(Debug, Clone, ClapArgs)]
pub struct DestroyArgs {
    /// The VMs' names or ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
    /// Stop it and keep its disk for a while: golem vm undelete brings it back
    #[arg(long, conflicts_with = "forget")]
    pub keep: bool,
    /// If the provider does not answer, forget the VM here; it is destroyed if the provider ever
    /// answers again
    #[arg(long)]
    pub forget: bool,
}

/// `golem vm purge`
#[derive(Debug, Clone, ClapArgs)]
pub struct PurgeArgs {
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
    /// Forget here those whose provider does not answer
    #[arg(long, visible_alias = "force")]
    pub forget: bool,
}

fn country(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    if golem_vm_protocol::advertisement::is_country(&upper) {
        Ok(upper)
    } else {
        Err("a country is two letters, such as SE".to_owned())
    }
}

fn price(text: &str) -> Result<f64, String> {
    match text.trim_start_matches('$').parse::<f64>() {
        Ok(price) if price.is_finite() && price >= 0.0 => Ok(price),
        _ => Err("a price is a number of USD, such as 12.50".to_owned()),
    }
}
