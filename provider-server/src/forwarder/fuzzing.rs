//! Bodies of the fuzz targets for what the forwarder reads; see `fuzz/README.md`.

use std::collections::BTreeSet;

use golem_vm_protocol::fuzzing::Target;

use super::wire::{self, Reply, Request};
use super::{reserved_ports, state};

/// Every target of this module: its name and its body.
pub const TARGETS: &[Target] =
    &[("forwarder_wire", lines), ("forwarder_state", stored), ("reserved_ports", ports)];

/// A line of the control socket: what is obeyed is within bounds, and written as it was read.
fn lines(data: &[u8]) {
    let _ = wire::decode_header(data);
    if let Ok(request) = wire::decode::<Request>(data) {
        let line = wire::encode(7, &request).unwrap_or_default();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "it is one line");
        assert_eq!(wire::decode::<Request>(&line).ok().as_ref(), Some(&request));
        assert!(wire::decode_header(&line).is_ok());
        if wire::validate(&request).is_ok() {
            match &request {
                Request::Routes { routes, .. } => {
                    let ports: BTreeSet<u16> = routes.iter().map(|route| route.port).collect();
                    assert_eq!(ports.len(), routes.len());
                    assert!(!ports.contains(&0));
                }
                Request::SetRoute { route } => assert!(route.target.port() != 0),
                _ => {}
            }
        }
    }
    if let Ok(reply) = wire::decode::<Reply>(data) {
        let line = wire::encode(7, &reply).unwrap_or_default();
        assert_eq!(wire::decode::<Reply>(&line).ok().as_ref(), Some(&reply));
    }
}

/// The table that a forwarder takes up after a restart is as strict as its socket.
fn stored(data: &[u8]) {
    if let Ok(state) = state::parse(data) {
        assert!(state.routes.iter().all(|route| route.port != 0 && !route.vm.is_empty()));
    }
}

/// The kernel's list of reserved ports is written as it was read.
fn ports(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(ports) = reserved_ports::parse(text) {
        assert_eq!(reserved_ports::parse(&reserved_ports::format(&ports)), Some(ports));
    }
}
