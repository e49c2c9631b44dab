//! The `golem-v1` profile of HTTP Message Signatures (RFC 9421), with `Content-Digest` of RFC 9530.
//!
//! A request is signed over
//! `("@method" "@path" "@query" "content-digest" "golem-recipient")`, and `"idempotency-key"` when
//! that header is sent; the parameters are `created`, `nonce`, `alg="ed25519"`, `keyid`, and
//! `tag="golem-v1"`. A reply to a signed request is signed over
//! `("@status" "content-digest" "signature";req;key="sig1")`, which binds it to that request.
//!
//! The profile is fixed: other components, labels, algorithms or tags are refused, not negotiated.
//! Checking here means the signature and the digest; the window, the nonces and the recipient are
//! the server's business, for they need a clock and a memory.

use std::fmt;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::identity::{KeyId, KeyPair};

mod stream;

pub use stream::{EVENT_STREAM, claims_to_stream, sign_stream, verify_stream};

/// The label of the one signature in each message.
const LABEL: &str = "sig1";
/// The profile's tag.
const TAG: &str = "golem-v1";
/// Longest accepted `Signature-Input` or `Signature` header, in bytes.
const MAX_HEADER_BYTES: usize = 1024;

/// `Content-Digest` (RFC 9530).
pub static CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// Whom a request is meant for: a provider's id, or the `host:port` of a public service.
pub static GOLEM_RECIPIENT: HeaderName = HeaderName::from_static("golem-recipient");
/// `Idempotency-Key`: makes a create that is sent twice one create.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Signature` (RFC 9421).
pub static SIGNATURE: HeaderName = HeaderName::from_static("signature");
/// `Signature-Input` (RFC 9421).
pub static SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");

/// How far, in seconds, a request's `created` may be from the server's clock.
pub const WINDOW_SECONDS: u64 = 60;

/// Why a message's signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header that the profile needs is not there.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// A header is there twice, is too long, or does not follow the profile.
    #[error("the header {header} does not follow the profile golem-v1: {reason}")]
    Malformed {
        /// Which header.
        header: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The body is not the one that was signed.
    #[error("the body does not match its Content-Digest")]
    Digest,
    /// The signature does not fit the message and key.
    #[error("the signature does not match the message and key {0}")]
    Signature(KeyId),
    /// The reply is signed by nobody.
    #[error("the reply carries no signature")]
    NotBound,
}

const fn malformed(header: &'static str, reason: &'static str) -> SignatureError {
    SignatureError::Malformed { header, reason }
}

/// 16 random bytes that make a request unique; base64url on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// A fresh one.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// From given bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The parts of a request that are signed, as they go over the wire.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The absolute path, without the query, percent-encoded as sent.
    pub path: &'a str,
    /// The query without its `?`; `None` when there is none.
    pub query: Option<&'a str>,
    /// The body; empty when there is none.
    pub body: &'a [u8],
}

impl<'a> RequestParts<'a> {
    /// From a path with an optional query, such as a request target in origin form.
    #[must_use]
    pub fn new(method: &'a str, target: &'a str, body: &'a [u8]) -> Self {
        match target.split_once('?') {
            Some((path, query)) => Self { method, path, query: Some(query), body },
            None => Self { method, path: target, query: None, body },
        }
    }
}

/// A request's signature as the value in its `Signature` header (`:base64:`). A reply is bound to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSignature(String);

impl RequestSignature {
    /// The signature that a request carries, whether or not it is a good one; `None` when there
    /// is none that follows the profile. A server binds its reply to it, a refusal too.
    #[must_use]
    pub fn carried_by(headers: &HeaderMap) -> Option<Self> {
        let value = one(headers, &SIGNATURE, "Signature").ok()??;
        signature_bytes(value, "Signature").ok().map(|bytes| Self::from_bytes(&bytes))
    }

    fn from_bytes(bytes: &[u8; 64]) -> Self {
        Self(format!(":{}:", BASE64.encode(bytes)))
    }
}

/// A request whose signature and digest were found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRequest {
    /// Who signed.
    pub signer: KeyId,
    /// Whom it is meant for, as signed.
    pub recipient: String,
    /// When it was signed, in seconds since the Unix epoch, by the signer's clock.
    pub created: u64,
    /// What makes it unique.
    pub nonce: Nonce,
    /// What the reply is to be bound to.
    pub signature: RequestSignature,
}

/// Headers to add to a message.
pub type SignedHeaders = Vec<(HeaderName, HeaderValue)>;

/// The value of `Content-Digest` for `body`.
#[must_use]
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64.encode(&Sha256::digest(body)))
}

/// Signs a request. Returns the headers to add (`Content-Digest`, `Golem-Recipient`,
/// `Signature-Input`, `Signature`, and `Idempotency-Key` if one is given) and the signature that
/// the reply must be bound to.
///
/// # Errors
/// [`SignatureError::Malformed`] when `recipient` or `idempotency_key` can't stand in a header.
pub fn sign_request(
    key: &KeyPair,
    parts: &RequestParts<'_>,
    recipient: &str,
    idempotency_key: Option<&str>,
    created: u64,
    nonce: Nonce,
) -> Result<(SignedHeaders, RequestSignature), SignatureError> {
    let digest = content_digest(parts.body);
    let params = format!(
        "{};created={created};nonce=\"{nonce}\";alg=\"ed25519\";keyid=\"{}\";tag=\"{TAG}\"",
        request_components(idempotency_key.is_some()),
        key.id(),
    );
    let base = request_base(parts, &digest, recipient, idempotency_key, &params);
    let signature = RequestSignature::from_bytes(&key.sign(base.as_bytes()));
    let mut headers = vec![
        (CONTENT_DIGEST.clone(), value(&digest, "Content-Digest")?),
        (GOLEM_RECIPIENT.clone(), value(recipient, "Golem-Recipient")?),
        (SIGNATURE_INPUT.clone(), value(&format!("{LABEL}={params}"), "Signature-Input")?),
        (SIGNATURE.clone(), value(&format!("{LABEL}={}", signature.0), "Signature")?),
    ];
    if let Some(idempotency_key) = idempotency_key {
        headers.push((IDEMPOTENCY_KEY.clone(), value(idempotency_key, "Idempotency-Key")?));
    }
    Ok((headers, signature))
}

/// Checks the signature of a request. `Ok(None)` means that it carries nothing of one at all.
///
/// # Errors
/// See [`SignatureError`]; a request with half a signature, or with a `Golem-Recipient` and none, is
/// an error, never an unsigned one.
pub fn verify_request(
    parts: &RequestParts<'_>,
    headers: &HeaderMap,
) -> Result<Option<VerifiedRequest>, SignatureError> {
    let (input, signature) = match (
        one(headers, &SIGNATURE_INPUT, "Signature-Input")?,
        one(headers, &SIGNATURE, "Signature")?,
    ) {
        (None, None) if headers.contains_key(&GOLEM_RECIPIENT) => {
            return Err(SignatureError::Missing("Signature"));
        }
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(SignatureError::Missing("Signature-Input")),
        (Some(_), None) => return Err(SignatureError::Missing("Signature")),
        (Some(input), Some(signature)) => (input, signature),
    };
    let recipient = one(headers, &GOLEM_RECIPIENT, "Golem-Recipient")?
        .ok_or(SignatureError::Missing("Golem-Recipient"))?;
    let digest = checked_digest(headers, parts.body)?;
    let idempotency_key = one(headers, &IDEMPOTENCY_KEY, "Idempotency-Key")?;

    let params = Parameters::parse(input, request_components(idempotency_key.is_some()), TAG)?;
    let (Some(created), Some(nonce)) = (params.created, params.nonce) else {
        return Err(malformed("Signature-Input", "created and nonce are needed"));
    };
    let bytes = signature_bytes(signature, "Signature")?;
    let base = request_base(parts, digest, recipient, idempotency_key, params.text);
    if !params.keyid.verifies(base.as_bytes(), &bytes) {
        return Err(SignatureError::Signature(params.keyid));
    }
    Ok(Some(VerifiedRequest {
        signer: params.keyid,
        recipient: recipient.to_owned(),
        created,
        nonce,
        signature: RequestSignature::from_bytes(&bytes),
    }))
}

/// Signs a reply with `status` and `body` to the request that carried `request`. Returns the
/// headers to add.
#[must_use]
pub fn sign_response(
    key: &KeyPair,
    status: u16,
    body: &[u8],
    request: &RequestSignature,
    created: u64,
) -> SignedHeaders {
    let digest = content_digest(body);
    let params = format!(
        "{RESPONSE_COMPONENTS};created={created};alg=\"ed25519\";keyid=\"{}\";tag=\"{TAG}\"",
        key.id(),
    );
    let base = response_base(status, &digest, request, &params);
    let signature = RequestSignature::from_bytes(&key.sign(base.as_bytes()));
    [
        (&CONTENT_DIGEST, digest),
        (&SIGNATURE_INPUT, format!("{LABEL}={params}")),
        (&SIGNATURE, format!("{LABEL}={}", signature.0)),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name.clone(), HeaderValue::from_str(&text).ok()?)))
    .collect()
}

/// Checks that a reply answers the request that carried `request`, and returns who signed it.
/// Whether that is the party that was asked is for the caller to judge.
///
/// # Errors
/// [`SignatureError::NotBound`] when it carries no signature, else see [`SignatureError`].
pub fn verify_response(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    request: &RequestSignature,
) -> Result<KeyId, SignatureError> {
    let input =
        one(headers, &SIGNATURE_INPUT, "Signature-Input")?.ok_or(SignatureError::NotBound)?;
    let signature = one(headers, &SIGNATURE, "Signature")?.ok_or(SignatureError::NotBound)?;
    let digest = checked_digest(headers, body)?;
    let params = Parameters::parse(input, RESPONSE_COMPONENTS, TAG)?;
    if params.created.is_none() || params.nonce.is_some() {
        return Err(malformed("Signature-Input", "a reply has created, and no nonce"));
    }
    let bytes = signature_bytes(signature, "Signature")?;
    let base = response_base(status, digest, request, params.text);
    if params.keyid.verifies(base.as_bytes(), &bytes) {
        Ok(params.keyid)
    } else {
        Err(SignatureError::Signature(params.keyid))
    }
}

const fn request_components(with_idempotency_key: bool) -> &'static str {
    if with_idempotency_key {
        "(\"@method\" \"@path\" \"@query\" \"content-digest\" \"golem-recipient\" \"idempotency-key\")"
    } else {
        "(\"@method\" \"@path\" \"@query\" \"content-digest\" \"golem-recipient\")"
    }
}

const RESPONSE_COMPONENTS: &str = "(\"@status\" \"content-digest\" \"signature\";req;key=\"sig1\")";

/// The signature base of RFC 9421, section 2.5.
fn request_base(
    parts: &RequestParts<'_>,
    digest: &str,
    recipient: &str,
    idempotency_key: Option<&str>,
    params: &str,
) -> String {
    let mut base = format!(
        "\"@method\": {}\n\"@path\": {}\n\"@query\": ?{}\n\"content-digest\": {digest}\n\"golem-recipient\": {recipient}\n",
        parts.method,
        if parts.path.is_empty() { "/" } else { parts.path },
        parts.query.unwrap_or_default(),
    );
    if let Some(idempotency_key) = idempotency_key {
        base.push_str(&format!("\"idempotency-key\": {idempotency_key}\n"));
    }
    base.push_str(&format!("\"@signature-params\": {params}"));
    base
}

fn response_base(status: u16, digest: &str, request: &RequestSignature, params: &str) -> String {
    format!(
        "\"@status\": {status}\n\"content-digest\": {digest}\n\"signature\";req;key=\"sig1\": {}\n\"@signature-params\": {params}",
        request.0,
    )
}

/// The header's only value, trimmed; an error when it stands there twice.
fn one<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    label: &'static str,
) -> Result<Option<&'h str>, SignatureError> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(malformed(label, "it is there more than once"));
    }
    if first.len() > MAX_HEADER_BYTES {
        return Err(malformed(label, "it is too long"));
    }
    let text = first.to_str().map_err(|_| malformed(label, "it is not plain ASCII"))?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

fn checked_digest<'h>(headers: &'h HeaderMap, body: &[u8]) -> Result<&'h str, SignatureError> {
    let digest = one(headers, &CONTENT_DIGEST, "Content-Digest")?
        .ok_or(SignatureError::Missing("Content-Digest"))?;
    if digest == content_digest(body) { Ok(digest) } else { Err(SignatureError::Digest) }
}

fn signature_bytes(text: &str, header: &'static str) -> Result<[u8; 64], SignatureError> {
    text.strip_prefix("sig1=:")
        .and_then(|rest| rest.strip_suffix(':'))
        .and_then(|encoded| BASE64.decode(encoded.as_bytes()).ok())
        .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
        .ok_or(malformed(header, "expected one signature 'sig1' of 64 bytes"))
}

fn value(text: &str, header: &'static str) -> Result<HeaderValue, SignatureError> {
    let plain = !text.is_empty()
        && text.len() <= MAX_HEADER_BYTES
        && text.bytes().all(|b| (0x21..0x7f).contains(&b) || b == b' ')
        && text.trim() == text;
    plain
        .then(|| HeaderValue::from_str(text).ok())
        .flatten()
        .ok_or(malformed(header, "it has to be 1 to 1024 printable ASCII characters"))
}

/// The parameters of a `Signature-Input` that follows the profile.
struct Parameters<'a> {
    /// Everything after `sig1=`, as signed.
    text: &'a str,
    created: Option<u64>,
    nonce: Option<Nonce>,
    keyid: KeyId,
}

impl<'a> Parameters<'a> {
    fn parse(
        input: &'a str,
        components: &str,
        expected_tag: &'static str,
    ) -> Result<Self, SignatureError> {
        const HEADER: &str = "Signature-Input";
        let text = input
            .strip_prefix("sig1=")
            .ok_or(malformed(HEADER, "expected one signature labelled 'sig1'"))?;
        let mut rest = text
            .strip_prefix(components)
            .ok_or(malformed(HEADER, "the covered components are not those of the profile"))?;

        let (mut created, mut nonce, mut keyid, mut alg, mut tag) = (None, None, None, None, None);
        while !rest.is_empty() {
            let after = rest.strip_prefix(';').ok_or(malformed(HEADER, "expected ';'"))?;
            let (name, after) =
                after.split_once('=').ok_or(malformed(HEADER, "a parameter has no value"))?;
            let value;
            if let Some(quoted) = after.strip_prefix('"') {
                (value, rest) =
                    quoted.split_once('"').ok_or(malformed(HEADER, "an open quotation"))?;
            } else {
                let end = after.find(';').unwrap_or(after.len());
                (value, rest) = after.split_at(end);
            }
            let quoted = after.starts_with('"');
            let slot = match (name, quoted) {
                ("created", false) => &mut created,
                ("nonce", true) => &mut nonce,
                ("keyid", true) => &mut keyid,
                ("alg", true) => &mut alg,
                ("tag", true) => &mut tag,
                _ => return Err(malformed(HEADER, "a parameter that is not in the profile")),
            };
            if slot.replace(value).is_some() {
                return Err(malformed(HEADER, "a parameter is there twice"));
            }
        }
        if alg != Some("ed25519") {
            return Err(malformed(HEADER, "alg has to be \"ed25519\""));
        }
        if tag != Some(expected_tag) {
            return Err(malformed(HEADER, "tag is not the one of the profile"));
        }
        let keyid = keyid
            .ok_or(malformed(HEADER, "keyid is missing"))?
            .parse()
            .map_err(|_| malformed(HEADER, "keyid is not an id"))?;
        let created = created.map(parse_created).transpose()?;
        let nonce = nonce
            .map(|text| {
                BASE64URL_NOPAD
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
                    .map(Nonce)
                    .ok_or(malformed(HEADER, "nonce is not 16 bytes of base64url"))
            })
            .transpose()?;
        Ok(Self { text, created, nonce, keyid })
    }
}

/// An RFC 8941 integer that is a time: digits only, so that one moment has one spelling.
fn parse_created(text: &str) -> Result<u64, SignatureError> {
    let digits = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let one_spelling = digits && (text == "0" || !text.starts_with('0'));
    one_spelling
        .then(|| text.parse().ok())
        .flatten()
        .ok_or(malformed("Signature-Input", "created is not a number of seconds"))
}

#[cfg(test)]
mod tests;
