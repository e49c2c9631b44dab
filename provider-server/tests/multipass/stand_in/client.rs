//! One call: what is the same for all commands.

use std::process::ExitCode;

use crate::commands;
use crate::settings::Kind;
use crate::world::{World, pause};

/// How a command ends: its exit code, and what it says on standard error.
pub(crate) type End = Result<(), (u8, String)>;

/// The daemon refuses.
pub(crate) fn refused<T>(command: &str, message: &str) -> Result<T, (u8, String)> {
    Err((2, format!("{command} failed: {message}\n")))
}

/// The client does not understand.
pub(crate) fn wrong<T>(message: &str) -> Result<T, (u8, String)> {
    Err((1, format!("{message}\n")))
}

pub(crate) fn run(world: &World, words: &[&str]) -> ExitCode {
    world.note(words);
    let Some((command, rest)) = words.split_first() else { return ExitCode::from(1) };
    match dispatch(world, command, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            eprint!("{message}");
            ExitCode::from(code)
        }
    }
}

fn dispatch(world: &World, command: &str, rest: &[&str]) -> End {
    let settings = world.settings();
    let fault = world.fault(command);
    if fault == Some(Kind::Hang) {
        loop {
            pause(1000);
        }
    }
    if command != "version" {
        if settings.down {
            return refused(command, "cannot connect to the multipass socket");
        }
        if settings.unauthenticated {
            return refused(
                command,
                "The client is not authenticated with the Multipass service.\nPlease use 'multipass authenticate' before proceeding.",
            );
        }
    }
    if let Some(Kind::Says(text)) = &fault {
        return refused(command, text);
    }
    let _alone = alone(world, command);
    match command {
        "version" => commands::version(world, rest),
        "list" => commands::list(world, rest, fault),
        "info" => commands::info(world, rest),
        "find" => commands::find(),
        "get" => commands::get(world, rest),
        "set" => commands::set(world, rest),
        "launch" => commands::launch(world, rest, fault),
        "start" => commands::start(world, rest, fault),
        "stop" => commands::stop(world, rest, fault),
        "suspend" => commands::suspend(world, rest),
        "delete" => commands::delete(world, rest, fault),
        "recover" => commands::recover(world, rest),
        "exec" => crate::inside::exec(world, rest),
        "snapshot" if settings.is_at_least(13) => commands::snapshot(world, rest),
        "restore" if settings.is_at_least(13) => commands::restore(world, rest),
        "clone" if settings.is_at_least(15) => commands::clone(world, rest),
        _ => {
            println!(
                "Error: Unknown command or alias '{command}' (try \"multipass help\" or \"multipass aliases\")"
            );
            Err((1, String::new()))
        }
    }
}

/// Changes that are done at once come one after the other: a mark is left if two overlap.
fn alone(world: &World, command: &str) -> Option<std::fs::File> {
    use rustix::fs::{FlockOperation, flock};
    let changes = ["stop", "suspend", "delete", "set", "snapshot", "restore", "clone"];
    if !changes.contains(&command) {
        return None;
    }
    let file = std::fs::File::create(world.directory.join("alone.lock")).unwrap();
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        world.mark("two changes at once");
    }
    Some(file)
}

/// The words that are no options, after a check that all options are among these; `valued` ones take a word.
pub(crate) fn plain<'a>(
    words: &[&'a str],
    flags: &[&str],
    valued: &[&str],
) -> Result<Vec<&'a str>, (u8, String)> {
    let mut plain = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if valued.contains(word) {
            rest.next();
        } else if word.starts_with('-') && *word != "-" {
            if !flags.contains(word) {
                return wrong(&format!("Unknown option '{}'.", word.trim_start_matches('-')));
            }
        } else {
            plain.push(*word);
        }
    }
    Ok(plain)
}

/// The word behind an option.
pub(crate) fn value<'a>(words: &[&'a str], names: &[&str]) -> Option<&'a str> {
    let at = words.iter().position(|word| names.contains(word))?;
    words.get(at + 1).copied()
}

/// `1234`, `512M`, `2G`, in bytes.
pub(crate) fn size(text: &str) -> Result<u64, (u8, String)> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit =
        match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I')
        {
            "" => Some(1),
            "K" => Some(1 << 10),
            "M" => Some(1 << 20),
            "G" => Some(1_u64 << 30),
            _ => None,
        };
    let number: Option<u64> = digits.parse().ok();
    number.zip(unit).map(|(number, unit)| number * unit).ok_or_else(|| {
        let text = format!(
            "[2026-11-21T01:37:55.216] [error] [client] Caught an unhandled exception: {text} is not a valid memory size - need a non-negative integer (in base 10) or a decimal followed by K, M, or G (e.g. 1234B, 42MiB, 0.5G)\n"
        );
        (1, format!("{text}\n"))
    })
}
