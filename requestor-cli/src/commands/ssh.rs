//! `golem vm ssh`

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use golem_vm_protocol::vm::VmStatus;

use super::block_on;
use super::list::{status_word, tell_end};
use super::refresh;
use super::view::VmView;
use crate::app::App;
use crate::args::SshArgs;
use crate::client::provider::{Access, CallError};
use crate::error::{CliError, Kind, Result};
use crate::rentals::{Rental, SshAccess};
use crate::ssh::builtin::SshError;
use crate::ssh::builtin::session::{Ended, Request};
use crate::ssh::login::LoginError;
use crate::ssh::{Target, WRONG_HOST_KEY, login, openssh};

pub(super) fn run(app: &App<'_>, args: &SshArgs) -> Result<u8> {
    let rental = app.find(&args.name)?;
    // Where it is stays the same for its whole life: nobody is asked again.
    let rental = match &rental.ssh {
        Some(_) => rental,
        None => block_on(with_access(app, rental))??,
    };
    let rental = with_identity(app, rental)?;
    app.sync_known_hosts()?;
    if app.ui.is_json() {
        app.ui.json(&VmView::of(app, &rental, true)?)?;
        return Ok(0);
    }
    tell_end(app, &rental);
    let known_hosts = app.known_hosts_path()?;
    let target = App::target(&rental, &known_hosts).ok_or_else(|| {
        CliError::other(format!("nobody knows yet where '{}' can be logged in to", rental.name))
    })?;
    match app.openssh().filter(|_| !args.builtin) {
        Some(program) => block_on(with_openssh(app, &rental, &target, &program, args))?,
        None => block_on(with_builtin(app, &rental, &target, args))?,
    }
}

/// A rental with the key to log in with: a VM that was created elsewhere under the same identity
/// has none noted, and is most likely opened by the person's default key.
fn with_identity(app: &App<'_>, mut rental: Rental) -> Result<Rental> {
    if rental.identity.is_none() {
        let own_dir = app.own_key_dir()?;
        let sources = block_on(app.key_sources(&own_dir))?;
        rental.identity = Some(sources.default_key()?.0.identity);
    }
    Ok(rental)
}

async fn with_openssh(
    app: &App<'_>,
    rental: &Rental,
    target: &Target<'_>,
    program: &Path,
    args: &SshArgs,
) -> Result<u8> {
    let options = openssh::Options {
        user: args.user.as_deref(),
        force_tty: args.tty,
        batch: false,
        forward_agent: args.forward_agent,
    };
    let arguments = openssh::session(target, &options, &args.command);
    let ended = openssh::run(program, &arguments).await.map_err(|error| {
        CliError::new(Kind::SshConnection, format!("can't start {}", program.display()))
            .because(error)
            .hint(format!("golem vm ssh --builtin {}", rental.name))
    })?;
    let code = match ended {
        openssh::Ended::With(code) => code,
        openssh::Ended::Signalled(signal) => return Ok(128 + signal),
    };
    // 255 is the client's own; it may also be the command's, and then there is nothing to tell.
    if code == 255 {
        match login::diagnose(target).await {
            Some(LoginError::WrongHostKey(error)) => return Err(wrong_host_key(rental, &error)),
            Some(LoginError::Unreachable(error)) => explain_unreachable(app, rental, &error),
            Some(LoginError::NotLetIn(_)) | None => {}
        }
    }
    Ok(code)
}

async fn with_builtin(
    app: &App<'_>,
    rental: &Rental,
    target: &Target<'_>,
    args: &SshArgs,
) -> Result<u8> {
    let own_dir = app.own_key_dir()?;
    let sources = app.key_sources(&own_dir).await;
    let key = match target.identity {
        Some(identity) => sources.named(identity)?,
        None => sources.default_key()?.0,
    };
    let connector = app.client()?.connector();
    let agent = forwarded_agent(app, args)?;
    let mut connection = match login::connect(connector, target, agent.as_deref()).await {
        Ok(connection) => connection,
        Err(error @ SshError::WrongHostKey { .. }) => return Err(wrong_host_key(rental, &error)),
        Err(error) => {
            return Err(CliError::new(
                Kind::SshConnection,
                format!("can't reach '{}'", rental.name),
            )
            .because(error)
            .hint(next_step(rental)));
        }
    };
    let user = args.user.as_deref().unwrap_or(&target.access.user);
    connection.log_in(user, &key).await.map_err(|error| {
        CliError::new(Kind::SshConnection, format!("can't log in to '{}' as {user}", rental.name))
            .because(error)
    })?;
    let command = (!args.command.is_empty()).then(|| joined(&args.command));
    let at_terminal = std::io::IsTerminal::is_terminal(&std::io::stdin());
    let request = Request {
        terminal: args.tty || (command.is_none() && at_terminal),
        command,
        term: app.environment.variable("TERM").unwrap_or("xterm").to_owned(),
    };
    let ended = connection.run(&request).await.map_err(|error| {
        CliError::new(Kind::SshConnection, format!("the session in '{}' failed", rental.name))
            .because(error)
    })?;
    connection.close().await;
    match ended {
        Ended::With(code) | Ended::Signalled(code) => Ok(code),
        // As OpenSSH ends then, which does not say which signal it was.
        Ended::BySignal(signal) => {
            app.ui.detail(&format!("the remote command was ended by signal {signal}"));
            Ok(Kind::SshConnection.exit_code())
        }
        Ended::Unknown => Err(CliError::new(
            Kind::SshConnection,
            format!("the connection to '{}' was lost", rental.name),
        )
        .hint(format!("golem vm info {}", rental.name))),
    }
}

/// The agent's socket, if the VM may use it.
fn forwarded_agent(app: &App<'_>, args: &SshArgs) -> Result<Option<PathBuf>> {
    if !args.forward_agent {
        return Ok(None);
    }
    match app.environment.variable("SSH_AUTH_SOCK") {
        Some(socket) if cfg!(unix) => Ok(Some(socket.into())),
        _ => Err(CliError::usage("there is no SSH agent to forward")
            .because("SSH_AUTH_SOCK names none")
            .hint("start one (eval $(ssh-agent); ssh-add), or leave out --forward-agent")),
    }
}

/// The words of a command as one line for the VM's shell, as OpenSSH joins them.
fn joined(words: &[OsString]) -> Vec<u8> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_encoded_bytes()).collect();
    words.join(&b' ')
}

fn explain_unreachable(app: &App<'_>, rental: &Rental, error: &SshError) {
    app.ui.warn(&format!("'{}' can't be reached: {error}", rental.name));
    app.ui.note(&next_step(rental));
}

/// What to type when a VM can't be reached.
fn next_step(rental: &Rental) -> String {
    let name = &rental.name;
    if rental.suspended {
        format!("it was suspended when its provider was last asked: golem vm resume {name}")
    } else if rental.status == VmStatus::Stopped {
        format!("it was stopped when its provider was last asked: golem vm start {name}")
    } else {
        format!("see what its provider says: golem vm info {name}")
    }
}

/// The failure of a login to the wrong machine.
pub(super) fn wrong_host_key(rental: &Rental, error: &SshError) -> CliError {
    not_that_vm(rental, error)
        .hint(format!("see what its provider says: golem vm info {}", rental.name))
        .hint(format!("or give it back: golem vm destroy {}", rental.name))
}

/// What a wrong host key means, whatever is done about it.
pub(super) fn not_that_vm(rental: &Rental, error: &SshError) -> CliError {
    CliError::new(
        Kind::Security,
        format!("what answers at the address of '{}' is not that VM", rental.name),
    )
    .because(error)
    .because(WRONG_HOST_KEY)
}

/// A rental with what is needed to log in, asked of its provider.
pub(super) async fn with_access(app: &App<'_>, rental: Rental) -> Result<Rental> {
    let name = rental.name.clone();
    let Some(seen) = refresh::one(app, rental).await? else {
        return Err(CliError::not_found(format!("'{name}' does not exist any more")));
    };
    let rental = seen.rental;
    let failed = |error: CallError| {
        error.into_cli(&format!("ask where to log in to '{name}'"), &rental.provider)
    };
    if let Some(error) = seen.stale {
        return Err(failed(error));
    }
    let client = app.client()?;
    let vm = rental.reference();
    let answer = app
        .reach(&rental.provider, async |provider| client.access(provider, &vm).await)
        .await
        .map_err(failed)?;
    match answer {
        Access::Ready(access) => {
            let access = usable_access(&rental, &access).map_err(failed)?;
            let rentals = app.rentals()?;
            rentals.set_access(rental.row, &access)?;
            rentals
                .by_row(rental.row)?
                .ok_or_else(|| CliError::not_found(format!("'{name}' was destroyed meanwhile")))
        }
        Access::Pending => {
            let error = CliError::new(
                Kind::Refused,
                format!("'{name}' can't be logged in to: it is {}", status_word(&rental)),
            );
            Err(match rental.status {
                VmStatus::Stopped if rental.suspended => {
                    error.hint(format!("golem vm resume {name}"))
                }
                VmStatus::Stopped => error.hint(format!("golem vm start {name}")),
                _ => error.hint(format!("golem vm info {name}")),
            })
        }
    }
}

/// Where to log in, from what the provider said, if that is safe to use.
pub(super) fn usable_access(
    rental: &Rental,
    access: &golem_vm_protocol::vm::VmAccess,
) -> Result<SshAccess, CallError> {
    if rental.vm_id.is_some_and(|id| id.to_string() != access.vm_id) {
        return Err(CallError::Malformed("it is about another VM".to_owned()));
    }
    let Some(host_key) = access.host_key.clone() else {
        return Err(CallError::Malformed(
            "it names no host key, so nobody could tell whether the right machine answers"
                .to_owned(),
        ));
    };
    if let Some(pinned) = rental.ssh.as_ref().map(|ssh| &ssh.host_key)
        && pinned.without_comment() != host_key.without_comment()
    {
        return Err(CallError::OtherHostKey {
            pinned: pinned.fingerprint(),
            named: host_key.fingerprint(),
        });
    }
    let host = access.ssh_host.as_str();
    let plain = !host.is_empty()
        && !host.starts_with('-')
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:_".contains(&b));
    // An address to listen on is none to connect to; then the advertised host serves.
    let nowhere = matches!(host, "0.0.0.0" | "::");
    let host = match crate::client::connector::shown_host(&rental.provider.endpoints) {
        Some(advertised) if nowhere || !plain => advertised.to_owned(),
        _ if plain && !nowhere => host.to_owned(),
        _ => return Err(CallError::Malformed("it names no host".to_owned())),
    };
    let user = access.ssh_user.clone().unwrap_or_else(|| "ubuntu".to_owned());
    let safe_user = !user.is_empty()
        && !user.starts_with('-')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !safe_user || access.ssh_port == 0 {
        return Err(CallError::Malformed("its user or port can't be used".to_owned()));
    }
    Ok(SshAccess { host, port: access.ssh_port, user, host_key })
}
