//! Ports with a forwarder inside the test's process, and with port checkers on loopback.
#![allow(clippy::unwrap_used)]

mod display;
mod forwarding;
mod verifying;

use std::time::Duration;

use golem_vm_node::settings::{Settings, SettingsSource};

use crate::config::{Config, TABLE};
use crate::forwarder::wire::{BindFailure, BindFailureReason, PortStatus};

/// No test takes nearly as long; a hanging one fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(pairs: &[(&str, &str)]) -> Config {
    let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let source = SettingsSource { environment, ..SettingsSource::default() };
    Config::from_settings(&Settings::load(&TABLE, source).unwrap()).unwrap()
}

/// The settings of a provider with the access ports `first` to `last`.
fn range(first: u16, last: u16, checkers: &str) -> Config {
    config(&[
        ("GOLEM_PROVIDER_PORT_RANGE_START", &first.to_string()),
        ("GOLEM_PROVIDER_PORT_RANGE_END", &(u32::from(last) + 1).to_string()),
        ("GOLEM_PROVIDER_PORT_CHECKERS", checkers),
    ])
}

fn held(port: u16) -> PortStatus {
    PortStatus { port, bound: true, failure: None, offered: true, route: None }
}

fn not_held(port: u16, reason: BindFailureReason) -> PortStatus {
    let failure = Some(BindFailure { reason, detail: "the system's words".into() });
    PortStatus { bound: false, failure, ..held(port) }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waiting until {what}");
}
