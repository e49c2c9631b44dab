//! Who is calling, as the owner of VMs.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use golem_vm_node::http::{Caller, ProblemResponse, VerifiedCaller};
use golem_vm_protocol::vm::Owner;

use super::ApiState;

/// The owner on whose behalf a request is made: the key that signed it, or, where this provider's
/// owner allows it, all unsigned callers together. Everybody else is refused before the handler
/// runs, with the same answer whatever stands behind the path.
pub(super) struct Renter(pub(super) Owner);

impl<S> FromRequestParts<S> for Renter
where
    ApiState: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let Ok(caller) = Caller::from_request_parts(parts, state).await;
        match caller {
            Caller::Verified(key) => Ok(Self(Owner::Key(key))),
            Caller::Anonymous if ApiState::from_ref(state).allow_unsigned => {
                Ok(Self(Owner::Unsigned))
            }
            Caller::Anonymous => Err(VerifiedCaller::required()),
        }
    }
}
