//! A person who rents: `golem` with a home directory of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;

use crate::outcome::Outcome;
use crate::place::Place;
use crate::programs::program;

/// How long a session may take to echo a line.
const ECHO: Duration = Duration::from_secs(30);

/// A requestor.
#[derive(Debug)]
pub struct Requestor {
    place: Place,
    discovery: String,
    home: TempDir,
}

impl Requestor {
    /// Somebody new, who knows a discovery server.
    #[must_use]
    pub fn new(place: &Place, discovery: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let place = place.clone().with_home(home.path());
        Self { place, discovery: discovery.to_owned(), home }
    }

    /// The home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A `golem` command that is not running yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(program("golem"));
        command.args(arguments).env("GOLEM_REQUESTOR_DISCOVERY_URL", &self.discovery);
        command
    }

    /// Runs `golem` to its end.
    #[must_use]
    pub fn golem(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments), b"")
    }

    /// The same, with another program of this person's.
    #[must_use]
    pub fn shell(&self, line: &str) -> Outcome {
        Outcome::of(self.place.command("/bin/sh").args(["-c", line]), b"")
    }

    /// Rents a VM of the smallest size, from whoever is best.
    pub fn rent(&self, name: &str) -> Outcome {
        self.golem(&["vm", "create", name]).done()
    }

    /// Runs a command in a VM; its output.
    pub fn in_vm(&self, name: &str, command: &str) -> String {
        self.golem(&["vm", "ssh", name, "--", command]).done().stdout
    }

    /// The VMs, as `golem vm list --json` has them.
    #[must_use]
    pub fn vms(&self) -> Vec<serde_json::Value> {
        self.golem(&["vm", "list", "--json"]).done().json()["vms"].as_array().unwrap().clone()
    }

    /// One VM, as `golem vm list --json` has it.
    #[must_use]
    pub fn vm(&self, name: &str) -> serde_json::Value {
        let vms = self.vms();
        let found = vms.iter().find(|vm| vm["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {name} in {vms:?}")).clone()
    }

    /// The ssh command that golem prints for a VM, with a command for the VM in the end.
    #[must_use]
    pub fn printed_ssh(&self, name: &str, command: &str) -> Outcome {
        let vm = self.vm(name);
        let printed = vm["ssh"]["command"].as_str().unwrap();
        self.shell(&format!("{printed} '{command}' </dev/null"))
    }

    /// Opens a session in a VM that says what it is told.
    #[must_use]
    pub fn session(&self, name: &str, options: &[&str]) -> Session {
        let mut arguments = vec!["vm", "ssh"];
        arguments.extend(options);
        arguments.extend([name, "--", "cat"]);
        Session::start(self.command(&arguments), Stdio::inherit())
    }

    /// The same, of which nobody reads the errors.
    #[must_use]
    pub fn quiet_session(&self, name: &str) -> Session {
        Session::start(self.command(&["vm", "ssh", name, "--", "cat"]), Stdio::null())
    }
}

/// An open SSH session in which `cat` runs.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Session {
    fn start(mut command: Command, errors: Stdio) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, input, lines }
    }

    /// Says something, and hears it again.
    pub fn echoes(&mut self, text: &str) {
        assert!(self.answers(text), "the session is dead");
    }

    /// Says something, and whether it is heard again.
    #[must_use]
    pub fn answers(&mut self, text: &str) -> bool {
        writeln!(self.input, "{text}").is_ok()
            && self.lines.recv_timeout(ECHO).as_deref() == Ok(text)
    }

    /// Waits until it has been cut off.
    pub fn has_ended(&mut self) -> bool {
        crate::waiting::within(ECHO, || self.child.try_wait().unwrap()).is_some()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
