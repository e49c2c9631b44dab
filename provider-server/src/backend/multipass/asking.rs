//! Questions, which change nothing. *It is not there* and *it could not be asked* are two answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use golem_vm_protocol::VmId;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::books::{Attempt, Book};
use super::names::Name;
use super::program::CallError;
use super::reading::{self, Listed, State};
use super::said::Trouble;
use super::version::Version;
use super::{BRIDGE, Multipass};
use crate::backend::{BackendError, EndedBy, Observation};
use crate::containment::{Guest, neighbours};

/// One of our instances, as Multipass lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) name: Name,
    pub(super) state: State,
    pub(super) addresses: Vec<String>,
}

/// What there is of a VM at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Now {
    /// Nothing was ever begun.
    Nothing,
    /// It was launched, and is not to be seen: not yet, or not any more.
    Hidden(Attempt),
    /// It is there.
    There(Own, Attempt),
}

impl Multipass {
    /// The daemon's version.
    pub(super) async fn version(&self) -> Result<Version, CallError> {
        if let Some(version) = *super::lock(&self.version) {
            return Ok(version);
        }
        let text =
            self.program.call(&["version", "--format", "json"], b"", self.pace.query).await?;
        let (client, daemon) = reading::versions(&text).map_err(CallError::Unreadable)?;
        // Without a daemon, the client's: both come in one package.
        let version = daemon.as_ref().unwrap_or(&client).parse().map_err(CallError::Unreadable)?;
        if daemon.is_some() {
            *super::lock(&self.version) = Some(version);
        }
        Ok(version)
    }

    /// All instances, everybody's. With `addresses`, guests are asked for theirs, and one that answers slowly
    /// holds all others up.
    async fn list(&self, addresses: bool) -> Result<Vec<Listed>, CallError> {
        let without =
            !addresses && !self.asks_for_addresses.load(std::sync::atomic::Ordering::Relaxed);
        let mut arguments = vec!["list", "--format", "json"];
        if without {
            arguments.push("--no-ipv4");
        }
        let text = match self.program.call(&arguments, b"", self.pace.query).await {
            Err(error) if without && error.trouble() == Some(Trouble::UnknownOption) => {
                self.asks_for_addresses.store(true, std::sync::atomic::Ordering::Relaxed);
                self.program.call(&arguments[..3], b"", self.pace.query).await?
            }
            other => other?,
        };
        reading::list(&text).map_err(CallError::Unreadable)
    }

    /// The same. One instance that spoils the whole list does not spoil what is said of the others: it is asked for
    /// again, and then one by one for ours.
    pub(super) async fn all(&self, addresses: bool) -> Result<Vec<Listed>, CallError> {
        match self.list(addresses).await {
            Err(CallError::Refused { trouble, .. }) if !trouble.is_away() => {}
            other => return other,
        }
        match self.list(addresses).await {
            Err(error @ CallError::Refused { trouble, .. }) if !trouble.is_away() => {
                self.one_by_one(error).await
            }
            other => other,
        }
    }

    async fn one_by_one(&self, error: CallError) -> Result<Vec<Listed>, CallError> {
        let mut found = Vec::new();
        for book in self.books.all().into_values() {
            for attempt in book.current.iter().chain(&book.abandoned) {
                match self.info(&attempt.name, false).await {
                    Ok(listed) => found.push(listed),
                    Err(one) if one.trouble() == Some(Trouble::Absent) => {}
                    Err(_) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    /// What is said of one instance; with `inside`, the guest is asked, and a slow one makes it fail.
    async fn info(&self, name: &str, inside: bool) -> Result<Listed, CallError> {
        let mut arguments = vec!["info", name, "--format", "json"];
        if !inside {
            arguments.push("--no-runtime-information");
        }
        let text = self.program.call(&arguments, b"", self.pace.query).await?;
        reading::info(&text, name).map_err(CallError::Unreadable)
    }

    /// This provider's instances, those that were given up among them. A list that lacks what has to be there, just
    /// after Multipass could not be asked, is not believed: a daemon that starts does not know all at once.
    pub(super) async fn own(&self) -> Result<Vec<Own>, CallError> {
        let all = match self.all(false).await {
            Ok(all) => all,
            Err(error) => {
                if error.is_away() {
                    *super::lock(&self.failed_at) = Some(Instant::now());
                    self.interrupted.notify_waiters();
                }
                return Err(error);
            }
        };
        let own: Vec<Own> = all
            .into_iter()
            .filter_map(|listed| {
                let name = Name::of(&self.provider, &listed.name)?;
                Some(Own { name, state: listed.state, addresses: listed.addresses })
            })
            .collect();
        let was_away =
            super::lock(&self.failed_at).is_some_and(|when| when.elapsed() < self.pace.settle);
        if was_away {
            let lacking =
                self.books.all().into_values().filter_map(|book| book.current).find(|one| {
                    one.came_up && !own.iter().any(|listed| listed.name.as_str() == one.name)
                });
            if let Some(attempt) = lacking {
                return Err(CallError::Unreadable(format!(
                    "it has just come back, and does not list {} yet",
                    attempt.name
                )));
            }
        }
        Ok(own)
    }

    /// The same; a daemon that is away is waited for, as long as it takes to start again.
    pub(super) async fn own_patiently(&self) -> Result<Vec<Own>, CallError> {
        let began = Instant::now();
        let mut pause = self.pace.poll;
        loop {
            match self.own().await {
                Err(error) if error.is_away() && began.elapsed() + pause < self.pace.patience => {
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(8));
                }
                other => return other,
            }
        }
    }

    /// What there is of a VM now.
    pub(super) async fn now(&self, vm: VmId) -> Result<Now, BackendError> {
        let asked = self.own_patiently().await;
        let own =
            asked.map_err(|error| error.into_backend("can't ask Multipass for its instances"))?;
        let mut book = self.books.of(vm);
        let of_vm: Vec<Own> = own
            .into_iter()
            .filter(|one| one.name.vm() == vm && !book.has_abandoned(one.name.as_str()))
            .collect();
        if book.current.is_none() {
            // What was written down is lost: the instance that is there, and runs if one does, is its.
            let found = of_vm.iter().find(|one| !one.state.is_down()).or_else(|| of_vm.first());
            let Some(found) = found else { return Ok(Now::Nothing) };
            let attempt = Attempt { came_up: true, ..Attempt::begun_now(found.name.to_string()) };
            tracing::warn!(instance = %found.name, "nothing was written down of it; it is taken for its VM's");
            book = self.write(vm, |book| book.current = Some(attempt))?;
        }
        let Some(attempt) = book.current else { return Ok(Now::Nothing) };
        let there = of_vm.into_iter().find(|one| one.name.as_str() == attempt.name);
        Ok(match there {
            Some(own) => Now::There(own, attempt),
            None => Now::Hidden(attempt),
        })
    }

    /// Changes what is written down of a VM.
    pub(super) fn write(
        &self,
        vm: VmId,
        change: impl FnOnce(&mut Book),
    ) -> Result<Book, BackendError> {
        let written = self.books.change(vm, change);
        written.map_err(|error| {
            BackendError::Failed(format!("what is done for {vm} can't be written down: {error}"))
        })
    }

    /// Finds out where a running instance is reached; nothing while that is not known.
    pub(super) async fn find_address(&self, name: &Name) -> Option<Ipv4Addr> {
        let bridge = self.bridge_network().await;
        let of = |listed: &Listed| reading::address(&listed.addresses, bridge);
        // The guest alone first: one that hangs holds up its own question only.
        if let Ok(listed) = self.info(name.as_str(), true).await
            && let Some(address) = of(&listed)
        {
            return Some(address);
        }
        let all = self.list(true).await.ok()?;
        all.iter().find(|listed| listed.name == name.as_str()).and_then(of)
    }

    /// The network of Multipass's bridge, on a host that has it.
    async fn bridge_network(&self) -> Option<ipnet::Ipv4Net> {
        neighbours::network_of(BRIDGE).await
    }

    /// Notes where an instance is reached, and lets it use the network.
    pub(super) async fn found_at(&self, vm: VmId, address: Ipv4Addr) {
        let mut book = self.books.of(vm);
        let is_new = book.address != Some(address);
        if is_new || book.mac.is_none() {
            // Whoever has the address answers, and the kernel knows the card's from then on. It is noted once,
            // before anybody was let in who could take another's.
            let _ = timeout(Duration::from_secs(1), TcpStream::connect((address, 22))).await;
            let mac = neighbours::mac_of(BRIDGE, address).map(|mac| mac.to_string());
            let written = self.write(vm, |book| {
                book.address = Some(address);
                book.mac = book.mac.take().or(mac);
            });
            match written {
                Ok(written) => book = written,
                Err(error) => tracing::warn!("{error}"),
            }
        }
        if let Some(guest) = book.guest()
            && let Err(error) = self.firewall.admit(vm, guest).await
        {
            tracing::warn!(vm = %vm, "{error}");
        }
    }

    /// What our instance amounts to.
    pub(super) fn observation(&self, own: &Own, book: &Book) -> Observation {
        let stopped = |by| Observation::Stopped { exit_code: None, out_of_memory: false, by };
        let up = |address: Option<Ipv4Addr>| match address {
            Some(address) => {
                Observation::Running { ssh: SocketAddr::from((address, self.ssh_port)) }
            }
            None => Observation::Broken {
                reason: "Multipass does not say at which address it is reached".to_owned(),
            },
        };
        let mut unknown = super::lock(&self.unknown_since);
        if own.state != State::Unknown {
            unknown.remove(own.name.as_str());
        }
        match own.state {
            State::Suspended | State::Suspending if book.suspended => Observation::Suspended,
            // The daemon suspends what runs when it ends.
            State::Suspended | State::Suspending => stopped(EndedBy::Host),
            State::Stopped => stopped(EndedBy::Unknown),
            State::Running | State::Starting | State::Restarting | State::DelayedShutdown => {
                up(book.address)
            }
            // So it is while it boots.
            State::Unknown => {
                let since = *unknown.entry(own.name.to_string()).or_insert_with(Instant::now);
                if since.elapsed() < self.pace.unknown {
                    up(book.address)
                } else {
                    Observation::Broken {
                        reason: "Multipass does not know what it is at, and does not reach it: 'start' switches \
                                 it off and on again"
                            .to_owned(),
                    }
                }
            }
            State::Deleted => Observation::Broken {
                reason: format!(
                    "somebody has put it into Multipass's trash: 'multipass recover {}' brings it back",
                    own.name
                ),
            },
        }
    }

    /// The guests among these that use the network.
    pub(super) fn guests(&self, own: &[Own]) -> std::collections::BTreeMap<VmId, Guest> {
        let books = self.books.all();
        let running = own.iter().filter(|one| !one.state.is_down());
        running
            .filter_map(|one| {
                let book = books.get(&one.name.vm())?;
                let is_its = book.is_current(one.name.as_str());
                Some((one.name.vm(), book.guest().filter(|_| is_its)?))
            })
            .collect()
    }
}
