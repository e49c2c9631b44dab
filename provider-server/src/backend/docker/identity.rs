//! Which engine has this provider's instances.
//!
//! That an instance is not there says something about it only on the engine on which it was made. A provider
//! that is pointed at another one, or whose engine has lost all its data, would take every VM for gone; so
//! nothing is said to be absent before it is certain that this is the engine. It is, if it says the same of
//! itself (`ID`) as when the last instance was made, and has any instance or network of this provider: an
//! engine whose data was replaced may keep its id, which before version 25 is not among its data.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use golem_vm_protocol::KeyId;
use golem_vm_protocol::text::printable;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::engine::{CallError, Engine};
use super::{network, probe};
use crate::backend::kept_file;

/// The file in the provider's directory.
const FILE: &str = "engine.json";

/// The engine on which instances are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// What it says of itself.
    id: String,
    /// Where it was reached, for people.
    address: String,
}

/// What stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// `None`: instances may be on any engine, because there are none, or because the owner says so.
    engine: Option<Known>,
}

/// What is remembered of the engine.
#[derive(Debug)]
pub(super) struct Identity {
    /// Where it is kept, if it is.
    file: Option<PathBuf>,
    known: Mutex<Option<Known>>,
    /// Why nothing is said to be absent.
    trouble: watch::Sender<Option<String>>,
}

impl Default for Identity {
    fn default() -> Self {
        Self { file: None, known: Mutex::default(), trouble: watch::Sender::new(None) }
    }
}

impl Identity {
    /// Kept in a file of this directory.
    pub(super) fn in_directory(directory: &Path) -> Self {
        let file = directory.join(FILE);
        let kept: Kept = kept_file::read(&file).unwrap_or_default();
        Self { file: Some(file), known: Mutex::new(kept.engine), ..Self::default() }
    }

    /// Has whichever engine is found next be the one. Holds for a running provider, too. Returns which one it
    /// was, if any.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(super) fn accept_any(directory: &Path) -> std::io::Result<Option<String>> {
        let file = directory.join(FILE);
        let before = kept_file::read::<Kept>(&file).and_then(|kept| kept.engine);
        kept_file::write(&file, &Kept::default())?;
        Ok(before.map(|known| shown(&known.id)))
    }

    /// Why nothing is said to be absent, where that is so.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Whether there is such trouble.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.trouble.borrow().is_some()
    }

    /// An instance is on this engine.
    pub(super) async fn has_instances(&self, engine: &Engine) -> Result<(), CallError> {
        if self.known().is_some() {
            return Ok(());
        }
        let id = probe::info(engine).await?.id.unwrap_or_default();
        self.know(Some(Known { id, address: engine.endpoint().address.to_string() }));
        Ok(())
    }

    /// No instance is left anywhere: the next may be made on any engine.
    pub(super) fn has_none(&self) {
        if self.known().is_some() {
            self.know(None);
        }
    }

    /// Makes certain that what is not on this engine is nowhere. `has_any` is whether an instance of this
    /// provider was seen there.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] when it is another engine, or can't be asked.
    pub(super) async fn confirm(
        &self,
        engine: &Engine,
        provider: &KeyId,
        has_any: bool,
    ) -> Result<(), CallError> {
        let Some(known) = self.known() else { return Ok(()) };
        let id = probe::info(engine).await?.id.unwrap_or_default();
        let problem = if id != known.id {
            Some(another(&known, &id, engine))
        } else if has_any || network::any(engine, provider).await? {
            None
        } else {
            Some(emptied(&known, engine))
        };
        // Its owner may have accepted it meanwhile.
        if problem.is_some() && self.is_accepted() {
            tracing::warn!("the engine was accepted: VMs that are not on it are gone");
            *self.lock() = None;
            self.note(None);
            return Ok(());
        }
        self.note(problem.clone());
        problem.map_or(Ok(()), |problem| Err(CallError::Unavailable(problem)))
    }

    /// Only a file that says so: one that can't be read says nothing.
    fn is_accepted(&self) -> bool {
        let kept = self.file.as_ref().and_then(|file| kept_file::read::<Kept>(file));
        kept.is_some_and(|kept| kept.engine.is_none())
    }

    fn note(&self, trouble: Option<String>) {
        self.trouble.send_if_modified(|before| {
            let news = *before != trouble;
            match &trouble {
                Some(problem) if news => tracing::error!("{problem}"),
                None if news => tracing::info!("the VMs' engine is there"),
                _ => {}
            }
            *before = trouble;
            news
        });
    }

    fn know(&self, known: Option<Known>) {
        let kept = Kept { engine: known };
        if let Some(file) = &self.file
            && let Err(error) = kept_file::write(file, &kept)
        {
            // Tried again when the next instance is made.
            tracing::warn!("{} can't be written: {error}", file.display());
            return;
        }
        *self.lock() = kept.engine;
    }

    fn known(&self) -> Option<Known> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How it is put right, whichever way it went wrong.
pub(super) const REMEDY: &str = "bring back the engine that has them (DOCKER_HOST, DOCKER_CONTEXT, its data \
     directory); if it is lost for good, 'golem-provider accept-engine' has this one taken, and VMs that are not on \
     it are gone then";

fn another(known: &Known, id: &str, engine: &Engine) -> String {
    format!(
        "this is not the Docker Engine on which the VMs are: it is {} on {}, and they were made on {} on {}. \
         Nothing is done to them and none is taken for gone: {REMEDY}",
        shown(id),
        engine.endpoint().address,
        shown(&known.id),
        printable(&known.address, 200),
    )
}

fn emptied(known: &Known, engine: &Engine) -> String {
    format!(
        "the Docker Engine on {} has nothing of this provider any more, neither a VM nor its network, though it \
         calls itself {} as the one on which the VMs were made: its data is lost, or is elsewhere. Nothing is \
         done to the VMs and none is taken for gone: {REMEDY}",
        engine.endpoint().address,
        shown(&known.id),
    )
}

fn shown(id: &str) -> String {
    match id {
        "" => "one without an id".to_owned(),
        id => printable(id, 80),
    }
}
