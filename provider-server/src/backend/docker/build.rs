//! Building images from their recipes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::BuildImageOptionsBuilder;
use data_encoding::HEXLOWER;
use golem_vm_protocol::KeyId;

use super::engine::{CallError, Engine};
use super::progress::Progress;
use super::recipe::Recipe;
use super::{base, proxy, tags};
use crate::backend::{BackendError, ImageDigest};

/// Unnamed layers of builds that are older than this belong to no build that still runs.
const LEFTOVER_AGE: Duration = Duration::from_secs(2 * 3600);

/// Builds the image, or finds it, and gives it this provider's tag. Returns its id.
pub(super) async fn build(
    engine: &Arc<Engine>,
    provider: &KeyId,
    recipe: &Recipe,
    progress: &Progress,
) -> Result<String, BackendError> {
    let what = format!("can't build the image {}", recipe.name);
    let failed = |error: CallError| error.into_backend(&what);
    let repository = tags::built_repository(recipe.name);
    let tag = tags::tag_of(provider);
    let reference = format!("{repository}:{tag}");
    let before = tags::inspect(engine, &reference).await.map_err(failed)?;
    let before = before.and_then(|image| image.id);

    let id = match find(engine, recipe).await.map_err(failed)? {
        Some(id) => {
            progress.say(&format!("{} is built already", recipe.name)).await;
            if before.as_ref() != Some(&id) {
                tags::tag(engine, &id, &repository, &tag).await.map_err(failed)?;
            }
            id
        }
        None => {
            sweep(engine, provider).await.map_err(failed)?;
            let mut scaffold = Scaffold::new(engine, provider)?;
            base::obtain(engine, recipe, &scaffold.tag, progress).await?;
            let built = run(engine, recipe, &mut scaffold, &reference, progress).await;
            scaffold.take_down(built.is_ok()).await;
            built.map_err(failed)?;
            let image = tags::inspect(engine, &reference).await.map_err(failed)?;
            image.and_then(|image| image.id).ok_or_else(|| {
                BackendError::Failed(format!("{what}: it was removed as soon as it was there"))
            })?
        }
    };
    if let Some(before) = before.filter(|before| *before != id) {
        tags::remove_if_superseded(engine, &before).await;
    }
    Ok(id)
}

/// An image that was made here by the same recipe, for this provider or another one.
async fn find(engine: &Engine, recipe: &Recipe) -> Result<Option<String>, CallError> {
    let label = format!("{}={}", tags::RECIPE, recipe.fingerprint());
    let repository = format!("{}:", tags::built_repository(recipe.name));
    let mut images = tags::labelled(engine, &label, false).await?;
    // A label can be forged by an image from a registry; such a one has no name of ours.
    images.retain(|image| image.repo_tags.iter().any(|tag| tag.starts_with(&repository)));
    Ok(images.into_iter().max_by_key(|image| image.created).map(|image| image.id))
}

async fn run(
    engine: &Engine,
    recipe: &Recipe,
    scaffold: &mut Scaffold,
    reference: &str,
    progress: &Progress,
) -> Result<(), CallError> {
    let context =
        Recipe::context(&scaffold.label).map_err(|error| CallError::Failed(error.to_string()))?;
    let mut arguments = proxy::variables().await;
    arguments.insert("BASE".to_owned(), scaffold.base());
    let built_by = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
    let labels = HashMap::from([
        (tags::RECIPE, recipe.fingerprint()),
        (tags::IMAGE, recipe.name.to_owned()),
        (tags::BUILT_BY, built_by.to_owned()),
    ]);
    let options = BuildImageOptionsBuilder::new()
        .dockerfile("Dockerfile")
        .t(reference)
        .buildargs(&arguments)
        .labels(&labels)
        // The host's own way to the mirror: its resolver may be out of a bridge's reach.
        .networkmode("host")
        .nocache(true)
        .rm(true)
        .forcerm(true)
        .build();
    let docker = engine.client()?;
    let body = Some(bollard::body_full(context));
    let mut pieces = engine.pieces(docker.build_image(options, None, body));
    while let Some(info) = pieces.next().await? {
        if let Some(text) = info.stream {
            scaffold.note(&text);
            progress.say(&text).await;
        }
        if let Some(status) = info.status {
            progress.say(&status).await;
        }
    }
    Ok(())
}

/// Removes what builds of this provider, and long ago of others, left when they were killed. No build
/// of this provider may be running.
pub(super) async fn sweep(engine: &Engine, provider: &KeyId) -> Result<(), CallError> {
    sweep_own(engine, provider, &BTreeSet::new()).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let newest = now.saturating_sub(LEFTOVER_AGE).as_secs();
    for layer in tags::labelled(engine, tags::BUILD, true).await? {
        if u64::try_from(layer.created).is_ok_and(|created| created < newest) {
            let _ = tags::untag(engine, &layer.id).await;
        }
    }
    Ok(())
}

/// The same for builds of this provider only. What is `needed` stays in any case, and so does what a container
/// uses.
pub(super) async fn sweep_own(
    engine: &Engine,
    provider: &KeyId,
    needed: &BTreeSet<ImageDigest>,
) -> Result<(), CallError> {
    let own = format!("{}:{}-", tags::BASE_REPOSITORY, tags::tag_of(provider));
    for base in tags::named(engine, tags::BASE_REPOSITORY).await? {
        if base.starts_with(&own) {
            tags::untag(engine, &base).await?;
        }
    }
    for layer in tags::labelled(engine, &build_label(provider), true).await? {
        if !needed.contains(&ImageDigest::new(layer.id.as_str())) {
            let _ = tags::untag(engine, &layer.id).await;
        }
    }
    Ok(())
}

fn build_label(provider: &KeyId) -> String {
    format!("{}={provider}", tags::BUILD)
}

/// What exists only while an image is being built: its base, and the layers that it has so far.
struct Scaffold {
    engine: Arc<Engine>,
    tag: String,
    /// Label of all its layers.
    label: String,
    layers: Vec<String>,
    stands: bool,
}

impl Scaffold {
    fn new(engine: &Arc<Engine>, provider: &KeyId) -> Result<Self, BackendError> {
        let mut random = [0; 4];
        getrandom::fill(&mut random)
            .map_err(|error| BackendError::Failed(format!("no random numbers: {error}")))?;
        let tag = format!("{}-{}", tags::tag_of(provider), HEXLOWER.encode(&random));
        let (engine, label) = (Arc::clone(engine), build_label(provider));
        Ok(Self { engine, tag, label, layers: Vec::new(), stands: true })
    }

    fn base(&self) -> String {
        format!("{}:{}", tags::BASE_REPOSITORY, self.tag)
    }

    /// Remembers a layer when the builder tells of one (` ---> 0123456789ab`).
    fn note(&mut self, text: &str) {
        let layer = text
            .trim_end()
            .strip_prefix(" ---> ")
            .filter(|id| id.len() == 12 && id.chars().all(|digit| digit.is_ascii_hexdigit()));
        self.layers.extend(layer.map(str::to_owned));
    }

    async fn take_down(mut self, keep_layers: bool) {
        self.stands = false;
        let layers = std::mem::take(&mut self.layers);
        remove(&self.engine, &self.base(), if keep_layers { Vec::new() } else { layers }).await;
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        // The build was given up: the engine ends it when the connection closes.
        if self.stands
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (engine, base) = (Arc::clone(&self.engine), self.base());
            let layers = std::mem::take(&mut self.layers);
            runtime.spawn(async move { remove(&engine, &base, layers).await });
        }
    }
}

async fn remove(engine: &Engine, base: &str, layers: Vec<String>) {
    for layer in layers.iter().skip(1).rev().map(String::as_str).chain([base]) {
        if let Err(error) = tags::untag(engine, layer).await {
            tracing::debug!(layer, ?error, "a leftover of a build stays for now");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::KeyPair;

    use super::super::endpoint::{Address, Endpoint};
    use super::*;

    #[test]
    fn layers_are_noted_as_the_builder_tells_them() {
        let address = Address::Unix("/nonexistent".into());
        let engine = Arc::new(Engine::new(Endpoint { address, reason: String::new() }));
        let provider = KeyPair::from_secret_bytes([9; 32]).unwrap().id();
        let mut scaffold = Scaffold::new(&engine, &provider).unwrap();
        for text in [
            "Step 1/9 : ARG BASE\n",
            " ---> 0123456789ab\n",
            " ---> Running in ba9876543210\n",
            " ---> Using cache\n",
            " ---> ba9876543210\n",
        ] {
            scaffold.note(text);
        }
        assert_eq!(scaffold.layers, ["0123456789ab", "ba9876543210"]);
        assert!(scaffold.base().starts_with("golem/base:"));
    }
}
