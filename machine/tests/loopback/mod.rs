//! An HTTP server on loopback that does as it is told: serves, breaks off, stalls, lies.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What it does with the next request for a file; when nothing is left to do, it serves.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Breaks the connection after so many bytes.
    Cut(usize),
    /// Sends so many bytes and then nothing more.
    Stall(usize),
    /// Answers with this status.
    Status(u16),
    /// Answers with the first part, whichever was asked for.
    OtherPart,
    /// Answers as asked, with another file.
    OtherFile,
    /// Answers with the whole, whichever part was asked for.
    IgnoreRange,
    /// Sends so many bytes without having said how many.
    Chunked(usize),
}

/// The files that it has, what it will do, and what it was asked.
#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    acts: VecDeque<Act>,
    /// Path and `Range` of each request.
    asked: Vec<(String, Option<String>)>,
}

/// The server; it ends with the test.
#[derive(Clone)]
pub(crate) struct Server {
    root: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let root = format!("http://{}/", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let server = Self { root, state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&state)));
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    pub(crate) fn serve(&self, path: &str, content: Vec<u8>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), Arc::new(content));
    }

    /// What it does next, one for each request for a file that ends with `.img`.
    pub(crate) fn next(&self, acts: &[Act]) {
        self.state.lock().unwrap().acts.extend(acts.iter().cloned());
    }

    /// The ranges that were asked for of a file.
    pub(crate) fn ranges(&self, path: &str) -> Vec<Option<String>> {
        let state = self.state.lock().unwrap();
        let of = state.asked.iter().filter(|(asked, _)| asked == path);
        of.map(|(_, range)| range.clone()).collect()
    }
}

async fn head(stream: &mut TcpStream) -> Option<(String, Option<String>)> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(bytes).unwrap();
    let path = text.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let range = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("range").then(|| value.trim().to_owned())
    });
    Some((path, range))
}

async fn answer(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let Some((path, range)) = head(&mut stream).await else { return };
    let (content, act) = {
        let mut state = state.lock().unwrap();
        state.asked.push((path.clone(), range.clone()));
        let act = if path.ends_with(".img") { state.acts.pop_front() } else { None };
        (state.files.get(&path).cloned(), act)
    };
    let start = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    // A client that has gone is no failure.
    let _ = reply(&mut stream, content, start.unwrap_or(0), act).await;
    let _ = stream.shutdown().await;
}

async fn reply(
    stream: &mut TcpStream,
    content: Option<Arc<Vec<u8>>>,
    start: usize,
    act: Option<Act>,
) -> std::io::Result<()> {
    let Some(content) = content else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    };
    let total = content.len();
    let (start, body) = match act {
        Some(Act::OtherFile) => (start, Arc::new(vec![7; total])),
        Some(Act::OtherPart | Act::IgnoreRange) => (0, content),
        _ => (start, content),
    };
    match act {
        Some(Act::Status(status)) => {
            let head = format!("HTTP/1.1 {status} As Told\r\nContent-Length: 0\r\n\r\n");
            return stream.write_all(head.as_bytes()).await;
        }
        Some(Act::Chunked(bytes)) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            for _ in 0..bytes.div_ceil(65536) {
                stream.write_all(b"10000\r\n").await?;
                stream.write_all(&[5; 65536]).await?;
                stream.write_all(b"\r\n").await?;
            }
            return stream.write_all(b"0\r\n\r\n").await;
        }
        _ => {}
    }
    if start > total || (start == total && start > 0) {
        let head = format!(
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n\r\n"
        );
        return stream.write_all(head.as_bytes()).await;
    }
    let rest = &body[start..];
    let partial = start > 0 || matches!(act, Some(Act::OtherPart));
    let head = if partial {
        format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\nContent-Length: {}\r\n\r\n",
            total - 1,
            rest.len()
        )
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")
    };
    stream.write_all(head.as_bytes()).await?;
    match act {
        Some(Act::Cut(bytes)) => stream.write_all(&rest[..bytes.min(rest.len())]).await,
        Some(Act::Stall(bytes)) => {
            stream.write_all(&rest[..bytes.min(rest.len())]).await?;
            // Until the client has had enough.
            let _ = tokio::time::timeout(Duration::from_secs(600), stream.read_u8()).await;
            Ok(())
        }
        _ => stream.write_all(rest).await,
    }
}
