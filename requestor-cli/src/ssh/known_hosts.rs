//! The file of pinned host keys, for OpenSSH. It is made from the list of rentals, which is the
//! truth; whatever else somebody writes into it is gone the next time.

use std::path::Path;

use golem_vm_protocol::VmId;
use golem_vm_protocol::vm::SshPublicKey;

use crate::atomic_file;
use crate::error::{CliError, Result};
use crate::rentals::Rental;

const HEADER: &str = "# Made by golem from the list of your VMs; changes are lost.\n";

pub(crate) fn content<'a>(keys: impl Iterator<Item = (VmId, &'a SshPublicKey)>) -> String {
    let mut text = HEADER.to_owned();
    for (vm, key) in keys {
        text.push_str(&format!("{vm} {}\n", key.without_comment()));
    }
    text
}

/// Makes the file at `path` (mode 0600) hold the host keys of `rentals`.
///
/// # Errors
/// When it can't be written.
pub fn sync(path: &Path, rentals: &[Rental]) -> Result<()> {
    let keys =
        rentals.iter().filter_map(|rental| Some((rental.vm_id?, &rental.ssh.as_ref()?.host_key)));
    let new = content(keys);
    if std::fs::read(path).is_ok_and(|old| old == new.as_bytes()) {
        return Ok(());
    }
    atomic_file::replace(path, new.as_bytes(), Some(0o600))
        .map_err(|error| CliError::other(format!("can't write {}", path.display())).because(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_vm_has_one_line_under_its_id() {
        let key: SshPublicKey =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW x y"
                .parse()
                .unwrap();
        let id = VmId::from_bytes([1; 16]);
        let text = content([(id, &key)].into_iter());
        assert_eq!(text.lines().last().unwrap(), format!("{id} {}", key.without_comment()));
    }
}
