//! One request from its first byte to its signed reply.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use golem_vm_protocol::signature::{RequestParts, RequestSignature};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, Problem};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::caller::Caller;
use super::event_stream::{Endless, StreamContext, Streams};
use super::forwarded::{TrustedProxies, names_a_client};
use super::limits::HttpLimits;
use super::opening::Opening;
use super::peer::{Peer, PeerAddr};
use super::problem::{self, ProblemResponse};
use super::rate_limits::{RateLimits, Tally};
use super::request_id::RequestId;
use super::signing::Signing;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A router with everything that stands between it and strangers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpService {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug, Clone)]
pub(super) struct Inner {
    router: Router,
    pub(super) limits: HttpLimits,
    signing: Option<Arc<Signing>>,
    rates: Option<RateLimits>,
    proxies: TrustedProxies,
    pub(super) opening: Option<Arc<dyn Opening>>,
    in_flight: Arc<Semaphore>,
    /// Handlers that are running, for a shutdown to wait for.
    pub(super) handlers: TaskTracker,
    pub(super) streams: Streams,
}

impl HttpService {
    /// A service that knows no keys: every caller is anonymous, no reply is signed. For the
    /// owner's control socket and for metrics on loopback.
    #[must_use]
    pub fn unsigned(router: Router, limits: HttpLimits) -> Self {
        Self::build(router, limits, None)
    }

    /// A service that checks signed requests and signs its replies to them.
    #[must_use]
    pub fn signed(router: Router, limits: HttpLimits, signing: Arc<Signing>) -> Self {
        Self::build(router, limits, Some(signing))
    }

    fn build(router: Router, limits: HttpLimits, signing: Option<Arc<Signing>>) -> Self {
        // The service bounds bodies itself, before axum sees them.
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        let in_flight = Arc::new(Semaphore::new(limits.max_in_flight));
        let handlers = TaskTracker::new();
        let (rates, proxies) = (None, TrustedProxies::default());
        let opening = None;
        let streams = Streams::new(limits.streams, handlers.clone());
        let inner = Inner {
            router,
            limits,
            signing,
            rates,
            proxies,
            opening,
            in_flight,
            handlers,
            streams,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same service with limits on how often it may be asked.
    #[must_use]
    pub fn limited(self, rates: RateLimits) -> Self {
        self.with(|inner| inner.rates = Some(rates))
    }

    /// The same service, which believes `proxies` whom they ask for.
    #[must_use]
    pub fn behind(self, proxies: TrustedProxies) -> Self {
        self.with(|inner| inner.proxies = proxies)
    }

    /// The same service, where each connection over TCP is judged by its first bytes before it is
    /// taken for HTTP.
    #[must_use]
    pub fn opened_by(self, opening: Arc<dyn Opening>) -> Self {
        self.with(|inner| inner.opening = Some(opening))
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    /// Answers one request from `peer`. The listener calls this; tests may.
    pub async fn answer<B>(&self, request: Request<B>, peer: Peer) -> Response
    where
        B: axum::body::HttpBody<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let id = RequestId::fresh();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        // Taken before anything can fail: a refusal is signed as well.
        let carried = match &self.inner.signing {
            Some(_) => RequestSignature::carried_by(request.headers()),
            None => None,
        };
        let span = tracing::info_span!(
            "request", id = %id, method = %printable(method.as_str(), 20), path = %printable(&path, 200), peer = %peer,
            client = tracing::field::Empty
        );
        async {
            let started = tokio::time::Instant::now();
            let mut tally = Tally::default();
            let response = self
                .dispatch(request, peer, &id, &mut tally)
                .await
                .unwrap_or_else(IntoResponse::into_response);
            let mut response = self.finish(response, &method, &path, &id, carried.as_ref()).await;
            tally.write(response.headers_mut());
            let status = response.status().as_u16();
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            if status >= 500 {
                tracing::warn!(status, millis, "answered");
            } else if method == Method::GET {
                tracing::debug!(status, millis, "answered");
            } else {
                tracing::info!(status, millis, "answered");
            }
            response
        }
        .instrument(span)
        .await
    }

    /// Finds out who asks, within the limits, and runs the handler.
    async fn dispatch<B>(
        &self,
        request: Request<B>,
        peer: Peer,
        id: &RequestId,
        tally: &mut Tally,
    ) -> Result<Response, ProblemResponse>
    where
        B: axum::body::HttpBody<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let inner = &self.inner;
        let (mut parts, body) = request.into_parts();
        let peer = self.client(peer, &parts.headers)?;
        let rates = inner.rates.as_ref();
        let rates = rates.map(|rates| (rates, rates.class(&parts.method, parts.uri.path())));
        if let Some((rates, class)) = rates {
            rates.take_address(class, peer.bucket(), tally)?;
        }
        let body = collect(body, &parts.headers, &inner.limits).await?;
        let (caller, nonce) = match &inner.signing {
            None => (Caller::Anonymous, None),
            Some(signing) => {
                let signed = RequestParts {
                    method: parts.method.as_str(),
                    path: parts.uri.path(),
                    query: parts.uri.query(),
                    body: &body,
                };
                signing.identify(&signed, &parts.headers, &peer)?
            }
        };
        if let Caller::Verified(key) = caller {
            tracing::debug!(caller = %key, "signature verified");
            if let Some((rates, class)) = rates {
                rates.take_key(class, key, tally)?;
            }
        }
        // What is passed on is a plain body of known length.
        parts.headers.remove(TRANSFER_ENCODING);
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        parts.extensions.insert(caller);
        parts.extensions.insert(id.clone());
        let signing = inner.signing.as_ref();
        parts.extensions.insert(StreamContext::new(&inner.streams, signing, caller, peer, nonce));
        match peer {
            Peer::Tcp(address) => drop(parts.extensions.insert(address)),
            Peer::Local(local) => drop(parts.extensions.insert(local)),
        }
        let request = Request::from_parts(parts, Body::from(body));

        let permit = Arc::clone(&inner.in_flight).try_acquire_owned().map_err(|_| {
            ProblemResponse::new(
                ErrorCode::Unavailable,
                "this server is handling as many requests as it can; try again",
            )
        })?;
        let router = inner.router.clone();
        let handler = async move {
            let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            drop(permit);
            response
        };
        // A task of its own: it ends neither when the client goes away nor, by panicking, the connection.
        let task = inner.handlers.spawn(handler.in_current_span());
        match tokio::time::timeout(inner.limits.handler_timeout, task).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(ProblemResponse::internal(&error)),
            Err(_) => Err(ProblemResponse::new(
                ErrorCode::Unavailable,
                format!(
                    "this took longer than {} s and goes on here; ask again for its outcome",
                    inner.limits.handler_timeout.as_secs()
                ),
            )),
        }
    }

    /// The client behind a trusted proxy; else the peer itself.
    fn client(&self, peer: Peer, headers: &HeaderMap) -> Result<Peer, ProblemResponse> {
        let Peer::Tcp(PeerAddr(address)) = peer else { return Ok(peer) };
        let proxies = &self.inner.proxies;
        if proxies.is_empty() {
            if address.ip().is_loopback() && names_a_client(headers) {
                static ONCE: std::sync::Once = std::sync::Once::new();
                ONCE.call_once(|| {
                    tracing::warn!(
                        "a proxy on this machine passes requests on, and no setting …_TRUSTED_PROXIES names it: all \
                         its clients count as {}, and limits per address do not apply to them",
                        address.ip()
                    );
                });
            }
            return Ok(peer);
        }
        let client = proxies.client(address.ip(), headers).map_err(|error| {
            tracing::info!("the trusted proxy {} can't be used: {error}", address.ip());
            ProblemResponse::new(
                ErrorCode::BadRequest,
                format!("the proxy in front of this server is not set up for it: {error}"),
            )
        })?;
        if client == address.ip().to_canonical() {
            return Ok(peer);
        }
        tracing::Span::current().record("client", tracing::field::display(client));
        Ok(Peer::tcp(SocketAddr::new(client, 0)))
    }

    /// Makes errors problems, adds the request id, and signs.
    async fn finish(
        &self,
        response: Response,
        method: &Method,
        path: &str,
        id: &RequestId,
        carried: Option<&RequestSignature>,
    ) -> Response {
        let is_error = response.status().is_client_error() || response.status().is_server_error();
        let mut response = if is_error {
            let (parts, body) = response.into_parts();
            let said = read_reply(body).await;
            let original = Response::from_parts(parts, Body::empty());
            let problem = problem::of_error(&original, &said, method, path);
            let mut rendered =
                problem::render(&Problem { request_id: Some(id.to_string()), ..problem });
            // Headers such as Allow and Retry-After stay, those about the old body go.
            for (name, value) in original.headers() {
                if !rendered.headers().contains_key(name)
                    && *name != CONTENT_LENGTH
                    && *name != TRANSFER_ENCODING
                {
                    rendered.headers_mut().insert(name.clone(), value.clone());
                }
            }
            rendered
        } else {
            response
        };
        if let Ok(value) = HeaderValue::from_str(id.as_str()) {
            response.headers_mut().insert(X_REQUEST_ID.clone(), value);
        }
        match (&self.inner.signing, carried) {
            (Some(signing), Some(carried)) => {
                let (mut parts, body) = response.into_parts();
                if parts.extensions.get::<Endless>().is_some() && method != Method::HEAD {
                    for (name, value) in signing.sign_stream(carried) {
                        parts.headers.insert(name, value);
                    }
                    return Response::from_parts(parts, body);
                }
                // The client of a HEAD sees no body, so none is what is signed.
                let body =
                    if method == Method::HEAD { Bytes::new() } else { read_reply(body).await };
                for (name, value) in signing.sign(parts.status.as_u16(), &body, carried) {
                    parts.headers.insert(name, value);
                }
                Response::from_parts(parts, Body::from(body))
            }
            _ => response,
        }
    }
}

impl Inner {
    /// Whether `peer` is a proxy that the operator trusts.
    pub(super) fn is_proxy(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Tcp(PeerAddr(address)) if self.proxies.contains(address.ip()))
    }
}

/// The whole request body, within the limits.
async fn collect<B>(
    body: B,
    headers: &HeaderMap,
    limits: &HttpLimits,
) -> Result<Bytes, ProblemResponse>
where
    B: axum::body::HttpBody<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let too_large = || {
        ProblemResponse::new(
            ErrorCode::PayloadTooLarge,
            format!("the body is larger than {} bytes", limits.max_body),
        )
    };
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limits.max_body) {
        return Err(too_large());
    }
    match tokio::time::timeout(limits.body_timeout, Limited::new(body, limits.max_body).collect())
        .await
    {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let said = printable(&error.to_string(), 200);
            Err(ProblemResponse::new(
                ErrorCode::BadRequest,
                format!("the body did not arrive whole: {said}"),
            ))
        }
        Err(_) => Err(ProblemResponse::new(
            ErrorCode::RequestTimeout,
            format!("the body did not arrive within {} s", limits.body_timeout.as_secs_f32()),
        )),
    }
}

/// The whole body of one of our own replies.
async fn read_reply(body: Body) -> Bytes {
    match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            tracing::error!("a reply could not be read: {error}");
            Bytes::new()
        }
    }
}
