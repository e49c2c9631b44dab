//! What things are called: the provider's table, its bridges, its guests.

use std::fmt;
use std::net::Ipv4Addr;

use golem_vm_machine::network::Mac;
use golem_vm_protocol::KeyId;

use crate::backend::Egress;

/// Longest name of a Linux network interface (IFNAMSIZ less the NUL).
const INTERFACE_NAME_MAX: usize = 15;

/// The names of one provider's table and bridges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The table.
    pub table: String,
    /// The table that is loaded only to see whether one can be.
    pub trial: String,
    /// The bridge whose guests reach the internet.
    pub internet: String,
    /// The bridge whose guests reach nothing.
    pub internal: String,
    /// Whether the host itself hands out addresses on these bridges, and answers for names.
    pub host_serves: bool,
}

impl Names {
    /// Those of that provider.
    #[must_use]
    pub fn of(provider: &KeyId) -> Self {
        let internet = interface("gvm-", provider);
        let table = internet.replacen("gvm-", "golem-", 1);
        Self {
            trial: format!("{table}-trial"),
            table,
            internet,
            internal: interface("gvi-", provider),
            host_serves: false,
        }
    }

    /// Those for a bridge that another program has made and serves, such as Multipass: a table of its own, beside
    /// the one for bridges of ours.
    #[must_use]
    pub fn on_bridge(provider: &KeyId, bridge: &str, egress: Egress) -> Self {
        let table = format!("{}-{bridge}", Self::of(provider).table);
        // No interface is ever called so.
        let nobody = interface("gvn-", provider);
        let (internet, internal) = match egress {
            Egress::Internet => (bridge.to_owned(), nobody),
            Egress::None => (nobody, bridge.to_owned()),
        };
        Self { trial: format!("{table}-trial"), table, internet, internal, host_serves: true }
    }
}

/// The name of one of a provider's interfaces; prefixes have four characters and begin with `gv`.
#[must_use]
pub fn interface(prefix: &str, provider: &KeyId) -> String {
    let mut name = format!("{prefix}{provider}");
    name.truncate(INTERFACE_NAME_MAX);
    name
}

/// A guest's end of the network: what the backend gave it. A packet with another source is not its.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guest {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network card's.
    pub mac: Mac,
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {}", self.address, self.mac)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;

    #[test]
    fn names_fit_and_belong_together() {
        let provider = KeyPair::from_secret_bytes([9; 32]).unwrap().id();
        let names = Names::of(&provider);
        assert_eq!(names.internet.len(), INTERFACE_NAME_MAX);
        assert_eq!(names.internal.len(), INTERFACE_NAME_MAX);
        assert_ne!(names.internet, names.internal);
        assert_eq!(names.table[6..], names.internet[4..], "a bridge's table is known by its name");
    }
}
