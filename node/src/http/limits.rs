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
        }
    }
}
