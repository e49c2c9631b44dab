//! The `Date` header of another server, as a second opinion on the time.

use golem_vm_protocol::time::Timestamp;

/// The moment that a `Date` header names (RFC 9110, section 5.6.7: the preferred form).
pub(crate) fn parse(text: &str) -> Option<u64> {
    let zoned = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    u64::try_from(zoned.timestamp().as_second()).ok()
}

/// How many seconds a clock is ahead of the server that said `date` (whole seconds, cut off)
/// somewhere between `asked` and `answered`. What may be due to the way there and back, or to the
/// cut, counts as agreement.
pub(super) fn ahead(asked: Timestamp, answered: Timestamp, date: u64) -> i64 {
    let second = 1_000_000;
    let earliest = i64::try_from(date).unwrap_or(i64::MAX / second).saturating_mul(second);
    let latest = earliest.saturating_add(second);
    // Its "now" lies in [earliest, latest); ours went from `asked` to `answered` meanwhile.
    if asked.unix_micros() > latest {
        (asked.unix_micros() - latest) / second + 1
    } else if answered.unix_micros() < earliest {
        (answered.unix_micros() - earliest) / second - 1
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_date_is_read() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for bad in ["", "yesterday", "Sun, 06 Nov 1994", "Sunday, 06-Nov-94 08:49:37 GMT"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn delay_is_not_taken_for_a_wrong_clock() {
        let at = |seconds: u64| Timestamp::from_unix_seconds(seconds);
        assert_eq!(ahead(at(1000), at(1010), 1005), 0);
        assert_eq!(ahead(at(1000), at(1000), 1000), 0);
        assert_eq!(ahead(at(1100), at(1100), 1000), 100);
        assert_eq!(ahead(at(900), at(901), 1000), -100);
    }
}
