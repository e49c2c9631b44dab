//! Fetching images from registries.

use std::collections::BTreeMap;

use bollard::query_parameters::CreateImageOptionsBuilder;

use super::engine::{CallError, Engine};
use super::progress::Progress;
use super::tags;

/// How often a pull is repeated when somebody else drops the name between its end and our look.
const ATTEMPTS: usize = 3;

/// Longest reference taken, in characters, with its tag. (The distribution's grammar: 255 for the name.)
const REFERENCE_MAX: usize = 400;

/// A reference to an image in a registry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    name: String,
    /// A tag, or a digest (`sha256:…`).
    version: String,
}

impl Reference {
    /// Reads `registry/name`, `…:tag` or `…@sha256:…`; without either the tag is `latest`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "'{}' is not a reference to an image: {why} (write name:tag, registry/name:tag, or \
                 …@sha256:…)",
                golem_vm_protocol::text::printable(text, 100)
            )
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        if text.is_empty() || text.len() > REFERENCE_MAX || !text.chars().all(legal) {
            return Err(wrong("it is empty, too long, or has characters that none can have"));
        }
        let (name, version) = match text.split_once('@') {
            Some((name, digest)) => {
                let digits = digest.strip_prefix("sha256:").unwrap_or_default();
                if digits.len() != 64 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
                    return Err(wrong("its digest is not sha256: and 64 hexadecimal digits"));
                }
                // A digest says it all; the engine refuses a tag beside it.
                (without_tag(name).0, digest)
            }
            None => without_tag(text),
        };
        if name.is_empty() || name.starts_with('/') || name.ends_with('/') || version.is_empty() {
            return Err(wrong("its name or its tag is missing"));
        }
        if name.len() + 1 + version.len() > REFERENCE_MAX {
            return Err(wrong("it is too long with its tag"));
        }
        Ok(Self { name: name.to_owned(), version: version.to_owned() })
    }

    /// As one text, as the engine writes it.
    pub(super) fn as_text(&self) -> String {
        let separator = if self.version.starts_with("sha256:") { '@' } else { ':' };
        format!("{}{separator}{}", self.name, self.version)
    }
}

/// Name and tag; a colon before the last slash belongs to the registry's port.
fn without_tag(text: &str) -> (&str, &str) {
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last..].find(':') {
        Some(colon) => (&text[..last + colon], &text[last + colon + 1..]),
        None => (text, "latest"),
    }
}

/// Fetches the image, gives it the name `repository(id):tag`, and takes away the registry's name if
/// it was not there before. Returns the image's id.
pub(super) async fn pull(
    engine: &Engine,
    reference: &Reference,
    repository: fn(&str) -> String,
    tag: &str,
    progress: &Progress,
) -> Result<String, CallError> {
    let text = reference.as_text();
    let was_there = tags::inspect(engine, &text).await?.is_some();
    for _ in 0..ATTEMPTS {
        fetch(engine, reference, progress).await?;
        let Some(id) = tags::inspect(engine, &text).await?.and_then(|image| image.id) else {
            continue;
        };
        match tags::tag(engine, &id, &repository(&id), tag).await {
            Err(error) if error.is_not_found() => continue,
            tagged => tagged?,
        }
        if !was_there {
            tags::untag(engine, &text).await?;
            drop_digests(engine, &id, reference).await?;
        }
        return Ok(id);
    }
    Err(CallError::Failed("the image was removed as soon as it was there".to_owned()))
}

/// The engine notes the registry's digest as one more name, which would keep the image for ever.
async fn drop_digests(engine: &Engine, id: &str, reference: &Reference) -> Result<(), CallError> {
    let Some(image) = tags::inspect(engine, id).await? else { return Ok(()) };
    let named_otherwise = image.repo_tags.unwrap_or_default();
    let familiar = reference.name.trim_start_matches("docker.io/").trim_start_matches("library/");
    for digest in image.repo_digests.unwrap_or_default() {
        let Some((name, _)) = digest.split_once('@') else { continue };
        let is_ours = name == reference.name || name == familiar;
        let is_used = named_otherwise.iter().any(|tag| without_tag(tag).0 == name);
        if is_ours && !is_used {
            tags::untag(engine, &digest).await?;
        }
    }
    Ok(())
}

async fn fetch(
    engine: &Engine,
    reference: &Reference,
    progress: &Progress,
) -> Result<(), CallError> {
    let options = CreateImageOptionsBuilder::new()
        .from_image(&reference.name)
        .tag(&reference.version)
        .build();
    let mut last = BTreeMap::new();
    let docker = engine.client()?;
    let mut pieces = engine.pieces(docker.create_image(Some(options), None, None));
    while let Some(info) = pieces.next().await? {
        let Some(status) = info.status else { continue };
        let layer = info.id.unwrap_or_default();
        // Every layer repeats its state several times a second.
        if last.insert(layer.clone(), status.clone()).as_ref() != Some(&status) {
            let line = if layer.is_empty() { status } else { format!("{layer}: {status}") };
            progress.say(&line).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn references_are_read_as_everywhere() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let table = [
            ("debian", "debian:latest".to_owned()),
            ("debian:12", "debian:12".to_owned()),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest".to_owned()),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1".to_owned()),
            (&format!("a/b@{digest}"), format!("a/b@{digest}")),
            (&format!("a/b:v1@{digest}"), format!("a/b@{digest}")),
        ];
        for (text, expected) in table {
            assert_eq!(Reference::parse(text).unwrap().as_text(), expected);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(REFERENCE_MAX + 1);
        for bad in ["", "a b", "a\n", "/a", "a/", "a:", ":t", "a@sha256:12", "a@md5:0", "ä", &long]
        {
            let error = Reference::parse(bad).unwrap_err();
            assert!(error.contains("is not a reference"), "{bad}: {error}");
        }
    }
}
