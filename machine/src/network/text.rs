//! What every table of guests says alike, whether they are machines in namespaces of their own or containers
//! on a bridge: pure.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use ipnet::Ipv4Net;

use super::Rules;

/// Never the internet, wherever this host is: what IANA has set aside (RFC 6890 and its registry),
/// but for the documentation ranges, which some networks use and nothing is lost by; and the public address at which
/// Azure serves its machines' own data ("What is IP address 168.63.129.16?", Microsoft Learn).
pub const RESERVED: [&str; 13] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// TCP ports of mail between servers, and its submission: what spam goes through.
pub const MAIL: &str = "25, 465, 587";

/// The set of what the host is connected to.
pub const ON_LINK: &str = "on_link";

const INTERVAL: &str = "flags interval; auto-merge;";

/// The sets `resolvers`, `allowed`, `reserved` and [`ON_LINK`]: whom guests ask for names, what is opened for
/// them, and what is not the internet.
pub fn destinations(out: &mut String, rules: &Rules, on_link: &BTreeSet<Ipv4Net>) {
    set(out, "resolvers", "ipv4_addr", "", rules.resolvers.iter().collect::<BTreeSet<_>>());
    let whole = rules.allowed.iter().filter(|one| one.port.is_none());
    let whole: BTreeSet<_> = whole.map(|one| one.network).collect();
    set(out, "allowed", "ipv4_addr", INTERVAL, whole);
    set(out, "reserved", "ipv4_addr", INTERVAL, RESERVED);
    set(out, ON_LINK, "ipv4_addr", INTERVAL, on_link);
}

/// The chain `refuse`, which says no politely, but not to a flood; and the chain `opened`, which accepts what
/// the owner opened.
pub fn chains(out: &mut String, rules: &Rules) {
    let mut ports = String::new();
    for one in &rules.allowed {
        if let Some(port) = one.port {
            let _ = write!(
                ports,
                "\n\t\tip daddr {} meta l4proto {{ tcp, udp }} th dport {port} accept",
                one.network
            );
        }
    }
    let _ = write!(
        out,
        "
	chain refuse {{
		limit rate over 200/second burst 200 packets drop
		meta l4proto tcp reject with tcp reset
		reject with icmpx admin-prohibited
	}}

	chain opened {{
		ip daddr @allowed accept{ports}
	}}
"
    );
}

/// The lines of a chain of a table that was written so, without those around them.
#[must_use]
pub fn lines_of<'a>(table: &'a str, chain: &str) -> Vec<&'a str> {
    let head = format!("chain {chain} {{");
    table
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| *line != "}")
        .collect()
}

/// A set with these elements.
pub fn set<T: Display>(
    out: &mut String,
    name: &str,
    kind: &str,
    flags: &str,
    elements: impl IntoIterator<Item = T>,
) {
    let elements: Vec<String> = elements.into_iter().map(|one| one.to_string()).collect();
    let _ = write!(out, "\tset {name} {{ type {kind}; {flags}");
    if !elements.is_empty() {
        let _ = write!(out, " elements = {{ {} }}", elements.join(", "));
    }
    out.push_str(" }\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_clouds_tell_their_machines_is_not_the_internet() {
        let reserved: Vec<Ipv4Net> = RESERVED.iter().map(|one| one.parse().unwrap()).collect();
        // Most clouds; Amazon's containers; Alibaba; Oracle; Azure.
        for address in [
            [169, 254, 169, 254],
            [169, 254, 170, 2],
            [100, 100, 100, 200],
            [192, 0, 0, 192],
            [168, 63, 129, 16],
        ] {
            let address = Ipv4Addr::from(address);
            assert!(reserved.iter().any(|network| network.contains(&address)), "{address}");
        }
        assert!(!reserved.iter().any(|network| network.contains(&Ipv4Addr::new(168, 63, 129, 17))));
    }
}
