//! The provider's settings, checked: nothing else reads them as text.

mod table;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use golem_vm_node::http::{CallsPerMinute, TrustedProxies};
use golem_vm_node::settings::{Settings, SettingsError};
use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::{MAX_NAME_CHARS, Prices, is_country, is_host};
use golem_vm_protocol::text::is_printable;
use golem_vm_protocol::time::seconds_of;
use golem_vm_protocol::vm::{MAX_LEASE_SECONDS, MIN_LEASE_SECONDS};

use crate::backend::{BackendChoice, Egress};
use crate::containment::{Caps, Destination, Rules, resolvers};
use crate::vm::lease::LeasePolicy;

pub use table::TABLE;

/// Most destinations that can be opened: each may be a rule that every packet is compared with.
const MAX_DESTINATIONS: usize = 64;

/// What the owner set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the API and of the access ports.
    pub host: IpAddr,
    /// Port of the API; 0 takes a free one.
    pub port: u16,
    /// Where state lives, if set.
    pub data_dir: Option<PathBuf>,
    /// Label shown to requestors.
    pub name: String,
    /// Two capital letters.
    pub country: String,
    /// The advertised address; `None` to learn it from port checkers or discovery.
    pub public_host: Option<String>,
    /// Where to advertise.
    pub discovery: Vec<String>,
    /// How often.
    pub advertisement_interval: Duration,
    /// Access ports.
    pub port_range: Range<u32>,
    /// Who verifies ports.
    pub port_checkers: Vec<String>,
    /// How many different checkers a port has to be proven to.
    pub port_check_quorum: usize,
    /// Whether ports are verified at all.
    pub verify_ports: bool,
    /// What makes the VMs.
    pub backend: BackendChoice,
    /// Most VMs at a time.
    pub max_vms: u32,
    /// Most VMs at a time of one requestor.
    pub max_vms_per_requestor: Option<u32>,
    /// How often the API may be asked by each address and each key.
    pub rates: CallsPerMinute,
    /// The reverse proxies whose word on the client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// Least that must be free to be advertised.
    pub minimum: Minimum,
    /// What is rented out in all, where set.
    pub offer: OfferSettings,
    /// MiB of the disk that holds the VMs' data which the host keeps for itself.
    pub disk_reserve_mib: u64,
    /// MiB of disk that templates of virtual machines may take.
    pub templates_mib: u64,
    /// Prices per month.
    pub prices: Prices,
    /// Names of the images that can be rented; `None` for all that were built here.
    pub images: Option<BTreeSet<String>>,
    /// What a VM boots from when nothing is asked for.
    pub default_image: String,
    /// Requestors who are served in any case.
    pub trusted_requestors: BTreeSet<KeyId>,
    /// Whether strangers are served although guests are not contained.
    pub allow_uncontained: bool,
    /// What guests may do with the network.
    pub network: NetworkSettings,
    /// Whether unsigned requestors are served.
    pub allow_unsigned: bool,
    /// How long a VM may take to come up.
    pub launch_timeout: Duration,
    /// What leases it gives.
    pub leases: LeasePolicy,
    /// How long after it was noticed an instance without a VM is removed.
    pub orphan_grace: Duration,
    /// The forwarder's program, if set.
    pub forwarder: Option<PathBuf>,
    /// Log filter.
    pub log: String,
}

/// The least that must be free to be advertised at all, in vCPUs and GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minimum {
    /// vCPUs.
    pub cpu: u32,
    /// GiB of memory.
    pub memory_gb: u32,
    /// GiB of disk.
    pub storage_gb: u32,
}

/// What is rented out in all, as set. What is not set follows from the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OfferSettings {
    /// Thousandths of a vCPU.
    pub cpu_millis: Option<u64>,
    /// MiB of memory.
    pub memory_mib: Option<u64>,
    /// MiB of disk.
    pub storage_mib: Option<u64>,
    /// Factor for vCPUs, at least 1.
    pub overcommit_cpu: f64,
    /// Factor for disk, at least 1.
    pub overcommit_storage: f64,
}

/// What guests may do with the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Where new VMs' traffic may go.
    pub egress: Egress,
    /// Who answers their questions for names; `None` for the host's resolvers.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// What they reach although it is in a blocked range.
    pub allowed: Vec<Destination>,
    /// How much one of them may use.
    pub caps: Caps,
}

impl NetworkSettings {
    /// The same, with the host's resolvers where none are set.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            resolvers: self.resolvers.clone().unwrap_or_else(resolvers::of_host),
            allowed: self.allowed.clone(),
            caps: self.caps,
        }
    }

    fn read(settings: &Settings) -> Result<Self, SettingsError> {
        let resolvers: Vec<Ipv4Addr> = settings.list("GOLEM_PROVIDER_RESOLVERS")?;
        if resolvers.iter().any(|one| one.is_loopback() || one.is_unspecified()) {
            return Err(settings.invalid(
                "GOLEM_PROVIDER_RESOLVERS",
                "guests can't ask what listens on loopback; name an address that others can reach",
            ));
        }
        let allowed: Vec<Destination> = settings.list("GOLEM_PROVIDER_ALLOW_DESTINATIONS")?;
        if allowed.len() > MAX_DESTINATIONS {
            return Err(settings.invalid(
                "GOLEM_PROVIDER_ALLOW_DESTINATIONS",
                format!("more than {MAX_DESTINATIONS} destinations"),
            ));
        }
        Ok(Self {
            egress: settings
                .parsed("GOLEM_PROVIDER_EGRESS", str::parse)?
                .unwrap_or(Egress::Internet),
            resolvers: Some(resolvers).filter(|list| !list.is_empty()),
            allowed,
            caps: Caps {
                bandwidth_mbit: count(settings, "GOLEM_PROVIDER_VM_BANDWIDTH_MBIT", 100_000)?,
                new_connections: count(settings, "GOLEM_PROVIDER_VM_NEW_CONNECTIONS", 100_000)?,
                connections: count(settings, "GOLEM_PROVIDER_VM_CONNECTIONS", 1_000_000)?,
            },
        })
    }
}

/// A number from 1 to `most`.
fn count(settings: &Settings, name: &str, most: u32) -> Result<u32, SettingsError> {
    let number: u32 = settings.get(name)?;
    if (1..=most).contains(&number) {
        Ok(number)
    } else {
        Err(settings.invalid(name, format!("has to be from 1 to {most}")))
    }
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// The first setting that is missing or wrong, with its value and where that came from.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let start: u32 = u32::from(settings.get::<u16>("GOLEM_PROVIDER_PORT_RANGE_START")?);
        let end: u32 = settings.get("GOLEM_PROVIDER_PORT_RANGE_END")?;
        if start == 0 || end > 65_536 || start >= end {
            return Err(settings.invalid(
                "GOLEM_PROVIDER_PORT_RANGE_END",
                format!("the range {start}..{end} holds no ports (the end is exclusive)"),
            ));
        }
        let name = match settings.get_opt::<String>("GOLEM_PROVIDER_NAME")? {
            Some(name) if name.is_empty() || !is_printable(&name, MAX_NAME_CHARS) => {
                return Err(settings.invalid("GOLEM_PROVIDER_NAME", "too long, or not printable"));
            }
            Some(name) => name,
            None => host_name(),
        };
        let country: String = settings.get("GOLEM_PROVIDER_COUNTRY")?;
        if !is_country(&country) {
            return Err(settings.invalid("GOLEM_PROVIDER_COUNTRY", "not two capital letters"));
        }
        let images: Vec<String> = settings.list("GOLEM_PROVIDER_IMAGES")?;
        Ok(Self {
            host: settings.get("GOLEM_PROVIDER_HOST")?,
            port: settings.get("GOLEM_PROVIDER_PORT")?,
            data_dir: settings.get_opt("GOLEM_PROVIDER_DATA_DIR")?,
            name,
            country,
            public_host: settings
                .parsed("GOLEM_PROVIDER_PUBLIC_IP", |text| {
                    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
                    if is_host(bare.unwrap_or(text)) {
                        Ok(text.to_owned())
                    } else {
                        Err("not an address, nor a host name".to_owned())
                    }
                })?
                .filter(|text| text != "auto"),
            discovery: urls(settings, "GOLEM_PROVIDER_DISCOVERY_URL")?,
            advertisement_interval: seconds(
                settings,
                "GOLEM_PROVIDER_DISCOVERY_ADVERTISEMENT_INTERVAL",
                10,
            )?,
            port_range: start..end,
            port_checkers: urls(settings, "GOLEM_PROVIDER_PORT_CHECKERS")?,
            port_check_quorum: quorum(settings)?,
            verify_ports: !settings.flag("GOLEM_PROVIDER_SKIP_PORT_VERIFICATION")?,
            backend: settings.parsed("GOLEM_PROVIDER_BACKEND", str::parse)?.unwrap_or_default(),
            max_vms: settings.get("GOLEM_PROVIDER_MAX_VMS")?,
            max_vms_per_requestor: Some(settings.get("GOLEM_PROVIDER_MAX_VMS_PER_REQUESTOR")?)
                .filter(|most| *most > 0),
            rates: CallsPerMinute {
                reads: settings.get("GOLEM_PROVIDER_READS_PER_MINUTE")?,
                writes: settings.get("GOLEM_PROVIDER_WRITES_PER_MINUTE")?,
                expensive: settings.get("GOLEM_PROVIDER_CREATES_PER_MINUTE")?,
            },
            trusted_proxies: TrustedProxies::new(settings.list("GOLEM_PROVIDER_TRUSTED_PROXIES")?),
            minimum: Minimum {
                cpu: settings.get("GOLEM_PROVIDER_MIN_CPU_CORES")?,
                memory_gb: settings.get("GOLEM_PROVIDER_MIN_MEMORY_GB")?,
                storage_gb: settings.get("GOLEM_PROVIDER_MIN_STORAGE_GB")?,
            },
            offer: OfferSettings {
                cpu_millis: quantity(settings, "GOLEM_PROVIDER_OFFER_CPU", 1000.0)?,
                memory_mib: quantity(settings, "GOLEM_PROVIDER_OFFER_MEMORY_GB", 1024.0)?,
                storage_mib: quantity(settings, "GOLEM_PROVIDER_OFFER_STORAGE_GB", 1024.0)?,
                overcommit_cpu: factor(settings, "GOLEM_PROVIDER_OVERCOMMIT_CPU")?,
                overcommit_storage: factor(settings, "GOLEM_PROVIDER_OVERCOMMIT_STORAGE")?,
            },
            disk_reserve_mib: quantity(settings, "GOLEM_PROVIDER_DISK_RESERVE_GB", 1024.0)?
                .unwrap_or(0),
            templates_mib: quantity(settings, "GOLEM_PROVIDER_TEMPLATES_GB", 1024.0)?.unwrap_or(0),
            prices: Prices {
                core_month: micro_usd(settings, "GOLEM_PROVIDER_PRICE_USD_PER_CORE_MONTH")?,
                gb_ram_month: micro_usd(settings, "GOLEM_PROVIDER_PRICE_USD_PER_GB_RAM_MONTH")?,
                gb_storage_month: micro_usd(
                    settings,
                    "GOLEM_PROVIDER_PRICE_USD_PER_GB_STORAGE_MONTH",
                )?,
            },
            images: Some(images.into_iter().collect::<BTreeSet<_>>()).filter(|set| !set.is_empty()),
            default_image: settings.get("GOLEM_PROVIDER_DEFAULT_IMAGE")?,
            trusted_requestors: settings
                .list("GOLEM_PROVIDER_TRUSTED_REQUESTORS")?
                .into_iter()
                .collect(),
            allow_uncontained: settings.flag("GOLEM_PROVIDER_ALLOW_UNCONTAINED")?,
            network: NetworkSettings::read(settings)?,
            allow_unsigned: settings.flag("GOLEM_PROVIDER_ALLOW_UNSIGNED")?,
            launch_timeout: seconds(settings, "GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS", 10)?,
            leases: leases(settings)?,
            orphan_grace: span(settings, "GOLEM_PROVIDER_ORPHAN_GRACE", 0)?
                .unwrap_or(crate::orphans::USUAL_GRACE),
            forwarder: settings.get_opt("GOLEM_PROVIDER_FORWARDER")?,
            log: settings.get("GOLEM_PROVIDER_LOG")?,
        })
    }
}

/// A quorum that the listed checkers can reach.
fn quorum(settings: &Settings) -> Result<usize, SettingsError> {
    const NAME: &str = "GOLEM_PROVIDER_PORT_CHECK_QUORUM";
    let quorum: usize = settings.get(NAME)?;
    let checkers = urls(settings, "GOLEM_PROVIDER_PORT_CHECKERS")?.len();
    if quorum == 0 {
        return Err(settings.invalid(NAME, "has to be 1 or more"));
    }
    // Without any checker, that is what is said.
    if checkers != 0 && quorum > checkers {
        let reason = format!("GOLEM_PROVIDER_PORT_CHECKERS lists only {checkers}");
        return Err(settings.invalid(NAME, reason));
    }
    Ok(quorum)
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    if name.is_empty() || !is_printable(&name, MAX_NAME_CHARS) {
        "golem-provider".to_owned()
    } else {
        name.into_owned()
    }
}

fn seconds(settings: &Settings, name: &str, least: u64) -> Result<Duration, SettingsError> {
    let seconds: u64 = settings.get(name)?;
    if (least..=3600).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(settings.invalid(name, format!("has to be from {least} to 3600")))
    }
}

/// A span of time from `least` seconds to ten years.
fn span(settings: &Settings, name: &str, least: u64) -> Result<Option<Duration>, SettingsError> {
    let Some(text) = settings.get_opt::<String>(name)? else { return Ok(None) };
    let seconds = seconds_of(&text).map_err(|error| settings.invalid(name, error.to_string()))?;
    if (least..=MAX_LEASE_SECONDS).contains(&seconds) {
        Ok(Some(Duration::from_secs(seconds)))
    } else {
        Err(settings.invalid(name, format!("has to be from {least} s to ten years")))
    }
}

fn leases(settings: &Settings) -> Result<LeasePolicy, SettingsError> {
    let span = |name: &str, least: u64| span(settings, name, least);
    let usual = LeasePolicy::default();
    let max = span("GOLEM_PROVIDER_LEASE_MAX", MIN_LEASE_SECONDS)?;
    let default = span("GOLEM_PROVIDER_LEASE_DEFAULT", MIN_LEASE_SECONDS)?;
    Ok(LeasePolicy {
        default: default.unwrap_or(usual.default),
        max,
        grace: span("GOLEM_PROVIDER_LEASE_GRACE", 0)?.unwrap_or(usual.grace),
    })
}

fn factor(settings: &Settings, name: &str) -> Result<f64, SettingsError> {
    let factor: f64 = settings.get(name)?;
    if (1.0..=64.0).contains(&factor) {
        Ok(factor)
    } else {
        Err(settings.invalid(name, "has to be from 1 to 64"))
    }
}

/// A number with fractions, in units of `1 / scale`.
fn quantity(settings: &Settings, name: &str, scale: f64) -> Result<Option<u64>, SettingsError> {
    let Some(number) = settings.get_opt::<f64>(name)? else { return Ok(None) };
    if !(0.0..=1e7).contains(&number) {
        return Err(settings.invalid(name, "has to be from 0 to 10000000"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked"
    )]
    Ok(Some((number * scale).floor() as u64))
}

/// USD as text to integer micro-USD, without going through floating point.
fn micro_usd(settings: &Settings, name: &str) -> Result<u64, SettingsError> {
    let parsed = settings.parsed(name, parse_micro_usd)?;
    parsed.ok_or_else(|| settings.invalid(name, "is needed"))
}

pub(crate) fn parse_micro_usd(text: &str) -> Result<u64, String> {
    let wrong =
        || "write an amount such as 5 or 0.1, with at most six decimals, up to 1000000".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty()
        || whole.len() > 7
        || fraction.len() > 6
        || !digits(whole)
        || !digits(fraction)
    {
        return Err(wrong());
    }
    let micros: u64 = format!("{whole}{fraction:0<6}").parse().map_err(|_| wrong())?;
    if micros <= 1_000_000_000_000 { Ok(micros) } else { Err(wrong()) }
}

fn urls(settings: &Settings, name: &str) -> Result<Vec<String>, SettingsError> {
    let list: Vec<String> = settings.list(name)?;
    for url in &list {
        let good = reqwest::Url::parse(url).is_ok_and(|url| {
            url.scheme() == "http" && url.host_str().is_some() && url.query().is_none()
        });
        if !good {
            let shown = golem_vm_protocol::text::printable(url, 100);
            let reason = if url.starts_with("https://") {
                format!(
                    "'{shown}': https is not spoken here, requests are signed instead; write http://"
                )
            } else {
                format!("'{shown}' is not a URL such as http://host:9001")
            };
            return Err(settings.invalid(name, reason));
        }
    }
    Ok(list.into_iter().map(|url| url.trim_end_matches('/').to_owned()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_node::settings::SettingsSource;

    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Result<Config, SettingsError> {
        let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let source = SettingsSource { environment, ..SettingsSource::default() };
        Config::from_settings(&Settings::load(&TABLE, source)?)
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let config = load(&[]).unwrap();
        assert_eq!(config.port, 7466);
        assert_eq!(config.port_range, 50800..50900);
        assert_eq!(config.prices.core_month, 5_000_000);
        assert_eq!(config.prices.gb_storage_month, 100_000);
        assert_eq!(config.advertisement_interval, Duration::from_secs(240));
        assert!(!config.allow_unsigned && !config.allow_uncontained);
    }

    #[test]
    fn every_setting_is_read() {
        let settings = Settings::load(&TABLE, SettingsSource::default()).unwrap();
        Config::from_settings(&settings).unwrap();
        assert!(settings.unread().is_empty(), "no code reads {:?}", settings.unread());
    }

    #[test]
    fn wrong_values_are_named_with_their_place() {
        for (name, value) in [
            ("GOLEM_PROVIDER_PORT", "abc"),
            ("GOLEM_PROVIDER_PORT_RANGE_END", "100"),
            ("GOLEM_PROVIDER_COUNTRY", "Sweden"),
            ("GOLEM_PROVIDER_PUBLIC_IP", "not valid!!"),
            ("GOLEM_PROVIDER_OFFER_CPU", "-1"),
            ("GOLEM_PROVIDER_OVERCOMMIT_CPU", "0.5"),
            ("GOLEM_PROVIDER_PRICE_USD_PER_CORE_MONTH", "1e3"),
            ("GOLEM_PROVIDER_DISCOVERY_URL", "https://x"),
            ("GOLEM_PROVIDER_TRUSTED_REQUESTORS", "me"),
            ("GOLEM_PROVIDER_BACKEND", "vmware"),
            ("GOLEM_PROVIDER_EGRESS", "lan"),
            ("GOLEM_PROVIDER_RESOLVERS", "127.0.0.53"),
            ("GOLEM_PROVIDER_ALLOW_DESTINATIONS", "0.0.0.0/0"),
            ("GOLEM_PROVIDER_VM_BANDWIDTH_MBIT", "0"),
        ] {
            let message = load(&[(name, value)]).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn money_is_exact() {
        assert_eq!(parse_micro_usd("0.1"), Ok(100_000));
        assert_eq!(parse_micro_usd("12.345678"), Ok(12_345_678));
        for bad in ["", ".5", "1.2345678", "-1", "1,5", "99999999"] {
            assert!(parse_micro_usd(bad).is_err(), "{bad}");
        }
    }
}
