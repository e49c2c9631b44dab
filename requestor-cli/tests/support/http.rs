//! A small HTTP server whose answers can be anything, silence and a cut among them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// A request, read to its end.
pub struct Received {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What is done about it.
pub enum Answer {
    Reply {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// A reply that goes on until `frames` ends.
    Stream {
        headers: Vec<(String, String)>,
        frames: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
    },
    /// Nothing, for longer than anybody waits.
    Hang,
    /// The connection ends without an answer.
    Cut,
}

/// Runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

pub fn serve(handler: impl Fn(Received) -> Answer + Send + Sync + 'static) -> Server {
    serve_at("127.0.0.1:0".parse().unwrap(), handler)
}

pub fn serve_at(
    address: SocketAddr,
    handler: impl Fn(Received) -> Answer + Send + Sync + 'static,
) -> Server {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // The port of a server that was stopped may be held for a moment by one of its connections.
    let listener = (0..50)
        .find_map(|_| {
            let bound = runtime.block_on(tokio::net::TcpListener::bind(address)).ok();
            if bound.is_none() {
                std::thread::sleep(Duration::from_millis(100));
            }
            bound
        })
        .expect("the address can be bound");
    let address = listener.local_addr().unwrap();
    let handler = Arc::new(handler);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handler = Arc::clone(&handler);
            tokio::spawn(async move {
                let service = service_fn(move |request| one(request, Arc::clone(&handler)));
                // A cut is an error of the service, which ends the connection.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Server { address, _runtime: runtime }
}

#[derive(Debug)]
struct CutHere;
impl std::fmt::Display for CutHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}
impl std::error::Error for CutHere {}
impl From<Infallible> for CutHere {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

async fn one(
    request: http::Request<Incoming>,
    handler: Arc<impl Fn(Received) -> Answer>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, CutHere> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| CutHere)?.to_bytes();
    let received = Received {
        method: parts.method,
        target: parts.uri.to_string(),
        headers: parts.headers,
        body,
    };
    match handler(received) {
        Answer::Reply { status, headers, body } => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(Bytes::from(body)).boxed_unsync()).unwrap())
        }
        Answer::Stream { headers, frames } => {
            let mut response = Response::builder().status(200);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let frames = futures_util::stream::unfold(frames, async |mut frames| {
                let bytes = frames.recv().await?;
                Some((Ok(Frame::data(Bytes::from(bytes))), frames))
            });
            Ok(response.body(StreamBody::new(frames).boxed_unsync()).unwrap())
        }
        Answer::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Err(CutHere)
        }
        Answer::Cut => Err(CutHere),
    }
}

/// A JSON answer.
pub fn json(status: u16, value: &impl serde::Serialize) -> Answer {
    Answer::Reply {
        status,
        headers: vec![("content-type".into(), "application/json".into())],
        body: serde_json::to_vec(value).unwrap(),
    }
}
