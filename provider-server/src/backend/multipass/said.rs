//! What `multipass` means by what it writes to standard error. There is no exit code for "absent" or "exists",
//! so its words decide; they are the same in all releases, but for what is wrapped around them.

use golem_vm_protocol::text::printable;

use super::program::Said;

/// Longest of its messages that is passed on, in characters.
const MESSAGE_CHARS: usize = 400;

/// What went wrong, as far as it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The daemon does not answer: it is down, starts, or has just crashed.
    DaemonAway,
    /// The daemon has never run on this host.
    NeverRan,
    /// This user's client is not trusted by the daemon.
    NotAuthenticated,
    /// This user may not open the daemon's socket.
    SocketDenied,
    /// The snap's confinement does not let this process start the client.
    SnapHome,
    /// No hardware virtualisation.
    NoKvm,
    /// There is no such instance.
    Absent,
    /// The instance is in the trash.
    Deleted,
    /// There is one of that name, perhaps in the trash.
    Exists,
    /// One of that name is being launched.
    BeingPrepared,
    /// The client did not wait any longer; the daemon goes on.
    ClientTimeout,
    /// The daemon does not wait for the guest any longer.
    GuestTimeout,
    /// The daemon does not know what the instance is at.
    UnknownState,
    /// It has to be forced.
    NeedsForce,
    /// It does not end by itself.
    DoesNotEnd,
    /// The image is not known, or not there.
    ImageUnknown,
    /// The catalogue of images, or the image, can't be fetched.
    Unreachable,
    /// The disk is smaller than the image.
    DiskTooSmall,
    /// The client does not know the option or the command: it is another release.
    UnknownOption,
    /// SSH into the guest failed.
    GuestSsh,
    /// Something else.
    Other,
}

/// Words, and what they mean. The first that is found counts.
const WORDS: [(&str, Trouble); 39] = [
    ("multipass_root_cert.pem", Trouble::NeverRan),
    ("is not authenticated with the Multipass service", Trouble::NotAuthenticated),
    ("multipass socket access denied", Trouble::SocketDenied),
    ("cannot connect to the multipass socket", Trouble::DaemonAway),
    ("home directories outside of /home", Trouble::SnapHome),
    ("snap-confine", Trouble::SnapHome),
    ("cannot create user data directory", Trouble::SnapHome),
    ("KVM support is not enabled", Trouble::NoKvm),
    ("KVM device cannot be opened", Trouble::NoKvm),
    ("Another virtual machine manager is currently running", Trouble::NoKvm),
    ("Custom image", Trouble::ImageUnknown),
    ("is being prepared", Trouble::BeingPrepared),
    ("already exists", Trouble::Exists),
    ("is deleted", Trouble::Deleted),
    ("Timed out waiting for", Trouble::ClientTimeout),
    ("timed out waiting for", Trouble::GuestTimeout),
    ("but in an unknown state", Trouble::UnknownState),
    ("in unknown state", Trouble::UnknownState),
    ("Use --force to power it off", Trouble::NeedsForce),
    ("Use --purge to forcefully delete it", Trouble::NeedsForce),
    ("Cannot shut down", Trouble::NeedsForce),
    ("did not finish within", Trouble::DoesNotEnd),
    ("Unable to find an image matching", Trouble::ImageUnknown),
    ("is no longer supported", Trouble::ImageUnknown),
    ("Invalid remote and source image name", Trouble::ImageUnknown),
    ("Please use `multipass find`", Trouble::ImageUnknown),
    ("is unknown or unreachable", Trouble::Unreachable),
    ("failed to download from", Trouble::Unreachable),
    ("below minimum for this image", Trouble::DiskTooSmall),
    ("Unknown option", Trouble::UnknownOption),
    ("Unknown command", Trouble::UnknownOption),
    ("ssh connection failed", Trouble::GuestSsh),
    ("ssh failed to authenticate", Trouble::GuestSsh),
    ("failed to obtain exit status for remote process", Trouble::GuestSsh),
    ("does not exist", Trouble::Absent),
    ("Address family not supported by protocol", Trouble::DaemonAway),
    ("Connection refused", Trouble::DaemonAway),
    ("failed to connect to all addresses", Trouble::DaemonAway),
    ("Socket closed", Trouble::DaemonAway),
];

impl Trouble {
    /// Whether nothing could be asked.
    pub(super) const fn is_away(self) -> bool {
        matches!(
            self,
            Self::DaemonAway
                | Self::NeverRan
                | Self::NotAuthenticated
                | Self::SocketDenied
                | Self::SnapHome
        )
    }

    /// Whether a launch that ended with it may still lead to an instance.
    pub(super) const fn may_still_appear(self) -> bool {
        matches!(
            self,
            Self::DaemonAway
                | Self::BeingPrepared
                | Self::Exists
                | Self::ClientTimeout
                | Self::GuestTimeout
                | Self::UnknownState
                | Self::GuestSsh
                | Self::Other
        )
    }

    /// What can be done about it.
    pub(super) const fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::DaemonAway => {
                "Start its daemon: 'sudo snap start multipass', and see 'snap logs multipass'"
            }
            Self::NeverRan => "Start its daemon once: 'sudo snap start multipass'",
            Self::NotAuthenticated => {
                "Run 'multipass authenticate' as the user, and with the HOME, that golem-provider has; a user \
                 that is trusted sets the passphrase with 'multipass set local.passphrase'"
            }
            Self::SocketDenied => {
                "Add golem-provider's user to the group that owns Multipass's socket (sudo or adm), or run \
                 'multipass list' once as root so that the socket is opened for all"
            }
            Self::SnapHome => {
                "A snap runs only for users whose HOME is under /home or /root, and not under a systemd unit \
                 with NoNewPrivileges=, ProtectHome= or RestrictSUIDSGID=: set HOME, or 'sudo snap set system \
                 homedirs=…', or take these settings out of the unit"
            }
            Self::NoKvm => {
                "Multipass needs hardware virtualisation: turn it on in the BIOS, load kvm_intel or kvm_amd, and \
                 'sudo snap connect multipass:kvm'. Without it, use the backend qemu, which can emulate"
            }
            Self::Unreachable => {
                "Try again when this host reaches the internet, or use a file:// image"
            }
            Self::DiskTooSmall => "Rent a larger disk",
            _ => return None,
        })
    }
}

/// What an unsuccessful end means, and its words for people.
pub(super) fn understood(said: &Said) -> (Trouble, String) {
    let stderr = without_escapes(&said.stderr);
    let message = message(&stderr).or_else(|| message(&without_escapes(&said.stdout)));
    let trouble = message.as_deref().and_then(|text| {
        WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, trouble)| *trouble)
    });
    let trouble = trouble.unwrap_or(match said.code {
        // The client's own, also when what it wrote is cut off.
        Some(5) => Trouble::ClientTimeout,
        _ => Trouble::Other,
    });
    let message = message.unwrap_or_else(|| match said.code {
        Some(code) => format!("nothing (exit code {code})"),
        None => "nothing (a signal ended it)".to_owned(),
    });
    (trouble, message)
}

/// The lines that are about this call: from the one that says what failed, or else all but the daemon's log,
/// which is copied to every client, whatever it asked.
fn message(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let failed = lines.iter().position(|line| {
        line.split_once(" failed: ")
            .is_some_and(|(word, _)| word.bytes().all(|c| c.is_ascii_lowercase()))
    });
    let own: Vec<&str> = match failed {
        Some(first) => lines[first..].to_vec(),
        None => lines
            .iter()
            .map(|line| {
                line.split_once("Caught an unhandled exception: ").map_or(*line, |(_, what)| what)
            })
            .filter(|line| !is_log(line))
            .collect(),
    };
    let text = own.join(" ").replace("The following errors occurred: ", "");
    let text = text.trim_end_matches('.');
    (!text.is_empty()).then(|| printable(text, MESSAGE_CHARS))
}

/// `[2026-11-21T02:00:14.626] [error] [url downloader] …`
fn is_log(line: &str) -> bool {
    let digits =
        line.strip_prefix("[2").map(|rest| rest.bytes().take(3).all(|c| c.is_ascii_digit()));
    digits == Some(true)
        && ["] [error]", "] [warning]", "] [info]", "] [debug]"]
            .iter()
            .any(|level| line.contains(level))
}

/// The text without what moves a terminal's cursor.
pub(super) fn without_escapes(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.clone().next() == Some('[') {
                    rest.next();
                    // Parameters, then one letter (ECMA-48, section 5.4).
                    for end in rest.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&end) {
                            break;
                        }
                    }
                }
            }
            '\u{8}' => {}
            '\r' => kept.push('\n'),
            other => kept.push(other),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::recordings::{self, Recording};
    use super::*;

    fn of(name: &str) -> (Trouble, String) {
        understood(&Recording::named(name).said())
    }

    #[test]
    fn every_recorded_failure_is_told_apart() {
        for (name, trouble) in [
            ("info-absent", Trouble::Absent),
            ("start-absent", Trouble::Absent),
            ("stop-absent", Trouble::Absent),
            ("delete-absent", Trouble::Absent),
            ("delete-two-absent", Trouble::Absent),
            ("delete-during-preparing", Trouble::Absent),
            ("info-during-preparing", Trouble::Absent),
            ("exec-absent", Trouble::Absent),
            ("recover-absent", Trouble::Absent),
            ("start-deleted", Trouble::Deleted),
            ("stop-deleted", Trouble::Deleted),
            ("exec-deleted", Trouble::Deleted),
            ("restart-deleted", Trouble::Deleted),
            ("launch-already-exists", Trouble::Exists),
            ("launch-name-of-deleted", Trouble::Exists),
            ("snapshot-dup", Trouble::Exists),
            ("launch-same-name-during-preparing", Trouble::BeingPrepared),
            ("launch-client-timeout", Trouble::ClientTimeout),
            ("start-client-timeout", Trouble::ClientTimeout),
            ("start-unknown", Trouble::UnknownState),
            ("restart-stopped", Trouble::UnknownState),
            ("exec-unknown", Trouble::UnknownState),
            ("stop-suspended", Trouble::NeedsForce),
            ("image-missing-file", Trouble::ImageUnknown),
            ("launch-unknown-remote", Trouble::ImageUnknown),
            ("launch-two-colons", Trouble::ImageUnknown),
            ("image-alias-offline", Trouble::Unreachable),
            ("image-http-404", Trouble::Unreachable),
            ("find-offline", Trouble::Unreachable),
            ("disk-below-image", Trouble::DiskTooSmall),
            ("kvm-missing-launch", Trouble::NoKvm),
            ("unauthenticated-list", Trouble::NotAuthenticated),
            ("daemon-down-list", Trouble::DaemonAway),
            ("daemon-down-launch", Trouble::DaemonAway),
            ("daemon-down-delete", Trouble::DaemonAway),
            ("daemon-down-info", Trouble::DaemonAway),
            ("daemon-down-get", Trouble::DaemonAway),
            ("launch-daemon-crash", Trouble::DaemonAway),
            ("info-delayed-shutdown", Trouble::GuestSsh),
            ("cycle-2-info", Trouble::GuestSsh),
            ("cycle-3-exec", Trouble::GuestSsh),
            ("unknown-option", Trouble::UnknownOption),
            ("unknown-command", Trouble::UnknownOption),
            ("launch-name-poisoned-by-daemon-crash", Trouble::Other),
            ("clone-running", Trouble::Other),
            ("snapshot-running", Trouble::Other),
            ("set-running", Trouble::Other),
            ("set-disk-shrink", Trouble::Other),
        ] {
            let (found, message) = of(name);
            assert_eq!(found, trouble, "{name}: {message}");
        }
    }

    #[test]
    fn every_recording_that_failed_has_words_that_can_be_shown() {
        let mut failures = 0;
        for recording in recordings::all() {
            let said = recording.said();
            if said.code == Some(0) {
                continue;
            }
            failures += 1;
            let (_, message) = understood(&said);
            assert!(
                golem_vm_protocol::text::is_printable(&message, 401),
                "{}: {message:?}",
                recording.name
            );
            assert!(!message.contains("[error]") && !message.contains("\u{1b}"), "{message}");
        }
        assert!(failures > 50, "{failures}");
    }

    #[test]
    fn the_daemon_s_log_is_left_out_of_a_message() {
        assert_eq!(of("launch-already-exists").1, "launch failed: instance \"vm1\" already exists");
        assert_eq!(
            of("launch-unknown-remote").1,
            "launch failed: Remote 'foo' is not found. Please use `multipass find` for supported remotes and images"
        );
        assert!(
            of("restore-no-tty").1.starts_with("Unable to query client"),
            "{:?}",
            of("restore-no-tty")
        );
    }

    #[test]
    fn what_is_not_there_is_not_what_could_not_be_asked() {
        for name in ["daemon-down-list", "unauthenticated-list"] {
            assert!(of(name).0.is_away(), "{name}");
        }
        for name in ["info-absent", "launch-already-exists", "start-unknown", "cycle-2-info"] {
            assert!(!of(name).0.is_away(), "{name}");
        }
        let never = Said {
            code: Some(1),
            stdout: String::new(),
            stderr: "[2026-11-21T01:51:52.810] [error] [client] Caught an unhandled exception: failed to open \
                     file '/var/x/multipass_root_cert.pem': No such file\n"
                .to_owned(),
        };
        assert_eq!(understood(&never).0, Trouble::NeverRan);
    }
}
