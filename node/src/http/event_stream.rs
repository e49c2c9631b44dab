//! Replies without end: streams of VMs' events, bounded in number and in time.
//!
//! The head of such a reply is signed in a form of its own
//! ([`sign_stream`](golem_vm_protocol::signature::sign_stream)), and each event for itself: a stream is never
//! taken for an ordinary reply. Only [`EventStream::answer`] makes one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use ::http::request::Parts;
use ::http::{HeaderValue, StatusCode};
use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::response::Response;
use golem_vm_protocol::signature::{EVENT_STREAM, Nonce};
use golem_vm_protocol::vm::{ConsoleOutput, KEEP_ALIVE, VmEvent};
use golem_vm_protocol::{ErrorCode, KeyId};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::caller::Caller;
use super::limits::StreamLimits;
use super::peer::Peer;
use super::problem::ProblemResponse;
use super::signing::Signing;

/// Events that wait for a reader; when there are so many, whoever tells them waits as well.
const WAITING: usize = 8;

/// Whose streams are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Key(KeyId),
    Address(IpAddr),
}

/// The streams of one service. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: StreamLimits,
    // A plain mutex: held for a few map operations, never across an await.
    held: Mutex<Held>,
    tasks: TaskTracker,
    ending: CancellationToken,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_holder: BTreeMap<Holder, usize>,
}

impl Streams {
    /// Room for streams within `limits`, told by tasks of `tasks`.
    pub(super) fn new(limits: StreamLimits, tasks: TaskTracker) -> Self {
        let (held, ending) = (Mutex::default(), CancellationToken::new());
        Self(Arc::new(Inner { limits, held, tasks, ending }))
    }

    /// Ends all streams, at once and for good.
    pub(super) fn end(&self) {
        self.0.ending.cancel();
    }

    fn enter(&self, holder: Option<Holder>) -> Result<Place, ProblemResponse> {
        let limits = &self.0.limits;
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.all >= limits.max || self.0.ending.is_cancelled() {
            let detail =
                "this server sends as many streams as it can; ask without one, or try again";
            return Err(ProblemResponse::new(ErrorCode::Unavailable, detail));
        }
        if let Some(holder) = holder {
            let count = held.by_holder.entry(holder).or_default();
            if *count >= limits.max_per_caller {
                let detail = format!(
                    "you have {count} streams open here, and more are not sent at a time; close one, or \
                     ask without a stream"
                );
                return Err(ProblemResponse::new(ErrorCode::RateLimited, detail));
            }
            *count += 1;
        }
        held.all += 1;
        drop(held);
        Ok(Place { streams: self.clone(), holder })
    }
}

/// One of the places for streams; given back when dropped.
#[derive(Debug)]
struct Place {
    streams: Streams,
    holder: Option<Holder>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.streams.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all = held.all.saturating_sub(1);
        if let Some(holder) = self.holder
            && let Some(count) = held.by_holder.get_mut(&holder)
        {
            *count -= 1;
            if *count == 0 {
                held.by_holder.remove(&holder);
            }
        }
    }
}

/// What a request brings for a stream; an extension of every request.
#[derive(Debug, Clone)]
pub(super) struct StreamContext {
    streams: Streams,
    signing: Option<Arc<Signing>>,
    holder: Option<Holder>,
    nonce: Option<Nonce>,
}

impl StreamContext {
    pub(super) fn new(
        streams: &Streams,
        signing: Option<&Arc<Signing>>,
        caller: Caller,
        peer: Peer,
        nonce: Option<Nonce>,
    ) -> Self {
        let holder = match caller {
            Caller::Verified(key) => Some(Holder::Key(key)),
            Caller::Anonymous => peer.bucket().map(Holder::Address),
        };
        Self { streams: streams.clone(), signing: signing.cloned(), holder, nonce }
    }
}

/// Marks the one kind of response whose body is not read before it is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endless;

/// The right to answer with a stream of events. As a handler's last argument it takes one of the places there
/// are for streams: beyond them the path answers 429 or 503.
#[derive(Debug)]
pub struct EventStream {
    place: Place,
    signing: Arc<Signing>,
    nonce: String,
}

impl<S: Sync> FromRequestParts<S> for EventStream {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        let context = parts.extensions.get::<StreamContext>();
        let Some((context, signing)) =
            context.and_then(|context| Some((context, context.signing.clone()?)))
        else {
            return Err(ProblemResponse::internal(&"a stream needs a service that signs"));
        };
        let place = context.streams.enter(context.holder)?;
        let nonce = context.nonce.map(|nonce| nonce.to_string()).unwrap_or_default();
        Ok(Self { place, signing, nonce })
    }
}

impl EventStream {
    /// The `nonce` of the request that is answered; empty for an unsigned one.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Answers with what `tell` sends, until it is done, the reader has gone, the service ends, or the time for
    /// a stream is over; `tell` is dropped then, wherever it is.
    pub fn answer<F, T>(self, tell: F) -> Response
    where
        F: FnOnce(EventSink) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(WAITING);
        let Self { place, signing, nonce } = self;
        let streams = place.streams.clone();
        let limits = streams.0.limits;
        let told = tell(EventSink { sender: sender.clone(), signing, nonce });
        let ending = streams.0.ending.clone();
        let task = async move {
            let _held = place;
            tokio::pin!(told);
            let over = tokio::time::sleep(limits.longest);
            tokio::pin!(over);
            let mut quiet = tokio::time::interval(limits.keep_alive);
            quiet.reset();
            loop {
                tokio::select! {
                    () = ending.cancelled() => break,
                    () = sender.closed() => break,
                    () = over.as_mut() => break,
                    () = told.as_mut() => break,
                    // When there is no room for it, something else is on its way.
                    _ = quiet.tick() => drop(sender.try_send(Bytes::from_static(KEEP_ALIVE.as_bytes()))),
                }
            }
        };
        streams.0.tasks.spawn(task.in_current_span());
        let mut response = Response::new(Body::new(Frames(receiver)));
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(Endless);
        response
    }
}

/// Nobody reads the stream any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the stream any more")]
pub struct ReaderGone;

/// Where events are told.
#[derive(Debug)]
pub struct EventSink {
    sender: mpsc::Sender<Bytes>,
    signing: Arc<Signing>,
    nonce: String,
}

impl EventSink {
    /// Signs the event for the request that is answered, and sends it. Waits while the reader is behind.
    ///
    /// # Errors
    /// [`ReaderGone`], also when the event can't be written, which ends the stream: nothing is left out of one.
    pub async fn send(&self, event: &VmEvent) -> Result<(), ReaderGone> {
        let frame = self.signing.frame(event, &self.nonce).map_err(|error| {
            tracing::error!("event {} of {} can't be sent: {error}", event.number, event.vm_id);
            ReaderGone
        })?;
        self.sender.send(frame.into()).await.map_err(|_| ReaderGone)
    }
}

impl EventSink {
    /// The `nonce` of the request that is answered; empty for an unsigned one.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Waits until there is room for one more.
    ///
    /// # Errors
    /// [`ReaderGone`].
    pub async fn ready(&self) -> Result<(), ReaderGone> {
        self.sender.reserve().await.map(drop).map_err(|_| ReaderGone)
    }

    /// Signs what a console said, and sends it. Waits while the reader is behind.
    ///
    /// # Errors
    /// As [`EventSink::send`].
    pub async fn send_console(&self, piece: &ConsoleOutput) -> Result<(), ReaderGone> {
        let frame = self.signing.console_frame(piece).map_err(|error| {
            tracing::error!("what a console said can't be sent: {error}");
            ReaderGone
        })?;
        self.sender.send(frame.into()).await.map_err(|_| ReaderGone)
    }
}

/// What was sent, as a body.
struct Frames(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
