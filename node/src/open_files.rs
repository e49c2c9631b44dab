//! How many files, sockets among them, this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one (often 1024 to 1048576), and returns what
/// is allowed now. A limit that can't be raised stays, which is told in the log.
///
/// Only for processes that do not use `select(2)`; ours do not.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // `None` is "unlimited".
    let (current, maximum) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    if current >= maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!("can't raise the limit of open files above {current}: {error}");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_hard_one_afterwards() {
        let allowed = raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(allowed, limit.maximum.unwrap_or(u64::MAX));
    }
}
