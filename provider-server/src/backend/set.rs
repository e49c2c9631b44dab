//! The backends of one provider, in the order in which their VMs are offered.
//!
//! Which there are is decided when the provider starts. One that can't be asked then is away, and may come
//! later; until then nothing is done about its VMs, because nobody has found out whether its guests can be
//! contained.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Backend, BackendError, BackendKind, Capabilities, Containment, Found};

/// A backend that was asked what it can do, and contains its guests if it can.
#[derive(Clone)]
pub struct Present {
    /// It.
    pub backend: Arc<dyn Backend>,
    /// What it can do.
    pub found: Found,
}

impl Present {
    /// Which it is.
    #[must_use]
    pub fn kind(&self) -> BackendKind {
        self.backend.kind()
    }

    /// Why nothing can be said of its instances now, where that is so; see [`Backend::trouble`].
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.backend.trouble().and_then(|trouble| trouble.borrow().clone())
    }

    /// Whether its guests are contained.
    #[must_use]
    pub fn contained(&self) -> bool {
        self.found.now().containment == Containment::Contained
    }
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Present").field(&self.kind()).finish()
    }
}

/// A backend that was connected to and not asked anything, or why it could not be.
pub type Connected = (BackendKind, Result<Arc<dyn Backend>, String>);

/// Whether a backend makes VMs now.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It does.
    There(Present),
    /// It does not, and why. Its VMs are kept as they are.
    Away(String),
}

/// One backend of a provider.
#[derive(Debug, Clone)]
pub struct Member {
    /// Which.
    pub kind: BackendKind,
    /// How it is.
    pub standing: Standing,
}

/// All of them. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub struct Backends {
    members: Arc<watch::Sender<Arc<Vec<Member>>>>,
}

impl Backends {
    /// These, each kind once, the first one offered first.
    #[must_use]
    pub fn new(members: Vec<Member>) -> Self {
        Self { members: Arc::new(watch::Sender::new(Arc::new(members))) }
    }

    /// One that can do this.
    #[must_use]
    pub fn one(backend: Arc<dyn Backend>, capabilities: Capabilities) -> Self {
        let (kind, found) = (backend.kind(), Found::new(capabilities));
        Self::new(vec![Member { kind, standing: Standing::There(Present { backend, found }) }])
    }

    /// Backends that were connected to, and not asked what they can do: for work beside a running provider, or
    /// without one.
    #[must_use]
    pub fn untried(connected: Vec<Connected>) -> Self {
        let member = |(kind, backend): Connected| {
            let there = |backend| {
                Standing::There(Present { backend, found: Found::new(Capabilities::untried()) })
            };
            Member { kind, standing: backend.map_or_else(Standing::Away, there) }
        };
        Self::new(connected.into_iter().map(member).collect())
    }

    /// How all of them are now.
    #[must_use]
    pub fn now(&self) -> Arc<Vec<Member>> {
        Arc::clone(&self.members.borrow())
    }

    /// Those that make VMs now.
    #[must_use]
    pub fn there(&self) -> Vec<Present> {
        let present = |member: &Member| match &member.standing {
            Standing::There(present) => Some(present.clone()),
            Standing::Away(_) => None,
        };
        self.now().iter().filter_map(present).collect()
    }

    /// That one.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] with the reason when it does not make VMs here now.
    pub fn of(&self, kind: BackendKind) -> Result<Present, BackendError> {
        match self.now().iter().find(|member| member.kind == kind).map(|member| &member.standing) {
            Some(Standing::There(present)) => Ok(present.clone()),
            Some(Standing::Away(reason)) => {
                Err(BackendError::Unavailable(format!("the backend {kind} is away: {reason}")))
            }
            None => Err(BackendError::Unavailable(format!(
                "this provider does not use the backend {kind}"
            ))),
        }
    }

    /// One that was away is there.
    pub fn arrived(&self, present: &Present) {
        self.members.send_modify(|members| {
            let members = Arc::make_mut(members);
            if let Some(member) = members.iter_mut().find(|one| one.kind == present.kind()) {
                member.standing = Standing::There(present.clone());
            }
        });
    }

    /// Why one that is away still is.
    pub fn still_away(&self, kind: BackendKind, reason: String) {
        self.members.send_modify(|members| {
            let members = Arc::make_mut(members);
            if let Some(member) = members.iter_mut().find(|one| one.kind == kind)
                && matches!(member.standing, Standing::Away(_))
            {
                member.standing = Standing::Away(reason);
            }
        });
    }

    /// Rises when one arrives.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.subscribe()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::memory::MemoryBackend;
    use super::*;

    #[tokio::test]
    async fn what_is_away_can_come_and_what_is_not_ours_is_told() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let found = Found::new(backend.probe().await.unwrap());
        let away = Standing::Away("no socket".to_owned());
        let backends = Backends::new(vec![Member { kind: BackendKind::Memory, standing: away }]);
        let reason = backends.of(BackendKind::Memory).unwrap_err().to_string();
        assert!(reason.contains("memory") && reason.contains("no socket"), "{reason}");
        assert!(backends.of(BackendKind::Qemu).unwrap_err().to_string().contains("qemu"));
        let mut changes = backends.changes();
        backends.arrived(&Present { backend, found });
        assert!(changes.has_changed().unwrap());
        assert_eq!(backends.there().len(), 1);
        backends.still_away(BackendKind::Memory, "late news".to_owned());
        assert!(backends.of(BackendKind::Memory).is_ok());
        changes.mark_unchanged();
    }
}
