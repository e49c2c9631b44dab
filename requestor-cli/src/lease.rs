//! A VM's lease in words: when it ends, what happens then, and what to type before it does. No I/O.

use golem_vm_protocol::time::{Timestamp, in_words};
use golem_vm_protocol::vm::{Lease, LeaseRequest, OnExpiry};

/// So shortly before its end a lease is said to end soon, whatever the provider said when it was last
/// asked, in seconds.
const SOON_SECONDS: u64 = 600;
/// How much earlier than asked for a lease may end before it counts as broken, in seconds: the moments
/// are written by the provider's clock while it makes the VM.
const TOLERANCE_SECONDS: u64 = 60;

/// Whether it ends so soon that its owner should be told.
#[must_use]
pub fn ends_soon(lease: &Lease, now: Timestamp) -> bool {
    let Some(end) = lease.expires_at.filter(|_| lease.ended_at.is_none()) else { return false };
    lease.ends_soon || end.since(now).as_secs() <= SOON_SECONDS
}

/// For a column of a table: `in 1 h 52 min`, `soon! in 5 min 3 s`, `ended, kept until …`.
#[must_use]
pub fn ends_cell(lease: Option<&Lease>, now: Timestamp) -> String {
    let Some(lease) = lease else { return "-".to_owned() };
    match (lease.ended_at, lease.erased_at, lease.expires_at) {
        (Some(_), Some(erased), _) => format!("ended, kept until {} UTC", minute(erased)),
        (Some(_), None, _) => "ended".to_owned(),
        (None, _, None) => "never".to_owned(),
        (None, _, Some(end)) if end <= now => "now".to_owned(),
        (None, _, Some(end)) => {
            let left = in_words(end.since(now).as_secs());
            if ends_soon(lease, now) { format!("soon! in {left}") } else { format!("in {left}") }
        }
    }
}

/// When it ends and what happens then, as the end of a sentence about the VM.
#[must_use]
pub fn sentence(lease: &Lease, now: Timestamp) -> String {
    if let Some(ended) = lease.ended_at {
        let kept = match lease.erased_at {
            Some(erased) => format!("it is kept until {} UTC, and erased then", minute(erased)),
            None => "it is erased".to_owned(),
        };
        return format!("ended {} UTC; {kept}", minute(ended));
    }
    let Some(end) = lease.expires_at else { return "not by itself".to_owned() };
    let left = end.since(now).as_secs();
    format!("{} UTC (in {}), {}", minute(end), in_words(left), at_the_end(lease))
}

/// What happens when it ends: `and is then stopped …`.
fn at_the_end(lease: &Lease) -> String {
    match (lease.on_expiry, lease.grace_seconds) {
        (OnExpiry::Destroy, _) => "then everything in it is destroyed".to_owned(),
        (OnExpiry::Unknown, _) => "then its provider does what a newer golem knows".to_owned(),
        (OnExpiry::Stop, 0) => "then it is stopped and erased".to_owned(),
        (OnExpiry::Stop, grace) => {
            format!("then it is stopped, kept for {}, and erased", in_words(grace))
        }
    }
}

/// What its owner should know before it is too late, with the command that helps; `None` while there is
/// time enough.
#[must_use]
pub fn warning(name: &str, lease: &Lease, now: Timestamp) -> Option<String> {
    if lease.ended_at.is_some() {
        let until = lease.erased_at?;
        return Some(format!(
            "the lease of '{name}' has ended; it is erased {} UTC (in {}). Have it back: golem vm undelete {name}",
            minute(until),
            in_words(until.since(now).as_secs())
        ));
    }
    let end = lease.expires_at.filter(|_| ends_soon(lease, now))?;
    Some(format!(
        "the lease of '{name}' ends in {}, {}. Make it longer: golem vm extend {name} --for 3h",
        in_words(end.since(now).as_secs()),
        at_the_end(lease)
    ))
}

/// What of a VM's lease is not as it was asked for, in a few words each. `began` is when the provider took
/// the request, by its own clock.
#[must_use]
pub fn broken(
    asked: Option<&LeaseRequest>,
    lease: Option<&Lease>,
    began: Timestamp,
) -> Vec<String> {
    let Some(lease) = lease else {
        return match asked {
            Some(_) => vec!["it does not say when its lease ends".to_owned()],
            None => Vec::new(),
        };
    };
    let mut broken = Vec::new();
    let asked = asked.copied().unwrap_or_default();
    let wanted = asked.on_expiry.unwrap_or_default();
    if lease.on_expiry != wanted {
        broken.push(format!("at the end of its lease is '{}', not '{wanted}'", lease.on_expiry));
    }
    if let (Some(wanted), Some(end)) = (asked.duration_seconds, lease.expires_at) {
        let given = end.since(began).as_secs();
        if given.saturating_add(TOLERANCE_SECONDS) < wanted {
            broken.push(format!("its lease is {}, not {}", in_words(given), in_words(wanted)));
        }
    }
    if lease.stop_when_idle_seconds != asked.stop_when_idle_seconds {
        let words = |seconds: Option<u64>| seconds.map_or_else(|| "never".to_owned(), in_words);
        broken.push(format!(
            "when idle it is stopped after: {}, not {}",
            words(lease.stop_when_idle_seconds),
            words(asked.stop_when_idle_seconds)
        ));
    }
    broken
}

/// `2026-11-21 10:32`, UTC.
#[must_use]
pub fn minute(time: Timestamp) -> String {
    let text = time.naive().to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_795_221_200 + seconds)
    }

    fn lease(end: Option<u64>) -> Lease {
        Lease {
            expires_at: end.map(at),
            on_expiry: OnExpiry::Stop,
            grace_seconds: 86_400,
            ends_soon: false,
            ended_at: None,
            erased_at: None,
            stop_when_idle_seconds: None,
        }
    }

    #[test]
    fn a_lease_is_told_in_words() {
        let long = lease(Some(6_720));
        assert_eq!(ends_cell(Some(&long), at(0)), "in 1 h 52 min");
        assert_eq!(ends_cell(None, at(0)), "-");
        assert_eq!(ends_cell(Some(&lease(None)), at(0)), "never");
        assert_eq!(ends_cell(Some(&long), at(7_000)), "now");
        assert!(
            sentence(&long, at(0))
                .contains("(in 1 h 52 min), then it is stopped, kept for 1 d 0 h")
        );
        assert_eq!(warning("box", &long, at(0)), None);

        let soon = warning("box", &long, at(6_600)).unwrap();
        assert!(
            soon.contains("ends in 2 min 0 s") && soon.contains("golem vm extend box --for 3h")
        );
        assert_eq!(ends_cell(Some(&long), at(6_600)), "soon! in 2 min 0 s");
        let told = Lease { ends_soon: true, on_expiry: OnExpiry::Destroy, ..long.clone() };
        assert!(warning("box", &told, at(0)).unwrap().contains("everything in it is destroyed"));

        let kept = Lease { ended_at: Some(at(6_720)), erased_at: Some(at(93_120)), ..long };
        assert_eq!(ends_cell(Some(&kept), at(6_800)), "ended, kept until 2026-11-22 02:25 UTC");
        assert!(warning("box", &kept, at(6_800)).unwrap().contains("golem vm undelete box"));
        assert!(!ends_soon(&kept, at(6_800)));
    }

    #[test]
    fn another_lease_than_asked_for_is_told() {
        let given = lease(Some(3_600));
        assert!(broken(None, Some(&given), at(0)).is_empty());
        assert!(broken(None, None, at(0)).is_empty());
        let asked =
            |seconds| LeaseRequest { duration_seconds: Some(seconds), ..LeaseRequest::default() };
        assert!(broken(Some(&asked(3_600)), Some(&given), at(30)).is_empty());
        assert!(
            broken(Some(&asked(7_200)), Some(&given), at(0))[0]
                .contains("is 1 h 0 min, not 2 h 0 min")
        );
        assert_eq!(broken(Some(&asked(1)), None, at(0)).len(), 1);
        let destroy =
            Lease { on_expiry: OnExpiry::Destroy, stop_when_idle_seconds: Some(60), ..given };
        assert_eq!(broken(None, Some(&destroy), at(0)).len(), 2);
        assert!(
            broken(Some(&asked(9)), Some(&Lease { expires_at: None, ..lease(None) }), at(0))
                .is_empty()
        );
    }
}
