//! The SQL of instances without a VM.

use std::collections::HashSet;

use async_trait::async_trait;
use golem_vm_protocol::time::Timestamp;
use rusqlite::{Connection, params};

use super::columns::damaged;
use super::{Moment, ProviderStore};
use crate::backend::{BackendKind, InstanceId};
use crate::orphans::{Orphan, OrphanRegister};
use crate::steady::SteadyTime;
use crate::vm::VmError;

#[async_trait]
impl OrphanRegister for ProviderStore {
    async fn without_vm(&self, instances: Vec<InstanceId>) -> Result<Vec<InstanceId>, VmError> {
        self.store
            .read("orphan.without_vm", move |db| {
                // One that failed has no instance.
                let mut held = db.prepare_cached("SELECT id FROM vm WHERE state <> 'failed'")?;
                let held: HashSet<String> =
                    held.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
                let without = |instance: &InstanceId| !held.contains(&instance.vm().to_string());
                Ok(instances.into_iter().filter(without).collect())
            })
            .await
    }

    async fn note(
        &self,
        backend: BackendKind,
        orphans: Vec<InstanceId>,
    ) -> Result<Vec<Orphan>, VmError> {
        let noted = self.noted().await?;
        let (known, now): (HashSet<_>, HashSet<_>) = (
            noted.iter().filter(|one| one.backend == backend).map(|one| one.instance).collect(),
            orphans.into_iter().collect(),
        );
        // Mostly there are none, and nothing to be written.
        if known == now {
            return Ok(noted.into_iter().filter(|one| one.backend == backend).collect());
        }
        let moment = self.moment();
        self.store
            .write("orphan.note", move |db| {
                for gone in known.difference(&now) {
                    db.execute("DELETE FROM orphan WHERE instance = ?1", [gone.to_string()])?;
                }
                for new in now.difference(&known) {
                    db.execute(
                        "INSERT OR IGNORE INTO orphan (instance, backend, first_seen_steady, first_seen_at) \
                         VALUES (?1, ?2, ?3, ?4)",
                        params![
                            new.to_string(),
                            backend.as_str(),
                            i64::try_from(moment.steady.micros()).unwrap_or(i64::MAX),
                            moment.wall.unix_micros(),
                        ],
                    )?;
                }
                let all = all(db, moment)?;
                Ok(all.into_iter().filter(|one| one.backend == backend).collect())
            })
            .await
    }

    async fn noted(&self) -> Result<Vec<Orphan>, VmError> {
        let moment = self.moment();
        self.store.read("orphan.noted", move |db| all(db, moment)).await
    }
}

fn all(db: &Connection, moment: Moment) -> Result<Vec<Orphan>, VmError> {
    let mut statement = db.prepare_cached(
        "SELECT instance, backend, first_seen_steady, first_seen_at FROM orphan \
         ORDER BY first_seen_steady, instance",
    )?;
    let rows = statement.query_map([], |row| {
        let (instance, backend): (String, String) = (row.get(0)?, row.get(1)?);
        let first_seen: i64 = row.get(2)?;
        let first_seen =
            SteadyTime::from_micros(u64::try_from(first_seen).map_err(|e| damaged(2, e))?);
        Ok(Orphan {
            instance: instance.parse().map_err(|e| damaged(0, e))?,
            backend: backend.parse().map_err(|e: String| damaged(1, e))?,
            first_seen_at: Timestamp::from_unix_micros(row.get(3)?),
            known_for: moment.steady.since(first_seen),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
