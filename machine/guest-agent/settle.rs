//! Getting ready to be kept: booted, and warm, so that what the first login needs is in memory already.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::files::{Staged, below};
use crate::run::Run;
use crate::sshd;

const DIRECTORY: &str = "/run/golem-settle";
const LOGINS: usize = 3;

/// The user's service manager, which logind starts for a user's first session and ends some seconds after the last one:
/// half of the time of a first login. A clone has it already. It is started when the one of the logins before is gone.
const START_USER_MANAGER: &str = r#"manager=user@$(id -u "$1").service
tries=0
while systemctl is-active --quiet "$manager" && [ "$tries" -lt 100 ]; do
    sleep 0.5
    tries=$((tries + 1))
done
systemctl start "$manager""#;

/// It looks for servers whenever the network changes, which is when the first login comes. A clone is told the time.
pub(crate) const CLOCK_SERVICE: &str = "systemd-timesyncd.service";

/// Waits for the end of the boot, logs in a few times as `user` over the loopback interface, and leaves no trace of that.
pub(crate) fn settle(root: &Path, user: &str) -> Result<(), String> {
    // A unit that failed leaves the system degraded, and booted nevertheless.
    Run::new("systemctl", &["is-system-running", "--wait"])
        .limit(Duration::from_secs(30 * 60))
        .status()?;
    let warm = warm(root, user);
    let _ = fs::remove_dir_all(below(root, DIRECTORY));
    let _ = fs::remove_file(below(root, sshd::AUTHORIZED_KEYS).join(user));
    for log in ["/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog"] {
        if let Ok(file) = fs::OpenOptions::new().write(true).open(below(root, log)) {
            let _ = file.set_len(0);
        }
    }
    warm?;
    let _ = Run::new("systemctl", &["stop", "*.timer", CLOCK_SERVICE]).run();
    // Where there is no such service, logins need none.
    let _ = Run::new("sh", &["-c", START_USER_MANAGER, "sh", user])
        .limit(Duration::from_secs(120))
        .run();
    Run::new("sync", &[]).limit(Duration::from_secs(600)).run()
}

fn warm(root: &Path, user: &str) -> Result<(), String> {
    let said = |error: std::io::Error| format!("warming up: {error}");
    let directory = below(root, DIRECTORY);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(said)?;
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let (key, known) = (path("key"), path("known_hosts"));
    Run::new("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]).run()?;
    let public = fs::read(path("key.pub")).map_err(said)?;
    let host = fs::read_to_string(below(root, sshd::HOST_KEY_PUBLIC)).map_err(said)?;
    let mut staged = Staged::default();
    staged.write(&below(root, sshd::AUTHORIZED_KEYS).join(user), 0o644, &public).map_err(said)?;
    staged.write(Path::new(&known), 0o600, format!("127.0.0.1 {host}").as_bytes()).map_err(said)?;
    staged.commit().map_err(said)?;
    let destination = format!("{user}@127.0.0.1");
    let known = format!("UserKnownHostsFile={known}");
    let login = Run::new(
        "ssh",
        &[
            "-F",
            "none",
            "-i",
            &key,
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            &known,
            &destination,
            // What people do first, and what the provider's own check does.
            "sudo -n true; bash -lc 'ls -la ~ >/dev/null; hostname; uname -a; df -h /; head -c 8 /dev/urandom >/dev/null'",
        ],
    )
    .limit(Duration::from_secs(300));
    (0..LOGINS).try_for_each(|_| login.run())
}
