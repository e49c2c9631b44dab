#![allow(clippy::unwrap_used)]
use super::*;

const BODY: &[u8] = br#"{"name":"box"}"#;

fn key() -> KeyPair {
    KeyPair::from_secret_bytes([9; 32]).unwrap()
}

fn parts() -> RequestParts<'static> {
    RequestParts::new("POST", "/api/v1/vms?async=true", BODY)
}

fn map(headers: &SignedHeaders) -> HeaderMap {
    headers.iter().cloned().collect()
}

fn signed(idempotency_key: Option<&str>) -> (HeaderMap, RequestSignature) {
    let nonce = Nonce::from_bytes([1; 16]);
    let (headers, signature) =
        sign_request(&key(), &parts(), "recipient", idempotency_key, 1_700_000_000, nonce).unwrap();
    (map(&headers), signature)
}

#[test]
fn a_signed_request_verifies_and_tells_who_when_and_for_whom() {
    for idempotency_key in [None, Some("k-1")] {
        let (headers, signature) = signed(idempotency_key);
        let verified = verify_request(&parts(), &headers).unwrap().unwrap();
        assert_eq!(verified.signer, key().id());
        assert_eq!(verified.recipient, "recipient");
        assert_eq!(verified.created, 1_700_000_000);
        assert_eq!(verified.nonce, Nonce::from_bytes([1; 16]));
        assert_eq!(verified.signature, signature);
        assert_eq!(RequestSignature::carried_by(&headers), Some(signature));
    }
}

#[test]
fn the_signature_base_is_that_of_the_rfc() {
    let params = "(\"@method\");created=1";
    let digest = content_digest(b"");
    assert_eq!(digest, "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:");
    let base = request_base(&RequestParts::new("GET", "/a", b""), &digest, "p", Some("k"), params);
    assert_eq!(
        base,
        "\"@method\": GET\n\"@path\": /a\n\"@query\": ?\n\"content-digest\": \
         sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:\n\"golem-recipient\": p\n\
         \"idempotency-key\": k\n\"@signature-params\": (\"@method\");created=1"
    );
}

#[test]
fn no_signature_is_anonymous_and_half_a_signature_is_an_error() {
    assert_eq!(verify_request(&parts(), &HeaderMap::new()), Ok(None));
    for missing in [&SIGNATURE, &SIGNATURE_INPUT, &CONTENT_DIGEST, &GOLEM_RECIPIENT] {
        let (mut headers, _) = signed(None);
        headers.remove(missing);
        assert!(matches!(verify_request(&parts(), &headers), Err(SignatureError::Missing(_))));
    }
    // Both cut out, and still meant for somebody.
    let (mut headers, _) = signed(None);
    headers.remove(&SIGNATURE);
    headers.remove(&SIGNATURE_INPUT);
    assert!(matches!(verify_request(&parts(), &headers), Err(SignatureError::Missing(_))));
}

#[test]
fn each_signed_part_counts() {
    let (headers, _) = signed(Some("k"));
    let refused = |parts: RequestParts<'_>, headers: &HeaderMap| {
        assert!(verify_request(&parts, headers).is_err(), "accepted {parts:?} {headers:?}");
    };
    refused(RequestParts { method: "PUT", ..parts() }, &headers);
    refused(RequestParts { path: "/api/v1/vm", ..parts() }, &headers);
    refused(RequestParts { query: None, ..parts() }, &headers);
    refused(RequestParts { query: Some("async=false"), ..parts() }, &headers);
    refused(RequestParts { body: b"{}", ..parts() }, &headers);
    for name in [&GOLEM_RECIPIENT, &IDEMPOTENCY_KEY] {
        let mut altered = headers.clone();
        altered.insert(name, HeaderValue::from_static("other"));
        refused(parts(), &altered);
    }
    let mut dropped = headers.clone();
    dropped.remove(&IDEMPOTENCY_KEY);
    refused(parts(), &dropped);
    let mut twice = headers.clone();
    twice.append(&GOLEM_RECIPIENT, HeaderValue::from_static("recipient"));
    refused(parts(), &twice);
}

#[test]
fn any_changed_byte_of_any_signed_header_is_refused() {
    let (headers, _) = signed(Some("k"));
    for name in [&SIGNATURE, &SIGNATURE_INPUT, &CONTENT_DIGEST, &GOLEM_RECIPIENT, &IDEMPOTENCY_KEY]
    {
        let good = headers.get(name).unwrap().as_bytes().to_vec();
        for position in 0..good.len() {
            let mut bytes = good.clone();
            bytes[position] ^= 1;
            let Ok(value) = HeaderValue::from_bytes(&bytes) else {
                continue;
            };
            let mut altered = headers.clone();
            altered.insert(name, value);
            assert!(
                !matches!(verify_request(&parts(), &altered), Ok(Some(_))),
                "{name} accepted with byte {position} changed"
            );
        }
    }
}

#[test]
fn other_profiles_are_refused() {
    let (headers, _) = signed(None);
    let input = headers.get(&SIGNATURE_INPUT).unwrap().to_str().unwrap().to_owned();
    for (from, to) in [
        ("sig1=", "sig2="),
        ("ed25519", "rsa-v1_5-sha256"),
        ("golem-v1", "golem-v2"),
        ("\"@method\" ", ""),
        (";created=", ";created=+"),
        (";created=", ";created=0"),
        (";created=1700000000", ";created=1700000000000"),
        (";created=1700000000", ";created=\"1700000000\""),
        (";created=1700000000", ";created=1700000000.0"),
        (";created=", "; created="),
        (";created=", ";CREATED="),
        ("AQEB", "AQE+"),
        ("AQ\";alg", "AR\";alg"),
        ("AQ\";alg", "AQ==\";alg"),
        (";nonce=\"AQ", ";nonce=\"\\AQ"),
        ("\"@query\" ", "\"@query\" \"@query\" "),
        ("\"@query\" ", "\"@query\"  "),
        ("\"@query\"", "\"@Query\""),
        ("\"@query\"", "\"@query\";req"),
        ("\"golem-recipient\")", "\"golem-recipient\" \"host\")"),
        ("sig1=", "sig2=(\"@method\");created=1, sig1="),
        (";tag=\"golem-v1\"", ";tag=\"golem-v1\", sig2=(\"@method\")"),
        (";tag=\"golem-v1\"", ";tag=\"golem-v1\";"),
        ("sig1=", "SIG1="),
        (";created=1700000000", ""),
        (";nonce=", ";expires=1;nonce="),
        (";alg=\"ed25519\"", ";alg=\"ed25519\";alg=\"ed25519\""),
        (";tag=\"golem-v1\"", ""),
    ] {
        let mut altered = headers.clone();
        let text = input.replacen(from, to, 1);
        assert_ne!(text, input);
        altered.insert(&SIGNATURE_INPUT, HeaderValue::from_str(&text).unwrap());
        assert!(verify_request(&parts(), &altered).is_err(), "accepted {text}");
    }
}

#[test]
fn a_reply_is_bound_to_its_request_status_and_body() {
    let provider = KeyPair::from_secret_bytes([8; 32]).unwrap();
    let (_, request) = signed(None);
    let headers = map(&sign_response(&provider, 404, b"gone", &request, 1_700_000_001));
    assert_eq!(verify_response(404, &headers, b"gone", &request), Ok(provider.id()));
    assert!(verify_response(200, &headers, b"gone", &request).is_err());
    assert_eq!(verify_response(404, &headers, b"here", &request), Err(SignatureError::Digest));
    let (_, other) = signed(Some("other"));
    assert!(verify_response(404, &headers, b"gone", &other).is_err());
    assert_eq!(
        verify_response(404, &HeaderMap::new(), b"gone", &request),
        Err(SignatureError::NotBound)
    );
}

#[test]
fn what_can_not_stand_in_a_header_is_refused_when_signing() {
    for bad in ["", " a", "a\nb", "ü", &"x".repeat(2000)] {
        let nonce = Nonce::from_bytes([1; 16]);
        assert!(sign_request(&key(), &parts(), bad, None, 1, nonce).is_err());
        assert!(sign_request(&key(), &parts(), "r", Some(bad), 1, nonce).is_err());
    }
}

#[test]
fn a_header_that_is_there_twice_or_too_long_or_no_ascii_is_refused() {
    let (headers, _) = signed(Some("k"));
    for name in [&SIGNATURE, &SIGNATURE_INPUT, &CONTENT_DIGEST, &GOLEM_RECIPIENT, &IDEMPOTENCY_KEY]
    {
        let value = headers[name].clone();
        let mut twice = headers.clone();
        twice.append(name, value.clone());
        let long = format!("{}{}", value.to_str().unwrap(), " ".repeat(MAX_HEADER_BYTES));
        let mut padded = headers.clone();
        padded.insert(name, HeaderValue::from_str(&long).unwrap());
        let mut beyond_ascii = headers.clone();
        let bytes = [value.as_bytes(), "\u{e9}".as_bytes()].concat();
        beyond_ascii.insert(name, HeaderValue::from_bytes(&bytes).unwrap());
        for headers in [twice, padded, beyond_ascii] {
            let refused = verify_request(&parts(), &headers);
            assert!(
                matches!(refused, Err(SignatureError::Malformed { .. })),
                "{name}: {refused:?}"
            );
        }
    }
}

#[test]
fn a_path_has_the_spelling_that_was_signed_and_no_query_is_an_empty_one() {
    let nonce = Nonce::from_bytes([1; 16]);
    let signed_for = |target| {
        let (headers, _) =
            sign_request(&key(), &RequestParts::new("GET", target, b""), "r", None, 1, nonce)
                .unwrap();
        map(&headers)
    };
    let accepts = |headers: &HeaderMap, target| {
        verify_request(&RequestParts::new("GET", target, b""), headers).is_ok()
    };
    let headers = signed_for("/vms/b%6fx");
    for other in ["/vms/box", "/vms/b%6Fx", "/vms//b%6fx", "/vms/b%6fx/", "/VMS/b%6fx", "vms/b%6fx"]
    {
        assert!(!accepts(&headers, other), "{other}");
    }
    // RFC 9421, 2.2.7: a query that is not there has the value of one that is empty.
    assert!(accepts(&signed_for("/vms"), "/vms?"));
    assert!(!accepts(&signed_for("/vms"), "/vms??"));
    assert!(!accepts(&signed_for("/vms?a=1&b=2"), "/vms?b=2&a=1"));
    assert!(!accepts(&signed_for("/vms?a=%20"), "/vms?a=+"));
    // What a request without a path means.
    assert!(accepts(&signed_for("/"), ""));
}

#[test]
fn a_reply_says_when_and_takes_no_other_requests_form() {
    let provider = KeyPair::from_secret_bytes([8; 32]).unwrap();
    let (request_headers, request) = signed(None);
    // What the requestor itself has signed is no reply to it.
    assert!(verify_response(202, &request_headers, BODY, &request).is_err());
    let good = map(&sign_response(&provider, 202, b"", &request, 1_700_000_001));
    let input = good[&SIGNATURE_INPUT].to_str().unwrap().to_owned();
    for altered in [
        input.replace(";created=1700000001", ""),
        input.replace(";alg=", ";nonce=\"AQEBAQEBAQEBAQEBAQEBAQ\";alg="),
        input.replace(";req;", ";"),
        input.replace("key=\"sig1\"", "key=\"sig2\""),
    ] {
        assert_ne!(altered, input);
        let mut headers = good.clone();
        headers.insert(&SIGNATURE_INPUT, HeaderValue::from_str(&altered).unwrap());
        let refused = verify_response(202, &headers, b"", &request);
        assert!(matches!(refused, Err(SignatureError::Malformed { .. })), "{altered}: {refused:?}");
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_headers_never_panic_and_never_verify(
        input in ".{0,300}", signature in ".{0,200}", digest in ".{0,80}",
    ) {
        let mut headers = HeaderMap::new();
        for (name, text) in [(&SIGNATURE_INPUT, input), (&SIGNATURE, signature), (&CONTENT_DIGEST, digest)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
        headers.insert(&GOLEM_RECIPIENT, HeaderValue::from_static("r"));
        assert!(!matches!(verify_request(&parts(), &headers), Ok(Some(_))));
    }

    #[test]
    fn arbitrary_parameters_never_panic(rest in "[;a-z\"=0-9 ]{0,120}") {
        let text = format!("sig1={}{rest}", request_components(false));
        let _ = Parameters::parse(&text, request_components(false), TAG);
    }
}
