//! Why a machine has no network.

/// Why a machine has no network, or not the one that it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A program is not installed.
    #[error("the program {program} is not there: install it ('apt-get install {package}')")]
    Missing {
        /// Its name.
        program: String,
        /// Debian's name of what it is in.
        package: &'static str,
    },
    /// The process that has the namespaces has ended.
    #[error("the machine's process {0} has ended, and its network with it")]
    Gone(u32),
    /// It is not known whether it has.
    #[error("nothing can be told of the machine's process {0}: {1}")]
    Unknown(u32, String),
    /// A program in the machine's namespaces failed.
    #[error("the machine's network can't be set up: {0}")]
    Refused(String),
    /// slirp4netns failed.
    #[error("the machine's uplink can't be started: {0}")]
    Uplink(String),
    /// Something of its directory, its process or what was to be written down of it.
    #[error("{0}")]
    Io(String),
}
