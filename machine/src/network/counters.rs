//! What a machine has sent and received, as the kernel counts it.

use std::io;

use super::ruleset::GUEST_SIDE;
use crate::process::ProcessIdentity;

/// What a guest's network card has carried since the machine's network was raised, with Ethernet's headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that the guest sent, also what was not let through.
    pub sent_bytes: u64,
    /// Packets that it sent.
    pub sent_packets: u64,
    /// Bytes that it was sent.
    pub received_bytes: u64,
    /// Packets that it was sent.
    pub received_packets: u64,
}

/// What the machine's network card has carried. Nothing is run for it, in the guest or outside.
///
/// # Errors
/// When the process is gone ([`io::ErrorKind::NotFound`]), or has no such card.
pub fn counters(process: &ProcessIdentity) -> io::Result<Counters> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the machine's process has ended");
    let table = std::fs::read_to_string(format!("/proc/{}/net/dev", process.pid))?;
    // Looked at afterwards: then the table was this process's.
    if !process.alive()? {
        return Err(gone());
    }
    parse(&table).ok_or_else(|| io::Error::other("the machine has no network card"))
}

/// The line of a machine's card in `/proc/PID/net/dev` (proc(5)). The kernel receives what the guest sends.
fn parse(table: &str) -> Option<Counters> {
    let of_card = |line: &str| {
        let (name, fields) = line.split_once(':')?;
        (name.trim() == GUEST_SIDE).then(|| fields.to_owned())
    };
    let fields = table.lines().find_map(of_card)?;
    let fields: Vec<u64> =
        fields.split_ascii_whitespace().map_while(|one| one.parse().ok()).collect();
    Some(Counters {
        sent_bytes: *fields.first()?,
        sent_packets: *fields.get(1)?,
        received_bytes: *fields.get(8)?,
        received_packets: *fields.get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       2    0    0    0     0          0         0        3       4    0    0    0     0       0          0
   vm0:    1500      12    0    0    0     0          0         0     9000      30    0    0    0     0       0          0
uplink: 7 8 0 0 0 0 0 0 9 10 0 0 0 0 0 0
";

    #[test]
    fn what_the_kernel_received_the_guest_sent() {
        let read = parse(TABLE);
        let expected = Counters {
            sent_bytes: 1500,
            sent_packets: 12,
            received_bytes: 9000,
            received_packets: 30,
        };
        assert_eq!(read, Some(expected));
        assert_eq!(parse(&TABLE.replace("vm0", "vm1")), None);
        assert_eq!(parse("vm0: 1 2 x"), None);
        assert_eq!(parse(""), None);
    }
}
