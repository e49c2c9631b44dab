//! The bounds of a listener.

use std::time::Duration;

/// What a listener allows. The defaults suit a small public JSON service.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Connections open at once; one more is answered 503 and closed.
    pub max_connections: usize,
    /// Connections open at once from one IPv4 address or one IPv6 /64. Loopback is exempt.
    pub max_connections_per_address: usize,
    /// Requests being handled at once, those whose client has gone away included.
    pub max_in_flight: usize,
    /// Time for a request's header block to arrive, counted from the connection's opening or from
    /// the reply before it: an idle connection is closed after this.
    pub header_timeout: Duration,
    /// Largest header block, in bytes (at least 8192).
    pub max_headers: usize,
    /// Time for the body to arrive after the header block.
    pub body_timeout: Duration,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Time for a handler to answer; then the client gets 503 while the handler runs on.
    pub handler_timeout: Duration,
    /// Time without any progress in sending a reply.
    pub write_timeout: Duration,
    /// Time that open requests have to finish when the service shuts down.
    pub drain_timeout: Duration,
    /// The bounds of streams, which the deadlines above but that for writing do not concern.
    pub streams: StreamLimits,
}

/// What a listener allows of replies that go on as things happen.
#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// Streams at once.
    pub max: usize,
    /// Streams at once of one key, or, unsigned, of one address (127.0.0.1 and ::1 are exempt).
    pub max_per_caller: usize,
    /// How often something is sent while nothing happens.
    pub keep_alive: Duration,
    /// Longest time for one stream.
    pub longest: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            max: 128,
            max_per_caller: 8,
            keep_alive: Duration::from_secs(15),
            longest: Duration::from_secs(3600),
        }
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_address: 64,
            max_in_flight: 512,
            header_timeout: Duration::from_secs(15),
            max_headers: 16 * 1024,
            body_timeout: Duration::from_secs(15),
            max_body: 64 * 1024,
            handler_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(10),
            streams: StreamLimits::default(),
        }
    }
}
