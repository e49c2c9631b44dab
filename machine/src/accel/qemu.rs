//! Which QEMU there is, asked of itself.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use crate::hardware::Architecture;

/// How long QEMU may take to say what it is; usual are 50 ms.
const ANSWER: Duration = Duration::from_secs(20);

/// A QEMU that runs machines here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// The program.
    pub binary: PathBuf,
    /// Its version, as it says it (`7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`).
    pub version: String,
    /// What its machines are.
    pub architecture: Architecture,
    /// The machine type in full (`pc-q35-7.2`): what the short name stands for today, which another version of
    /// QEMU may not make of it.
    pub machine: String,
}

/// Why no QEMU can be used.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It is not installed.
    #[error("{0} is not installed; install it: {1}")]
    Missing(String, &'static str),
    /// It does not answer.
    #[error("{0} does not say what it is: {1}")]
    Mute(PathBuf, io::Error),
    /// It said something else than is known.
    #[error("what {0} says of itself can't be understood: {1}")]
    Strange(PathBuf, String),
}

impl Qemu {
    /// Looks for the QEMU of this host's architecture in `PATH`, and asks it what it is.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub async fn find() -> Result<Self, QemuError> {
        let architecture = Architecture::of_this_host();
        let name = architecture.binary();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
        let binary =
            found.ok_or_else(|| QemuError::Missing(name.to_owned(), architecture.package()))?;
        Self::ask(&binary, architecture).await
    }

    /// Asks this program what it is.
    ///
    /// # Errors
    /// When it does not answer as a QEMU of this architecture does.
    pub async fn ask(binary: &Path, architecture: Architecture) -> Result<Self, QemuError> {
        let said = output(binary, &["--version"]).await?;
        let strange = |said: String| QemuError::Strange(binary.to_owned(), said);
        let version = version(&said).ok_or_else(|| strange(said.clone()))?.to_owned();
        let said = output(binary, &["-machine", "help"]).await?;
        let short = architecture.machine();
        let machine = pinned(&said, short)
            .ok_or_else(|| strange(format!("no machine type '{short}' in -machine help")))?
            .to_owned();
        Ok(Self { binary: binary.to_owned(), version, architecture, machine })
    }

    /// Its version as numbers, of which the third and others are left out: `(7, 2)`.
    #[must_use]
    pub fn release(&self) -> (u32, u32) {
        let mut numbers = self.version.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        (next(), next())
    }
}

/// What the program prints.
async fn output(binary: &Path, arguments: &[&str]) -> Result<String, QemuError> {
    let mute = |error| QemuError::Mute(binary.to_owned(), error);
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(ANSWER, command.output()).await;
    let output = output
        .map_err(|_| mute(io::Error::new(io::ErrorKind::TimedOut, "no answer within 20 s")))?
        .map_err(mute)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(mute(io::Error::other(format!("{}: {}", output.status, said.trim()))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version in what `--version` prints.
fn version(said: &str) -> Option<&str> {
    said.lines().next()?.strip_prefix("QEMU emulator version ").map(str::trim)
}

/// What the short name of a machine type stands for, in what `-machine help` prints.
fn pinned<'a>(said: &'a str, short: &str) -> Option<&'a str> {
    let line = said.lines().find(|line| line.split_ascii_whitespace().next() == Some(short))?;
    let (_, rest) = line.split_once("(alias of ")?;
    rest.split_once(')').map(|(machine, _)| machine)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_machine_types_are_taken_from_what_it_prints() {
        let said = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022\n";
        assert_eq!(version(said), Some("7.2.22 (Debian 1:7.2+dfsg-7)"));
        assert_eq!(version("QEMU"), None);
        let said = "Supported machines are:\nmicrovm              microvm (i386)\n\
                    pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)\n\
                    q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-noble)\n\
                    pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)\n";
        assert_eq!(pinned(said, "q35"), Some("pc-q35-noble"));
        assert_eq!(pinned(said, "virt"), None);
        assert_eq!(pinned(said, "microvm"), None);
    }

    #[test]
    fn a_release_is_two_numbers() {
        let qemu = |version: &str| Qemu {
            binary: "q".into(),
            version: version.to_owned(),
            architecture: Architecture::X86_64,
            machine: "m".to_owned(),
        };
        assert_eq!(qemu("7.2.22 (Debian 1:7.2)").release(), (7, 2));
        assert_eq!(qemu("10.0.2").release(), (10, 0));
        assert_eq!(qemu("strange").release(), (0, 0));
    }

    #[tokio::test]
    async fn a_program_that_is_no_qemu_is_told() {
        let error = Qemu::ask(Path::new("/bin/echo"), Architecture::X86_64).await.unwrap_err();
        assert!(matches!(error, QemuError::Strange(..)), "{error}");
        let error = Qemu::ask(Path::new("/nowhere"), Architecture::X86_64).await.unwrap_err();
        assert!(matches!(error, QemuError::Mute(..)), "{error}");
    }
}
