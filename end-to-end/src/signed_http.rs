//! A requestor's signed requests, one at a time, as `golem` sends them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use golem_vm_protocol::KeyPair;
use golem_vm_protocol::signature::{Nonce, RequestParts, sign_request, verify_response};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::provider::Provider;

/// Longest that a reply may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// Somebody who rents.
#[derive(Debug)]
pub struct Renter {
    key: KeyPair,
}

/// A reply that the provider has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Value,
}

/// There is no whole reply: whether anything was done is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

impl Default for Renter {
    fn default() -> Self {
        Self { key: KeyPair::generate().unwrap() }
    }
}

impl Renter {
    /// Asks a provider for something, with an idempotency key or without.
    ///
    /// # Errors
    /// [`Broken`] when the provider ended before it has answered.
    ///
    /// # Panics
    /// When the reply is not signed by the provider, for this request.
    pub fn ask(
        &self,
        provider: &Provider,
        method: &str,
        target: &str,
        body: Option<&Value>,
        idempotency: Option<&str>,
    ) -> Result<Answer, Broken> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let parts = RequestParts::new(method, target, body.as_bytes());
        // A second ahead: what was signed in the second in which a server started is refused.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
        let nonce = Nonce::random().unwrap();
        let (headers, signature) =
            sign_request(&self.key, &parts, provider.id(), idempotency, now, nonce).unwrap();
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            provider.address(),
            body.len()
        );
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        let bytes = sent(provider.address(), &format!("{head}\r\n{body}"))
            .map_err(|error| Broken(error.to_string()))?;
        let (status, headers, body) = parsed(&bytes).ok_or_else(|| {
            Broken(format!("no whole reply: {:?}", String::from_utf8_lossy(&bytes)))
        })?;
        let signer = verify_response(status, &headers, body, &signature).unwrap_or_else(|error| {
            panic!("a reply that can't be believed ({error}): {}", String::from_utf8_lossy(&bytes))
        });
        assert_eq!(signer.to_string(), provider.id());
        Ok(Answer { status, body: serde_json::from_slice(body).unwrap_or_default() })
    }
}

fn sent(address: &str, request: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(reply)
}

/// Status, headers and body; `None` if anything of it is missing.
fn parsed(bytes: &[u8]) -> Option<(u16, HeaderMap, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_str(value.trim()).ok()?);
    }
    let length: usize = headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    let body = bytes.get(end + 4..end + 4 + length)?;
    Some((status, headers, body))
}
