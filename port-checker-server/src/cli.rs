//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use golem_port_checker::config::TABLE;
use golem_port_checker::{Config, server};
use golem_vm_node::client::{Call, SignedClient};
use golem_vm_node::clock::SystemClock;
use golem_vm_node::logging::{self, LogOptions};
use golem_vm_node::settings::{Settings, SettingsError, SettingsSource};
use golem_vm_node::{data_dir, shutdown};
use golem_vm_protocol::{KeyPair, route};

const EXAMPLES: &str = "\
Examples:
  port-checker start
      listens on 0.0.0.0:9000; its key is made on the first start
  port-checker start --public-names checker.example:9000
      the name that providers have in GOLEM_PROVIDER_PORT_CHECKERS
  port-checker start --host 127.0.0.1 --allow-private-addresses
      for a market on one machine
  port-checker health --url http://127.0.0.1:9000
      is it running?";

const START_HELP: &str = "\
Each flag can also be set in the environment, in a file .env in the working directory, or in the
config file; a flag wins over these, in that order.

Examples:
  port-checker start --host 127.0.0.1 --port 9000 --allow-private-addresses
  port-checker start --public-names checker.example:9000,203.0.113.7:9000
  PORT_CHECKER_PORT=9100 port-checker start
  port-checker start --allow-unsigned
      serves providers of the original too; anybody can then use it as a port scanner

Exit codes: 0 stopped as asked, 1 could not serve, 2 a flag or a setting that is not understood.";

#[derive(Debug, Parser)]
#[command(
    name = "port-checker",
    version,
    about = "Tells VM on Golem providers which of their ports the world can reach",
    long_about = "Tells VM on Golem providers which of their ports the world can reach.\n\n\
                  Start it with `port-checker start` on a machine that is outside the providers' networks.",
    after_help = EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the port checker until it is stopped (Ctrl-C or SIGTERM)
    #[command(after_help = START_HELP)]
    Start(Box<StartArgs>),
    /// Ask a running port checker whether it is well
    Health(HealthArgs),
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Address or name of this machine to listen on [env: PORT_CHECKER_HOST] [default: 0.0.0.0]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// TCP port to listen on, 0 for any free one [env: PORT_CHECKER_PORT] [default: 9000]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The host:port names under which providers reach it, separated by commas [env: PORT_CHECKER_PUBLIC_NAMES]
    #[arg(long, value_name = "NAMES")]
    public_names: Option<String>,
    /// Directory for its key [env: PORT_CHECKER_DATA_DIR] [default: the platform's data directory + golem/port-checker]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Serve the original's unsigned check, of any public address, as well [env: PORT_CHECKER_ALLOW_UNSIGNED] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    allow_unsigned: Option<String>,
    /// Reverse proxies whose Forwarded or X-Forwarded-For header is believed [env: PORT_CHECKER_TRUSTED_PROXIES]
    #[arg(long, value_name = "ADDRESS|CIDR,...")]
    trusted_proxies: Option<String>,
    /// Checks of each address, and of each key, in a minute; 0 is no limit [env: PORT_CHECKER_CHECKS_PER_MINUTE] [default: 30]
    #[arg(long, value_name = "N")]
    checks_per_minute: Option<u32>,
    /// Dial loopback and private addresses too: for test networks only [env: PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    allow_private_addresses: Option<String>,
    /// For how long its signed word about a provider's ports is good [env: PORT_CHECKER_ATTESTATION_SECONDS] [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    attestation_seconds: Option<String>,
    /// Log every request and probe [env: PORT_CHECKER_DEBUG] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    debug: Option<String>,
    /// Config file [default: the platform's config directory + golem/port-checker.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write one line of JSON with the bound address to this open file descriptor once it serves
    #[arg(long, value_name = "FD")]
    ready_fd: Option<u32>,
}

impl StartArgs {
    fn flags(&self) -> Vec<(String, String)> {
        let path = self.data_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
        [
            ("PORT_CHECKER_HOST", self.host.clone()),
            ("PORT_CHECKER_PORT", self.port.map(|port| port.to_string())),
            ("PORT_CHECKER_PUBLIC_NAMES", self.public_names.clone()),
            ("PORT_CHECKER_DATA_DIR", path),
            ("PORT_CHECKER_ALLOW_UNSIGNED", self.allow_unsigned.clone()),
            ("PORT_CHECKER_TRUSTED_PROXIES", self.trusted_proxies.clone()),
            ("PORT_CHECKER_CHECKS_PER_MINUTE", self.checks_per_minute.map(|n| n.to_string())),
            ("PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES", self.allow_private_addresses.clone()),
            ("PORT_CHECKER_ATTESTATION_SECONDS", self.attestation_seconds.clone()),
            ("PORT_CHECKER_DEBUG", self.debug.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// Where it listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    url: String,
}

/// Parses the command line, does what it says, and returns the exit code.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Start(args) => start(args),
        Command::Health(args) => health(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // A setting that is not understood is wrong usage, wherever it was set.
            if error.is::<SettingsError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start")
}

fn start(args: &StartArgs) -> anyhow::Result<()> {
    let config_file = args.config.clone().or_else(|| data_dir::config_file(TABLE.service));
    if let Some(path) = args.config.as_ref().filter(|path| !path.exists()) {
        let reason = "there is no such file".to_owned();
        return Err(SettingsError::File { path: path.clone(), reason }.into());
    }
    let source = SettingsSource::from_process(args.flags(), true, config_file.as_deref())?;
    let settings = Settings::load(&TABLE, source)?;
    let config = Config::from_settings(&settings)?;
    let filter =
        if config.debug { "debug,hyper=info,hyper_util=info,reqwest=info" } else { "info" };
    logging::init(&LogOptions { filter: Some(filter.to_owned()), json: None })?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    runtime()?.block_on(async {
        let stop = shutdown::on_signal().context("can't listen for signals")?;
        server::start(&config, args.ready_fd, stop).await
    })
}

fn health(args: &HealthArgs) -> anyhow::Result<()> {
    let reply = runtime()?.block_on(async {
        // Signs nothing: health is public.
        let client = SignedClient::new(KeyPair::generate()?, Arc::new(SystemClock))?;
        let call = Call::get(route::HEALTH).timeout(Duration::from_secs(5));
        client
            .call_unsigned(&args.url, &call)
            .await?
            .json::<serde_json::Value>()
            .map_err(anyhow::Error::from)
    })?;
    println!("{} is up: {reply}", args.url.trim_end_matches('/'));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_names_every_setting() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        let help = command.find_subcommand_mut("start").unwrap().render_long_help().to_string();
        let readme = include_str!("../README.md");
        for spec in TABLE.settings {
            assert!(help.contains(spec.name()), "{} is not in the help", spec.name());
            assert!(readme.contains(spec.name()), "{} is not in the README", spec.name());
        }
    }

    #[test]
    fn only_the_flags_that_are_given_become_settings() {
        let cli = Cli::try_parse_from(["port-checker", "start", "--port", "1", "--allow-unsigned"])
            .unwrap();
        let Command::Start(args) = cli.command else { panic!("not start") };
        let pairs: Vec<_> = args.flags();
        let expected = [("PORT_CHECKER_PORT", "1"), ("PORT_CHECKER_ALLOW_UNSIGNED", "true")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
