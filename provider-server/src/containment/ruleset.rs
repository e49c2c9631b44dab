//! The table, as text for `nft -f -`: pure.
//!
//! Everything is decided by the bridge that a packet comes from or goes to, so the rules hold for a
//! guest from its first packet on. A drop is final whatever other tables accept; what is accepted
//! here can still be dropped by another table.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use golem_vm_machine::network::text::{self, MAIL, ON_LINK, set};
use ipnet::Ipv4Net;

use super::{Caps, Guest, Names, Rules};

/// The beginning of the names of sets whose content the kernel writes.
pub(super) const METER: &str = "meter_";

/// What the text is made from.
#[derive(Debug, Clone, Copy)]
pub struct Ruleset<'a> {
    /// What things are called.
    pub names: &'a Names,
    /// What the owner decided.
    pub rules: &'a Rules,
    /// What this host is connected to.
    pub on_link: &'a BTreeSet<Ipv4Net>,
    /// The guests that may use the network at all.
    pub guests: &'a BTreeSet<Guest>,
}

impl Ruleset<'_> {
    /// One transaction that puts the table in place of the one that is there, if any.
    #[must_use]
    pub fn text(&self, table: &str) -> String {
        let mut out = String::with_capacity(8 << 10);
        // "delete" fails for a table that is not there; "add" does not for one that is.
        let _ = writeln!(out, "add table inet {table}\ndelete table inet {table}");
        let _ = writeln!(out, "table inet {table} {{\n\tcomment \"VM on Golem: contains guests\"");
        self.sets(&mut out);
        self.chains(&mut out);
        out.push_str("}\n");
        out
    }

    /// One transaction that brings the sets of a table that is there to what they are in `self`.
    /// Unlike a new table it leaves alone what the kernel has counted.
    #[must_use]
    pub fn update(&self, table: &str) -> String {
        let mut out = String::new();
        refill(&mut out, table, GUESTS, self.guests);
        refill(&mut out, table, ON_LINK, self.on_link);
        out
    }

    fn sets(&self, out: &mut String) {
        set(out, GUESTS, "ipv4_addr . ether_addr", "", self.guests);
        text::destinations(out, self.rules, self.on_link);
        for name in ["bytes_up", "bytes_down", "packets_up", "new"] {
            meter(out, name, "flags dynamic,timeout; timeout 1m;");
        }
        meter(out, "live", "flags dynamic;");
    }

    fn chains(&self, out: &mut String) {
        let Names { internet, internal, host_serves, .. } = self.names;
        let guests = format!("{{ \"{internet}\", \"{internal}\" }}");
        let caps @ Caps { new_connections, connections, .. } = self.rules.caps;
        let rate = format!("limit rate over {} bytes/second", caps.bytes());
        let (packets, new_burst) = (caps.packets(), caps.new_burst());
        text::chains(out, self.rules);
        // A guest has no address yet when it asks for one.
        let (addresses, names) = if *host_serves {
            (
                format!(
                    "\n\t\tiifname {guests} ip protocol udp udp sport 68 udp dport 67 limit rate 50/second accept"
                ),
                format!("\n\t\tiifname {guests} meta l4proto {{ tcp, udp }} th dport 53 accept"),
            )
        } else {
            (String::new(), String::new())
        };
        let _ = write!(
            out,
            "
	chain from_guest {{
		meta nfproto != ipv4 drop
		ip saddr . ether saddr != @{GUESTS} drop
		update @{METER}bytes_up {{ ip saddr {rate} }} drop
		update @{METER}packets_up {{ ip saddr limit rate over {packets}/second burst {packets} packets }} drop
		ct state established accept
		ct state related meta l4proto icmp accept
		ct state != new drop
		iifname \"{internal}\" jump refuse
		add @{METER}new {{ ip saddr limit rate over {new_connections}/second burst {new_burst} packets }} drop
		add @{METER}live {{ ip saddr ct count over {connections} }} drop
		ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
	}}

	chain to_guest {{
		update @{METER}bytes_down {{ ip daddr {rate} }} drop
	}}

	chain forward {{
		type filter hook forward priority filter - 10; policy accept;
		iifname {guests} jump from_guest
		iifname {guests} oifname {guests} jump refuse
		iifname {guests} jump opened
		iifname {guests} ip daddr @reserved jump refuse
		iifname {guests} ip daddr @{ON_LINK} jump refuse
		iifname {guests} tcp dport {{ {MAIL} }} jump refuse
		iifname {guests} accept
		oifname {guests} jump to_guest
		oifname {guests} ct state established accept
		oifname {guests} ct state related meta l4proto icmp accept
		oifname {guests} drop
	}}

	chain input {{
		type filter hook input priority filter - 10; policy accept;{addresses}
		iifname {guests} jump from_guest{names}
		iifname {guests} jump opened
		iifname {guests} jump refuse
	}}

	chain output {{
		type filter hook output priority filter - 10; policy accept;
		oifname {guests} jump to_guest
	}}
"
        );
    }
}

const GUESTS: &str = "guests";
fn refill<T: std::fmt::Display>(
    out: &mut String,
    table: &str,
    set: &str,
    elements: impl IntoIterator<Item = T>,
) {
    let elements: Vec<String> = elements.into_iter().map(|one| one.to_string()).collect();
    let _ = writeln!(out, "flush set inet {table} {set}");
    if !elements.is_empty() {
        let _ = writeln!(out, "add element inet {table} {set} {{ {} }}", elements.join(", "));
    }
}

/// A set that the kernel fills: one element per guest's address.
fn meter(out: &mut String, name: &str, flags: &str) {
    let _ = writeln!(out, "\tset {METER}{name} {{ type ipv4_addr; size 65535; {flags} }}");
}

/// A listing of the table without what the kernel writes into it, to be compared with a later one.
#[must_use]
pub(super) fn without_meters(listing: &str) -> String {
    let mut kept = String::with_capacity(listing.len());
    let mut in_meter = false;
    for line in listing.lines() {
        let trimmed = line.trim();
        if trimmed.strip_prefix("set ").is_some_and(|name| name.starts_with(METER)) {
            in_meter = true;
            kept.push_str(trimmed);
            kept.push('\n');
        } else if in_meter {
            in_meter = trimmed != "}";
        } else {
            kept.push_str(trimmed);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_machine::network::text::lines_of as chain;
    use golem_vm_protocol::KeyPair;
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Egress;
    use crate::containment::Destination;

    fn names() -> Names {
        Names::of(&KeyPair::from_secret_bytes([9; 32]).unwrap().id())
    }

    fn rules() -> Rules {
        Rules { resolvers: Vec::new(), allowed: Vec::new(), caps: Caps::default() }
    }

    fn text(rules: &Rules, on_link: &[&str]) -> String {
        let on_link = on_link.iter().map(|one| one.parse().unwrap()).collect();
        let (names, guests) = (names(), BTreeSet::new());
        let set = Ruleset { names: &names, rules, on_link: &on_link, guests: &guests };
        set.text("golem-test")
    }

    fn position(lines: &[&str], what: &str) -> usize {
        lines
            .iter()
            .position(|line| line.contains(what))
            .unwrap_or_else(|| panic!("{what}: {lines:#?}"))
    }

    #[test]
    fn one_transaction_replaces_the_table() {
        let text = text(&rules(), &[]);
        assert!(text.starts_with(
            "add table inet golem-test\ndelete table inet golem-test\ntable inet golem-test {\n"
        ));
        let foreign = text.lines().filter(|line| line.contains("table ")).count();
        assert_eq!(foreign, 3, "no other table is named");
        assert!(!text.contains("flush"));
    }

    #[test]
    fn what_is_blocked_is_blocked_before_the_rest_is_accepted() {
        let text = text(&rules(), &["192.0.2.0/24"]);
        let forward = chain(&text, "forward");
        let accept = position(&forward, "accept");
        assert!(forward[accept].ends_with("policy accept;"));
        let internet = forward.iter().position(|line| line.ends_with("} accept")).unwrap();
        for blocked in ["jump from_guest", "@reserved", "@on_link", "tcp dport { 25, 465, 587 }"] {
            assert!(position(&forward, blocked) < internet, "{blocked}");
        }
        assert_eq!(
            *forward.last().unwrap(),
            format!("oifname {{ \"{}\", \"{}\" }} drop", names().internet, names().internal)
        );
        assert!(text.contains("set on_link { type ipv4_addr; flags interval; auto-merge; elements = { 192.0.2.0/24 } }"));
    }

    #[test]
    fn the_host_answers_guests_nothing_but_what_is_opened() {
        let text = text(&rules(), &[]);
        let input = chain(&text, "input");
        assert_eq!(input.len(), 4, "{input:#?}");
        assert!(input[3].ends_with("jump refuse"));
    }

    #[test]
    fn on_a_bridge_that_the_host_serves_guests_get_addresses_and_names_and_no_more() {
        let provider = KeyPair::from_secret_bytes([9; 32]).unwrap().id();
        let (rules, none, guests) = (rules(), BTreeSet::new(), BTreeSet::new());
        let of = |egress| {
            let names = Names::on_bridge(&provider, "mpqemubr0", egress);
            assert_ne!(names.table, super::tests::names().table, "two tables of one name");
            let set = Ruleset { names: &names, rules: &rules, on_link: &none, guests: &guests };
            (set.text(&names.table), names)
        };
        let (served, names) = of(Egress::Internet);
        let input = chain(&served, "input");
        assert!(
            input[1].contains("\"mpqemubr0\"") && input[1].contains("udp dport 67"),
            "{input:#?}"
        );
        assert!(input[2].ends_with("jump from_guest"), "the rest only from guests that are known");
        assert!(input[3].ends_with("th dport 53 accept"));
        assert!(input.last().unwrap().ends_with("jump refuse"));
        assert_eq!(input.len(), 6);
        assert_eq!(names.internet, "mpqemubr0");
        // One that reaches nothing is refused before names are answered.
        let (closed, names) = of(Egress::None);
        assert_eq!(names.internal, "mpqemubr0");
        assert!(chain(&closed, "from_guest").contains(&"iifname \"mpqemubr0\" jump refuse"));
    }

    #[test]
    fn only_guests_that_are_known_and_speak_for_themselves_are_heard() {
        let guest = Guest {
            address: "172.18.0.2".parse().unwrap(),
            mac: "02:42:ac:12:00:02".parse().unwrap(),
        };
        let (names, rules, on_link) = (names(), rules(), BTreeSet::new());
        let guests = BTreeSet::from([guest]);
        let set = Ruleset { names: &names, rules: &rules, on_link: &on_link, guests: &guests };
        let pair = "172.18.0.2 . 02:42:ac:12:00:02";
        assert!(set.text("t").contains(&format!(
            "set guests {{ type ipv4_addr . ether_addr;  elements = {{ {pair} }} }}"
        )));
        assert_eq!(
            chain(&set.text("t"), "from_guest")[..2],
            ["meta nfproto != ipv4 drop", "ip saddr . ether saddr != @guests drop"],
            "before anything is let through"
        );
        assert_eq!(
            set.update("t"),
            format!(
                "flush set inet t guests\nadd element inet t guests {{ {pair} }}\nflush set inet t on_link\n"
            )
        );
    }

    #[test]
    fn resolvers_are_open_at_port_53_only_and_not_for_guests_without_egress() {
        let resolvers = vec!["169.254.169.254".parse().unwrap()];
        let text = text(&Rules { resolvers, ..rules() }, &[]);
        assert_eq!(text.matches("169.254.169.254").count(), 1);
        let from = chain(&text, "from_guest");
        let naming = position(&from, "@resolvers");
        assert!(from[naming].ends_with("th dport 53 accept"));
        assert!(position(&from, &names().internal) < naming);
        assert_eq!(text.matches("@resolvers").count(), 1);
    }

    #[test]
    fn caps_come_before_what_is_established_is_let_through() {
        let caps = Caps { bandwidth_mbit: 8, new_connections: 20, connections: 300 };
        let text = text(&Rules { caps, ..rules() }, &[]);
        let from = chain(&text, "from_guest");
        assert!(position(&from, "meter_bytes_up") < position(&from, "established accept"));
        assert!(text.contains("ip saddr limit rate over 1000000 bytes/second"));
        assert!(text.contains("limit rate over 20/second burst 100 packets"));
        assert!(text.contains("ct count over 300"));
        for hook in ["forward", "output"] {
            assert!(
                chain(&text, hook).iter().any(|line| line.ends_with("jump to_guest")),
                "{hook}"
            );
        }
    }

    #[test]
    fn meters_are_left_out_of_comparisons() {
        let before = "table inet x {\n\tset meter_new {\n\t\ttype ipv4_addr\n\t}\n\tset on_link {\n\t\telements = { 10.0.0.0/8 }\n\t}\n}\n";
        let after = before.replace(
            "\t\ttype ipv4_addr\n",
            "\t\ttype ipv4_addr\n\t\telements = { 10.1.1.1 limit rate over 1/second }\n",
        );
        assert_ne!(before, after);
        assert_eq!(without_meters(before), without_meters(&after));
        assert_ne!(
            without_meters(before),
            without_meters(&before.replace("10.0.0.0/8", "10.0.0.0/9"))
        );
        assert_ne!(
            without_meters(before),
            without_meters(&before.replace("meter_new", "meter_old"))
        );
    }

    proptest! {
        /// Whatever is set: the only accepts for blocked ranges are the entries themselves.
        #[test]
        fn an_entry_opens_itself_and_nothing_else(
            entries in proptest::collection::vec((any::<u32>(), 8u8..=32, proptest::option::of(1u16..)), 0..8),
            links in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..8),
        ) {
            let net = |address: u32, prefix| Ipv4Net::new(address.into(), prefix).unwrap().trunc();
            let allowed: Vec<Destination> = entries
                .iter()
                .map(|(address, prefix, port)| Destination { network: net(*address, *prefix), port: *port })
                .collect();
            let links: Vec<String> = links.iter().map(|(a, p)| net(*a, *p).to_string()).collect();
            let links: Vec<&str> = links.iter().map(String::as_str).collect();
            let plain = text(&rules(), &links);
            let opened = text(&Rules { allowed: allowed.clone(), ..rules() }, &links);
            // Every line that is new is one entry's, or the set of those without a port.
            let mut known: Vec<&str> = plain.lines().collect();
            for line in opened.lines() {
                if let Some(at) = known.iter().position(|one| *one == line) {
                    known.remove(at);
                    continue;
                }
                let ports = allowed.iter().filter_map(|one| Some((one.network, one.port?)));
                let is_port = ports.into_iter().any(|(network, port)| line.trim() == format!(
                    "ip daddr {network} meta l4proto {{ tcp, udp }} th dport {port} accept"
                ));
                let is_set = line.trim().strip_prefix("set allowed { type ipv4_addr; flags interval; auto-merge; elements = { ")
                    .and_then(|rest| rest.strip_suffix(" } }"))
                    .is_some_and(|list| list.split(", ").all(|one| {
                        allowed.iter().any(|entry| entry.port.is_none() && entry.network.to_string() == one)
                    }));
                prop_assert!(is_port || is_set, "{line}");
            }
            // Nothing that blocks has gone but the empty set.
            prop_assert!(known.iter().all(|line| line.trim().starts_with("set allowed")), "{known:?}");
        }
    }
}
