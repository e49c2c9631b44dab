//! Calls to a provider: signed requests, and replies that are believed only if that provider
//! signed them as the answer to this very request.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use golem_vm_protocol::advertisement::Endpoint;
use golem_vm_protocol::problem::Problem;
use golem_vm_protocol::signature::{
    self, Nonce, RequestParts, RequestSignature, SignatureError, sign_request, verify_response,
};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::in_words;
use golem_vm_protocol::vm::{
    ChangeVmKeys, ExtendLease, Operation, OperationAccepted, UndeleteVm, Vm, VmAccess, VmEvents,
    VmId, VmKeys, VmStats,
};
use golem_vm_protocol::{ErrorCode, KeyId, KeyPair, VmRef, route};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use super::call_error::CallError;
use super::connector::Connector;
use super::pauses::{Notice, Pauses};
use crate::rentals::ProviderRef;

/// Largest reply that is read, in bytes.
const MAX_REPLY: usize = 4 << 20;
/// For questions.
pub const ASK: Duration = Duration::from_secs(20);
/// For what takes the provider a while: start, stop.
pub const ACT: Duration = Duration::from_secs(150);
/// For destroying, which a provider carries to its end also if nobody waits.
pub const DESTROY: Duration = Duration::from_secs(60);

/// What a create request led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It is being made.
    Accepted(OperationAccepted),
    /// It is there.
    Ready(Box<Vm>),
}

/// Where a VM's SSH answers, if it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// There.
    Ready(Box<VmAccess>),
    /// Not up yet.
    Pending,
}

/// Makes calls as one requestor.
#[derive(Debug, Clone)]
pub struct ProviderClient {
    key: KeyPair,
    connector: Connector,
    notice: Notice,
}

pub(crate) struct Reply {
    status: StatusCode,
    body: Bytes,
}

impl ProviderClient {
    /// As the owner of `key`; what a person has to wait for is told to `notice`.
    #[must_use]
    pub const fn new(key: KeyPair, connector: Connector, notice: Notice) -> Self {
        Self { key, connector, notice }
    }

    /// How streams are opened.
    #[must_use]
    pub const fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Asks for a VM; `body` is sent as it is, so that the same one can be sent again.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn create(
        &self,
        provider: &ProviderRef,
        body: &str,
        idempotency_key: &str,
    ) -> Result<Created, CallError> {
        let target = format!("{}?async=true", route::VMS);
        let reply = self
            .call(provider, Method::POST, &target, body.as_bytes(), Some(idempotency_key), ASK * 2)
            .await?;
        if reply.status == StatusCode::ACCEPTED {
            parse(&reply).map(Created::Accepted)
        } else {
            parse(&reply).map(|vm| Created::Ready(Box::new(vm)))
        }
    }

    /// How far an operation is.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn operation(
        &self,
        provider: &ProviderRef,
        id: &str,
    ) -> Result<Operation, CallError> {
        parse(&self.get(provider, &route::vm_operation(id), ASK).await?)
    }

    /// All VMs of this requestor on the provider. What a newer version calls something else is
    /// left out.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list(
        &self,
        provider: &ProviderRef,
        deadline: Duration,
    ) -> Result<Vec<Vm>, CallError> {
        let values: Vec<serde_json::Value> =
            parse(&self.get(provider, route::VMS, deadline).await?)?;
        Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
    }

    /// One VM.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn vm(&self, provider: &ProviderRef, vm: &VmRef) -> Result<Vm, CallError> {
        parse(&self.get(provider, &route::vm(vm), ASK).await?)
    }

    /// Where its SSH answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn access(&self, provider: &ProviderRef, vm: &VmRef) -> Result<Access, CallError> {
        let reply = self.get(provider, &route::vm_access(vm), ASK).await?;
        if reply.status == StatusCode::ACCEPTED {
            return Ok(Access::Pending);
        }
        parse(&reply).map(|access| Access::Ready(Box::new(access)))
    }

    /// What it uses now.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn stats(&self, provider: &ProviderRef, vm: &VmRef) -> Result<VmStats, CallError> {
        parse(&self.get(provider, &route::vm_stats(vm), ASK).await?)
    }

    /// Which SSH keys may log in to it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn keys(&self, provider: &ProviderRef, vm: &VmRef) -> Result<VmKeys, CallError> {
        parse(&self.get(provider, &route::vm_keys(vm), ASK).await?)
    }

    /// Changes which SSH keys may log in to it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn change_keys(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        change: &ChangeVmKeys,
    ) -> Result<VmKeys, CallError> {
        self.post(provider, &route::vm_keys(vm), change).await
    }

    /// Starts, stops or restarts: a POST without a body to a path under the VM.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn change(&self, provider: &ProviderRef, target: &str) -> Result<(), CallError> {
        self.call(provider, Method::POST, target, b"", None, ACT).await.map(|_| ())
    }

    /// Destroys a VM.
    ///
    /// # Errors
    /// [`CallError`]; that there is no such VM is one of them.
    pub async fn destroy(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        deadline: Duration,
    ) -> Result<(), CallError> {
        self.call(provider, Method::DELETE, &route::vm(vm), b"", None, deadline).await.map(|_| ())
    }

    /// Gives a VM up the soft way: it is stopped, and kept until its lease's `erased_at`. `None` when the
    /// provider destroyed it at once.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn give_up(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
    ) -> Result<Option<Vm>, CallError> {
        let target = format!("{}?keep=true", route::vm(vm));
        parse(&self.call(provider, Method::DELETE, &target, b"", None, ACT).await?)
    }

    /// Makes a VM's lease end at that moment, if that is later than now's end.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn extend(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        to: &ExtendLease,
    ) -> Result<Vm, CallError> {
        self.post(provider, &route::vm_extend(vm), to).await
    }

    /// Has a VM back that is only kept.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn undelete(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        wanted: &UndeleteVm,
    ) -> Result<Vm, CallError> {
        self.post(provider, &route::vm_undelete(vm), wanted).await
    }

    /// What happened to a VM, from the event after number `after` on, at most `limit` events.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn events(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        after: u64,
        limit: u32,
    ) -> Result<VmEvents, CallError> {
        let target = format!("{}?after={after}&limit={limit}", route::vm_events(vm));
        parse(&self.get(provider, &target, ASK).await?)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        provider: &ProviderRef,
        target: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::Local(error.to_string()))?;
        parse(&self.call(provider, Method::POST, target, &body, None, ASK * 4).await?)
    }

    async fn get(
        &self,
        provider: &ProviderRef,
        target: &str,
        deadline: Duration,
    ) -> Result<Reply, CallError> {
        self.call(provider, Method::GET, target, b"", None, deadline).await
    }

    /// One call. A request that was signed before the provider started is signed once more, and a
    /// provider that asks for a pause gets it, as far as the deadline allows.
    async fn call(
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

fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, CallError> {
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

/// The provider's word on a VM's id.
///
/// # Errors
/// [`CallError::Malformed`] when it is none.
pub fn vm_id(text: &str) -> Result<VmId, CallError> {
    text.parse().map_err(|_| {
        CallError::Malformed(format!("'{}' is not the id of a VM", printable(text, 64)))
    })
}

/// Whether two lists lead to the same places.
#[must_use]
pub fn same_endpoints(a: &[Endpoint], b: &[Endpoint]) -> bool {
    a.iter().filter(|e| **e != Endpoint::Unknown).eq(b.iter().filter(|e| **e != Endpoint::Unknown))
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
