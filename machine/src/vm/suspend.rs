//! Machines that are put to disk, and taken up again.

use std::time::Duration;

use serde_json::{Value, json};

use super::machines::Held;
use super::manifest::{Ended, Manifest, Suspended};
use super::start::{Born, SUSPENDED};
use super::{MachineError, MachineName, Machines};
use crate::hardware::{Begin, DISK_NODE, DISK_TOP_NODE};
use crate::qmp::Qmp;

/// How long writing a machine's memory to its disk, or reading it, may take.
pub(super) const COPIED: Duration = Duration::from_secs(900);

impl Machines {
    /// Writes the running machine's state into its disk, and ends its process: the next start goes on from there.
    /// Does nothing if it is suspended.
    ///
    /// # Errors
    /// [`MachineError::NotNow`] when it does not run; when its state can't be written it goes on running.
    pub async fn suspend(&self, name: &MachineName) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        if manifest.suspended.is_some() {
            // The process may still be there, when this was cut off.
            return held.end_process(&mut manifest, Ended::Stopped).await;
        }
        if !held.goes_on(&mut manifest).await? {
            return Err(MachineError::NotNow(format!("{name} does not run")));
        }
        let qmp = held.monitor(&manifest).await?;
        // From here on nothing that it does would be in what is kept.
        qmp.execute("stop", Value::Null).await?;
        let saved = save(&qmp, SUSPENDED).await;
        if let Err(error) = saved {
            qmp.execute("cont", Value::Null).await?;
            return Err(error);
        }
        manifest.suspended = manifest.run.as_ref().map(|run| Suspended {
            tag: SUSPENDED.to_owned(),
            stays: false,
            size: run.size,
            platform: run.platform.clone(),
        });
        held.save(&manifest)?;
        drop(qmp);
        held.end_process(&mut manifest, Ended::Stopped).await
    }
}

impl Machines {
    /// Gives up what a suspended machine had in memory: it boots at its next start, with its disk as it was. Does
    /// nothing if it is not suspended.
    ///
    /// # Errors
    /// When that can't be removed.
    pub async fn forget(&self, name: &MachineName) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        let Some(kept) = manifest.suspended.clone() else { return Ok(()) };
        held.end_process(&mut manifest, Ended::Stopped).await?;
        if !kept.stays {
            let tag = kept.tag.parse()?;
            self.settings.disks.delete_snapshot(&held.disk(), &tag).await?;
        }
        manifest.suspended = None;
        held.save(&manifest)
    }
}

/// Writes a machine's state and disk into a snapshot, in place of one that has the name.
pub(super) async fn save(qmp: &Qmp, tag: &str) -> Result<(), MachineError> {
    delete(qmp, tag).await?;
    let whole = json!({ "tag": tag, "vmstate": DISK_NODE, "devices": [DISK_NODE] });
    Ok(qmp.run_job("snapshot-save", whole, COPIED).await?)
}

/// Removes a snapshot. Does nothing if there is none of that name.
pub(super) async fn delete(qmp: &Qmp, tag: &str) -> Result<(), MachineError> {
    let what = json!({ "tag": tag, "devices": [DISK_NODE] });
    Ok(qmp.run_job("snapshot-delete", what, COPIED).await?)
}

/// Makes machine and disk what they were.
pub(super) async fn load(qmp: &Qmp, tag: &str) -> Result<(), MachineError> {
    let whole = json!({ "tag": tag, "vmstate": DISK_NODE, "devices": [DISK_NODE] });
    Ok(qmp.run_job("snapshot-load", whole, COPIED).await?)
}

impl Held<'_> {
    /// Takes a suspended machine up.
    pub(super) async fn wake(
        &self,
        manifest: &mut Manifest,
        kept: Suspended,
    ) -> Result<(), MachineError> {
        let born = Born { size: kept.size, platform: kept.platform };
        let qmp = self.launch(manifest, &born, Begin::Held).await?;
        if let Err(error) = load(&qmp, &kept.tag).await {
            drop(qmp);
            self.end_process(manifest, Ended::Stopped).await?;
            return Err(MachineError::Failed(format!(
                "{error}; what {} had in memory is kept. Give that up, and it boots",
                self.name
            )));
        }
        // A snapshot brings the size along that the disk had.
        let size = json!({ "node-name": DISK_TOP_NODE, "size": manifest.disk_bytes });
        qmp.execute("block_resize", size).await?;
        // Written down before it goes on: its disk is then another one than that of the state that is kept.
        manifest.suspended = None;
        self.save(manifest)?;
        qmp.execute("cont", Value::Null).await?;
        if !kept.stays
            && let Err(error) = delete(&qmp, &kept.tag).await
        {
            tracing::warn!(machine = %self.name, "its kept state takes room: {error}");
        }
        // The guest's clock stood still.
        if let Ok(Some(mut agent)) = self.agent(manifest).await
            && let Err(error) = agent.set_clock().await
        {
            tracing::warn!(machine = %self.name, "its clock is late: {error}");
        }
        Ok(())
    }
}
