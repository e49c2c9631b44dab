//! How a program that runs to its end ended.

use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that any command of a test may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// What a program printed, and its exit code.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code; 128 and more if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs `command` with this standard input, and waits for its end.
    ///
    /// # Panics
    /// If it has not ended after three minutes.
    #[must_use]
    pub fn of(command: &mut Command, input: &[u8]) -> Self {
        Self::within(DEADLINE, command, input)
    }

    /// The same for what may take that long.
    ///
    /// # Panics
    /// If it has not ended then.
    #[must_use]
    pub fn within(deadline: Duration, command: &mut Command, input: &[u8]) -> Self {
        let text = shown(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("can't start {text}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        // Whoever does not read it all has its reasons.
        let _ = stdin.write_all(input);
        drop(stdin);
        let stdout = read_all(child.stdout.take().unwrap());
        let stderr = read_all(child.stderr.take().unwrap());
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!(
                    "not at its end after {} s: {text}\n{}{}",
                    deadline.as_secs(),
                    stdout.join().unwrap(),
                    stderr.join().unwrap()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Self {
            command: text,
            code: code.unwrap(),
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    }

    /// The same, of a command that has to succeed.
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// The same, of a command that has to end with this code and say why: one error, in sentences,
    /// without a trace.
    pub fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "exactly one error: {self}");
        for trace in ["panicked", "RUST_BACKTRACE", "stack backtrace", "Os { code", "Error {"] {
            assert!(!self.stderr.contains(trace), "{trace} in {self}");
        }
        self
    }

    /// The same, if standard error says all of this.
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "'{word}' is not in {self}");
        }
        self
    }

    /// Standard output as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "$ {}\nended with {}\n--- stdout\n{}--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn read_all(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a failure is of use too.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
