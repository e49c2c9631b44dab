//! The table in the kernel: put there, looked after, put back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use golem_vm_machine::network::host::{self, Changes};
use golem_vm_machine::network::nft::{self, NftError};
use golem_vm_protocol::{KeyId, VmId};
use ipnet::Ipv4Net;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::ruleset::{Ruleset, without_meters};
use super::{Guest, Names, Rules, TrafficGuard};
use crate::backend::Egress;

/// How often the table is looked at although nothing was said to have changed.
const LOOK: Duration = Duration::from_secs(3);
/// Least time between two looks because something changed.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether the kernel shows frames between two guests on one bridge to its firewall.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The names of this namespace's interfaces.
const INTERFACES: &str = "/proc/net/dev";

/// One provider's table.
#[derive(Debug)]
pub struct Firewall {
    names: Names,
    rules: Rules,
    // Held over the whole of a change, so that an older text never replaces a newer one.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was loaded last; `None` as long as the table is not meant to be there.
    loaded: Option<Loaded>,
    /// The guests that run, whether or not they are cut off.
    guests: BTreeMap<VmId, Guest>,
    /// Those that are cut off, whether or not they run.
    quarantined: BTreeSet<VmId>,
    /// How often a guest was admitted or dismissed.
    told: u64,
}

impl State {
    /// Who may use the network.
    fn heard(&self) -> BTreeSet<Guest> {
        let heard = self.guests.iter().filter(|(vm, _)| !self.quarantined.contains(vm));
        heard.map(|(_, guest)| *guest).collect()
    }
}

#[derive(Debug)]
struct Loaded {
    text: String,
    /// How the kernel lists it.
    listing: String,
}

impl Firewall {
    /// That of a provider. Nothing is loaded yet.
    #[must_use]
    pub fn new(provider: &KeyId, rules: Rules) -> Arc<Self> {
        Arc::new(Self { names: Names::of(provider), rules, state: Mutex::default() })
    }

    /// That for guests on a bridge that another program has made and serves. Nothing is loaded yet.
    #[must_use]
    pub fn on_bridge(provider: &KeyId, bridge: &str, egress: Egress, rules: Rules) -> Arc<Self> {
        let names = Names::on_bridge(provider, bridge, egress);
        Arc::new(Self { names, rules, state: Mutex::default() })
    }

    /// What the owner decided.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether an interface of that name is in this process's network namespace.
    #[must_use]
    pub fn has_interface(name: &str) -> bool {
        let table = std::fs::read_to_string(INTERFACES).unwrap_or_default();
        table.lines().any(|line| line.split_once(':').is_some_and(|(one, _)| one.trim() == name))
    }

    /// Whether the whole table can be loaded here: loads it under another name, and removes it.
    ///
    /// # Errors
    /// Why it can't, and behind a colon what to do about it.
    pub async fn trial(&self) -> Result<(), String> {
        let trial = &self.names.trial;
        let on_link = host::networks().await?;
        let state = self.state.lock().await;
        let text = self.text(trial, &on_link, &state.heard());
        let loaded = nft::load(&text).await;
        let listed = match &loaded {
            Ok(()) => nft::list(trial).await.map(drop),
            Err(_) => Ok(()),
        };
        let removed = match &loaded {
            Ok(()) => nft::remove(trial).await,
            Err(_) => Ok(()),
        };
        drop(state);
        loaded.and(listed).and(removed).map_err(|error| error.to_string())?;
        bridge_filter()
    }

    /// Counts what it was told of guests; for [`Self::saw`].
    pub async fn told(&self) -> u64 {
        self.state.lock().await.told
    }

    /// Takes these for all guests that run, seen at one look that began when [`Self::told`] was `before`. Does
    /// nothing if it was told something since: that may be newer, and there will be another look.
    ///
    /// # Errors
    /// Why the network can't be used by exactly these.
    pub async fn saw(&self, before: u64, guests: BTreeMap<VmId, Guest>) -> Result<(), String> {
        let mut state = self.state.lock().await;
        if state.told != before || state.guests == guests {
            return Ok(());
        }
        state.guests = guests;
        self.refill(&mut state).await
    }

    /// Makes sure that the table is there as it was loaded, and puts it back if not. Does nothing
    /// where it was never raised: guests are not contained there, and everybody was told.
    ///
    /// # Errors
    /// Why guests are not contained at this moment.
    pub async fn hold(&self) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let Some(loaded) = &state.loaded else { return Ok(()) };
        let began = Instant::now();
        bridge_filter()?;
        let on_link = host::networks().await?;
        let is_current = loaded.text == self.text(&self.names.table, &on_link, &state.heard());
        let is_there = match nft::list(&self.names.table).await {
            Ok(listing) => without_meters(&listing) == loaded.listing,
            Err(NftError::NoTable) => false,
            Err(error) => return Err(error.to_string()),
        };
        if !is_there {
            self.load(&mut state, &on_link, Change::Table).await?;
            let took = began.elapsed();
            tracing::warn!(
                ?took,
                "somebody removed or changed the firewall's rules for guests: they are back"
            );
        } else if !is_current {
            self.load(&mut state, &on_link, Change::Sets).await?;
            tracing::debug!("this host's networks changed, and the firewall's rules with them");
        }
        Ok(())
    }

    /// Lets a guest that runs use the network with the address that it has now, unless it is cut
    /// off. Until then nothing that it sends is let through. Does nothing when that is known.
    ///
    /// # Errors
    /// Why it can't use the network.
    pub async fn admit(&self, vm: VmId, guest: Guest) -> Result<(), String> {
        let mut state = self.state.lock().await;
        state.told += 1;
        if state.guests.get(&vm) == Some(&guest) {
            return Ok(());
        }
        // Whoever had the address before does not run any more.
        state.guests.retain(|_, other| other.address != guest.address);
        state.guests.insert(vm, guest);
        self.refill(&mut state).await
    }

    /// Forgets the address of a guest that does not run. Does nothing when there is none.
    ///
    /// # Errors
    /// Why its address can still be used.
    pub async fn dismiss(&self, vm: VmId) -> Result<(), String> {
        let mut state = self.state.lock().await;
        state.told += 1;
        if state.guests.remove(&vm).is_none() {
            return Ok(());
        }
        self.refill(&mut state).await
    }

    fn ruleset<'a>(
        &'a self,
        on_link: &'a BTreeSet<Ipv4Net>,
        guests: &'a BTreeSet<Guest>,
    ) -> Ruleset<'a> {
        Ruleset { names: &self.names, rules: &self.rules, on_link, guests }
    }

    fn text(&self, table: &str, on_link: &BTreeSet<Ipv4Net>, guests: &BTreeSet<Guest>) -> String {
        self.ruleset(on_link, guests).text(table)
    }

    /// Brings the table, if it was raised, to what the state is.
    async fn refill(&self, state: &mut State) -> Result<(), String> {
        if state.loaded.is_none() {
            return Ok(());
        }
        let on_link = host::networks().await?;
        let update = self.load(state, &on_link, Change::Sets).await;
        match update {
            Ok(()) => Ok(()),
            // The table has just been removed by somebody.
            Err(_) => self.load(state, &on_link, Change::Table).await,
        }
    }

    async fn load(
        &self,
        state: &mut State,
        on_link: &BTreeSet<Ipv4Net>,
        change: Change,
    ) -> Result<(), String> {
        let guests = state.heard();
        let (table, ruleset) = (&self.names.table, self.ruleset(on_link, &guests));
        let text = ruleset.text(table);
        let transaction = match change {
            Change::Table => &text,
            Change::Sets => &ruleset.update(table),
        };
        // What is listed is what the table is held against from now on, so a change by somebody else
        // between loading and listing must not be taken for ours: it does not come out the same twice.
        for _ in 0..SETTLE_ATTEMPTS {
            let first = load_and_list(transaction, table).await?;
            let listing = load_and_list(transaction, table).await?;
            if first != listing {
                continue;
            }
            if let (Change::Sets, Some(before)) = (change, &state.loaded)
                && chains(&before.listing) != chains(&listing)
            {
                return Err(format!("somebody else has changed the rules of {table}"));
            }
            state.loaded = Some(Loaded { text, listing });
            return Ok(());
        }
        Err(format!("somebody else changes the table {table} again and again: see 'nft monitor'"))
    }
}

#[async_trait]
impl TrafficGuard for Firewall {
    /// Puts the table there, and keeps it there from then on.
    async fn raise(&self, quarantined: BTreeSet<VmId>) -> Result<(), String> {
        let mut state = self.state.lock().await;
        state.quarantined = quarantined;
        let on_link = host::networks().await?;
        self.load(&mut state, &on_link, Change::Table).await
    }

    async fn is_raised(&self) -> bool {
        self.state.lock().await.loaded.is_some()
    }

    async fn quarantine(&self, vm: VmId, cut_off: bool) -> Result<(), String> {
        let mut state = self.state.lock().await;
        if state.loaded.is_none() {
            return Err("guests are not contained on this host, so none can be cut off: see \
                        'golem-provider doctor'"
                .to_owned());
        }
        let before = state.quarantined.clone();
        if cut_off {
            state.quarantined.insert(vm);
        } else {
            state.quarantined.remove(&vm);
        }
        let refilled = self.refill(&mut state).await;
        if refilled.is_err() {
            state.quarantined = before;
        }
        refilled
    }

    /// Removes the table, also one that was left by another process; does nothing if this process may not have
    /// made one.
    async fn lower(&self) -> Result<(), String> {
        let mut state = self.state.lock().await;
        state.loaded = None;
        for table in [&self.names.table, &self.names.trial] {
            match nft::remove(table).await {
                Ok(()) | Err(NftError::Missing | NftError::NotPermitted) => {}
                Err(error) => {
                    return Err(format!("can't remove the firewall's table {table}: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Starting a guest calls [`Self::hold`] as well.
    async fn watch(&self, token: CancellationToken) {
        let changes = Changes::listen();
        if let Err(error) = &changes {
            tracing::warn!(
                "changes of the firewall are noticed only every {} s: {error}",
                LOOK.as_secs()
            );
        }
        let mut changes = changes.ok();
        let mut timer = tokio::time::interval(LOOK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = None;
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = timer.tick() => {}
                changed = next_change(changes.as_mut()) => {
                    if changed.is_none() {
                        changes = None;
                    }
                }
            }
            let held = self.hold().await.err();
            match &held {
                Some(problem) if held != said => {
                    tracing::error!("guests may be uncontained: {problem}")
                }
                None if said.is_some() => tracing::info!("guests are contained again"),
                _ => {}
            }
            said = held;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// How often the table is loaded anew when somebody else changes it meanwhile.
const SETTLE_ATTEMPTS: usize = 5;

async fn load_and_list(transaction: &str, table: &str) -> Result<String, String> {
    nft::load(transaction).await.map_err(|error| error.to_string())?;
    let listing = nft::list(table).await.map_err(|error| error.to_string())?;
    Ok(without_meters(&listing))
}

/// The rules in a listing: they stand behind the sets.
fn chains(listing: &str) -> &str {
    listing.find("chain ").map_or("", |start| &listing[start..])
}

/// How much of the table is loaded anew.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// All of it; what the kernel has counted begins again.
    Table,
    /// What is in the sets.
    Sets,
}

async fn next_change(changes: Option<&mut Changes>) -> Option<()> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Without it the firewall does not see what guests on one bridge send each other.
fn bridge_filter() -> Result<(), String> {
    let filter = std::fs::read_to_string(BRIDGE_FILTER);
    match filter.as_deref().map(str::trim) {
        Ok("0") => Err(format!(
            "VMs can reach one another, because {BRIDGE_FILTER} is 0: set it to 1 (sysctl \
             net.bridge.bridge-nf-call-iptables=1)"
        )),
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "VMs can reach one another, because there is no {BRIDGE_FILTER}: load the kernel's \
             module for it ('modprobe br_netfilter')"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::KeyPair;

    use super::*;

    fn guest(last: u8) -> Guest {
        let mac = format!("02:42:ac:12:00:{last:02x}").parse().unwrap();
        Guest { address: [172, 18, 0, last].into(), mac }
    }

    #[tokio::test]
    async fn a_look_at_all_guests_counts_unless_something_newer_is_known() {
        let provider = KeyPair::from_secret_bytes([9; 32]).unwrap().id();
        let firewall = Firewall::new(&provider, Rules::default());
        let known = async || firewall.state.lock().await.guests.clone();
        let vm = |number| VmId::from_bytes([number; 16]);
        let first = BTreeMap::from([(vm(1), guest(2)), (vm(2), guest(3))]);
        firewall.saw(firewall.told().await, first.clone()).await.unwrap();
        assert_eq!(known().await, first);

        let before = firewall.told().await;
        firewall.dismiss(vm(1)).await.unwrap();
        firewall.admit(vm(3), guest(2)).await.unwrap();
        let newer = known().await;
        firewall.saw(before, first).await.unwrap();
        assert_eq!(known().await, newer, "what was seen is older than what it was told");

        firewall.saw(firewall.told().await, BTreeMap::new()).await.unwrap();
        assert_eq!(known().await, BTreeMap::new(), "none runs any more");
    }
}
