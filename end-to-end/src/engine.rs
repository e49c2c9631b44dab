//! A Docker Engine, asked over its API. The tests' own eyes: none of the providers' code is used.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// The label that every object of a provider carries.
const PROVIDER: &str = "golem.provider";

/// An engine behind a Unix socket.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// The one that all tests share.
    #[must_use]
    pub fn shared() -> Self {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let socket = host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock");
        Self::at(Path::new(socket))
    }

    /// The one at this socket.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes a call; the reply's status and body.
    #[must_use]
    pub fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let mut stream = UnixStream::connect(&self.socket)
            .unwrap_or_else(|error| panic!("no engine at {}: {error}", self.socket.display()));
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // HTTP/1.0: the reply is not chunked, and ends with the connection.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        let end = reply.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&reply[..end]).into_owned();
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, reply[end + 4..].to_vec())
    }

    /// A call with a JSON body that has to succeed; its result, null if there is none.
    pub fn json(&self, method: &str, path: &str, body: &Value) -> Value {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, reply) = self.call(method, path, "application/json", &bytes);
        assert!(status < 400, "{method} {path}: {status} {}", String::from_utf8_lossy(&reply));
        serde_json::from_slice(&reply).unwrap_or(Value::Null)
    }

    /// Asks for something.
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        self.json("GET", path, &Value::Null)
    }

    /// The containers of a provider, running or not.
    #[must_use]
    pub fn containers(&self, provider: &str) -> Vec<Value> {
        let filters = labelled(provider);
        self.get(&format!("/containers/json?all=1&filters={filters}")).as_array().unwrap().clone()
    }

    /// Everything that carries a provider's label or tag, each in a few words.
    #[must_use]
    pub fn traces_of(&self, provider: &str) -> Vec<String> {
        let filters = labelled(provider);
        let mut traces = Vec::new();
        for container in self.containers(provider) {
            traces.push(format!("container {}", container["Names"]));
        }
        for network in self.get(&format!("/networks?filters={filters}")).as_array().unwrap() {
            traces.push(format!("network {}", network["Name"]));
        }
        for volume in self.get(&format!("/volumes?filters={filters}"))["Volumes"]
            .as_array()
            .into_iter()
            .flatten()
        {
            traces.push(format!("volume {}", volume["Name"]));
        }
        let tag = format!(":{}", &provider[..12]);
        for image in self.get("/images/json?all=1").as_array().unwrap() {
            for name in image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str)
            {
                if name.starts_with("golem/") && name.ends_with(&tag) {
                    traces.push(format!("image {name}"));
                }
            }
        }
        traces
    }

    /// A container as the engine describes it.
    #[must_use]
    pub fn inspect(&self, container: &str) -> Value {
        self.get(&format!("/containers/{container}/json"))
    }
}

/// A filter for a provider's label, ready for a query.
fn labelled(provider: &str) -> String {
    let filters = json!({ "label": [format!("{PROVIDER}={provider}")] }).to_string();
    let mut escaped = String::new();
    for byte in filters.bytes() {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
