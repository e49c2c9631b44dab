//! A shell or a command over a connection: the terminal, the pipes and the exit code.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty, Sig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Connection, SshError, broken};
use crate::ui::RawTerminal;

/// How much is read from standard input at once, in bytes.
const CHUNK: usize = 32 * 1024;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// A command for the VM's shell; without one, the shell itself.
    pub command: Option<Vec<u8>>,
    /// A terminal on the other side. Standard input becomes raw while it lasts.
    pub terminal: bool,
    /// The kind of terminal (`TERM`).
    pub term: String,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    With(u8),
    /// By a signal of this number.
    BySignal(u8),
    /// This process was asked to end by a signal.
    Signalled(u8),
    /// The connection was gone before the exit code came.
    Unknown,
}

impl Connection {
    /// Runs `true`: the check that a login really works.
    ///
    /// # Errors
    /// [`SshError::Broken`] when it can't be run or does not end well.
    pub async fn run_true(&self) -> Result<(), SshError> {
        let check = async {
            let mut channel =
                self.handle.channel_open_session().await.map_err(|error| broken(&error))?;
            channel.exec(true, "true").await.map_err(|error| broken(&error))?;
            let mut code = None;
            while let Some(message) = channel.wait().await {
                if let ChannelMsg::ExitStatus { exit_status } = message {
                    code = Some(exit_status);
                }
            }
            match code {
                Some(0) => Ok(()),
                Some(code) => Err(SshError::Broken(format!("'true' ended with {code}"))),
                None => Err(SshError::Broken("the session ended without an exit code".to_owned())),
            }
        };
        timeout(Duration::from_secs(20), check)
            .await
            .unwrap_or_else(|_| Err(SshError::Broken("the session took too long".to_owned())))
    }

    /// Runs a shell or a command on this process's standard streams.
    ///
    /// # Errors
    /// [`SshError::Broken`] when the session can't be opened.
    pub async fn run(&self, request: &Request) -> Result<Ended, SshError> {
        let channel = self.handle.channel_open_session().await.map_err(|error| broken(&error))?;
        if request.terminal {
            let (columns, rows) = terminal_size();
            let modes =
                [(Pty::IUTF8, 1), (Pty::TTY_OP_ISPEED, 38_400), (Pty::TTY_OP_OSPEED, 38_400)];
            channel
                .request_pty(false, &request.term, columns, rows, 0, 0, &modes)
                .await
                .map_err(|error| broken(&error))?;
        }
        if self.forwards_agent {
            channel.agent_forward(true).await.map_err(|error| broken(&error))?;
        }
        let started = match &request.command {
            Some(command) => channel.exec(true, command.as_slice()).await,
            None => channel.request_shell(true).await,
        };
        started.map_err(|error| broken(&error))?;

        let raw = if request.terminal && std::io::stdin().is_terminal() {
            Some(RawTerminal::enter().map_err(|error| {
                SshError::Broken(format!("can't switch the terminal to raw mode: {error}"))
            })?)
        } else {
            None
        };
        let (reading, writing) = channel.split();
        let writing = Arc::new(writing);
        let input = tokio::spawn(send_input(Arc::clone(&writing)));
        let resizing = request.terminal.then(|| tokio::spawn(follow_size(Arc::clone(&writing))));
        let ended = tokio::select! {
            ended = show_output(reading) => ended,
            signal = asked_to_end() => Ended::Signalled(128 + signal),
        };
        input.abort();
        if let Some(resizing) = resizing {
            resizing.abort();
        }
        drop(raw);
        Ok(ended)
    }
}

/// Carries standard input to the other side, its end too.
async fn send_input(writing: Arc<ChannelWriteHalf<Msg>>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if writing.data(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = writing.eof().await;
}

/// Carries the other side's output to the standard streams until the session is over.
async fn show_output(mut reading: ChannelReadHalf) -> Ended {
    let mut stdout = tokio::io::stdout();
    let mut stderr = tokio::io::stderr();
    let mut ended = Ended::Unknown;
    while let Some(message) = reading.wait().await {
        let written = match message {
            ChannelMsg::Data { data } => write_now(&mut stdout, &data).await,
            ChannelMsg::ExtendedData { data, .. } => write_now(&mut stderr, &data).await,
            ChannelMsg::ExitStatus { exit_status } => {
                ended = Ended::With(u8::try_from(exit_status).unwrap_or(255));
                Ok(())
            }
            ChannelMsg::ExitSignal { signal_name, .. } => {
                ended = Ended::BySignal(signal_number(&signal_name));
                Ok(())
            }
            ChannelMsg::Failure => return Ended::Unknown,
            ChannelMsg::Close => break,
            _ => Ok(()),
        };
        if written.is_err() {
            // Whoever read our output is gone; so is the reason to go on.
            return ended;
        }
    }
    ended
}

async fn write_now(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    data: &[u8],
) -> std::io::Result<()> {
    stream.write_all(data).await?;
    stream.flush().await
}

/// Tells the other side whenever the terminal's size changes.
async fn follow_size(writing: Arc<ChannelWriteHalf<Msg>>) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
        while changed.recv().await.is_some() {
            let (columns, rows) = terminal_size();
            if writing.window_change(columns, rows, 0, 0).await.is_err() {
                return;
            }
        }
    }
    #[cfg(not(unix))]
    {
        let mut known = terminal_size();
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = terminal_size();
            if now != known && writing.window_change(now.0, now.1, 0, 0).await.is_err() {
                return;
            }
            known = now;
        }
    }
}

fn terminal_size() -> (u32, u32) {
    match crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => (columns.into(), rows.into()),
        _ => (80, 24),
    }
}

/// Waits for a signal that asks this process to end, so that the terminal is put back first.
#[cfg(unix)]
async fn asked_to_end() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut hang_up), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => 15,
        _ = hang_up.recv() => 1,
        _ = interrupt.recv() => 2,
    }
}

#[cfg(not(unix))]
async fn asked_to_end() -> u8 {
    let _ = tokio::signal::ctrl_c().await;
    2
}

/// The number of a signal as shells count it (POSIX; the same on Linux, macOS and the BSDs); 0 for
/// one that is not in the protocol's list.
fn signal_number(signal: &Sig) -> u8 {
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::USR1 => 10,
        Sig::Custom(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_numbers_that_shells_use() {
        assert_eq!(signal_number(&Sig::TERM), 15);
        assert_eq!(signal_number(&Sig::KILL), 9);
        assert_eq!(signal_number(&Sig::Custom("X".into())), 0);
    }
}
