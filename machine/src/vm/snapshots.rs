//! Snapshots of machines: of the disk, and of one that runs with its memory.

use serde_json::{Value, json};

use super::machines::Held;
use super::manifest::{Ended, Suspended};
use super::suspend::{delete, save};
use super::{MachineError, MachineName, Machines};
use crate::disk::SnapshotTag;
use crate::hardware::DISK_NODE;
use crate::qmp::Qmp;

/// What stands before the owner's name, in the disk: other snapshots there are ours.
const OWN: &str = "own-";
/// How many snapshots a machine may have: the sizes of its files are bounded by it.
pub const MOST_SNAPSHOTS: usize = 8;

/// A snapshot of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSnapshot {
    /// What it was called by whoever made it.
    pub name: String,
    /// When it was made, in seconds since 1970, by the host's clock.
    pub created: u64,
    /// Bytes of memory and devices in it; 0 of a machine that did not run.
    pub memory_bytes: u64,
}

impl Machines {
    /// Makes a snapshot: of a machine that runs with its memory, and it stands still meanwhile. Does nothing if there
    /// is one of that name: one that was cut off is not there.
    ///
    /// # Errors
    /// [`MachineError::NotNow`] of a machine that is suspended, or has too many.
    pub async fn snapshot(&self, name: &MachineName, snapshot: &str) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let tag = tag(snapshot)?;
        let mut manifest = held.there()?;
        if manifest.suspended.is_some() {
            return Err(MachineError::NotNow(format!("{name} is suspended: start it first")));
        }
        let runs = held.goes_on(&mut manifest).await?;
        let there = held.listed(runs).await?;
        if there.iter().any(|one| one.name == snapshot) {
            return Ok(());
        }
        if there.len() >= MOST_SNAPSHOTS {
            return Err(MachineError::NotNow(format!(
                "{name} has {MOST_SNAPSHOTS} snapshots: remove one first"
            )));
        }
        if !runs {
            return Ok(self.settings().disks.create_snapshot(&held.disk(), &tag).await?);
        }
        // As what it can be taken up again is written down before it is there.
        if let Some(run) = &manifest.run {
            let kept = Suspended {
                tag: tag.to_string(),
                stays: true,
                size: run.size,
                platform: run.platform.clone(),
            };
            manifest.snapshots.retain(|one| one.tag != kept.tag);
            manifest.snapshots.push(kept);
            held.save(&manifest)?;
        }
        let qmp = held.monitor(&manifest).await?;
        save(&qmp, tag.as_str()).await
    }

    /// The machine's snapshots, the oldest first.
    ///
    /// # Errors
    /// When that can't be told.
    pub async fn snapshots(
        &self,
        name: &MachineName,
    ) -> Result<Vec<MachineSnapshot>, MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        let runs = held.goes_on(&mut manifest).await?;
        held.listed(runs).await
    }

    /// Takes a machine that does not run back to a snapshot, which stays. It is suspended afterwards where the
    /// snapshot has its memory. `false` when there is no such snapshot: nothing has changed then.
    ///
    /// # Errors
    /// [`MachineError::NotNow`] when it runs.
    pub async fn restore(&self, name: &MachineName, snapshot: &str) -> Result<bool, MachineError> {
        let held = self.hold(name).await;
        let tag = tag(snapshot)?;
        let mut manifest = held.there()?;
        if held.goes_on(&mut manifest).await? {
            return Err(MachineError::NotNow(format!("{name} runs: stop it first")));
        }
        let there = held.listed(false).await?;
        let Some(found) = there.into_iter().find(|one| one.name == snapshot) else {
            return Ok(false);
        };
        let disks = &self.settings().disks;
        disks.apply_snapshot(&held.disk(), &tag).await?;
        let before = manifest.suspended.take();
        if found.memory_bytes > 0 {
            manifest.suspended =
                manifest.snapshots.iter().find(|one| one.tag == tag.as_str()).cloned();
        }
        manifest.ended = Ended::Stopped;
        held.save(&manifest)?;
        if let Some(before) = before.filter(|before| !before.stays) {
            disks.delete_snapshot(&held.disk(), &before.tag.parse()?).await?;
        }
        Ok(true)
    }

    /// Removes a snapshot. Does nothing if it is gone.
    ///
    /// # Errors
    /// [`MachineError::NotNow`] when the machine waits to go on from it.
    pub async fn remove_snapshot(
        &self,
        name: &MachineName,
        snapshot: &str,
    ) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let tag = tag(snapshot)?;
        let mut manifest = held.there()?;
        if manifest.suspended.as_ref().is_some_and(|kept| kept.tag == tag.as_str()) {
            return Err(MachineError::NotNow(format!(
                "{name} goes on from the snapshot {snapshot} when it is started: start it first, or give its memory up"
            )));
        }
        if held.goes_on(&mut manifest).await? {
            if held.listed(true).await?.iter().any(|one| one.name == snapshot) {
                delete(&held.monitor(&manifest).await?, tag.as_str()).await?;
            }
        } else {
            self.settings().disks.delete_snapshot(&held.disk(), &tag).await?;
        }
        manifest.snapshots.retain(|one| one.tag != tag.as_str());
        held.save(&manifest)
    }
}

impl Held<'_> {
    /// The owner's snapshots in the machine's disk.
    async fn listed(&self, runs: bool) -> Result<Vec<MachineSnapshot>, MachineError> {
        let mut all = if runs {
            let manifest = self.there()?;
            of_node(&self.monitor(&manifest).await?).await?
        } else {
            let found = self.settings.disks.snapshots(&self.disk()).await?;
            let ours = found.into_iter().filter_map(|one| {
                let name = one.tag.as_str().strip_prefix(OWN)?.to_owned();
                Some(MachineSnapshot { name, created: one.created, memory_bytes: one.memory_bytes })
            });
            ours.collect()
        };
        all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        Ok(all)
    }
}

fn tag(snapshot: &str) -> Result<SnapshotTag, MachineError> {
    Ok(format!("{OWN}{snapshot}").parse()?)
}

/// The owner's snapshots in the disk of a machine that runs.
async fn of_node(qmp: &Qmp) -> Result<Vec<MachineSnapshot>, MachineError> {
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true })).await?;
    Ok(parse(&nodes))
}

/// What QEMU says of its block devices, as far as it is about the owner's snapshots.
fn parse(nodes: &Value) -> Vec<MachineSnapshot> {
    let nodes = nodes.as_array().into_iter().flatten();
    let disk = nodes.filter(|node| node["node-name"] == DISK_NODE);
    let listed = disk.filter_map(|node| node["image"]["snapshots"].as_array()).flatten();
    let ours = listed.filter_map(|one| {
        Some(MachineSnapshot {
            name: one["name"].as_str()?.strip_prefix(OWN)?.to_owned(),
            created: one["date-sec"].as_u64().unwrap_or(0),
            memory_bytes: one["vm-state-size"].as_u64().unwrap_or(0),
        })
    });
    ours.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_s_snapshots_of_the_disk_are_listed() {
        let snapshot =
            |name: &str| json!({ "id": "1", "name": name, "vm-state-size": 7, "date-sec": 5 });
        let nodes = json!([
            { "node-name": "below1", "image": { "snapshots": [snapshot("own-x")] } },
            { "node-name": "disk", "image": { "snapshots": [snapshot("own-a"), snapshot("golem-suspended")] } },
            { "node-name": "seed", "image": {} },
        ]);
        let found = parse(&nodes);
        assert_eq!(found, [MachineSnapshot { name: "a".to_owned(), created: 5, memory_bytes: 7 }]);
        assert!(parse(&Value::Null).is_empty());
    }
}
