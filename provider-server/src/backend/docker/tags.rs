//! Names of images on the engine. Every provider has tags of its own on images that several may
//! share: `golem/<image>:<beginning of the provider's id>`. Giving an image up means dropping one's
//! own tag; the engine deletes the layers with the last one.

use std::collections::HashMap;

use bollard::models::ImageInspect;
use bollard::query_parameters::{
    ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use golem_vm_protocol::KeyId;

use super::engine::{CHANGE, CallError, Engine, QUERY};

/// Label: the fingerprint of the recipe that the image was made by.
pub(super) const RECIPE: &str = "golem.recipe";
/// Label: the image's name.
pub(super) const IMAGE: &str = "golem.image";
/// Label: program and version that made the image.
pub(super) const BUILT_BY: &str = "golem.built-by";
/// Label of every layer of a build, finished or not: the provider that builds, or built, it.
pub(super) const BUILD: &str = "golem.build";

/// Repository of bases, which live only as long as a build.
pub(super) const BASE_REPOSITORY: &str = "golem/base";

/// Repository of an image that is built here.
pub(super) fn built_repository(name: &str) -> String {
    format!("golem/{name}")
}

/// Repository of an image that was pulled; `id` is the engine's (`sha256:…`).
pub(super) fn pulled_repository(id: &str) -> String {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    format!("golem/pulled-{}", digits.get(..12).unwrap_or(digits))
}

/// The tag of a provider.
pub(super) fn tag_of(provider: &KeyId) -> String {
    provider.short()
}

/// Which of these references are this provider's own.
pub(super) fn own<'a>(references: &'a [String], provider: &KeyId) -> Vec<&'a str> {
    let tag = format!(":{}", tag_of(provider));
    let own = |reference: &&String| reference.starts_with("golem/") && reference.ends_with(&tag);
    references.iter().filter(own).map(String::as_str).collect()
}

/// The image behind a reference, digest or id; `None` if there is none.
pub(super) async fn inspect(
    engine: &Engine,
    reference: &str,
) -> Result<Option<ImageInspect>, CallError> {
    let found =
        engine.call(QUERY, |docker| async move { docker.inspect_image(reference).await }).await;
    match found {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives the image another name.
pub(super) async fn tag(
    engine: &Engine,
    image: &str,
    repository: &str,
    tag: &str,
) -> Result<(), CallError> {
    let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
    engine.call(CHANGE, |docker| async move { docker.tag_image(image, Some(options)).await }).await
}

/// Takes a name away, and deletes the image with its last one unless something uses it. Does
/// nothing if it is gone.
pub(super) async fn untag(engine: &Engine, reference: &str) -> Result<(), CallError> {
    let options = RemoveImageOptionsBuilder::new().force(false).noprune(false).build();
    let removed = engine
        .call(
            CHANGE,
            |docker| async move { docker.remove_image(reference, Some(options), None).await },
        )
        .await;
    match removed {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Images with this label: those that have a name, or (`dangling`) those that have none.
pub(super) async fn labelled(
    engine: &Engine,
    label: &str,
    dangling: bool,
) -> Result<Vec<bollard::models::ImageSummary>, CallError> {
    let filters = HashMap::from([
        ("label", vec![label.to_owned()]),
        ("dangling", vec![dangling.to_string()]),
    ]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    engine.call(QUERY, |docker| async move { docker.list_images(Some(options)).await }).await
}

/// References that fit a pattern (`golem/*:tag`), each with the id of its image.
pub(super) async fn with_ids(
    engine: &Engine,
    pattern: &str,
) -> Result<Vec<(String, String)>, CallError> {
    let filters = HashMap::from([("reference", vec![pattern.to_owned()])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images =
        engine.call(QUERY, |docker| async move { docker.list_images(Some(options)).await }).await?;
    let each = images.into_iter().flat_map(|image| {
        let id = image.id;
        image.repo_tags.into_iter().map(move |tag| (tag, id.clone()))
    });
    Ok(each.collect())
}

/// References of a repository, as `repository:tag`.
pub(super) async fn named(engine: &Engine, repository: &str) -> Result<Vec<String>, CallError> {
    let filters = HashMap::from([("reference", vec![repository.to_owned()])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images =
        engine.call(QUERY, |docker| async move { docker.list_images(Some(options)).await }).await?;
    Ok(images.into_iter().flat_map(|image| image.repo_tags).collect())
}

/// Deletes an image that was made here and that a newer one took all names from, unless something
/// still uses it. Best effort: it is tried again with the next container that goes.
pub(super) async fn remove_if_superseded(engine: &Engine, id: &str) {
    let Ok(Some(image)) = inspect(engine, id).await else { return };
    let made_here = image
        .config
        .and_then(|config| config.labels)
        .is_some_and(|labels| labels.contains_key(RECIPE));
    if made_here && image.repo_tags.is_none_or(|tags| tags.is_empty()) {
        let _ = untag(engine, id).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::KeyPair;

    use super::*;

    #[test]
    fn only_own_tags_are_own() {
        let provider = KeyPair::from_secret_bytes([9; 32]).unwrap().id();
        let other = KeyPair::from_secret_bytes([8; 32]).unwrap().id();
        let references = [
            format!("golem/debian-12:{}", tag_of(&provider)),
            format!("golem/debian-12:{}", tag_of(&other)),
            format!("example.org/x:{}", tag_of(&provider)),
            "debian:12".to_owned(),
        ];
        assert_eq!(own(&references, &provider), [references[0].as_str()]);
    }

    #[test]
    fn pulled_images_are_named_by_content() {
        assert_eq!(pulled_repository("sha256:0123456789abcdef"), "golem/pulled-0123456789ab");
        assert_eq!(pulled_repository("ab"), "golem/pulled-ab");
    }
}
