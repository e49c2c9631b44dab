//! A discovery server that lies about a real provider.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use golem_vm_end_to_end::{Market, eventually};
use serde_json::{Value, json};

#[test]
fn a_lying_discovery_server_is_named_and_never_gone_by() {
    let market = Market::with_one_provider();
    let requestor = market.requestor();
    let listed = || {
        let shown = requestor.golem(&["vm", "providers", "--json"]).done().json();
        shown["providers"][0].clone()
    };
    let honest = listed();
    let (liar, lies) = serve();
    let with_liar = |arguments: &[&str]| {
        requestor.golem(&[&["--discovery-url", liar.as_str()], arguments].concat())
    };

    let mut altered = honest.clone();
    let payload = altered["document"]["payload"].as_str().unwrap();
    let signature = altered["document"]["signature"].as_str().unwrap();
    assert!(payload.len() > 100 && signature.len() > 50);
    altered["document"]["payload"] = json!(format!("{}A", &payload[..payload.len() - 1]));
    *lies.lock().unwrap() = json!([altered]);
    with_liar(&["vm", "providers"]).done().says(&[&liar, "altered"]);
    with_liar(&["vm", "create", "box"]).failed(6).says(&[&liar, "altered"]);
    assert_eq!(market.instances(), 0);

    // An old one: good once, until a newer one was seen.
    *lies.lock().unwrap() = json!([honest]);
    with_liar(&["vm", "create", "box"]).done();
    eventually("the provider advertises what is left", || {
        let newer = listed()["document"]["payload"].clone();
        newer.is_string() && newer != honest["document"]["payload"]
    });
    with_liar(&["vm", "providers"]).done().says(&[&liar, "an old one"]);
    with_liar(&["vm", "create", "other"]).failed(6).says(&["an old one"]);
    assert_eq!(market.instances(), 1);
    market.close();
}

/// A server whose list is whatever it is told.
fn serve() -> (String, Arc<Mutex<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let lies = Arc::new(Mutex::new(json!([])));
    let list = Arc::clone(&lies);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = BufReader::new(stream.try_clone().unwrap());
            let _ = head.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            let body = list.lock().unwrap().to_string();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    (url, lies)
}
