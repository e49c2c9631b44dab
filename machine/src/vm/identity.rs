//! Who a machine is, as it is kept beside it: from this its seed can be written anew.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machines::Held;
use super::manifest::Manifest;
use super::{MachineError, MachineName, Machines};
use crate::agent::{Agent, AgentError};
use crate::seed::{self, Identity, UserData};

/// How long a guest that runs is given to say that its agent is there.
const THERE: Duration = Duration::from_secs(20);

/// What the guest learns at its boots. It holds the private host key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Learned {
    pub(super) identity: Identity,
    /// The requestor's own user data, as it was given.
    pub(super) user_data: Option<String>,
}

impl Learned {
    /// As the disk on which the guest finds it.
    pub(super) fn seed(&self) -> Result<Vec<u8>, MachineError> {
        let parsed = self.user_data.as_deref().map(UserData::parse).transpose();
        let user_data = parsed.map_err(|error| {
            MachineError::Failed(format!("the user data can't be used: {error}"))
        })?;
        seed::disk(&self.identity, user_data.as_ref())
            .map_err(|error| MachineError::Failed(format!("the seed can't be made: {error}")))
    }
}

impl Machines {
    /// Who the machine is.
    ///
    /// # Errors
    /// When there is no such machine.
    pub async fn identity(&self, name: &MachineName) -> Result<Identity, MachineError> {
        let held = self.hold(name).await;
        held.there()?;
        Ok(held.learned()?.identity)
    }

    /// Lets these keys log in, in place of the earlier ones: at once where the guest runs our agent, else from its
    /// next boot on. Whether it was at once.
    ///
    /// # Errors
    /// When that can't be written down, or the agent refuses.
    pub async fn authorize(
        &self,
        name: &MachineName,
        keys: Vec<String>,
    ) -> Result<bool, MachineError> {
        let held = self.hold(name).await;
        let manifest = held.there()?;
        let mut learned = held.learned()?;
        learned.identity.authorized_keys = keys;
        held.keep_learned(&learned)?;
        let seed = held.seed();
        seed::replace(&seed, &learned.seed()?)
            .map_err(MachineError::io("write the seed", &seed))?;
        if manifest.run.is_none() {
            return Ok(true);
        }
        let Some(mut agent) = held.agent(&manifest).await? else { return Ok(false) };
        let identity = &learned.identity;
        agent.authorize(&identity.user, &identity.authorized_keys).await.map_err(refused)?;
        Ok(true)
    }

    /// Makes the guest's root file system as large as its disk, where the guest runs our agent. Whether it does; where
    /// it does not, the guest does so at its next boot.
    ///
    /// # Errors
    /// When the agent can't.
    pub async fn grow_file_system(
        &self,
        name: &MachineName,
        within: Duration,
    ) -> Result<bool, MachineError> {
        let held = self.hold(name).await;
        let manifest = held.there()?;
        let Some(mut agent) = held.agent(&manifest).await? else { return Ok(false) };
        agent.grow(within).await.map_err(refused)?;
        Ok(true)
    }

    /// Shows a line to all who are logged in, where the guest runs our agent. Whether it does.
    ///
    /// # Errors
    /// When the agent refuses.
    pub async fn notify(&self, name: &MachineName, line: &str) -> Result<bool, MachineError> {
        let held = self.hold(name).await;
        let manifest = held.there()?;
        let Some(mut agent) = held.agent(&manifest).await? else { return Ok(false) };
        agent.notify(line).await.map_err(refused)?;
        Ok(true)
    }
}

impl Held<'_> {
    fn identity_file(&self) -> PathBuf {
        self.directory().join("identity.json")
    }

    pub(super) fn learned(&self) -> Result<Learned, MachineError> {
        let file = self.identity_file();
        let read = || {
            let text = fs::read(&file)?;
            serde_json::from_slice(&text).map_err(io::Error::from)
        };
        read().map_err(MachineError::io("read", &file))
    }

    /// Writes down who it is, whole or not at all.
    pub(super) fn keep_learned(&self, learned: &Learned) -> Result<(), MachineError> {
        let file = self.identity_file();
        let write = || {
            let new = file.with_extension("new");
            let mut options = OpenOptions::new();
            let mut out = options.create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            out.write_all(&serde_json::to_vec(learned)?)?;
            out.sync_all()?;
            fs::rename(new, &file)
        };
        write().map_err(MachineError::io("write", &file))
    }

    /// A conversation with the guest's agent; `None` where the image has none, or it does not answer: the guest may
    /// have removed it.
    pub(super) async fn agent(&self, manifest: &Manifest) -> Result<Option<Agent>, MachineError> {
        if manifest.run.is_none() || !manifest.has_agent {
            return Ok(None);
        }
        let mut agent = self.port(manifest).await?;
        match agent.hello(THERE).await {
            Ok(_) => Ok(Some(agent)),
            Err(error) => {
                tracing::debug!(machine = %self.name, "its agent: {error}");
                Ok(None)
            }
        }
    }
}

pub(super) fn refused(error: AgentError) -> MachineError {
    match error {
        AgentError::Refused { .. } => MachineError::Failed(error.to_string()),
        _ => MachineError::Unknown(error.to_string()),
    }
}
