//! The client behind a reverse proxy, as far as the proxy is one that the operator trusts.
//!
//! `Forwarded` (RFC 7239) and `X-Forwarded-For` are lists to which each proxy adds, at the right,
//! the address that it was asked from. So they are read from the right: the first address that is
//! not a trusted proxy is the client. Whatever stands to the left of it was written by the client
//! itself, and nobody looks at it.

use std::net::IpAddr;

use ::http::HeaderMap;
use ::http::header::{FORWARDED, HeaderName};

use super::cidr::Cidr;

/// The older header of the same meaning; never standardised, and what most proxies send.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Most hops that are looked at.
const MAX_HOPS: usize = 32;

/// The reverse proxies whose word on a client's address is taken. None by default: then no header
/// changes anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Cidr>);

/// Why a trusted proxy's word can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardedError {
    /// The header is not what the standard says, or the decisive place names no address.
    #[error("its {0} header does not say from which address the request comes")]
    NoAddress(&'static str),
    /// The proxy writes one of the headers; the other came from somebody else.
    #[error(
        "its Forwarded and X-Forwarded-For headers name different addresses: the proxy has to remove the one \
         that it does not write itself"
    )]
    Disagree,
}

impl TrustedProxies {
    /// The proxies in these ranges.
    #[must_use]
    pub const fn new(ranges: Vec<Cidr>) -> Self {
        Self(ranges)
    }

    /// Whether `address` is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client of a request that came from `peer` with `headers`: `peer` itself, unless that is
    /// a trusted proxy that names another. A proxy that asks for itself adds no header.
    ///
    /// # Errors
    /// [`ForwardedError`]; only where the peer is a trusted proxy.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, ForwardedError> {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return Ok(peer);
        }
        let standard = self.decisive(headers, &FORWARDED, "Forwarded", forwarded_hops)?;
        let older =
            self.decisive(headers, &X_FORWARDED_FOR, "X-Forwarded-For", x_forwarded_for_hops)?;
        match (standard, older) {
            (Some(one), Some(other)) if one != other => Err(ForwardedError::Disagree),
            (Some(client), _) | (None, Some(client)) => Ok(client),
            (None, None) => Ok(peer),
        }
    }

    /// The first untrusted address from the right, or the leftmost one when all are trusted;
    /// `None` when the header is not there.
    fn decisive(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        shown: &'static str,
        hops: fn(&str) -> Option<Vec<Option<IpAddr>>>,
    ) -> Result<Option<IpAddr>, ForwardedError> {
        let unclear = ForwardedError::NoAddress(shown);
        let mut client = None;
        let mut seen = 0;
        // Lines are one list, in their order; the last line is the nearest proxy's.
        for line in headers.get_all(name).iter().rev() {
            let line = line.to_str().map_err(|_| unclear)?;
            for hop in hops(line).ok_or(unclear)?.into_iter().rev() {
                let address = hop.ok_or(unclear)?;
                client = Some(address);
                seen += 1;
                if !self.contains(address) || seen == MAX_HOPS {
                    return Ok(client);
                }
            }
        }
        Ok(client)
    }
}

/// Whether a proxy has added either header.
pub(super) fn names_a_client(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR)
}

/// The hops of an `X-Forwarded-For` value, leftmost first; `None` stands for what is no address.
#[must_use]
pub fn x_forwarded_for_hops(value: &str) -> Option<Vec<Option<IpAddr>>> {
    Some(value.split(',').map(|hop| node_address(hop.trim())).collect())
}

/// The hops of a `Forwarded` value, leftmost first: the `for` of each element, `None` where it
/// names no address. `None` for the whole when it does not follow RFC 7239, section 4: a quote that
/// is left open could swallow what a proxy added.
#[must_use]
pub fn forwarded_hops(value: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = Vec::new();
    let mut rest = value.trim();
    loop {
        let mut hop: Option<Option<IpAddr>> = None;
        loop {
            rest = rest.trim_start();
            if rest.is_empty() || rest.starts_with([';', ',']) {
                // An empty pair: allowed by the list syntax.
            } else {
                let (name, after) = token(rest)?;
                let (text, after) = pair_value(after.strip_prefix('=')?)?;
                rest = after.trim_start();
                if name.eq_ignore_ascii_case("for") {
                    // Twice in one element is not allowed, and which one counts would be a guess.
                    if hop.replace(node_address(&text)).is_some() {
                        return None;
                    }
                }
            }
            match rest.strip_prefix(';') {
                Some(after) => rest = after,
                None => break,
            }
        }
        hops.push(hop.flatten());
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Some(hops),
            None => return None,
        }
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// RFC 9110, section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string; and what follows it. Unquoted IPv4 addresses with a port, which some
/// proxies write, are taken as well.
fn pair_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !is_token(c) && c != ':').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// An address, also with a port or in brackets; the port is of no interest.
fn node_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    inside.parse::<std::net::Ipv6Addr>().ok().map(|v6| IpAddr::V6(v6).to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ::http::HeaderValue;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies(ranges: &[&str]) -> TrustedProxies {
        TrustedProxies::new(ranges.iter().map(|range| range.parse().unwrap()).collect())
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn only_a_trusted_proxy_can_name_somebody_else() {
        let spoofed =
            headers(&[("x-forwarded-for", "198.51.100.9"), ("forwarded", "for=198.51.100.9")]);
        for trusted in [proxies(&[]), proxies(&["10.0.0.0/8"])] {
            assert_eq!(trusted.client(ip("203.0.113.1"), &spoofed), Ok(ip("203.0.113.1")));
        }
        assert_eq!(
            proxies(&["10.0.0.0/8"]).client(ip("10.0.0.1"), &spoofed),
            Ok(ip("198.51.100.9"))
        );
        assert_eq!(
            proxies(&["10.0.0.1"]).client(ip("::ffff:10.0.0.1"), &spoofed),
            Ok(ip("198.51.100.9"))
        );
    }

    #[test]
    fn what_the_client_wrote_itself_is_not_looked_at() {
        let trusted = proxies(&["10.0.0.0/8", "2001:db8:1::/48"]);
        let client =
            |lines: &[(&'static str, &str)]| trusted.client(ip("10.0.0.1"), &headers(lines));
        for (header, value) in [
            ("x-forwarded-for", "1.1.1.1, 198.51.100.9"),
            ("x-forwarded-for", "10.9.9.9,1.1.1.1,198.51.100.9, 10.0.0.2"),
            ("x-forwarded-for", "nonsense, \", 198.51.100.9:4711"),
            ("forwarded", "for=1.1.1.1, for=198.51.100.9;proto=http;by=10.0.0.1"),
            ("forwarded", "for=\"[2001:db8:1::7]:80\", For=\"198.51.100.9:80\", for=10.0.0.3"),
            ("forwarded", "proto=http;for=\"1.1.1.1, for=2.2.2.2\",for=198.51.100.9"),
        ] {
            assert_eq!(client(&[(header, value)]), Ok(ip("198.51.100.9")), "{value}");
        }
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.9")];
        assert_eq!(client(&lines), Ok(ip("198.51.100.9")));
        assert_eq!(client(&[]), Ok(ip("10.0.0.1")), "the proxy itself");
        assert_eq!(client(&[("x-forwarded-for", "10.0.0.7")]), Ok(ip("10.0.0.7")));
    }

    #[test]
    fn what_is_unclear_is_refused_and_not_guessed() {
        let trusted = proxies(&["10.0.0.0/8"]);
        let client =
            |lines: &[(&'static str, &str)]| trusted.client(ip("10.0.0.1"), &headers(lines));
        for value in [
            "for=unknown",
            "for=_hidden",
            "proto=http",
            "for=198.51.100.9, for=unknown",
            // A quote that the client left open must not swallow what the proxy added.
            "for=\"1.1.1.1, for=198.51.100.9",
            "for=\"1.1.1.1, for=\"[2001:db8::1]\"",
            "for=1.1.1.1;for=198.51.100.9",
            "for 198.51.100.9",
            "",
        ] {
            let error = client(&[("forwarded", value)]).unwrap_err();
            assert_eq!(error, ForwardedError::NoAddress("Forwarded"), "{value}");
        }
        assert!(client(&[("x-forwarded-for", "198.51.100.9, x")]).is_err());
        let both = [("x-forwarded-for", "198.51.100.9"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(client(&both), Err(ForwardedError::Disagree));
    }
}
