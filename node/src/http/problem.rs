//! Errors as replies: one form, wherever they come from.

use ::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, Method, StatusCode};
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use golem_vm_protocol::problem::PROBLEM_JSON;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, Problem};

use super::request_id::RequestId;

/// A [`Problem`] as the error side of a handler. Domain errors implement
/// `From<TheirError> for ProblemResponse`. Boxed, so that results stay small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemResponse(pub Box<Problem>);

impl ProblemResponse {
    /// A problem with a code and a sentence.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// "Something failed here": the caller learns only that, the log has `cause`.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!("internal error: {cause}");
        Self::new(
            ErrorCode::Internal,
            "something failed on this server; its log has the cause under this request id",
        )
    }
}

impl From<Problem> for ProblemResponse {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let mut response = render(&self.0);
        // The service adds the request id, which the handler need not know.
        response.extensions_mut().insert(*self.0);
        response
    }
}

pub(super) fn render(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    let soon = matches!(
        problem.code,
        ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::SignatureStale
    );
    if let Some(seconds) = problem.retry_after.or(soon.then_some(1)) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The problem that an error response stands for: the handler's own, or one made from what axum
/// answered by itself. `body` is what that answer said.
pub(super) fn of_error(response: &Response, body: &Bytes, method: &Method, path: &str) -> Problem {
    if let Some(own) = response.extensions().get::<Problem>() {
        return own.clone();
    }
    let path = printable(path, 200);
    let said = printable(String::from_utf8_lossy(body).trim(), 300);
    let or_said =
        |otherwise: &str| if said.is_empty() { otherwise.to_owned() } else { said.clone() };
    let (code, detail) = match response.status() {
        StatusCode::NOT_FOUND => {
            (ErrorCode::NotFound, format!("Not Found: there is nothing at {path}"))
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = response
                .headers()
                .get(ALLOW)
                .and_then(|allow| allow.to_str().ok())
                .unwrap_or("other methods");
            (ErrorCode::MethodNotAllowed, format!("{path} does not know {method}, only {allowed}"))
        }
        StatusCode::REQUEST_TIMEOUT => {
            (ErrorCode::RequestTimeout, or_said("the request took too long to arrive"))
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            (ErrorCode::PayloadTooLarge, or_said("the body is too large"))
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (
            ErrorCode::UnsupportedMediaType,
            or_said("send the body as Content-Type: application/json"),
        ),
        StatusCode::UNPROCESSABLE_ENTITY => {
            (ErrorCode::ValidationFailed, or_said("the request is not valid"))
        }
        StatusCode::UNAUTHORIZED => {
            (ErrorCode::SignatureRequired, or_said("this needs a signed request"))
        }
        StatusCode::FORBIDDEN => (ErrorCode::Forbidden, or_said("this key may not do that")),
        StatusCode::TOO_MANY_REQUESTS => {
            (ErrorCode::RateLimited, or_said("too many requests; wait and try again"))
        }
        StatusCode::SERVICE_UNAVAILABLE => (ErrorCode::Unavailable, or_said("busy; try again")),
        status if status.is_server_error() => {
            tracing::error!(%status, "a handler failed without saying how: {said}");
            (
                ErrorCode::Internal,
                "something failed on this server; its log has the cause under this request id"
                    .into(),
            )
        }
        _ => (ErrorCode::BadRequest, or_said("the request can't be read")),
    };
    // The status stays the one that axum chose, also where the code's own is another.
    Problem { status: response.status().as_u16(), ..Problem::new(code, detail) }
}

/// The whole HTTP reply to a connection for which there is no room, as it goes over the wire.
pub(super) fn too_many_connections(detail: &str) -> Vec<u8> {
    let id = RequestId::fresh();
    let problem = Problem {
        request_id: Some(id.to_string()),
        ..Problem::new(ErrorCode::Unavailable, detail)
    };
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM_JSON}\r\nx-request-id: {id}\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
