//! What the standards themselves give as examples, where our profile uses the same algorithm: keys and
//! signatures of RFC 8032, digests of RFC 9530, a request signed with Ed25519 of RFC 9421; and
//! signatures that a lenient verifier would take.
#![allow(clippy::unwrap_used)]

use data_encoding::{BASE64, HEXLOWER};
use golem_vm_protocol::signature::{RequestParts, content_digest, verify_request};
use golem_vm_protocol::{KeyId, KeyPair};
use http::{HeaderMap, HeaderName, HeaderValue};

fn hex<const N: usize>(text: &str) -> [u8; N] {
    HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

/// RFC 8032, 7.1: secret key, public key, message, signature.
const RFC_8032: [[&str; 4]; 4] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
    [
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ],
];

#[test]
fn signatures_are_those_of_rfc_8032() {
    for [secret, public, message, signature] in RFC_8032 {
        let key = KeyPair::from_secret_bytes(hex(secret)).unwrap();
        let message = HEXLOWER.decode(message.as_bytes()).unwrap();
        assert_eq!(key.id().as_bytes(), &hex::<32>(public));
        assert_eq!(key.sign(&message), hex::<64>(signature));
        assert!(key.id().verifies(&message, &hex(signature)));
        assert!(!key.id().verifies(b"another message", &hex(signature)));
    }
}

/// The order of the group, little-endian (RFC 8032, 5.1): 2^252 + 27742317777372353535851937790883648493.
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

#[test]
fn a_signature_has_one_form() {
    let [_, public, message, signature] = RFC_8032[1];
    let key = KeyId::from_bytes(hex(public)).unwrap();
    let message = HEXLOWER.decode(message.as_bytes()).unwrap();
    let good: [u8; 64] = hex(signature);
    assert!(key.verifies(&message, &good));

    // S + L fits the equation as well as S.
    let mut malleated = good;
    let mut carry = 0;
    for (byte, add) in malleated[32..].iter_mut().zip(hex::<32>(ORDER)) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    assert_ne!(malleated, good);
    assert!(!key.verifies(&message, &malleated));

    for bit in 0..512 {
        let mut flipped = good;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!key.verifies(&message, &flipped), "bit {bit}");
    }
}

#[test]
fn keys_and_points_of_small_order_are_refused() {
    // The points of order 1, 2, 4 and 8, and the other spellings of those that have one.
    for point in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let point: [u8; 32] = hex(point);
        assert!(KeyId::from_bytes(point).is_err(), "{point:?} is taken for a key");
        // As R, with S = 0: good for every message under a key of small order, for none under ours.
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&point);
        let key = KeyId::from_bytes(hex(RFC_8032[0][1])).unwrap();
        assert!(!key.verifies(b"", &signature));
    }
}

#[test]
fn digests_are_those_of_rfc_9530() {
    for (body, digest) in [
        // Appendix B.1, and B.2 for the empty body.
        ("{\"hello\": \"world\"}\n", "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg="),
        ("", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
        // The body of the examples in RFC 9421.
        ("{\"hello\": \"world\"}", "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="),
    ] {
        assert_eq!(content_digest(body.as_bytes()), format!("sha-256=:{digest}:"));
    }
}

/// RFC 9421, appendix B.2.6, with the key `test-key-ed25519` of B.1.4.
const B_2_6_INPUT: &str = "(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \
    \"content-length\");created=1618884473;keyid=\"test-key-ed25519\"";
const B_2_6_SIGNATURE: &str =
    "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==";

#[test]
fn ed25519_is_that_of_rfc_9421() {
    // The last 32 bytes of the PKCS #8 and SPKI forms in the RFC.
    let secret =
        BASE64.decode(b"MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF").unwrap();
    let public =
        BASE64.decode(b"MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=").unwrap();
    let key = KeyPair::from_secret_bytes(secret[16..].try_into().unwrap()).unwrap();
    assert_eq!(key.id().as_bytes().as_slice(), &public[12..]);

    let base = format!(
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@method\": POST\n\"@path\": /foo\n\
         \"@authority\": example.com\n\"content-type\": application/json\n\
         \"content-length\": 18\n\"@signature-params\": {B_2_6_INPUT}"
    );
    let signature = BASE64.decode(B_2_6_SIGNATURE.as_bytes()).unwrap();
    assert_eq!(key.sign(base.as_bytes()).as_slice(), signature);
    assert!(key.id().verifies(base.as_bytes(), &signature.try_into().unwrap()));
}

#[test]
fn a_good_signature_of_another_profile_is_refused_and_no_unsigned_request() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("signature-input", format!("sig-b26={B_2_6_INPUT}")),
        ("signature", format!("sig-b26=:{B_2_6_SIGNATURE}:")),
        ("content-digest", content_digest(b"{\"hello\": \"world\"}")),
        ("golem-recipient", "example.com:80".to_owned()),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
    }
    let parts = RequestParts::new("POST", "/foo?param=Value&Pet=dog", b"{\"hello\": \"world\"}");
    assert!(verify_request(&parts, &headers).is_err());
}
