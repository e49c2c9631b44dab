//! The original's check.

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::port_check::{CheckPortsResponse, MAX_PORTS};
use serde_json::json;

use super::*;

const PATH: &str = "/check-ports";

#[tokio::test]
async fn it_is_off_unless_the_operator_allows_it() {
    let strict = checker(false).await;
    let (_held, port) = open_port().await;
    for body in [json!({"provider_ip": "127.0.0.1", "ports": [port]}), json!("anything")] {
        let reply = strict.unsigned(PATH, &body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.problem().code),
            (401, ErrorCode::SignatureRequired)
        );
        let reply = strict.signed(PATH, &body).await.reply;
        assert_eq!((reply.status.as_u16(), reply.problem().code), (403, ErrorCode::Forbidden));
        assert!(reply.problem().detail.contains("/api/v1/port-checks"));
    }
}

#[tokio::test]
async fn it_answers_as_the_original_and_is_marked_as_plain() {
    let checker = checker(true).await;
    let (_held, open) = open_port().await;
    let closed = closed_port().await;
    let body = json!({"provider_ip": "127.0.0.1", "ports": [open.to_string(), closed, open]});
    let value: Value = checker.unsigned(PATH, &body).await.json().unwrap();
    assert_eq!(
        value,
        json!({
            "success": true,
            "results": {
                open.to_string(): {"accessible": true, "error": null},
                closed.to_string(): {"accessible": false, "error": "Connection refused"},
            },
            "message": "Successfully verified 1 out of 2 ports",
            "checked_address": "127.0.0.1",
            "observed_address": "127.0.0.1",
            "checker_id": checker.id,
            "plain": true,
        })
    );
    // Signed or not, it is the same check.
    let reply = checker.signed(PATH, &body).await;
    assert_eq!(reply.signer, checker.id);
    assert!(reply.reply.json::<CheckPortsResponse>().unwrap().plain);
    let body = json!({"provider_ip": "127.0.0.1", "ports": []});
    let none: CheckPortsResponse = checker.unsigned(PATH, &body).await.json().unwrap();
    assert!(!none.success && none.results.is_empty());
    assert_eq!(none.message, "Successfully verified 0 out of 0 ports");
    let reply = checker.unsigned(PATH, &json!({"ports": [open]})).await;
    assert_eq!(
        (reply.status.as_u16(), reply.problem().errors[0].pointer.as_str()),
        (422, "/provider_ip")
    );
    // A bad signature is no unsigned request.
    let body = json!({"provider_ip": "127.0.0.1", "ports": [open]});
    let call = Call::post(PATH, &body).unwrap().header("signature", "sig1=:AAAA:");
    let reply = checker.client().call_unsigned(&checker.base, &call).await.unwrap();
    assert_eq!(reply.problem().code, ErrorCode::SignatureInvalid);
}

#[tokio::test]
async fn it_dials_no_private_address() {
    let checker = checker_with(|config, _| {
        config.allow_unsigned = true;
        config.allow_private = false;
    })
    .await;
    let (listener, port) = open_port().await;
    for inside in ["127.0.0.1", "::1", "localhost", "::ffff:127.0.0.1", "169.254.169.254"] {
        let reply = checker.unsigned(PATH, &json!({"provider_ip": inside, "ports": [port]})).await;
        let found = (reply.status.as_u16(), reply.problem().code);
        assert_eq!(found, (403, ErrorCode::Forbidden), "{inside}");
    }
    not_dialled(&listener).await;
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let checker = checker(true).await;
    let many: Vec<usize> = (1..=MAX_PORTS + 1).collect();
    let cases = [
        (json!({"ports": [0]}), 422, "Invalid port number: 0"),
        (json!({"ports": [80, 65536]}), 422, "Invalid port number: 65536"),
        (json!({"ports": [-1]}), 422, "Invalid port number: -1"),
        (json!({"ports": ["x"]}), 422, "not a valid integer"),
        (json!({}), 422, "ports"),
        (json!([]), 422, ""),
        (json!({"ports": many}), 422, "at most 1024"),
        (json!({"ports": ["1".repeat(40_000)]}), 413, "32768"),
    ];
    for (body, status, said) in cases {
        let reply = checker.unsigned(PATH, &body).await;
        assert_eq!(reply.status, status);
        assert!(reply.problem().detail.contains(said), "{}", reply.problem().detail);
    }
    for path in [PATH, "/api/v1/port-checks"] {
        let reply = checker.client().call_unsigned(&checker.base, &Call::get(path)).await.unwrap();
        assert_eq!(reply.problem().code, ErrorCode::MethodNotAllowed);
    }
    let reply = checker.client().call_unsigned(&checker.base, &Call::get("/docs")).await.unwrap();
    assert_eq!(reply.problem().code, ErrorCode::NotFound);
}
