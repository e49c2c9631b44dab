//! Which ports are held and where they lead: what the provider asked for, and what has become
//! of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::carriers::Packed;
use super::handover::PackedPort;
use super::limits::{Gate, PortLimits};
use super::listeners::{Door, Listener, PortState};
use super::reserved_ports::ReservedPorts;
use super::state::{State, StateFile};
use super::wire::{BindFailure, PortStats, PortStatus, Refusal, RefusalCode, Route, Stats};

/// The table. Every change is stored before it is answered, if it can be: a full disk must not
/// keep a VM from its port, so a change that can't be stored counts all the same, and is stored
/// as soon as that works again.
#[derive(Debug)]
pub(super) struct Table {
    listen_ip: Option<IpAddr>,
    offered: BTreeSet<u16>,
    routes: BTreeMap<u16, Route>,
    ports: BTreeMap<u16, Port>,
    sessions: Arc<Gate>,
    per_port: PortLimits,
    door: Arc<Door>,
    reserved: ReservedPorts,
    file: StateFile,
    /// What the file holds, as far as it is known.
    stored: Option<State>,
    /// So that a file that can't be written is said once.
    reported: bool,
}

#[derive(Debug)]
struct Port {
    state: Arc<PortState>,
    listener: Result<Listener, BindFailure>,
}

impl Table {
    /// The table as it was stored, without listeners yet: [`Table::apply`] starts them.
    pub(super) fn new(
        state: State,
        file: StateFile,
        reserved: ReservedPorts,
        sessions: Arc<Gate>,
        per_port: PortLimits,
        door: Arc<Door>,
    ) -> Self {
        Self {
            listen_ip: state.listen_ip,
            offered: state.offered,
            routes: state.routes.into_iter().map(|route| (route.port, route)).collect(),
            ports: BTreeMap::new(),
            sessions,
            per_port,
            door,
            reserved,
            file,
            stored: None,
            reported: false,
        }
    }

    /// How many ports are wanted and how many of them are held.
    pub(super) fn counts(&self) -> (usize, usize) {
        let held = self.ports.values().filter(|port| port.listener.is_ok()).count();
        (self.wanted().len(), held)
    }

    /// The full set of ports to hold.
    pub(super) async fn offer(
        &mut self,
        listen_ip: IpAddr,
        offered: BTreeSet<u16>,
    ) -> Vec<PortStatus> {
        if self.listen_ip != Some(listen_ip) {
            self.listen_ip = Some(listen_ip);
            // The old address and the new one may exclude each other. Sessions go on.
            for port in self.ports.values_mut() {
                let none = Err(not_yet());
                if let Ok(listener) = std::mem::replace(&mut port.listener, none) {
                    listener.stop().await;
                }
            }
        }
        self.offered = offered;
        self.apply().await;
        self.store().await;
        self.status()
    }

    /// The full set of routes.
    pub(super) async fn set_routes(
        &mut self,
        routes: Vec<Route>,
        close_removed: bool,
    ) -> Result<Vec<PortStatus>, Refusal> {
        self.needs_offer(!routes.is_empty())?;
        let routes: BTreeMap<u16, Route> =
            routes.into_iter().map(|route| (route.port, route)).collect();
        let before = std::mem::replace(&mut self.routes, routes);
        if close_removed {
            for route in before.values() {
                if self.routes.get(&route.port).is_none_or(|now| now.vm != route.vm) {
                    self.cut(route.port);
                }
            }
        }
        self.apply().await;
        self.store().await;
        Ok(self.status())
    }

    /// Adds or replaces one route.
    pub(super) async fn set_route(&mut self, route: Route) -> Result<Vec<PortStatus>, Refusal> {
        self.needs_offer(true)?;
        let port = route.port;
        self.routes.insert(port, route);
        self.apply().await;
        self.store().await;
        Ok(self.status_of(port).into_iter().collect())
    }

    /// Removes one route.
    pub(super) async fn clear_route(&mut self, port: u16, close_sessions: bool) -> Vec<PortStatus> {
        self.routes.remove(&port);
        self.apply().await;
        if close_sessions {
            self.cut(port);
        }
        self.store().await;
        self.status_of(port).into_iter().collect()
    }

    /// The state of every port that is held or wanted.
    pub(super) fn status(&self) -> Vec<PortStatus> {
        self.ports.keys().filter_map(|port| self.status_of(*port)).collect()
    }

    fn status_of(&self, number: u16) -> Option<PortStatus> {
        let offered = self.offered.contains(&number);
        let route = self.routes.get(&number).cloned();
        if !offered && route.is_none() {
            return None;
        }
        let port = self.ports.get(&number)?;
        Some(PortStatus {
            port: number,
            bound: port.listener.is_ok(),
            failure: port.listener.as_ref().err().cloned(),
            offered,
            route,
        })
    }

    /// What goes through the ports.
    pub(super) fn stats(&self) -> Stats {
        let ports = self.ports.iter().filter_map(|(number, port)| {
            let open = port.state.open() as u64;
            let destination = port.state.destination();
            if open == 0 && destination.is_none() {
                return None;
            }
            let mut stats = PortStats {
                port: *number,
                open,
                turned_away: port.state.turned_away(),
                ..PortStats::default()
            };
            if let Some(destination) = destination {
                let counts = destination.traffic.read();
                stats.vm = Some(destination.route.vm.clone());
                stats.sessions = counts.sessions;
                stats.unreachable = counts.unreachable;
                stats.bytes_in = counts.bytes_in;
                stats.bytes_out = counts.bytes_out;
                stats.last_activity_unix_ms = counts.last_activity_unix_ms;
                stats.quiet_ms = u64::try_from(counts.quiet_for.as_millis()).ok();
            }
            Some(stats)
        });
        Stats {
            open: self.sessions.open() as u64,
            limit: self.sessions.limit() as u64,
            limit_per_port: self.per_port.sessions as u64,
            ports: ports.collect(),
        }
    }

    /// Accepts no more and stops all sessions, and returns what it takes to go on: [`Table::unpack`]. Ports
    /// stay held. Also returned is how many sessions have not stopped.
    pub(super) async fn pack(&mut self) -> (State, Vec<PackedPort>, Vec<Packed>, usize) {
        let mut ports = Vec::new();
        for (number, port) in std::mem::take(&mut self.ports) {
            let listener = match port.listener {
                Ok(listener) => listener.pack().await,
                Err(_) => None,
            };
            ports.push(PackedPort {
                port: number,
                listener,
                turned_away: port.state.turned_away(),
                traffic: port
                    .state
                    .destination()
                    .map(|destination| (destination.route.vm.clone(), destination.traffic.read())),
            });
        }
        let (sessions, running) = self.door.carriers.stop_all().await;
        (self.state(), ports, sessions, running)
    }

    /// Goes on with what was packed. [`Table::apply`] does the rest.
    pub(super) fn unpack(&mut self, ports: Vec<PackedPort>, mut sessions: Vec<Packed>) {
        for packed in ports {
            let state = self.new_port(packed.port);
            state.resume(self.routes.get(&packed.port), packed.turned_away, packed.traffic);
            let listener = match packed.listener {
                Some(listener) => Listener::resume(listener, &state),
                None => Err(not_yet()),
            };
            self.ports.insert(packed.port, Port { state, listener });
        }
        // Those who have not said what they want come last, and those who came last among them: who
        // waits longest gives way first.
        sessions.sort_by_key(|packed| (!packed.session.is_ssh, std::cmp::Reverse(packed.age)));
        for packed in sessions {
            match self.ports.get(&packed.port) {
                Some(port) => port.state.resume_session(packed),
                None => tracing::warn!(port = packed.port, "a session's port is lost"),
            }
        }
    }

    fn new_port(&self, number: u16) -> Arc<PortState> {
        let (sessions, door) = (Arc::clone(&self.sessions), Arc::clone(&self.door));
        PortState::new(number, self.per_port, sessions, door)
    }

    /// Makes what is so like what was asked for: binds what is missing (and is tried again in
    /// vain as often as this is called), releases what is not wanted, leads ports where they
    /// should lead.
    pub(super) async fn apply(&mut self) {
        let wanted = self.wanted();
        // Reserved first: what is not bound yet can't be taken in between.
        self.reserved.want(&wanted);
        let mut kept = BTreeMap::new();
        for (number, mut port) in std::mem::take(&mut self.ports) {
            if wanted.contains(&number) {
                kept.insert(number, port);
                continue;
            }
            port.state.lead_to(None);
            if let Ok(listener) = std::mem::replace(&mut port.listener, Err(not_yet())) {
                listener.stop().await;
                tracing::info!(port = number, "port released");
            }
            // Its sessions go on, and can still be cut.
            if port.state.open() > 0 {
                kept.insert(number, port);
            }
        }
        self.ports = kept;
        let Some(listen_ip) = self.listen_ip else { return };
        for number in wanted {
            if !self.ports.contains_key(&number) {
                let state = self.new_port(number);
                self.ports.insert(number, Port { state, listener: Err(not_yet()) });
            }
            let Some(port) = self.ports.get_mut(&number) else { continue };
            let route = self.routes.get(&number);
            if port.state.destination().as_ref().map(|there| &there.route) != route {
                port.state.lead_to(route.cloned());
            }
            match &port.listener {
                Ok(listener) if listener.lives() => continue,
                _ => {}
            }
            let listener = Listener::start(listen_ip, &port.state);
            match (&port.listener, &listener) {
                (_, Ok(_)) => tracing::debug!(port = number, "port bound"),
                (Err(before), Err(now)) if before == now => {}
                (_, Err(now)) => {
                    tracing::warn!(
                        port = number,
                        "the port can't be bound, trying on: {}",
                        now.detail
                    );
                }
            }
            port.listener = listener;
        }
    }

    /// Tries again what has not worked: ports that could not be bound, a file that could not be
    /// written.
    pub(super) async fn try_on(&mut self) {
        self.apply().await;
        // Before the first offer there is nothing worth a file.
        if self.listen_ip.is_some() {
            self.store().await;
        }
    }

    /// Lets every port go and cuts every session; what is stored stays.
    pub(super) async fn close(&mut self) {
        for port in std::mem::take(&mut self.ports).into_values() {
            if let Ok(listener) = port.listener {
                listener.stop().await;
            }
            port.state.cut_sessions();
        }
        self.reserved.want(&BTreeSet::new());
        // So that a successor doesn't think that it must take out what is not there any more.
        self.store().await;
    }

    fn wanted(&self) -> BTreeSet<u16> {
        self.offered.iter().chain(self.routes.keys()).copied().collect()
    }

    fn cut(&self, port: u16) {
        if let Some(port) = self.ports.get(&port) {
            port.state.cut_sessions();
        }
    }

    fn needs_offer(&self, needed: bool) -> Result<(), Refusal> {
        if needed && self.listen_ip.is_none() {
            return Err(Refusal::new(
                RefusalCode::NothingOffered,
                "no ports have been offered yet, so the address to listen on is not known; offer first",
            ));
        }
        Ok(())
    }

    fn state(&self) -> State {
        State::new(
            self.listen_ip,
            self.offered.clone(),
            self.routes.values().cloned().collect(),
            self.reserved.ours().clone(),
        )
    }

    /// Stores the table if it is not what was stored last.
    async fn store(&mut self) {
        let state = self.state();
        if self.stored.as_ref() == Some(&state) {
            return;
        }
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || file.store(&state).map(|()| state))
            .await
            .unwrap_or_else(|failed| Err(std::io::Error::other(failed)));
        match written {
            Ok(state) => {
                self.stored = Some(state);
                self.reported = false;
            }
            Err(error) => {
                self.stored = None;
                if !self.reported {
                    self.reported = true;
                    tracing::error!(
                        "the ports and routes are in effect but can't be stored, trying on: {error}"
                    );
                }
            }
        }
    }
}

/// Why a port that has just come in has no listener.
fn not_yet() -> BindFailure {
    BindFailure {
        reason: super::wire::BindFailureReason::Other,
        detail: "not tried yet".to_owned(),
    }
}
