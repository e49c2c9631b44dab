//! Room for one more: counted, and made, in the transaction that stores it.

use golem_vm_protocol::time::Timestamp;
use rusqlite::{Connection, Params};

use super::row;
use crate::registry::crowd::{self, Bounds, Crowd, NoRoom, Place, Room};
use crate::registry::rules;

/// Expired entries that a newcomer to a full list clears away at most.
const CLEARED_AT_ONCE: i64 = 64;

/// Sees to it that one entry `from` there can be added.
pub(super) fn make(
    connection: &Connection,
    from: &Place,
    bounds: &Bounds,
    is_known: bool,
    now: Timestamp,
) -> rusqlite::Result<Result<(), NoRoom>> {
    let mut crowd = Crowd { total: live(connection)?, ..Crowd::default() };
    if let Some(address) = &from.address {
        crowd.from_address = number(
            connection,
            "SELECT count(*) FROM advertisements WHERE address = ?1 AND state = 'live' AND expires_at > ?2",
            (address, now.unix_micros()),
        )?;
        crowd.known_from_address = number(
            connection,
            "SELECT count(*) FROM advertisements WHERE address = ?1",
            [address],
        )?;
    }
    let mut most_crowded = String::new();
    if crowd.total >= bounds.total {
        expire(connection, now, CLEARED_AT_ONCE)?;
        crowd.total = live(connection)?;
        crowd.from_network = number(
            connection,
            "SELECT count(*) FROM advertisements WHERE network = ?1 AND state = 'live'",
            [&from.network],
        )?;
        (most_crowded, crowd.from_most_crowded) = most_crowded_of(connection, "state = 'live'")?;
    }
    match crowd::admit(&crowd, bounds, is_known) {
        Err(reason) => return Ok(Err(reason)),
        Ok(Room::Free) => {}
        Ok(Room::OfTheMostCrowded) => {
            let condition = "WHERE state = 'live' AND network = ?1 ORDER BY created_at DESC, provider_id DESC LIMIT 1";
            for youngest in row::select(connection, condition, [&most_crowded])? {
                let revision = row::next_revision(connection)?;
                row::put(connection, &rules::expire(youngest, revision))?;
            }
        }
    }
    if !is_known {
        make_room_for_a_grave(connection, bounds)?;
    }
    Ok(Ok(()))
}

/// Turns entries whose time is over into graves, at most `limit`; how many.
pub(super) fn expire(
    connection: &Connection,
    now: Timestamp,
    limit: i64,
) -> rusqlite::Result<usize> {
    let condition = "WHERE state = 'live' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
    let over = row::select(connection, condition, [now.unix_micros(), limit])?;
    let count = over.len();
    for entry in over {
        let revision = row::next_revision(connection)?;
        row::put(connection, &rules::expire(entry, revision))?;
    }
    Ok(count)
}

/// When too much is remembered, the oldest grave of the network that has most of them is forgotten.
fn make_room_for_a_grave(connection: &Connection, bounds: &Bounds) -> rusqlite::Result<()> {
    if number(connection, "SELECT count(*) FROM advertisements", [])? < bounds.known() {
        return Ok(());
    }
    let (network, _) = most_crowded_of(connection, "state <> 'live'")?;
    connection
        .prepare_cached(
            "DELETE FROM advertisements WHERE provider_id IN (SELECT provider_id FROM advertisements \
             WHERE state <> 'live' AND network = ?1 ORDER BY last_seen LIMIT 1)",
        )?
        .execute([network])?;
    Ok(())
}

fn live(connection: &Connection) -> rusqlite::Result<usize> {
    number(connection, "SELECT count(*) FROM advertisements WHERE state = 'live'", [])
}

fn most_crowded_of(connection: &Connection, which: &str) -> rusqlite::Result<(String, usize)> {
    let query = format!(
        "SELECT network, count(*) FROM advertisements WHERE {which} GROUP BY network ORDER BY 2 DESC, 1 LIMIT 1"
    );
    let mut statement = connection.prepare_cached(&query)?;
    let mut rows = statement.query([])?;
    match rows.next()? {
        Some(row) => Ok((row.get(0)?, usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0))),
        None => Ok((String::new(), 0)),
    }
}

fn number(connection: &Connection, query: &str, params: impl Params) -> rusqlite::Result<usize> {
    let number: i64 = connection.prepare_cached(query)?.query_row(params, |row| row.get(0))?;
    Ok(usize::try_from(number).unwrap_or(0))
}
