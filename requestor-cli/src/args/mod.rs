//! The command line.

mod life;
mod terms;
mod vm;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

pub use life::{
    CloneArgs, ConsoleArgs, ResizeArgs, SnapshotArgs, SnapshotCommand, SnapshotCreateArgs,
    SnapshotRestoreArgs,
};
pub use terms::TermsArgs;
pub use vm::{
    CreateArgs, DestroyArgs, EventsArgs, ExtendArgs, KeysChangeArgs, KeysCommand, KeysRemoveArgs,
    NameArgs, ProvidersArgs, PurgeArgs, SshArgs, SshConfigArgs, StatsArgs, UndeleteArgs, VmCommand,
};

use crate::error::EXIT_CODES;
use crate::ui::ColorChoice;

const START: &str = "\
Start here:
  golem config set discovery-url http://HOST:9001   once: whom to ask for providers
  golem vm providers                                who offers what, and for how much
  golem vm create my-webserver --cpu 2 --memory 4 --storage 20
  golem vm ssh my-webserver
  golem vm destroy my-webserver
";

fn after_help() -> String {
    format!("{START}\n{EXIT_CODES}")
}

/// Rent virtual machines from strangers, and use them over plain SSH.
#[derive(Debug, Parser)]
#[command(
    name = "golem",
    version,
    about,
    after_help = after_help(),
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Args {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no remarks, only results, warnings and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more about what happens
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// When to use colour: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub color: ColorChoice,
    /// The discovery server to ask [setting: GOLEM_REQUESTOR_DISCOVERY_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub discovery_url: Option<String>,
    /// Where your key and the list of your VMs are kept [setting: GOLEM_REQUESTOR_BASE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub base_dir: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find providers; rent, use and give back VMs
    #[command(subcommand, visible_alias = "vms", arg_required_else_help = true)]
    Vm(Box<VmCommand>),
    /// Read and change the settings in the config file
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),
    /// Print your id: the public half of the key by which providers know you
    #[command(
        after_help = "Example:\n  golem id        give this to a provider that serves only requestors it trusts"
    )]
    Id,
    /// Print the version
    #[command(after_help = "Example:\n  golem version --json")]
    Version,
}

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the value of a setting, wherever it comes from
    #[command(after_help = "Example:\n  golem config get discovery-url")]
    Get {
        /// The setting, such as discovery-url
        key: String,
    },
    /// Write a setting into the config file
    #[command(after_help = "Example:\n  golem config set discovery-url http://127.0.0.1:9001")]
    Set {
        /// The setting, such as discovery-url
        key: String,
        /// Its value
        value: String,
    },
    /// Take a setting out of the config file
    #[command(after_help = "Example:\n  golem config unset discovery-url")]
    Unset {
        /// The setting, such as discovery-url
        key: String,
    },
    /// Print all settings, and where their values come from
    #[command(after_help = "Example:\n  golem config list")]
    List,
    /// Print where the config file is
    #[command(after_help = "Example:\n  golem config path")]
    Path,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_sound_and_every_command_has_an_example() {
        let command = Args::command();
        command.clone().debug_assert();
        fn walk(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path}");
                if sub.has_subcommands() {
                    walk(sub, &path);
                } else {
                    let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(
                        help.contains(&format!("{path} "))
                            || help.contains(&format!("{path}\n"))
                            || help.ends_with(&path),
                        "no example for {path}"
                    );
                }
            }
        }
        walk(&command, "golem");
    }

    #[test]
    fn a_remote_command_keeps_its_own_flags() {
        let parse = |line: &[&str]| {
            let Command::Vm(command) = Args::parse_from(line).command else { panic!("not vm") };
            let VmCommand::Ssh(ssh) = *command else { panic!("not ssh") };
            ssh
        };
        let ssh = parse(&["golem", "vm", "ssh", "box", "--", "ls", "--json", "-l"]);
        assert_eq!(ssh.command, ["ls", "--json", "-l"]);
        let ssh = parse(&["golem", "vm", "connect", "box", "--builtin", "ls", "-la"]);
        assert!(ssh.builtin);
        assert_eq!(ssh.command, ["ls", "-la"]);
        assert_eq!(parse(&["golem", "vm", "ssh", "-l", "root", "box"]).user.unwrap(), "root");
    }
}
