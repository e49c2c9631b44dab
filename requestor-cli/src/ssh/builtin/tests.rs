#![allow(clippy::unwrap_used)]

use russh::server::{self, Auth};

use super::*;

/// A server that lets everybody in, and then wants things of the client's machine.
struct Hostile;

impl server::Handler for Hostile {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: server::VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }
}

/// A login at that server, and what it does with it.
async fn logged_in(agent: Option<&Path>) -> (Connection, server::Handle) {
    let dir = tempfile::tempdir().unwrap();
    let (private, public) = key_file::generate("test").unwrap();
    let identity = dir.path().join("id");
    std::fs::write(&identity, private).unwrap();
    let key = LoginKey { public: public.trim().parse().unwrap(), identity, usable_by: Use::File };
    let host =
        russh::keys::PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)
            .unwrap();
    let pinned: SshPublicKey = host.public_key().to_openssh().unwrap().parse().unwrap();
    let config = server::Config { keys: vec![host], ..server::Config::default() };
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(async move {
        let session = server::run_stream(Arc::new(config), theirs, Hostile).await.unwrap();
        let handle = session.handle();
        tokio::spawn(session);
        handle
    });
    let mut connection = Connection::open(Box::new(ours), &pinned, agent).await.unwrap();
    connection.log_in("ubuntu", &key).await.unwrap();
    (connection, serving.await.unwrap())
}

#[tokio::test]
async fn nothing_is_opened_on_this_machine_for_the_other_side() {
    let (_connection, server) = logged_in(None).await;
    let refused = |result: Result<russh::Channel<server::Msg>, russh::Error>| {
        assert!(matches!(result, Err(russh::Error::ChannelOpenFailure(REFUSED))), "{result:?}");
    };
    refused(server.channel_open_agent().await);
    refused(server.channel_open_forwarded_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await);
    refused(server.channel_open_forwarded_streamlocal("/run/x").await);
    refused(server.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await);
    refused(server.channel_open_direct_streamlocal("/run/docker.sock").await);
    refused(server.channel_open_x11("127.0.0.1", 1).await);
    refused(server.channel_open_session().await);
}

#[cfg(unix)]
#[tokio::test]
async fn the_agent_is_opened_only_if_the_person_asked_for_that() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let agent = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = agent.accept().await.unwrap();
        let mut question = [0; 4];
        stream.read_exact(&mut question).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
    });
    let (_connection, server) = logged_in(Some(&socket)).await;
    let mut channel = server.channel_open_agent().await.unwrap().into_stream();
    channel.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    channel.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"pong");
    assert!(server.channel_open_x11("127.0.0.1", 1).await.is_err());
}
