//! `golem vm console`: what a VM has written to its serial console, and speaking with it.

use std::convert::Infallible;
use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{
    Bytes, ConsoleInput, ConsoleLog, ConsoleOutput, ConsoleTaken, MAX_CONSOLE_INPUT,
};
use golem_vm_protocol::{VmRef, route};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::again::persistently;
use super::failed::explained;
use super::making::interrupted;
use crate::app::App;
use crate::args::ConsoleArgs;
use crate::client::pauses::Notice;
use crate::client::provider::{ASK, CallError, ProviderClient};
use crate::console_text::ConsoleText;
use crate::error::{CliError, Kind, Result};
use crate::rentals::{ProviderRef, Rental};
use crate::ui::RawTerminal;

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;
/// Least time between two pieces that are typed: a provider counts them.
const PAUSE: Duration = Duration::from_millis(30);

pub(super) async fn run(app: &App<'_>, args: &ConsoleArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    if args.interactive {
        return interactive(app, &rental).await;
    }
    log(app, &rental).await?;
    if args.follow { follow(app, &rental).await } else { Ok(()) }
}

fn doing(rental: &Rental) -> String {
    format!("open the console of '{}'", rental.name)
}

/// Shows what the VM has written so far.
async fn log(app: &App<'_>, rental: &Rental) -> Result<()> {
    let client = app.client()?;
    let target = route::vm_console(&rental.reference());
    let answer: std::result::Result<ConsoleLog, CallError> =
        app.reach(&rental.provider, async |provider| client.ask(provider, &target).await).await;
    let log = match answer {
        Ok(log) => log,
        Err(error) => {
            let doing = format!("read the console of '{}'", rental.name);
            return Err(explained(app, rental, &doing, error).await);
        }
    };
    let text = ConsoleText::default().push(&log.data.0);
    if app.ui.is_json() {
        return app.ui.json(&json!({
            "name": rental.name, "vm_id": log.vm_id, "truncated": log.truncated,
            "data": log.data, "text": text,
        }));
    }
    if log.truncated {
        app.ui.note("(what came before is not kept)");
    }
    if text.is_empty() {
        app.ui.note(&format!("'{}' has written nothing to its console", rental.name));
    }
    app.ui.out(&text)?;
    if app.ui.decorates() && !text.is_empty() && !text.ends_with('\n') {
        return app.ui.out("\n");
    }
    Ok(())
}

/// Shows what it writes from now on.
async fn follow(app: &App<'_>, rental: &Rental) -> Result<()> {
    let client = app.client()?;
    let vm = rental.reference();
    let answer =
        app.reach(&rental.provider, async |provider| client.console(provider, &vm).await).await;
    let mut stream = match answer {
        Ok(stream) => stream,
        Err(error) => return Err(explained(app, rental, &doing(rental), error).await),
    };
    let mut text = ConsoleText::default();
    let show = async {
        loop {
            let Some(piece) = stream.next().await.map_err(|error| lost(rental, error))? else {
                return Err(cut_off(rental));
            };
            shown(app, &piece, &mut text)?;
            if let Some(why) = &piece.ended {
                tell_end(app, rental, why);
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = show => ended,
        // Following ends by being interrupted: that is no failure.
        () = interrupted() => Ok(()),
    }
}

fn shown(app: &App<'_>, piece: &ConsoleOutput, text: &mut ConsoleText) -> Result<()> {
    let written = text.push(&piece.data.0);
    if app.ui.is_json() {
        return app.ui.json(&json!({
            "number": piece.number, "data": piece.data, "text": written,
            "skipped": piece.skipped, "ended": piece.ended,
        }));
    }
    if piece.skipped > 0 {
        app.ui.note(&format!("({} bytes are left out: they came too fast)", piece.skipped));
    }
    app.ui.out(&written)
}

/// Has the person speak with the VM, until they leave it or it ends.
async fn interactive(app: &App<'_>, rental: &Rental) -> Result<()> {
    if !app.ui.can_type() {
        return Err(CliError::usage("an interactive console needs a terminal")
            .hint(format!("what it has written: golem vm console {}", rental.name)));
    }
    let client = app.client()?;
    let vm = rental.reference();
    let opened = app
        .reach(&rental.provider, async |provider| {
            client.console(provider, &vm).await.map(|stream| (stream, provider.clone()))
        })
        .await;
    let (mut stream, provider) = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(explained(app, rental, &doing(rental), error).await),
    };
    app.ui.note(&format!(
        "the console of '{}'; press Enter if it is silent, Ctrl-] to leave it",
        rental.name
    ));
    let failed = |error| CliError::other("can't switch the terminal to raw mode").because(error);
    let raw = RawTerminal::enter().map_err(failed)?;
    // Nobody could read a remark between what the VM writes.
    let quiet = client.with_notice(Notice::new(|_| {}));
    let typing = Typing { client: &quiet, provider: &provider, vm: &vm, session: stream.nonce() };
    let mut stdout = tokio::io::stdout();
    let output = async {
        loop {
            let piece = match stream.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Err(cut_off(rental)),
                Err(error) => return Err(lost(rental, error)),
            };
            let written = async {
                stdout.write_all(&piece.data.0).await?;
                stdout.flush().await
            };
            if written.await.is_err() {
                return Ok(None);
            }
            if let Some(why) = piece.ended {
                return Ok(Some(why));
            }
        }
    };
    let ended = tokio::select! {
        ended = output => ended,
        left = typing.run() => match left {
            Ok(()) => Ok(None),
            Err(error) => Err(lost(rental, error)),
        },
        () = interrupted() => Ok(None),
    };
    drop(raw);
    app.ui.note("");
    match ended? {
        Some(why) => tell_end(app, rental, &why),
        None => app.ui.note(&format!("left the console of '{}'; it goes on", rental.name)),
    }
    Ok(())
}

/// Carries what is typed to the VM.
struct Typing<'a> {
    client: &'a ProviderClient,
    provider: &'a ProviderRef,
    vm: &'a VmRef,
    session: String,
}

impl Typing<'_> {
    /// Until the person leaves.
    async fn run(&self) -> std::result::Result<(), CallError> {
        let (send, mut typed) = mpsc::channel(64);
        let read = async {
            read_keys(send).await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            sent = self.send(&mut typed) => sent,
            never = read => match never {},
        }
    }

    /// Sends pieces until there are no more: whatever has been typed meanwhile goes with the next one.
    async fn send(
        &self,
        typed: &mut mpsc::Receiver<Vec<u8>>,
    ) -> std::result::Result<(), CallError> {
        let target = route::vm_console_input(self.vm);
        let mut number = 0;
        while let Some(mut data) = typed.recv().await {
            while data.len() < MAX_CONSOLE_INPUT
                && let Ok(more) = typed.try_recv()
            {
                data.extend_from_slice(&more);
            }
            for part in data.chunks(MAX_CONSOLE_INPUT) {
                number += 1;
                let input = ConsoleInput {
                    session: self.session.clone(),
                    number,
                    data: Bytes(part.to_vec()),
                };
                // A piece with the same number is not typed twice.
                let _: ConsoleTaken = persistently(ASK, async || {
                    self.client.post(self.provider, &target, &input).await
                })
                .await?;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// Reads the keyboard until [`LEAVE`] or its end.
async fn read_keys(send: mpsc::Sender<Vec<u8>>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 1024];
    loop {
        let count = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let typed = &buffer[..count];
        let leave = typed.iter().position(|byte| *byte == LEAVE);
        let part = &typed[..leave.unwrap_or(count)];
        if !part.is_empty() && send.send(part.to_vec()).await.is_err() {
            return;
        }
        if leave.is_some() {
            return;
        }
    }
}

fn tell_end(app: &App<'_>, rental: &Rental, why: &str) {
    app.ui.note(&format!("the console of '{}' has ended: {}", rental.name, printable(why, 200)));
}

fn lost(rental: &Rental, error: CallError) -> CliError {
    error.into_cli(&format!("go on with the console of '{}'", rental.name), &rental.provider)
}

fn cut_off(rental: &Rental) -> CliError {
    CliError::new(Kind::Unreachable, format!("the console of '{}' was cut off", rental.name))
        .because("its provider has closed it without saying why")
        .hint(format!("open it again: golem vm console {}", rental.name))
}
