//! `/api/v1/advertisements`: publish, search, get one, withdraw.

use std::net::IpAddr;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Json, Router, middleware};
use golem_vm_node::http::{
    Caller, JsonBody, PeerAddr, ProblemResponse, QueryParams, VerifiedCaller,
};
use golem_vm_protocol::advertisement::{
    NEXT_CURSOR_HEADER, OBSERVED_ADDRESS_HEADER, UnsignedAdvertisement, Withdrawn,
};
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, FieldError, KeyId, Problem, route};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

use super::Api;
use crate::registry::search::Search;
use crate::registry::unsigned::{UnsignedId, ValidUnsigned};

/// The headers by which the original's providers name themselves.
const PROVIDER_ID: &str = "x-provider-id";
const PROVIDER_SIGNATURE: &str = "x-provider-signature";

pub(super) fn router() -> Router<Api> {
    Router::new().route(route::ADVERTISEMENTS, get(search).post(publish)).route(
        route::ADVERTISEMENT,
        get(get_one).delete(withdraw).layer(middleware::from_fn(tell_address)),
    )
}

async fn search(
    State(api): State<Api>,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Response, ProblemResponse> {
    let query = query.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let page = api.registry.search(&Search::parse(query)?);
    let mut response = json(page.body);
    if let Some(next) = page.next
        && let Ok(value) = HeaderValue::from_str(&next.encode())
    {
        response.headers_mut().insert(NEXT_CURSOR_HEADER, value);
    }
    Ok(response)
}

async fn get_one(
    State(api): State<Api>,
    Path(provider_id): Path<String>,
) -> Result<Response, ProblemResponse> {
    api.registry.get(&provider_id).map(json).ok_or_else(|| not_found(&provider_id))
}

async fn publish(
    State(api): State<Api>,
    caller: Caller,
    Extension(PeerAddr(peer)): Extension<PeerAddr>,
    request: Request,
) -> Result<Response, ProblemResponse> {
    let entry = match caller {
        Caller::Verified(key) => {
            let JsonBody(envelope) = JsonBody::<Envelope>::from_request(request, &()).await?;
            api.registry.publish(key, &envelope, peer.ip()).await?
        }
        Caller::Anonymous if api.allow_unsigned => {
            let id = claimed_id(request.headers())?;
            let JsonBody(said) =
                JsonBody::<UnsignedAdvertisement>::from_request(request, &()).await?;
            let valid = ValidUnsigned::check(said).map_err(Problem::validation)?;
            api.registry.publish_unsigned(&id, &valid, peer.ip()).await?
        }
        Caller::Anonymous => return Err(VerifiedCaller::required()),
    };
    Ok(with_address(json(entry), peer.ip()))
}

/// Tells whoever asks for an entry, found or not, from which address it asks: a provider has to
/// know its own before it can publish anything.
async fn tell_address(
    Extension(PeerAddr(peer)): Extension<PeerAddr>,
    request: Request,
    next: Next,
) -> Response {
    with_address(next.run(request).await, peer.ip())
}

fn with_address(mut response: Response, address: IpAddr) -> Response {
    if let Ok(address) = HeaderValue::from_str(&address.to_string()) {
        response.headers_mut().insert(OBSERVED_ADDRESS_HEADER, address);
    }
    response
}

async fn withdraw(
    State(api): State<Api>,
    caller: Caller,
    Extension(PeerAddr(peer)): Extension<PeerAddr>,
    Path(provider_id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Withdrawn>, ProblemResponse> {
    match caller {
        Caller::Verified(key) if key.to_string() == provider_id => {}
        Caller::Verified(_) => {
            let detail = "an advertisement is withdrawn by the key that published it, and yours is another one";
            return Err(ProblemResponse::new(ErrorCode::Forbidden, detail));
        }
        // An unsigned caller learns nothing about what belongs to a key.
        Caller::Anonymous if !api.allow_unsigned || provider_id.parse::<KeyId>().is_ok() => {
            return Err(VerifiedCaller::required());
        }
        Caller::Anonymous => {
            if claimed_id(&headers)?.as_str() != provider_id {
                let detail = "Not authorized to delete this advertisement: X-Provider-ID names another provider";
                return Err(ProblemResponse::new(ErrorCode::SignatureRequired, detail));
            }
        }
    }
    let unsigned_from = (caller == Caller::Anonymous).then_some(peer.ip());
    if api.registry.withdraw(&provider_id, unsigned_from).await? {
        Ok(Json(Withdrawn { status: "success".to_owned() }))
    } else {
        Err(not_found(&provider_id))
    }
}

/// Who an unsigned provider says it is. Like the original, this asks for something in the place of
/// a signature and does not look at it.
fn claimed_id(headers: &HeaderMap) -> Result<UnsignedId, ProblemResponse> {
    let mut missing = Vec::new();
    let mut values = [PROVIDER_ID, PROVIDER_SIGNATURE].map(|name| {
        let value = headers.get(name);
        if value.is_none() {
            missing.push(FieldError::new(format!("header:{name}"), "field required"));
        }
        value.and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
    });
    if !missing.is_empty() {
        return Err(Problem::validation(missing).into());
    }
    let [id, signature] = &mut values;
    if id.is_empty() || signature.is_empty() {
        return Err(ProblemResponse::new(
            ErrorCode::SignatureRequired,
            "Missing provider credentials",
        ));
    }
    UnsignedId::parse(id).map_err(|reason| {
        Problem::validation(vec![FieldError::new(format!("header:{PROVIDER_ID}"), reason)]).into()
    })
}

fn not_found(provider_id: &str) -> ProblemResponse {
    let detail = format!(
        "Advertisement not found: {} is not listed; it may have expired or been withdrawn",
        printable(provider_id, 128)
    );
    ProblemResponse::new(ErrorCode::AdvertisementNotFound, detail)
}

fn json(body: Bytes) -> Response {
    let mut response = Body::from(body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
