//! `golem-provider start`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use golem_vm_node::logging::{self, LogOptions};

use super::exit_code::Coded;
use super::place::{self, PlaceArgs};
use super::{background, exit_code};
use crate::app::{self, StartOptions};
use crate::config::Config;

const HELP: &str = "\
Each flag can also be set in the environment, in a file .env in the working directory, or in the
config file; a flag wins over these, in that order. 'golem-provider config' shows what holds.

Examples:
  golem-provider start --discovery-url http://discovery.example:9001 \\
                       --port-checkers http://checker.example:9000
  golem-provider start --trusted-requestors ID,ID
      where guests can't be contained, only these may rent
  golem-provider start --host 127.0.0.1 --no-verify-ports --allow-uncontained \\
                       --discovery-url http://127.0.0.1:9001
      a market on one machine
  golem-provider start --data-dir ~/second --port 7467 --port-range 50900-50999
      a second provider beside the first
  golem-provider start --background
      returns when it is ready; its log is provider.log in the data directory

Exit codes: 0 stopped as asked, 1 could not run, 2 a flag or setting that is not understood,
4 no Docker Engine, 5 it runs already.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct StartArgs {
    /// Address to listen on, for the API and for the VMs' SSH ports [env: GOLEM_PROVIDER_HOST] [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    host: Option<String>,
    /// Port of the API, 0 for any free one [env: GOLEM_PROVIDER_PORT] [default: 7466]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Label shown to requestors [env: GOLEM_PROVIDER_NAME] [default: this host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Country that is advertised, two capital letters [env: GOLEM_PROVIDER_COUNTRY] [default: ZZ, unknown]
    #[arg(long, value_name = "CC")]
    country: Option<String>,
    /// Address that is advertised [env: GOLEM_PROVIDER_PUBLIC_IP] [default: the one that port checkers or discovery see]
    #[arg(long, value_name = "HOST")]
    public_ip: Option<String>,
    /// Discovery servers to advertise on, separated by commas [env: GOLEM_PROVIDER_DISCOVERY_URL]
    #[arg(long, value_name = "URLS")]
    discovery_url: Option<String>,
    /// Seconds between advertisements [env: GOLEM_PROVIDER_DISCOVERY_ADVERTISEMENT_INTERVAL] [default: 240]
    #[arg(long, value_name = "SECONDS")]
    advertisement_interval: Option<String>,
    /// Ports for the VMs' SSH, the first and the last [env: GOLEM_PROVIDER_PORT_RANGE_START and GOLEM_PROVIDER_PORT_RANGE_END, whose end is the port behind the last] [default: 50800-50899]
    #[arg(long, value_name = "FIRST-LAST")]
    port_range: Option<String>,
    /// Port checkers that verify the ports from outside, separated by commas [env: GOLEM_PROVIDER_PORT_CHECKERS]
    #[arg(long, value_name = "URLS")]
    port_checkers: Option<String>,
    /// How many different port checkers a port has to be proven to [env: GOLEM_PROVIDER_PORT_CHECK_QUORUM] [default: 1]
    #[arg(long, value_name = "N")]
    port_check_quorum: Option<String>,
    /// Do not have the ports verified; the provider is then advertised as unverified [env: GOLEM_PROVIDER_SKIP_PORT_VERIFICATION]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        visible_alias = "skip-port-verification", alias = "no-verify-port")]
    no_verify_ports: Option<String>,
    /// What makes the VMs: auto, or a list of docker, qemu, multipass [env: GOLEM_PROVIDER_BACKEND] [default: auto]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Most VMs at a time [env: GOLEM_PROVIDER_MAX_VMS] [default: 10]
    #[arg(long, value_name = "N")]
    max_vms: Option<String>,
    /// Most VMs at a time of one requestor, 0 for no limit [env: GOLEM_PROVIDER_MAX_VMS_PER_REQUESTOR] [default: 0]
    #[arg(long, value_name = "N")]
    max_vms_per_requestor: Option<String>,
    /// VMs that each address, and each key, may ask for in a minute; 0 for no limit [env: GOLEM_PROVIDER_CREATES_PER_MINUTE] [default: 30]
    #[arg(long, value_name = "N")]
    creates_per_minute: Option<String>,
    /// Other changes of each address, and of each key, in a minute [env: GOLEM_PROVIDER_WRITES_PER_MINUTE] [default: 120]
    #[arg(long, value_name = "N")]
    writes_per_minute: Option<String>,
    /// Look-ups of each address, and of each key, in a minute [env: GOLEM_PROVIDER_READS_PER_MINUTE] [default: 600]
    #[arg(long, value_name = "N")]
    reads_per_minute: Option<String>,
    /// Reverse proxies whose Forwarded or X-Forwarded-For header is believed [env: GOLEM_PROVIDER_TRUSTED_PROXIES]
    #[arg(long, value_name = "ADDRESS|CIDR,...")]
    trusted_proxies: Option<String>,
    /// With fewer vCPUs free, nothing is advertised [env: GOLEM_PROVIDER_MIN_CPU_CORES] [default: 1]
    #[arg(long, value_name = "N")]
    min_cpu_cores: Option<String>,
    /// With less memory free, nothing is advertised [env: GOLEM_PROVIDER_MIN_MEMORY_GB] [default: 1]
    #[arg(long, value_name = "GB")]
    min_memory_gb: Option<String>,
    /// With less disk free, nothing is advertised [env: GOLEM_PROVIDER_MIN_STORAGE_GB] [default: 10]
    #[arg(long, value_name = "GB")]
    min_storage_gb: Option<String>,
    /// vCPUs that are rented out in all [env: GOLEM_PROVIDER_OFFER_CPU] [default: this host's × the overcommit factor]
    #[arg(long, value_name = "N")]
    offer_cpu: Option<String>,
    /// Memory that is rented out in all [env: GOLEM_PROVIDER_OFFER_MEMORY_GB] [default: this host's less 1 GB]
    #[arg(long, value_name = "GB", visible_alias = "offer-memory-gb")]
    offer_memory: Option<String>,
    /// Disk that is rented out in all [env: GOLEM_PROVIDER_OFFER_STORAGE_GB] [default: what is free, less 10 GB]
    #[arg(long, value_name = "GB", visible_alias = "offer-storage-gb")]
    offer_storage: Option<String>,
    /// How many times this host's vCPUs may be promised; advertised [env: GOLEM_PROVIDER_OVERCOMMIT_CPU] [default: 1]
    #[arg(long, value_name = "FACTOR")]
    overcommit_cpu: Option<String>,
    /// How many times this host's free disk may be promised; advertised [env: GOLEM_PROVIDER_OVERCOMMIT_STORAGE] [default: 1]
    #[arg(long, value_name = "FACTOR")]
    overcommit_storage: Option<String>,
    /// GB of disk that the host keeps free by stopping VMs [env: GOLEM_PROVIDER_DISK_RESERVE_GB] [default: 2]
    #[arg(long, value_name = "GB")]
    disk_reserve: Option<String>,
    /// GB of disk for booted machines that new ones are resumed from [env: GOLEM_PROVIDER_TEMPLATES_GB] [default: 8]
    #[arg(long, value_name = "GB")]
    templates: Option<String>,
    /// Price of one vCPU for a month [env: GOLEM_PROVIDER_PRICE_USD_PER_CORE_MONTH] [default: 5]
    #[arg(long, value_name = "USD")]
    price_usd_per_core_month: Option<String>,
    /// Price of one GB of memory for a month [env: GOLEM_PROVIDER_PRICE_USD_PER_GB_RAM_MONTH] [default: 2]
    #[arg(long, value_name = "USD")]
    price_usd_per_gb_ram_month: Option<String>,
    /// Price of one GB of disk for a month [env: GOLEM_PROVIDER_PRICE_USD_PER_GB_STORAGE_MONTH] [default: 0.1]
    #[arg(long, value_name = "USD")]
    price_usd_per_gb_storage_month: Option<String>,
    /// Images that can be rented, separated by commas [env: GOLEM_PROVIDER_IMAGES] [default: all that were built here]
    #[arg(long, value_name = "NAMES")]
    images: Option<String>,
    /// What a VM boots from when the requestor names nothing [env: GOLEM_PROVIDER_DEFAULT_IMAGE] [default: debian-12]
    #[arg(long, value_name = "NAME")]
    default_image: Option<String>,
    /// Requestors who are served even where guests can't be contained, by id, separated by commas [env: GOLEM_PROVIDER_TRUSTED_REQUESTORS]
    #[arg(long, value_name = "IDS")]
    trusted_requestors: Option<String>,
    /// Rent to strangers although guests can reach this host and its network; advertised [env: GOLEM_PROVIDER_ALLOW_UNCONTAINED]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    allow_uncontained: Option<String>,
    /// Where new VMs' traffic may go: internet or none; advertised [env: GOLEM_PROVIDER_EGRESS] [default: internet]
    #[arg(long, value_name = "WHERE")]
    egress: Option<String>,
    /// Who answers the guests' questions for names, separated by commas [env: GOLEM_PROVIDER_RESOLVERS] [default: this host's resolvers]
    #[arg(long, value_name = "IPS")]
    resolvers: Option<String>,
    /// What guests reach although it is in a blocked range: 10.0.0.0/24 or 10.0.0.5:443, separated by commas [env: GOLEM_PROVIDER_ALLOW_DESTINATIONS]
    #[arg(long, value_name = "NETWORKS")]
    allow_destinations: Option<String>,
    /// Megabits per second that one VM may send, and receive [env: GOLEM_PROVIDER_VM_BANDWIDTH_MBIT] [default: 100]
    #[arg(long, value_name = "N")]
    vm_bandwidth_mbit: Option<String>,
    /// Connections that one VM may open per second [env: GOLEM_PROVIDER_VM_NEW_CONNECTIONS] [default: 100]
    #[arg(long, value_name = "N")]
    vm_new_connections: Option<String>,
    /// Connections that one VM may have at a time [env: GOLEM_PROVIDER_VM_CONNECTIONS] [default: 4096]
    #[arg(long, value_name = "N")]
    vm_connections: Option<String>,
    /// Serve unsigned requestors (the Python original); all of them are one owner [env: GOLEM_PROVIDER_ALLOW_UNSIGNED]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    allow_unsigned: Option<String>,
    /// Seconds that a VM may take to come up [env: GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS] [default: 300]
    #[arg(long, value_name = "SECONDS")]
    launch_timeout: Option<String>,
    /// How long a VM is rented for unless its requestor says otherwise [env: GOLEM_PROVIDER_LEASE_DEFAULT] [default: 7d]
    #[arg(long, value_name = "SPAN")]
    lease_default: Option<String>,
    /// The latest end of a lease, counted from when it is asked for [env: GOLEM_PROVIDER_LEASE_MAX] [default: none]
    #[arg(long, value_name = "SPAN")]
    lease_max: Option<String>,
    /// How long the disk of a VM is kept after its lease has ended [env: GOLEM_PROVIDER_LEASE_GRACE] [default: 24h]
    #[arg(long, value_name = "SPAN")]
    lease_grace: Option<String>,
    /// How long an instance of this provider that belongs to no VM is left alone [env: GOLEM_PROVIDER_ORPHAN_GRACE] [default: 24h]
    #[arg(long, value_name = "SPAN")]
    orphan_grace: Option<String>,
    /// The golem-forwarder program [env: GOLEM_PROVIDER_FORWARDER] [default: beside golem-provider, else on PATH]
    #[arg(long, value_name = "FILE")]
    forwarder: Option<PathBuf>,
    /// error, warn, info, debug, or a filter; RUST_LOG wins [env: GOLEM_PROVIDER_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// Log as JSON lines on a terminal too
    #[arg(long)]
    json_logs: bool,
    /// Write one line of JSON with the bound address to this open file descriptor once it serves ('--json' does so on standard output)
    #[arg(long, value_name = "FD")]
    ready_fd: Option<u32>,
    /// Run in a session of its own, and return when it is ready or say why not
    #[arg(long, visible_alias = "daemon", conflicts_with = "ready_fd")]
    pub(super) background: bool,
    /// Set by --background for the process that it starts
    #[arg(long, hide = true)]
    detached: bool,
}

impl StartArgs {
    /// The flags that were given, as settings.
    fn flags(&self) -> Result<Vec<(String, String)>, Coded> {
        let range = self.port_range.as_deref().map(parse_range).transpose()?;
        let forwarder = match &self.forwarder {
            Some(path) => {
                let text =
                    path.to_str().ok_or_else(|| Coded::usage("--forwarder has to be UTF-8"))?;
                Some(text.to_owned())
            }
            None => None,
        };
        let pairs = [
            ("GOLEM_PROVIDER_HOST", &self.host),
            ("GOLEM_PROVIDER_PORT", &self.port),
            ("GOLEM_PROVIDER_NAME", &self.name),
            ("GOLEM_PROVIDER_COUNTRY", &self.country),
            ("GOLEM_PROVIDER_PUBLIC_IP", &self.public_ip),
            ("GOLEM_PROVIDER_DISCOVERY_URL", &self.discovery_url),
            ("GOLEM_PROVIDER_DISCOVERY_ADVERTISEMENT_INTERVAL", &self.advertisement_interval),
            ("GOLEM_PROVIDER_PORT_RANGE_START", &range.map(|(first, _)| first.to_string())),
            (
                "GOLEM_PROVIDER_PORT_RANGE_END",
                &range.map(|(_, last)| (u32::from(last) + 1).to_string()),
            ),
            ("GOLEM_PROVIDER_PORT_CHECKERS", &self.port_checkers),
            ("GOLEM_PROVIDER_PORT_CHECK_QUORUM", &self.port_check_quorum),
            ("GOLEM_PROVIDER_SKIP_PORT_VERIFICATION", &self.no_verify_ports),
            ("GOLEM_PROVIDER_BACKEND", &self.backend),
            ("GOLEM_PROVIDER_MAX_VMS", &self.max_vms),
            ("GOLEM_PROVIDER_MAX_VMS_PER_REQUESTOR", &self.max_vms_per_requestor),
            ("GOLEM_PROVIDER_CREATES_PER_MINUTE", &self.creates_per_minute),
            ("GOLEM_PROVIDER_WRITES_PER_MINUTE", &self.writes_per_minute),
            ("GOLEM_PROVIDER_READS_PER_MINUTE", &self.reads_per_minute),
            ("GOLEM_PROVIDER_TRUSTED_PROXIES", &self.trusted_proxies),
            ("GOLEM_PROVIDER_MIN_CPU_CORES", &self.min_cpu_cores),
            ("GOLEM_PROVIDER_MIN_MEMORY_GB", &self.min_memory_gb),
            ("GOLEM_PROVIDER_MIN_STORAGE_GB", &self.min_storage_gb),
            ("GOLEM_PROVIDER_OFFER_CPU", &self.offer_cpu),
            ("GOLEM_PROVIDER_OFFER_MEMORY_GB", &self.offer_memory),
            ("GOLEM_PROVIDER_OFFER_STORAGE_GB", &self.offer_storage),
            ("GOLEM_PROVIDER_OVERCOMMIT_CPU", &self.overcommit_cpu),
            ("GOLEM_PROVIDER_OVERCOMMIT_STORAGE", &self.overcommit_storage),
            ("GOLEM_PROVIDER_DISK_RESERVE_GB", &self.disk_reserve),
            ("GOLEM_PROVIDER_TEMPLATES_GB", &self.templates),
            ("GOLEM_PROVIDER_PRICE_USD_PER_CORE_MONTH", &self.price_usd_per_core_month),
            ("GOLEM_PROVIDER_PRICE_USD_PER_GB_RAM_MONTH", &self.price_usd_per_gb_ram_month),
            ("GOLEM_PROVIDER_PRICE_USD_PER_GB_STORAGE_MONTH", &self.price_usd_per_gb_storage_month),
            ("GOLEM_PROVIDER_IMAGES", &self.images),
            ("GOLEM_PROVIDER_DEFAULT_IMAGE", &self.default_image),
            ("GOLEM_PROVIDER_TRUSTED_REQUESTORS", &self.trusted_requestors),
            ("GOLEM_PROVIDER_ALLOW_UNCONTAINED", &self.allow_uncontained),
            ("GOLEM_PROVIDER_EGRESS", &self.egress),
            ("GOLEM_PROVIDER_RESOLVERS", &self.resolvers),
            ("GOLEM_PROVIDER_ALLOW_DESTINATIONS", &self.allow_destinations),
            ("GOLEM_PROVIDER_VM_BANDWIDTH_MBIT", &self.vm_bandwidth_mbit),
            ("GOLEM_PROVIDER_VM_NEW_CONNECTIONS", &self.vm_new_connections),
            ("GOLEM_PROVIDER_VM_CONNECTIONS", &self.vm_connections),
            ("GOLEM_PROVIDER_ALLOW_UNSIGNED", &self.allow_unsigned),
            ("GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS", &self.launch_timeout),
            ("GOLEM_PROVIDER_LEASE_DEFAULT", &self.lease_default),
            ("GOLEM_PROVIDER_LEASE_MAX", &self.lease_max),
            ("GOLEM_PROVIDER_LEASE_GRACE", &self.lease_grace),
            ("GOLEM_PROVIDER_ORPHAN_GRACE", &self.orphan_grace),
            ("GOLEM_PROVIDER_FORWARDER", &forwarder),
            ("GOLEM_PROVIDER_LOG", &self.log_level),
        ];
        let given =
            pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        Ok(given.collect())
    }
}

/// `50800-50899`, or one port.
fn parse_range(text: &str) -> Result<(u16, u16), Coded> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => Ok((first, last)),
        _ => Err(Coded::usage(format!(
            "--port-range {} is not a first and a last port, such as 50800-50899",
            golem_vm_protocol::text::printable(text, 80)
        ))),
    }
}

/// Runs the provider here, or starts it in a session of its own.
pub(super) fn run(place: &PlaceArgs, args: &StartArgs) -> anyhow::Result<ExitCode> {
    if args.detached {
        // Fails only where it leads a session already, which is what is wanted.
        let _ = rustix::process::setsid();
    }
    let settings = place.settings(args.flags()?)?;
    let config = Config::from_settings(&settings)?;
    let data_dir = place::open_data_dir(config.data_dir.as_deref())?;
    if args.background {
        for warning in settings.warnings() {
            eprintln!("warning: {warning}");
        }
        return background::run(&data_dir, place.json);
    }
    let json = args.json_logs.then_some(true);
    logging::init(&LogOptions { filter: Some(config.log.clone()), json })
        .map_err(|error| Coded { code: exit_code::USAGE, message: error.to_string() })?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    golem_vm_node::open_files::raise_limit();
    let ready_fd = args.ready_fd.or_else(|| place.json.then_some(1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no threads can be started")?;
    runtime.block_on(Box::pin(app::run(StartOptions { config, data_dir, ready_fd })))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;
    use crate::config::TABLE;

    fn flags(words: &[&str]) -> Result<Vec<(String, String)>, Coded> {
        let words = ["golem-provider", "start"].iter().chain(words);
        let Command::Start(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not start")
        };
        args.flags()
    }

    #[test]
    fn only_the_flags_that_are_given_become_settings() {
        assert_eq!(flags(&[]).unwrap(), []);
        let given = flags(&["--port-range", "50000-50009", "--no-verify-ports", "--country", "SE"]);
        let expected = [
            ("GOLEM_PROVIDER_COUNTRY", "SE"),
            ("GOLEM_PROVIDER_PORT_RANGE_START", "50000"),
            ("GOLEM_PROVIDER_PORT_RANGE_END", "50010"),
            ("GOLEM_PROVIDER_SKIP_PORT_VERIFICATION", "true"),
        ];
        assert_eq!(given.unwrap(), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        for alias in ["--skip-port-verification", "--no-verify-port"] {
            assert_eq!(flags(&[alias]).unwrap().len(), 1);
        }
    }

    #[test]
    fn every_flag_is_a_setting_of_the_table() {
        let all = flags(&[
            "--host=1",
            "--port=1",
            "--name=1",
            "--country=1",
            "--public-ip=1",
            "--discovery-url=1",
            "--advertisement-interval=1",
            "--port-range=1",
            "--port-checkers=1",
            "--port-check-quorum=1",
            "--no-verify-ports",
            "--backend=1",
            "--max-vms=1",
            "--max-vms-per-requestor=1",
            "--creates-per-minute=1",
            "--reads-per-minute=1",
            "--writes-per-minute=1",
            "--trusted-proxies=1",
            "--min-cpu-cores=1",
            "--min-memory-gb=1",
            "--min-storage-gb=1",
            "--offer-cpu=1",
            "--offer-memory=1",
            "--offer-storage=1",
            "--overcommit-cpu=1",
            "--overcommit-storage=1",
            "--disk-reserve=2",
            "--templates=8",
            "--price-usd-per-core-month=1",
            "--price-usd-per-gb-ram-month=1",
            "--price-usd-per-gb-storage-month=1",
            "--images=1",
            "--default-image=1",
            "--trusted-requestors=1",
            "--allow-uncontained",
            "--egress=1",
            "--resolvers=1",
            "--allow-destinations=1",
            "--vm-bandwidth-mbit=1",
            "--vm-new-connections=1",
            "--vm-connections=1",
            "--allow-unsigned",
            "--launch-timeout=1",
            "--lease-default=1",
            "--lease-max=1",
            "--lease-grace=1",
            "--orphan-grace=1",
            "--forwarder=1",
            "--log-level=1",
        ]);
        let mut given: Vec<_> = all.unwrap().into_iter().map(|(name, _)| name).collect();
        given.push(place::DATA_DIR.to_owned());
        given.sort();
        let mut known: Vec<_> = TABLE.settings.iter().map(|spec| spec.name().to_owned()).collect();
        known.sort();
        assert_eq!(given, known);
    }

    #[test]
    fn a_range_includes_its_last_port() {
        assert_eq!(parse_range("50800-50899").unwrap(), (50_800, 50_899));
        assert_eq!(parse_range("50800").unwrap(), (50_800, 50_800));
        assert_eq!(parse_range("1-65535").unwrap(), (1, 65_535));
        for bad in ["", "-", "0-1", "2-1", "1-65536", "a-b"] {
            assert_eq!(parse_range(bad).unwrap_err().code, exit_code::USAGE, "{bad}");
        }
    }
}
