//! Which release it is, how long things take, and what goes wrong.

use serde::{Deserialize, Serialize};

/// What the tests decide.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// The release, such as `1.16.3`.
    pub(crate) version: String,
    pub(crate) driver: String,
    /// The daemon does not answer.
    pub(crate) down: bool,
    /// The daemon does not trust this client.
    pub(crate) unauthenticated: bool,
    pub(crate) kvm: bool,
    /// Whether there are guests, or only words about them.
    pub(crate) guests: bool,
    /// The bridge that guests are on.
    pub(crate) bridge: String,
    /// From `launch` until the instance is listed, in milliseconds.
    pub(crate) prepare_ms: u64,
    /// From then until it runs.
    pub(crate) boot_ms: u64,
    /// From then until its first boot is over.
    pub(crate) init_ms: u64,
    /// How long a guest takes to shut down.
    pub(crate) stop_ms: u64,
    /// How long the daemon waits for one that does not.
    pub(crate) stop_limit_ms: u64,
    /// Guests do not shut down when they are asked.
    pub(crate) deaf: bool,
    /// Commands inside guests fail.
    pub(crate) no_way_in: bool,
    /// How long guests take to say their addresses.
    pub(crate) addresses_ms: u64,
    pub(crate) faults: Vec<Fault>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: "1.16.3".to_owned(),
            driver: "qemu".to_owned(),
            down: false,
            unauthenticated: false,
            kvm: true,
            guests: false,
            bridge: "mpqemubr0".to_owned(),
            prepare_ms: 50,
            boot_ms: 150,
            init_ms: 50,
            stop_ms: 100,
            stop_limit_ms: 300_000,
            deaf: false,
            no_way_in: false,
            addresses_ms: 0,
            faults: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether this release is `1.minor` or newer.
    pub(crate) fn is_at_least(&self, minor: u32) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let (major, own) = (parts.next().unwrap(), parts.next().unwrap_or(0));
        major > 1 || own >= minor
    }
}

/// Something that goes wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// In which command.
    pub(crate) on: String,
    pub(crate) kind: Kind,
    /// How often from now on.
    #[serde(default = "once")]
    pub(crate) times: u32,
}

const fn once() -> u32 {
    1
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The client does not wait: exit 5, and the daemon goes on.
    ClientTimeout,
    /// The daemon ends in the middle of a launch: nothing is recorded, and the name is spoilt.
    Crash,
    /// The call never ends.
    Hang,
    /// It fails, with this on standard error, and nothing is done.
    Says(String),
    /// It fails with this, and is done all the same.
    FailsAfterwards(String),
    /// It succeeds, and nothing is done.
    Lies,
    /// The guest dies while it starts.
    Dies,
    /// The instance stays in a state that the daemon does not know.
    StaysUnknown,
    /// Nothing is listed, although there is something.
    ListsNothing,
    /// First boot leaves the user data aside.
    IgnoresUserData,
}
