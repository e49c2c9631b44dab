//! Domain errors as problems.

use golem_vm_node::http::ProblemResponse;
use golem_vm_node::sqlite::FailureKind;
use golem_vm_node::store::StoreError;
use golem_vm_protocol::{ErrorCode, Problem};

use crate::backend::BackendError;
use crate::vm::VmError;

impl From<VmError> for ProblemResponse {
    fn from(error: VmError) -> Self {
        let code = match &error {
            VmError::NotFound(_) => ErrorCode::VmNotFound,
            VmError::OperationNotFound => ErrorCode::OperationNotFound,
            VmError::NameTaken(_) => ErrorCode::NameTaken,
            VmError::InsufficientCapacity(_) => ErrorCode::InsufficientCapacity,
            VmError::PortsExhausted => ErrorCode::PortsExhausted,
            VmError::ImageNotOffered { .. } => ErrorCode::ImageNotOffered,
            VmError::IdempotencyMismatch => ErrorCode::IdempotencyMismatch,
            VmError::OfferChanged(_) => ErrorCode::OfferChanged,
            VmError::NotTrusted(_) => ErrorCode::NotTrusted,
            VmError::Conflict { .. } => ErrorCode::StateConflict,
            VmError::NotSupported { .. } => ErrorCode::NotSupported,
            VmError::SnapshotExists { .. } => ErrorCode::SnapshotExists,
            VmError::SnapshotNotFound { .. } => ErrorCode::SnapshotNotFound,
            VmError::TooManySnapshots(_) => ErrorCode::TooManySnapshots,
            VmError::DiskCannotShrink { .. } => ErrorCode::DiskCannotShrink,
            VmError::LeaseTooLong { .. } => ErrorCode::LeaseTooLong,
            VmError::LastKey => ErrorCode::LastKey,
            VmError::Invalid(fields) => return Problem::validation(fields.clone()).into(),
            VmError::CreateFailed { code, .. } => *code,
            VmError::Backend(BackendError::Unavailable(_)) => ErrorCode::BackendUnavailable,
            VmError::Backend(_) => ErrorCode::BackendFailed,
            VmError::ShuttingDown | VmError::NoUsablePort => ErrorCode::Unavailable,
            VmError::Store(failure) => return of_store(failure),
            VmError::Internal(_) => return Self::internal(&error),
        };
        Self::new(code, error.to_string())
    }
}

/// The caller can do nothing about the provider's disk, and need not know its paths; that nothing was
/// changed, and that another provider may do it, is of use.
fn of_store(failure: &StoreError) -> ProblemResponse {
    let why = match failure {
        StoreError::Closed => "it is shutting down",
        StoreError::Database { kind, .. } => match kind {
            FailureKind::DiskFull => "its disk is full",
            FailureKind::Locked => "another program holds its database",
            FailureKind::Damaged => "its database is damaged",
            FailureKind::Access => "it may not write to its database",
            FailureKind::Constraint | FailureKind::Other => {
                return ProblemResponse::internal(failure);
            }
        },
        StoreError::Panicked(_) => return ProblemResponse::internal(failure),
    };
    tracing::error!("a request was refused: {failure}");
    ProblemResponse::new(
        ErrorCode::Unavailable,
        format!(
            "the provider can't do this now: {why}. Nothing was changed; try again later, or another provider"
        ),
    )
}
