//! VMs that were destroyed: as much as is needed to ask their providers what happened to them.

use std::time::Duration;

use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{VmId, VmName};
use rusqlite::{OptionalExtension as _, params};

use super::row::{parsed, wrong};
use super::{ProviderRef, Rentals, failed};
use crate::error::Result;

/// How long a VM is remembered after it was found to be gone.
const KEPT: Duration = Duration::from_secs(90 * 86_400);
/// Most VMs that are remembered; those that went first go first.
const MOST: i64 = 5_000;

/// A VM that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Its id.
    pub vm_id: VmId,
    /// What it was called; another VM may be called so by now.
    pub name: VmName,
    /// Who had it.
    pub provider: ProviderRef,
}

impl Rentals {
    /// Removes a row: the VM does not exist, and never will. If it ever did, its id is remembered.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, number: i64, now: Timestamp) -> Result<()> {
        let work = || -> rusqlite::Result<()> {
            let transaction = self.connection.unchecked_transaction()?;
            transaction.execute(
                "INSERT OR REPLACE INTO gone (vm_id, name, provider_id, provider_name, endpoints, gone_at)
                 SELECT vm_id, name, provider_id, provider_name, endpoints, ?2 FROM rentals
                 WHERE row = ?1 AND vm_id IS NOT NULL",
                params![number, now.unix_micros()],
            )?;
            transaction.execute("DELETE FROM rentals WHERE row = ?1", [number])?;
            let long_ago = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
            transaction.execute(
                "DELETE FROM gone WHERE gone_at < ?1 OR vm_id IN (
                   SELECT vm_id FROM gone ORDER BY gone_at DESC, vm_id LIMIT -1 OFFSET ?2)",
                params![now.unix_micros().saturating_sub(long_ago), MOST],
            )?;
            transaction.commit()
        };
        work().map_err(|error| failed(&error))
    }

    /// The VM that is gone and has this id, or the last one that was called so.
    ///
    /// # Errors
    /// When the database fails.
    pub fn gone(&self, text: &str) -> Result<Option<Gone>> {
        self.connection
            .prepare_cached(
                "SELECT vm_id, name, provider_id, provider_name, endpoints FROM gone
                 WHERE vm_id = ?1 OR name = ?1 ORDER BY gone_at DESC LIMIT 1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row([text], |row| {
                        let endpoints = row.get::<_, String>(4)?;
                        Ok(Gone {
                            vm_id: parsed(row, 0)?,
                            name: parsed(row, 1)?,
                            provider: ProviderRef {
                                id: parsed(row, 2)?,
                                name: row.get(3)?,
                                endpoints: serde_json::from_str(&endpoints)
                                    .map_err(|error| wrong(4, &error))?,
                            },
                        })
                    })
                    .optional()
            })
            .map_err(|error| failed(&error))
    }
}
