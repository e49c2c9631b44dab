//! The program `nft`: loads, lists and removes tables.

use std::time::Duration;

use super::program::{self, Failure, in_one_line};

/// It is done in milliseconds; a kernel that is asked by many at once may make it wait.
const DEADLINE: Duration = Duration::from_secs(20);

/// Why it did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NftError {
    /// It is not installed.
    #[error("the program nft is not there: install it ('apt-get install nftables')")]
    Missing,
    /// This process may not.
    #[error(
        "this process may not set firewall rules: run golem-provider as root, or give it \
         CAP_NET_ADMIN (in its systemd unit: AmbientCapabilities=CAP_NET_ADMIN)"
    )]
    NotPermitted,
    /// There is no such table.
    #[error("there is no such table")]
    NoTable,
    /// Something else.
    #[error("nft says: {0}")]
    Said(String),
}

/// Loads what `text` says, all of it or nothing.
///
/// # Errors
/// Why nothing was loaded.
pub async fn load(text: &str) -> Result<(), NftError> {
    run(&["-f", "-"], text).await.map(drop)
}

/// The table `inet` of that name as it stands in the kernel.
///
/// # Errors
/// When there is none, or it can't be read.
pub async fn list(table: &str) -> Result<String, NftError> {
    run(&["-s", "-n", "list", "table", "inet", table], "").await
}

/// Removes the table `inet` of that name. Does nothing if there is none.
///
/// # Errors
/// Why it is still there.
pub async fn remove(table: &str) -> Result<(), NftError> {
    match run(&["delete", "table", "inet", table], "").await {
        Ok(_) | Err(NftError::NoTable) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    program::run("nft", arguments, input, DEADLINE).await.map_err(understood)
}

/// What a failure of it means.
pub(super) fn understood(failure: Failure) -> NftError {
    let said = match failure {
        Failure::Missing => return NftError::Missing,
        Failure::NotRun(why) => return NftError::Said(why),
        Failure::Said(said) => said,
    };
    if said.contains("Operation not permitted") {
        NftError::NotPermitted
    } else if said.contains("No such file or directory") && said.contains("table") {
        NftError::NoTable
    } else {
        NftError::Said(in_one_line(&said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_are_understood() {
        let understood = |said: &str| understood(Failure::Said(said.to_owned()));
        let not_permitted =
            "internal:0:0-0: Error: Could not process rule: Operation not permitted\n";
        assert_eq!(understood(not_permitted), NftError::NotPermitted);
        let gone = "Error: No such file or directory\nlist table inet golem-x\n           ^^^^\n";
        assert_eq!(understood(gone), NftError::NoTable);
        let other = understood("Error: syntax error\n\u{1b}[31m");
        assert_eq!(other, NftError::Said("Error: syntax error \u{fffd}[31m".to_owned()));
        assert!(NftError::Missing.to_string().contains(": "), "a remedy stands behind a colon");
    }
}
