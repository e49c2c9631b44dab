//! Commands inside a guest. Multipass starts an instance that does not run when it is told to run something in it,
//! so whoever calls these has just seen it run; and exit codes do not tell the guest's failure from the way's, so
//! what was said decides.

use std::time::{Duration, Instant};

use golem_vm_protocol::vm::SshPublicKey;
use tokio::time::sleep;

use super::Multipass;
use super::asking::Now;
use super::books::Identity;
use super::names::Name;
use super::program::CallError;
use super::reading::State;
use super::user_data;
use crate::backend::{BackendError, InstanceId};

/// Said by a guest that has done what it was told.
const DONE: &str = "golem-done";

impl Multipass {
    async fn exec(
        &self,
        name: &Name,
        words: &[&str],
        input: &[u8],
        deadline: Duration,
    ) -> Result<String, CallError> {
        let mut arguments = vec!["exec", "-n", name.as_str(), "--"];
        arguments.extend(words);
        self.program.call(&arguments, input, deadline).await
    }

    /// The public half of the host key that the instance has.
    pub(super) async fn host_key(&self, name: &Name) -> Result<String, CallError> {
        let words = ["cat", "/etc/ssh/ssh_host_ed25519_key.pub"];
        self.exec(name, &words, b"", self.pace.query).await
    }

    /// Asks a running guest to end. Nothing is known of whether it does.
    pub(super) async fn ask_to_end(&self, name: &Name) -> Result<(), CallError> {
        // In the background, so that the answer comes before the network goes.
        let script = format!(
            "(sleep 0.2; systemctl poweroff || poweroff) >/dev/null 2>&1 </dev/null & echo {DONE}"
        );
        self.done(name, &script, b"", self.pace.query.min(Duration::from_secs(10))).await
    }

    /// Replaces the keys of a running guest.
    pub(super) async fn put_keys(
        &self,
        name: &Name,
        keys: &[SshPublicKey],
    ) -> Result<(), CallError> {
        let script = format!(
            "set -e; d={}; mkdir -p $d; umask 022; cat >$d/.ubuntu; mv $d/.ubuntu $d/ubuntu; sync; echo {DONE}",
            user_data::KEYS
        );
        // An empty input would be none at all.
        let text = format!("{}\n", user_data::lines(keys));
        self.done(name, &script, text.as_bytes(), self.pace.query).await
    }

    /// Makes a running clone another machine than its source was.
    pub(super) async fn put_identity(&self, name: &Name, who: &Identity) -> Result<(), CallError> {
        let script = format!(
            "set -e; umask 077
cat >/etc/ssh/golem_host_key.new <<'END_OF_KEY'
{private}
END_OF_KEY
rm -f /etc/ssh/ssh_host_*
mv /etc/ssh/golem_host_key.new /etc/ssh/ssh_host_ed25519_key
umask 022
echo '{public}' >/etc/ssh/ssh_host_ed25519_key.pub
rm -f /etc/machine-id /var/lib/dbus/machine-id /var/lib/systemd/random-seed
systemd-machine-id-setup >/dev/null 2>&1 || true
head -c 512 /dev/urandom >/dev/null
hostnamectl set-hostname '{hostname}' 2>/dev/null || hostname '{hostname}'
echo '{hostname}' >/etc/hostname
mkdir -p /etc/cloud/cloud.cfg.d
echo 'preserve_hostname: true' >/etc/cloud/cloud.cfg.d/99-golem-clone.cfg
sync
systemctl restart ssh 2>/dev/null || systemctl restart sshd 2>/dev/null || true
echo {DONE}
",
            private = who.host_key_private.trim_end(),
            public = who.host_key.as_str(),
            hostname = who.hostname,
        );
        // On standard input, so that no key is among the arguments.
        let said = self
            .exec(name, &["sudo", "-n", "sh", "-s"], script.as_bytes(), self.pace.query)
            .await?;
        is_done(&said)
    }

    /// Shows a line to all who are logged in to a running guest.
    pub(super) async fn show(&self, name: &Name, line: &str) -> Result<(), CallError> {
        let script = format!("wall -n 2>/dev/null || wall; echo {DONE}");
        let line = format!("{line}\n");
        self.done(name, &script, line.as_bytes(), self.pace.query.min(Duration::from_secs(10)))
            .await
    }

    /// Runs a script as root, which says in the end that it is done.
    pub(super) async fn done(
        &self,
        name: &Name,
        script: &str,
        input: &[u8],
        deadline: Duration,
    ) -> Result<(), CallError> {
        let said = self.exec(name, &["sudo", "-n", "sh", "-c", script], input, deadline).await?;
        is_done(&said)
    }

    /// See [`crate::backend::Backend::authorize`]. A guest that does not run gets the keys when it next does, before
    /// its port leads to it.
    pub(super) async fn authorize(
        &self,
        id: InstanceId,
        keys: &[SshPublicKey],
    ) -> Result<(), BackendError> {
        let vm = id.vm();
        let (own, _) = match self.now(vm).await? {
            Now::There(own, attempt) => (own, attempt),
            Now::Nothing | Now::Hidden(_) => return Err(BackendError::NoInstance(id)),
        };
        self.write(vm, |book| {
            book.granted = Some(keys.to_vec());
            book.keys.clone_from(&book.granted);
        })?;
        if own.state != State::Running {
            return Ok(());
        }
        self.put_pending(id, &own.name, self.pace.query).await
    }

    /// Gives a running guest the keys that it does not have yet. One that has just come up on a busy host is asked
    /// again for a while.
    pub(super) async fn put_pending(
        &self,
        id: InstanceId,
        name: &Name,
        patience: Duration,
    ) -> Result<(), BackendError> {
        let Some(keys) = self.books.of(id.vm()).keys else { return Ok(()) };
        let began = Instant::now();
        loop {
            match self.put_keys(name, &keys).await {
                Ok(()) => break,
                Err(error) if began.elapsed() > patience => {
                    return Err(error.into_backend(&format!("can't write the SSH keys of {id}")));
                }
                Err(_) => sleep(self.pace.poll).await,
            }
        }
        self.write(id.vm(), |book| {
            if book.keys.as_ref() == Some(&keys) {
                book.keys = None;
            }
        })?;
        Ok(())
    }
}

fn is_done(said: &str) -> Result<(), CallError> {
    if said.lines().any(|line| line.trim_end().ends_with(DONE)) {
        return Ok(());
    }
    Err(CallError::Unreadable("the guest did not do what it was told".to_owned()))
}
