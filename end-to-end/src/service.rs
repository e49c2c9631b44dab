//! A service as a process.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::waiting::within;

/// Longest until a service is ready, and until it has ended.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

/// A running service. Dropped, it is killed.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
    announced: serde_json::Value,
}

impl Service {
    /// Starts it, and waits until it has announced where it listens; `name` is that of its log in
    /// `directory`.
    ///
    /// # Errors
    /// What it wrote, if it ends before.
    pub fn start(command: Command, directory: &Path, name: &str) -> Result<Self, String> {
        let ready = directory.join(format!("{name}.ready"));
        let log = directory.join(format!("{name}.log"));
        // Without `unsafe` no descriptor can be handed down but the standard ones: a shell does it.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", r#"ready=$1; shift; exec "$@" 3>"$ready""#, "service"]).arg(&ready);
        shell.arg(command.get_program()).args(command.get_args()).args(["--ready-fd", "3"]);
        shell.env_clear().current_dir(command.get_current_dir().unwrap_or(directory));
        for (variable, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(variable, value);
            }
        }
        let _ = std::fs::remove_file(&ready);
        let output = open_log(&log);
        shell.stdin(std::process::Stdio::null());
        shell.stdout(output.try_clone().unwrap()).stderr(output);
        let mut child = shell.spawn().map_err(|error| error.to_string())?;
        let announced = within(START, || {
            let text = std::fs::read_to_string(&ready).unwrap_or_default();
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(line) => Some(Ok(line)),
                Err(_) => child.try_wait().unwrap().map(Err),
            }
        });
        let said =
            || format!("{name} said:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        match announced {
            Some(Ok(announced)) => Ok(Self { child, log, announced }),
            Some(Err(status)) => Err(format!("ended at once: {status}; {}", said())),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("not ready after {} s; {}", START.as_secs(), said()))
            }
        }
    }

    /// Where it listens: `127.0.0.1:12345`.
    #[must_use]
    pub fn address(&self) -> &str {
        let address = self.announced.get("http").or_else(|| self.announced.get("address"));
        address.and_then(serde_json::Value::as_str).unwrap()
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.announced["id"].as_str().unwrap()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged, over all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid()), signal).unwrap();
    }

    /// Holds it, so that it neither answers nor ends.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end, and waits for that.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        within(END, || self.child.try_wait().unwrap())
            .unwrap_or_else(|| panic!("pid {} does not end:\n{}", self.pid(), self.log()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended by now.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        within(END, || self.child.try_wait().unwrap()).is_some()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open_log(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// Sends a process that the test has started a signal.
pub fn signal(process: u32, signal: Signal) {
    kill_process(pid(process), signal).unwrap();
}

/// A process id.
pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}
