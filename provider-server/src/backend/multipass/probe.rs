//! What Multipass can do here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use golem_vm_protocol::vm::{Ability, Isolation};

use super::asking::Own;
use super::names::Name;
use super::program::CallError;
use super::reading::{self, State};
use super::version::Version;
use super::{BRIDGE, Multipass};
use crate::backend::at_most::AtMost;
use crate::backend::{
    Accelerator, BackendError, Capabilities, Containment, Finding, InstanceId, Observation,
};
use crate::containment::Firewall;

/// Where it keeps the disks, as a snap and otherwise.
const ROOTS: [&str; 2] = ["/var/snap/multipass/common/data/multipassd", "/var/lib/multipass"];

const KVM: &str = "/dev/kvm";

impl Multipass {
    /// See [`crate::backend::Backend::probe`].
    pub(super) async fn probe(&self) -> Result<Capabilities, BackendError> {
        let away = |error: CallError| error.into_backend("Multipass can't be used");
        *super::lock(&self.version) = None;
        let said = self.program.call(&["version", "--format", "json"], b"", self.pace.query).await;
        let (client, daemon) = reading::versions(&said.map_err(away)?)
            .map_err(|error| away(CallError::Unreadable(error)))?;
        // `version` succeeds without a daemon; this says why there is none.
        self.own().await.map_err(away)?;
        let version: Version = daemon
            .as_ref()
            .unwrap_or(&client)
            .parse()
            .map_err(|error| away(CallError::Unreadable(error)))?;
        if version < Version::OLDEST {
            return Err(BackendError::Unavailable(format!(
                "Multipass {version} is too old: {} or newer is needed ('sudo snap refresh multipass')",
                Version::OLDEST
            )));
        }
        let driver = self.program.call(&["get", "local.driver"], b"", self.pace.query).await;
        let driver = driver.map(|driver| driver.trim().to_owned()).unwrap_or_default();
        let mut findings =
            vec![Finding::good("Multipass", format!("{version}, with the driver {driver}"))];
        findings.push(limits_of(version));
        findings.extend(virtualisation(&driver));
        let containment = self.containment(&driver).await;
        findings.extend(self.neighbours(&containment).await);
        findings.push(match &containment {
            Containment::Contained => Finding::good(
                "containment",
                format!("the host's firewall keeps guests on {BRIDGE} from the host, its network and each other"),
            ),
            Containment::Uncontained(reason) => {
                let (detail, remedy) = reason.split_once(": ").unwrap_or((reason, "see docs/backends.md"));
                Finding::bad("containment", detail, remedy)
            }
        });
        let mut enforced = ENFORCED.map(str::to_owned).to_vec();
        if containment == Containment::Contained {
            enforced.push("bandwidth".to_owned());
        }
        Ok(Capabilities {
            isolation: Isolation::Vm,
            version: format!("Multipass {version}"),
            enforced,
            containment,
            findings,
            accel: accelerator(&driver),
            abilities: abilities(version),
            data_root: ROOTS.iter().map(PathBuf::from).find(|path| path.is_dir()),
        })
    }

    /// What else is on the bridge, and has no network while guests are contained there.
    async fn neighbours(&self, containment: &Containment) -> Option<Finding> {
        let all = self.all(false).await.unwrap_or_default();
        let others: Vec<String> = all
            .into_iter()
            .filter(|one| !one.state.is_down() && Name::of(&self.provider, &one.name).is_none())
            .map(|one| one.name)
            .collect();
        (*containment == Containment::Contained && !others.is_empty()).then(|| {
            let names = golem_vm_protocol::text::printable(&others.join(", "), 200);
            Finding::bad(
                "other instances",
                format!("these instances are not this provider's, and have no network while it runs: {names}"),
                "keep them on another machine, or with another driver",
            )
        })
    }

    async fn containment(&self, driver: &str) -> Containment {
        let no = |reason: &str| Containment::Uncontained(reason.to_owned());
        if !cfg!(target_os = "linux") {
            return no(
                "guests can't be contained on this system: rent to requestors that you trust only",
            );
        }
        if driver != "qemu" {
            return no(
                "guests of Multipass's other drivers can't be contained: 'multipass set local.driver=qemu'",
            );
        }
        if !Firewall::has_interface(BRIDGE) {
            return no(&format!(
                "Multipass's bridge {BRIDGE} is not in this process's network: run golem-provider on the host itself, with multipassd running"
            ));
        }
        match self.firewall.trial().await {
            Ok(()) => Containment::Contained,
            Err(reason) => Containment::Uncontained(reason),
        }
    }

    /// See [`crate::backend::Backend::survey`].
    pub(super) async fn survey(
        self: &std::sync::Arc<Self>,
    ) -> Result<BTreeMap<InstanceId, Observation>, BackendError> {
        let told = self.firewall.told().await;
        let own = self.own().await;
        let own =
            own.map_err(|error| error.into_backend("can't ask Multipass for its instances"))?;
        self.reap(&own);
        let mut seen = BTreeMap::new();
        let mut counted = Vec::new();
        for one in own {
            let book = self.books.of(one.name.vm());
            if book.has_abandoned(one.name.as_str())
                || (book.current.is_some() && !book.is_current(one.name.as_str()))
            {
                continue;
            }
            self.look_for_address(&one).await;
            if one.state == State::Suspended && !book.suspended {
                // The daemon has done it, as it does when it ends.
                self.interrupted.notify_waiters();
            }
            let book = self.books.of(one.name.vm());
            seen.insert(InstanceId::of(one.name.vm()), self.observation(&one, &book));
            counted.push(one);
        }
        if let Err(error) = self.firewall.saw(told, self.guests(&counted)).await {
            tracing::warn!("{}", super::not_contained(error));
        }
        Ok(seen)
    }

    /// Finds out the address of an instance that runs and has none that we know: it can change whenever it was down.
    pub(super) async fn look_for_address(&self, own: &Own) {
        let vm = own.name.vm();
        let book = self.books.of(vm);
        if own.state == State::Running
            && book.address.is_none()
            && let Some(address) = self.find_address(&own.name).await
        {
            self.found_at(vm, address).await;
        }
    }
}

/// What runs its processors. On Linux, its driver qemu refuses to start anything without KVM.
fn accelerator(driver: &str) -> Option<Accelerator> {
    (cfg!(target_os = "linux") && driver == "qemu").then(|| Accelerator {
        kind: "kvm".to_owned(),
        why: "Multipass launches nothing without it".to_owned(),
    })
}

/// What Multipass keeps its guests within by itself.
const ENFORCED: [&str; 4] = ["cpu", "memory", "processes", "storage"];

/// What it can do on Linux with the newest release that is known.
pub(super) fn at_most() -> AtMost {
    AtMost {
        heading: "Multipass",
        isolation: Isolation::Vm,
        accel: "`kvm` on Linux; on macOS Multipass's own",
        containment: "a table in the host's firewall, as root, on Linux with its driver `qemu`",
        enforced: ENFORCED.iter().copied().chain(["bandwidth"]).map(str::to_owned).collect(),
        abilities: abilities(Version::NEWEST),
    }
}

fn abilities(version: Version) -> BTreeSet<Ability> {
    let always =
        [Ability::Suspend, Ability::Resize, Ability::CloudInit, Ability::Notify, Ability::LiveKeys];
    let snapshots = version.has_snapshots().then_some(Ability::Snapshots);
    let clones = version.can_clone().then_some(Ability::Clone);
    always.into_iter().chain(snapshots).chain(clones).collect()
}

fn limits_of(version: Version) -> Finding {
    let lacks = [
        (version.has_snapshots(), "snapshots (1.13)"),
        (version.can_force(), "switching off a guest that does not listen (1.14)"),
        (version.can_clone(), "clones (1.15)"),
    ];
    let lacks: Vec<&str> = lacks.iter().filter(|(has, _)| !has).map(|(_, what)| *what).collect();
    if lacks.is_empty() {
        return Finding::good("its release", "it has all that is used");
    }
    Finding::bad(
        "its release",
        format!("Multipass {version} lacks: {}", lacks.join(", ")),
        "'sudo snap refresh multipass'",
    )
}

/// Multipass's own driver starts nothing without it.
fn virtualisation(driver: &str) -> Option<Finding> {
    const SUBJECT: &str = "hardware virtualisation";
    if !cfg!(target_os = "linux") || driver != "qemu" {
        return None;
    }
    Some(if Path::new(KVM).exists() {
        Finding::good(SUBJECT, format!("{KVM} is there"))
    } else {
        Finding::bad(
            SUBJECT,
            format!("there is no {KVM}, and Multipass launches nothing without it"),
            super::said::Trouble::NoKvm.remedy().unwrap_or_default(),
        )
    })
}
