//! The built-in SSH client. Nothing outside this directory names russh, whose interface changes
//! often.

pub mod agent;
pub mod key_file;
pub mod session;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::SshPublicKey;
use russh::client::{self, AuthResult, ChannelOpenHandle, Msg, Session};
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelOpenFailure, Disconnect, Preferred, cipher};
use tokio::time::timeout;

use super::keys::{LoginKey, Use};
use super::{KEEPALIVE, KEEPALIVES};
use crate::client::connector::{ConnectError, Stream};

/// How long key exchange and login may take.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// What the other side hears that wants to open something on this machine.
const REFUSED: ChannelOpenFailure = ChannelOpenFailure::AdministrativelyProhibited;

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    /// It can't be reached.
    #[error("{0}")]
    Unreachable(ConnectError),
    /// It answers, and is not the VM.
    #[error("its host key is {presented}, and not {pinned}")]
    WrongHostKey {
        /// Fingerprint of what answered.
        presented: String,
        /// Fingerprint of the VM's key.
        pinned: String,
    },
    /// The connection broke, or something else than SSH answers.
    #[error("the SSH connection broke: {0}")]
    Broken(String),
    /// The key is not let in.
    #[error("the VM does not accept the key {0}")]
    NotLetIn(String),
    /// The key can't be used by this client.
    #[error("{0}")]
    Key(String),
}

/// Accepts one host key, and nothing that the other side wants to open on this machine, but for
/// the agent where the person asked for that.
struct Pinned {
    key: SshPublicKey,
    presented: Arc<Mutex<Option<String>>>,
    /// The agent's socket, if the other side may use it.
    agent: Option<PathBuf>,
}

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        server: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let key = server.public_key();
        let line = key.to_openssh().unwrap_or_default();
        // A certificate is refused even over the pinned key: none was ever asked for.
        let same = server.certificate().is_none()
            && line
                .parse::<SshPublicKey>()
                .is_ok_and(|key| key.without_comment() == self.key.without_comment());
        if !same {
            // A plain mutex: held for one assignment.
            *self.presented.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(key.fingerprint(HashAlg::Sha256).to_string());
        }
        Ok(same)
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.agent.clone() {
            Some(socket) => {
                reply.accept().await;
                tokio::spawn(agent::forward(socket, channel.into_stream()));
            }
            None => reply.reject(REFUSED).await,
        }
        Ok(())
    }

    // russh accepts what follows unless it is told otherwise.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(REFUSED).await;
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(REFUSED).await;
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(REFUSED).await;
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(REFUSED).await;
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(REFUSED).await;
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(REFUSED).await;
        Ok(())
    }
}

/// A connection whose host key was found right.
pub struct Connection {
    handle: client::Handle<Pinned>,
    forwards_agent: bool,
}

fn config(pinned: &SshPublicKey) -> client::Config {
    let kind = pinned.as_str().split(' ').next().unwrap_or_default();
    let key = kind.parse::<Algorithm>().map_or(Preferred::DEFAULT.key, |kind| vec![kind].into());
    client::Config {
        client_id: russh::SshId::Standard(
            concat!("SSH-2.0-golem_", env!("CARGO_PKG_VERSION")).into(),
        ),
        // The server may have more keys; only the pinned one is of interest.
        preferred: Preferred {
            key,
            // With the processor's AES less than half the work of the default, chacha20.
            cipher: Cow::Borrowed(&[
                cipher::AES_256_GCM,
                cipher::AES_128_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
            ]),
            compression: Cow::Borrowed(&[russh::compression::NONE]),
            ..Preferred::DEFAULT
        },
        window_size: 8 << 20,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES,
        nodelay: true,
        ..client::Config::default()
    }
}

impl Connection {
    /// Exchanges keys over `stream`. Nothing of the person's is sent before the host key was
    /// found to be `pinned`. The other side may use the `agent` behind this socket, if any.
    ///
    /// # Errors
    /// [`SshError::WrongHostKey`] or [`SshError::Broken`].
    pub async fn open(
        stream: Stream,
        pinned: &SshPublicKey,
        agent: Option<&Path>,
    ) -> Result<Self, SshError> {
        let presented = Arc::new(Mutex::new(None));
        let handler = Pinned {
            key: pinned.clone(),
            presented: Arc::clone(&presented),
            agent: agent.map(Path::to_owned),
        };
        let opening = client::connect_stream(Arc::new(config(pinned)), stream, handler);
        let opened = timeout(HANDSHAKE, opening).await;
        let seen = presented.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(presented) = seen {
            return Err(SshError::WrongHostKey { presented, pinned: pinned.fingerprint() });
        }
        match opened {
            Ok(Ok(handle)) => Ok(Self { handle, forwards_agent: agent.is_some() }),
            Ok(Err(russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. })) => {
                // It has no host key of the pinned kind, so it can't be the VM.
                let presented = "of another kind".to_owned();
                Err(SshError::WrongHostKey { presented, pinned: pinned.fingerprint() })
            }
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(SshError::Broken(format!(
                "no SSH server answered within {} s",
                HANDSHAKE.as_secs()
            ))),
        }
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`SshError::NotLetIn`], [`SshError::Key`] or [`SshError::Broken`].
    pub async fn log_in(&mut self, user: &str, key: &LoginKey) -> Result<(), SshError> {
        let result = timeout(HANDSHAKE, self.authenticate(user, key))
            .await
            .map_err(|_| SshError::Broken("the login took too long".to_owned()))??;
        match result {
            AuthResult::Success => Ok(()),
            AuthResult::Failure { .. } => Err(SshError::NotLetIn(key.public.fingerprint())),
        }
    }

    async fn authenticate(&mut self, user: &str, key: &LoginKey) -> Result<AuthResult, SshError> {
        match key.usable_by {
            Use::File => {
                let private = key_file::load(&key.identity).map_err(SshError::Key)?;
                let private = PrivateKeyWithHashAlg::new(Arc::new(private), None);
                self.handle
                    .authenticate_publickey(user, private)
                    .await
                    .map_err(|error| broken(&error))
            }
            Use::Agent => agent::authenticate(&mut self.handle, user, &key.public).await,
            Use::OpenSsh => Err(SshError::Key(format!(
                "the built-in client can't use {} (RSA or a security key) from its file; \
                 ssh-add it, or use an ed25519 key",
                key.identity.display()
            ))),
            Use::Passphrase => Err(SshError::Key(format!(
                "the built-in client can't ask for the passphrase of {}; ssh-add it",
                key.identity.display()
            ))),
        }
    }

    /// Ends the connection politely, if the other side still listens.
    pub async fn close(self) {
        let bye = self.handle.disconnect(Disconnect::ByApplication, "", "en");
        let _ = timeout(Duration::from_secs(1), bye).await;
    }
}

fn broken(error: &russh::Error) -> SshError {
    SshError::Broken(printable(&error.to_string(), 200))
}

#[cfg(test)]
mod tests;
