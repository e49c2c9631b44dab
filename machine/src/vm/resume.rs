//! Machines that begin where a template is.
//!
//! From the moment it is written down that a machine is being resumed until it is written down that it has its own
//! identity, it is nobody: whoever finds it so ends it, and makes its disk anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::identity::refused;
use super::machines::Held;
use super::manifest::{Ended, Manifest, Resuming};
use super::start::Born;
use super::{MachineError, MachineName, Machines};
use crate::agent::Agent;
use crate::hardware::{AGENT_SOCKET, Begin, DISK_TOP_NODE, GUEST_DIRECTORY, Memory, Platform};
use crate::process::{Peer, Seen};
use crate::qmp::Qmp;
use crate::template::memory::Sealed;
use crate::template::{Key, Template, file};

/// Where QEMU sees the template.
const SEEN_AS: &str = "template";
/// How long a template's devices may take to be read. Usual are 50 ms.
const LOADED: Duration = Duration::from_secs(60);
/// How long the agent may take. Usual is a second, emulated; of twenty at once on two
/// processors the slowest needed 17 s. A boot that takes its place is not faster on a host that is busier still.
const APPLIED: Duration = Duration::from_secs(120);

/// How long the parts of a resume took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// Until QEMU's monitor answered.
    pub started: Duration,
    /// Until the template's state was loaded.
    pub loaded: Duration,
    /// Until the guest was another machine.
    pub applied: Duration,
    /// Of that, what the agent in the guest counted.
    pub in_guest: Duration,
}

impl Machines {
    /// Starts a machine for the first time, from a template in place of its boot loader. Its disk has to lie on the
    /// template's ([`Template::base`]), and `memory` is the template's. When this returns the guest has its own identity, and has not talked to
    /// anybody before. Does nothing if the machine runs.
    ///
    /// # Errors
    /// Why it can't be resumed; nothing runs then, and [`start`](Self::start) boots it.
    pub async fn resume(
        &self,
        name: &MachineName,
        template: &Template,
        memory: &Sealed,
    ) -> Result<Option<Resumed>, MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        if held.goes_on(&mut manifest).await? {
            return Ok(None);
        }
        may_be_resumed(&manifest, &template.facts.key, &held.settings.platform)
            .map_err(MachineError::NotNow)?;
        let template_directory = template.directory.clone();
        manifest.resuming = Some(Resuming { template: template_directory, memory: memory.path() });
        held.save(&manifest)?;
        let resumed = held.resume(&mut manifest, template).await;
        match resumed {
            Ok(resumed) => {
                manifest.resuming = None;
                held.save(&manifest)?;
                Ok(Some(resumed))
            }
            Err(error) => {
                held.give_up_resuming(&mut manifest).await?;
                Err(error)
            }
        }
    }
}

/// Whether a machine can begin where a template of this key is; or why not.
fn may_be_resumed(manifest: &Manifest, key: &Key, platform: &Platform) -> Result<(), String> {
    let name = &manifest.name;
    if key.size != manifest.size || key.platform != *platform {
        return Err(format!(
            "{name} is not what this is a template of: another size, or another QEMU"
        ));
    }
    if manifest.ended != Ended::Never || manifest.suspended.is_some() {
        return Err(format!("{name} has run before, and goes on from its own disk: start it"));
    }
    if manifest.copied {
        return Err(format!(
            "the disk of {name} is a copy of another machine's: start it, and it boots from there"
        ));
    }
    Ok(())
}

impl Held<'_> {
    /// The agent's port, whether or not anybody listens there yet.
    pub(super) async fn port(&self, manifest: &Manifest) -> Result<Agent, MachineError> {
        let Some(run) = &manifest.run else {
            return Err(MachineError::NotNow(format!(
                "{} does not run: start it first",
                self.name
            )));
        };
        let guest = self.guest_directory();
        let connected = Agent::connect(&Peer::new(&guest, AGENT_SOCKET, &run.process)).await;
        connected.map_err(refused)
    }

    async fn resume(
        &self,
        manifest: &mut Manifest,
        template: &Template,
    ) -> Result<Resumed, MachineError> {
        let identity = self.learned()?.identity;
        let key = &template.facts.key;
        let born = Born { size: key.size, platform: key.platform.clone() };
        let began = Instant::now();
        let qmp = self.launch(manifest, &born, Begin::Incoming).await?;
        let started = began.elapsed();
        ignore_shared(&qmp, true).await?;
        qmp.execute("migrate-incoming", json!({ "uri": "fd:0" })).await?;
        self.loaded(&qmp).await?;
        // Suspending and snapshots write all of its memory down, and nothing that they are loaded into ignores any.
        ignore_shared(&qmp, false).await?;
        // The guest has the template's size in mind.
        let size = json!({ "node-name": DISK_TOP_NODE, "size": manifest.disk_bytes });
        qmp.execute("block_resize", size).await?;
        let loaded = began.elapsed();
        // Before the guest goes on, so that it finds what it is to become at once.
        let mut agent = self.port(manifest).await?;
        qmp.execute("cont", Value::Null).await?;
        let failed =
            |error| MachineError::Failed(format!("{} has not become itself: {error}", self.name));
        let before = Some(&template.facts.network);
        let in_guest = agent.apply(&identity, before, APPLIED).await.map_err(failed)?;
        Ok(Resumed { started, loaded, applied: began.elapsed(), in_guest })
    }

    async fn loaded(&self, qmp: &Qmp) -> Result<(), MachineError> {
        let deadline = Instant::now() + LOADED;
        loop {
            let status = qmp.status().await.map_err(|error| {
                let said = crate::process::last_words(&self.log(), 0);
                MachineError::Failed(format!("the template can't be loaded: {error}: {said}"))
            })?;
            match status.as_str() {
                "inmigrate" => {}
                "paused" => return Ok(()),
                other => {
                    let what = format!("the template can't be loaded: the machine is '{other}'");
                    return Err(MachineError::Failed(what));
                }
            }
            if Instant::now() >= deadline {
                return Err(MachineError::Failed("the template was not loaded in time".to_owned()));
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends a machine that is nobody yet, and makes its disk anew: something of the template's may be in it.
    pub(super) async fn give_up_resuming(
        &self,
        manifest: &mut Manifest,
    ) -> Result<(), MachineError> {
        self.end_process(manifest, Ended::Never).await?;
        let disk = self.disk();
        match std::fs::remove_file(&disk) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(MachineError::io("remove", &disk)(error));
            }
            _ => {}
        }
        self.settings.disks.create_overlay(&disk, manifest.disk_bytes).await?;
        self.give(manifest, &disk)?;
        manifest.resuming = None;
        self.save(manifest)
    }
}

/// What is in memory files is neither written nor read with the state.
pub(super) async fn ignore_shared(qmp: &Qmp, ignored: bool) -> Result<(), MachineError> {
    let capability = json!({ "capability": "x-ignore-shared", "state": ignored });
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": [capability] })).await?;
    Ok(())
}

/// Where its memory is.
pub(super) fn memory(manifest: &Manifest) -> Memory {
    if manifest.becomes_template {
        Memory::Shared(Path::new(GUEST_DIRECTORY).join(file::RAM))
    } else if manifest.resuming.is_some() {
        // The third of its descriptors.
        Memory::CopyOf("/proc/self/fd/3".into())
    } else {
        Memory::Private
    }
}

/// What a machine that is being resumed sees besides.
pub(super) fn seen(manifest: &Manifest) -> Option<Seen> {
    let directory = manifest.resuming.as_ref()?.template.clone();
    Some(Seen { directory, name: SEEN_AS.to_owned(), written: false })
}

/// What it reads as its standard input: the state of a template's devices.
pub(super) fn input(manifest: &Manifest) -> PathBuf {
    let state = |_| Path::new("/mnt").join(SEEN_AS).join(file::STATE);
    manifest.resuming.as_ref().map_or_else(|| "/dev/null".into(), state)
}

/// What it has open besides: a template's memory.
pub(super) fn third(manifest: &Manifest) -> Option<PathBuf> {
    manifest.resuming.as_ref().map(|resuming| resuming.memory.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    #[test]
    fn what_has_a_disk_of_its_own_is_not_resumed_from_a_template() {
        let new = Manifest { run: None, ended: Ended::Never, ..manifest() };
        let platform = manifest().run.unwrap().platform;
        let key = Key::new("image", &platform, "program", new.size);
        assert_eq!(may_be_resumed(&new, &key, &platform), Ok(()));
        let copied = Manifest { copied: true, ..new.clone() };
        let has_run = Manifest { ended: Ended::Stopped, ..new.clone() };
        let larger = Manifest { size: crate::hardware::Size { vcpus: 2, ..new.size }, ..new };
        for (other, why) in
            [(copied, "a copy of another"), (has_run, "has run before"), (larger, "another size")]
        {
            let refused = may_be_resumed(&other, &key, &platform).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
