//! Rows to values and back.

use golem_vm_protocol::advertisement::Endpoint;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::VmStatus;
use golem_vm_protocol::{VmId, VmResources};
use rusqlite::Row;
use rusqlite::types::Type;

use super::{ProviderRef, Rental, SshAccess, State};

pub(super) const COLUMNS: &str = "row, name, state, provider_id, provider_name, endpoints, \
    idempotency_key, request, cpu, memory, storage, usd_micro_month, isolation, image, vm_id, \
    operation_id, ssh_host, ssh_port, ssh_user, host_key, identity, status, status_at, created_at, problem, agreed, lease, \
    asked_at, settled_at, silent_at, cloned_from, backend, accel, suspended, abilities, image_digest";

pub(super) const fn state_text(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Active => "active",
        State::Abandoned => "abandoned",
    }
}

pub(super) fn endpoints_text(endpoints: &[Endpoint]) -> String {
    // A kind that this version does not know could not be used anyway, nor be written back.
    let known: Vec<_> = endpoints.iter().filter(|e| !matches!(e, Endpoint::Unknown)).collect();
    serde_json::to_string(&known).unwrap_or_else(|_| "[]".to_owned())
}

/// A column that holds the text form of `T`.
pub(super) fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::fmt::Display,
{
    row.get::<_, String>(column)?.parse().map_err(|error: T::Err| wrong(column, &error))
}

fn parsed_opt<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    row.get::<_, Option<String>>(column)?
        .map(|text| text.parse().map_err(|error: T::Err| wrong(column, &error)))
        .transpose()
}

fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_unix_micros))
}

pub(super) fn wrong(column: usize, error: &dyn std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.to_string().into())
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Rental> {
    let state = match row.get::<_, String>(2)?.as_str() {
        "pending" => State::Pending,
        "active" => State::Active,
        "abandoned" => State::Abandoned,
        _ => return Err(wrong(2, &"not a state")),
    };
    let endpoints = row.get::<_, String>(5)?;
    let host: Option<String> = row.get(16)?;
    let port: Option<u16> = row.get(17)?;
    let user: Option<String> = row.get(18)?;
    let ssh = match (host, port, user, parsed_opt(row, 19)?) {
        (Some(host), Some(port), Some(user), Some(host_key)) => {
            Some(SshAccess { host, port, user, host_key })
        }
        _ => None,
    };
    let status: String = row.get(21)?;
    Ok(Rental {
        row: row.get(0)?,
        name: parsed(row, 1)?,
        state,
        provider: ProviderRef {
            id: parsed(row, 3)?,
            name: row.get(4)?,
            endpoints: serde_json::from_str(&endpoints).map_err(|error| wrong(5, &error))?,
        },
        idempotency_key: row.get(6)?,
        request: row.get(7)?,
        resources: VmResources { cpu: row.get(8)?, memory: row.get(9)?, storage: row.get(10)? },
        usd_micro_month: row.get::<_, Option<i64>>(11)?.and_then(|price| u64::try_from(price).ok()),
        isolation: parsed_opt(row, 12)?,
        image: row.get(13)?,
        vm_id: parsed_opt::<VmId>(row, 14)?,
        operation_id: row.get(15)?,
        ssh,
        identity: row.get::<_, Option<String>>(20)?.map(Into::into),
        status: serde_json::from_value(status.into()).unwrap_or(VmStatus::Unknown),
        status_at: Timestamp::from_unix_micros(row.get(22)?),
        created_at: Timestamp::from_unix_micros(row.get(23)?),
        problem: row.get(24)?,
        agreed: row
            .get::<_, Option<String>>(25)?
            .map(|text| serde_json::from_str(&text).map_err(|error| wrong(25, &error)))
            .transpose()?,
        // What a newer golem wrote there is of no use to this one.
        lease: row.get::<_, Option<String>>(26)?.and_then(|text| serde_json::from_str(&text).ok()),
        asked_at: moment(row, 27)?,
        settled_at: moment(row, 28)?,
        silent_at: moment(row, 29)?,
        cloned_from: parsed_opt::<VmId>(row, 30)?,
        backend: row.get(31)?,
        accel: row.get(32)?,
        suspended: row.get(33)?,
        abilities: row
            .get::<_, Option<String>>(34)?
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default(),
        image_digest: row.get(35)?,
    })
}
