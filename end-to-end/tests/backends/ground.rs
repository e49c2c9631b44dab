//! The backends, and who says when one can't be tried here.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use golem_vm_end_to_end::{Market, MultipassStandIn, Provider, ProviderOptions, within};

/// A market with one provider on one backend.
pub(crate) struct Ground {
    pub(crate) market: Market,
    pub(crate) name: &'static str,
    pub(crate) stand_in: Option<MultipassStandIn>,
}

fn skipped<T>(name: &str, why: &str) -> Option<T> {
    eprintln!("SKIPPED: {name}: {why}");
    None
}

/// Whether the stand-in for Multipass can have guests here; if not, that is said.
pub(crate) fn can_have_guests(what: &str) -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "only root can make its guests' network namespaces"
    } else if !["/usr/sbin/sshd", "/sbin/sshd"].iter().any(|path| Path::new(path).exists()) {
        "sshd is not installed ('apt-get install openssh-server')"
    } else {
        return true;
    };
    skipped::<()>(what, missing).is_some()
}

impl Ground {
    pub(crate) fn docker() -> Self {
        Self { market: Market::with_one_provider(), name: "docker", stand_in: None }
    }

    pub(crate) fn stand_in() -> Option<Self> {
        let name = "the stand-in for Multipass";
        if !can_have_guests(name) {
            return None;
        }
        let stand_in = MultipassStandIn::new();
        let options = ProviderOptions::default()
            .with("GOLEM_PROVIDER_BACKEND", "multipass")
            .with("GOLEM_PROVIDER_DEFAULT_IMAGE", "ubuntu-24.04")
            // Its bridge is not the one that the firewall is for.
            .with("GOLEM_PROVIDER_ALLOW_UNCONTAINED", "true");
        let market = Market::on_backend(&stand_in.place(), "ubuntu-24.04", &options);
        Some(Self { market, name, stand_in: Some(stand_in) })
    }

    pub(crate) fn multipass() -> Option<Self> {
        let name = "a real Multipass";
        if std::env::var_os("GOLEM_TEST_MULTIPASS").is_none() {
            return skipped(name, "it is tried by scripts/test --multipass only");
        }
        let version = Command::new("multipass").args(["version", "--format", "json"]).output();
        match version {
            Err(error) => {
                return skipped(name, &format!("the program multipass can't be run here: {error}"));
            }
            Ok(said) if !String::from_utf8_lossy(&said.stdout).contains("multipassd") => {
                return skipped(name, "its daemon does not answer");
            }
            Ok(_) => {}
        }
        let options = ProviderOptions::default()
            .with("GOLEM_PROVIDER_BACKEND", "multipass")
            .with("GOLEM_PROVIDER_DEFAULT_IMAGE", "ubuntu-24.04")
            .with("GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS", "1800")
            .with("GOLEM_PROVIDER_ALLOW_UNCONTAINED", "true");
        let home = tempfile::tempdir().unwrap();
        // Multipass trusts this user, by a file in the own home directory.
        let mut place = golem_vm_end_to_end::Place::new(home.path());
        if let Ok(own) = std::env::var("HOME") {
            place = place.with_variable("HOME", &own);
        }
        let market = Market::on_backend(&place, "ubuntu-24.04", &options);
        Some(Self { market, name, stand_in: None })
    }

    pub(crate) fn qemu() -> Option<Self> {
        if !can_have_machines() {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let place = golem_vm_end_to_end::Place::new(home.path());
        let market = Market::on_backend(&place, "debian-12", &machines());
        wait_for_template(&market.providers[0]);
        Some(Self { market, name: QEMU, stand_in: None })
    }
}

const QEMU: &str = "QEMU";

/// Whether there can be virtual machines on QEMU here; if not, that is said.
pub(crate) fn can_have_machines() -> bool {
    rustix::process::geteuid().is_root()
        || skipped::<()>(QEMU, "its tests are run as root").is_some()
}

/// A provider that has them.
pub(crate) fn machines() -> ProviderOptions {
    ProviderOptions::default()
        .with("GOLEM_PROVIDER_BACKEND", "qemu")
        // Guests are emulated where hardware does not help.
        .with("GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS", "900")
}

/// Until VMs of the usual size are resumed.
pub(crate) fn wait_for_template(provider: &Provider) {
    let has = || {
        let listed = provider.run(&["image", "list", "--json"]).done().json();
        let images = listed["images"].as_array().or(listed.as_array()).cloned();
        images.into_iter().flatten().any(|image| {
            image["templates"].as_array().is_some_and(|templates| !templates.is_empty())
        })
    };
    let made = within(Duration::from_secs(1200), || has().then_some(()));
    assert!(made.is_some(), "no template is made:\n{}", provider.log());
}
