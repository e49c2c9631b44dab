//! Templates are made in the background: one at a time, when there is room and quiet for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Key, Template, TemplateError, Templates, make, nobody};
use crate::seed::HostKey;
use crate::vm::{Base, Settings};

/// How many sizes may wait. Those beyond are asked for again by the next VM of that size.
const WAITING: usize = 16;
/// After how long one that could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(3600);
/// How long quiet is waited for.
const QUIET: Duration = Duration::from_secs(15 * 60);
/// Between two looks whether it is quiet, and between two looks for memory that nobody needs.
const LOOK: Duration = Duration::from_secs(2);
/// After how long without a clone a template's memory is given up.
const UNUSED: Duration = Duration::from_secs(15 * 60);

/// A template that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of what.
    pub key: Key,
    /// The image's disk.
    pub base: Base,
    /// Bytes of it.
    pub disk_bytes: u64,
}

/// What the keeper needs to know of those around it.
pub trait Surroundings: Send + Sync + 'static {
    /// A host key that no VM has or gets.
    ///
    /// # Errors
    /// When none can be made.
    fn host_key(&self) -> Result<HostKey, String>;

    /// The directories that machines' disks lie on.
    ///
    /// # Errors
    /// When that can't be told.
    fn in_use(&self) -> Result<BTreeSet<PathBuf>, String>;

    /// Whether there is room for one more machine with that much memory.
    fn has_room(&self, memory_mib: u64) -> bool;

    /// Whether a machine that boots is in nobody's way now.
    fn is_quiet(&self) -> bool;
}

/// What has become of a wanted template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It waits for its turn, or for quiet.
    Waits,
    /// It is being made.
    IsMade,
    /// It could not be made; with the reason.
    Failed(String),
}

/// Makes templates that are wanted. Dropped, it stops; [`make::clear_up`] ends what it was at.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    woken: Notify,
    /// Whether there is no room for any.
    none_kept: bool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Wanted>,
    making: Option<Key>,
    /// Whether the image is gone of the one that is being made.
    in_vain: bool,
    failed: HashMap<String, (Instant, String)>,
}

impl State {
    fn image_gone(&mut self, image: &str) {
        self.waiting.retain(|wanted| wanted.key.image != image);
        self.in_vain |= self.making.as_ref().is_some_and(|key| key.image == image);
    }

    /// Takes the turn of the one that has waited, if it is still wanted.
    fn begin(&mut self, wanted: &Wanted) -> bool {
        let is_next = self.waiting.front() == Some(wanted);
        if is_next {
            self.waiting.pop_front();
            self.making = Some(wanted.key.clone());
            self.in_vain = false;
        }
        is_next
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    /// Begins to keep these templates, for machines of these settings: within their budget from now on. What an earlier
    /// one was at when it was cut off is ended first.
    #[must_use]
    pub fn begin(
        templates: Arc<Templates>,
        settings: Settings,
        surroundings: impl Surroundings,
    ) -> Self {
        let shrunk = surroundings
            .in_use()
            .and_then(|in_use| templates.shrink(&in_use).map_err(|error| error.to_string()));
        if let Err(error) = shrunk {
            tracing::warn!("templates take more of the disk than they may: {error}");
        }
        let none_kept = !templates.are_kept();
        let shared = Arc::new(Shared { none_kept, ..Shared::default() });
        let work = work(Arc::clone(&shared), templates, settings, surroundings);
        Self { shared, task: tokio::spawn(work) }
    }

    /// Has that template made, unless none are kept, it is there, waits already, or could not be made within the last hour.
    pub fn want(&self, wanted: Wanted) {
        if self.shared.none_kept {
            return;
        }
        let mut state = self.shared.state();
        let name = wanted.key.directory();
        let failed = state.failed.get(&name).is_some_and(|(at, _)| at.elapsed() < AGAIN);
        let known = state.making.as_ref() == Some(&wanted.key)
            || state.waiting.iter().any(|other| other.key == wanted.key);
        if !failed && !known && state.waiting.len() < WAITING {
            state.failed.remove(&name);
            state.waiting.push_back(wanted);
            self.shared.woken.notify_one();
        }
    }

    /// That image is gone: no template of it is made any more, and the one that is being made goes when it is there.
    pub fn image_gone(&self, image: &str) {
        self.shared.state().image_gone(image);
    }

    /// Makes no more templates, and ends the one that it is at.
    ///
    /// # Errors
    /// When its machine can't be ended, or its files can't be removed. Call it again.
    pub async fn stop(
        &self,
        templates: &Templates,
        settings: &Settings,
    ) -> Result<(), TemplateError> {
        self.task.abort();
        make::clear_up(templates, settings).await
    }

    /// What has become of it; `None` when it is not wanted, or made.
    #[must_use]
    pub fn progress(&self, key: &Key) -> Option<Progress> {
        let state = self.shared.state();
        if state.making.as_ref() == Some(key) {
            Some(Progress::IsMade)
        } else if state.waiting.iter().any(|wanted| wanted.key == *key) {
            Some(Progress::Waits)
        } else {
            let failed = state.failed.get(&key.directory());
            failed.map(|(_, why)| Progress::Failed(why.clone()))
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(
    shared: Arc<Shared>,
    templates: Arc<Templates>,
    settings: Settings,
    surroundings: impl Surroundings,
) {
    if let Err(error) = make::clear_up(&templates, &settings).await {
        tracing::warn!("a template that was being made is still there: {error}");
    }
    loop {
        templates.forget_memory(UNUSED);
        let next = shared.state().waiting.front().cloned();
        let Some(wanted) = next else {
            let _ = timeout(LOOK * 30, shared.woken.notified()).await;
            continue;
        };
        let began = Instant::now();
        let ready = || surroundings.is_quiet() && surroundings.has_room(wanted.key.size.memory_mib);
        while !ready() && began.elapsed() < QUIET {
            sleep(LOOK).await;
        }
        if !shared.state().begin(&wanted) {
            continue;
        }
        let made = one(&templates, &settings, &surroundings, &wanted).await;
        let mut state = shared.state();
        state.making = None;
        match made {
            Ok(template) if state.in_vain => {
                let removed = surroundings.in_use().and_then(|in_use| {
                    templates.remove(&template, &in_use).map_err(|error| error.to_string())
                });
                if let Err(error) = removed {
                    tracing::warn!(
                        "a template of an image that is gone stays until the next start: {error}"
                    );
                }
            }
            Ok(template) => {
                let facts = template.facts;
                tracing::info!(
                    image = facts.key.image,
                    vcpus = facts.key.size.vcpus,
                    memory_mib = facts.key.size.memory_mib,
                    seconds = facts.boot_ms / 1000,
                    mib = facts.bytes >> 20,
                    "made a template"
                );
            }
            Err(why) => {
                tracing::warn!(image = wanted.key.image, "VMs of this size boot: {why}");
                state.failed.insert(wanted.key.directory(), (Instant::now(), why));
            }
        }
    }
}

async fn one(
    templates: &Templates,
    settings: &Settings,
    surroundings: &impl Surroundings,
    wanted: &Wanted,
) -> Result<Template, String> {
    if let Some(template) = templates.find(&wanted.key).map_err(|error| error.to_string())? {
        return Ok(template);
    }
    if !surroundings.has_room(wanted.key.size.memory_mib) {
        return Err("there is not enough free memory to make its template".to_owned());
    }
    let nobody = nobody(surroundings.host_key()?).map_err(|error| error.to_string())?;
    let in_use = surroundings.in_use()?;
    let Wanted { key, base, disk_bytes } = wanted.clone();
    let made = make::make(templates, settings, key, base, disk_bytes, &nobody, &in_use).await;
    made.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Format;
    use crate::template::key::tests::key;

    fn wanted(image: &str) -> Wanted {
        let base = Base { directory: image.into(), file: "disk".to_owned(), format: Format::Qcow2 };
        Wanted { key: key(image), base, disk_bytes: 1 << 30 }
    }

    #[test]
    fn no_template_is_made_of_an_image_that_is_gone() {
        let mut state = State { waiting: [wanted("a"), wanted("b")].into(), ..State::default() };
        state.image_gone("a");
        assert!(!state.begin(&wanted("a")), "it was not wanted any more when its turn came");
        assert!(state.begin(&wanted("b")) && !state.in_vain);
        state.image_gone("a");
        assert!(!state.in_vain, "that is another one");
        state.image_gone("b");
        assert!(state.in_vain && state.waiting.is_empty());
        // Nothing of that is left for the next one.
        state.waiting.push_back(wanted("a"));
        assert!(state.begin(&wanted("a")) && !state.in_vain);
    }

    #[tokio::test]
    async fn where_there_is_no_room_for_any_none_is_wanted() {
        let keeper = |none_kept| {
            let shared = Arc::new(Shared { none_kept, ..Shared::default() });
            Keeper { shared, task: tokio::spawn(async {}) }
        };
        for (none_kept, progress) in [(true, None), (false, Some(Progress::Waits))] {
            let keeper = keeper(none_kept);
            keeper.want(wanted("a"));
            assert_eq!(keeper.progress(&key("a")), progress);
        }
    }
}
