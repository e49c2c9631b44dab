//! The program `nft`: loads, lists and removes tables.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use golem_vm_protocol::text::printable;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// It is done in milliseconds; a kernel that is asked by many at once may make it wait.
const DEADLINE: Duration = Duration::from_secs(20);
/// Where it is when it is not on the PATH of a service.
const ELSEWHERE: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];
/// Longest of its messages that is passed on, in characters.
const MESSAGE_CHARS: usize = 300;

/// Why it did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NftError {
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
pub(super) async fn load(text: &str) -> Result<(), NftError> {
    run(&["-f", "-"], text).await.map(drop)
}

/// The table as it stands in the kernel.
pub(super) async fn list(table: &str) -> Result<String, NftError> {
    run(&["-s", "-n", "list", "table", "inet", table], "").await
}

/// Removes the table. Does nothing if there is none.
pub(super) async fn remove(table: &str) -> Result<(), NftError> {
    match run(&["delete", "table", "inet", table], "").await {
        Ok(_) | Err(NftError::NoTable) => Ok(()),
        Err(error) => Err(error),
    }
}

fn program() -> PathBuf {
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("nft")).find(|file| file.is_file())
    });
    let elsewhere = || ELSEWHERE.iter().map(PathBuf::from).find(|file| file.is_file());
    on_path.or_else(elsewhere).unwrap_or_else(|| PathBuf::from("nft"))
}

async fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let spawned = Command::new(program())
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NftError::Missing);
        }
        Err(error) => return Err(NftError::Said(format!("it can't be started: {error}"))),
    };
    let mut stdin = child.stdin.take();
    let done = async {
        if let Some(mut stdin) = stdin.take() {
            // One that ends early says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(DEADLINE, done).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(NftError::Said(error.to_string())),
        Err(_) => return Err(NftError::Said(format!("nothing within {} s", DEADLINE.as_secs()))),
    };
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(understood(&String::from_utf8_lossy(&output.stderr)))
    }
}

fn understood(stderr: &str) -> NftError {
    if stderr.contains("Operation not permitted") {
        NftError::NotPermitted
    } else if stderr.contains("No such file or directory") && stderr.contains("table") {
        NftError::NoTable
    } else {
        let said = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        NftError::Said(printable(&said, MESSAGE_CHARS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_are_understood() {
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
