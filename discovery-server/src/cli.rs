//! The command line.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use golem_vm_node::clock::SystemClock;
use golem_vm_node::data_dir::config_file;
use golem_vm_node::logging::{self, LogOptions};
use golem_vm_node::settings::{Settings, SettingsError, SettingsSource};
use golem_vm_node::{ready, shutdown};

use crate::config::{
    ALLOW_UNSIGNED, CLEANUP_INTERVAL, Config, DATABASE_DIR, DATABASE_NAME, DATABASE_URL, DEBUG,
    EXPIRY, HOST, MAX_PER_ADDRESS, MAX_PROVIDERS, PORT, PORT_CHECKERS, PUBLIC_NAMES,
    READS_PER_MINUTE, SEARCHES_PER_MINUTE, SETTINGS, TRUSTED_PROXIES, UNPROVEN_ENDPOINTS,
    WRITES_PER_MINUTE,
};
use crate::server::Server;

const EXAMPLES: &str = "\
How to start:
  golem-discovery start                        on every address, port 9001
  golem-discovery start --host 127.0.0.1       for this machine only
  golem-discovery start --public-names disco.example:9001
                                               for the world, by the name they reach it under

Every flag of `start` can also be set in the environment (GOLEM_DISCOVERY_PORT=9001), in .env in the
working directory, or in the config file (port = 9001); a flag wins over all of them.

Exit codes: 0 stopped as asked, 1 could not start, 2 a flag or a setting that is not understood.";

/// The registry of VM on Golem: who offers what, for how long.
#[derive(Debug, Parser)]
#[command(name = "golem-discovery", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C.
    #[command(after_help = EXAMPLES)]
    Start(Box<Start>),
}

#[derive(Debug, Args)]
struct Start {
    /// The address to listen on [default: 0.0.0.0].
    #[arg(long)]
    host: Option<String>,
    /// The TCP port to listen on; 0 lets the system choose [default: 9001].
    #[arg(long)]
    port: Option<String>,
    /// The names under which providers and requestors reach this server; signed requests must
    /// name one of them. On loopback its own address is always accepted.
    #[arg(long, value_name = "HOST:PORT,...")]
    public_names: Option<String>,
    /// Serve providers that do not sign (the Python original's); they are listed as unverified.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    allow_unsigned: Option<String>,
    /// Port checkers, by id, whose attestations show that an endpoint is its provider's.
    #[arg(long, value_name = "IDS")]
    port_checkers: Option<String>,
    /// List whatever endpoints providers name: for closed test networks only.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    unproven_endpoints: Option<String>,
    /// Providers listed from one address at a time; 0 is no limit [default: 16].
    #[arg(long, value_name = "N")]
    max_providers_per_address: Option<String>,
    /// Providers listed in all [default: 20000].
    #[arg(long, value_name = "N")]
    max_providers: Option<String>,
    /// Reverse proxies whose Forwarded or X-Forwarded-For header is believed.
    #[arg(long, value_name = "ADDRESS|CIDR,...")]
    trusted_proxies: Option<String>,
    /// Searches of each address, and of each key, in a minute; 0 is no limit [default: 120].
    #[arg(long, value_name = "N")]
    searches_per_minute: Option<String>,
    /// Other look-ups of each address, and of each key, in a minute [default: 600].
    #[arg(long, value_name = "N")]
    reads_per_minute: Option<String>,
    /// Publications and withdrawals of each address, and of each key, in a minute [default: 120].
    #[arg(long, value_name = "N")]
    writes_per_minute: Option<String>,
    /// How long an advertisement is listed after its last refresh [default: 5].
    #[arg(long, value_name = "MINUTES")]
    advertisement_expiry_minutes: Option<String>,
    /// The least time between two clearings of expired advertisements [default: 60].
    #[arg(long, value_name = "SECONDS")]
    cleanup_interval_seconds: Option<String>,
    /// The directory of key, database and lock [default: the platform's data directory +
    /// golem/discovery].
    #[arg(long, alias = "database-dir", value_name = "DIR")]
    data_dir: Option<String>,
    /// The database's file name in that directory [default: state.db].
    #[arg(long, value_name = "NAME")]
    database_name: Option<String>,
    /// The database somewhere else: sqlite:///relative.db or sqlite:////absolute.db.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Log every request.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    debug: Option<String>,
    /// The config file [default: the platform's config directory + golem/discovery.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write where it listens, as one line of JSON, to this open file descriptor.
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
}

impl Start {
    /// The flags that were given, by the settings' names.
    fn flags(&self) -> Vec<(String, String)> {
        [
            (HOST, &self.host),
            (PORT, &self.port),
            (PUBLIC_NAMES, &self.public_names),
            (ALLOW_UNSIGNED, &self.allow_unsigned),
            (PORT_CHECKERS, &self.port_checkers),
            (UNPROVEN_ENDPOINTS, &self.unproven_endpoints),
            (MAX_PER_ADDRESS, &self.max_providers_per_address),
            (MAX_PROVIDERS, &self.max_providers),
            (TRUSTED_PROXIES, &self.trusted_proxies),
            (SEARCHES_PER_MINUTE, &self.searches_per_minute),
            (READS_PER_MINUTE, &self.reads_per_minute),
            (WRITES_PER_MINUTE, &self.writes_per_minute),
            (EXPIRY, &self.advertisement_expiry_minutes),
            (CLEANUP_INTERVAL, &self.cleanup_interval_seconds),
            (DATABASE_DIR, &self.data_dir),
            (DATABASE_NAME, &self.database_name),
            (DATABASE_URL, &self.database_url),
            (DEBUG, &self.debug),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
        .collect()
    }
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Why it could not start, for a person.
    pub fn run(self) -> anyhow::Result<()> {
        let Command::Start(start) = self.command;
        if let Some(file) = start.config.as_deref().filter(|file| !file.exists()) {
            let reason = "there is no such file".to_owned();
            return Err(SettingsError::File { path: file.to_owned(), reason }.into());
        }
        let file = start.config.clone().or_else(|| config_file(SETTINGS.service));
        let source = SettingsSource::from_process(start.flags(), true, file.as_deref())?;
        let settings = Settings::load(&SETTINGS, source)?;
        let config = Config::from_settings(&settings)?;
        let filter = if config.debug { "debug,hyper=info,h2=info" } else { "info" };
        logging::init(&LogOptions { filter: Some(filter.to_owned()), json: None })?;
        for warning in settings.warnings() {
            tracing::warn!("{warning}");
        }
        let runtime = tokio::runtime::Runtime::new().context("can't start the runtime")?;
        runtime.block_on(serve(&config, start.ready_fd))
    }
}

async fn serve(config: &Config, ready_fd: Option<u32>) -> anyhow::Result<()> {
    let stop = shutdown::on_signal().context("can't handle signals")?;
    let server = Server::prepare(config, Arc::new(SystemClock)).await?;
    if let Some(fd) = ready_fd {
        ready::announce(fd, server.ready())?;
    }
    server.run(stop).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_setting_has_a_flag() {
        Cli::command().debug_assert();
        let start = Start {
            host: Some(String::new()),
            port: Some(String::new()),
            public_names: Some(String::new()),
            allow_unsigned: Some(String::new()),
            port_checkers: Some(String::new()),
            unproven_endpoints: Some(String::new()),
            max_providers_per_address: Some(String::new()),
            max_providers: Some(String::new()),
            trusted_proxies: Some(String::new()),
            searches_per_minute: Some(String::new()),
            reads_per_minute: Some(String::new()),
            writes_per_minute: Some(String::new()),
            advertisement_expiry_minutes: Some(String::new()),
            cleanup_interval_seconds: Some(String::new()),
            data_dir: Some(String::new()),
            database_name: Some(String::new()),
            database_url: Some(String::new()),
            debug: Some(String::new()),
            config: None,
            ready_fd: None,
        };
        let flags: Vec<String> = start.flags().into_iter().map(|(name, _)| name).collect();
        for spec in SETTINGS.settings {
            assert!(flags.iter().any(|flag| flag == spec.name()), "{} has no flag", spec.name());
        }
    }

    #[test]
    fn switches_stand_alone_or_with_a_value() {
        let flags = |args: &[&str]| {
            let Command::Start(start) = Cli::try_parse_from(args).unwrap().command;
            start.flags()
        };
        let alone = flags(&["golem-discovery", "start", "--allow-unsigned", "--port", "0"]);
        assert!(alone.contains(&(ALLOW_UNSIGNED.to_owned(), "true".to_owned())));
        assert_eq!(alone.len(), 2);
        let off = flags(&["golem-discovery", "start", "--allow-unsigned=false"]);
        assert_eq!(off, [(ALLOW_UNSIGNED.to_owned(), "false".to_owned())]);
    }
}
