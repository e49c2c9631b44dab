//! Machines that become templates.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep, timeout};

use super::identity::refused;
use super::machines::Held;
use super::manifest::{Ended, Manifest};
use super::resume::ignore_shared;
use super::start::Born;
use super::{MachineError, MachineName, Machines};
use crate::agent::Agent;
use crate::hardware::{Begin, GUEST_DIRECTORY};
use crate::qmp::Qmp;
use crate::template::file;

/// How long writing a machine's devices down may take. Usual are 30 ms: its memory is in its file already.
const WRITTEN: Duration = Duration::from_secs(120);
/// How large they may be, in bytes. Usual is half a MiB.
const MOST: u64 = 64 << 20;
/// Where they are sent to, in the machine's directory.
const SOCKET: &str = "state.sock";

impl Machines {
    /// Boots a machine that is to become a template: its memory is in a file of its directory. Returns when it has
    /// booted and is warm.
    ///
    /// # Errors
    /// When it can't be started, has run before, or its agent does not say within `booted` that it is there.
    pub async fn start_as_template(
        &self,
        name: &MachineName,
        booted: Duration,
    ) -> Result<Agent, MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        if manifest.run.is_some() || manifest.ended != Ended::Never {
            return Err(MachineError::NotNow(format!("{name} has run before")));
        }
        manifest.becomes_template = true;
        held.save(&manifest)?;
        let born = Born { size: manifest.size, platform: held.settings.platform.clone() };
        held.launch(&mut manifest, &born, Begin::Boot).await?;
        let mut agent = held.port(&manifest).await?;
        agent.settle(&held.learned()?.identity.user, booted).await.map_err(refused)?;
        Ok(agent)
    }

    /// Stops a machine that was [started as a template](Self::start_as_template) where it is, and moves its disk,
    /// its memory and its devices into `directory`, on the same file system. The machine is to be destroyed then.
    ///
    /// Whoever does this keeps the agent until then: one whose port nobody has open looks at it now and then only, and
    /// a clone would find its identity later.
    ///
    /// # Errors
    /// When it does not run, or something can't be written.
    pub async fn capture(&self, name: &MachineName, directory: &Path) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let mut manifest = held.there()?;
        if !manifest.becomes_template || manifest.run.is_none() {
            return Err(MachineError::NotNow(format!("{name} does not run as a template")));
        }
        let qmp = held.monitor(&manifest).await?;
        qmp.execute("stop", Value::Null).await?;
        ignore_shared(&qmp, true).await?;
        held.write_devices(&manifest, &qmp, &directory.join(file::STATE)).await?;
        drop(qmp);
        held.end_process(&mut manifest, Ended::Stopped).await?;
        for name in [file::DISK, file::RAM] {
            let from = held.guest_directory().join(name);
            fs::rename(&from, directory.join(name)).map_err(MachineError::io("move", &from))?;
        }
        Ok(())
    }
}

impl Held<'_> {
    /// QEMU may start no program and open no file that it was not given, and Unix sockets are the only other way out
    /// for its state that every release knows.
    async fn write_devices(
        &self,
        manifest: &Manifest,
        qmp: &Qmp,
        target: &Path,
    ) -> Result<(), MachineError> {
        let path = self.guest_directory().join(SOCKET);
        let failed = |error: io::Error| {
            MachineError::io("write down the machine's devices to", target)(error)
        };
        let listener = listen(&self.guest_directory()).map_err(failed)?;
        self.give(manifest, &path)?;
        let receiving = async {
            let (stream, _) = listener.accept().await?;
            let mut file = tokio::fs::File::create_new(target).await?;
            let length = tokio::io::copy(&mut stream.take(MOST + 1), &mut file).await?;
            file.flush().await?;
            file.sync_all().await?;
            if length > MOST { Err(io::Error::other("they are too large")) } else { Ok(()) }
        };
        let asking = async {
            // No limit: the machine waits.
            let fast = json!({ "max-bandwidth": 1_u64 << 40 });
            qmp.execute("migrate-set-parameters", fast).await?;
            let uri = format!("unix:{GUEST_DIRECTORY}/{SOCKET}");
            qmp.execute("migrate", json!({ "uri": uri })).await?;
            let deadline = Instant::now() + WRITTEN;
            loop {
                let state = qmp.execute("query-migrate", Value::Null).await?;
                match state.get("status").and_then(Value::as_str) {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let why = state.get("error-desc").and_then(Value::as_str);
                        let why = why.unwrap_or("it does not say why");
                        return Err(MachineError::Failed(format!(
                            "QEMU can't write the machine down: {why}"
                        )));
                    }
                    _ if Instant::now() >= deadline => {
                        return Err(MachineError::Failed(
                            "QEMU did not write the machine down in time".to_owned(),
                        ));
                    }
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let both = async {
            let (received, asked) = tokio::join!(receiving, asking);
            asked.and_then(|()| received.map_err(failed))
        };
        let result = timeout(WRITTEN * 2, both).await;
        let _ = fs::remove_file(&path);
        result
            .map_err(|_| MachineError::Failed("QEMU did not write the machine down".to_owned()))?
    }
}

/// Listens in a directory whose path may be longer than that of a socket may be.
fn listen(directory: &Path) -> io::Result<UnixListener> {
    use std::os::fd::AsRawFd as _;
    let _ = fs::remove_file(directory.join(SOCKET));
    let directory = fs::File::open(directory)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}
