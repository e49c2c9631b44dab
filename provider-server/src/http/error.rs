//! Domain errors as problems.

use golem_vm_node::http::ProblemResponse;
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
            VmError::LastKey => ErrorCode::LastKey,
            VmError::Invalid(fields) => return Problem::validation(fields.clone()).into(),
            VmError::CreateFailed { code, .. } => *code,
            VmError::Backend(BackendError::Unavailable(_)) => ErrorCode::BackendUnavailable,
            VmError::Backend(_) => ErrorCode::BackendFailed,
            VmError::ShuttingDown => ErrorCode::Unavailable,
            VmError::Store(_) | VmError::Internal(_) => return Self::internal(&error),
        };
        Self::new(code, error.to_string())
    }
}
