//! One exchange with a provider: a signed request, and the reply, which is believed only if that provider signed
//! it as the answer to this very request.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use golem_vm_protocol::problem::Problem;
use golem_vm_protocol::signature::{
    self, Nonce, RequestParts, RequestSignature, SignatureError, sign_request, verify_response,
};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::in_words;
use golem_vm_protocol::{ErrorCode, KeyId};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::call_error::CallError;
use super::pauses::Pauses;
use super::provider::ProviderClient;
use crate::rentals::ProviderRef;

/// Largest reply that is read, in bytes.
const MAX_REPLY: usize = 4 << 20;

/// A reply that was checked, and is no refusal.
pub(crate) struct Reply {
    pub(super) status: StatusCode,
    body: Bytes,
}

impl ProviderClient {
    /// One call. A request that was signed before the provider started is signed once more, and a
    /// provider that asks for a pause gets it, as far as the deadline allows.
    pub(super) async fn call(
        &self,
        provider: &ProviderRef,
        method: Method,
        target: &str,
        body: &[u8],
        idempotency_key: Option<&str>,
        deadline: Duration,
    ) -> Result<Reply, CallError> {
        let began = Instant::now();
        let work = async {
            let mut pauses = Pauses::new(deadline);
            loop {
                let reply = match self.once(provider, &method, target, body, idempotency_key).await
                {
                    Err(error) if error.code() == Some(ErrorCode::SignatureStale) => {
                        next_second().await;
                        self.once(provider, &method, target, body, idempotency_key).await
                    }
                    other => other,
                };
                let asked = reply.as_ref().err().and_then(CallError::asks_to_wait);
                match asked.and_then(|wait| pauses.allow(wait, began.elapsed())) {
                    Some(wait) => {
                        let (name, seconds) = (printable(&provider.name, 64), wait.as_secs());
                        self.notice.tell(&format!(
                            "provider {name} asks not to be asked so often: waiting {seconds} s"
                        ));
                        tokio::time::sleep(wait).await;
                    }
                    None => return reply,
                }
            }
        };
        timeout(deadline, work).await.unwrap_or(Err(CallError::TimedOut(deadline)))
    }

    async fn once(
        &self,
        provider: &ProviderRef,
        method: &Method,
        target: &str,
        body: &[u8],
        idempotency_key: Option<&str>,
    ) -> Result<Reply, CallError> {
        self.send(provider, method, target, body, idempotency_key).await?.whole(provider).await
    }

    /// Sends one request, and reads the head of its answer.
    pub(super) async fn send(
        &self,
        provider: &ProviderRef,
        method: &Method,
        target: &str,
        body: &[u8],
        idempotency_key: Option<&str>,
    ) -> Result<Head, CallError> {
        let connection = self
            .connector
            .api(&provider.id, &provider.endpoints)
            .await
            .map_err(CallError::Unreachable)?;
        let local = |error: &dyn std::fmt::Display| CallError::Local(error.to_string());
        let created = now_seconds();
        let nonce = Nonce::random().map_err(|error| local(&error))?;
        let (headers, signature) = sign_request(
            &self.key,
            &RequestParts::new(method.as_str(), target, body),
            &provider.id.to_string(),
            idempotency_key,
            created,
            nonce,
        )
        .map_err(|error| local(&error))?;
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, &connection.authority)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("golem/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let mut request =
            request.body(Full::new(Bytes::copy_from_slice(body))).map_err(|error| local(&error))?;
        request.headers_mut().extend(headers);

        let (mut sender, driver) = http1::handshake(TokioIo::new(connection.stream))
            .await
            .map_err(|error| CallError::Lost(error.to_string()))?;
        let mut driven = JoinSet::new();
        // What goes wrong is told to whoever reads the answer.
        driven.spawn(async move { drop(driver.await) });
        let reply = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let (parts, body) = reply.into_parts();
        Ok(Head { parts, body, signature, nonce, created, _driven: driven })
    }
}

/// An answer of which only the head was read, and nothing checked.
pub(super) struct Head {
    pub(super) parts: http::response::Parts,
    pub(super) body: Incoming,
    /// What the request was signed with, to which the answer is bound.
    pub(super) signature: RequestSignature,
    pub(super) nonce: Nonce,
    created: u64,
    /// The connection, which ends with this.
    _driven: JoinSet<()>,
}

impl Head {
    /// Reads an ordinary reply to its end, and checks it.
    pub(super) async fn whole(self, provider: &ProviderRef) -> Result<Reply, CallError> {
        let body = Limited::new(self.body, MAX_REPLY)
            .collect()
            .await
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return CallError::Malformed(format!(
                        "it is longer than {} MiB",
                        MAX_REPLY >> 20
                    ));
                }
                CallError::Lost(error.to_string())
            })?
            .to_bytes();
        let (status, headers) = (self.parts.status, &self.parts.headers);
        let signer = verify_response(status.as_u16(), headers, &body, &self.signature);
        believed(signer, status, &provider.id)?;
        judged(status, body, self.created)
    }
}

fn lost(error: &hyper::Error) -> CallError {
    if error.is_parse() {
        // Something listens there that does not speak HTTP.
        return CallError::NotTheProvider("it does not speak HTTP".to_owned());
    }
    CallError::Lost(error.to_string())
}

/// Checks that the provider `id`, and nobody else, signed a reply.
pub(super) fn believed(
    signer: Result<KeyId, SignatureError>,
    status: StatusCode,
    id: &KeyId,
) -> Result<(), CallError> {
    match signer {
        Ok(signer) if signer == *id => Ok(()),
        Ok(signer) => Err(CallError::NotTheProvider(format!(
            "the answer is signed by {}, not by {}",
            signer.short(),
            id.short()
        ))),
        Err(SignatureError::NotBound) => Err(CallError::NotTheProvider(format!(
            "the answer (HTTP {}) carries no signature",
            status.as_u16()
        ))),
        Err(error) => Err(CallError::NotTheProvider(error.to_string())),
    }
}

pub(crate) fn judged(status: StatusCode, body: Bytes, created: u64) -> Result<Reply, CallError> {
    if status.is_success() {
        return Ok(Reply { status, body });
    }
    let mut problem: Problem = serde_json::from_slice(&body).map_err(|error| {
        CallError::Malformed(format!("HTTP {} without a problem ({error})", status.as_u16()))
    })?;
    // Of the reply, only status and body are signed: the header Date says nothing.
    if problem.code == ErrorCode::ClockSkew
        && let Some(theirs) = problem.server_time
    {
        problem.detail = clocks_told(created, theirs.unix_seconds());
    }
    Err(CallError::Refused(Box::new(problem)))
}

fn clocks_told(ours: u64, theirs: u64) -> String {
    let which = if ours > theirs { "ahead of" } else { "behind" };
    format!(
        "this machine's clock is {} {which} the provider's; at most {} s are accepted",
        in_words(ours.abs_diff(theirs)),
        signature::WINDOW_SECONDS
    )
}

/// The value that a reply holds.
pub(super) fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
    serde_json::from_slice(&reply.body)
        .map_err(|error| CallError::Malformed(printable(&error.to_string(), 200)))
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Waits until the next whole second has begun.
async fn next_second() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rest = 1_000_u64.saturating_sub(u64::from(since.subsec_millis()));
    tokio::time::sleep(Duration::from_millis(rest + 20)).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clocks_are_told_with_numbers() {
        assert!(clocks_told(412, 100).contains("5 min 12 s ahead of"));
        let refused = Problem {
            server_time: Some(golem_vm_protocol::time::Timestamp::from_unix_seconds(190)),
            ..Problem::new(ErrorCode::ClockSkew, "skew")
        };
        let body = Bytes::from(serde_json::to_vec(&refused).unwrap());
        let error = judged(StatusCode::UNAUTHORIZED, body, 100).err().unwrap();
        assert!(error.to_string().contains("clock is 1 min 30 s behind the provider's"), "{error}");
    }
}
