//! What the tests of the `golem` binary run against: a home of its own for each, a discovery
//! server and providers that can be told to misbehave, and a real sshd.

#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

pub mod discovery;
pub mod histories;
pub mod http;
pub mod leases;
pub mod life;
pub mod provider;
pub mod sshd;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A person's machine: home, settings, and nothing of the environment the tests run in.
pub struct Home {
    dir: tempfile::TempDir,
    discovery: Option<String>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            // As a shell says it.
            code: output.status.code().unwrap_or_else(|| {
                128 + std::os::unix::process::ExitStatusExt::signal(&output.status).unwrap_or(0)
            }),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks the exit code, and shows everything when it is another one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {:?}\nstderr: {}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in: {}", self.stderr);
        self
    }
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), discovery: None }
    }

    pub fn with(discovery: &discovery::Discovery) -> Self {
        Self { discovery: Some(discovery.url()), ..Self::new() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn base(&self) -> PathBuf {
        self.path().join("data/golem/requestor")
    }

    pub fn config_file(&self) -> PathBuf {
        self.path().join("config/golem/requestor.toml")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_golem"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_DATA_HOME", self.path().join("data"))
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(url) = &self.discovery {
            command.env("GOLEM_REQUESTOR_DISCOVERY_URL", url);
        }
        command
    }

    /// Runs `golem` with these arguments, to its end.
    pub fn golem(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// The same on a terminal of its own: stdout and stderr together, as a person sees them.
    pub fn on_terminal(&self, arguments: &[&str], input: &str) -> Ran {
        let line: Vec<String> = std::iter::once(env!("CARGO_BIN_EXE_golem"))
            .chain(arguments.iter().copied())
            .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
            .collect();
        self.in_terminal(&line.join(" "), input)
    }

    /// Runs a line of shell on a terminal of its own, 160 columns wide, and types `input`.
    pub fn in_terminal(&self, line: &str, input: &str) -> Ran {
        self.in_terminal_when(line, "", input)
    }

    /// The same, and types when `shown` is on the screen.
    pub fn in_terminal_when(&self, line: &str, shown: &str, input: &str) -> Ran {
        use std::io::{Read as _, Write as _};
        let golem = self.command(&[]);
        let mut command = Command::new("script");
        command.args(["-qefc", &format!("stty cols 160 rows 40; {line}"), "/dev/null"]);
        command.env_clear();
        for (name, value) in golem.get_envs() {
            command.env(name, value.unwrap());
        }
        let mut child = command
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Kept open until the end: a terminal without a keyboard hangs up.
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut screen = Vec::new();
        while !String::from_utf8_lossy(&screen).contains(shown) {
            let mut buffer = [0; 1024];
            let count = stdout.read(&mut buffer).unwrap();
            assert!(count > 0, "no {shown:?} in {}", String::from_utf8_lossy(&screen));
            screen.extend(&buffer[..count]);
        }
        stdin.write_all(input.as_bytes()).unwrap();
        stdin.flush().unwrap();
        stdout.read_to_end(&mut screen).unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        Ran::of(Output { stdout: screen, ..output })
    }

    /// The id under which this person is known.
    pub fn id(&self) -> String {
        self.golem(&["id"]).exits(0).stdout.trim().to_owned()
    }

    /// Makes this person's default SSH key with OpenSSH's own tool.
    pub fn ssh_key(&self, kind: &str) -> PathBuf {
        self.ssh_key_as(&format!("id_{kind}"), &["-t", kind])
    }

    /// Makes an SSH key in the person's `.ssh` with OpenSSH's own tool, told how by `options`.
    pub fn ssh_key_as(&self, name: &str, options: &[&str]) -> PathBuf {
        let dir = self.path().join(".ssh");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", "test"])
            .args(options)
            .arg("-f")
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        path
    }
}
