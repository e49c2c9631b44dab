//! Whether SSH answers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(30);

/// Waits until an SSH server at `target` has sent the beginning of its identification
/// (`SSH-`, RFC 4253 section 4.2): an open port alone proves nothing.
///
/// # Errors
/// A sentence with the last failure, when `deadline` is reached.
pub async fn ssh_answers(target: SocketAddr, deadline: Instant) -> Result<(), String> {
    let mut last = String::from("no answer");
    loop {
        let attempt = timeout(TRY, read_banner(target));
        match timeout_at(deadline, attempt).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => last = error,
            Ok(Err(_)) => last = "it accepts connections and says nothing".to_owned(),
            Err(_) => return Err(last),
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

async fn read_banner(target: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(target).await.map_err(|error| error.to_string())?;
    let mut start = [0; 4];
    stream.read_exact(&mut start).await.map_err(|error| error.to_string())?;
    if &start == b"SSH-" {
        Ok(())
    } else {
        Err("what answers there is not an SSH server".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn server(says: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(says).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_banner_is_an_answer_and_other_words_are_not() {
        let soon = || Instant::now() + Duration::from_millis(300);
        let good = server(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        assert_eq!(ssh_answers(good, Instant::now() + TRY).await, Ok(()));
        let other = server(b"HTTP/1.1 400\r\n").await;
        assert!(ssh_answers(other, soon()).await.unwrap_err().contains("not an SSH server"));
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        assert!(ssh_answers(closed, soon()).await.is_err());
    }
}
