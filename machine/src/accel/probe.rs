//! Trying KVM.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Qemu, rom};
use crate::hardware::Architecture;

/// How long the guest may take. With hardware that works it takes 0.2 s; a host that is busy may need longer.
const LIMIT: Duration = Duration::from_secs(10);

/// What runs guests' instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, by Linux's KVM.
    Kvm,
    /// QEMU, by translating them: some ten times slower.
    Tcg,
}

impl Accelerator {
    /// QEMU's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What machines run with, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// With what.
    pub accelerator: Accelerator,
    /// Why: a sentence without its end, for the owner.
    pub why: String,
    /// What to do to have hardware virtualisation, where something may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Under which circumstances that was found: another start of the machine or another QEMU has it tried again.
    circumstances: String,
}

impl Choice {
    /// Whether it was found with this QEMU in this start of the machine, and so needs not be tried again.
    #[must_use]
    pub fn holds_for(&self, qemu: &Qemu) -> bool {
        circumstances(qemu).is_ok_and(|now| now == self.circumstances)
    }
}

/// Tries whether KVM really runs guests here, and chooses. `scratch` is a directory of the caller's, in which a file
/// is made and removed. Takes some 0.3 s where KVM works or is not there at all, and up to 10 s where it only seems
/// to work.
///
/// # Errors
/// When `scratch` can't be written to or QEMU can't be started: nothing is known then.
pub async fn choose(qemu: &Qemu, scratch: &Path) -> io::Result<Choice> {
    let circumstances = circumstances(qemu)?;
    let chosen = |accelerator, why: String, remedy: Option<&str>| Choice {
        accelerator,
        why,
        remedy: remedy.map(str::to_owned),
        circumstances: circumstances.clone(),
    };
    let no = |why: &str, remedy| Ok(chosen(Accelerator::Tcg, why.to_owned(), Some(remedy)));
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return no(
                "there is no /dev/kvm on this host",
                "switch virtualisation on in the firmware, or use a host that offers it",
            );
        }
        Err(error) => {
            let remedy = "add the provider's user to the group 'kvm' and log in again";
            return no(&format!("/dev/kvm can't be opened: {error}"), remedy);
        }
    }
    if qemu.architecture != Architecture::X86_64 {
        // The guest that tries it is written for one architecture only.
        return no(
            "KVM was not tried: there is no trial guest for this processor",
            "none is known",
        );
    }
    Ok(match run(qemu, Accelerator::Kvm, scratch).await? {
        Verdict::Passed => {
            let why = "/dev/kvm ran a guest in 64-bit mode with exceptions and a long loop";
            chosen(Accelerator::Kvm, why.to_owned(), None)
        }
        Verdict::Failed(why) => chosen(
            Accelerator::Tcg,
            format!("/dev/kvm is there, but a guest does not run with it: {why}"),
            Some(
                "this host's virtualisation is not complete; use one with nested or real hardware virtualisation",
            ),
        ),
    })
}

/// What became of the trial guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed(String),
}

/// Runs the trial guest.
pub(super) async fn run(
    qemu: &Qemu,
    accelerator: Accelerator,
    scratch: &Path,
) -> io::Result<Verdict> {
    let file = scratch.join(format!("trial-{}.rom", std::process::id()));
    tokio::fs::write(&file, rom::image()).await?;
    let child = Command::new(&qemu.binary)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "16", "-machine", "pc"])
        .args(["-accel", accelerator.as_str(), "-bios"])
        .arg(&file)
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .args(["-sandbox", super::super::hardware::SANDBOX])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let verdict = match child {
        Ok(mut child) => {
            let verdict = timeout(LIMIT, judge(&mut child)).await;
            // One that has ended already can't be killed any more.
            let _ = child.kill().await;
            verdict.unwrap_or_else(|_| {
                Ok(Verdict::Failed(format!("it did not come to its end within {LIMIT:?}")))
            })
        }
        Err(error) => Err(error),
    };
    let _ = tokio::fs::remove_file(&file).await;
    verdict
}

/// Waits for the guest's end, or for what QEMU says when it can't go on: it stays then, stopped.
async fn judge(child: &mut Child) -> io::Result<Verdict> {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("internal error") {
                return Ok(Verdict::Failed(line));
            }
            if said.is_empty() && !line.contains("warning") {
                said = line;
            }
        }
    }
    let status = child.wait().await?;
    if status.code() == Some(rom::PASSED) {
        return Ok(Verdict::Passed);
    }
    Ok(Verdict::Failed(format!("QEMU ended with {status} {said}").trim_end().to_owned()))
}

/// What a choice depends on.
fn circumstances(qemu: &Qemu) -> io::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let user = rustix::process::geteuid().as_raw();
    Ok(format!("{} {} {user} {}", qemu.binary.display(), qemu.version, boot.trim()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_qemu_or_another_start_has_it_tried_again() {
        let qemu = Qemu {
            binary: "/usr/bin/qemu".into(),
            version: "7.2.22".to_owned(),
            architecture: Architecture::X86_64,
            machine: "pc-q35-7.2".to_owned(),
        };
        let choice = Choice {
            accelerator: Accelerator::Tcg,
            why: "x".to_owned(),
            remedy: None,
            circumstances: circumstances(&qemu).unwrap(),
        };
        assert!(choice.holds_for(&qemu));
        assert!(!choice.holds_for(&Qemu { version: "7.2.23".to_owned(), ..qemu.clone() }));
        let earlier = Choice { circumstances: "before".to_owned(), ..choice };
        assert!(!earlier.holds_for(&qemu));
    }

    /// What the guest says when nothing is wrong is known; so a no is a no of the host's.
    #[cfg(feature = "qemu")]
    #[tokio::test]
    async fn the_trial_guest_passes_where_instructions_are_translated() {
        let qemu = Qemu::find().await.unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let verdict = run(&qemu, Accelerator::Tcg, scratch.path()).await.unwrap();
        assert_eq!(verdict, Verdict::Passed);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    /// What is chosen is what a real guest was seen to run with; where KVM only seems to work that takes no longer
    /// than its limit.
    #[cfg(feature = "qemu")]
    #[tokio::test]
    async fn a_choice_is_made_in_time_and_says_why() {
        let qemu = Qemu::find().await.unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let begun = std::time::Instant::now();
        let choice = choose(&qemu, scratch.path()).await.unwrap();
        assert!(begun.elapsed() < LIMIT + Duration::from_secs(20));
        assert!(choice.holds_for(&qemu) && !choice.why.is_empty());
        assert_eq!(choice.remedy.is_none(), choice.accelerator == Accelerator::Kvm);
        println!("{choice:?} after {:?}", begun.elapsed());
    }
}
