//! Why a call to a provider did not give what it was made for.

use std::time::Duration;

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::problem::Problem;
use golem_vm_protocol::text::printable;

use super::connector::ConnectError;
use crate::error::{CliError, Kind};
use crate::rentals::ProviderRef;

/// Why a call did not give what it was made for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// It can't be reached; nothing was sent.
    #[error("the provider can't be reached: {0}")]
    Unreachable(ConnectError),
    /// The connection broke after the request was sent: whether it was obeyed is unknown.
    #[error("the connection to the provider broke before its answer came ({0})")]
    Lost(String),
    /// No answer in time: whether the request was obeyed is unknown.
    #[error("the provider did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The answer is not signed by that provider.
    #[error("what answers at the provider's address is not that provider: {0}")]
    NotTheProvider(String),
    /// The provider says no.
    #[error("{}", printable(&.0.detail, 600))]
    Refused(Box<Problem>),
    /// Signed by the provider, and still not an answer.
    #[error("the provider's answer can't be understood: {0}")]
    Malformed(String),
    /// Signed by the provider, which now names another SSH host key than the one it named first.
    #[error(
        "it names another SSH host key for this VM ({named}) than at first ({pinned}): another \
         machine stands in its place"
    )]
    OtherHostKey {
        /// Fingerprint of the first one, which stays pinned.
        pinned: String,
        /// Fingerprint of the other one.
        named: String,
    },
    /// The request can't be made on this machine.
    #[error("{0}")]
    Local(String),
}

impl CallError {
    /// The stable code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// For how long the provider wants not to be asked again.
    #[must_use]
    pub fn asks_to_wait(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) if problem.code == ErrorCode::RateLimited => {
                Some(Duration::from_secs(problem.retry_after.unwrap_or(1)))
            }
            _ => None,
        }
    }

    /// Whether the provider said, signed, that there is no such VM.
    #[must_use]
    pub fn is_no_such_vm(&self) -> bool {
        self.code() == Some(ErrorCode::VmNotFound)
    }

    /// Whether the request may have been obeyed although no good answer came.
    #[must_use]
    pub const fn is_ambiguous(&self) -> bool {
        matches!(
            self,
            Self::Lost(_) | Self::TimedOut(_) | Self::NotTheProvider(_) | Self::Malformed(_)
        )
    }

    /// Whether a refusal leaves open if the request was, or will be, obeyed: the provider is busy or
    /// broken, or refuses before it knows that the request is whole, in time and new. Somebody on the path can
    /// provoke such a refusal with a copy (altered, late, a second one), and deliver the request
    /// itself before or afterwards: the reply is bound to the same signature.
    #[must_use]
    pub fn leaves_open(code: ErrorCode) -> bool {
        matches!(
            code,
            ErrorCode::BadRequest
                | ErrorCode::SignatureInvalid
                | ErrorCode::ClockSkew
                | ErrorCode::SignatureStale
                | ErrorCode::Replayed
                | ErrorCode::RequestTimeout
                | ErrorCode::PayloadTooLarge
                | ErrorCode::RateLimited
                | ErrorCode::Internal
                | ErrorCode::Unavailable
                | ErrorCode::Unknown
        )
    }

    /// Whether asking again, newly signed, may give an answer.
    #[must_use]
    pub fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Lost(_) | Self::TimedOut(_) => true,
            Self::Refused(problem) => matches!(
                problem.code,
                ErrorCode::Unavailable
                    | ErrorCode::RateLimited
                    | ErrorCode::RequestTimeout
                    | ErrorCode::SignatureInvalid
                    | ErrorCode::Replayed
            ),
            _ => false,
        }
    }

    /// This failure, as it ends a command. `doing` completes "can't …".
    #[must_use]
    pub fn into_cli(self, doing: &str, provider: &ProviderRef) -> CliError {
        let kind = match &self {
            Self::Unreachable(_) | Self::Lost(_) => Kind::Unreachable,
            Self::TimedOut(_) => Kind::TimedOut,
            Self::NotTheProvider(_) | Self::OtherHostKey { .. } => Kind::Security,
            Self::Refused(problem) => refusal_kind(problem.code),
            Self::Malformed(_) | Self::Local(_) => Kind::Other,
        };
        let code = self.code();
        let mut error = CliError::new(kind, format!("can't {doing}")).because(format!(
            "provider {} ({}): {self}",
            printable(&provider.name, 64),
            provider.id.short()
        ));
        error.problem = code;
        if let Self::Refused(problem) = &self
            && let Some(id) = &problem.request_id
        {
            error = error.because(format!("the provider's log knows it as {}", printable(id, 64)));
        }
        match (&self, code) {
            (Self::Unreachable(_) | Self::Lost(_) | Self::TimedOut(_), _) => error
                .hint("the provider may be down for a moment: try again, or choose another one (golem vm providers)"),
            (Self::NotTheProvider(_), _) => error
                .hint("do not trust that address: the provider may have moved, or somebody is in between"),
            (Self::OtherHostKey { .. }, _) => error
                .hint("nothing was sent to that machine; what was in yours may be gone or copied: give it back, and tell the provider's owner"),
            (_, Some(ErrorCode::ClockSkew)) => error.hint(
                "set this machine's clock (timedatectl set-ntp true), then try again; if it is right, \
                 the provider's is wrong",
            ),
            (_, Some(ErrorCode::RateLimited)) => {
                error.hint("wait for as long as it says, then try again; the others go on meanwhile")
            }
            (_, Some(ErrorCode::NotTrusted)) => error.hint(
                "give the provider's owner your id (golem id), or choose another provider (golem vm providers)",
            ),
            (_, Some(ErrorCode::InsufficientCapacity | ErrorCode::PortsExhausted)) => {
                error.hint("choose a smaller size or another provider (golem vm providers)")
            }
            _ => error,
        }
    }
}

const fn refusal_kind(code: ErrorCode) -> Kind {
    match code {
        ErrorCode::NotFound
        | ErrorCode::VmNotFound
        | ErrorCode::OperationNotFound
        | ErrorCode::AdvertisementNotFound
        | ErrorCode::SnapshotNotFound => Kind::NotFound,
        ErrorCode::SignatureInvalid
        | ErrorCode::WrongRecipient
        | ErrorCode::Replayed
        | ErrorCode::SignatureRequired => Kind::Security,
        ErrorCode::ValidationFailed | ErrorCode::DiskCannotShrink => Kind::Usage,
        ErrorCode::Unavailable | ErrorCode::BackendUnavailable => Kind::Unreachable,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_obeyed_is_told_apart() {
        assert!(CallError::Lost("x".into()).is_ambiguous());
        assert!(CallError::NotTheProvider("x".into()).is_ambiguous());
        assert!(!CallError::Unreachable(ConnectError::NoEndpoint).is_ambiguous());
        let refused = CallError::Refused(Box::new(Problem::new(ErrorCode::VmNotFound, "no")));
        assert!(!refused.is_ambiguous() && refused.is_no_such_vm());
        // Whoever sends a copy gets these, bound to the signature of the request itself.
        for code in [ErrorCode::Replayed, ErrorCode::SignatureInvalid, ErrorCode::ClockSkew] {
            assert!(CallError::leaves_open(code), "{code}");
        }
        assert!(!CallError::leaves_open(ErrorCode::VmNotFound));
        assert!(!CallError::leaves_open(ErrorCode::NameTaken));
    }
}
