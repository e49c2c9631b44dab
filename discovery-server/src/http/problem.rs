//! The registry's errors as problems.

use golem_vm_node::http::ProblemResponse;
use golem_vm_protocol::{ErrorCode, Problem};

use crate::registry::PublishError;
use crate::registry::feed::StoreFailure;
use crate::registry::search::SearchError;

/// When to ask again for a place on the list.
const NO_ROOM_RETRY_SECONDS: u64 = 60;

impl From<PublishError> for ProblemResponse {
    fn from(error: PublishError) -> Self {
        let known_sequence = match &error {
            PublishError::NotNewer { known, .. } => Some(*known),
            _ => None,
        };
        let code = match error {
            PublishError::Store(failure) => return failure.into(),
            PublishError::Document(_) | PublishError::Advertisement(_) => {
                ErrorCode::DocumentInvalid
            }
            PublishError::NotTheSender { .. } => ErrorCode::Forbidden,
            PublishError::NotNewer { .. } => ErrorCode::SequenceNotNewer,
            PublishError::Endpoint(_) => ErrorCode::AddressNotYours,
            PublishError::InUse => ErrorCode::Forbidden,
            PublishError::AddressFull(_) => ErrorCode::RateLimited,
            PublishError::Full => ErrorCode::Unavailable,
        };
        // Room comes with the next expiry.
        let no_room = matches!(error, PublishError::AddressFull(_) | PublishError::Full);
        let retry_after = no_room.then_some(NO_ROOM_RETRY_SECONDS);
        let detail = golem_vm_protocol::text::printable(&error.to_string(), 500);
        Self(Box::new(Problem { known_sequence, retry_after, ..Problem::new(code, detail) }))
    }
}

impl From<StoreFailure> for ProblemResponse {
    fn from(failure: StoreFailure) -> Self {
        if failure.transient {
            tracing::error!("the store failed: {failure}");
            return Self::new(
                ErrorCode::Unavailable,
                "the registry can't store anything now; try again",
            );
        }
        Self::internal(&failure)
    }
}

impl From<SearchError> for ProblemResponse {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::BelowOne { .. } => Self::new(ErrorCode::BadRequest, error.to_string()),
            SearchError::Unreadable(errors) => Problem::validation(errors).into(),
        }
    }
}
