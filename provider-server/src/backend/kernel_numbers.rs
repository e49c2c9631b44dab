//! Numbers of things that the kernel has for all together, guests without a user namespace among them.
//!
//! Whoever takes all of one leaves none to the others and to the host. The kernel takes what each of
//! them needs from the memory of who asks for it, so memory is the bound where the number is large.

use crate::backend::Finding;

/// One number, and from which size on memory is what bounds a guest.
struct Number {
    name: &'static str,
    path: &'static str,
    plenty: u64,
}

const NUMBERS: [Number; 3] = [
    // The kernel takes no more than 2^20 (NR_UNIX98_PTY_MAX).
    Number { name: "kernel.pty.max", path: "/proc/sys/kernel/pty/max", plenty: 1 << 20 },
    // Counted per user, and user 0 of every guest is the host's.
    Number {
        name: "fs.inotify.max_user_instances",
        path: "/proc/sys/fs/inotify/max_user_instances",
        plenty: 1 << 20,
    },
    Number { name: "fs.aio-max-nr", path: "/proc/sys/fs/aio-max-nr", plenty: 1 << 26 },
];

/// Raises those that are too small, where this process may (as root). Says so when it does.
pub fn let_memory_bound_them() {
    for number in too_small(read) {
        match std::fs::write(number.path, number.plenty.to_string()) {
            Ok(()) => tracing::info!("{} raised to {}", number.name, number.plenty),
            Err(error) => tracing::debug!("{} stays as it is: {error}", number.name),
        }
    }
}

/// What there is to say.
pub(super) fn judge() -> Finding {
    compare(&too_small(read))
}

fn read(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn too_small(read: impl Fn(&str) -> Option<u64>) -> Vec<&'static Number> {
    NUMBERS
        .iter()
        .filter(|number| read(number.path).is_some_and(|now| now < number.plenty))
        .collect()
}

fn compare(too_small: &[&Number]) -> Finding {
    const SUBJECT: &str = "kernel numbers";
    if too_small.is_empty() {
        return Finding::good(
            SUBJECT,
            "pseudo-terminals, inotify instances and asynchronous reads are many; memory bounds them",
        );
    }
    let names: Vec<&str> = too_small.iter().map(|number| number.name).collect();
    let remedy: Vec<String> =
        too_small.iter().map(|number| format!("{}={}", number.name, number.plenty)).collect();
    Finding::bad(
        SUBJECT,
        format!("one VM can take all that the machine has of {}", names.join(", ")),
        format!(
            "run 'sysctl {}' as root; the provider does it itself when it is started as root",
            remedy.join(" ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_guest_could_take_whole_is_found_out() {
        let usual = |path: &str| Some(if path.ends_with("aio-max-nr") { 65_536 } else { 4096 });
        let finding = compare(&too_small(usual));
        assert!(!finding.good);
        for number in &NUMBERS {
            assert!(finding.detail.contains(number.name), "{}", finding.detail);
        }
        assert!(compare(&too_small(|_| Some(u64::MAX))).good);
        // What this kernel does not have can't be taken.
        assert!(compare(&too_small(|_| None)).good);
    }
}
