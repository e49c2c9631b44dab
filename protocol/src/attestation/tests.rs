#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::KeyPair;

fn key(byte: u8) -> KeyPair {
    KeyPair::from_secret_bytes([byte; 32]).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(1_795_221_196 + seconds)
}

fn word() -> PortAttestation {
    PortAttestation {
        provider_id: key(1).id(),
        host: "192.0.2.1".into(),
        ports: PortRanges::fitting([7466, 50800, 50801]),
        observed_at: at(0),
        expires_at: at(1800),
    }
}

fn claim<'a>() -> Claim<'a> {
    Claim {
        provider: key(1).id(),
        host: "192.0.2.1",
        ports: &[7466],
        now: at(60),
        accepted: AcceptedCheckers::Any,
    }
}

fn judged(word: &PortAttestation, claim: &Claim<'_>) -> Result<Attested, AttestationError> {
    PortAttestation::verify(&Envelope::seal(word, &key(2)).unwrap(), claim)
}

#[test]
fn it_counts_for_its_provider_host_ports_and_time() {
    let attested = judged(&word(), &claim()).unwrap();
    assert_eq!((attested.checker, &attested.attestation), (key(2).id(), &word()));
    let mapped = Claim { host: "::ffff:192.0.2.1", ports: &[], ..claim() };
    assert!(judged(&word(), &mapped).is_ok());
    let named = PortAttestation { host: "vm.Example".into(), ..word() };
    assert!(judged(&named, &Claim { host: "VM.example", ..claim() }).is_ok());
    let known = [key(9).id(), key(2).id()];
    let accepted = AcceptedCheckers::Only(&known);
    assert!(judged(&word(), &Claim { accepted, ..claim() }).is_ok());
}

#[test]
fn it_counts_for_nothing_else() {
    let refused = |word: &PortAttestation, claim: Claim<'_>| judged(word, &claim).unwrap_err();
    let other = key(3).id();
    assert_eq!(
        refused(&word(), Claim { provider: other, ..claim() }),
        AttestationError::OtherProvider(key(1).id())
    );
    for host in ["192.0.2.2", "vm.example", ""] {
        let error = refused(&word(), Claim { host, ..claim() });
        assert_eq!(error, AttestationError::OtherHost("192.0.2.1".into()), "{host}");
    }
    assert_eq!(
        refused(&word(), Claim { ports: &[7466, 50802], ..claim() }),
        AttestationError::Port(50802)
    );
    assert_eq!(
        refused(&word(), Claim { now: at(1800), ..claim() }),
        AttestationError::Expired(at(1800))
    );
    for (observed, expires) in [(300, 1800), (0, 0), (0, 24 * 3600 + 1)] {
        let word = PortAttestation { observed_at: at(observed), expires_at: at(expires), ..word() };
        let error = refused(&word, claim());
        assert_eq!(error, AttestationError::Times(at(observed), at(expires)));
    }
    let accepted = AcceptedCheckers::Only(&[]);
    assert_eq!(
        refused(&word(), Claim { accepted, ..claim() }),
        AttestationError::Checker(key(2).id())
    );
}

#[test]
fn a_forged_one_is_not_genuine() {
    let envelope = Envelope::seal(&word(), &key(2)).unwrap();
    let renamed = Envelope { keyid: key(3).id(), ..envelope.clone() };
    let wider = Envelope::seal(
        &PortAttestation { ports: PortRanges::fitting(1..=65535), ..word() },
        &key(2),
    );
    let grafted = Envelope { payload: wider.unwrap().payload, ..envelope.clone() };
    let long = Envelope { payload: "A".repeat(MAX_PAYLOAD_TEXT + 1), ..envelope };
    for forged in [renamed, grafted, long] {
        let error = PortAttestation::verify(&forged, &claim()).unwrap_err();
        assert!(matches!(error, AttestationError::Document(_)), "{error}");
    }
}

#[test]
fn the_usual_one_has_a_few_hundred_bytes() {
    let usual = PortRanges::fitting((50_800..50_900).chain([7466]));
    let envelope = Envelope::seal(&PortAttestation { ports: usual, ..word() }, &key(2)).unwrap();
    let size = serde_json::to_string(&envelope).unwrap().len();
    assert!(size < 600, "{size}");
    // The longest one is still read.
    let scattered = PortRanges::fitting((50_800..60_000).step_by(2));
    let host = "a".repeat(253);
    let longest = PortAttestation { ports: scattered, host: host.clone(), ..word() };
    assert!(judged(&longest, &Claim { host: &host, ports: &[], ..claim() }).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_upset_the_reader(payload in "[A-Za-z0-9_-]{0,200}", signature in "[A-Za-z0-9_-]{86}") {
        let envelope = Envelope { payload, keyid: key(2).id(), signature };
        prop_assert!(PortAttestation::verify(&envelope, &claim()).is_err());
    }

    #[test]
    fn no_byte_can_be_altered(at in 0_usize.., with in any::<u8>()) {
        let envelope = Envelope::seal(&word(), &key(2)).unwrap();
        let mut text = serde_json::to_vec(&envelope).unwrap();
        let at = at % text.len();
        prop_assume!(text[at] != with);
        text[at] = with;
        if let Ok(read) = serde_json::from_slice::<Envelope>(&text) {
            prop_assert!(PortAttestation::verify(&read, &claim()).is_err() || read == envelope);
        }
    }
}
