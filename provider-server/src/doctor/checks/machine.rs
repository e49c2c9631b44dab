//! The machine itself: clock, disk, memory, what of it is offered, and the key.

use golem_vm_protocol::time::Timestamp;

use crate::capacity::gib;
use crate::control::messages::Check;
use crate::doctor::{Facts, Peer};

/// How far the clock may be off, in seconds: half of the window for signed requests.
const CLOCK_TOLERANCE: i64 = 30;
/// 2025-01-01T00:00:00Z. A clock before that was never set.
const EARLIEST_SECONDS: u64 = 1_735_689_600;
/// Below this many MiB free, engines and databases begin to fail.
const LEAST_DISK_MIB: u64 = 1024;
/// Below this many MiB available, nothing can be started safely.
const LEAST_MEMORY_MIB: u64 = 128;

pub(in crate::doctor) fn clock(facts: &Facts) -> Check {
    const SUBJECT: &str = "clock";
    const REMEDY: &str = "set it and keep it right by NTP ('timedatectl set-ntp true', or install chrony); \
                          requests that are signed more than 60 s off are refused";
    // To the second: nobody sets a clock by more.
    let now = Timestamp::from_unix_seconds(facts.clock.now.unix_seconds());
    if now.unix_seconds() < EARLIEST_SECONDS {
        return Check::bad(SUBJECT, format!("it says {now}, so it was never set"), REMEDY);
    }
    if facts.clock.key_written.is_some_and(|written| written > now) {
        return Check::bad(
            SUBJECT,
            format!("it says {now}, which is before this provider's key was made"),
            REMEDY,
        );
    }
    let asked =
        |peer: &Peer| peer.answer.clone().ok().flatten().map(|ahead| (peer.url.clone(), ahead));
    let answers: Vec<_> = facts.discovery.iter().chain(&facts.checkers).filter_map(asked).collect();
    // The one that agrees most: another server's clock may be the one that is wrong.
    match answers.iter().min_by_key(|(_, ahead)| ahead.abs()) {
        Some((url, ahead)) if ahead.abs() > CLOCK_TOLERANCE => Check::bad(
            SUBJECT,
            format!(
                "it is {} s {} the clock of {url}",
                ahead.abs(),
                if *ahead > 0 { "ahead of" } else { "behind" }
            ),
            REMEDY,
        ),
        Some((url, ahead)) => {
            Check::good(SUBJECT, format!("within {} s of {url}", ahead.abs().max(1)))
        }
        None => Check::good(SUBJECT, format!("{now}; there is no other one to compare it with")),
    }
}

pub(in crate::doctor) fn disk(facts: &Facts) -> Vec<Check> {
    const SUBJECT: &str = "disk";
    const REMEDY: &str = "free some, move the data to a larger disk, or offer less \
                          (GOLEM_PROVIDER_OFFER_STORAGE_GB)";
    let mut checks = Vec::new();
    let place = facts.vm_data.display();
    checks.push(match &facts.host {
        Err(reason) => Check::bad(SUBJECT, reason.clone(), "make sure that this user may read it"),
        Ok(host) => {
            let free = host.disk_free_mib;
            let state = format!("{} of {} GB free on {place}", gib(free), gib(host.disk_total_mib));
            let promised = promised_mib(facts);
            if free < LEAST_DISK_MIB {
                Check::bad(SUBJECT, format!("{state}: too little to work"), REMEDY)
            } else if promised > free {
                Check::warning(
                    SUBJECT,
                    format!("{state}, and {} GB are still on offer", gib(promised)),
                    REMEDY,
                )
            } else {
                Check::good(SUBJECT, state)
            }
        }
    });
    if let Some(own) = &facts.own_disk
        && own.free_mib < LEAST_DISK_MIB
    {
        checks.push(Check::bad(
            SUBJECT,
            format!(
                "{} GB free on {}: too little for the database",
                gib(own.free_mib),
                own.path.display()
            ),
            "free some, or set GOLEM_PROVIDER_DATA_DIR to a directory on another disk",
        ));
    }
    checks
}

/// What the provider has stopped by itself, with the reasons.
pub(in crate::doctor) fn stopped(facts: &Facts) -> Option<Check> {
    let (name, reason) = facts.stopped.first()?;
    let others = match facts.stopped.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more; 'golem-provider status' has all)"),
    };
    Some(Check::warning(
        "stopped VMs",
        format!("{name}: {reason}{others}"),
        "nothing: who rents it was told, and it can be started again; if the disk is full, free some or \
         offer less (GOLEM_PROVIDER_OFFER_STORAGE_GB)",
    ))
}

/// MiB of disk that could still be rented, as far as they have to exist.
fn promised_mib(facts: &Facts) -> u64 {
    let (Ok(offered), Some(reserved)) = (&facts.capacity.offered, facts.capacity.reserved) else {
        return 0;
    };
    let free = offered.less(reserved).storage_mib;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "amounts stay far below 2^52, factors are 1 to 64"
    )]
    let exists = (free as f64 / facts.capacity.overcommit_storage.max(1.0)).floor() as u64;
    exists
}

pub(in crate::doctor) fn memory(facts: &Facts) -> Check {
    const SUBJECT: &str = "memory";
    let host = match &facts.host {
        Ok(host) => host,
        Err(reason) => {
            return Check::bad(SUBJECT, reason.clone(), "make sure that this user may read it");
        }
    };
    let available = host.memory_available_mib;
    let state = format!("{} of {} GB available", gib(available), gib(host.memory_total_mib));
    let on_offer = match (&facts.capacity.offered, facts.capacity.reserved) {
        (Ok(offered), Some(reserved)) => offered.less(reserved).memory_mib,
        _ => 0,
    };
    const REMEDY: &str = "end other programs, or offer less (GOLEM_PROVIDER_OFFER_MEMORY_GB)";
    if available < LEAST_MEMORY_MIB {
        Check::bad(SUBJECT, format!("{state}: too little to start anything"), REMEDY)
    } else if on_offer > available {
        Check::warning(
            SUBJECT,
            format!("{state}, and {} GB are still on offer", gib(on_offer)),
            REMEDY,
        )
    } else {
        Check::good(SUBJECT, state)
    }
}

pub(in crate::doctor) fn capacity(facts: &Facts) -> Check {
    const SUBJECT: &str = "capacity";
    let offered = match &facts.capacity.offered {
        Ok(offered) => *offered,
        Err(reason) => {
            return Check::bad(
                SUBJECT,
                reason.clone(),
                "change that setting; the provider does not start with it",
            );
        }
    };
    let words = crate::capacity::Amount::words;
    let Some(reserved) = facts.capacity.reserved else {
        return Check::good(SUBJECT, format!("offered: {}", words(offered)));
    };
    if offered.shortfall(reserved).is_some() {
        return Check::warning(
            SUBJECT,
            format!(
                "reserved: {}; that is more than the {} offered",
                words(reserved),
                words(offered)
            ),
            "nothing more is rented out until VMs are gone; raise what is offered \
             (GOLEM_PROVIDER_OFFER_CPU, …_OFFER_MEMORY_GB, …_OFFER_STORAGE_GB) if the machine has it",
        );
    }
    let whole = offered.whole();
    if whole.cpu == 0 || whole.memory == 0 || whole.storage == 0 {
        return Check::bad(
            SUBJECT,
            format!("offered: {}; no VM fits", words(offered)),
            "a VM needs a vCPU, 1 GB of memory and 1 GB of disk at least; offer more \
             (GOLEM_PROVIDER_OFFER_CPU, …_OFFER_MEMORY_GB, …_OFFER_STORAGE_GB), on a machine that has it",
        );
    }
    Check::good(
        SUBJECT,
        format!("offered: {}; free: {}", words(offered), words(offered.less(reserved))),
    )
}

pub(in crate::doctor) fn key(facts: &Facts) -> Check {
    let path = facts.key.path.display();
    match &facts.key.state {
        Ok(true) => Check::good("key", format!("{path} is there and only its owner can read it")),
        Ok(false) => Check::good("key", format!("{path} is made when the provider starts")),
        Err(reason) => {
            let (found, remedy) =
                reason.split_once("; ").unwrap_or((reason, "restore it from a backup"));
            Check::bad("key", found, remedy)
        }
    }
}
