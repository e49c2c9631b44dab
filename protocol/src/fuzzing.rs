//! Bodies of the fuzz targets for what this crate reads; see `fuzz/README.md`.
//!
//! Each takes any bytes, and panics when something does not hold that has to hold for all bytes.

use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::advertisement::{Advertisement, AdvertisementEntry, UnsignedAdvertisement};
use crate::attestation::PortAttestation;
use crate::document::{DocumentDigest, DocumentError, Envelope, MAX_PAYLOAD_BYTES};
use crate::port_check::{CheckPortsRequest, CheckPortsResponse};
use crate::port_proof::{Challenge, Opening, Proof, ProofScan};
use crate::port_ranges::PortRanges;
use crate::provider::ProviderInfo;
use crate::signature::{
    Nonce, RequestParts, RequestSignature, claims_to_stream, sign_request, verify_request,
    verify_response, verify_stream,
};
use crate::text::{is_printable, printable};
use crate::time::{NaiveUtc, Timestamp, seconds_of};
use crate::vm::{
    CloneVm, ConsoleInput, ConsoleLog, ConsoleOutput, ConsoleReader, CreateSnapshot,
    CreateVmRequest, ExtendLease, Operation, ResizeVm, SnapshotName, SshPublicKey, StreamReader,
    StreamedEvent, UndeleteVm, Vm, VmAccess, VmEvent, VmEvents, VmSnapshots, VmStats, event_number,
};
use crate::{KeyId, KeyPair, KeyPrefix, Problem, VmId, VmName, VmRef};

/// A fuzz target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of this crate: its name and its body.
pub const TARGETS: &[Target] = &[
    ("signed_request", signed_request),
    ("signed_reply", signed_reply),
    ("envelope", envelope),
    ("advertisement", advertisement),
    ("discovery_entry", discovery_entry),
    ("ids", ids),
    ("ssh_public_key", ssh_public_key),
    ("create_vm_request", create_vm_request),
    ("life_requests", life_requests),
    ("provider_replies", provider_replies),
    ("event_stream", event_stream),
    ("console_stream", console_stream),
    ("problem", problem),
    ("port_check", port_check),
    ("port_proof", port_proof),
    ("port_attestation", port_attestation),
    ("timestamps", timestamps),
    ("foreign_text", foreign_text),
];

/// What is read back from its own text form is the same.
fn reads_back<T>(text: &str) -> Option<T>
where
    T: FromStr + ToString + PartialEq + std::fmt::Debug,
{
    let value: T = text.parse().ok()?;
    let again = value.to_string().parse().ok();
    assert_eq!(again.as_ref(), Some(&value), "{text:?} does not read back");
    Some(value)
}

/// JSON that was read is written, and what was written is read as the same.
fn json_reads_back<T>(data: &[u8]) -> Option<T>
where
    T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug,
{
    let value: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&value);
    assert!(written.is_ok(), "{value:?} can't be written");
    let again = serde_json::from_slice(&written.unwrap_or_default()).ok();
    assert_eq!(again.as_ref(), Some(&value), "it does not read back");
    Some(value)
}

/// A message as a recipe: lines of `name: value`, an empty line, the body. The first line is a
/// method and a target, or a status.
fn message(data: &[u8]) -> Option<(&str, HeaderMap, &[u8])> {
    let end = data.windows(2).position(|pair| pair == b"\n\n")?;
    let head = std::str::from_utf8(data.get(..end)?).ok()?;
    let mut lines = head.split('\n');
    let first = lines.next()?;
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    Some((first, headers, data.get(end + 2..)?))
}

/// A signature is good for one method, target and body; and whatever else is in the headers, a
/// request that carries anything of a signature is never taken for an unsigned one.
fn signed_request(data: &[u8]) {
    let Some((first, headers, body)) = message(data) else { return };
    let (method, target) = first.split_once(' ').unwrap_or((first, "/"));
    let parts = RequestParts::new(method, target, body);
    let carried = RequestSignature::carried_by(&headers);
    match verify_request(&parts, &headers) {
        Ok(None) => assert!(
            !headers.contains_key("signature") && !headers.contains_key("signature-input"),
            "half a signature is none"
        ),
        Ok(Some(verified)) => {
            assert_eq!(carried.as_ref(), Some(&verified.signature));
            let longer = [body, b"x"].concat();
            let other_path = format!("{}x", parts.path);
            for altered in [
                RequestParts { body: &longer, ..parts },
                RequestParts { path: &other_path, ..parts },
                RequestParts { method: "X", ..parts },
                RequestParts { query: Some("altered=1"), ..parts },
            ] {
                assert!(verify_request(&altered, &headers).is_err(), "{altered:?} is believed");
            }
            let mut without = headers.clone();
            without.remove("golem-recipient");
            assert!(verify_request(&parts, &without).is_err());
        }
        Err(_) => {}
    }
    // What is signed here verifies, whatever the parts are made of.
    let Ok(key) = KeyPair::from_secret_bytes([3; 32]) else { return };
    let nonce = Nonce::from_bytes([5; 16]);
    if let Ok((signed, signature)) = sign_request(&key, &parts, first, None, 7, nonce) {
        let signed: HeaderMap = signed.into_iter().collect();
        let verified = verify_request(&parts, &signed).ok().flatten();
        assert_eq!(verified.map(|request| request.signature), Some(signature));
    }
}

/// A reply is believed for one status and one body, and for the request that it answers.
fn signed_reply(data: &[u8]) {
    let Some((first, headers, body)) = message(data) else { return };
    let status = first.parse().unwrap_or(200);
    // The signature of the request that it answers is one more header.
    let mut asked = HeaderMap::new();
    if let Some(signature) = headers.get("request-signature") {
        asked.insert("signature", signature.clone());
    }
    let Some(request) = RequestSignature::carried_by(&asked) else { return };
    if verify_response(status, &headers, body, &request).is_ok() {
        assert!(verify_response(status ^ 1, &headers, body, &request).is_err());
        assert!(
            verify_response(status, &headers, &[body, b"x"].concat(), &request).is_err(),
            "another body is believed"
        );
        assert!(verify_stream(status, &headers, &request).is_err(), "a reply that is a stream");
    }
    if verify_stream(status, &headers, &request).is_ok() {
        assert!(status == 200 && verify_stream(201, &headers, &request).is_err());
        assert!(claims_to_stream(&headers) || headers.contains_key("content-digest"));
        assert!(verify_response(status, &headers, body, &request).is_err());
    }
}

/// An envelope has one spelling, and no payload that is larger than allowed is ever decoded.
fn envelope(data: &[u8]) {
    let Some(envelope) = json_reads_back::<Envelope>(data) else { return };
    match envelope.payload_bytes() {
        Ok(bytes) => {
            assert!(bytes.len() <= MAX_PAYLOAD_BYTES + 2);
            assert_eq!(BASE64URL_NOPAD.encode(&bytes), envelope.payload, "two spellings");
        }
        Err(error) => assert!(envelope.open::<Advertisement>() == Err(error)),
    }
    if let Ok(verified) = envelope.open::<Advertisement>() {
        assert_eq!(verified.signer, envelope.keyid);
        let mut altered = envelope.clone();
        altered.payload.push_str("AAAA");
        assert!(altered.open::<Advertisement>().is_err(), "an altered payload is believed");
    }
}

/// An advertisement that passes its check holds nothing that could harm who shows it or dials it.
fn advertisement(data: &[u8]) {
    let Ok(key) = KeyPair::from_secret_bytes([4; 32]) else { return };
    let Some(read) = json_reads_back::<Advertisement>(data) else { return };
    let own = Advertisement { provider_id: key.id(), ..read };
    let envelope = match Envelope::seal(&own, &key) {
        Ok(envelope) => envelope,
        Err(error) => return assert_eq!(error, DocumentError::TooLarge),
    };
    let verified = envelope.open::<Advertisement>();
    assert!(verified.is_ok(), "{verified:?}");
    let Ok(verified) = verified else { return };
    assert_eq!(verified.content, own);
    if Advertisement::check(&verified, own.issued_at).is_err() {
        return;
    }
    let mut shown = vec![&own.name, &own.platform];
    shown.extend(own.offers.iter().map(|offer| &offer.backend));
    for text in shown {
        assert!(is_printable(text, 64) && !text.is_empty(), "{text:?}");
    }
    assert!(own.country.len() == 2 && own.expires_at > own.issued_at);
    if let Some((api, host)) = own.direct_endpoint() {
        assert!(api.contains(':') && !host.starts_with('-'), "{api} {host}");
    }
    let stolen = Advertisement { provider_id: verified.content.provider_id, ..own };
    if let Ok(other) = KeyPair::from_secret_bytes([5; 32])
        && let Ok(envelope) = Envelope::seal(&stolen, &other)
        && let Ok(verified) = envelope.open::<Advertisement>()
    {
        assert!(Advertisement::check(&verified, stolen.issued_at).is_err(), "another key's word");
    }
}

fn discovery_entry(data: &[u8]) {
    json_reads_back::<AdvertisementEntry>(data);
    json_reads_back::<UnsignedAdvertisement>(data);
}

/// Ids and names have one spelling, and can stand in a path, a file name and a shell command.
fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let harmless = |text: &str| {
        text.len() <= 80
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:".contains(&b))
    };
    if let Some(id) = reads_back::<KeyId>(text) {
        assert_eq!(id.to_string(), text, "two spellings");
        assert!(harmless(text) && text.starts_with(&id.short()));
        assert_eq!(KeyId::from_bytes(*id.as_bytes()), Ok(id));
    }
    if let Some(id) = reads_back::<VmId>(text) {
        assert_eq!(id.to_string(), text, "two spellings");
        assert!(harmless(text) && text.parse::<VmName>().is_err(), "an id is never a name");
    }
    if let Some(name) = reads_back::<SnapshotName>(text) {
        assert_eq!(name.as_str(), text);
        assert!(harmless(text));
    }
    if let Some(name) = reads_back::<VmName>(text) {
        assert_eq!(name.as_str(), text);
        assert!(harmless(text));
    }
    if let Ok(reference) = text.parse::<VmRef>() {
        assert_eq!(reference.as_str(), text);
    }
    if let Some(digest) = reads_back::<DocumentDigest>(text) {
        assert_eq!(digest.to_string(), text, "two spellings");
    }
    if let Ok(prefix) = text.parse::<KeyPrefix>() {
        assert!(harmless(prefix.as_str()));
    }
}

/// A key that is taken is one harmless line: it is written into `authorized_keys`.
fn ssh_public_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(key) = text.parse::<SshPublicKey>() else { return };
    let line = key.as_str();
    assert!(is_printable(line, usize::MAX) && line.lines().count() == 1, "{line:?}");
    assert!(line.starts_with("ssh-") || line.starts_with("ecdsa-") || line.starts_with("sk-"));
    assert!(!line.contains("PRIVATE") && line.starts_with(key.without_comment()));
    assert!(key.fingerprint().starts_with("SHA256:"));
    assert!(key.rsa_bits().is_none_or(|bits| bits >= crate::vm::RSA_MIN_BITS));
    assert_eq!(line.parse::<SshPublicKey>().as_ref().map(SshPublicKey::as_str), Ok(line));
    assert!(key.without_comment().parse::<SshPublicKey>().is_ok());
}

/// What passes validation is within bounds.
fn create_vm_request(data: &[u8]) {
    let Some(request) = json_reads_back::<CreateVmRequest>(data) else { return };
    match request.validate() {
        Ok(valid) => {
            assert!(valid.resources.size_errors("").is_empty());
            assert!(valid.image.as_ref().is_none_or(|image| is_printable(image, 400)));
            assert!(valid.image.as_ref().is_none_or(|image| !image.contains('@')));
            assert!(valid.cloud_init.as_ref().is_none_or(|text| text.len() <= 32 * 1024));
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(is_printable(&error.detail, 2000), "{:?}", error.detail);
            }
        }
    }
}

/// What is asked of a VM that exists: what passes validation is within bounds.
fn life_requests(data: &[u8]) {
    if let Some(name) = json_reads_back::<CreateSnapshot>(data).and_then(|it| it.validate().ok()) {
        assert!(name.as_str().len() <= 32);
    }
    if let Some(clone) = json_reads_back::<CloneVm>(data).and_then(|clone| clone.validate().ok()) {
        assert!(clone.ssh_keys.len() <= 16);
    }
    if let Some(size) = json_reads_back::<ResizeVm>(data).and_then(|it| it.validate().ok()) {
        assert!(size.size_errors("").is_empty());
    }
    if let Some(input) = json_reads_back::<ConsoleInput>(data)
        && input.validate().is_ok()
    {
        assert!((1..=4096).contains(&input.data.0.len()));
    }
}

/// The stream of a console gives the same however its bytes arrive, in order, and only what is signed.
fn console_stream(data: &[u8]) {
    let (Ok(key), Ok(other)) =
        (KeyPair::from_secret_bytes([1; 32]), KeyPair::from_secret_bytes([2; 32]))
    else {
        return;
    };
    let read = |signer: KeyId, piece: usize| {
        let mut reader = ConsoleReader::new(signer, &Nonce::from_bytes([4; 16]));
        let mut pieces: Vec<ConsoleOutput> = Vec::new();
        for bytes in data.chunks(piece) {
            if reader.push(bytes, &mut pieces).is_err() {
                break;
            }
        }
        pieces
    };
    let (slow, whole) = (read(key.id(), 1), read(key.id(), data.len().max(1)));
    assert_eq!(slow, whole);
    assert!(slow.iter().zip(1..).all(|(piece, number)| piece.number == number));
    assert!(read(other.id(), 7).is_empty(), "somebody else's");
}

/// What a provider says to a requestor, who trusts it with little.
fn provider_replies(data: &[u8]) {
    json_reads_back::<Vm>(data);
    json_reads_back::<VmAccess>(data);
    json_reads_back::<VmStats>(data);
    json_reads_back::<Operation>(data);
    json_reads_back::<ProviderInfo>(data);
    json_reads_back::<VmEvents>(data);
    json_reads_back::<VmSnapshots>(data);
    json_reads_back::<ConsoleLog>(data);
    json_reads_back::<ConsoleOutput>(data);
    json_reads_back::<StreamedEvent>(data);
    json_reads_back::<ExtendLease>(data);
    if let Some(undelete) = json_reads_back::<UndeleteVm>(data)
        && undelete.validate().is_ok()
    {
        assert!(undelete.duration_seconds.is_none_or(|seconds| seconds > 0));
    }
}

/// A stream gives the same however its bytes arrive, and only events that are signed, of one VM, and in order;
/// somebody else's give nothing.
fn event_stream(data: &[u8]) {
    let (Ok(key), Ok(other), Ok(vm)) = (
        KeyPair::from_secret_bytes([1; 32]),
        KeyPair::from_secret_bytes([2; 32]),
        "my-webserver".parse::<VmRef>(),
    ) else {
        return;
    };
    let read = |signer: KeyId, piece: usize| {
        let mut reader = StreamReader::new(signer, Nonce::from_bytes([4; 16]), &vm, 0);
        let mut events: Vec<VmEvent> = Vec::new();
        for bytes in data.chunks(piece) {
            if reader.push(bytes, &mut events).is_err() {
                break;
            }
        }
        assert_eq!(reader.last(), events.last().map_or(0, |event| event.number));
        events
    };
    // Bytes before a fault in the same piece are not given.
    let (slow, whole) = (read(key.id(), 1), read(key.id(), data.len().max(1)));
    assert!(slow.starts_with(&whole), "{slow:?} and {whole:?}");
    assert!(
        slow.windows(2)
            .all(|pair| { pair[1].number == pair[0].number + 1 && pair[0].vm_id == pair[1].vm_id })
    );
    assert!(read(other.id(), 7).is_empty(), "somebody else's");
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(number) = event_number(text)
    {
        assert_eq!(text.trim_start_matches('0').parse().unwrap_or(0), number);
    }
}

fn problem(data: &[u8]) {
    if let Some(problem) = json_reads_back::<Problem>(data) {
        assert!(printable(&problem.detail, 600).chars().count() <= 601);
    }
}

fn port_check(data: &[u8]) {
    json_reads_back::<CheckPortsResponse>(data);
    let Some(request) = json_reads_back::<CheckPortsRequest>(data) else { return };
    if let Ok(ports) = request.valid_ports() {
        assert!(ports.iter().all(|port| *port != 0));
    }
}

/// Lines of the port proof have one spelling, are short, and a stream of them is bounded.
fn port_proof(data: &[u8]) {
    let whole = Opening::of(data);
    assert!(whole == Opening::of(data.get(..4).unwrap_or(data)));
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(challenge) = Challenge::parse(line) {
            assert_eq!(challenge.to_string().trim_end().as_bytes(), line, "two spellings");
            assert_eq!(Opening::of(line), Opening::Challenge);
            let here = std::net::SocketAddr::from(([192, 0, 2, 1], 50_800));
            if let Ok(key) = KeyPair::from_secret_bytes([6; 32]) {
                let proof = challenge.answer(&key, here).to_string();
                let again =
                    Proof::parse(proof.trim_end().as_bytes()).map(|proof| proof.to_string());
                assert_eq!(again.as_ref().map(|text| text.trim_end()), Ok(proof.trim_end()));
            }
        }
        if let Ok(proof) = Proof::parse(line) {
            assert_eq!(proof.to_string().trim_end().as_bytes(), line, "two spellings");
        }
    }
    let mut scan = ProofScan::default();
    for piece in data.chunks(7) {
        scan.push(piece);
    }
    assert!(scan.is_full() || data.len() < 64 * 1024);
    assert!(scan.count() <= data.len());
}

/// An attestation is written as it was read; ports are ports.
fn port_attestation(data: &[u8]) {
    json_reads_back::<PortAttestation>(data);
    if let Ok(text) = std::str::from_utf8(data) {
        reads_back::<PortRanges>(text);
    }
}

/// A moment has one value, whatever its spelling, and arithmetic on it never fails.
fn timestamps(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(moment) = reads_back::<Timestamp>(text) {
        let later = moment.plus(std::time::Duration::from_secs(u64::MAX));
        assert!(later >= moment);
        assert!(moment.since(later).is_zero());
        let naive = moment.naive();
        let json = serde_json::to_string(&naive).unwrap_or_default();
        assert_eq!(serde_json::from_str::<NaiveUtc>(&json).ok(), Some(naive));
    }
    if let Ok(seconds) = seconds_of(text) {
        assert_eq!(seconds_of(&format!("{seconds}s")), Ok(seconds), "{text:?}");
    }
}

/// Whatever is printed through [`printable`] is one bounded, harmless line.
fn foreign_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for max in [0, 1, 16, 600] {
        let shown = printable(&text, max);
        assert!(shown.chars().count() <= max + 1);
        assert!(is_printable(&shown, max + 1), "{shown:?}");
        assert_eq!(is_printable(&text, max), shown == text);
        assert!(!shown.contains(['\u{1b}', '\n', '\r', '\u{202e}', '\u{9b}']));
    }
}
