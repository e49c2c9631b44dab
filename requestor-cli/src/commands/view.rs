//! A rental as JSON: the original's fields first, then ours.

use std::collections::BTreeSet;

use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Ability, Isolation, Lease, VmStatus};
use golem_vm_protocol::{KeyId, VmId, VmName};
use serde::Serialize;

use crate::app::App;
use crate::client::connector::shown_host;
use crate::error::Result;
use crate::market::usd;
use crate::rentals::{Rental, State};
use crate::ssh::openssh;

/// The figures, as the original groups them.
#[derive(Debug, Serialize)]
pub(super) struct ConfigView {
    cpu: u32,
    memory: u32,
    storage: u32,
    ssh_port: Option<u16>,
    /// The original's payment stream; there are none.
    stream_id: Option<i64>,
}

/// How to log in.
#[derive(Debug, Serialize)]
pub(super) struct SshView {
    host: String,
    port: u16,
    user: String,
    host_key: String,
    host_key_fingerprint: String,
    command: String,
}

/// One VM.
#[derive(Debug, Serialize)]
pub(super) struct VmView {
    name: VmName,
    provider_ip: Option<String>,
    vm_id: Option<VmId>,
    config: ConfigView,
    status: VmStatus,
    created_at: String,
    error_message: Option<String>,
    provider_id: KeyId,
    provider_name: String,
    image: Option<String>,
    isolation: Option<Isolation>,
    backend: Option<String>,
    accel: Option<String>,
    image_digest: Option<String>,
    /// Whether its memory is kept on its disk; its `status` is then `stopped`.
    suspended: bool,
    abilities: BTreeSet<Ability>,
    usd_per_month: Option<f64>,
    /// Whether somebody has logged in since it was created.
    confirmed: bool,
    /// Whether the provider did not answer, so that the status is the last known one.
    stale: bool,
    status_at: Timestamp,
    ssh: Option<SshView>,
    /// As the provider last told it.
    lease: Option<Lease>,
    /// How long each part of making it took, where it was made just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) took_ms: Option<serde_json::Value>,
}

impl VmView {
    /// Of a rental whose provider has answered, or (`stale`) not.
    pub(super) fn of(app: &App<'_>, rental: &Rental, stale: bool) -> Result<Self> {
        let known_hosts = app.known_hosts_path()?;
        let host = rental.ssh.as_ref().map(|ssh| ssh.host.clone());
        Ok(Self {
            name: rental.name.clone(),
            provider_ip: host.or_else(|| shown_host(&rental.provider.endpoints).map(str::to_owned)),
            vm_id: rental.vm_id,
            config: ConfigView {
                cpu: rental.resources.cpu,
                memory: rental.resources.memory,
                storage: rental.resources.storage,
                ssh_port: rental.ssh.as_ref().map(|ssh| ssh.port),
                stream_id: None,
            },
            status: rental.status,
            error_message: rental.problem.clone(),
            created_at: original_time(rental.created_at),
            provider_id: rental.provider.id,
            provider_name: rental.provider.name.clone(),
            image: rental.image.clone(),
            isolation: rental.isolation,
            backend: rental.backend.clone(),
            accel: rental.accel.clone(),
            image_digest: rental.image_digest.clone(),
            suspended: rental.suspended,
            abilities: rental.abilities.clone(),
            usd_per_month: rental.usd_micro_month.map(usd),
            confirmed: rental.state == State::Active,
            stale,
            status_at: rental.status_at,
            ssh: App::target(rental, &known_hosts).map(|target| SshView {
                host: target.access.host.clone(),
                port: target.access.port,
                user: target.access.user.clone(),
                host_key: target.access.host_key.without_comment().to_owned(),
                host_key_fingerprint: target.access.host_key.fingerprint(),
                command: openssh::shell_command(&target),
            }),
            lease: rental.lease.clone(),
            took_ms: None,
        })
    }
}

/// `2026-11-21 00:34:39`, UTC, as the original's list has it.
pub(super) fn original_time(time: Timestamp) -> String {
    let text = time.naive().to_string();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// How long ago, in the largest unit that fits.
pub(super) fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_their_reader() {
        let time = Timestamp::from_unix_micros(1_795_221_279_155_948);
        assert_eq!(original_time(time), "2026-11-21 00:34:39");
        let at = Timestamp::from_unix_seconds;
        assert_eq!(age(at(100), at(60)), "40s ago");
        assert_eq!(age(at(10_000), at(60)), "2h ago");
        assert_eq!(age(at(1_000_000), at(0)), "11d ago");
    }
}
