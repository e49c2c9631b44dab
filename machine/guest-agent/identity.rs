//! Who a machine is: checked as a whole, then put in place, the network last.

use std::fs;
use std::path::Path;

use crate::files::{Staged, below};
use crate::kernel;
use crate::network::{self, Network};
use crate::run::Run;
use crate::settle::CLOCK_SERVICE;
use crate::sshd;
use crate::wire::{Fields, tag};

/// A step that failed, and why.
pub(crate) type Failure = (&'static str, String);

/// All that makes this machine another one than its template.
#[derive(Debug)]
pub(crate) struct Identity {
    seed: Vec<u8>,
    clock: u64,
    hostname: String,
    machine_id: String,
    host_key: String,
    host_key_public: String,
    keys: Keys,
    network: Network,
    network_before: Option<Network>,
}

/// Who may log in.
#[derive(Debug)]
pub(crate) struct Keys {
    user: String,
    lines: String,
}

impl Keys {
    /// Reads and checks them.
    pub(crate) fn parse(fields: &Fields) -> Result<Self, Failure> {
        let user = fields.text(tag::USER).filter(|user| is_user(user));
        let lines = fields.text(tag::AUTHORIZED_KEYS).filter(|lines| is_text(lines));
        Ok(Self {
            user: has("user", user)?.to_owned(),
            lines: has("authorized keys", lines)?.to_owned(),
        })
    }

    pub(crate) fn stage(&self, root: &Path, staged: &mut Staged) -> std::io::Result<()> {
        let path = below(root, sshd::AUTHORIZED_KEYS).join(&self.user);
        // sshd reads it as the user who logs in.
        staged.write(&path, 0o644, self.lines.as_bytes())
    }
}

impl Identity {
    /// Reads and checks all of it.
    pub(crate) fn parse(fields: &Fields) -> Result<Self, Failure> {
        let seed =
            fields.get(tag::SEED).filter(|seed| (32..=kernel::MAX_SEED).contains(&seed.len()));
        let hostname = fields.text(tag::HOSTNAME).filter(|name| is_hostname(name));
        let machine_id = fields.text(tag::MACHINE_ID).filter(|id| is_machine_id(id));
        let private = fields
            .text(tag::HOST_KEY)
            .filter(|key| is_text(key) && key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        let public = fields
            .text(tag::HOST_KEY_PUBLIC)
            .filter(|key| is_text(key) && key.starts_with("ssh-ed25519 "));
        let network = fields.text(tag::NETWORK).and_then(Network::parse);
        let network_before = match fields.text(tag::NETWORK_BEFORE) {
            None => None,
            Some(text) => Some(has("network before", Network::parse(text))?),
        };
        Ok(Self {
            seed: has("seed", seed)?.to_owned(),
            clock: has("clock", fields.number(tag::CLOCK))?,
            hostname: has("hostname", hostname)?.to_owned(),
            machine_id: has("machine id", machine_id)?.to_owned(),
            host_key: has("host key", private)?.to_owned(),
            host_key_public: has("public host key", public)?.to_owned(),
            keys: Keys::parse(fields)?,
            network: has("network", network)?,
            network_before,
        })
    }

    /// Puts it in place. What is returned is to be done some time after the answer.
    ///
    /// The random seed comes before all that could use randomness, and the network after all that must not be seen as
    /// it was.
    pub(crate) fn apply(&self, root: &Path) -> Result<Vec<Run>, Failure> {
        kernel::reseed(&self.seed).map_err(failed("random seed"))?;
        kernel::set_clock(self.clock).map_err(failed("clock"))?;
        let machine_before = fs::read_to_string(below(root, "/etc/machine-id")).unwrap_or_default();
        self.files(root).map_err(failed("files"))?;
        self.take_journal(root, machine_before.trim());
        fs::write(below(root, "/proc/sys/kernel/hostname"), &self.hostname)
            .map_err(failed("hostname"))?;
        if let Some(restart) = sshd::restart(root) {
            restart.run().map_err(|why| ("ssh server", why))?;
        }
        let interface = network::interface(self.network_before.as_ref(), root)
            .ok_or_else(|| ("network", "the guest has no network interface".to_owned()))?;
        self.network.take(&interface, root).map_err(|why| ("network", why))?;
        // The journal goes by the machine id that it has read at its start.
        let journal = Run::new("systemctl", &["try-restart", "systemd-journald.service"]);
        // Stopped in the template: all timers that were due since it was made would run at once.
        let stopped = Run::new("systemctl", &["start", "timers.target", CLOCK_SERVICE]);
        Ok(network::reload(root).into_iter().chain([journal, stopped]).collect())
    }

    /// The journal goes on in a directory of the new name, where it is looked for; its boot is this machine's.
    fn take_journal(&self, root: &Path, before: &str) {
        if !is_machine_id(before) {
            return;
        }
        // There is one of the two, or none.
        for journals in ["/var/log/journal", "/run/log/journal"] {
            let journals = below(root, journals);
            let _ = fs::rename(journals.join(before), journals.join(&self.machine_id));
        }
    }

    fn files(&self, root: &Path) -> std::io::Result<()> {
        let mut staged = Staged::default();
        let mut stage =
            |path: &str, mode, content: &[u8]| staged.write(&below(root, path), mode, content);
        stage(sshd::HOST_KEY, 0o600, self.host_key.as_bytes())?;
        stage(sshd::HOST_KEY_PUBLIC, 0o644, format!("{}\n", self.host_key_public).as_bytes())?;
        stage("/etc/machine-id", 0o444, format!("{}\n", self.machine_id).as_bytes())?;
        stage("/etc/hostname", 0o644, format!("{}\n", self.hostname).as_bytes())?;
        // A second machine id, unless it is a link to the first one.
        let second = "/var/lib/dbus/machine-id";
        if fs::symlink_metadata(below(root, second)).is_ok_and(|is| is.is_file()) {
            stage(second, 0o644, format!("{}\n", self.machine_id).as_bytes())?;
        }
        // What the next boot is seeded with would be the template's.
        let random = "/var/lib/systemd/random-seed";
        if below(root, random).exists() {
            let mut seed = [0; 512];
            std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut seed)?;
            stage(random, 0o600, &seed)?;
        }
        let before = fs::read_to_string(below(root, "/etc/hostname")).unwrap_or_default();
        if let Ok(hosts) = fs::read_to_string(below(root, "/etc/hosts")) {
            let hosts = rename_host(&hosts, before.trim(), &self.hostname);
            stage("/etc/hosts", 0o644, hosts.as_bytes())?;
        }
        self.keys.stage(root, &mut staged)?;
        if let Some(before) = &self.network_before {
            for (path, text) in self.network.configuration(before, root) {
                let mode =
                    std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path)?.permissions());
                staged.write(&path, mode & 0o777, text.as_bytes())?;
            }
        }
        staged.commit()?;
        sshd::remove_other_host_keys(root)
    }
}

/// `/etc/hosts` with another name of this machine.
fn rename_host(hosts: &str, before: &str, now: &str) -> String {
    if before.is_empty() {
        return hosts.to_owned();
    }
    let rename = |line: &str| {
        let words = line.split(' ').map(|word| if word == before { now } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    hosts.split('\n').map(rename).collect::<Vec<_>>().join("\n")
}

fn has<T>(what: &'static str, value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| (what, "is missing, or is not one".to_owned()))
}

fn failed<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| (step, error.to_string())
}

/// Text that can stand in a file of lines.
fn is_text(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

fn is_hostname(name: &str) -> bool {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.chars().all(label)
}

fn is_machine_id(id: &str) -> bool {
    id.len() == 32 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// A name that Debian gives users, and nothing that could be a path.
pub(crate) fn is_user(user: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    (1..=32).contains(&user.len())
        && user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && user.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Directory;

    fn fields() -> Vec<(u8, Vec<u8>)> {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        [
            (tag::SEED, vec![7; 64]),
            (tag::CLOCK, 1_700_000_000_000_000_000_u64.to_be_bytes().to_vec()),
            (tag::HOSTNAME, b"web-1".to_vec()),
            (tag::MACHINE_ID, b"0123456789abcdef0123456789abcdef".to_vec()),
            (tag::HOST_KEY, key.into()),
            (tag::HOST_KEY_PUBLIC, b"ssh-ed25519 AAAA".to_vec()),
            (tag::USER, b"ubuntu".to_vec()),
            (tag::AUTHORIZED_KEYS, b"ssh-ed25519 BBBB me\n".to_vec()),
            (tag::NETWORK, b"52:54:00:aa:bb:cc 10.9.0.100 30 10.9.0.101 10.9.0.102".to_vec()),
            (tag::NETWORK_BEFORE, b"52:54:00:00:00:01 10.0.2.15 24 10.0.2.2 10.0.2.3".to_vec()),
        ]
        .into()
    }

    fn made(fields: Vec<(u8, Vec<u8>)>) -> Fields {
        fields.into_iter().fold(Fields::new(), |fields, (tag, value)| fields.with(tag, value))
    }

    #[test]
    fn an_identity_with_anything_missing_or_wrong_is_refused_as_a_whole() {
        assert!(Identity::parse(&made(fields())).is_ok());
        for missing in 0..fields().len() - 1 {
            let mut some = fields();
            some.remove(missing);
            assert!(Identity::parse(&made(some)).is_err(), "field {missing}");
        }
        for (tag, wrong) in [
            (tag::SEED, "short"),
            (tag::HOSTNAME, "a/../b"),
            (tag::MACHINE_ID, "0123456789ABCDEF0123456789ABCDEF"),
            (tag::HOST_KEY, "-----BEGIN RSA PRIVATE KEY-----"),
            (tag::HOST_KEY_PUBLIC, "ssh-rsa AAAA"),
            (tag::USER, "../ubuntu"),
            (tag::AUTHORIZED_KEYS, "a\0b"),
            (tag::NETWORK, "52:54:00:aa:bb:cc"),
            (tag::NETWORK_BEFORE, "-"),
        ] {
            let mut some = fields();
            some.iter_mut().filter(|field| field.0 == tag).for_each(|field| field.1 = wrong.into());
            assert!(Identity::parse(&made(some)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_journal_goes_on_under_the_new_name_and_nothing_else_is_renamed() {
        let identity = Identity::parse(&made(fields())).expect("parsed");
        let root = Directory::new("journal");
        let journals = below(&root.0, "/var/log/journal");
        let before = "f".repeat(32);
        fs::create_dir_all(journals.join(&before)).expect("made");
        fs::create_dir_all(journals.join("remote")).expect("made");
        for nobody in ["", "remote", "../journal", &before[1..]] {
            identity.take_journal(&root.0, nobody);
            assert!(journals.join("remote").exists() && journals.join(&before).exists());
        }
        identity.take_journal(&root.0, &before);
        assert!(journals.join(&identity.machine_id).exists() && !journals.join(&before).exists());
    }

    #[test]
    fn the_files_of_a_machine_become_those_of_another() {
        let root = Directory::new("identity");
        let write = |path: &str, text: &str| {
            let path = below(&root.0, path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("/etc/hostname", "template\n");
        write("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 template template\n");
        write("/etc/ssh/ssh_host_ed25519_key", "old");
        write("/etc/ssh/ssh_host_rsa_key", "old");
        write("/var/lib/dbus/machine-id", "old");
        write("/var/lib/systemd/random-seed", "old");
        write(
            "/etc/netplan/50-cloud-init.yaml",
            "52:54:00:00:00:01 10.0.2.15/24 10.0.2.2 10.0.2.3",
        );
        let identity = Identity::parse(&made(fields())).expect("parsed");
        identity.files(&root.0).expect("applied");
        let read = |path: &str| fs::read_to_string(below(&root.0, path)).expect("read");
        assert_eq!(read("/etc/hostname"), "web-1\n");
        assert_eq!(read("/etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 web-1 web-1\n");
        assert_eq!(read("/etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
        assert_eq!(read("/var/lib/dbus/machine-id"), read("/etc/machine-id"));
        assert_eq!(read("/etc/ssh/ssh_host_ed25519_key.pub"), "ssh-ed25519 AAAA\n");
        assert!(read("/etc/ssh/ssh_host_ed25519_key").starts_with("-----BEGIN"));
        assert!(!below(&root.0, "/etc/ssh/ssh_host_rsa_key").exists());
        assert_eq!(read("/etc/ssh/golem_authorized_keys/ubuntu"), "ssh-ed25519 BBBB me\n");
        assert_eq!(
            fs::read(below(&root.0, "/var/lib/systemd/random-seed")).expect("read").len(),
            512
        );
        assert_eq!(
            read("/etc/netplan/50-cloud-init.yaml"),
            "52:54:00:aa:bb:cc 10.9.0.100/30 10.9.0.101 10.9.0.102"
        );
        // Once more is the same.
        identity.files(&root.0).expect("applied");
        assert_eq!(read("/etc/hostname"), "web-1\n");
    }
}
