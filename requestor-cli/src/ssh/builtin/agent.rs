//! Keys that the person's SSH agent holds.

use std::time::Duration;

use golem_vm_protocol::vm::SshPublicKey;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::{HashAlg, PublicKey};
use tokio::time::timeout;

use super::{Pinned, SshError};

/// How long an agent may take to say what it holds.
const ASK: Duration = Duration::from_secs(3);

type Agent = AgentClient<Box<dyn AgentStream + Send + Unpin>>;

#[cfg(unix)]
async fn connect() -> Option<Agent> {
    AgentClient::connect_env().await.ok().map(AgentClient::dynamic)
}

#[cfg(windows)]
async fn connect() -> Option<Agent> {
    let pipe = r"\\.\pipe\openssh-ssh-agent";
    AgentClient::connect_named_pipe(pipe).await.ok().map(AgentClient::dynamic)
}

#[cfg(not(any(unix, windows)))]
async fn connect() -> Option<Agent> {
    None
}

/// The public keys that the agent holds; none when there is no agent, or it does not answer.
pub async fn keys() -> Vec<SshPublicKey> {
    let ask = async {
        let mut agent = connect().await?;
        agent.request_identities().await.ok()
    };
    let identities = timeout(ASK, ask).await.ok().flatten().unwrap_or_default();
    identities.iter().filter_map(usable).collect()
}

fn usable(identity: &AgentIdentity) -> Option<SshPublicKey> {
    let AgentIdentity::PublicKey { key, comment } = identity else { return None };
    let line = key.to_openssh().ok()?;
    // A comment that can't be printed is no reason not to use the key.
    format!("{line} {comment}").parse().or_else(|_| line.parse()).ok()
}

/// Lets the other side speak with the agent behind a socket, until either ends it.
#[cfg(unix)]
pub(super) async fn forward(
    socket: std::path::PathBuf,
    mut channel: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
) {
    if let Ok(mut agent) = tokio::net::UnixStream::connect(socket).await {
        // Whichever side breaks off: the channel ends with it.
        let _ = tokio::io::copy_bidirectional(&mut channel, &mut agent).await;
    }
}

/// Agents have no sockets here: nothing is forwarded.
#[cfg(not(unix))]
pub(super) async fn forward(_: std::path::PathBuf, _: impl Sized) {}

pub(super) async fn authenticate(
    handle: &mut Handle<Pinned>,
    user: &str,
    key: &SshPublicKey,
) -> Result<AuthResult, SshError> {
    let no_agent = || SshError::Key("the SSH agent that holds the key does not answer".to_owned());
    let mut agent = timeout(ASK, connect()).await.ok().flatten().ok_or_else(no_agent)?;
    let public = PublicKey::from_openssh(key.without_comment())
        .map_err(|error| SshError::Key(error.to_string()))?;
    let hash = key.rsa_bits().map(|_| HashAlg::Sha512);
    handle
        .authenticate_publickey_with(user, public, hash, &mut agent)
        .await
        .map_err(|error| SshError::Key(format!("the SSH agent did not sign: {error}")))
}
