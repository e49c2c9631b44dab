//! What a test makes of the calls to a backend in memory.

use std::time::Duration;

use crate::backend::BackendError;
#[cfg(doc)]
use crate::backend::{
    Backend, CloneInstance, Console, ImageStore, Metering, NotifyGuest, Resize, Snapshots, Suspend,
};

/// The calls that a script can change and that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// [`Backend::probe`].
    Probe,
    /// [`Backend::ensure`].
    Ensure,
    /// [`Backend::start`].
    Start,
    /// [`Backend::authorize`].
    Authorize,
    /// [`Backend::stop`].
    Stop,
    /// [`Backend::destroy`].
    Destroy,
    /// [`Backend::observe`].
    Observe,
    /// [`Backend::list`].
    List,
    /// [`Backend::survey`].
    Survey,
    /// [`NotifyGuest::notify`].
    Notify,
    /// [`Backend::clean_up`].
    CleanUp,
    /// [`ImageStore::build`].
    Build,
    /// [`ImageStore::pull`].
    Pull,
    /// [`ImageStore::size`].
    Size,
    /// [`ImageStore::remove`].
    Remove,
    /// [`Metering::usage`].
    Usage,
    /// [`Suspend::suspend`].
    Suspend,
    /// [`Suspend::forget`].
    Forget,
    /// [`Snapshots::create`].
    Snapshot,
    /// [`Snapshots::list`].
    Snapshots,
    /// [`Snapshots::restore`].
    Restore,
    /// [`Snapshots::remove`].
    RemoveSnapshot,
    /// [`CloneInstance::ensure_clone`].
    EnsureClone,
    /// [`Resize::resize`].
    Resize,
    /// [`Console::log`].
    ConsoleLog,
    /// [`Console::attach`].
    Attach,
}

impl Method {
    /// Whether instances or images may be others after it.
    pub(super) const fn changes_something(self) -> bool {
        matches!(
            self,
            Self::Ensure
                | Self::Start
                | Self::Authorize
                | Self::Stop
                | Self::Destroy
                | Self::Build
                | Self::Pull
                | Self::Remove
                | Self::Suspend
                | Self::Forget
                | Self::Snapshot
                | Self::Restore
                | Self::RemoveSnapshot
                | Self::EnsureClone
                | Self::Resize
        )
    }
}

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has done nothing.
    Fail(BackendError),
    /// It does its work and fails all the same, like an answer that got lost.
    FailAfterwards(BackendError),
    /// It takes this long, then does its work.
    Delay(Duration),
    /// It never answers and has done nothing.
    Hang,
}
