//! What the exit codes mean; `golem-provider --help` lists them.

use golem_vm_node::client::ClientError;
use golem_vm_node::data_dir::DataDirError;
use golem_vm_node::settings::SettingsError;
use golem_vm_protocol::ErrorCode;

use super::remote::NotRunning;
use crate::app::AppError;
use crate::backend::BackendError;
use crate::images::ImageError;

/// It failed.
pub(super) const FAILURE: u8 = 1;
/// A flag or a setting that is not understood.
pub(super) const USAGE: u8 = 2;
/// The provider does not run.
pub(super) const NOT_RUNNING: u8 = 3;
/// The backend is not available.
pub(super) const NO_BACKEND: u8 = 4;
/// The data directory is in use.
pub(super) const IN_USE: u8 = 5;

/// A message with the exit code that goes with it, where the error's type does not tell.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Coded {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Coded {
    /// A flag that can't be used.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }
}

/// The exit code that goes with `error`: the first of its causes that has one decides.
pub(super) fn of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(of_cause).unwrap_or(FAILURE)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(coded) = cause.downcast_ref::<Coded>() {
        return Some(coded.code);
    }
    if cause.is::<NotRunning>() {
        return Some(NOT_RUNNING);
    }
    if cause.is::<SettingsError>() {
        return Some(USAGE);
    }
    if let Some(DataDirError::InUse { .. }) = cause.downcast_ref() {
        return Some(IN_USE);
    }
    if let Some(app) = cause.downcast_ref::<AppError>() {
        return Some(app.exit_code());
    }
    if let Some(BackendError::Unavailable(_)) = cause.downcast_ref() {
        return Some(NO_BACKEND);
    }
    // Transparent: their causes are not in the chain.
    match cause.downcast_ref() {
        Some(ImageError::Backend(BackendError::Unavailable(_))) => return Some(NO_BACKEND),
        Some(ImageError::Name(_)) => return Some(USAGE),
        _ => {}
    }
    let refused = cause.downcast_ref::<ClientError>().and_then(ClientError::code)?;
    (refused == ErrorCode::BackendUnavailable).then_some(NO_BACKEND)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let unavailable = || BackendError::Unavailable("down".to_owned());
        let table: Vec<(anyhow::Error, u8)> = vec![
            (anyhow::anyhow!("x"), FAILURE),
            (Coded::usage("x").into(), USAGE),
            (SettingsError::NotInTable("X".to_owned()).into(), USAGE),
            (NotRunning("/d".into()).into(), NOT_RUNNING),
            (unavailable().into(), NO_BACKEND),
            (ImageError::Backend(unavailable()).into(), NO_BACKEND),
            (DataDirError::InUse { path: "/d".into(), pid: None }.into(), IN_USE),
            (DataDirError::NoHome("X".to_owned()).into(), FAILURE),
        ];
        for (error, code) in table {
            assert_eq!(of(&error), code, "{error:#}");
        }
        let wrapped = Err::<(), _>(unavailable()).context("can't build");
        assert_eq!(wrapped.map_err(|error| of(&error)), Err(NO_BACKEND));
    }
}
