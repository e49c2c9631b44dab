//! Which resolvers guests are given, unless the owner names some: the host's own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Where the host's resolvers stand.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved names those behind its stub on loopback.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// As many as the C library's resolver asks.
const MOST: usize = 3;

/// The host's resolvers that a guest can ask: those with an IPv4 address that is not loopback.
/// Empty when the host asks only a program of its own that nobody else can reach.
#[must_use]
pub fn of_host() -> Vec<Ipv4Addr> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    choose(&read(RESOLV_CONF), &read(RESOLVED_UPSTREAM))
}

/// The first file's resolvers; the second one's if all of the first are on loopback.
fn choose(resolv_conf: &str, upstream: &str) -> Vec<Ipv4Addr> {
    let own = usable(resolv_conf);
    if own.is_empty() { usable(upstream) } else { own }
}

fn usable(text: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(Ok(IpAddr::V4(address))) = words.next().map(str::parse) else { continue };
        let asks_nobody = address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast();
        if !asks_nobody && !found.contains(&address) {
            found.push(address);
        }
    }
    found.truncate(MOST);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "# stub\nnameserver 127.0.0.53\noptions edns0\n";

    #[test]
    fn the_host_s_resolvers_are_taken_wherever_they_are() {
        let private = "search lan\nnameserver 10.0.0.2\nnameserver 169.254.169.253 # cloud\n";
        let expected = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(169, 254, 169, 253)];
        assert_eq!(choose(private, "nameserver 1.2.3.4\n"), expected);
        assert_eq!(choose(STUB, private), expected, "those behind the stub");
    }

    #[test]
    fn what_a_guest_can_t_ask_is_left_out() {
        let text = "nameserver 127.0.0.1\nnameserver ::1\nnameserver 2001:db8::1\nnameserver\n\
                    nameserver 0.0.0.0\nnameserver nonsense\n#nameserver 10.0.0.9\n";
        assert!(choose(text, STUB).is_empty());
        let many = "nameserver 10.0.0.1\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n\
                    nameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        assert_eq!(usable(many).len(), MOST);
    }
}
