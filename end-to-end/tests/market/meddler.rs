//! Somebody on the path between `golem` and the provider alters, drops, forges, repeats and keeps back what they say. Whatever it is:
//! no VM is forgotten, none is made twice, and each intention is obeyed once at most.

use std::time::{Duration, Instant};

use golem_vm_end_to_end::{
    Market, Meddler, Meddling, Message, Outcome, PortRange, ProviderOptions, Requestor, carry,
};

/// Where the provider is; requestors know it as 127.0.0.1, where the meddler is.
const BEHIND: &str = "127.0.0.77";

struct Path {
    market: Market,
    meddler: Meddler,
    requestor: Requestor,
}

impl Path {
    fn new() -> Self {
        let api = PortRange::find(1).first;
        let ports = PortRange::find(3);
        let meddler = Meddler::before_api(BEHIND, api);
        ports.ports().for_each(|port| carry(BEHIND, port));
        let options = ProviderOptions::default()
            .with("GOLEM_PROVIDER_HOST", BEHIND)
            .with("GOLEM_PROVIDER_PORT", &api.to_string())
            .with("GOLEM_PROVIDER_PORT_RANGE_START", &ports.first.to_string())
            .with("GOLEM_PROVIDER_PORT_RANGE_END", &ports.end().to_string());
        let market = Market::with_providers(&[options]);
        let requestor = market.requestor();
        Self { market, meddler, requestor }
    }

    /// With this done to the next request that begins so, runs `golem`; then the path is clear again.
    fn golem(&self, begins: &str, meddling: Meddling, arguments: &[&str]) -> Outcome {
        self.meddler.once(begins, meddling);
        let outcome = self.requestor.golem(arguments);
        self.meddler.pass();
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
        outcome
    }

    /// What `golem` lists is what there is: these.
    fn are(&self, names: &[&str], after: &str) {
        let listed = self.requestor.vms();
        let mut found: Vec<_> = listed.iter().map(|vm| vm["name"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, names, "{after}: {listed:?}");
        assert_eq!(self.market.instances(), names.len(), "{after}");
    }
}

fn altered(request: &Message, change: impl FnOnce(&mut Message)) -> Meddling {
    let mut other = request.clone();
    change(&mut other);
    Meddling::Instead(other)
}

#[test]
fn a_create_makes_one_vm_whatever_is_done_to_it() {
    let path = Path::new();
    let vm_not_found = r#"{"type":"urn:golem:problem:vm_not_found","title":"t","status":404,"detail":"Not Found","code":"vm_not_found"}"#;
    // What is asked again, and gives the one VM.
    for (name, meddling) in [
        ("the reply to the create is lost", Meddling::LoseReply),
        ("it is cut in the middle", Meddling::CutReply(200)),
        ("a second copy is refused, and that is handed over", Meddling::Twice),
        ("an altered copy is refused, and that is handed over", Meddling::CopyFirst),
        ("it never gets there", Meddling::Lose),
    ] {
        let outcome = path.golem("POST /api/v1/vms?", meddling, &["vm", "create", "box"]);
        assert_eq!(outcome.code, 0, "{name}: {outcome}");
        path.are(&["box"], name);
        path.requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
        path.are(&[], name);
    }
    // What is no answer of the provider's: nothing is believed, and what was made is destroyed.
    for (name, meddling) in [
        ("a forged 404", Meddling::ObeyAndAnswer(Message::forged("404 Not Found", vm_not_found))),
        ("a forged 401", Meddling::ObeyAndAnswer(Message::forged("401 Unauthorized", "{}"))),
        ("a forged 500", Meddling::Answer(Message::forged("500 Internal Server Error", ""))),
        ("another status", Meddling::Reply(|reply| reply.first = "HTTP/1.1 409 Conflict".into())),
        ("another id in the reply", Meddling::Reply(|reply| reply.body[30] ^= 1)),
    ] {
        let outcome = path.golem("POST /api/v1/vms?", meddling, &["vm", "create", "box"]);
        assert_eq!(outcome.code, 6, "{name}: {outcome}");
        // Listing it is what looks after what was left.
        path.are(&[], name);
    }
    path.market.close();
}

#[test]
fn a_vm_is_neither_forgotten_nor_changed_by_somebody_in_between() {
    let path = Path::new();
    let requestor = &path.requestor;
    requestor.rent("box");
    let id = requestor.vm("box")["vm_id"].as_str().unwrap().to_owned();

    // A destroy that is kept back until it is too late.
    path.meddler.once("DELETE", Meddling::Lose);
    requestor.golem(&["vm", "destroy", "box", "--yes"]).failed(4);
    path.meddler.pass();
    let kept_back = Instant::now();
    let kept = path.meddler.seen().into_iter().rfind(|(m, _)| m.first.starts_with("DELETE"));
    let kept = kept.unwrap().0;
    path.are(&["box"], "a destroy that was lost");

    // Each part of a request that is altered: refused, nothing is done, nothing forgotten.
    let vm_path = format!("/api/v1/vms/{id}");
    type Change = Box<dyn Fn(&mut Message) + Send>;
    let changes: Vec<(&str, Change)> = vec![
        ("the method", Box::new(|m| m.first = m.first.replace("POST", "DELETE"))),
        ("the path", {
            let stop = format!("{vm_path}/stop");
            Box::new(move |m| m.first = m.first.replace(&stop, &vm_path))
        }),
        ("the query", Box::new(|m| m.first = m.first.replace(" HTTP", "?force=1 HTTP"))),
        ("the body", Box::new(|m| m.body = b"{}".to_vec())),
        ("whom it is for", Box::new(|m| m.set("golem-recipient", "127.0.0.1:1"))),
        ("the digest", Box::new(|m| m.set("content-digest", "sha-256=:AAAA:"))),
        ("when it was signed", {
            Box::new(|m| {
                let input = m.header("signature-input").unwrap().replace("created=1", "created=2");
                m.set("signature-input", &input);
            })
        }),
        (
            "its signature, cut out",
            Box::new(|m| m.headers.retain(|(n, _)| !n.starts_with("signature"))),
        ),
        ("an idempotency key, added", Box::new(|m| m.set("idempotency-key", "k"))),
    ];
    for (what, change) in changes {
        path.meddler.set(move |request| {
            if request.first.starts_with("POST") {
                altered(request, &change)
            } else {
                Meddling::Pass
            }
        });
        let outcome = requestor.golem(&["vm", "stop", "box"]);
        assert_eq!(outcome.code, 6, "{what}: {outcome}");
        path.meddler.pass();
        assert_eq!(requestor.vm("box")["status"], "running", "{what}");
    }

    // Replies that are not the provider's to this very request.
    let not_found = r#"{"type":"urn:golem:problem:vm_not_found","title":"t","status":404,"detail":"Not Found","code":"vm_not_found"}"#;
    let old_reply = {
        // An answer of the provider's, signed, to another question: that there is no such VM.
        let mut question = None;
        requestor.golem(&["vm", "list", "--json"]).done();
        for (request, reply) in path.meddler.seen() {
            if request.first.starts_with("GET") && reply.is_some() {
                question = reply;
            }
        }
        question.unwrap()
    };
    for (what, meddling) in [
        ("a forged 404", Meddling::Answer(Message::forged("404 Not Found", not_found))),
        ("a forged 401", Meddling::Answer(Message::forged("401 Unauthorized", not_found))),
        ("a forged empty list", Meddling::Answer(Message::forged("200 OK", "[]"))),
        ("another status", Meddling::Reply(|reply| reply.first = "HTTP/1.1 404 Not Found".into())),
        ("another body", Meddling::Reply(|reply| reply.body = b"[]".to_vec())),
        ("the reply to an earlier request", Meddling::Answer(old_reply.clone())),
        ("no reply", Meddling::LoseReply),
    ] {
        for (begins, arguments) in [
            ("GET", &["vm", "list", "--json"][..]),
            ("GET", &["vm", "info", "box"]),
            ("POST", &["vm", "restart", "box"]),
            ("DELETE", &["vm", "destroy", "box", "--yes"]),
        ] {
            let obeyed = matches!(meddling, Meddling::Reply(_) | Meddling::LoseReply);
            if begins == "DELETE" && obeyed {
                continue;
            }
            let outcome = path.golem(begins, meddling.clone(), arguments);
            assert!(begins == "GET" || [4, 6].contains(&outcome.code), "{what}: {outcome}");
            assert_eq!(requestor.vm("box")["vm_id"], id, "{what}, {arguments:?}");
        }
    }

    // Sent twice, a request is obeyed once.
    let before = path.meddler.seen().len();
    let outcome = path.golem("POST", Meddling::Twice, &["vm", "stop", "box"]);
    assert_ne!(outcome.code, 0, "the refusal of the copy is no success: {outcome}");
    let (request, first) = path.meddler.seen()[before].clone();
    assert_eq!(first.unwrap().status(), Some(200));
    assert_eq!(path.meddler.send(&request).unwrap().status(), Some(401), "a third time");
    assert_eq!(requestor.vm("box")["status"], "stopped");
    requestor.golem(&["vm", "start", "box"]).done();

    // The destroy from the beginning, now that it is too old.
    std::thread::sleep(Duration::from_secs(62).saturating_sub(kept_back.elapsed()));
    let late = path.meddler.send(&kept).unwrap();
    let body = String::from_utf8(late.body.clone()).unwrap();
    assert!(late.status() == Some(401) && body.contains("clock_skew"), "{body}");
    path.are(&["box"], "a late destroy");

    // A destroy whose reply is lost was obeyed; the next one finds nothing, which is as good.
    path.golem("DELETE", Meddling::LoseReply, &["vm", "destroy", "box", "--yes"]).failed(4);
    requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
    path.are(&[], "a destroy whose reply was lost");
    path.market.close();
}
