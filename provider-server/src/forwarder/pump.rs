//! Moves the bytes of one direction of a session.
//!
//! While nothing is to be moved, a direction holds neither a pipe nor a buffer, so that thousands
//! of idle sessions cost two sockets each and no more.

use std::io;

use tokio::net::TcpStream;

use super::copy;
use super::flow::{Flow, Held, Stage};
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

/// Moves everything that `from` sends to `to`, and passes its end on. Can be dropped and called again.
///
/// `moved` is called with the number of bytes each time some have been handed to `to`'s kernel
/// buffer.
pub(super) async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    flow: &mut Flow,
    moved: impl Fn(usize),
) -> Result<(), PumpError> {
    move_bytes(from, to, flow, moved).await?;
    if flow.stage == Stage::Ended {
        pass_end(to)?;
        flow.stage = Stage::Passed;
    }
    Ok(())
}

/// Moves everything that `from` sends to `to`, and keeps its end to itself. Can be dropped and called again.
pub(super) async fn move_bytes(
    from: &TcpStream,
    to: &TcpStream,
    flow: &mut Flow,
    moved: impl Fn(usize),
) -> Result<(), PumpError> {
    let result = move_bytes_by(from, to, flow, moved, cfg!(target_os = "linux")).await;
    if matches!(result, Err(PumpError::To(_))) {
        flow.stage = Stage::Refused;
        flow.held = Held::Nothing;
    }
    result
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
    flow: &mut Flow,
    moved: impl Fn(usize),
    mut in_kernel: bool,
) -> Result<(), PumpError> {
    if flow.stage == Stage::Refused {
        return Err(PumpError::To(io::ErrorKind::BrokenPipe.into()));
    }
    // What another mover had taken before it was dropped.
    flow.held.deliver(to, &moved).await?;
    flow.held = Held::Nothing;
    while flow.stage == Stage::Open {
        from.readable().await.map_err(PumpError::From)?;
        let burst = if in_kernel {
            in_kernel_burst(from, to, &mut flow.held, &moved).await?
        } else {
            copy::burst(from, to, &mut flow.held, &moved).await?
        };
        match burst {
            Burst::Idle => {}
            Burst::Turn => tokio::task::yield_now().await,
            Burst::Unsupported => in_kernel = false,
            Burst::End => flow.stage = Stage::Ended,
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
async fn in_kernel_burst(
    from: &TcpStream,
    to: &TcpStream,
    held: &mut Held,
    moved: &impl Fn(usize),
) -> Result<Burst, PumpError> {
    splice::burst(from, to, held, moved).await
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unused_async)]
async fn in_kernel_burst(
    _from: &TcpStream,
    _to: &TcpStream,
    _held: &mut Held,
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
        move_bytes_by(from, to, &mut Flow::default(), moved, in_kernel).await?;
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

    #[tokio::test]
    async fn a_mover_can_be_dropped_at_any_time_and_nothing_is_lost() {
        for in_kernel in [false, true] {
            let (mut sender, from) = pair().await;
            let (to, mut receiver) = pair().await;
            // So that much of the time something is held.
            rustix::net::sockopt::set_socket_send_buffer_size(&to, 16 * 1024).unwrap();
            rustix::net::sockopt::set_socket_recv_buffer_size(&receiver, 16 * 1024).unwrap();
            let sent: Vec<u8> =
                (0..3_000_017_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let send = async {
                sender.write_all(&sent).await.unwrap();
                sender.shutdown().await.unwrap();
            };
            let count = AtomicUsize::new(0);
            let carry = async {
                let mut flow = Flow::default();
                let mut held_times = 0_u32;
                while flow.stage == Stage::Open {
                    let moved = |bytes| {
                        count.fetch_add(bytes, Ordering::Relaxed);
                    };
                    tokio::select! {
                        biased;
                        moved = move_bytes_by(&from, &to, &mut flow, moved, in_kernel) => moved.unwrap(),
                        () = tokio::task::yield_now() => {}
                    }
                    // As if another program went on with it.
                    let held = std::mem::take(&mut flow.held).into_bytes().unwrap();
                    held_times += u32::from(!held.is_empty());
                    flow.held = Held::from(held);
                    tokio::task::yield_now().await;
                }
                flow.held
                    .deliver(&to, &|bytes| {
                        count.fetch_add(bytes, Ordering::Relaxed);
                    })
                    .await
                    .unwrap();
                pass_end(&to).unwrap();
                held_times
            };
            let receive = async {
                let mut received = Vec::new();
                receiver.read_to_end(&mut received).await.unwrap();
                received
            };
            let ((), held_times, received) = tokio::join!(send, carry, receive);
            assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
            assert_eq!(count.into_inner(), sent.len());
            assert!(held_times > 0, "it was never dropped with something in hand");
        }
    }
}
