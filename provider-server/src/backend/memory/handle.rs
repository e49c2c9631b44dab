//! How a test steers the backend, and looks into it.

use std::net::SocketAddr;

use golem_vm_protocol::vm::Isolation;

use super::{Fault, MemoryBackend, Method, Power};
#[cfg(doc)]
use crate::backend::{Backend, BackendError};
use crate::backend::{
    BackendKind, Capabilities, DiskRoom, DiskUse, EndedBy, ImageDigest, InstanceId, InstanceSpec,
};

impl MemoryBackend {
    /// Where the sshd of every running instance is from now on: a test's own listener.
    pub fn set_ssh(&self, address: SocketAddr) {
        self.lock().ssh = address;
    }

    /// What [`Backend::probe`] finds.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.lock().capabilities.clone()
    }

    /// The same in the place of a backend of that kind, with that isolation.
    #[must_use]
    pub fn standing_for(self, kind: BackendKind, isolation: Isolation) -> Self {
        let mut state = self.lock();
        state.kind = kind;
        state.capabilities.isolation = isolation;
        drop(state);
        self
    }

    /// What [`Backend::probe`] finds from now on.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        self.lock().capabilities = capabilities;
    }

    /// Makes an image known, as if it had been built; `size` in bytes.
    pub fn add_image(&self, digest: ImageDigest, size: u64) {
        self.lock().images.insert(digest, size);
    }

    /// Appends to what happens to the next calls of `method`: each call takes one.
    pub fn script(&self, method: Method, fault: Fault) {
        self.lock().script.entry(method).or_default().push_back(fault);
    }

    /// From now on every call is answered with [`BackendError::Unavailable`] and this text; with
    /// `None` the backend answers again.
    pub fn set_unavailable(&self, reason: Option<&str>) {
        self.lock().unavailable = reason.map(str::to_owned);
    }

    /// How often `method` was called so far, failures included.
    #[must_use]
    pub fn calls(&self, method: Method) -> usize {
        self.lock().calls.get(&method).copied().unwrap_or(0)
    }

    /// The spec that the instance was made with, if there is one.
    #[must_use]
    pub fn spec(&self, id: InstanceId) -> Option<InstanceSpec> {
        self.lock().instances.get(&id).map(|instance| instance.spec.clone())
    }

    /// What the instance uses of its disk from now on.
    pub fn set_disk_use(&self, id: InstanceId, used: DiskUse) {
        self.lock().disk_uses.insert(id, used);
    }

    /// What is free of the host's disk from now on.
    pub fn set_disk_room(&self, room: DiskRoom) {
        self.lock().disk_room = Some(room);
    }

    /// The instance ends by itself. Does nothing if it is not there.
    pub fn set_stopped(&self, id: InstanceId, exit_code: i64, out_of_memory: bool) {
        if let Some(instance) = self.lock().instances.get_mut(&id) {
            instance.power =
                Power::Off { exit_code: Some(exit_code), out_of_memory, by: EndedBy::Unknown };
        }
    }

    /// The guest shuts itself down, and that can be told. Does nothing if it is not there.
    pub fn set_shut_down(&self, id: InstanceId) {
        if let Some(instance) = self.lock().instances.get_mut(&id) {
            instance.power =
                Power::Off { exit_code: Some(0), out_of_memory: false, by: EndedBy::Guest };
        }
    }

    /// The instance can't be used any more. Does nothing if it is not there.
    pub fn set_broken(&self, id: InstanceId, reason: &str) {
        if let Some(instance) = self.lock().instances.get_mut(&id) {
            instance.broken = Some(reason.to_owned());
        }
    }

    /// Somebody else removed the instance.
    pub fn set_absent(&self, id: InstanceId) {
        self.lock().instances.remove(&id);
    }

    /// What is said from now on at the first start of each instance.
    pub fn set_words(&self, words: &[&str]) {
        self.lock().words = words.iter().map(|&word| word.to_owned()).collect();
    }

    /// What was shown to people inside instances, the oldest first.
    #[must_use]
    pub fn told(&self) -> Vec<(InstanceId, String)> {
        self.lock().told.clone()
    }
}
