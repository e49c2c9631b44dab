//! The key that a person logs in with: the one they name, else their default one, else one in
//! their agent, else one that is made for them.

use std::path::{Path, PathBuf};

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::SshPublicKey;

use super::builtin::key_file::{self, Readiness};
use crate::error::{CliError, Result};

/// The default names in `~/.ssh`, in the order in which OpenSSH's users expect them.
const DEFAULT_NAMES: [&str; 5] =
    ["id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"];
/// Largest key file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Who can use a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The built-in client, from its file.
    File,
    /// The agent holds it.
    Agent,
    /// OpenSSH only: an RSA file or a security key.
    OpenSsh,
    /// OpenSSH only, and it will ask for a passphrase.
    Passphrase,
}

/// A key to log in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginKey {
    /// The half that is sent to the provider.
    pub public: SshPublicKey,
    /// What `ssh -i` is given: the private half's file, or the public one's where the agent has
    /// the private half.
    pub identity: PathBuf,
    /// Who can use it.
    pub usable_by: Use,
}

/// Where to look and what can be used.
#[derive(Debug, Clone)]
pub struct KeySources<'a> {
    /// The person's `.ssh` directory.
    pub ssh_dir: Option<PathBuf>,
    /// Where golem keeps keys.
    pub own_dir: &'a Path,
    /// The public keys that the agent holds.
    pub agent: Vec<SshPublicKey>,
    /// Whether the system has OpenSSH.
    pub has_openssh: bool,
    /// Whether somebody could type a passphrase.
    pub can_ask: bool,
}

impl KeySources<'_> {
    /// The key behind a file that a person named: either half.
    ///
    /// # Errors
    /// When there is no such file, it is no key, or nobody here could log in with it.
    pub fn named(&self, path: &Path) -> Result<LoginKey> {
        let key = self.read(path)?;
        match self.objection(&key) {
            Some(objection) => Err(objection),
            None => Ok(key),
        }
    }

    /// The public half of a key that somebody else logs in with.
    ///
    /// # Errors
    /// When there is no such file, or it is no key.
    pub fn public_half(&self, path: &Path) -> Result<SshPublicKey> {
        self.read(path).map(|key| key.public)
    }

    /// The key to use when none was named. The remarks say what was passed over, and why.
    ///
    /// # Errors
    /// When a key has to be made and can't be.
    pub fn default_key(&self) -> Result<(LoginKey, Vec<String>)> {
        let mut remarks = Vec::new();
        for name in DEFAULT_NAMES {
            let Some(path) = self.ssh_dir.as_ref().map(|dir| dir.join(name)) else { break };
            if !path.exists() && !public_path(&path).exists() {
                continue;
            }
            let found = if path.exists() { path } else { public_path(&path) };
            match self.named(&found) {
                Ok(key) => return Ok((key, remarks)),
                Err(error) => remarks.push(format!("passed over: {}", error.one_line())),
            }
        }
        if let Some(public) = self.agent.first() {
            return Ok((self.written_down(public)?, remarks));
        }
        let own = self.own_dir.join("id_ed25519");
        if !own.exists() {
            make(self.own_dir, &own)?;
            remarks.push(format!("made an SSH key for you: {}", own.display()));
        }
        Ok((self.named(&own)?, remarks))
    }

    /// A key that only the agent has: its public half is written down for `ssh -i`.
    fn written_down(&self, public: &SshPublicKey) -> Result<LoginKey> {
        let digest: String = public
            .fingerprint()
            .trim_start_matches("SHA256:")
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(12)
            .collect();
        let identity = self.own_dir.join(format!("agent-{digest}.pub"));
        make_dir(self.own_dir)?;
        let line = format!("{}\n", public.as_str());
        crate::atomic_file::replace(&identity, line.as_bytes(), Some(0o600)).map_err(|error| {
            CliError::other(format!("can't write {}", identity.display())).because(error)
        })?;
        Ok(LoginKey { public: public.clone(), identity, usable_by: Use::Agent })
    }

    fn read(&self, path: &Path) -> Result<LoginKey> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = read_text(&path)?;
        if text.contains("PRIVATE KEY") || text.starts_with("PuTTY-User-Key-File") {
            return self.private(&path, &text);
        }
        let public = parse_public(&text, &path)?;
        let private = path.extension().filter(|e| *e == "pub").map(|_| path.with_extension(""));
        match private.filter(|private| private.exists()) {
            Some(private) => {
                let text = read_text(&private)?;
                Ok(LoginKey { usable_by: self.usable(&text, &public), public, identity: private })
            }
            // Without the private half only the agent could use it; `objection` sees to that.
            None => Ok(LoginKey { public, identity: path, usable_by: Use::Agent }),
        }
    }

    fn private(&self, path: &Path, text: &str) -> Result<LoginKey> {
        let beside = public_path(path);
        let derived = key_file::public_half(text);
        let public = match derived {
            // From the private file itself: a .pub beside it may belong to another key.
            Some(line) => parse_public(&line, path)?,
            None if beside.exists() => parse_public(&read_text(&beside)?, &beside)?,
            None => {
                return Err(CliError::usage(format!(
                    "the public half of {} is missing",
                    path.display()
                ))
                .hint(format!("ssh-keygen -y -f {0} > {0}.pub", path.display())));
            }
        };
        Ok(LoginKey { usable_by: self.usable(text, &public), public, identity: path.to_owned() })
    }

    fn usable(&self, private: &str, public: &SshPublicKey) -> Use {
        match key_file::readiness(private) {
            Readiness::Ready => Use::File,
            _ if self.in_agent(public) => Use::Agent,
            Readiness::Locked => Use::Passphrase,
            Readiness::NotSupported => Use::OpenSsh,
        }
    }

    fn in_agent(&self, public: &SshPublicKey) -> bool {
        self.agent.iter().any(|key| key.without_comment() == public.without_comment())
    }

    /// Why nobody here could log in with this key, if so.
    fn objection(&self, key: &LoginKey) -> Option<CliError> {
        let path = key.identity.display();
        match key.usable_by {
            Use::File => None,
            Use::Agent if self.in_agent(&key.public) => None,
            Use::Agent => Some(
                CliError::usage(format!(
                    "the private half of {path} is neither beside it nor in the SSH agent, \
                     so nobody here could log in with it"
                ))
                .hint(format!("ssh-add {}", path.to_string().trim_end_matches(".pub")))
                .hint("name another key with --ssh-key FILE"),
            ),
            Use::OpenSsh if self.has_openssh => None,
            Use::OpenSsh => Some(
                CliError::usage(format!(
                    "the key {path} (RSA or a security key) needs OpenSSH, which is not installed"
                ))
                .hint("install OpenSSH, or name an ed25519 key with --ssh-key FILE"),
            ),
            Use::Passphrase if self.has_openssh && self.can_ask => None,
            Use::Passphrase => Some(
                CliError::usage(format!(
                    "the key {path} is protected by a passphrase, and nobody is here to type it"
                ))
                .hint(format!("ssh-add {path}"))
                .hint("name another key with --ssh-key FILE"),
            ),
        }
    }
}

fn public_path(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn read_text(path: &Path) -> Result<String> {
    use std::io::Read as _;
    let failed = |error: &std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return CliError::usage(format!("there is no key file {}", path.display()))
                .hint("name a file that is there, or leave it out to use your default key");
        }
        CliError::usage(format!("can't read the key file {}", path.display())).because(error)
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(|error| failed(&error))?;
    String::from_utf8(text)
        .map_err(|_| CliError::usage(format!("{} is no SSH key: it is not text", path.display())))
}

fn parse_public(text: &str, path: &Path) -> Result<SshPublicKey> {
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
    line.unwrap_or_default().parse().map_err(|error| {
        CliError::usage(format!("can't use the key in {}", path.display()))
            .because(printable(&format!("{error}"), 300))
    })
}

fn make_dir(dir: &Path) -> Result<()> {
    golem_vm_node::data_dir::DataDir::open(dir)?;
    Ok(())
}

/// Makes an Ed25519 key: the private half at `path` (mode 0600, never over another file), the
/// public half beside it.
fn make(dir: &Path, path: &Path) -> Result<()> {
    make_dir(dir)?;
    let failed = |error: &dyn std::fmt::Display| {
        CliError::other(format!("can't make an SSH key at {}", path.display())).because(error)
    };
    let (private, public) = key_file::generate("golem").map_err(|error| failed(&error))?;
    // The public half first: whoever finds the private one finds both.
    crate::atomic_file::replace(&public_path(path), public.as_bytes(), Some(0o644))
        .map_err(|error| failed(&error))?;
    crate::atomic_file::replace(path, private.as_bytes(), Some(0o600))
        .map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests;
