//! Removes instances, those among them that appear when nobody waits for them any more.

use std::sync::Arc;

use golem_vm_protocol::VmId;

use super::Multipass;
use super::asking::Own;
use super::books::Book;
use super::program::CallError;
use super::said::Trouble;
use crate::backend::{BackendError, InstanceId};

impl Multipass {
    /// See [`crate::backend::Backend::destroy`].
    pub(super) async fn destroy(&self, id: InstanceId) -> Result<(), BackendError> {
        let vm = id.vm();
        let what = format!("can't remove the instance of {vm}");
        // A launch that is not to be seen may still appear: it is given up before anything is removed.
        self.write(vm, Book::abandon)?;
        let asked = self.own_patiently().await;
        let own = asked.map_err(|error| error.into_backend(&what))?;
        for one in own.iter().filter(|one| one.name.vm() == vm) {
            self.purge(one.name.as_str()).await.map_err(|error| error.into_backend(&what))?;
        }
        let left = self.own_patiently().await.map_err(|error| error.into_backend(&what))?;
        if let Some(one) = left.iter().find(|one| one.name.vm() == vm) {
            return Err(BackendError::Failed(format!("{what}: {} is still there", one.name)));
        }
        let removed: Vec<String> = own.into_iter().map(|one| one.name.to_string()).collect();
        self.forget(vm, &removed)
    }

    /// What was seen and removed does not appear any more; nor does what had come up.
    fn forget(&self, vm: VmId, removed: &[String]) -> Result<(), BackendError> {
        self.write(vm, |book| {
            book.abandoned.retain(|one| !one.came_up && !removed.contains(&one.name));
            book.keys = None;
        })
        .map(drop)
    }

    /// Removes one instance and its disk, for ever, whatever it is at. Nothing when there is none.
    pub(super) async fn purge(&self, name: &str) -> Result<(), CallError> {
        // One name: of several, none is removed if one is absent. Never without a name, and never `purge` alone:
        // these are about other people's instances.
        match self.change(&["delete", "--purge", name], self.pace.change).await {
            Err(error) if error.trouble() == Some(Trouble::Absent) => Ok(()),
            other => other,
        }
    }

    /// Removes, in the background, what was given up and has appeared.
    pub(super) fn reap(self: &Arc<Self>, own: &[Own]) {
        let due: Vec<(VmId, String)> = own
            .iter()
            .filter(|one| self.books.of(one.name.vm()).has_abandoned(one.name.as_str()))
            .map(|one| (one.name.vm(), one.name.to_string()))
            .collect();
        if due.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            // One at a time; what is left is seen again.
            let Ok(_reaping) = this.reaping.try_lock() else { return };
            for (vm, name) in due {
                match this.purge(&name).await {
                    Ok(()) => {
                        tracing::info!(
                            instance = name,
                            "removed: it came from a launch that was given up"
                        );
                        if let Err(error) = this.forget_one(vm, &name) {
                            tracing::warn!("{error}");
                        }
                    }
                    Err(error) => tracing::warn!(
                        instance = name,
                        "it was given up, and can't be removed: {error}"
                    ),
                }
            }
        });
    }

    fn forget_one(&self, vm: VmId, name: &str) -> Result<(), BackendError> {
        self.write(vm, |book| book.abandoned.retain(|one| one.name != name)).map(drop)
    }
}
