//! Whether the engine's storage driver gives a disk a size: found out by writing more than it has.
//!
//! That a driver takes the option proves nothing (some take it and do nothing), and neither does its
//! name. The trial needs no image of anybody's: it makes an empty one.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateImageOptionsBuilder, UploadToContainerOptionsBuilder};
use golem_vm_protocol::KeyId;

use super::{SIZE, Tried};
use crate::backend::BackendError;
use crate::backend::docker::engine::{CHANGE, CallError, Engine};
use crate::backend::docker::{probe, tags, trial};

/// The size of the trial's disk, and how much is written to it, in bytes.
const DISK_BYTES: usize = 8 << 20;
const WRITTEN_BYTES: usize = 16 << 20;

/// Repository of the trial's empty image.
const REPOSITORY: &str = "golem/trial";

/// Drivers that count the image's own files as well: a container's disk is a copy of the image to
/// them (btrfs: a snapshot with a limit on what it refers to; measured).
const COUNT_IMAGE: [&str; 2] = ["btrfs", "devicemapper"];

/// What kernels say (EDQUOT, ENOSPC) when a disk is full.
const FULL: [&str; 2] = ["quota exceeded", "no space left"];

/// Tries it. Leaves nothing behind.
pub(in crate::backend::docker) async fn try_quota(
    engine: &Engine,
    provider: &KeyId,
) -> Result<Tried, BackendError> {
    let what = "can't try whether the engine gives disks a size";
    let failed = |error: CallError| error.into_backend(what);
    let info = probe::info(engine).await.map_err(failed)?;
    let driver = info.driver.unwrap_or_default();
    remove(engine, provider).await.map_err(failed)?;
    let outcome = write_too_much(engine, provider).await;
    remove(engine, provider).await.map_err(failed)?;
    Ok(match outcome {
        Ok(()) => Tried::Not("it takes a size, and then lets more be written".to_owned()),
        Err(Refusal::Full) => {
            Tried::Enforced { counts_image: COUNT_IMAGE.contains(&driver.as_str()) }
        }
        Err(Refusal::Other(error @ CallError::Unavailable(_))) => return Err(failed(error)),
        Err(Refusal::Other(CallError::Refused { message, .. } | CallError::Failed(message))) => {
            Tried::Not(message)
        }
    })
}

/// Removes what a trial left behind.
pub(in crate::backend::docker) async fn remove(
    engine: &Engine,
    provider: &KeyId,
) -> Result<(), CallError> {
    trial::remove(engine, provider).await?;
    tags::untag(engine, &image(provider)).await
}

fn image(provider: &KeyId) -> String {
    format!("{REPOSITORY}:{}", tags::tag_of(provider))
}

enum Refusal {
    Full,
    Other(CallError),
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self::Other(error)
    }
}

async fn write_too_much(engine: &Engine, provider: &KeyId) -> Result<(), Refusal> {
    let unmade = |error: std::io::Error| CallError::Failed(error.to_string());
    let empty = tar::Builder::new(Vec::new()).into_inner().map_err(unmade)?;
    let tag = tags::tag_of(provider);
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(REPOSITORY).tag(&tag).build();
    let docker = engine.client()?;
    let body = Some(bollard::body_full(empty.into()));
    let mut pieces = engine.pieces(docker.create_image(Some(options), body, None));
    while pieces.next().await?.is_some() {}

    let size = std::collections::HashMap::from([(SIZE.to_owned(), DISK_BYTES.to_string())]);
    let body = ContainerCreateBody {
        image: Some(image(provider)),
        // Never started.
        cmd: Some(vec!["/nothing".to_owned()]),
        labels: Some(trial::labels(provider)),
        host_config: Some(HostConfig {
            storage_opt: Some(size),
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    trial::create(engine, provider, body).await?;

    // Random, so that a file system that compresses does not make it fit.
    let mut data = vec![0; WRITTEN_BYTES];
    getrandom::fill(&mut data).map_err(|error| unmade(std::io::Error::other(error)))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(WRITTEN_BYTES as u64);
    header.set_mode(0o600);
    let mut archive = tar::Builder::new(Vec::with_capacity(WRITTEN_BYTES + 4096));
    archive.append_data(&mut header, "full", data.as_slice()).map_err(unmade)?;
    let archive = archive.into_inner().map_err(unmade)?;
    let options = UploadToContainerOptionsBuilder::new().path("/").build();
    let name = trial::name(provider);
    let written = engine
        .call(CHANGE, |docker| async move {
            let body = bollard::body_full(archive.into());
            docker.upload_to_container(&name, Some(options), body).await
        })
        .await;
    match written {
        Err(error @ (CallError::Refused { .. } | CallError::Failed(_))) if is_full(&error) => {
            Err(Refusal::Full)
        }
        other => Ok(other?),
    }
}

fn is_full(error: &CallError) -> bool {
    let (CallError::Refused { message, .. } | CallError::Failed(message)) = error else {
        return false;
    };
    let message = message.to_lowercase();
    FULL.iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_refusals() {
        let refused = |text: &str| CallError::Refused { status: 500, message: text.to_owned() };
        assert!(is_full(&refused("write /full: disk quota exceeded")));
        assert!(is_full(&refused("write /full: No space left on device")));
        assert!(!is_full(&refused("container rootfs is marked read-only")));
        assert!(!is_full(&CallError::Unavailable("no space left".to_owned())));
    }
}
