//! Requests as raw bytes, with any method, signed or not, good or not.

use std::time::{SystemTime, UNIX_EPOCH};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use golem_vm_protocol::signature::{
    Nonce, RequestParts, RequestSignature, sign_request, verify_response, verify_stream,
};
use golem_vm_protocol::{ErrorCode, KeyPair, Problem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Provider;

/// The methods that are tried on every path.
pub(crate) const METHODS: [&str; 11] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
    "destroy",
];

/// A request that is about to be sent.
pub(crate) struct Sent<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) body: &'a str,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) signature: Option<RequestSignature>,
    pub(crate) nonce: Option<Nonce>,
}

impl<'a> Sent<'a> {
    pub(crate) fn unsigned(method: &'a str, target: &'a str, body: &'a str) -> Self {
        Self { method, target, body, headers: Vec::new(), signature: None, nonce: None }
    }

    pub(crate) fn signed(
        key: &KeyPair,
        provider: &Provider,
        method: &'a str,
        target: &'a str,
        body: &'a str,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let parts = RequestParts::new(method, target, body.as_bytes());
        let recipient = provider.id.to_string();
        let nonce = Nonce::random().unwrap();
        let (headers, signature) = sign_request(key, &parts, &recipient, None, now, nonce).unwrap();
        let signature = Some(signature);
        Self { method, target, body, headers, signature, nonce: Some(nonce) }
    }

    /// Sends it on a connection of its own. A reply to what was signed has to be signed by the provider.
    pub(crate) async fn to(&self, provider: &Provider) -> Got {
        let got = Got::parse(&self.whole(provider, "HTTP/1.1").await);
        if let Some(signature) = &self.signature {
            let signer = verify_response(got.status, &got.headers, got.body.as_bytes(), signature);
            assert_eq!(signer, Ok(provider.id), "{} {}: {got:?}", self.method, self.target);
        }
        got
    }

    /// Sends it, and reads the stream that is the answer to its end.
    pub(crate) async fn streamed(&self, provider: &Provider) -> Got {
        // In the old HTTP a body is not cut into pieces.
        let got = Got::parse(&self.whole(provider, "HTTP/1.0").await);
        if let Some(signature) = &self.signature {
            let signer = verify_stream(got.status, &got.headers, signature);
            assert_eq!(signer, Ok(provider.id), "{} {}: {got:?}", self.method, self.target);
        }
        got
    }

    async fn whole(&self, provider: &Provider, version: &str) -> Vec<u8> {
        let address = provider.url.strip_prefix("http://").unwrap();
        let mut text = format!("{} {} {version}\r\nhost: x\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        if !self.body.is_empty() {
            text.push_str("content-type: application/json\r\n");
        }
        text.push_str(&format!(
            "connection: close\r\ncontent-length: {}\r\n\r\n{}",
            self.body.len(),
            self.body
        ));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }
}

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("cut: {text}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| line.split_once(':').unwrap()))
            .map(|(name, value)| {
                (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        Self { status, headers, body: body.to_owned() }
    }

    pub(crate) fn code(&self) -> Option<ErrorCode> {
        serde_json::from_str::<Problem>(&self.body).ok().map(|problem| problem.code)
    }

    /// What is left when all that differs from one request to the next is taken out: the request's id, the
    /// time, the signature over both, and the name that was asked for.
    pub(crate) fn without(&self, asked_for: &str) -> Self {
        let mut headers = self.headers.clone();
        let id = headers.remove("x-request-id").unwrap();
        let id = id.to_str().unwrap();
        // How many more there may be is told as well, and is one less each time.
        for name in ["date", "signature", "signature-input", "content-digest", "ratelimit"] {
            headers.remove(name);
        }
        let body = self.body.replace(id, "<id>").replace(asked_for, "<name>");
        assert!(!body.contains(asked_for));
        Self { status: self.status, headers, body }
    }
}
