//! Signatures, verified by `gpgv` with keys that were known before.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::{ImageError, ImageStore};

/// How long a verification may take; it is done in milliseconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// What something has to be signed with. Any of the keys will do.
#[derive(Debug, Clone)]
pub enum Keys {
    /// Keys that this program brings.
    Known(Vec<u8>),
    /// Keys of a package of the distribution.
    Installed {
        /// Where they are.
        file: PathBuf,
        /// In which package.
        package: &'static str,
    },
}

/// Verifies that `list` is what one of the keys has signed.
pub(super) async fn verify(
    list: &[u8],
    signature: &[u8],
    keys: &Keys,
    shown: &str,
    store: &ImageStore,
) -> Result<(), ImageError> {
    let draft = store.draft()?;
    let write = |name: &str, content: &[u8]| {
        let path = draft.directory().join(name);
        std::fs::write(&path, content).map_err(ImageError::io("write", &path)).map(|()| path)
    };
    let keyring = match keys {
        Keys::Known(keys) => write("keys.gpg", keys)?,
        Keys::Installed { file, .. } if file.is_file() => file.clone(),
        Keys::Installed { file, package } => {
            let program = file.display().to_string();
            return Err(ImageError::NoProgram { program, package });
        }
    };
    let (list, signature) = (write("list", list)?, write("signature", signature)?);
    let mut command = Command::new("gpgv");
    command
        .args(["--quiet", "--status-fd", "1", "--homedir"])
        .arg(draft.directory())
        .arg("--keyring")
        .arg(keyring)
        .args([signature, list])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match timeout(DEADLINE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ImageError::NoProgram { program: "gpgv".to_owned(), package: "gpgv" });
        }
        Ok(Err(error)) => return Err(ImageError::io("run", "gpgv".as_ref())(error)),
        Err(_) => return Err(ImageError::Unexpected("gpgv does not end".to_owned())),
    };
    let status = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && is_good(&status) {
        return Ok(());
    }
    let said = super::printable(String::from_utf8_lossy(&output.stderr).trim());
    Err(ImageError::BadSignature { list: shown.to_owned(), said })
}

/// Whether gpgv's status lines speak of good signatures only, and of one at least. An expired or revoked key makes
/// other words of it.
fn is_good(status: &str) -> bool {
    let words = || {
        let lines = status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] "));
        lines.filter_map(|line| line.split(' ').next())
    };
    let bad = ["BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA"];
    words().any(|word| word == "GOODSIG")
        && words().any(|word| word == "VALIDSIG")
        && !words().any(|word| bad.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_signatures_are_good() {
        let good =
            "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1A5D6C4C7DB87C81 UEC\n[GNUPG:] VALIDSIG D2EB 2025\n";
        assert!(is_good(good));
        assert!(!is_good(""));
        assert!(!is_good("[GNUPG:] GOODSIG 1A5D6C4C7DB87C81 UEC\n"));
        assert!(!is_good("gpgv: GOODSIG VALIDSIG"));
        for bad in ["BADSIG 1A", "EXPKEYSIG 1A", "REVKEYSIG 1A", "ERRSIG 1A"] {
            assert!(!is_good(&format!("{good}[GNUPG:] {bad}\n")), "{bad}");
        }
    }
}
