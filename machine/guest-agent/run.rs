//! Programs of the guest, run for a bounded time.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program with its arguments, what it reads, and for how long it may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    program: &'static str,
    arguments: Vec<String>,
    input: String,
    limit: Duration,
}

impl Run {
    pub(crate) fn new(program: &'static str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { program, arguments, input: String::new(), limit: Duration::from_secs(60) }
    }

    pub(crate) fn input(self, input: impl Into<String>) -> Self {
        Self { input: input.into(), ..self }
    }

    pub(crate) fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Runs it; its exit code, `None` when it was ended by a signal.
    ///
    /// # Errors
    /// A sentence: it could not be started, or took too long.
    pub(crate) fn status(&self) -> Result<Option<i32>, String> {
        let mut child = Command::new(self.program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} can't be started: {error}", self.program))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that reads nothing may be gone already.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        self.wait(child)
    }

    /// Runs it, and expects that it succeeds.
    ///
    /// # Errors
    /// As [`status`](Self::status), or its exit code was not 0.
    pub(crate) fn run(&self) -> Result<(), String> {
        match self.status()? {
            Some(0) => Ok(()),
            code => {
                Err(format!("{} {} ended with {code:?}", self.program, self.arguments.join(" ")))
            }
        }
    }

    fn wait(&self, mut child: Child) -> Result<Option<i32>, String> {
        let until = Instant::now() + self.limit;
        // Fine at first: a resumed guest waits for each of these.
        let mut pause = Duration::from_micros(500);
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status.code()),
                Ok(None) if Instant::now() < until => std::thread::sleep(pause),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{} took longer than {:?}", self.program, self.limit));
                }
                Err(error) => return Err(format!("{} can't be waited for: {error}", self.program)),
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_end_and_say_how_and_are_ended() {
        assert_eq!(Run::new("sh", &["-c", "read x; exit $x"]).input("7\n").status(), Ok(Some(7)));
        assert!(Run::new("sh", &["-c", "exit 1"]).run().is_err_and(|why| why.contains("Some(1)")));
        assert!(Run::new("no-such-program", &[]).run().is_err());
        let slow = Run::new("sleep", &["1000"]).limit(Duration::from_millis(20));
        assert!(slow.run().is_err_and(|why| why.contains("took longer")));
    }
}
