//! Failures as a person meets them: what failed, why, whose turn it is, and what to type next.

use std::fmt;

use golem_vm_protocol::ErrorCode;
use serde_json::{Map, Value, json};

/// The exit codes, as `--help` and the README list them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    another failure
  2    wrong usage or a wrong setting
  3    nothing found: no such VM, no provider matches
  4    a provider, discovery or a VM can't be reached
  5    refused: no capacity, name taken, not a trusted requestor, ...
  6    security: a signature or an SSH host key is not the right one
  7    took too long
  130  interrupted
`golem vm ssh` ends with the remote command's exit code, with 255 if a signal ended it or the
connection fails, with 6 if another host key answers, or with 128 + N if signal N ended golem.
With --json a failure is {\"error\": {\"code\", \"exit_code\", \"message\", \"causes\", \"hints\",
\"problem\"}} on stdout; what a person reads stays on stderr.";

/// Whose turn it is, which is also the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something else, on this machine or on the other side.
    Other,
    /// The command line or a setting is wrong.
    Usage,
    /// There is no such VM, provider or setting.
    NotFound,
    /// The other side does not answer.
    Unreachable,
    /// The other side answered, and does not do it.
    Refused,
    /// Somebody is not who they should be.
    Security,
    /// It took too long.
    TimedOut,
    /// The person interrupted it.
    Interrupted,
    /// An SSH connection failed; the code that ssh itself uses.
    SshConnection,
}

impl Kind {
    /// The process's exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::Security => 6,
            Self::TimedOut => 7,
            Self::Interrupted => 130,
            Self::SshConnection => 255,
        }
    }

    /// The word for programs; never renamed.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Security => "security",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::SshConnection => "ssh_connection",
        }
    }
}

/// A failure that ends a command. Its texts are already safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// Whose turn it is.
    pub kind: Kind,
    /// What failed, with which value: one sentence without a full stop.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do next, each a sentence or a command.
    pub hints: Vec<String>,
    /// The code with which a provider refused, if that is behind it.
    pub problem: Option<ErrorCode>,
    /// What was done all the same: members of the JSON object that a success would be.
    pub done: Map<String, Value>,
}

impl CliError {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            problem: None,
            done: Map::new(),
        }
    }

    /// The command line or a setting is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// Something failed on this machine.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, message)
    }

    /// Adds a reason.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds what was done all the same.
    #[must_use]
    pub fn although(mut self, member: &str, value: Value) -> Self {
        self.done.insert(member.to_owned(), value);
        self
    }

    /// What a program reads: what was done, and `error`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = self.done.clone();
        let error = json!({
            "code": self.kind.code(),
            "exit_code": self.kind.exit_code(),
            "message": self.message,
            "causes": self.causes,
            "hints": self.hints,
            "problem": self.problem,
        });
        object.insert("error".to_owned(), error);
        Value::Object(object)
    }

    /// The message and its reasons in one line, for a list of failures.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        line
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.one_line())
    }
}

impl std::error::Error for CliError {}

impl From<golem_vm_node::settings::SettingsError> for CliError {
    fn from(error: golem_vm_node::settings::SettingsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<golem_vm_node::data_dir::DataDirError> for CliError {
    fn from(error: golem_vm_node::data_dir::DataDirError) -> Self {
        Self::other(error.to_string())
    }
}

impl From<golem_vm_node::key_file::KeyFileError> for CliError {
    fn from(error: golem_vm_node::key_file::KeyFileError) -> Self {
        Self::other(error.to_string())
    }
}

impl From<golem_vm_node::sqlite::SqliteError> for CliError {
    fn from(error: golem_vm_node::sqlite::SqliteError) -> Self {
        Self::other(error.to_string())
    }
}

/// The result of a command's parts.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_documented() {
        for kind in [
            Kind::Other,
            Kind::Usage,
            Kind::NotFound,
            Kind::Unreachable,
            Kind::Refused,
            Kind::Security,
            Kind::TimedOut,
            Kind::Interrupted,
            Kind::SshConnection,
        ] {
            let code = kind.exit_code().to_string();
            assert!(EXIT_CODES.contains(&code), "{code}");
        }
    }

    #[test]
    fn programs_read_the_same_as_people() {
        let error = CliError::not_found("nobody").because("root").hint("h");
        let error = error.although("destroyed", json!(["one"]));
        let expected = json!({"destroyed": ["one"], "error": {
            "code": "not_found", "exit_code": 3, "message": "nobody", "causes": ["root"],
            "hints": ["h"], "problem": null,
        }});
        assert_eq!(error.to_json(), expected);
    }

    #[test]
    fn reasons_follow_the_message() {
        let error = CliError::other("outer").because("inner").because("root").hint("h");
        assert_eq!(error.one_line(), "outer: inner: root");
    }
}
