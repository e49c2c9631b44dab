//! Outbound signed HTTP: each request signed for one recipient, each reply checked against it.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::body::Bytes;
use golem_vm_protocol::signature::{
    Nonce, RequestParts, SignatureError, claims_to_stream, sign_request, verify_response,
};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, KeyId, KeyPair, Problem};
use reqwest::Url;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Clock;

/// Largest reply that is read, in bytes, unless [`SignedClient::with_max_body`] says otherwise.
const MAX_BODY: usize = 8 << 20;
/// Time for a connection to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections are dropped before the servers drop them (15 s), so that no request meets a
/// connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often one call waits for a server that was asked too often.
const MAX_WAITS: u32 = 3;
/// Time that has to be left for asking again.
const LEAST_LEFT: Duration = Duration::from_secs(1);
/// Time for a whole call, unless it says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call has no reply that can be believed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one of ours.
    #[error("{url} is no usable address: {reason}; write http://host:port")]
    BadUrl {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("can't reach {url}: {reason}")]
    Unreachable {
        /// Whom.
        url: String,
        /// What happened.
        reason: String,
    },
    /// No complete reply in time.
    #[error("{url} did not answer within {} s", after.as_secs_f32())]
    TimedOut {
        /// Who.
        url: String,
        /// The deadline.
        after: Duration,
    },
    /// The reply is larger than allowed.
    #[error("the reply of {url} is larger than {max} bytes")]
    TooLarge {
        /// Whose.
        url: String,
        /// The bound.
        max: usize,
    },
    /// The reply is not signed, or not for this request: something between, or another program, answered.
    #[error("the reply of {url} (status {status}) can't be trusted: {source}")]
    Unsigned {
        /// Whose.
        url: String,
        /// The status it claims.
        status: u16,
        /// What is wrong with its signature.
        source: SignatureError,
    },
    /// Another party answered.
    #[error("{url} answered with the key {got}, expected {expected}: this is another machine")]
    WrongSigner {
        /// Whose.
        url: String,
        /// Who should have answered.
        expected: KeyId,
        /// Who did.
        got: KeyId,
    },
    /// The server refused, and said why.
    #[error("{url} refused: {} ({})", printable(&problem.detail, 1000), problem.code)]
    Refused {
        /// Who.
        url: String,
        /// Its words.
        problem: Box<Problem>,
    },
    /// The reply is not what this version understands.
    #[error("{url} answered something that can't be understood: {reason}")]
    Unreadable {
        /// Whose.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The request can't be made at all.
    #[error("can't make the request: {0}")]
    Request(String),
}

impl ClientError {
    /// The server's own error code, if it was the server that refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            // A server without room for one more connection, or a proxy without its server, says
            // so before it has seen the signature.
            Self::Unsigned { status, .. } => matches!(status, 429 | 502..=504),
            Self::Refused { problem, .. } => problem.status >= 500 || problem.status == 429,
            _ => false,
        }
    }
}

/// Whom to call: an address, the recipient to sign for, and whose key has to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    base: Url,
    recipient: String,
    signer: Option<KeyId>,
}

impl Target {
    /// A public service by its address alone (discovery, a port checker): signed for the
    /// `host:port` in it. Its key is learned from the reply, unless [`Target::expecting`] one.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`].
    pub fn service(base: &str) -> Result<Self, ClientError> {
        let base = parse_base(base)?;
        let host = base.host_str().unwrap_or_default().to_ascii_lowercase();
        let recipient = format!("{host}:{}", base.port_or_known_default().unwrap_or(80));
        Ok(Self { base, recipient, signer: None })
    }

    /// A party known by its key (a provider), at some address: signed for its id, and only its key
    /// may answer.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`].
    pub fn key(base: &str, id: KeyId) -> Result<Self, ClientError> {
        Ok(Self { base: parse_base(base)?, recipient: id.to_string(), signer: Some(id) })
    }

    /// The same target, with only `id` accepted as the signer of replies.
    #[must_use]
    pub const fn expecting(mut self, id: KeyId) -> Self {
        self.signer = Some(id);
        self
    }

    /// The address, for messages.
    #[must_use]
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    fn join(&self, path_and_query: &str) -> Result<Url, ClientError> {
        join(&self.base, path_and_query)
    }
}

fn parse_base(text: &str) -> Result<Url, ClientError> {
    let bad =
        |reason: &str| ClientError::BadUrl { url: printable(text, 200), reason: reason.to_owned() };
    let url = Url::parse(text.trim()).map_err(|e| bad(&e.to_string()))?;
    if url.scheme() != "http" {
        return Err(bad("only http:// is spoken; what must not be altered is signed"));
    }
    if !url.has_host() {
        return Err(bad("it has no host"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(bad("it has more than host, port and path"));
    }
    Ok(url)
}

fn join(base: &Url, path_and_query: &str) -> Result<Url, ClientError> {
    let text = format!("{}{path_and_query}", base.as_str().trim_end_matches('/'));
    Url::parse(&text)
        .map_err(|e| ClientError::BadUrl { url: printable(&text, 200), reason: e.to_string() })
}

/// One call, without its target.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Vec<u8>,
    idempotency_key: Option<&'a str>,
    timeout: Duration,
    headers: Vec<(&'static str, String)>,
}

impl<'a> Call<'a> {
    /// A call of `path`, which begins with `/` and may have a query, without a body.
    #[must_use]
    pub const fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            body: Vec::new(),
            idempotency_key: None,
            timeout: CALL_TIMEOUT,
            headers: Vec::new(),
        }
    }

    /// A GET.
    #[must_use]
    pub const fn get(path: &'a str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A POST of `body` as JSON.
    ///
    /// # Errors
    /// [`ClientError::Request`] when `body` can't be written as JSON.
    pub fn post(path: &'a str, body: &impl Serialize) -> Result<Self, ClientError> {
        Self::new(Method::POST, path).json(body)
    }

    /// The same call with `body` as JSON.
    ///
    /// # Errors
    /// [`ClientError::Request`] when `body` can't be written as JSON.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        self.body = serde_json::to_vec(body).map_err(|e| ClientError::Request(e.to_string()))?;
        Ok(self)
    }

    /// The same call with an `Idempotency-Key`, which is signed too.
    #[must_use]
    pub const fn idempotency_key(mut self, key: &'a str) -> Self {
        self.idempotency_key = Some(key);
        self
    }

    /// The same call with another deadline for everything: connecting, asking, reading the reply.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The path and query.
    #[must_use]
    pub const fn path(&self) -> &str {
        self.path
    }

    /// The same call with another header, which is not signed.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A reply, whatever its status.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The address that was called, for messages.
    pub url: String,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

impl Reply {
    /// The body as `T`, if the status is a success.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's problem for any other status,
    /// [`ClientError::Unreadable`] when the body is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        self.ok()?;
        serde_json::from_slice(&self.body).map_err(|e| ClientError::Unreadable {
            url: self.url.clone(),
            reason: printable(&e.to_string(), 300),
        })
    }

    /// Nothing, if the status is a success.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub fn ok(&self) -> Result<(), ClientError> {
        if self.status.is_success() {
            return Ok(());
        }
        Err(ClientError::Refused { url: self.url.clone(), problem: Box::new(self.problem()) })
    }

    /// For how long the server wants to be left alone: `retry_after`, or `Retry-After`, of a 429.
    #[must_use]
    pub fn asks_to_wait(&self) -> Option<Duration> {
        if self.status != StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
        let header = || self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok();
        let seconds = self.problem().retry_after.or_else(header).unwrap_or(1);
        Some(Duration::from_secs(seconds.max(1)))
    }

    /// What the server says is wrong: its problem, or the `detail` of one of the original's
    /// errors, or its words.
    #[must_use]
    pub fn problem(&self) -> Problem {
        // By its form and not by its Content-Type, which is not signed.
        if let Ok(problem) = serde_json::from_slice::<Problem>(&self.body) {
            // What decides is the status that was signed, not the one that was written down.
            return Problem { status: self.status.as_u16(), ..problem };
        }
        let said = serde_json::from_slice::<serde_json::Value>(&self.body).ok().and_then(|value| {
            let detail = value.get("detail")?;
            let text = detail.as_str().map(str::to_owned);
            text.or_else(|| Some(detail.get("message")?.as_str()?.to_owned()))
                .or_else(|| Some(detail.to_string()))
        });
        let said = said.unwrap_or_else(|| String::from_utf8_lossy(&self.body).trim().to_owned());
        let detail = if said.is_empty() { self.status.to_string() } else { printable(&said, 500) };
        Problem { status: self.status.as_u16(), ..Problem::new(ErrorCode::Unknown, detail) }
    }
}

/// A reply and who signed it.
#[derive(Debug, Clone)]
pub struct SignedReply {
    /// Whose key signed it.
    pub signer: KeyId,
    /// The reply.
    pub reply: Reply,
}

/// Calls other parties in the name of one key. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct SignedClient {
    http: reqwest::Client,
    key: KeyPair,
    clock: Arc<dyn Clock>,
    max_body: usize,
}

impl SignedClient {
    /// A client for `key`. No proxy is used and no redirect followed: a signed request is for one
    /// recipient.
    ///
    /// # Errors
    /// [`ClientError::Request`] when the operating system refuses what it needs.
    pub fn new(key: KeyPair, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let http = builder().build().map_err(|e| ClientError::Request(root_cause(&e)))?;
        Ok(Self { http, key, clock, max_body: MAX_BODY })
    }

    /// The same client with another bound on replies, in bytes.
    #[must_use]
    pub const fn with_max_body(mut self, max: usize) -> Self {
        self.max_body = max;
        self
    }

    /// The id that signs the requests.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.key.id()
    }

    /// Sends a signed request and checks the reply's signature. A server that has just started
    /// refuses what was signed in the same second; that is signed and sent once more, a second later.
    /// One that asks to be left alone for a while (429) is, as long as the call's deadline allows.
    ///
    /// # Errors
    /// [`ClientError`]; a reply with an error status is no error here, see [`Reply::json`].
    pub async fn call(&self, target: &Target, call: &Call<'_>) -> Result<SignedReply, ClientError> {
        let began = tokio::time::Instant::now();
        let mut waits = 0;
        loop {
            let left = call.timeout.saturating_sub(began.elapsed());
            let reply = self.call_unless_stale(target, &call.clone().timeout(left)).await?;
            let left = call.timeout.saturating_sub(began.elapsed());
            match reply.reply.asks_to_wait() {
                Some(wait) if waits < MAX_WAITS && wait.saturating_add(LEAST_LEFT) <= left => {
                    waits += 1;
                    let (url, seconds) = (target.url(), wait.as_secs());
                    tracing::info!("{url} is asked too often; asking again in {seconds} s");
                    tokio::time::sleep(wait).await;
                }
                _ => return Ok(reply),
            }
        }
    }

    async fn call_unless_stale(
        &self,
        target: &Target,
        call: &Call<'_>,
    ) -> Result<SignedReply, ClientError> {
        let reply = self.call_once(target, call).await?;
        let stale = reply.reply.status == StatusCode::UNAUTHORIZED
            && reply.reply.problem().code == ErrorCode::SignatureStale;
        if !stale {
            return Ok(reply);
        }
        let into_second = Duration::from_micros(self.clock.now_micros() % 1_000_000);
        // A little more than to the next full second: sleeping may end early by the clock's grain.
        tokio::time::sleep(Duration::from_millis(1010).saturating_sub(into_second)).await;
        self.call_once(target, call).await
    }

    async fn call_once(
        &self,
        target: &Target,
        call: &Call<'_>,
    ) -> Result<SignedReply, ClientError> {
        let url = target.join(call.path)?;
        // As it goes over the wire: the URL parser may have escaped characters.
        let parts = RequestParts {
            method: call.method.as_str(),
            path: url.path(),
            query: url.query(),
            body: &call.body,
        };
        let nonce =
            Nonce::random().map_err(|e| ClientError::Request(format!("no random bytes: {e}")))?;
        let (headers, signature) = sign_request(
            &self.key,
            &parts,
            &target.recipient,
            call.idempotency_key,
            self.clock.now(),
            nonce,
        )
        .map_err(|e| ClientError::Request(e.to_string()))?;
        let reply = send(&self.http, target.url(), url, call, headers, self.max_body).await?;
        let signer =
            verify_response(reply.status.as_u16(), &reply.headers, &reply.body, &signature)
                .map_err(|source| ClientError::Unsigned {
                    url: reply.url.clone(),
                    status: reply.status.as_u16(),
                    source,
                })?;
        match target.signer {
            Some(expected) if expected != signer => {
                Err(ClientError::WrongSigner { url: reply.url, expected, got: signer })
            }
            _ => Ok(SignedReply { signer, reply }),
        }
    }

    /// Sends an unsigned request and believes whatever answers: for public pages such as
    /// `/health`, and for programs of the original, which know no signatures.
    ///
    /// # Errors
    /// [`ClientError`]; a reply with an error status is no error here, see [`Reply::json`].
    pub async fn call_unsigned(&self, base: &str, call: &Call<'_>) -> Result<Reply, ClientError> {
        let base = parse_base(base)?;
        let url = join(&base, call.path)?;
        let mut headers = Vec::new();
        if let Some(key) = call.idempotency_key {
            let value =
                HeaderValue::from_str(key).map_err(|e| ClientError::Request(e.to_string()))?;
            headers.push((golem_vm_protocol::signature::IDEMPOTENCY_KEY.clone(), value));
        }
        send(&self.http, base.as_str().trim_end_matches('/'), url, call, headers, self.max_body)
            .await
    }
}

pub(crate) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("golem-vm/", env!("CARGO_PKG_VERSION")))
}

pub(crate) async fn send(
    http: &reqwest::Client,
    shown: &str,
    url: Url,
    call: &Call<'_>,
    headers: Vec<(::http::HeaderName, HeaderValue)>,
    max_body: usize,
) -> Result<Reply, ClientError> {
    let failed = |error: reqwest::Error| {
        if error.is_timeout() && !error.is_connect() {
            ClientError::TimedOut { url: shown.to_owned(), after: call.timeout }
        } else {
            ClientError::Unreachable { url: shown.to_owned(), reason: root_cause(&error) }
        }
    };
    let mut request = http.request(call.method.clone(), url).timeout(call.timeout);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    for (name, value) in &call.headers {
        request = request.header(*name, value);
    }
    if !call.body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json").body(call.body.clone());
    }
    let mut response = request.send().await.map_err(failed)?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    if claims_to_stream(&headers) {
        let reason = "it is a stream, which was not asked for".to_owned();
        return Err(ClientError::Unreadable { url: shown.to_owned(), reason });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > max_body {
            return Err(ClientError::TooLarge { url: shown.to_owned(), max: max_body });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { url: shown.to_owned(), status, headers, body: body.into() })
}

/// The innermost cause: "Connection refused" and not three layers of "error sending request".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    printable(&cause.to_string(), 300)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_service_is_signed_for_by_host_and_port() {
        let recipient = |base: &str| Target::service(base).unwrap().recipient;
        assert_eq!(recipient("http://Disco.Example"), "disco.example:80");
        assert_eq!(recipient("http://disco.example:9001/"), "disco.example:9001");
        assert_eq!(recipient("http://[::1]:9001"), "[::1]:9001");
    }

    #[test]
    fn other_addresses_are_refused_with_the_reason() {
        for bad in [
            "",
            "localhost:9001",
            "https://a",
            "http://",
            "http://u:p@a",
            "http://a?b",
            "http://a#c",
        ] {
            assert!(matches!(Target::service(bad), Err(ClientError::BadUrl { .. })), "{bad}");
        }
    }

    fn reply(status: u16, media_type: &'static str, body: &'static str) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        let status = StatusCode::from_u16(status).unwrap();
        Reply { url: "http://a".into(), status, headers, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn errors_of_all_dialects_are_read() {
        let detail = |status, media_type, body| reply(status, media_type, body).problem().detail;
        assert_eq!(detail(404, "application/json", r#"{"detail":"Not Found"}"#), "Not Found");
        assert_eq!(
            detail(404, "application/json", r#"{"detail":{"code":"ADV_004","message":"gone"}}"#),
            "gone"
        );
        assert_eq!(detail(422, "application/json", r#"{"detail":[1]}"#), "[1]");
        assert_eq!(
            detail(503, "text/plain", "Service Unavailable\x1b"),
            "Service Unavailable\u{fffd}"
        );
        assert_eq!(detail(500, "text/plain", ""), "500 Internal Server Error");
        let own = serde_json::to_vec(&Problem::new(ErrorCode::NameTaken, "taken")).unwrap();
        let own = Reply { body: own.into(), ..reply(409, "text/html", "") };
        assert_eq!(own.ok().unwrap_err().code(), Some(ErrorCode::NameTaken));
        assert_eq!(
            own.json::<()>().unwrap_err().to_string(),
            "http://a refused: taken (name_taken)"
        );
        assert!(!own.ok().unwrap_err().is_transient());
    }
}
