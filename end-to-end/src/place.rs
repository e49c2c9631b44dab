//! Where the programs of a test run: with which directories, on which network, with which engine.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The surroundings of a program: nothing of the person's who runs the tests.
#[derive(Debug, Clone)]
pub struct Place {
    home: PathBuf,
    namespace: Option<u32>,
    docker_host: Option<String>,
    first_on_path: Option<PathBuf>,
    variables: Vec<(String, String)>,
    umask: Option<&'static str>,
}

impl Place {
    /// With this home directory, on the machine's own network, with the engine that all tests share.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        let docker_host = std::env::var("DOCKER_HOST").ok();
        Self {
            home: home.to_owned(),
            namespace: None,
            docker_host,
            first_on_path: None,
            variables: Vec::new(),
            umask: None,
        }
    }

    /// The same in the network namespace of a process.
    #[must_use]
    pub fn in_namespace_of(mut self, pid: u32) -> Self {
        self.namespace = Some(pid);
        self
    }

    /// The same with another engine.
    #[must_use]
    pub fn with_docker_host(mut self, docker_host: &str) -> Self {
        self.docker_host = Some(docker_host.to_owned());
        self
    }

    /// The same with another home directory.
    #[must_use]
    pub fn with_home(mut self, home: &Path) -> Self {
        self.home = home.to_owned();
        self
    }

    /// The same with programs that come before all others.
    #[must_use]
    pub fn with_programs_of(mut self, directory: &Path) -> Self {
        self.first_on_path = Some(directory.to_owned());
        self
    }

    /// The same with a variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a file mode creation mask, such as `000`.
    #[must_use]
    pub fn with_umask(mut self, umask: &'static str) -> Self {
        self.umask = Some(umask);
        self
    }

    /// The home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A command that runs there. Its pid is the program's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(pid) = self.namespace {
            let pid = pid.to_string();
            words.extend(["nsenter", "--net", "--target", pid.as_str(), "--"].map(OsString::from));
        }
        if let Some(umask) = self.umask {
            let script = format!("umask {umask}; exec \"$0\" \"$@\"");
            words.extend(["/bin/sh", "-c", script.as_str()].map(OsString::from));
        }
        words.push(program.as_ref().to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
            .env_clear()
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .env("PATH", self.path());
        if let Some(docker_host) = &self.docker_host {
            command.env("DOCKER_HOST", docker_host);
        }
        command.envs(self.variables.iter().cloned());
        for name in ["LANG", "TMPDIR"] {
            if let Ok(value) = std::env::var(name) {
                command.env(name, value);
            }
        }
        command
    }

    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{path}:/usr/sbin:/sbin");
        match &self.first_on_path {
            Some(first) => format!("{}:{path}", first.display()),
            None => path,
        }
    }
}
