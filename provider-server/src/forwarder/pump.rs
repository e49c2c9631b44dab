//! Moves the bytes of one direction of a session.
//!
//! While nothing is to be moved, a direction holds neither a pipe nor a buffer, so that thousands
//! of idle sessions cost two sockets each and no more.

use std::io;

use tokio::net::TcpStream;

use super::copy;
#[cfg(target_os = "linux")]
use super::splice;

/// After how many bytes other sessions on this thread get their turn.
pub(super) const TURN: usize = 1024 * 1024;

/// Where one direction failed. The difference matters to the other direction: what the far side
/// had sent before it went away can still be delivered.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The side that sends is broken.
    From(io::Error),
    /// The side that receives is broken.
    To(io::Error),
}

/// How a burst of bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Burst {
    /// Nothing more to read for now.
    Idle,
    /// The turn is over, there may be more.
    Turn,
    /// The sender has ended its direction.
    End,
    /// This way of moving bytes doesn't work here; nothing has been taken from the sender.
    Unsupported,
}

/// Moves everything that `from` sends to `to`, and passes its end on.
///
/// `moved` is called with the number of bytes each time some have been handed to `to`'s kernel
/// buffer.
pub(super) async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    moved: impl Fn(usize),
) -> Result<(), PumpError> {
    move_bytes(from, to, moved).await?;
    pass_end(to)
}

/// Moves everything that `from` sends to `to`, and keeps its end to itself.
pub(super) async fn move_bytes(
    from: &TcpStream,
    to: &TcpStream,
    moved: impl Fn(usize),
) -> Result<(), PumpError> {
    move_bytes_by(from, to, moved, cfg!(target_os = "linux")).await
}

/// Tells `to` that nothing more comes.
pub(super) fn pass_end(to: &TcpStream) -> Result<(), PumpError> {
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        // The far side may have closed altogether by now.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(PumpError::To(error.into())),
    }
}

async fn move_bytes_by(
    from: &TcpStream,
    to: &TcpStream,
    moved: impl Fn(usize),
    mut in_kernel: bool,
) -> Result<(), PumpError> {
    loop {
        from.readable().await.map_err(PumpError::From)?;
        let burst = if in_kernel {
            in_kernel_burst(from, to, &moved).await?
        } else {
            copy::burst(from, to, &moved).await?
        };
        match burst {
            Burst::Idle => {}
            Burst::Turn => tokio::task::yield_now().await,
            Burst::Unsupported => in_kernel = false,
            Burst::End => return Ok(()),
        }
    }
}

#[cfg(target_os = "linux")]
async fn in_kernel_burst(
    from: &TcpStream,
    to: &TcpStream,
    moved: &impl Fn(usize),
) -> Result<Burst, PumpError> {
    splice::burst(from, to, moved).await
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unused_async)]
async fn in_kernel_burst(
    _from: &TcpStream,
    _to: &TcpStream,
    _moved: &impl Fn(usize),
) -> Result<Burst, PumpError> {
    Ok(Burst::Unsupported)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    async fn pump_by(
        from: &TcpStream,
        to: &TcpStream,
        moved: impl Fn(usize),
        in_kernel: bool,
    ) -> Result<(), PumpError> {
        move_bytes_by(from, to, moved, in_kernel).await?;
        pass_end(to)
    }

    /// Five megabytes to a receiver that starts late and reads in odd pieces.
    async fn all_bytes_arrive(in_kernel: bool) {
        let (mut sender, from) = pair().await;
        let (to, mut receiver) = pair().await;
        let sent: Vec<u8> =
            (0..5_000_011_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let count = AtomicUsize::new(0);
        let send = async {
            for piece in sent.chunks(70_001) {
                sender.write_all(piece).await.unwrap();
            }
            sender.shutdown().await.unwrap();
        };
        let receive = async {
            // Until nothing fits any more between the two.
            while sent.len() > count.load(Ordering::Relaxed) {
                let before = count.load(Ordering::Relaxed);
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
                if before > 0 && before == count.load(Ordering::Relaxed) {
                    break;
                }
            }
            let mut received = Vec::new();
            let mut piece = vec![0; 9_973];
            loop {
                match receiver.read(&mut piece).await.unwrap() {
                    0 => return received,
                    read => received.extend_from_slice(&piece[..read]),
                }
            }
        };
        let moved = |bytes| {
            count.fetch_add(bytes, Ordering::Relaxed);
        };
        let (pumped, (), received) =
            tokio::join!(pump_by(&from, &to, moved, in_kernel), send, receive);
        pumped.unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
        assert_eq!(count.into_inner(), sent.len());
    }

    #[tokio::test]
    async fn all_bytes_arrive_by_copying() {
        all_bytes_arrive(false).await;
    }

    #[tokio::test]
    async fn all_bytes_arrive_inside_the_kernel() {
        all_bytes_arrive(true).await;
    }

    #[tokio::test]
    async fn a_broken_sender_and_a_broken_receiver_are_told_apart() {
        for in_kernel in [false, true] {
            let (sender, from) = pair().await;
            let (to, _receiver) = pair().await;
            sender.set_zero_linger().unwrap();
            drop(sender);
            let ended = pump_by(&from, &to, |_| {}, in_kernel).await;
            assert!(matches!(ended, Err(PumpError::From(_))), "{ended:?}");

            let (mut sender, from) = pair().await;
            let (to, receiver) = pair().await;
            receiver.set_zero_linger().unwrap();
            drop(receiver);
            let send = async {
                // Until it is stopped by the pump's end.
                while sender.write_all(&[7; 1000]).await.is_ok() {}
            };
            let ended = tokio::select! {
                ended = pump_by(&from, &to, |_| {}, in_kernel) => ended,
                () = send => Ok(()),
            };
            assert!(matches!(ended, Err(PumpError::To(_))), "{ended:?}");
        }
    }
}
