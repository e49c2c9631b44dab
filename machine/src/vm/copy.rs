//! Machines with the disk of another one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::machines::{Held, MachineSpec};
use super::manifest::Manifest;
use super::{MachineError, MachineName, Machines};

impl Machines {
    /// Makes sure that a machine of this spec is there, without starting it; its disk begins as that of `source`
    /// at some moment of this call, without its snapshots. What is below its disk is what is below the source's,
    /// whatever the spec says. A source that runs stands still while its disk is copied.
    ///
    /// # Errors
    /// [`MachineError::Absent`] of the source; when the disk would be smaller than the source's.
    pub async fn ensure_copy(
        &self,
        source: &MachineName,
        spec: &MachineSpec,
    ) -> Result<(), MachineError> {
        if self.manifest(&spec.name)?.is_some_and(|manifest| manifest.made) {
            return Ok(());
        }
        let from = self.hold(source).await;
        let mut manifest = from.there()?;
        if spec.disk_bytes < manifest.disk_bytes {
            return Err(MachineError::Failed(format!(
                "the disk of {source} has {} MiB, and the copy's can't be smaller",
                manifest.disk_bytes >> 20
            )));
        }
        let runs = from.goes_on(&mut manifest).await?;
        let spec = MachineSpec { base: manifest.base.clone(), ..spec.clone() };
        let original = Original { held: &from, manifest: &manifest, runs };
        self.make(&spec, Some(&original)).await
    }
}

/// A machine whose disk is copied.
pub(super) struct Original<'a> {
    held: &'a Held<'a>,
    manifest: &'a Manifest,
    runs: bool,
}

impl Original<'_> {
    /// Copies its disk to `target`, and makes it as large as that.
    pub(super) async fn copy_disk(&self, target: &Path, bytes: u64) -> Result<(), MachineError> {
        let copied = if self.runs {
            let qmp = self.held.monitor(self.manifest).await?;
            // All that it has written is in the file when this is done.
            qmp.execute("stop", Value::Null).await?;
            let copied = copy(&self.held.disk(), target).await;
            qmp.execute("cont", Value::Null).await?;
            copied
        } else {
            copy(&self.held.disk(), target).await
        };
        copied.map_err(MachineError::io("copy the disk to", target))?;
        let disks = &self.held.settings.disks;
        for snapshot in disks.snapshots(target).await? {
            disks.delete_snapshot(target, &snapshot.tag).await?;
        }
        Ok(disks.grow(target, bytes).await?)
    }
}

/// Copies a file with its holes, by sharing its blocks where the file system can.
async fn copy(from: &Path, to: &Path) -> io::Result<()> {
    // Whoever runs the machine could have put a link there, to anything.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let source = OpenOptions::new().read(true).custom_flags(flags).open(from)?;
    if !source.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no file", from.display())));
    }
    let output = Command::new("cp")
        .args(["--reflink=auto", "--sparse=always", "--", "/dev/stdin"])
        .arg(to)
        .stdin(Stdio::from(source))
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    File::open(to)?.sync_all()
}
