//! The SSH server of the guest.

use std::fs;
use std::io;
use std::path::Path;

use crate::files::below;
use crate::run::Run;

/// The only host key that a guest has.
pub(crate) const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
/// Its public half.
pub(crate) const HOST_KEY_PUBLIC: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
/// Where the provider's list of keys is, a file for each user. See decision 0008.
pub(crate) const AUTHORIZED_KEYS: &str = "/etc/ssh/golem_authorized_keys";

/// Removes every other host key.
pub(crate) fn remove_other_host_keys(root: &Path) -> io::Result<()> {
    let kept = [below(root, HOST_KEY), below(root, HOST_KEY_PUBLIC)];
    for entry in fs::read_dir(below(root, "/etc/ssh"))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with("ssh_host_")) && !kept.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What makes a running server use another host key, if anything has to.
///
/// Up to OpenSSH 9.7 the program that listens starts itself anew for each connection, and reads the host key then. From
/// 9.8 on it keeps the key in its memory and hands it to `sshd-session`.
pub(crate) fn restart(root: &Path) -> Option<Run> {
    ["/usr/lib/openssh/sshd-session", "/usr/libexec/openssh/sshd-session"]
        .iter()
        .any(|path| below(root, path).exists())
        .then(|| Run::new("systemctl", &["try-restart", "ssh.service", "sshd.service"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Directory;

    #[test]
    fn other_host_keys_go_and_other_files_stay() {
        let root = Directory::new("sshd");
        let ssh = root.0.join("etc/ssh");
        fs::create_dir_all(&ssh).expect("made");
        for name in
            ["ssh_host_ed25519_key", "ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config"]
        {
            fs::write(ssh.join(name), "").expect("written");
        }
        remove_other_host_keys(&root.0).expect("removed");
        assert!(ssh.join("ssh_host_ed25519_key").exists() && ssh.join("sshd_config").exists());
        assert!(
            !ssh.join("ssh_host_rsa_key").exists() && !ssh.join("ssh_host_rsa_key.pub").exists()
        );
    }

    #[test]
    fn only_a_server_that_keeps_its_key_is_restarted() {
        let root = Directory::new("sshd-restart");
        assert_eq!(restart(&root.0), None);
        fs::create_dir_all(root.0.join("usr/lib/openssh")).expect("made");
        fs::write(root.0.join("usr/lib/openssh/sshd-session"), "").expect("written");
        assert!(restart(&root.0).is_some());
    }
}
