//! The system's OpenSSH: its arguments, built by pure functions, and running it.
//!
//! No configuration file is read (`-F none`): the other side is a stranger's machine, and what a
//! person has set for all hosts (forwarded agents, other keys, environment) is not for it.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use golem_vm_protocol::text::printable;

use super::{KEEPALIVE, KEEPALIVES, Target};

/// How the client is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options<'a> {
    /// Log in as this user rather than the VM's own.
    pub user: Option<&'a str>,
    /// Ask nothing, and give up on a silent machine: for the check after a create.
    pub batch: bool,
    /// A terminal on the other side also for a command.
    pub force_tty: bool,
    /// The VM may use the person's SSH agent.
    pub forward_agent: bool,
}

/// `Name value` pairs that make the client accept one host key, offer one identity and nothing else.
fn settings(target: &Target<'_>) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("HostKeyAlias", target.vm.to_string()),
        ("UserKnownHostsFile", path_value(target.known_hosts)),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
        ("CheckHostIP", "no".to_owned()),
        ("VerifyHostKeyDNS", "no".to_owned()),
        ("PasswordAuthentication", "no".to_owned()),
        ("KbdInteractiveAuthentication", "no".to_owned()),
        ("ForwardAgent", "no".to_owned()),
        ("ForwardX11", "no".to_owned()),
        ("ForwardX11Trusted", "no".to_owned()),
        ("PermitLocalCommand", "no".to_owned()),
        ("Tunnel", "no".to_owned()),
        ("ServerAliveInterval", KEEPALIVE.as_secs().to_string()),
        ("ServerAliveCountMax", KEEPALIVES.to_string()),
    ];
    if target.identity.is_some() {
        settings.push(("IdentitiesOnly", "yes".to_owned()));
    }
    settings
}

/// A path as a value in OpenSSH's configuration: quoted where it holds a space, `%` doubled.
fn path_value(path: &Path) -> String {
    let text = escaped(path);
    if text.contains([' ', '\t', '#']) { format!("\"{text}\"") } else { text }
}

/// The arguments behind `ssh`, up to the command.
fn arguments(target: &Target<'_>, options: &Options<'_>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-F".into(), "none".into()];
    arguments.extend(["-p".into(), target.access.port.to_string().into()]);
    if let Some(identity) = target.identity {
        arguments.extend(["-i".into(), escaped(identity).into()]);
    }
    for (name, value) in settings(target) {
        let value = if options.forward_agent && name == "ForwardAgent" { "yes" } else { &value };
        arguments.extend(["-o".into(), format!("{name}={value}").into()]);
    }
    if options.batch {
        arguments.extend(["-o".into(), "BatchMode=yes".into()]);
        arguments.extend(["-o".into(), "ConnectTimeout=10".into()]);
    }
    if options.force_tty {
        arguments.push("-t".into());
    }
    arguments.extend(["-l".into(), options.user.unwrap_or(&target.access.user).into()]);
    // Behind `--` a host that begins with a dash is still a host.
    arguments.extend(["--".into(), target.access.host.as_str().into()]);
    arguments
}

/// The whole argument list for a session, or for a command.
#[must_use]
pub fn session(target: &Target<'_>, options: &Options<'_>, command: &[OsString]) -> Vec<OsString> {
    let mut arguments = arguments(target, options);
    arguments.extend(command.iter().cloned());
    arguments
}

/// The command line to paste into a shell: as strict as what `golem vm ssh` runs, but without
/// repeating what is so anyhow when no configuration file is read.
#[must_use]
pub fn shell_command(target: &Target<'_>) -> String {
    const NEEDED: [&str; 6] = [
        "HostKeyAlias",
        "UserKnownHostsFile",
        "GlobalKnownHostsFile",
        "StrictHostKeyChecking",
        "UpdateHostKeys",
        "IdentitiesOnly",
    ];
    let mut words = vec!["ssh".to_owned(), "-F".to_owned(), "none".to_owned()];
    words.extend(["-p".to_owned(), target.access.port.to_string()]);
    if let Some(identity) = target.identity {
        words.extend(["-i".to_owned(), escaped(identity)]);
    }
    let settings = settings(target).into_iter().filter(|(name, _)| NEEDED.contains(name));
    // A stranger's machine must not ask for passwords.
    for (name, value) in settings.chain([("PreferredAuthentications", "publickey".to_owned())]) {
        words.extend(["-o".to_owned(), format!("{name}={value}")]);
    }
    words.push(format!("{}@{}", target.access.user, target.access.host));
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A path in which `%` does not stand for something else.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

/// One word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A block for `~/.ssh/config` under the name `host`, for scp, rsync and editors.
#[must_use]
pub fn config_block(target: &Target<'_>, host: &str) -> String {
    let mut block = format!(
        "Host {host}\n  HostName {}\n  Port {}\n  User {}\n",
        target.access.host, target.access.port, target.access.user
    );
    if let Some(identity) = target.identity {
        block.push_str(&format!("  IdentityFile {}\n", path_value(identity)));
    }
    for (name, value) in settings(target) {
        block.push_str(&format!("  {name} {value}\n"));
    }
    block
}

/// How the client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    With(u8),
    /// After this process was asked to end by a signal of this number, which was passed on.
    Signalled(u8),
}

/// What the client's end means as an exit code: its own, or 128 and the signal that ended it.
fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(255);
    }
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

/// Runs the client on this terminal and waits for its end. Signals that ask this process to end
/// are passed on; an interrupt from the keyboard reaches the client by itself.
///
/// # Errors
/// When the program can't be started.
pub async fn run(program: &Path, arguments: &[OsString]) -> std::io::Result<Ended> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut child = tokio::process::Command::new(program).args(arguments).spawn()?;
        let mut asked_to_end = None;
        loop {
            let passed_on = tokio::select! {
                status = child.wait() => {
                    let code = exit_code(status?);
                    return Ok(asked_to_end.map_or(Ended::With(code), Ended::Signalled));
                }
                _ = terminate.recv() => rustix::process::Signal::TERM,
                _ = hang_up.recv() => rustix::process::Signal::HUP,
                _ = interrupt.recv() => continue,
                _ = quit.recv() => continue,
            };
            let pid = child.id().and_then(|id| i32::try_from(id).ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                // It may have ended this very moment; then the loop sees that.
                let _ = rustix::process::kill_process(pid, passed_on);
            }
            asked_to_end = u8::try_from(passed_on.as_raw()).ok();
        }
    }
    #[cfg(not(unix))]
    {
        let status = tokio::process::Command::new(program).args(arguments).status().await;
        status.map(|status| Ended::With(exit_code(status)))
    }
}

/// Logs in and runs `true`. With `interactive` the client may ask for a passphrase or a touch.
///
/// # Errors
/// What the client said last, or why it could not be started.
pub async fn check(program: &Path, target: &Target<'_>, interactive: bool) -> Result<(), String> {
    let options = Options { batch: !interactive, ..Options::default() };
    let arguments = session(target, &options, &["true".into()]);
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdout(Stdio::null()).kill_on_drop(true);
    if interactive {
        let status = command.status().await.map_err(|error| error.to_string())?;
        return if status.success() { Ok(()) } else { Err(format!("ssh ended with {status}")) };
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Err(last.map_or_else(|| format!("ssh ended with {}", output.status), |l| printable(l, 300)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rentals::SshAccess;

    fn access() -> SshAccess {
        SshAccess {
            host: "192.0.2.7".into(),
            port: 50_800,
            user: "ubuntu".into(),
            host_key:
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW"
                    .parse()
                    .unwrap(),
        }
    }

    fn target<'a>(
        access: &'a SshAccess,
        known_hosts: &'a str,
        identity: Option<&'a str>,
    ) -> Target<'a> {
        Target {
            vm: golem_vm_protocol::VmId::from_bytes([0; 16]),
            access,
            identity: identity.map(Path::new),
            known_hosts: Path::new(known_hosts),
        }
    }

    fn text(arguments: &[OsString]) -> Vec<String> {
        arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn sessions_and_commands() {
        let access = access();
        let target = target(&access, "/d/known_hosts", Some("/k/id"));
        let pinned = [
            "HostKeyAlias=vm_00000000000000000000000000",
            "UserKnownHostsFile=/d/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
            "CheckHostIP=no",
            "VerifyHostKeyDNS=no",
            "PasswordAuthentication=no",
            "KbdInteractiveAuthentication=no",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ForwardX11Trusted=no",
            "PermitLocalCommand=no",
            "Tunnel=no",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "IdentitiesOnly=yes",
        ];
        let mut begin: Vec<&'static str> = vec!["-F", "none", "-p", "50800", "-i", "/k/id"];
        begin.extend(pinned.into_iter().flat_map(|setting| ["-o", setting]));
        let with = |rest: &[&'static str]| [&begin[..], rest].concat();
        let batch = Options { batch: true, ..Options::default() };
        let root = Options { user: Some("root"), force_tty: true, ..Options::default() };
        for (options, command, rest) in [
            (Options::default(), vec![], with(&["-l", "ubuntu", "--", "192.0.2.7"])),
            (
                Options::default(),
                vec!["ls", "-la"],
                with(&["-l", "ubuntu", "--", "192.0.2.7", "ls", "-la"]),
            ),
            (
                batch,
                vec!["true"],
                with(&[
                    "-o",
                    "BatchMode=yes",
                    "-o",
                    "ConnectTimeout=10",
                    "-l",
                    "ubuntu",
                    "--",
                    "192.0.2.7",
                    "true",
                ]),
            ),
            (root, vec!["top"], with(&["-t", "-l", "root", "--", "192.0.2.7", "top"])),
        ] {
            let command: Vec<OsString> = command.into_iter().map(Into::into).collect();
            assert_eq!(text(&session(&target, &options, &command)), rest);
        }
    }

    #[test]
    fn without_an_identity_the_default_ones_are_tried() {
        let access = access();
        let arguments = text(&session(&target(&access, "/k", None), &Options::default(), &[]));
        assert!(!arguments.iter().any(|a| a == "-i" || a.contains("IdentitiesOnly")));
    }

    #[test]
    fn awkward_paths_survive_shell_and_client() {
        let access = access();
        let target = target(&access, "/a b/100%/known", Some("/it's"));
        let line = shell_command(&target);
        assert!(line.contains(r#"-o 'UserKnownHostsFile="/a b/100%%/known"'"#), "{line}");
        assert!(line.contains(r"-i '/it'\''s'"), "{line}");
        assert!(
            line.starts_with("ssh -F none -p 50800 -i ") && line.ends_with(" ubuntu@192.0.2.7")
        );
        assert!(line.contains("-o StrictHostKeyChecking=yes"), "{line}");
        let block = config_block(&target, "box");
        assert!(block.starts_with("Host box\n  HostName 192.0.2.7\n  Port 50800\n  User ubuntu\n"));
        assert!(block.contains("  StrictHostKeyChecking yes\n"), "{block}");
    }

    #[cfg(unix)]
    #[test]
    fn exit_codes_pass_through() {
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(exit_code(ExitStatus::from_raw(42 << 8)), 42);
        assert_eq!(exit_code(ExitStatus::from_raw(255 << 8)), 255);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
    }
}
