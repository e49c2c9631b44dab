//! Errors on the wire: RFC 9457 `application/problem+json`, with codes that stay.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, in a form that programs can rely on: a code is never renamed, and its
        /// status never changes. docs/http-api.md lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
            /// A code that this version does not know: the other side is newer.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl ErrorCode {
            /// Every code of this version, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it stands in `code`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Unknown => "unknown" }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* Self::Unknown => 500 }
            }

            /// A short title, the same for every occurrence (RFC 9457, `title`).
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* Self::Unknown => "Unknown error" }
            }
        }
    };
}

codes! {
    /// The request is not HTTP or JSON that can be read.
    BadRequest = "bad_request", 400, "Bad request";
    /// The path needs a signed request.
    SignatureRequired = "signature_required", 401, "Signature required";
    /// The signature does not follow the profile or does not match.
    SignatureInvalid = "signature_invalid", 401, "Signature invalid";
    /// The request was signed too far from the server's time.
    ClockSkew = "clock_skew", 401, "Clock skew";
    /// The request was signed before the server started; sign once more.
    SignatureStale = "signature_stale", 401, "Signature stale";
    /// The request is meant for another server.
    WrongRecipient = "wrong_recipient", 401, "Wrong recipient";
    /// The same signed request was seen before.
    Replayed = "replayed", 401, "Replayed";
    /// The caller's key may not do this.
    Forbidden = "forbidden", 403, "Forbidden";
    /// The provider serves only requestors it trusts.
    NotTrusted = "not_trusted", 403, "Not a trusted requestor";
    /// A check was asked for, or an endpoint advertised at, an address that is not the caller's own.
    AddressNotYours = "address_not_yours", 403, "Not your address";
    /// There is no such path or thing.
    NotFound = "not_found", 404, "Not Found";
    /// There is no such VM, or it is not the caller's.
    VmNotFound = "vm_not_found", 404, "VM not found";
    /// There is no such operation, or it is not the caller's.
    OperationNotFound = "operation_not_found", 404, "Operation not found";
    /// There is no live advertisement of that provider.
    AdvertisementNotFound = "advertisement_not_found", 404, "Advertisement not found";
    /// The VM has no snapshot of that name.
    SnapshotNotFound = "snapshot_not_found", 404, "Snapshot not found";
    /// The path knows other methods.
    MethodNotAllowed = "method_not_allowed", 405, "Method Not Allowed";
    /// The request took too long to arrive.
    RequestTimeout = "request_timeout", 408, "Request timeout";
    /// The owner has a VM of that name already.
    NameTaken = "name_taken", 409, "Name taken";
    /// The provider has not got that much left.
    InsufficientCapacity = "insufficient_capacity", 409, "Insufficient capacity";
    /// Every access port is in use.
    PortsExhausted = "ports_exhausted", 409, "Ports exhausted";
    /// The VM's state does not allow that now.
    StateConflict = "state_conflict", 409, "State conflict";
    /// What made the VM can't do that.
    NotSupported = "not_supported", 409, "Not supported";
    /// The VM has a snapshot of that name already.
    SnapshotExists = "snapshot_exists", 409, "Snapshot exists";
    /// The VM has as many snapshots as it may have.
    TooManySnapshots = "too_many_snapshots", 409, "Too many snapshots";
    /// It would take the last SSH key from a VM.
    LastKey = "last_key", 409, "Last key";
    /// The terms are worse than those of the advertisement that was accepted.
    OfferChanged = "offer_changed", 409, "Offer changed";
    /// A newer advertisement of the same provider is known.
    SequenceNotNewer = "sequence_not_newer", 409, "Sequence not newer";
    /// The body is larger than allowed.
    PayloadTooLarge = "payload_too_large", 413, "Payload too large";
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", 415, "Unsupported media type";
    /// A field is missing or wrong; see `errors`.
    ValidationFailed = "validation_failed", 422, "Validation failed";
    /// A document is not signed by the key it speaks for, or can't be read.
    DocumentInvalid = "document_invalid", 422, "Document invalid";
    /// The provider gives no lease as long as that.
    LeaseTooLong = "lease_too_long", 422, "Lease too long";
    /// A disk is never made smaller.
    DiskCannotShrink = "disk_cannot_shrink", 422, "A disk cannot shrink";
    /// The image is not among those that the provider rents out.
    ImageNotOffered = "image_not_offered", 422, "Image not offered";
    /// The idempotency key was used before, for something else.
    IdempotencyMismatch = "idempotency_mismatch", 422, "Idempotency mismatch";
    /// Too many requests; wait.
    RateLimited = "rate_limited", 429, "Rate limited";
    /// Something failed here; the log has the request id.
    Internal = "internal", 500, "Internal error";
    /// The VM could not be made or brought up; nothing of it is left.
    CreateFailed = "create_failed", 500, "Create failed";
    /// The backend (the Docker Engine, ...) did not do what it was asked.
    BackendFailed = "backend_failed", 502, "Backend failed";
    /// Too busy, or not ready yet; try again.
    Unavailable = "unavailable", 503, "Unavailable";
    /// The backend does not answer.
    BackendUnavailable = "backend_unavailable", 503, "Backend unavailable";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Where, as a JSON pointer (RFC 6901) into the body, or `?name` for a query parameter.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl FieldError {
    /// A wrong field.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// An error body. `detail` is a sentence for a person; programs look at `code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:golem:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code's title.
    pub title: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// What happened, with which value, and what to do next.
    pub detail: String,
    /// The stable code.
    pub code: ErrorCode,
    /// Finds the request in the service's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The wrong fields, when the code is `validation_failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The highest sequence known of the provider, when the code is `sequence_not_newer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_sequence: Option<u64>,
    /// Seconds after which the same request may succeed; repeated in the header `Retry-After`, which
    /// is not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// What the server's clock says, when the code is `clock_skew`. Unlike the header `Date` it is in
    /// what is signed, so a person can be told by how much the clocks differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<Timestamp>,
}

impl Problem {
    /// A problem with a code and a sentence.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:golem:problem:{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            request_id: None,
            errors: Vec::new(),
            known_sequence: None,
            retry_after: None,
            server_time: None,
        }
    }

    /// `validation_failed` with its fields; the detail names the first.
    #[must_use]
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [] => "the request is not valid".to_owned(),
            [only] => format!("{}: {}", only.pointer, only.detail),
            [first, rest @ ..] => {
                format!("{}: {} (and {} more)", first.pointer, first.detail, rest.len())
            }
        };
        Self { errors, ..Self::new(ErrorCode::ValidationFailed, detail) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()));
            assert!((400..600).contains(&code.status()));
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), *code);
        }
        assert_eq!(
            serde_json::from_str::<ErrorCode>("\"of_tomorrow\"").unwrap(),
            ErrorCode::Unknown
        );
    }

    #[test]
    fn a_validation_problem_names_the_first_field() {
        let problem = Problem::validation(vec![
            FieldError::new("/name", "too short"),
            FieldError::new("/ssh_key", "not a key"),
        ]);
        assert_eq!(problem.status, 422);
        assert_eq!(problem.detail, "/name: too short (and 1 more)");
    }
}
