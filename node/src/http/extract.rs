//! Reading JSON bodies and query strings, with errors that say which field.

use ::http::header::CONTENT_TYPE;
use ::http::request::Parts;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, FieldError, Problem};
use serde::de::DeserializeOwned;

use super::json_words::field_error;
use super::problem::ProblemResponse;

/// A JSON body. Anything that is not `application/json` is 415, what is no JSON 400, and JSON that
/// does not fit 422.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ProblemResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemResponse> {
        let media_type =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let essence = media_type.split(';').next().unwrap_or("").trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let sent =
                if essence.is_empty() { "nothing".to_owned() } else { printable(essence, 80) };
            let detail =
                format!("send the body as Content-Type: application/json (it says {sent})");
            return Err(ProblemResponse::new(ErrorCode::UnsupportedMediaType, detail));
        }
        // The service has read the body already; it is within its limit.
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|e| {
            ProblemResponse::new(ErrorCode::BadRequest, printable(&e.body_text(), 300))
        })?;
        parse_json(&bytes).map(Self)
    }
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProblemResponse> {
    let no_json = |error: &serde_json::Error| {
        let said = printable(&error.to_string(), 300);
        ProblemResponse::new(ErrorCode::BadRequest, format!("the body is no JSON: {said}"))
    };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let said = error.inner();
        if said.is_data() {
            let field = field_error(error.path(), &said.to_string());
            Problem::validation(vec![field]).into()
        } else {
            no_json(said)
        }
    })?;
    reader.end().map_err(|error| no_json(&error))?;
    Ok(value)
}

/// The query string as a struct; what does not fit is 422.
#[derive(Debug, Clone)]
pub struct QueryParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let said = printable(&rejection.body_text(), 300);
                let said =
                    said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
                // "name: what is wrong" where the parser knows the name.
                let (pointer, detail) = match said.split_once(": ") {
                    Some((name, rest)) if !name.contains(' ') => (format!("?{name}"), rest),
                    _ => ("?".to_owned(), said),
                };
                let detail = match detail {
                    "invalid digit found in string" => "has to be a whole number",
                    other => other,
                };
                Err(Problem::validation(vec![FieldError::new(pointer, detail)]).into())
            }
        }
    }
}
