//! The rules of a machine's namespace, as text for `nft -f -`: pure.
//!
//! The guest is the only one who sends through here, and this namespace its only way out, so what is not
//! accepted in these chains leaves in no way. They decide before slirp4netns sees a packet: it would open any
//! connection that the host itself may open.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::addressing::{UPLINK_ADDRESS, UPLINK_NETWORK, UPLINK_RESOLVER};
use super::text::{self, MAIL, ON_LINK};
use super::{Addressing, Caps, Rules};

/// The guest's end of the namespace: the tap that its virtual network card is.
pub const GUEST_SIDE: &str = "vm0";
/// The other end, where slirp4netns is.
pub const UPLINK: &str = "uplink";
/// The port of [`UPLINK_ADDRESS`] at which the guest's SSH server is reached.
pub const SSH_PORT: u16 = 2222;

/// Where a guest's traffic may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// To the internet; SSH comes in.
    Internet,
    /// Nowhere, not to a resolver either; SSH comes in.
    SshOnly,
    /// Nothing comes in or goes out: the machine is in quarantine.
    None,
}

/// What the rules are made from.
#[derive(Debug, Clone, Copy)]
pub struct Ruleset<'a> {
    /// The machine's addresses.
    pub addressing: &'a Addressing,
    /// What the owner decided. Without resolvers the guest asks the host's own.
    pub rules: &'a Rules,
    /// What the host is connected to, its own addresses included: [`super::host::networks`].
    pub on_link: &'a BTreeSet<Ipv4Net>,
    /// Where the guest's traffic may go.
    pub access: Access,
}

impl Ruleset<'_> {
    /// One transaction that puts these rules in place of all that are in the namespace. Connections that are
    /// open, and still allowed, stay open.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::with_capacity(8 << 10);
        // "delete" fails for a table that is not there; "add" does not for one that is.
        out.push_str("add table inet golem\ndelete table inet golem\n");
        out.push_str("table inet golem {\n\tcomment \"VM on Golem: contains one guest\"\n");
        match self.access {
            Access::None => {}
            Access::Internet | Access::SshOnly => {
                let resolvers = self.resolvers();
                let rules = Rules { resolvers: resolvers.clone(), ..self.rules.clone() };
                text::destinations(&mut out, &rules, self.on_link);
                text::chains(&mut out, &rules);
                self.translation(&mut out, &resolvers);
                self.ways(&mut out);
            }
        }
        self.hooks(&mut out);
        out.push_str("}\n");
        out
    }

    /// Who is asked when the guest asks its gateway.
    fn resolvers(&self) -> Vec<Ipv4Addr> {
        if self.rules.resolvers.is_empty() {
            vec![UPLINK_RESOLVER]
        } else {
            self.rules.resolvers.clone()
        }
    }

    /// The chains that translate addresses.
    fn translation(&self, out: &mut String, resolvers: &[Ipv4Addr]) {
        let Addressing { guest, resolver, .. } = self.addressing;
        let asked = match resolvers {
            [one] => one.to_string(),
            several => {
                // Each question goes to the next one, so that who asks again asks somebody else.
                let map: Vec<String> =
                    several.iter().enumerate().map(|(at, one)| format!("{at} : {one}")).collect();
                format!("numgen inc mod {} map {{ {} }}", several.len(), map.join(", "))
            }
        };
        let _ = write!(
            out,
            "
	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		iifname \"{UPLINK}\" ip daddr {UPLINK_ADDRESS} tcp dport {SSH_PORT} dnat ip to {guest}:22
		iifname \"{GUEST_SIDE}\" ip daddr {resolver} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {asked}
	}}

	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		oifname \"{UPLINK}\" masquerade
	}}
"
        );
    }

    /// The chains for what comes from the guest, and what goes to it.
    fn ways(&self, out: &mut String) {
        let Addressing { guest, mac, .. } = self.addressing;
        let caps @ Caps { new_connections, connections, .. } = self.rules.caps;
        let rate = format!("limit rate over {} bytes/second", caps.bytes());
        let (packets, new_burst) = (caps.packets(), caps.new_burst());
        // Without internet, nothing that the guest begins goes on from here.
        let open = match self.access {
            Access::Internet => "",
            Access::SshOnly | Access::None => "\n\t\tjump refuse",
        };
        let _ = write!(
            out,
            "
	chain from_guest {{
		meta nfproto != ipv4 drop
		ip saddr != {guest} drop
		ether saddr != {mac} drop
		{rate} drop
		limit rate over {packets}/second burst {packets} packets drop
		ct state established accept
		ct state related meta l4proto icmp accept
		ct state != new drop{open}
		limit rate over {new_connections}/second burst {new_burst} packets drop
		ct count over {connections} drop
		ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
		ip daddr {{ {UPLINK_NETWORK}, 127.0.0.0/8 }} jump refuse
		jump opened
		ip daddr @reserved jump refuse
		ip daddr @{ON_LINK} jump refuse
		tcp dport {{ {MAIL} }} jump refuse
		accept
	}}

	chain to_guest {{
		{rate} drop
		ct state established accept
		ct state related meta l4proto icmp accept
		ct status dnat ip daddr {guest} tcp dport 22 accept
	}}
"
        );
    }

    /// The chains that the kernel calls. What they do not accept is dropped.
    fn hooks(&self, out: &mut String) {
        let (forward, input, output) = match self.access {
            // Not even a word that it is so.
            Access::None => (String::new(), String::new(), String::new()),
            Access::Internet | Access::SshOnly => (
                format!(
                    "
		iifname \"{GUEST_SIDE}\" oifname \"{UPLINK}\" jump from_guest
		iifname \"{UPLINK}\" oifname \"{GUEST_SIDE}\" jump to_guest"
                ),
                format!("\n\t\tiifname \"{GUEST_SIDE}\" meta nfproto ipv4 jump refuse"),
                // Refusals, and news of connections that were let through. A QEMU that was taken over is in
                // this namespace, too: what it begins by itself does not get out.
                format!(
                    "
		oifname \"{GUEST_SIDE}\" accept
		ct state {{ established, related }} accept"
                ),
            ),
        };
        for (hook, chain) in [("forward", forward), ("input", input), ("output", output)] {
            let _ = write!(
                out,
                "
	chain {hook} {{
		type filter hook {hook} priority filter; policy drop;{chain}
	}}
"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::network::Destination;
    use crate::network::text::lines_of as chain;

    fn text(rules: &Rules, on_link: &[&str], access: Access) -> String {
        let on_link = on_link.iter().map(|one| one.parse().unwrap()).collect();
        let addressing = Addressing::of(&[7; 16]);
        Ruleset { addressing: &addressing, rules, on_link: &on_link, access }.text()
    }

    fn position(lines: &[&str], what: &str) -> usize {
        lines
            .iter()
            .position(|line| line.contains(what))
            .unwrap_or_else(|| panic!("{what}: {lines:#?}"))
    }

    #[test]
    fn what_is_blocked_is_blocked_before_the_rest_is_accepted() {
        let text = text(&Rules::default(), &["192.0.2.0/24"], Access::Internet);
        let from = chain(&text, "from_guest");
        assert_eq!(*from.last().unwrap(), "accept");
        for blocked in ["@reserved", "@on_link", "tcp dport { 25, 465, 587 }"] {
            assert!(from[position(&from, blocked)].ends_with("jump refuse"), "{blocked}");
        }
        assert!(text.contains("elements = { 192.0.2.0/24 }"));
        assert!(text.contains("10.0.0.0/8, 100.64.0.0/10"));
    }

    #[test]
    fn what_no_chain_accepts_is_dropped() {
        for access in [Access::Internet, Access::SshOnly, Access::None] {
            let text = text(&Rules::default(), &[], access);
            for hook in ["forward", "input", "output"] {
                assert!(chain(&text, hook)[0].ends_with("policy drop;"), "{hook}");
            }
            assert!(!chain(&text, "input").iter().any(|line| line.ends_with("accept")));
        }
    }

    #[test]
    fn the_guest_speaks_for_itself_only_and_speaks_no_ipv6() {
        let text = text(&Rules::default(), &[], Access::Internet);
        let own = Addressing::of(&[7; 16]);
        assert_eq!(
            chain(&text, "from_guest")[..3],
            [
                "meta nfproto != ipv4 drop".to_owned(),
                format!("ip saddr != {} drop", own.guest),
                format!("ether saddr != {} drop", own.mac),
            ],
            "before anything is let through"
        );
    }

    #[test]
    fn resolvers_are_open_at_port_53_only() {
        let rule = "ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept";
        for (resolvers, asked) in [
            (vec![], "198.18.0.3"),
            (vec!["192.168.1.1".parse().unwrap()], "192.168.1.1"),
            (
                vec!["192.168.1.1".parse().unwrap(), "9.9.9.9".parse().unwrap()],
                "numgen inc mod 2 map { 0 : 192.168.1.1, 1 : 9.9.9.9 }",
            ),
        ] {
            let text = text(&Rules { resolvers, ..Rules::default() }, &[], Access::Internet);
            let naming = &chain(&text, "prerouting")[2];
            assert!(naming.ends_with(&format!("th dport 53 dnat ip to {asked}")), "{naming}");
            let from = chain(&text, "from_guest");
            assert_eq!(from.iter().filter(|line| line.contains("@resolvers")).count(), 1);
            assert!(from.contains(&rule));
        }
    }

    #[test]
    fn the_uplink_itself_is_opened_by_nothing() {
        let allowed = vec!["198.0.0.0/8".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let text = text(&Rules { allowed, ..Rules::default() }, &[], Access::Internet);
        let from = chain(&text, "from_guest");
        let closed = position(&from, "{ 198.18.0.0/24, 127.0.0.0/8 } jump refuse");
        assert!(closed < position(&from, "jump opened"));
    }

    #[test]
    fn without_egress_ssh_comes_in_and_nothing_begins_inside() {
        let text = text(&Rules::default(), &[], Access::SshOnly);
        let from = chain(&text, "from_guest");
        let refused = position(&from, "jump refuse");
        let news = position(&from, "ct state != new drop");
        assert_eq!(refused, news + 1);
        assert!(position(&from, "@resolvers") > refused);
        assert!(text.contains(":22\n"));
    }

    #[test]
    fn in_quarantine_nothing_passes_in_any_direction() {
        let text = text(&Rules::default(), &[], Access::None);
        assert!(!text.contains("accept"), "{text}");
        assert!(!text.contains("reject") && !text.contains("dnat"), "{text}");
        assert_eq!(text.matches("policy drop;").count(), 3);
    }

    #[test]
    fn caps_come_before_what_is_established_is_let_through() {
        let caps = Caps { bandwidth_mbit: 8, new_connections: 20, connections: 300 };
        let text = text(&Rules { caps, ..Rules::default() }, &[], Access::Internet);
        for way in ["from_guest", "to_guest"] {
            let lines = chain(&text, way);
            let bytes = position(&lines, "limit rate over 1000000 bytes/second drop");
            assert!(bytes < position(&lines, "established accept"), "{way}");
        }
        let from = chain(&text, "from_guest");
        let news = position(&from, "limit rate over 20/second burst 100 packets drop");
        let live = position(&from, "ct count over 300 drop");
        assert!(news < position(&from, "@resolvers") && live < position(&from, "@resolvers"));
    }

    proptest! {
        /// Whatever is set: the only accepts for blocked ranges are the entries themselves.
        #[test]
        fn an_entry_opens_itself_and_nothing_else(
            entries in proptest::collection::vec((any::<u32>(), 8u8..=32, proptest::option::of(1u16..)), 0..8),
            links in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..8),
            id in any::<[u8; 16]>(),
        ) {
            let net = |address: u32, prefix| Ipv4Net::new(address.into(), prefix).unwrap().trunc();
            let allowed: Vec<Destination> = entries
                .iter()
                .map(|(address, prefix, port)| Destination { network: net(*address, *prefix), port: *port })
                .collect();
            let on_link = links.iter().map(|(a, p)| net(*a, *p)).collect();
            let addressing = Addressing::of(&id);
            let of = |rules: &Rules| {
                Ruleset { addressing: &addressing, rules, on_link: &on_link, access: Access::Internet }.text()
            };
            let plain = of(&Rules::default());
            let opened = of(&Rules { allowed: allowed.clone(), ..Rules::default() });
            // All that differs is in the chain `opened` and the set `allowed`.
            let without = |text: &str| -> String {
                let entries = chain(text, "opened");
                let kept = text.lines().filter(|line| {
                    !line.starts_with("\tset allowed") && !entries.contains(&line.trim())
                });
                kept.collect::<Vec<_>>().join("\n")
            };
            let both = |text: &str| chain(text, "opened").len();
            prop_assert_eq!(both(&opened) - 1, allowed.iter().filter(|one| one.port.is_some()).count());
            for line in &chain(&opened, "opened")[1..] {
                let is_entry = allowed.iter().any(|one| one.port.is_some_and(|port| {
                    let entry = format!(
                        "ip daddr {} meta l4proto {{ tcp, udp }} th dport {port} accept", one.network
                    );
                    *line == entry
                }));
                prop_assert!(is_entry, "{line}");
            }
            prop_assert_eq!(without(&plain), without(&opened));
            // However it is: what is not accepted is dropped, and spoofing comes first.
            prop_assert_eq!(opened.matches("policy drop;").count(), 3);
            prop_assert_eq!(chain(&opened, "from_guest")[0], "meta nfproto != ipv4 drop");
        }
    }
}
