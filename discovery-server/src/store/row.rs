//! Between rows of the table and rows of the feed.

use golem_vm_protocol::time::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Params, named_params};

use crate::registry::crowd::Place;
use crate::registry::feed::{Row, State};

const COLUMNS: &str = "provider_id, revision, sequence, digest, state, content, observed_address, \
                       created_at, updated_at, last_seen, expires_at";

/// The rows for which `condition` (the end of a SELECT) holds.
pub(super) fn select(
    connection: &Connection,
    condition: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<Row>> {
    let query = format!("SELECT {COLUMNS} FROM advertisements {condition}");
    let mut statement = connection.prepare_cached(&query)?;
    let rows = statement.query_map(params, read)?;
    rows.collect()
}

/// One provider's row.
pub(super) fn find(connection: &Connection, provider_id: &str) -> rusqlite::Result<Option<Row>> {
    let query = format!("SELECT {COLUMNS} FROM advertisements WHERE provider_id = ?1");
    connection.prepare_cached(&query)?.query_row([provider_id], read).optional()
}

/// Writes `row` over what is there of that provider.
pub(super) fn put(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let sequence = row.signed.map(|(sequence, _)| i64::try_from(sequence).unwrap_or(i64::MAX));
    let place = Place::of(&row.observed_address);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO advertisements (provider_id, revision, sequence, digest, state, \
             content, observed_address, created_at, updated_at, last_seen, expires_at, address, network) \
             VALUES (:provider_id, :revision, :sequence, :digest, :state, :content, :observed_address, \
             :created_at, :updated_at, :last_seen, :expires_at, :address, :network)",
        )?
        .execute(named_params! {
            ":provider_id": row.provider_id,
            ":revision": i64::try_from(row.revision).unwrap_or(i64::MAX),
            ":sequence": sequence,
            ":digest": row.signed.map(|(_, digest)| digest.to_string()),
            ":state": word(row.state),
            ":content": row.content,
            ":observed_address": row.observed_address,
            ":created_at": row.created_at.unix_micros(),
            ":updated_at": row.updated_at.unix_micros(),
            ":last_seen": row.last_seen.unix_micros(),
            ":expires_at": row.expires_at.unix_micros(),
            ":address": place.address,
            ":network": place.network,
        })?;
    Ok(())
}

/// Draws the next revision.
pub(super) fn next_revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("UPDATE feed SET revision = revision + 1 RETURNING revision")?
        .query_row([], |row| row.get(0))
        .map(natural)
}

/// SQLite's integers are signed; ours are never negative.
fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

const fn word(state: State) -> &'static str {
    match state {
        State::Live => "live",
        State::Withdrawn => "withdrawn",
        State::Expired => "expired",
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let sequence: Option<i64> = row.get("sequence")?;
    let digest: Option<Parsed<_>> = row.get("digest")?;
    let moment = |name: &str| row.get(name).map(Timestamp::from_unix_micros);
    Ok(Row {
        revision: natural(row.get("revision")?),
        provider_id: row.get("provider_id")?,
        signed: sequence.map(natural).zip(digest.map(|Parsed(digest)| digest)),
        state: row.get::<_, StateWord>("state")?.0,
        content: row.get("content")?,
        observed_address: row.get("observed_address")?,
        created_at: moment("created_at")?,
        updated_at: moment("updated_at")?,
        last_seen: moment("last_seen")?,
        expires_at: moment("expires_at")?,
    })
}

/// A column that holds the text form of a value.
struct Parsed<T>(T);

impl<T: std::str::FromStr<Err = String>> FromSql for Parsed<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value
            .as_str()?
            .parse()
            .map(Self)
            .map_err(|reason: String| FromSqlError::Other(reason.into()))
    }
}

struct StateWord(State);

impl FromSql for StateWord {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "live" => Ok(Self(State::Live)),
            "withdrawn" => Ok(Self(State::Withdrawn)),
            "expired" => Ok(Self(State::Expired)),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}
