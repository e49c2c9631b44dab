//! Control groups: what a process and all that it starts may use together.
//!
//! Three ways, of which a host has one: systemd keeps a scope for each machine; or we make groups ourselves, in the
//! old hierarchies (v1, one for each resource) or the new one (v2). An ordinary user without systemd has none.

mod files;
mod systemd;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ProcessIdentity;
use files::Layout;

/// What all processes of a group may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLimits {
    /// Memory in bytes, with the page cache of its files; there is no swap on top where the kernel can tell.
    pub memory_bytes: u64,
    /// CPU in thousandths of one.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub threads: u64,
}

/// A resource that a group bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes and threads.
    Threads,
}

/// How this host keeps groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    way: Way,
    /// Which resources are bounded.
    enforced: Vec<Resource>,
    /// What is in the way of the others; `None` where nothing is.
    missing: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Systemd { user: bool },
    Files(Layout),
    Nothing,
}

/// A group of one machine's: what has to be kept to find it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its directories, one for each hierarchy.
    directories: Vec<PathBuf>,
}

/// What a group has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Times that the kernel has ended one of its processes for using too much memory.
    pub out_of_memory: u64,
}

impl Groups {
    /// Finds out how groups are kept here, by making one and removing it.
    #[must_use]
    pub fn find() -> Self {
        let root = rustix::process::geteuid().is_root();
        if systemd::runs(root) {
            let enforced = vec![Resource::Cpu, Resource::Memory, Resource::Threads];
            return Self { way: Way::Systemd { user: !root }, enforced, missing: None };
        }
        match Layout::find("golem") {
            Ok(layout) => {
                let enforced = layout.enforces();
                let missing = (enforced.len() < 3).then(|| {
                    "the kernel's controllers for the others are not mounted or not given to us"
                        .to_owned()
                });
                Self { way: Way::Files(layout), enforced, missing }
            }
            Err(error) => Self {
                way: Way::Nothing,
                enforced: Vec::new(),
                missing: Some(format!("no control group can be made: {error}")),
            },
        }
    }

    /// Which resources are bounded.
    #[must_use]
    pub fn enforces(&self) -> &[Resource] {
        &self.enforced
    }

    /// Why some are not.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// How, in a word or two, for people.
    #[must_use]
    pub const fn how(&self) -> &'static str {
        match &self.way {
            Way::Systemd { user: false } => "systemd scopes",
            Way::Systemd { user: true } => "systemd scopes of the user's",
            Way::Files(layout) => layout.how(),
            Way::Nothing => "none",
        }
    }

    /// The words before a command that has to be in a group from its beginning; none where it is put into it later.
    #[must_use]
    pub fn wrapper(&self, name: &str, limits: &GroupLimits) -> Vec<OsString> {
        match &self.way {
            Way::Systemd { user } => systemd::wrapper(*user, name, limits),
            Way::Files(_) | Way::Nothing => Vec::new(),
        }
    }

    /// Puts the process into the group `name` with these limits, which is made if it is not there.
    ///
    /// # Errors
    /// When a limit that is enforced here can't be set.
    pub fn enter(
        &self,
        name: &str,
        limits: &GroupLimits,
        process: &ProcessIdentity,
    ) -> io::Result<Group> {
        let directories = match &self.way {
            Way::Systemd { .. } => files::directories_of(process.pid)?,
            Way::Files(layout) => layout.enter(name, limits, process.pid)?,
            Way::Nothing => Vec::new(),
        };
        Ok(Group { directories })
    }
}

impl Group {
    /// Puts another process into it, which counts with the others from then on.
    ///
    /// # Errors
    /// When it can't be put into one of its hierarchies.
    pub fn admit(&self, process: &ProcessIdentity) -> io::Result<()> {
        files::admit(&self.directories, process.pid)
    }

    /// What it has used; zeros where that is not counted.
    #[must_use]
    pub fn usage(&self) -> GroupUsage {
        GroupUsage { out_of_memory: files::out_of_memory(&self.directories) }
    }

    /// Removes it, after its processes have ended. Does nothing if it is gone.
    ///
    /// # Errors
    /// When there are processes in it.
    pub fn remove(&self) -> io::Result<()> {
        files::remove(&self.directories)
    }
}
