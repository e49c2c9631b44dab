//! A line on the terminals of those who are logged in to a guest.
//!
//! It is written by a shell inside the container, with what the guest itself may do and no more, on the guest's
//! account, and nothing that it answers is looked at. A guest may keep that shell for as long as it likes:
//! nobody waits for it, and while it is there no other is started in that guest.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions};
use golem_vm_protocol::text::printable;

use super::engine::{CallError, Engine};
use crate::backend::{BackendError, InstanceId};

/// How long the engine may take for each of its calls.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest line, in characters.
const LINE_CHARS: usize = 300;

/// Writes `$1` to every terminal. One that takes nothing (Ctrl-S) is given up after two seconds. No more than a
/// shell and `sleep` is needed: any image has them.
const SCRIPT: &str = r#"
writers=
for terminal in /dev/pts/[0-9]*; do
    [ -c "$terminal" ] || continue
    printf '\r\n%s\r\n' "$1" > "$terminal" &
    writers="$writers $!"
done
[ -n "$writers" ] || exit 0
sleep 2
kill -9 $writers 2>/dev/null
exit 0"#;

/// The last shell that was started in each guest.
#[derive(Debug, Default)]
pub(super) struct Notices {
    last: Mutex<HashMap<InstanceId, String>>,
}

impl Notices {
    /// See [`crate::backend::NotifyGuest::notify`].
    pub(super) async fn show(
        &self,
        engine: &Engine,
        id: InstanceId,
        line: &str,
    ) -> Result<(), BackendError> {
        let failed = |error: CallError| match error.is_not_found() {
            true => BackendError::NoInstance(id),
            false => error.into_backend(&format!("can't tell those who are logged in to {id}")),
        };
        if let Some(last) = self.last(id)
            && is_running(engine, &last).await.map_err(failed)?
        {
            return Err(BackendError::Failed(format!(
                "those who are logged in to {id} can't be told anything: the guest is still at the last line"
            )));
        }
        let words = ["/bin/sh", "-c", SCRIPT, "notice"].map(str::to_owned).into_iter();
        let options = CreateExecOptions {
            cmd: Some(words.chain([printable(line, LINE_CHARS)]).collect()),
            // Wherever the image's own working directory leads.
            working_dir: Some("/".to_owned()),
            user: Some("0:0".to_owned()),
            privileged: Some(false),
            ..CreateExecOptions::default()
        };
        let name = id.to_string();
        let made = engine
            .call(DEADLINE, |docker| async move { docker.create_exec(&name, options).await })
            .await
            .map_err(failed)?;
        self.lock().insert(id, made.id.clone());
        let detached = StartExecOptions { detach: true, ..StartExecOptions::default() };
        let started = engine
            .call(
                DEADLINE,
                |docker| async move { docker.start_exec(&made.id, Some(detached)).await },
            )
            .await;
        started.map(drop).map_err(failed)
    }

    /// The instance is gone.
    pub(super) fn forget(&self, id: InstanceId) {
        self.lock().remove(&id);
    }

    fn last(&self, id: InstanceId) -> Option<String> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, String>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that the engine knows no more has ended.
async fn is_running(engine: &Engine, exec: &str) -> Result<bool, CallError> {
    let looked =
        engine.call(DEADLINE, |docker| async move { docker.inspect_exec(exec).await }).await;
    match looked {
        Ok(found) => Ok(found.running == Some(true)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
