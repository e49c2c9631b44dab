#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> KeyPair {
    KeyPair::from_secret_bytes([byte; 32]).unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const HERE: &str = "192.0.2.1:50800";

fn challenge() -> Challenge {
    Challenge::new(Nonce::from_bytes([4; 16]), key(2).id(), at(HERE))
}

#[test]
fn the_providers_answer_proves_its_port() {
    let challenge = Challenge::parse(challenge().to_string().as_bytes()).unwrap();
    let line = challenge.answer(&key(1), at("10.0.0.5:50800")).to_string();
    let proof = Proof::parse(line.as_bytes()).unwrap();
    assert_eq!(proof.verify(&challenge, at(HERE), key(1).id()), Ok(()));
    assert!(line.len() < MAX_LINE && challenge.to_string().len() < MAX_LINE);
}

#[test]
fn a_proof_is_good_for_one_key_nonce_checker_address_and_port() {
    let good = challenge();
    let proof = good.answer(&key(1), at(HERE));
    let refused = |proof: Proof, challenge: Challenge, dialled: &str| {
        proof.verify(&challenge, at(dialled), key(1).id()).unwrap_err()
    };
    let other = good.answer(&key(3), at(HERE));
    assert_eq!(refused(other, good, HERE), ProofError::OtherProvider(key(3).id()));
    // Another key's signature under this provider's name.
    let forged = Proof { provider: key(1).id(), ..other };
    assert_eq!(refused(forged, good, HERE), ProofError::Signature);
    let renonced = Challenge { nonce: Nonce::from_bytes([5; 16]), ..good };
    assert_eq!(refused(proof, renonced, HERE), ProofError::Signature);
    let elsewhere = Challenge { checker: key(9).id(), ..good };
    assert_eq!(refused(proof, elsewhere, HERE), ProofError::Signature);
    for dialled in ["192.0.2.2:50800", "192.0.2.1:50801"] {
        assert_eq!(refused(proof, good, dialled), ProofError::Signature);
        let moved = Challenge::new(good.nonce, good.checker, at(dialled));
        assert_eq!(refused(proof, moved, dialled), ProofError::Signature);
    }
}

#[test]
fn without_an_address_the_proof_is_for_where_the_line_arrived() {
    let short = Challenge { dialled: None, ..challenge() };
    let read = Challenge::parse(short.to_string().as_bytes()).unwrap();
    assert_eq!(read, short);
    let proof = read.answer(&key(1), at("[::ffff:192.0.2.1]:50800"));
    assert_eq!(proof.verify(&read, at(HERE), key(1).id()), Ok(()));
    assert_eq!(proof.verify(&read, at("192.0.2.1:1"), key(1).id()), Err(ProofError::Signature));
}

#[test]
fn lines_have_one_form() {
    let nonce = "BAQEBAQEBAQEBAQEBAQEBA";
    let id = key(2).id();
    let read = |rest: &str| Challenge::parse(format!("{TAG} {rest}").as_bytes());
    assert!(read(&format!("{nonce} {id}")).is_ok());
    assert!(read(&format!("{nonce} {id} 2001:db8::1 1")).is_ok());
    let cases = [
        (String::new(), LineError::Words),
        (nonce.to_owned(), LineError::Words),
        (format!("{nonce} {id} 192.0.2.1"), LineError::Words),
        (format!("{nonce} {id} 192.0.2.1 1 1"), LineError::Words),
        (format!("{nonce}  {id}"), LineError::Words),
        (format!("{nonce} {id}\r"), LineError::Id),
        (format!("{nonce}A {id}"), LineError::Nonce),
        (format!("{nonce}== {id}"), LineError::Nonce),
        (format!("BAQEBAQEBAQEBAQEBAQEBB {id}"), LineError::Nonce),
        (format!("{nonce} {}", "y".repeat(51)), LineError::Id),
        (format!("{nonce} {id} 192.0.2.1 0"), LineError::Address),
        (format!("{nonce} {id} 192.0.2.1 065"), LineError::Address),
        (format!("{nonce} {id} 192.0.2.1 65536"), LineError::Address),
        (format!("{nonce} {id} ::ffff:192.0.2.1 5"), LineError::Address),
        (format!("{nonce} {id} 2001:DB8::1 5"), LineError::Address),
        (format!("{nonce} {id} localhost 5"), LineError::Address),
    ];
    for (rest, error) in cases {
        assert_eq!(read(&rest), Err(error), "{rest}");
    }
    assert_eq!(Challenge::parse(b"GOLEM-PORT-PROOF/2 x y"), Err(LineError::Tag));
    assert_eq!(Challenge::parse(b"GET / HTTP/1.1"), Err(LineError::Tag));
    assert_eq!(Challenge::parse(&[b'x'; MAX_LINE]), Err(LineError::TooLong));
    assert_eq!(Proof::parse(format!("{TAG} {id} AAAA").as_bytes()), Err(LineError::Signature));
    assert_eq!(Proof::parse(format!("{TAG} {id}").as_bytes()), Err(LineError::Words));
}

#[test]
fn a_line_is_bounded() {
    assert_eq!(first_line(b"ab"), Ok(None));
    assert_eq!(first_line(b"ab\ncd\n"), Ok(Some(b"ab".as_slice())));
    let mut long = vec![b'x'; MAX_LINE - 1];
    assert_eq!(first_line(&long), Ok(None));
    long.push(b'\n');
    assert_eq!(first_line(&long).unwrap().unwrap().len(), MAX_LINE - 1);
    long.insert(0, b'x');
    assert_eq!(first_line(&long), Err(LineError::TooLong));
}

#[test]
fn the_first_four_bytes_decide() {
    for undecided in ["", "S", "SSH", "G", "GOL"] {
        assert_eq!(Opening::of(undecided.as_bytes()), Opening::Undecided, "{undecided}");
    }
    assert_eq!(Opening::of(b"SSH-"), Opening::Ssh);
    assert_eq!(Opening::of(TAG.as_bytes()), Opening::Challenge);
    for other in ["s", "SSh", "GET ", "\0", "HTTP"] {
        assert_eq!(Opening::of(other.as_bytes()), Opening::Other, "{other}");
    }
}

fn scanned(bytes: &[u8]) -> Vec<Proof> {
    let mut scan = ProofScan::default();
    scan.push(bytes);
    scan.by_ref().collect()
}

#[test]
fn proofs_are_found_behind_a_banner_and_within_bounds() {
    let proof = challenge().answer(&key(1), at(HERE));
    assert_eq!(scanned(format!("{proof}\n").as_bytes()), [proof]);
    let banner = "SSH-2.0-OpenSSH_9.2p1\r\n";
    assert_eq!(scanned(format!("{banner}{proof}\n{proof}\n").as_bytes()), [proof; 2]);
    assert_eq!(scanned(format!("{TAG} nonsense\n{proof}\n").as_bytes()), [proof]);
    // Not without its end, not inside a line, and not behind more than is read.
    assert_eq!(scanned(proof.to_string().as_bytes()), []);
    assert_eq!(scanned(format!("x{proof}\n").as_bytes()), []);
    let far = format!("{}\n{proof}\n", "x".repeat(MAX_REPLY));
    assert_eq!(scanned(far.as_bytes()), []);
    // In pieces; each line is given once.
    let mut scan = ProofScan::default();
    let text = format!("{banner}{proof}\n");
    let found: Vec<Proof> = text
        .bytes()
        .filter_map(|byte| {
            scan.push(&[byte]);
            scan.next()
        })
        .collect();
    assert_eq!(found, [proof]);
    scan.push(&[b'x'; MAX_REPLY]);
    assert!(scan.is_full() && scan.next().is_none());
}

proptest! {
    #[test]
    fn no_bytes_upset_the_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (Opening::of(&bytes), first_line(&bytes), scanned(&bytes));
        let mut line = format!("{TAG} ").into_bytes();
        line.extend_from_slice(&bytes);
        for line in [&bytes, &line] {
            if let Ok(challenge) = Challenge::parse(line) {
                let text = challenge.to_string();
                prop_assert_eq!(text.as_bytes(), line.as_slice());
            }
            if let Ok(proof) = Proof::parse(line) {
                let text = proof.to_string();
                prop_assert_eq!(text.as_bytes(), line.as_slice());
            }
        }
    }

    #[test]
    fn every_challenge_reads_back(nonce: [u8; 16], v6: bool, ip: u128, port in 1_u16..) {
        let ip: IpAddr = if v6 {
            std::net::Ipv6Addr::from(ip).into()
        } else {
            std::net::Ipv4Addr::from((ip & 0xffff_ffff) as u32).into()
        };
        let challenge = Challenge::new(Nonce::from_bytes(nonce), key(2).id(), SocketAddr::new(ip, port));
        prop_assert_eq!(Challenge::parse(challenge.to_string().as_bytes()), Ok(challenge));
    }
}
