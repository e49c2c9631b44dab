//! A registry with one image in it, on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};

struct Content {
    media_type: &'static str,
    bytes: Vec<u8>,
}

/// Serves `<address>/test/tiny:v1` until the test's process ends.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    /// Digest of the manifest, as in `name@sha256:…`.
    pub(crate) manifest: String,
    /// The engine's id of the image.
    pub(crate) image: String,
}

impl Registry {
    /// `salt` makes the image one that no other test has.
    pub(crate) fn start(salt: &str) -> Self {
        Self::with_settings(salt, &json!({}))
    }

    /// The same, of an image with these settings of its own.
    pub(crate) fn with_settings(salt: &str, settings: &serde_json::Value) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(salt.len()).unwrap());
        header.set_mode(0o644);
        tar.append_data(&mut header, "salt", salt.as_bytes()).unwrap();
        let layer = tar.into_inner().unwrap();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": settings,
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        })
        .to_string()
        .into_bytes();
        let described = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("application/vnd.oci.image.config.v1+json", &config),
            "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let (image, manifest_digest) = (digest(&config), digest(&manifest));
        let blob = |bytes| Content { media_type: "application/octet-stream", bytes };
        let contents = Arc::new([
            blob(layer),
            blob(config),
            Content { media_type: "application/vnd.oci.image.manifest.v1+json", bytes: manifest },
        ]);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let contents = Arc::clone(&contents);
                std::thread::spawn(move || serve(&stream, &contents[..]));
            }
        });
        Self { address, manifest: manifest_digest, image }
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// Answers one request, and closes.
fn serve(mut stream: &TcpStream, contents: &[Content]) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let _headers: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let wanted = path.rsplit('/').next().unwrap_or_default();
    let found = contents.iter().find(|content| {
        digest(&content.bytes) == wanted || (wanted == "v1" && content.media_type.contains("manif"))
    });
    let empty = Content { media_type: "application/json", bytes: b"{}".to_vec() };
    let (status, content) = match found {
        Some(content) => ("200 OK", content),
        None if path == "/v2/" => ("200 OK", &empty),
        None => ("404 Not Found", &empty),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
         Docker-Content-Digest: {}\r\nDocker-Distribution-API-Version: registry/2.0\r\n\
         Connection: close\r\n\r\n",
        content.media_type,
        content.bytes.len(),
        digest(&content.bytes),
    );
    let _ = stream.write_all(head.as_bytes());
    if method == "GET" {
        let _ = stream.write_all(&content.bytes);
    }
}
