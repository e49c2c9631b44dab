//! Who asks: a key that signed the request, or nobody in particular.

use std::convert::Infallible;

use ::http::request::Parts;
use axum::extract::FromRequestParts;
use golem_vm_protocol::{ErrorCode, KeyId};

use super::problem::ProblemResponse;

/// The caller of a request, as far as it is known. Only the service makes the verified kind, so a
/// handler that takes one can't be reached by a claim. A request with a bad signature reaches no
/// handler at all: it does not count as unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The request carries a good signature of this key, meant for this server, fresh, not seen before.
    Verified(KeyId),
    /// The request carries no signature.
    Anonymous,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self::Anonymous))
    }
}

/// A caller that signed. As a handler's argument it makes the path answer 401
/// `signature_required` to everybody else, with the same words whatever stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedCaller(pub KeyId);

impl<S: Sync> FromRequestParts<S> for VerifiedCaller {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        match parts.extensions.get::<Caller>() {
            Some(Caller::Verified(key)) => Ok(Self(*key)),
            _ => Err(Self::required()),
        }
    }
}

impl VerifiedCaller {
    /// The answer to an unsigned request where a signed one is needed.
    #[must_use]
    pub fn required() -> ProblemResponse {
        ProblemResponse::new(
            ErrorCode::SignatureRequired,
            "this needs a signed request (HTTP Message Signatures, profile golem-v1); \
             the programs of VM on Golem sign by themselves",
        )
    }
}
