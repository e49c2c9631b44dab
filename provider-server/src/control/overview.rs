//! How the provider is, gathered for its owner.

use std::sync::Arc;
use std::time::Duration;

use golem_vm_node::http::ProblemResponse;
use golem_vm_protocol::provider::{ResourceSummary, Summary, SummaryEnvironment, SummaryVm};

use super::messages::{
    BackendCan, BackendStatus, CapacityStatus, Check, DiscoveryStatus, HostUse, OrphanLine,
    PortsStatus, Status, VmLine,
};
use super::running::Running;
use crate::advertise::Offering;
use crate::app;
use crate::backend::{Connected, Standing};
use crate::doctor;
use crate::host;
use crate::orphans::OrphanRegister as _;
use crate::ports::{PortReport, PortsReport, Verification};
use crate::vm::VmRecord;
use crate::vm::record::OwnerColumn;
use crate::vm::repository::VmRepository as _;

/// Over how long CPU use is measured.
const CPU_SAMPLE: Duration = Duration::from_millis(250);

pub(super) async fn status(running: &Running) -> Result<Status, ProblemResponse> {
    let conditions = &running.rental.conditions;
    let records = running.rental.vms.all().await?;
    let reserved = running.store.reserved().await?;
    let images =
        running.rental.images.list().await.map_err(|error| ProblemResponse::internal(&error))?;
    Ok(Status {
        provider_id: running.id,
        name: running.info.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: running.started_at,
        api: running.api.to_string(),
        public_host: running.info.public_host(),
        backends: backends(running, &records),
        open_to_strangers: conditions.open_to_strangers().is_ok(),
        host: host_use(running).await?,
        capacity: CapacityStatus {
            offered: conditions.offered,
            reserved,
            free: conditions.offered.less(reserved),
        },
        ports: ports(running, &records),
        discovery: discovery(running),
        images,
        vms: records.into_iter().map(|record| line(running, record)).collect(),
        orphans: orphans(running).await?,
    })
}

fn backends(running: &Running, records: &[VmRecord]) -> Vec<BackendStatus> {
    let allows = running.rental.conditions.allow_uncontained;
    let of_each = running.backends.now();
    let of_each = of_each.iter().map(|member| {
        let made = records.iter().filter(|record| record.terms.backend == member.kind);
        let (away, can) = match &member.standing {
            Standing::Away(reason) => (Some(reason.clone()), None),
            Standing::There(present) => {
                let found = (*present.found.now()).clone();
                let can = BackendCan {
                    version: found.version,
                    isolation: found.isolation,
                    accel: found.accel,
                    enforced: found.enforced,
                    abilities: found.abilities,
                    serves_strangers: allows || present.contained(),
                    containment: found.containment,
                    trouble: present.trouble(),
                };
                (None, Some(can))
            }
        };
        BackendStatus { backend: member.kind, vms: made.count(), away, can }
    });
    of_each.collect()
}

async fn orphans(running: &Running) -> Result<Vec<OrphanLine>, ProblemResponse> {
    let grace = running.config.orphan_grace;
    let noted = running.store.noted().await?;
    Ok(noted
        .into_iter()
        .map(|orphan| OrphanLine {
            instance: orphan.instance.to_string(),
            first_seen_at: orphan.first_seen_at,
            removed_in_seconds: grace.saturating_sub(orphan.known_for).as_secs(),
        })
        .collect())
}

async fn host_use(running: &Running) -> Result<HostUse, ProblemResponse> {
    let data = running.vm_data.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let resources = host::measure(host::existing_ancestor(&data))?;
        Ok::<_, host::HostError>(HostUse { resources, cpu_percent: host::cpu_percent(CPU_SAMPLE)? })
    });
    match measured.await {
        Ok(measured) => measured.map_err(|error| ProblemResponse::internal(&error)),
        Err(error) => Err(ProblemResponse::internal(&error)),
    }
}

fn ports(running: &Running, records: &[VmRecord]) -> PortsStatus {
    let report = running.ports.report();
    let edge = |port: Option<&PortReport>| port.map_or(0, |port| port.port);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    PortsStatus {
        first: edge(report.access.first()),
        last: edge(report.access.last()),
        bound: count(report.held()),
        usable: count(report.usable()),
        in_use: count(records.len()),
        verified_from_outside: report.verification != Verification::Off,
        verified_at: report.verified_at(),
        checkers: report.checkers.clone(),
        problems: report
            .problems()
            .into_iter()
            .map(|problem| format!("{}: {}", problem.found, problem.remedy))
            .chain(closed(&report, records))
            .collect(),
    }
}

/// The VMs that have a port through which nobody comes. They keep it, and no other VM gets it.
fn closed(report: &PortsReport, records: &[VmRecord]) -> Vec<String> {
    let of_each = records.iter().filter_map(|record| {
        let why = report.closed_because(record.ssh_port)?;
        Some(format!("nobody can log in to VM '{}' ({}) now: {why}", record.name, record.id))
    });
    of_each.collect()
}

fn discovery(running: &Running) -> Vec<DiscoveryStatus> {
    let status = running.advertiser.status();
    let nothing = match status.offering {
        Offering::Nothing { reason } => Some(reason),
        Offering::Unknown | Offering::Offered { .. } => None,
    };
    let each = status.discoveries.into_iter();
    each.map(|server| DiscoveryStatus {
        url: server.url,
        published_at: server.published_at,
        sequence: server.sequence,
        problem: nothing.clone().or(server.error),
    })
    .collect()
}

pub(super) fn line(running: &Running, record: VmRecord) -> VmLine {
    VmLine {
        lease: running.rental.lease_of(&record),
        id: record.id.to_string(),
        owner: OwnerColumn(record.owner).to_string(),
        status: record.state.status(),
        message: record.state.message().map(str::to_owned),
        quarantined_at: record.quarantined_at,
        ssh_port: record.ssh_port,
        resources: record.terms.resources,
        instance: record.instance().to_string(),
        created_at: record.created_at,
        image: record.terms.image,
        backend: record.terms.backend,
        name: record.name.to_string(),
    }
}

/// What `golem-provider doctor` finds while the provider runs.
pub(super) async fn checks(running: &Running) -> Result<Vec<Check>, ProblemResponse> {
    let records = running.rental.vms.all().await?;
    let facts = doctor::gather(doctor::Subject {
        config: &running.config,
        data_dir: &running.data_dir,
        backends: connected(running).await?,
        store: Some(running.store.clone()),
        running: Some(doctor::Running {
            ports: ports(running, &records),
            discovery: discovery(running),
            offered: running.rental.conditions.offered,
        }),
        clock: Arc::clone(&running.clock),
    });
    Ok(doctor::examine(&facts.await))
}

/// The backends that are there, and anew those that are not, those that `auto` did not take included.
async fn connected(running: &Running) -> Result<Vec<Connected>, ProblemResponse> {
    let (config, data_dir, store) = (&running.config, &running.data_dir, &running.store);
    let mut connected = app::connect_all(config, &running.key, data_dir, Some(store))
        .await
        .map_err(|error| ProblemResponse::internal(&error))?;
    for (kind, backend) in &mut connected {
        if let Ok(present) = running.backends.of(*kind) {
            *backend = Ok(present.backend);
        }
    }
    Ok(connected)
}

/// The original's overview for a GUI.
pub(super) async fn summary(running: &Running) -> Result<Summary, ProblemResponse> {
    let offered = running.rental.conditions.offered;
    let reserved = running.store.reserved().await?;
    let vms = running.rental.vms.all().await?.into_iter().map(|record| SummaryVm {
        id: record.public_id(),
        status: record.state.status(),
        ssh_port: Some(record.ssh_port),
        resources: record.terms.resources,
    });
    Ok(Summary {
        status: "running".to_owned(),
        resources: ResourceSummary {
            total: offered.whole(),
            available: offered.less(reserved).whole(),
        },
        pricing: running.rental.conditions.prices.into(),
        vms: vms.collect(),
        env: SummaryEnvironment {
            environment: "production".to_owned(),
            network: "none".to_owned(),
        },
    })
}
