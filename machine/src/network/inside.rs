//! Running programs inside a machine's namespaces.

use std::path::Path;
use std::time::Duration;

use super::NetworkError;
use super::program::{self, Failure};
use crate::process::{ProcessIdentity, RunAs};

/// What is done inside takes milliseconds; on a host whose CPUs are all busy it may take long.
const DEADLINE: Duration = Duration::from_secs(30);

/// The namespaces of a machine, as long as the process is there that has them.
#[derive(Debug, Clone, Copy)]
pub struct Inside<'a> {
    /// The process that waits in them, or that QEMU is.
    pub process: &'a ProcessIdentity,
    /// As whom it was started. The namespaces belong to that user.
    pub run_as: RunAs,
}

impl Inside<'_> {
    /// The words before a program that runs as the machine's user and sees what the machine sees, in the host's
    /// network. Where this program is that user there are none, and the program sees what this one does.
    pub(super) fn as_user(&self) -> Vec<String> {
        let RunAs::User { id, .. } = self.run_as else { return Vec::new() };
        let pid = self.process.pid;
        let words = format!(
            "nsenter --target {pid} --mount -- setpriv --reuid={id} --regid={id} --clear-groups \
             --inh-caps=-all --bounding-set=-all --no-new-privs --"
        );
        words.split(' ').map(str::to_owned).collect()
    }

    /// The words before a program that runs in the machine's network, with all rights there and none elsewhere.
    fn within(&self) -> Vec<String> {
        let mut words = self.as_user();
        let enter =
            format!("nsenter --target {} --user --preserve-credentials --net --", self.process.pid);
        words.extend(enter.split(' ').map(str::to_owned));
        words
    }

    /// Runs a program in the machine's network to its end.
    pub(super) async fn run(
        &self,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, NetworkError> {
        self.proved()?;
        let mut words = self.within();
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let first = words.remove(0);
        program::run(&first, words, input, DEADLINE).await.map_err(|failure| match failure {
            Failure::Missing => NetworkError::Missing { program: first, package: "util-linux" },
            Failure::NotRun(why) | Failure::Said(why) => {
                NetworkError::Refused(program::in_one_line(&why))
            }
        })
    }

    /// Makes sure that its pid is still the machine's. Whoever has it later has namespaces of somebody else; no
    /// program of another machine's user may enter those.
    pub(super) fn proved(&self) -> Result<(), NetworkError> {
        match self.process.alive() {
            Ok(true) => Ok(()),
            Ok(false) => Err(NetworkError::Gone(self.process.pid)),
            Err(error) => Err(NetworkError::Unknown(self.process.pid, error.to_string())),
        }
    }

    /// Where something that both sides see is for a program that [`Self::as_user`] starts.
    pub(super) fn seen<'b>(&self, outside: &'b Path, inside: &'b Path) -> &'b Path {
        match self.run_as {
            RunAs::User { .. } => inside,
            RunAs::Myself => outside,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn root_becomes_the_machine_s_user_before_it_enters() {
        let process = ProcessIdentity::of(std::process::id()).unwrap();
        let pid = process.pid;
        let as_user = Inside { process: &process, run_as: RunAs::User { id: 7, group: Some(9) } };
        assert_eq!(
            as_user.within().join(" "),
            format!(
                "nsenter --target {pid} --mount -- setpriv --reuid=7 --regid=7 --clear-groups --inh-caps=-all \
                 --bounding-set=-all --no-new-privs -- nsenter --target {pid} --user --preserve-credentials --net --"
            )
        );
        let myself = Inside { process: &process, run_as: RunAs::Myself };
        assert_eq!(
            myself.within().join(" "),
            format!("nsenter --target {pid} --user --preserve-credentials --net --")
        );
    }

    #[tokio::test]
    async fn nothing_is_run_in_the_namespaces_of_a_process_that_is_gone() {
        let process = ProcessIdentity::of(std::process::id()).unwrap();
        let other = ProcessIdentity { start: process.start + 1, ..process };
        let inside = Inside { process: &other, run_as: RunAs::Myself };
        let refused = inside.run(&["true"], "").await.unwrap_err();
        assert_eq!(refused, NetworkError::Gone(other.pid));
    }

    #[tokio::test]
    async fn a_process_without_namespaces_of_its_own_is_refused() {
        // Ourselves, say: nobody may enter the user namespace that he is in (setns(2)).
        let process = ProcessIdentity::of(std::process::id()).unwrap();
        let inside = Inside { process: &process, run_as: RunAs::Myself };
        let refused = inside.run(&["true"], "").await.unwrap_err();
        assert!(matches!(refused, NetworkError::Refused(_)), "{refused}");
    }
}
