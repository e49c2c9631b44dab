//! Which backends this provider uses: those that are set, or those that `auto` takes, and those that have VMs
//! of it.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use golem_vm_node::data_dir::DataDir;
use golem_vm_protocol::KeyPair;

use super::AppError;
use super::backend::{Arrived, Asked, NotThere, ask, connect_backend, enter};
use crate::backend::{
    BackendChoice, BackendError, BackendKind, Backends, Connected, Member, Standing, choice,
};
use crate::config::Config;
use crate::images::ImageRegister as _;
use crate::store::ProviderStore;
use crate::vm::VmState;
use crate::vm::repository::VmRepository as _;

/// The backends when the provider begins to serve.
pub(super) struct Begun {
    /// All of them.
    pub(super) backends: Backends,
    /// Those that are there.
    pub(super) arrived: Vec<Arrived>,
}

/// What finds a backend out.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) config: &'a Config,
    pub(super) key: &'a KeyPair,
    pub(super) data_dir: &'a DataDir,
    pub(super) store: &'a ProviderStore,
}

impl Way<'_> {
    async fn ask(self, kind: BackendKind) -> Result<Asked, NotThere> {
        let backend = connect_backend(kind, self.config, self.key, self.data_dir).await?;
        Ok(ask(backend).await?)
    }

    /// Asks a backend, and has it make VMs from now on.
    pub(super) async fn open(self, kind: BackendKind) -> Result<Arrived, NotThere> {
        enter(self.ask(kind).await?, self.store).await
    }
}

/// The backends that the settings name, or that `auto` chooses among, and those that have VMs or images of
/// this provider: connected to, and not asked anything yet.
///
/// # Errors
/// When the database can't be read.
pub async fn connect_all(
    config: &Config,
    key: &KeyPair,
    data_dir: &DataDir,
    store: Option<&ProviderStore>,
) -> Result<Vec<Connected>, AppError> {
    let mut kinds = match &config.backend {
        BackendChoice::Named(kinds) => kinds.clone(),
        BackendChoice::Auto => choice::AUTO.to_vec(),
    };
    if let Some(store) = store {
        let more: Vec<_> =
            in_use(store).await?.into_keys().filter(|kind| !kinds.contains(kind)).collect();
        kinds.extend(more);
    }
    let connect = |kind| async move {
        let connected = connect_backend(kind, config, key, data_dir).await;
        (kind, connected.map_err(|error| error.to_string()))
    };
    Ok(join_all(kinds.into_iter().map(connect)).await)
}

/// The backend that new images are for where none is named: the first that is set, or the one that `auto` takes.
///
/// # Errors
/// [`BackendError::Unavailable`] when `auto` finds none.
pub async fn first_of(
    config: &Config,
    key: &KeyPair,
    data_dir: &DataDir,
    store: &ProviderStore,
) -> Result<Option<BackendKind>, AppError> {
    match &config.backend {
        BackendChoice::Named(kinds) => Ok(kinds.first().copied()),
        BackendChoice::Auto => {
            let way = Way { config, key, data_dir, store };
            let answers = automatic(way, &BTreeMap::new()).await;
            if let Some((kind, _)) = answers.iter().find(|(_, answer)| answer.is_ok()) {
                return Ok(Some(*kind));
            }
            let failed =
                answers.into_iter().filter_map(|(kind, answer)| Some((kind, answer.err()?)));
            Err(none(failed.collect()))
        }
    }
}

/// Asks the backends, and has those make VMs that can.
///
/// # Errors
/// Why none of them can.
pub(super) async fn begin(way: Way<'_>) -> Result<Begun, AppError> {
    let in_use = in_use(way.store).await?;
    let asked = match &way.config.backend {
        BackendChoice::Named(kinds) => {
            let each = kinds.iter().map(|kind| async move { (*kind, way.ask(*kind).await) });
            join_all(each).await
        }
        BackendChoice::Auto => automatic(way, &in_use).await,
    };
    let mut members = Vec::new();
    let mut arrived = Vec::new();
    let mut failed = Vec::new();
    for (kind, asked) in asked {
        let entered = match asked {
            Ok(asked) => enter(asked, way.store).await,
            Err(error) => Err(error),
        };
        let standing = match entered {
            Ok(one) => {
                let standing = Standing::There(one.present.clone());
                arrived.push(one);
                standing
            }
            Err(error) => {
                let reason = error.to_string();
                failed.push((kind, error));
                Standing::Away(reason)
            }
        };
        members.push(Member { kind, standing });
    }
    if arrived.is_empty() {
        return Err(none(failed));
    }
    for (kind, error) in &failed {
        tracing::error!(%kind, "this backend makes no VMs now, and is asked again: {error}");
    }
    for (kind, held) in in_use {
        if held.vms > 0 && !members.iter().any(|member| member.kind == kind) {
            let standing = Standing::Away(not_named(held.vms));
            members.push(Member { kind, standing });
        }
    }
    Ok(Begun { backends: Backends::new(members), arrived })
}

/// Why VMs of a backend that nobody named are only kept.
fn not_named(vms: usize) -> String {
    let vms = if vms == 1 { "one VM of it is".to_owned() } else { format!("{vms} VMs of it are") };
    format!("GOLEM_PROVIDER_BACKEND does not name it; {vms} kept until it does")
}

/// Whether a backend that is away is to be asked again.
pub(super) fn is_used(config: &Config, kind: BackendKind) -> bool {
    match &config.backend {
        BackendChoice::Named(kinds) => kinds.contains(&kind),
        BackendChoice::Auto => true,
    }
}

/// What of a backend is in the database.
#[derive(Default, Clone, Copy)]
struct InUse {
    vms: usize,
    images: usize,
}

async fn in_use(store: &ProviderStore) -> Result<BTreeMap<BackendKind, InUse>, AppError> {
    let mut in_use = BTreeMap::<BackendKind, InUse>::new();
    for record in store.all().await? {
        if !matches!(record.state, VmState::Failed { .. }) {
            in_use.entry(record.terms.backend).or_default().vms += 1;
        }
    }
    for image in store.images().await.map_err(crate::vm::VmError::from)? {
        in_use.entry(image.backend).or_default().images += 1;
    }
    Ok(in_use)
}

type Answer = (BackendKind, Result<Asked, NotThere>);

/// The one that `auto` takes, and those that have VMs or images of this provider: an owner who built images
/// for a backend goes on renting them out when a better backend turns up.
async fn automatic(way: Way<'_>, in_use: &BTreeMap<BackendKind, InUse>) -> Vec<Answer> {
    let mut asked: Vec<Answer> = Vec::new();
    let mut found = Vec::new();
    for kind in choice::AUTO {
        if choice::is_decided(&found) && !in_use.contains_key(&kind) {
            continue;
        }
        let answer = way.ask(kind).await;
        let capabilities = match &answer {
            Ok(asked) => Ok(asked.capabilities.clone()),
            Err(error) => Err(error.to_string()),
        };
        found.push((kind, capabilities));
        asked.push((kind, answer));
    }
    for (kind, taken, why) in choice::reasons(&found) {
        tracing::info!(%kind, taken, "auto: {why}");
    }
    let taken = choice::take(&found);
    if taken.is_some() {
        asked.retain(|(kind, _)| Some(*kind) == taken || in_use.contains_key(kind));
    }
    let place = |(kind, asked): &Answer| {
        choice::place(*kind, asked.as_ref().ok().map(|asked| &asked.capabilities))
    };
    asked.sort_by_key(place);
    asked
}

/// What to say when no backend is there.
fn none(mut failed: Vec<(BackendKind, NotThere)>) -> AppError {
    if let [_] = failed.as_slice()
        && let Some((_, error)) = failed.pop()
    {
        return match error {
            NotThere::Backend(error) => AppError::Backend(error),
            NotThere::Containment(reason) => AppError::Containment(reason),
            NotThere::Vms(error) => AppError::Vms(error),
        };
    }
    let each = failed.iter().map(|(kind, error)| format!("{kind}: {error}"));
    AppError::Backend(BackendError::Unavailable(each.collect::<Vec<_>>().join("; ")))
}
