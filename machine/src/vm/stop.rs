//! Stopping a machine, and what is left of its process.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::machines::Held;
use super::manifest::{Ended, Manifest, Run};
use super::{MachineError, MachineName, Machines};
use crate::hardware::QMP_SOCKET;
use crate::process::{Group, Peer, ProcessIdentity};
use crate::qmp::Qmp;

/// How long QEMU may take to write out and end when it is told to.
const QUIT: Duration = Duration::from_secs(30);
/// How long the kernel may take to end a process that it was told to.
const KILLED: Duration = Duration::from_secs(60);
/// How long the kernel may take to clear a process away that has ended.
const CLEARED: Duration = Duration::from_secs(10);
/// How often the power button is pressed: a guest that boots does not notice it.
const PRESSED: Duration = Duration::from_secs(5);

impl Machines {
    /// Stops the machine: presses its power button, and switches it off when it still runs after `grace`. Does
    /// nothing if it is stopped or suspended.
    ///
    /// # Errors
    /// When its process can't be ended.
    pub async fn stop(&self, name: &MachineName, grace: Duration) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        if !held.goes_on(&mut manifest).await? {
            return Ok(());
        }
        if let Ok(qmp) = held.monitor(&manifest).await {
            let asked = timeout(grace, press(&qmp)).await;
            tracing::debug!(machine = %name, in_time = asked.is_ok(), "asked to stop");
        }
        held.end_process(&mut manifest, Ended::Stopped).await
    }
}

/// Presses the power button until the guest is off. Ends early when the monitor is gone.
async fn press(qmp: &Qmp) {
    let mut pressed: Option<Instant> = None;
    loop {
        match qmp.status().await.as_deref() {
            Ok("running") => {}
            // One that is paused, or whose kernel has given up, does not notice it.
            _ => return,
        }
        if pressed.is_none_or(|at| at.elapsed() >= PRESSED) {
            if qmp.execute("system_powerdown", Value::Null).await.is_err() {
                return;
            }
            pressed = Some(Instant::now());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

impl Held<'_> {
    /// The monitor of its process.
    pub(super) async fn monitor(&self, manifest: &Manifest) -> Result<Qmp, MachineError> {
        let Some(run) = &manifest.run else {
            return Err(MachineError::NotNow(format!("{} does not run", self.name)));
        };
        let guest = self.guest_directory();
        Ok(Qmp::connect(&Peer::new(&guest, QMP_SOCKET, &run.process)).await?)
    }

    /// Whether its process is there and runs the guest. One that has ended, or whose guest has, is cleared away, and
    /// what became of it written down.
    pub(super) async fn goes_on(&self, manifest: &mut Manifest) -> Result<bool, MachineError> {
        if manifest.resuming.is_some() {
            self.give_up_resuming(manifest).await?;
        }
        let Some(run) = manifest.run.clone() else { return Ok(false) };
        if let Some(ended) = self.look(&run).await? {
            self.end_process(manifest, ended).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// How the machine that this process ran has ended; `None` while it goes on.
    ///
    /// # Errors
    /// When that can't be told now.
    pub(super) async fn look(&self, run: &Run) -> Result<Option<Ended>, MachineError> {
        let unknown = |error: std::io::Error| MachineError::Unknown(error.to_string());
        if !run.process.alive().map_err(unknown)? {
            return Ok(Some(self.post_mortem(run)));
        }
        let guest = self.guest_directory();
        let asked = async {
            let qmp = Qmp::connect(&Peer::new(&guest, QMP_SOCKET, &run.process)).await?;
            let status = qmp.status().await?;
            Ok::<_, crate::qmp::QmpError>((qmp, status))
        };
        let (qmp, status) = match asked.await {
            Ok(answered) => answered,
            // It may have ended while it was asked.
            Err(_) if !run.process.alive().map_err(unknown)? => {
                return Ok(Some(self.post_mortem(run)));
            }
            // One that was never told to go on waits for that for as long as the one who started it is there.
            Err(_) if !run.begun => return Ok(Some(Ended::Stopped)),
            Err(error) => return Err(error.into()),
        };
        Ok(match status.as_str() {
            "shutdown" => Some(Ended::GuestShutdown),
            "guest-panicked" => Some(Ended::GuestPanicked),
            "internal-error" => {
                Some(Ended::InternalError(crate::process::last_words(&self.log(), 0)))
            }
            // Something that was cut off had it wait; or the host's disk was full. It waits again if it still is.
            "paused" | "io-error" | "suspended" | "prelaunch" => {
                tracing::warn!(machine = %self.name, status, "goes on");
                qmp.execute("cont", Value::Null).await?;
                None
            }
            _ => None,
        })
    }

    /// How a process that is gone came to its end.
    fn post_mortem(&self, run: &Run) -> Ended {
        if ProcessIdentity::of(std::process::id()).is_ok_and(|me| me.boot != run.process.boot) {
            return Ended::HostRestarted;
        }
        if run.group.as_ref().is_some_and(|group| group.usage().out_of_memory > 0) {
            return Ended::OutOfMemory;
        }
        Ended::Crashed(crate::process::last_words(&self.log(), 0))
    }

    /// Ends its process, if there is one, and gives back what it had.
    pub(super) async fn end_process(
        &self,
        manifest: &mut Manifest,
        ended: Ended,
    ) -> Result<(), MachineError> {
        let Some(run) = manifest.run.clone() else { return Ok(()) };
        let failed = |error: std::io::Error| {
            MachineError::Unknown(format!("ending the process of {}: {error}", self.name))
        };
        if run.process.alive().map_err(failed)? {
            self.keep_console(&run.process);
            // It writes out what it has, and ends.
            if let Ok(qmp) = self.monitor(manifest).await
                && qmp.execute("quit", Value::Null).await.is_ok()
            {
                run.process.ended(QUIT).await.map_err(failed)?;
            }
            if !run.process.kill(KILLED).await.map_err(failed)? {
                return Err(MachineError::Unknown(format!(
                    "process {} of {} does not end",
                    run.process.pid, self.name
                )));
            }
        }
        self.lower(&run).await?;
        if let Some(group) = &run.group {
            self.remove_group(group).await;
        }
        manifest.run = None;
        manifest.ended = ended;
        self.save(manifest)
    }

    /// Ends its process at once: nothing of it is kept, so it need not write out what it has, which takes seconds.
    pub(super) async fn kill_process(&self, manifest: &Manifest) -> Result<(), MachineError> {
        let Some(run) = &manifest.run else { return Ok(()) };
        let killed = run.process.kill(KILLED).await;
        killed.map(drop).map_err(|error| {
            MachineError::Unknown(format!("ending the process of {}: {error}", self.name))
        })
    }

    /// Removes a group whose process has ended: the kernel may still be clearing it away. One that stays is taken
    /// again by the machine's next start.
    async fn remove_group(&self, group: &Group) {
        let deadline = Instant::now() + CLEARED;
        while let Err(error) = group.remove() {
            if Instant::now() >= deadline {
                tracing::warn!(machine = %self.name, "its control group stays: {error}");
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}
