//! The head of a stream. A reply without end has no digest, so it is signed in a form of its own, which
//! nobody takes for an ordinary reply: other components, another tag, and no `Content-Digest`. It says that
//! this is the signer's stream for that request, and nothing of what is in it: each event has a signature
//! of its own ([`crate::vm::StreamedEvent`]).

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

use super::{
    CONTENT_DIGEST, LABEL, Parameters, RequestSignature, SIGNATURE, SIGNATURE_INPUT,
    SignatureError, SignedHeaders, malformed, one, signature_bytes,
};
use crate::identity::{KeyId, KeyPair};

/// The media type of a stream of server-sent events, exactly as it stands in `Content-Type`.
pub const EVENT_STREAM: &str = "text/event-stream";

const TAG: &str = "golem-v1-stream";
const COMPONENTS: &str = "(\"@status\" \"content-type\" \"signature\";req;key=\"sig1\")";
/// The only status that a stream has.
const STATUS: u16 = 200;

/// Signs the head of a stream (status 200) that answers the request which carried `request`. Returns the
/// headers to add, `Content-Type` among them.
#[must_use]
pub fn sign_stream(key: &KeyPair, request: &RequestSignature, created: u64) -> SignedHeaders {
    let params = format!(
        "{COMPONENTS};created={created};alg=\"ed25519\";keyid=\"{}\";tag=\"{TAG}\"",
        key.id(),
    );
    let signature = RequestSignature::from_bytes(&key.sign(base(request, &params).as_bytes()));
    [
        (&CONTENT_TYPE, EVENT_STREAM.to_owned()),
        (&SIGNATURE_INPUT, format!("{LABEL}={params}")),
        (&SIGNATURE, format!("{LABEL}={}", signature.0)),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name.clone(), HeaderValue::from_str(&text).ok()?)))
    .collect()
}

/// Whether a reply's head says that it is a stream. Nothing is believed by that: what is one is checked
/// with [`verify_stream`], everything else with [`super::verify_response`].
#[must_use]
pub fn claims_to_stream(headers: &HeaderMap) -> bool {
    !headers.contains_key(&CONTENT_DIGEST)
        && headers.get(CONTENT_TYPE).is_some_and(|value| value == EVENT_STREAM)
}

/// Checks that a reply's head begins a stream that answers the request which carried `request`, and returns
/// who signed it. Whether that is the party that was asked is for the caller to judge.
///
/// # Errors
/// [`SignatureError::NotBound`] when it carries no signature, else see [`SignatureError`]; an ordinary signed
/// reply is an error.
pub fn verify_stream(
    status: u16,
    headers: &HeaderMap,
    request: &RequestSignature,
) -> Result<KeyId, SignatureError> {
    let input =
        one(headers, &SIGNATURE_INPUT, "Signature-Input")?.ok_or(SignatureError::NotBound)?;
    let signature = one(headers, &SIGNATURE, "Signature")?.ok_or(SignatureError::NotBound)?;
    if one(headers, &CONTENT_TYPE, "Content-Type")? != Some(EVENT_STREAM) {
        return Err(malformed("Content-Type", "a stream is text/event-stream"));
    }
    let params = Parameters::parse(input, COMPONENTS, TAG)?;
    if params.created.is_none() || params.nonce.is_some() {
        return Err(malformed("Signature-Input", "a reply has created, and no nonce"));
    }
    let bytes = signature_bytes(signature, "Signature")?;
    let good =
        status == STATUS && params.keyid.verifies(base(request, params.text).as_bytes(), &bytes);
    if good { Ok(params.keyid) } else { Err(SignatureError::Signature(params.keyid)) }
}

fn base(request: &RequestSignature, params: &str) -> String {
    format!(
        "\"@status\": {STATUS}\n\"content-type\": {EVENT_STREAM}\n\"signature\";req;key=\"sig1\": {}\n\"@signature-params\": {params}",
        request.0,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::signature::{sign_response, verify_response};

    fn key() -> KeyPair {
        KeyPair::from_secret_bytes([1; 32]).unwrap()
    }

    fn request() -> RequestSignature {
        RequestSignature::from_bytes(&[7; 64])
    }

    fn head() -> HeaderMap {
        sign_stream(&key(), &request(), 5).into_iter().collect()
    }

    #[test]
    fn a_stream_is_bound_to_its_request() {
        assert!(claims_to_stream(&head()));
        assert_eq!(verify_stream(200, &head(), &request()), Ok(key().id()));
        let other = RequestSignature::from_bytes(&[8; 64]);
        assert!(matches!(verify_stream(200, &head(), &other), Err(SignatureError::Signature(_))));
        assert!(verify_stream(202, &head(), &request()).is_err());
        assert_eq!(
            verify_stream(200, &HeaderMap::new(), &request()),
            Err(SignatureError::NotBound)
        );
    }

    #[test]
    fn a_stream_is_never_taken_for_an_ordinary_reply() {
        let mut stream = head();
        assert!(verify_response(200, &stream, b"", &request()).is_err());
        // Nor by somebody on the path who adds what is missing.
        let digest = crate::signature::content_digest(b"x");
        stream.insert(CONTENT_DIGEST.clone(), HeaderValue::from_str(&digest).unwrap());
        assert!(verify_response(200, &stream, b"x", &request()).is_err());
        let renamed = head()[&SIGNATURE_INPUT]
            .to_str()
            .unwrap()
            .replace(COMPONENTS, "(\"@status\" \"content-digest\" \"signature\";req;key=\"sig1\")")
            .replace(TAG, "golem-v1");
        stream.insert(SIGNATURE_INPUT.clone(), HeaderValue::from_str(&renamed).unwrap());
        assert!(verify_response(200, &stream, b"x", &request()).is_err());
    }

    #[test]
    fn an_ordinary_reply_is_never_taken_for_a_stream() {
        let mut reply: HeaderMap =
            sign_response(&key(), 200, b"", &request(), 5).into_iter().collect();
        assert!(!claims_to_stream(&reply));
        assert!(verify_stream(200, &reply, &request()).is_err());
        reply.remove(&CONTENT_DIGEST);
        reply.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        assert!(claims_to_stream(&reply));
        assert!(verify_stream(200, &reply, &request()).is_err());
    }

    #[test]
    fn another_media_type_is_no_stream() {
        for other in ["text/event-stream; charset=utf-8", "text/html", "TEXT/EVENT-STREAM"] {
            let mut stream = head();
            stream.insert(CONTENT_TYPE, HeaderValue::from_static(other));
            assert!(verify_stream(200, &stream, &request()).is_err(), "{other}");
        }
    }
}
