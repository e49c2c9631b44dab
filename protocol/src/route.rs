//! Every path of every service, for servers and clients alike. A route ends in its pattern
//! (`/api/v1/vms/{name}`), and has a builder where it takes a parameter.

use crate::vm::SnapshotName;
use crate::{KeyId, VmRef};

/// Liveness of every service.
pub const HEALTH: &str = "/health";

/// Discovery: publish, search.
pub const ADVERTISEMENTS: &str = "/api/v1/advertisements";
/// Discovery: get one, withdraw.
pub const ADVERTISEMENT: &str = "/api/v1/advertisements/{provider_id}";

/// Port checker: check whose ports these are, and attest it.
pub const PORT_CHECKS: &str = "/api/v1/port-checks";
/// Port checker: the original's check, which looks for open ports only.
pub const CHECK_PORTS: &str = "/check-ports";

/// Provider: what it is.
pub const PROVIDER_INFO: &str = "/api/v1/provider/info";
/// Provider: the original's overview for a GUI; served on the control socket only.
pub const SUMMARY: &str = "/api/v1/summary";
/// Provider: create, list.
pub const VMS: &str = "/api/v1/vms";
/// Provider: get, delete.
pub const VM: &str = "/api/v1/vms/{name}";
/// Provider: where SSH answers.
pub const VM_ACCESS: &str = "/api/v1/vms/{name}/access";
/// Provider: start.
pub const VM_START: &str = "/api/v1/vms/{name}/start";
/// Provider: stop.
pub const VM_STOP: &str = "/api/v1/vms/{name}/stop";
/// Provider: restart.
pub const VM_RESTART: &str = "/api/v1/vms/{name}/restart";
/// Provider: what the VM uses now.
pub const VM_STATS: &str = "/api/v1/vms/{name}/stats";
/// Provider: which SSH keys may log in; changing them.
pub const VM_KEYS: &str = "/api/v1/vms/{name}/keys";
/// Provider: makes a lease end later.
pub const VM_EXTEND: &str = "/api/v1/vms/{name}/extend";
/// Provider: has a VM back whose lease has ended.
pub const VM_UNDELETE: &str = "/api/v1/vms/{name}/undelete";
/// Provider: what happened to a VM.
pub const VM_EVENTS: &str = "/api/v1/vms/{name}/events";
/// Provider: the same as it happens.
pub const VM_EVENT_STREAM: &str = "/api/v1/vms/{name}/events/stream";
/// Provider: keeps a VM's memory on its disk, and ends it.
pub const VM_SUSPEND: &str = "/api/v1/vms/{name}/suspend";
/// Provider: lets a suspended VM go on.
pub const VM_RESUME: &str = "/api/v1/vms/{name}/resume";
/// Provider: a VM's snapshots; making one.
pub const VM_SNAPSHOTS: &str = "/api/v1/vms/{name}/snapshots";
/// Provider: deletes a snapshot.
pub const VM_SNAPSHOT: &str = "/api/v1/vms/{name}/snapshots/{snapshot}";
/// Provider: takes a VM back to a snapshot.
pub const VM_SNAPSHOT_RESTORE: &str = "/api/v1/vms/{name}/snapshots/{snapshot}/restore";
/// Provider: creates a VM with another one's disk.
pub const VM_CLONE: &str = "/api/v1/vms/{name}/clone";
/// Provider: makes a VM larger or smaller.
pub const VM_RESIZE: &str = "/api/v1/vms/{name}/resize";
/// Provider: what a VM's console has said.
pub const VM_CONSOLE: &str = "/api/v1/vms/{name}/console";
/// Provider: opens a VM's console; what it says.
pub const VM_CONSOLE_STREAM: &str = "/api/v1/vms/{name}/console/stream";
/// Provider: types into a console that is open.
pub const VM_CONSOLE_INPUT: &str = "/api/v1/vms/{name}/console/input";
/// Provider: one asynchronous operation (the original calls it a job).
pub const VM_OPERATION: &str = "/api/v1/vms/jobs/{job_id}";

/// Which service answers on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Discovery.
    Discovery,
    /// The port checker.
    PortChecker,
    /// The provider.
    Provider,
    /// The provider's control socket, which is no TCP.
    ControlSocket,
}

/// Who gets more than a refusal from a route. docs/http-api.md says the same; both are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Whoever asks, signed or not.
    Everybody,
    /// Whoever signs, for what is then its own.
    AnyKey,
    /// The one key whom it concerns: a VM's owner, or the provider whose advertisement it is. To all
    /// others an owner's VM is one that never was.
    Concerned,
    /// The owner of the service, who can open its socket.
    ServiceOwner,
}

impl Caller {
    /// As docs/http-api.md writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Everybody => "everybody",
            Self::AnyKey => "any key",
            Self::Concerned => "the key it concerns",
            Self::ServiceOwner => "the service's owner",
        }
    }
}

/// One method on one path of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Who answers.
    pub service: Service,
    /// The method; HEAD goes with every GET.
    pub method: &'static str,
    /// The path's pattern.
    pub pattern: &'static str,
    /// Who may call it.
    pub caller: Caller,
}

const fn route(
    service: Service,
    method: &'static str,
    pattern: &'static str,
    caller: Caller,
) -> Route {
    Route { service, method, pattern, caller }
}

/// Everything that is served, and to whom. Tests try every route here with every method as everybody
/// who may not, so that a route can't be added without being tried.
pub const ROUTES: &[Route] = &[
    route(Service::Discovery, "GET", HEALTH, Caller::Everybody),
    route(Service::Discovery, "GET", ADVERTISEMENTS, Caller::Everybody),
    route(Service::Discovery, "POST", ADVERTISEMENTS, Caller::Concerned),
    route(Service::Discovery, "GET", ADVERTISEMENT, Caller::Everybody),
    route(Service::Discovery, "DELETE", ADVERTISEMENT, Caller::Concerned),
    route(Service::PortChecker, "GET", HEALTH, Caller::Everybody),
    route(Service::PortChecker, "POST", PORT_CHECKS, Caller::AnyKey),
    route(Service::PortChecker, "POST", CHECK_PORTS, Caller::AnyKey),
    route(Service::Provider, "GET", HEALTH, Caller::Everybody),
    route(Service::Provider, "GET", PROVIDER_INFO, Caller::Everybody),
    route(Service::Provider, "POST", VMS, Caller::AnyKey),
    route(Service::Provider, "GET", VMS, Caller::AnyKey),
    route(Service::Provider, "GET", VM_OPERATION, Caller::Concerned),
    route(Service::Provider, "GET", VM, Caller::Concerned),
    route(Service::Provider, "DELETE", VM, Caller::Concerned),
    route(Service::Provider, "GET", VM_ACCESS, Caller::Concerned),
    route(Service::Provider, "POST", VM_START, Caller::Concerned),
    route(Service::Provider, "POST", VM_STOP, Caller::Concerned),
    route(Service::Provider, "POST", VM_RESTART, Caller::Concerned),
    route(Service::Provider, "GET", VM_STATS, Caller::Concerned),
    route(Service::Provider, "GET", VM_KEYS, Caller::Concerned),
    route(Service::Provider, "POST", VM_KEYS, Caller::Concerned),
    route(Service::Provider, "POST", VM_EXTEND, Caller::Concerned),
    route(Service::Provider, "POST", VM_UNDELETE, Caller::Concerned),
    route(Service::Provider, "GET", VM_EVENTS, Caller::Concerned),
    route(Service::Provider, "GET", VM_EVENT_STREAM, Caller::Concerned),
    route(Service::Provider, "POST", VM_SUSPEND, Caller::Concerned),
    route(Service::Provider, "POST", VM_RESUME, Caller::Concerned),
    route(Service::Provider, "GET", VM_SNAPSHOTS, Caller::Concerned),
    route(Service::Provider, "POST", VM_SNAPSHOTS, Caller::Concerned),
    route(Service::Provider, "DELETE", VM_SNAPSHOT, Caller::Concerned),
    route(Service::Provider, "POST", VM_SNAPSHOT_RESTORE, Caller::Concerned),
    route(Service::Provider, "POST", VM_CLONE, Caller::Concerned),
    route(Service::Provider, "POST", VM_RESIZE, Caller::Concerned),
    route(Service::Provider, "GET", VM_CONSOLE, Caller::Concerned),
    route(Service::Provider, "GET", VM_CONSOLE_STREAM, Caller::Concerned),
    route(Service::Provider, "POST", VM_CONSOLE_INPUT, Caller::Concerned),
    route(Service::ControlSocket, "GET", SUMMARY, Caller::ServiceOwner),
];

/// Fills the first parameter of a route.
fn fill(pattern: &str, value: &str) -> String {
    match (pattern.find('{'), pattern.find('}')) {
        (Some(start), Some(end)) => format!("{}{value}{}", &pattern[..start], &pattern[end + 1..]),
        _ => pattern.to_owned(),
    }
}

/// One provider's advertisement.
#[must_use]
pub fn advertisement(provider: &KeyId) -> String {
    fill(ADVERTISEMENT, &provider.to_string())
}

/// One VM.
#[must_use]
pub fn vm(vm: &VmRef) -> String {
    fill(VM, vm.as_str())
}

/// Where a VM's SSH answers.
#[must_use]
pub fn vm_access(vm: &VmRef) -> String {
    fill(VM_ACCESS, vm.as_str())
}

/// Starts a VM.
#[must_use]
pub fn vm_start(vm: &VmRef) -> String {
    fill(VM_START, vm.as_str())
}

/// Stops a VM.
#[must_use]
pub fn vm_stop(vm: &VmRef) -> String {
    fill(VM_STOP, vm.as_str())
}

/// Restarts a VM.
#[must_use]
pub fn vm_restart(vm: &VmRef) -> String {
    fill(VM_RESTART, vm.as_str())
}

/// What a VM uses now.
#[must_use]
pub fn vm_stats(vm: &VmRef) -> String {
    fill(VM_STATS, vm.as_str())
}

/// Which SSH keys may log in to a VM.
#[must_use]
pub fn vm_keys(vm: &VmRef) -> String {
    fill(VM_KEYS, vm.as_str())
}

/// Makes a VM's lease end later.
#[must_use]
pub fn vm_extend(vm: &VmRef) -> String {
    fill(VM_EXTEND, vm.as_str())
}

/// Has a VM back whose lease has ended.
#[must_use]
pub fn vm_undelete(vm: &VmRef) -> String {
    fill(VM_UNDELETE, vm.as_str())
}

/// What happened to a VM.
#[must_use]
pub fn vm_events(vm: &VmRef) -> String {
    fill(VM_EVENTS, vm.as_str())
}

/// What happens to a VM, as it happens.
#[must_use]
pub fn vm_event_stream(vm: &VmRef) -> String {
    fill(VM_EVENT_STREAM, vm.as_str())
}

/// Suspends a VM.
#[must_use]
pub fn vm_suspend(vm: &VmRef) -> String {
    fill(VM_SUSPEND, vm.as_str())
}

/// Lets a suspended VM go on.
#[must_use]
pub fn vm_resume(vm: &VmRef) -> String {
    fill(VM_RESUME, vm.as_str())
}

/// A VM's snapshots.
#[must_use]
pub fn vm_snapshots(vm: &VmRef) -> String {
    fill(VM_SNAPSHOTS, vm.as_str())
}

/// Clones a VM.
#[must_use]
pub fn vm_clone(vm: &VmRef) -> String {
    fill(VM_CLONE, vm.as_str())
}

/// Resizes a VM.
#[must_use]
pub fn vm_resize(vm: &VmRef) -> String {
    fill(VM_RESIZE, vm.as_str())
}

/// What a VM's console has said.
#[must_use]
pub fn vm_console(vm: &VmRef) -> String {
    fill(VM_CONSOLE, vm.as_str())
}

/// Opens a VM's console.
#[must_use]
pub fn vm_console_stream(vm: &VmRef) -> String {
    fill(VM_CONSOLE_STREAM, vm.as_str())
}

/// Types into a VM's console.
#[must_use]
pub fn vm_console_input(vm: &VmRef) -> String {
    fill(VM_CONSOLE_INPUT, vm.as_str())
}

/// One snapshot of a VM.
#[must_use]
pub fn vm_snapshot(vm: &VmRef, snapshot: &SnapshotName) -> String {
    fill(&fill(VM_SNAPSHOT, vm.as_str()), snapshot.as_str())
}

/// Takes a VM back to a snapshot.
#[must_use]
pub fn vm_snapshot_restore(vm: &VmRef, snapshot: &SnapshotName) -> String {
    fill(&fill(VM_SNAPSHOT_RESTORE, vm.as_str()), snapshot.as_str())
}

/// One operation; `id` as the provider gave it.
#[must_use]
pub fn vm_operation(id: &str) -> String {
    let safe: String =
        id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
    fill(VM_OPERATION, &safe)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_pattern_is_in_the_table() {
        let patterns: Vec<&str> = include_str!("route.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub const "))
            .filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";"))
            .collect();
        assert!(patterns.len() > 12 && patterns.contains(&VM_OPERATION), "{patterns:?}");
        for pattern in patterns {
            assert!(
                ROUTES.iter().any(|route| route.pattern == pattern),
                "{pattern} is not in ROUTES: say there who may call it"
            );
        }
    }

    #[test]
    fn builders_fill_their_pattern() {
        let name: VmRef = "box".parse().unwrap();
        assert_eq!(vm(&name), "/api/v1/vms/box");
        assert_eq!(vm_stats(&name), "/api/v1/vms/box/stats");
        let first = "first".parse().unwrap();
        assert_eq!(vm_snapshot_restore(&name, &first), "/api/v1/vms/box/snapshots/first/restore");
        assert_eq!(vm_operation("a/../b"), "/api/v1/vms/jobs/ab");
    }
}
