//! How often a service may be asked: by each address, before anything is computed for it, and by
//! each key, once its signature was found to be good.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use golem_vm_protocol::{ErrorCode, KeyId, Problem};

use super::gcra::{Allowance, Quota, RateLimiter};
use super::problem::ProblemResponse;
use crate::clock::Clock;

static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Addresses, and keys, that one limiter remembers: at about 150 bytes each a bound of some 5 MB.
const MAX_CALLERS: usize = 32_768;

/// What a request costs the service. Each class has quotas of its own, so that a client which has
/// looked too often can still stop its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallClass {
    /// It looks something up.
    Read,
    /// It changes something.
    Write,
    /// It takes much work or sends much: a search, a create, a port check.
    Expensive,
}

impl CallClass {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Expensive];

    /// `Read` for the methods that change nothing, else `Write`.
    #[must_use]
    pub fn of_method(method: &Method) -> Self {
        if method.is_safe() { Self::Read } else { Self::Write }
    }

    const fn plural(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Write => "writes",
            Self::Expensive => "expensive",
        }
    }
}

/// Calls per minute of each class, for each address, and again for each key; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallsPerMinute {
    /// Of [`CallClass::Read`].
    pub reads: u32,
    /// Of [`CallClass::Write`].
    pub writes: u32,
    /// Of [`CallClass::Expensive`].
    pub expensive: u32,
}

impl CallsPerMinute {
    const fn of(&self, class: CallClass) -> u32 {
        match class {
            CallClass::Read => self.reads,
            CallClass::Write => self.writes,
            CallClass::Expensive => self.expensive,
        }
    }
}

/// The limits of one service. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct RateLimits {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    classify: fn(&Method, &str) -> CallClass,
    clock: Arc<dyn Clock>,
    classes: [ClassLimits; 3],
}

#[derive(Debug)]
struct ClassLimits {
    by_address: Option<RateLimiter<IpAddr>>,
    by_key: Option<RateLimiter<KeyId>>,
}

impl RateLimits {
    /// Limits after `rates`; `classify` says what a request costs, from its method and its path.
    #[must_use]
    pub fn new(
        rates: CallsPerMinute,
        classify: fn(&Method, &str) -> CallClass,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let classes = CallClass::ALL.map(|class| {
            let quota = Quota::per_minute(rates.of(class));
            ClassLimits {
                by_address: quota.map(|quota| RateLimiter::new(quota, MAX_CALLERS)),
                by_key: quota.map(|quota| RateLimiter::new(quota, MAX_CALLERS)),
            }
        });
        Self { inner: Arc::new(Inner { classify, clock, classes }) }
    }

    pub(super) fn class(&self, method: &Method, path: &str) -> CallClass {
        (self.inner.classify)(method, path)
    }

    /// Counts a call that comes from `bucket` (see [`Peer::bucket`](super::Peer::bucket)). To be
    /// asked before anything is computed for the request.
    pub(super) fn take_address(
        &self,
        class: CallClass,
        bucket: Option<IpAddr>,
        tally: &mut Tally,
    ) -> Result<(), ProblemResponse> {
        let (Some(bucket), Some(limiter)) = (bucket, &self.limits(class).by_address) else {
            return Ok(());
        };
        let taken = limiter.take(&bucket, self.inner.clock.now_micros());
        tally.note("address", class, limiter.quota(), taken, "your address")
    }

    /// Counts a call that `key` has signed. Only to be asked once the signature was found to be
    /// good and new: otherwise anybody could use up what belongs to another key.
    pub(super) fn take_key(
        &self,
        class: CallClass,
        key: KeyId,
        tally: &mut Tally,
    ) -> Result<(), ProblemResponse> {
        let Some(limiter) = &self.limits(class).by_key else { return Ok(()) };
        let taken = limiter.take(&key, self.inner.clock.now_micros());
        tally.note("key", class, limiter.quota(), taken, "your key")
    }

    fn limits(&self, class: CallClass) -> &ClassLimits {
        &self.inner.classes[class as usize]
    }
}

/// What the limits said about one request, for the reply's headers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    policies: String,
    left: String,
}

impl Tally {
    fn note(
        &mut self,
        subject: &str,
        class: CallClass,
        quota: Quota,
        taken: Allowance,
        whose: &str,
    ) -> Result<(), ProblemResponse> {
        let (calls, window) = (quota.calls, quota.window.as_secs());
        let name = format!("{subject}-{}", class.plural());
        let join = if self.policies.is_empty() { "" } else { ", " };
        // Writing to a string can't fail.
        let _ = write!(self.policies, "{join}\"{name}\";q={calls};w={window}");
        let _ = write!(self.left, "{join}\"{name}\";r={};t={}", taken.left, taken.reset);
        if taken.allowed {
            return Ok(());
        }
        let wait = taken.reset;
        let detail = format!(
            "{whose} may ask for this {calls} times in {window} s and has done so; ask again in {wait} s"
        );
        Err(Problem { retry_after: Some(wait), ..Problem::new(ErrorCode::RateLimited, detail) }
            .into())
    }

    /// Adds `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers) to a reply.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for (name, text) in [(&RATELIMIT_POLICY, &self.policies), (&RATELIMIT, &self.left)] {
            if let Ok(value) = HeaderValue::from_str(text)
                && !text.is_empty()
            {
                headers.insert(name.clone(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ::http::{Request, StatusCode};
    use axum::Router;
    use axum::body::Body;
    use axum::response::Response;
    use axum::routing::get;
    use golem_vm_protocol::KeyPair;
    use golem_vm_protocol::signature::{Nonce, RequestParts, sign_request};

    use super::super::{HttpLimits, HttpService, Peer, Recipients, Signing, VerifiedCaller};
    use super::*;
    use crate::clock::ManualClock;

    const RATES: CallsPerMinute = CallsPerMinute { reads: 6, writes: 3, expensive: 0 };

    fn key(seed: u8) -> KeyPair {
        KeyPair::from_secret_bytes([seed; 32]).unwrap()
    }

    fn peer(address: &str) -> Peer {
        Peer::tcp(format!("{address}:4711").parse().unwrap())
    }

    struct Server {
        clock: Arc<ManualClock>,
        service: HttpService,
    }

    impl Server {
        fn start() -> Self {
            let clock = Arc::new(ManualClock::at(1000));
            let signing = Signing::new(key(1), Recipients::own_id(), clock.clone());
            clock.set(1001);
            let me = get(async |VerifiedCaller(key): VerifiedCaller| key.to_string());
            let router = Router::new().route("/", get(async || "ok")).route("/me", me);
            let rates =
                RateLimits::new(RATES, |method, _| CallClass::of_method(method), clock.clone());
            let service = HttpService::signed(router, HttpLimits::default(), Arc::new(signing));
            Self { clock, service: service.limited(rates) }
        }

        async fn get(&self, from: &str) -> Response {
            let request = Request::get("/").body(Body::empty()).unwrap();
            self.service.answer(request, peer(from)).await
        }

        /// A request in the name of `signer`; `forge` breaks the signature.
        async fn signed(&self, signer: &KeyPair, from: &str, forge: bool) -> Response {
            let parts = RequestParts::new("GET", "/me", b"");
            let (recipient, nonce) = (key(1).id().to_string(), Nonce::random().unwrap());
            let (headers, _) = sign_request(signer, &parts, &recipient, None, 1001, nonce).unwrap();
            let target = if forge { "/me?forged" } else { "/me" };
            let mut request = Request::get(target).body(Body::empty()).unwrap();
            request.headers_mut().extend(headers);
            self.service.answer(request, peer(from)).await
        }
    }

    #[tokio::test]
    async fn an_address_has_a_quota_and_is_told_about_it() {
        let server = Server::start();
        let first = server.get("192.0.2.1").await;
        assert_eq!(first.headers()["ratelimit-policy"], "\"address-reads\";q=6;w=60");
        assert_eq!(first.headers()["ratelimit"], "\"address-reads\";r=5;t=10");
        for _ in 0..5 {
            assert_eq!(server.get("192.0.2.1").await.status(), StatusCode::OK);
        }
        let refused = server.get("192.0.2.1").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()["retry-after"], "10");
        assert_eq!(refused.headers()["ratelimit"], "\"address-reads\";r=0;t=10");
        let body = axum::body::to_bytes(refused.into_body(), 10_000).await.unwrap();
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!((problem.code, problem.retry_after), (ErrorCode::RateLimited, Some(10)));
        // Others, and other kinds of calls, go on; and so does it, later.
        assert_eq!(server.get("192.0.2.2").await.status(), StatusCode::OK);
        let write = Request::post("/").body(Body::empty()).unwrap();
        let write = server.service.answer(write, peer("192.0.2.1")).await;
        assert_eq!(write.status(), StatusCode::METHOD_NOT_ALLOWED);
        server.clock.advance(10);
        assert_eq!(server.get("192.0.2.1").await.status(), StatusCode::OK);
        assert_eq!(server.get("192.0.2.1").await.status(), StatusCode::TOO_MANY_REQUESTS);
    }

    #[tokio::test]
    async fn a_subscriber_of_ipv6_is_one_address_and_this_machine_is_none() {
        let server = Server::start();
        for host in 1..=6 {
            server.get(&format!("[2001:db8::{host}]")).await;
        }
        assert_eq!(server.get("[2001:db8::7]").await.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(server.get("[2001:db8:0:1::7]").await.status(), StatusCode::OK);
        for _ in 0..20 {
            assert_eq!(server.get("127.0.0.1").await.status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn the_address_is_counted_before_the_signature_is_looked_at() {
        let server = Server::start();
        for _ in 0..6 {
            let reply = server.signed(&key(2), "192.0.2.1", true).await;
            assert_eq!(reply.status(), StatusCode::UNAUTHORIZED);
        }
        let reply = server.signed(&key(2), "192.0.2.1", true).await;
        assert_eq!(reply.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(reply.headers().contains_key("signature"), "refusals are signed as well");
    }

    #[tokio::test]
    async fn a_key_has_a_quota_that_only_its_owner_can_use_up() {
        let server = Server::start();
        // From many addresses, in the name of the key.
        for host in 1..=30 {
            let reply = server.signed(&key(2), &format!("192.0.2.{host}"), true).await;
            assert_eq!(reply.status(), StatusCode::UNAUTHORIZED);
        }
        for host in 31..=36 {
            let reply = server.signed(&key(2), &format!("192.0.2.{host}"), false).await;
            assert_eq!(reply.status(), StatusCode::OK, "nobody else has used anything of it");
        }
        let reply = server.signed(&key(2), "192.0.2.37", false).await;
        assert_eq!(reply.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            reply.headers()["ratelimit"],
            "\"address-reads\";r=5;t=10, \"key-reads\";r=0;t=10"
        );
        let other = server.signed(&key(3), "192.0.2.37", false).await;
        assert_eq!(other.status(), StatusCode::OK);
    }
}
