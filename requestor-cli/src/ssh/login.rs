//! Logging in for real: the proof that a rented VM is usable, and that it is the right one.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::builtin::{Connection, SshError};
use super::keys::{LoginKey, Use};
use super::{Target, openssh};
use crate::client::connector::Connector;

/// How long a freshly made VM may take until its SSH answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a VM that answers may take until it knows the key.
const KEY_PATIENCE: Duration = Duration::from_secs(10);
/// Longest time between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a VM can't be logged in to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The wrong machine answers.
    #[error("{0}")]
    WrongHostKey(SshError),
    /// Nothing answers, or no SSH.
    #[error("{0}")]
    Unreachable(SshError),
    /// The key is not let in.
    #[error("{0}")]
    NotLetIn(String),
}

/// Reaches the VM and exchanges keys, once. It may use the `agent` behind this socket, if any.
///
/// # Errors
/// [`SshError`].
pub async fn connect(
    connector: &Connector,
    target: &Target<'_>,
    agent: Option<&Path>,
) -> Result<Connection, SshError> {
    let access = target.access;
    let stream = connector.ssh(&access.host, access.port).await.map_err(SshError::Unreachable)?;
    Connection::open(stream, &access.host_key, agent).await
}

/// Logs in and runs a command that does nothing. What is not up yet is waited for; a wrong host
/// key is never tried again. `connected` is called whenever the right host key has answered.
///
/// # Errors
/// [`LoginError`].
pub async fn check(
    connector: &Connector,
    target: &Target<'_>,
    key: &LoginKey,
    program: Option<&Path>,
    interactive: bool,
    connected: impl Fn(),
) -> Result<(), LoginError> {
    let started = Instant::now();
    let mut pause = PAUSE / 10;
    loop {
        let attempt = once(connector, target, key, program, interactive, &connected).await;
        let patience = match &attempt {
            Ok(()) | Err(LoginError::WrongHostKey(_)) => return attempt,
            Err(LoginError::Unreachable(_)) => PATIENCE,
            // Whoever was asked for a passphrase is not asked again and again.
            Err(LoginError::NotLetIn(_)) if interactive => return attempt,
            Err(LoginError::NotLetIn(_)) => KEY_PATIENCE,
        };
        if started.elapsed() >= patience {
            return attempt;
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE);
    }
}

async fn once(
    connector: &Connector,
    target: &Target<'_>,
    key: &LoginKey,
    program: Option<&Path>,
    interactive: bool,
    connected: &impl Fn(),
) -> Result<(), LoginError> {
    let mut connection = connect(connector, target, None).await.map_err(sorted)?;
    connected();
    let with_openssh = matches!(key.usable_by, Use::OpenSsh | Use::Passphrase);
    if let Some(program) = program.filter(|_| with_openssh) {
        // The host key was right; OpenSSH checks it once more by itself.
        connection.close().await;
        return openssh::check(program, target, interactive).await.map_err(LoginError::NotLetIn);
    }
    let result = async {
        connection.log_in(&target.access.user, key).await?;
        connection.run_true().await
    }
    .await;
    connection.close().await;
    result.map_err(sorted)
}

fn sorted(error: SshError) -> LoginError {
    match error {
        SshError::WrongHostKey { .. } => LoginError::WrongHostKey(error),
        SshError::Unreachable(_) | SshError::Broken(_) => LoginError::Unreachable(error),
        SshError::NotLetIn(_) | SshError::Key(_) => LoginError::NotLetIn(error.to_string()),
    }
}

/// What is behind a client's exit code 255, which stands for any failure of the connection: the
/// wrong machine, an unreachable one, or (then `None`) something that the client has told itself.
pub async fn diagnose(target: &Target<'_>) -> Option<LoginError> {
    let connector = Connector { deadline: Duration::from_secs(5) };
    match connect(&connector, target, None).await {
        Ok(connection) => {
            connection.close().await;
            None
        }
        Err(error @ (SshError::WrongHostKey { .. } | SshError::Unreachable(_))) => {
            Some(sorted(error))
        }
        Err(error) => Some(LoginError::Unreachable(error)),
    }
}
