//! Looking at machines, also at those that another run of this program has started.

use std::collections::BTreeMap;

use super::manifest::Ended;
use super::{MachineError, MachineName, Machines};

/// What was seen of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is not there.
    Absent,
    /// It is there, and some of it was never made.
    HalfMade,
    /// It does not run.
    Stopped(Ended),
    /// It does not run, and goes on from where it was when it is started.
    Suspended,
    /// It runs.
    Running,
}

impl Machines {
    /// Looks at a machine. One whose guest has ended is cleared away, so that it takes no memory; one that runs and
    /// whose uplink has ended gets another one.
    ///
    /// # Errors
    /// When nothing can be told of it now.
    pub async fn observe(&self, name: &MachineName) -> Result<State, MachineError> {
        let held = self.hold(name).await;
        let Some(mut manifest) = held.load()? else { return Ok(State::Absent) };
        if !manifest.made {
            return Ok(State::HalfMade);
        }
        if let Some(run) = &manifest.run {
            held.keep_console(&run.process);
        }
        if held.goes_on(&mut manifest).await? {
            held.mend(&mut manifest).await;
            return Ok(State::Running);
        }
        Ok(if manifest.suspended.is_some() {
            State::Suspended
        } else {
            State::Stopped(manifest.ended)
        })
    }

    /// Looks at all machines. One with which something is done at this moment is as its manifest says.
    ///
    /// # Errors
    /// When nothing can be told of one of them.
    pub async fn survey(&self) -> Result<BTreeMap<MachineName, State>, MachineError> {
        let mut seen = BTreeMap::new();
        for name in self.list()? {
            let state = match self.try_hold(&name).map(drop) {
                Some(()) => self.observe(&name).await?,
                None => match self.manifest(&name)? {
                    None => State::Absent,
                    Some(manifest) if !manifest.made => State::HalfMade,
                    Some(manifest) if manifest.run.is_some() => State::Running,
                    Some(manifest) if manifest.suspended.is_some() => State::Suspended,
                    Some(manifest) => State::Stopped(manifest.ended),
                },
            };
            seen.insert(name, state);
        }
        Ok(seen)
    }
}
