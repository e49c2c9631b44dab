//! Why a machine did not do what it was asked.

use std::io;
use std::path::Path;

use super::MachineName;
use crate::disk::DiskError;
use crate::qmp::QmpError;

/// Why it did not.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// There is no such machine.
    #[error("there is no machine {0}")]
    Absent(MachineName),
    /// It could not be looked at or asked: says nothing about it.
    #[error("{0}")]
    Unknown(String),
    /// It refused, or could not.
    #[error("{0}")]
    Failed(String),
    /// It can't do this as it is now, and what to do.
    #[error("{0}")]
    NotNow(String),
}

impl MachineError {
    /// For `map_err`: what failed, on which file.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Failed(format!("could not {what} {}: {error}", path.display()))
    }
}

impl From<DiskError> for MachineError {
    fn from(error: DiskError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<QmpError> for MachineError {
    fn from(error: QmpError) -> Self {
        match error {
            QmpError::Refused(..) => Self::Failed(error.to_string()),
            _ => Self::Unknown(error.to_string()),
        }
    }
}
