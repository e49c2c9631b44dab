//! What is around a host, played by network namespaces:
//!
//! ```text
//!  host ──┬── lan:     192.168.77.2 (a neighbour), .53 (the host's resolver)
//!         └── outside: 203.0.113.1 (on the link), and behind it 198.51.100.10 (the internet),
//!                      169.254.169.254 (metadata), 10.99.0.1, 100.64.0.9
//! ```

use crate::neighbourhood::{Behaviour, Namespace};

/// A LAN, and what is outside of it.
#[derive(Debug)]
pub struct Surroundings {
    /// Where the neighbours are.
    pub lan: Namespace,
    /// Where the rest is.
    pub outside: Namespace,
}

impl Surroundings {
    /// An address of the internet's.
    pub const INTERNET: &str = "198.51.100.10";
    /// A server of the host's own, on every address.
    pub const HOST_PORT: u16 = 8080;

    /// Makes them around a host, as its links `lan0` and `wan0`.
    #[must_use]
    pub fn of(host: &Namespace) -> Self {
        let (lan, outside) = (Namespace::new(), Namespace::new());
        for (name, namespace) in [("lan0", &lan), ("wan0", &outside)] {
            let pid = namespace.pid();
            host.run(&format!("ip link add {name} type veth peer name up0 netns {pid}"));
        }
        host.run(
            "ip addr add 192.168.77.1/24 dev lan0; ip link set lan0 up
             ip addr add 203.0.113.2/24 dev wan0; ip link set wan0 up
             ip route add default via 203.0.113.1",
        );
        lan.run(
            "ip addr add 192.168.77.2/24 dev up0; ip addr add 192.168.77.53/24 dev up0; ip link set up0 up
             ip route add default via 192.168.77.1",
        );
        outside.run(
            "ip addr add 203.0.113.1/24 dev up0; ip link set up0 up
             for one in 198.51.100.10 169.254.169.254 10.99.0.1 100.64.0.9; do ip addr add $one/32 dev lo; done
             ip route add 192.168.77.0/24 via 203.0.113.2",
        );
        lan.resolve(Self::INTERNET.parse().unwrap());
        for port in [80, 8443] {
            lan.serve(port, Behaviour::Greets);
        }
        for port in [25, 80, 465, 587] {
            outside.serve(port, Behaviour::Greets);
        }
        outside.serve(83, Behaviour::Holds);
        host.serve(Self::HOST_PORT, Behaviour::Greets);
        Self { lan, outside }
    }
}
