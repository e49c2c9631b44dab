//! Who is at an address on one of this host's bridges, by the kernel's own tables. Elsewhere than on Linux nobody
//! is known.

use std::net::Ipv4Addr;
use std::path::Path;

use golem_vm_machine::network::host;
use ipnet::Ipv4Net;

use super::Mac;

/// Hardware addresses that the kernel knows (proc_net(5)).
const TABLE: &str = "/proc/net/arp";

/// The hardware address that answers for `address` on that interface, if it has answered.
#[must_use]
pub fn mac_of(interface: &str, address: Ipv4Addr) -> Option<Mac> {
    in_table(&std::fs::read_to_string(TABLE).ok()?, interface, address)
}

/// The network in which an interface has its address; `None` where there is no such interface.
pub async fn network_of(interface: &str) -> Option<Ipv4Net> {
    let path = Path::new("/sys/class/net").join(interface).join("ifindex");
    let index: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    host::networks_of(index).await.ok()?.into_iter().next()
}

/// `IP address  HW type  Flags  HW address  Mask  Device`, with a line for each.
fn in_table(table: &str, interface: &str, address: Ipv4Addr) -> Option<Mac> {
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [ip, _, flags, mac, _, device] = words.as_slice() else { return None };
        // Without the second bit (ATF_COM) nobody has answered.
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
        let is_it = ip.parse() == Ok(address) && *device == interface && flags & 2 != 0;
        is_it.then(|| mac.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.167.141.5     0x1         0x2         52:54:00:47:78:b1     *        mpqemubr0
10.167.141.6     0x1         0x0         00:00:00:00:00:00     *        mpqemubr0
10.167.141.7     0x1         0x2         52:54:00:47:78:b3     *        eth0
nonsense
";

    #[test]
    fn whoever_has_answered_on_that_bridge_is_known() {
        let of = |last| {
            in_table(SEEN, "mpqemubr0", Ipv4Addr::new(10, 167, 141, last))
                .map(|mac| mac.to_string())
        };
        assert_eq!(of(5).as_deref(), Some("52:54:00:47:78:b1"));
        assert_eq!((of(6), of(7), of(8)), (None, None, None));
    }

    #[tokio::test]
    async fn an_interface_s_network_is_known() {
        assert_eq!(network_of("lo").await, "127.0.0.0/8".parse().ok());
        assert_eq!(network_of("nosuch0").await, None);
    }
}
