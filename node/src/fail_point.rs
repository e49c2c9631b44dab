//! Places where a test has the program killed, as `kill -9` or a power cut would.
//!
//! A program that has to come through an end at any moment marks the moments that matter with
//! [`reached`]. Without the feature `fail-points`, which no release has, that is nothing at all. With it:
//!
//! | variable | what it does |
//! |---|---|
//! | `GOLEM_FAIL_POINT=NAME[:N]` | the process kills itself with SIGKILL when it reaches NAME for the N-th time (the first without N) |
//! | `GOLEM_FAIL_POINT=@FILE` | the same with what stands in FILE at that moment: a test arms a program that runs. The count begins again with another text |
//! | `GOLEM_FAIL_POINTS_REACHED=FILE` | each name that is reached is appended to FILE as a line, before a kill too |
//!
//! [`fail_points!`](crate::fail_points) lists the points of a program.

/// A job of the store was run in its transaction, which is not committed yet.
pub const STORE_BEFORE_COMMIT: &str = "store.before-commit";
/// A transaction of the store is on disk, and nobody knows yet.
pub const STORE_COMMITTED: &str = "store.committed";
/// Those who waited for a transaction of the store have been told.
pub const STORE_ANSWERED: &str = "store.answered";

/// The points of this crate.
pub const ALL: [&str; 3] = [STORE_BEFORE_COMMIT, STORE_COMMITTED, STORE_ANSWERED];

/// The points of a program: an enum whose variants say their names, and `reached`, which takes one.
///
/// ```
/// golem_vm_node::fail_points! {
///     /// A moment at which this program may be killed.
///     pub enum FailPoint {
///         /// Nothing was done yet.
///         Begun = "work.begun",
///     }
/// }
/// reached(FailPoint::Begun);
/// assert_eq!(FailPoint::ALL[0].name(), "work.begun");
/// ```
#[macro_export]
macro_rules! fail_points {
    (
        $(#[doc = $about:literal])*
        pub enum $points:ident { $($(#[doc = $doc:literal])* $point:ident = $name:literal,)* }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $points {
            $($(#[doc = $doc])* $point,)*
        }

        impl $points {
            /// Every point of this program's own. Those of the store are in `golem_vm_node::fail_point::ALL`.
            pub const ALL: &'static [Self] = &[$(Self::$point),*];

            /// Its name: what is going on, a dot, and what was done last or comes next.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }

        /// Says that `point` is reached. Does not return if the process is to end here.
        #[inline(always)]
        pub fn reached(point: $points) {
            $crate::fail_point::reached(point.name());
        }
    };
}

/// Says that the point of that name is reached. Does not return if the process is to end here.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub const fn reached(_name: &'static str) {}

#[cfg(feature = "fail-points")]
pub use armed::reached;

#[cfg(feature = "fail-points")]
mod armed {
    use std::fs::{self, File, OpenOptions};
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    struct Surroundings {
        order: Order,
        record: Option<Mutex<File>>,
        countdown: Mutex<Countdown>,
    }

    enum Order {
        None,
        Fixed(String),
        In(PathBuf),
    }

    /// How often the point of an order was reached.
    #[derive(Default)]
    struct Countdown {
        order: String,
        reached: u32,
    }

    impl Countdown {
        /// Whether this is the time that `order` (`name` or `name:n`) means.
        fn is_over(&mut self, order: &str, name: &str) -> bool {
            if self.order != order {
                *self = Self { order: order.to_owned(), reached: 0 };
            }
            let (wanted, times) = match order.split_once(':') {
                Some((wanted, times)) => (wanted, times.parse().unwrap_or(1)),
                None => (order, 1),
            };
            if wanted != name {
                return false;
            }
            self.reached = self.reached.saturating_add(1);
            self.reached == times
        }
    }

    static SURROUNDINGS: LazyLock<Surroundings> = LazyLock::new(|| {
        let order = match std::env::var("GOLEM_FAIL_POINT") {
            Ok(text) => match text.strip_prefix('@') {
                Some(path) => Order::In(path.into()),
                None => Order::Fixed(text),
            },
            Err(_) => Order::None,
        };
        let record = std::env::var_os("GOLEM_FAIL_POINTS_REACHED")
            .and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok())
            .map(Mutex::new);
        Surroundings { order, record, countdown: Mutex::default() }
    });

    /// Says that the point of that name is reached. Does not return if the process is to end here.
    pub fn reached(name: &'static str) {
        let surroundings = &*SURROUNDINGS;
        if let Some(record) = &surroundings.record {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            // What can't be recorded is missed by the test that reads it.
            let _ = record.write_all(format!("{name}\n").as_bytes());
        }
        let order = match &surroundings.order {
            Order::None => return,
            Order::Fixed(order) => order.clone(),
            Order::In(path) => fs::read_to_string(path).unwrap_or_default().trim().to_owned(),
        };
        let mut countdown = surroundings.countdown.lock().unwrap_or_else(PoisonError::into_inner);
        if countdown.is_over(&order, name) {
            let _ = kill_process(getpid(), Signal::KILL);
            // The other threads end when the kernel gets to them; this one does nothing more.
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::Countdown;

        #[test]
        fn an_order_means_one_time_of_one_point() {
            let mut countdown = Countdown::default();
            assert!(!countdown.is_over("", "a"));
            assert!(!countdown.is_over("b", "a"));
            assert!(countdown.is_over("a", "a"));
            assert!(!countdown.is_over("a", "a"), "one that goes on is not killed later");
            // Another order counts from the beginning.
            assert!(!countdown.is_over("a:2", "a"));
            assert!(!countdown.is_over("a:2", "b"));
            assert!(countdown.is_over("a:2", "a"));
        }
    }
}
