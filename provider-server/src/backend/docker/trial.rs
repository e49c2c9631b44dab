//! Trials: a container that is made only to see what the engine makes of it, and then removed.
//!
//! What a trial leaves behind when the program is killed in its middle has a fixed name, and is removed
//! before the next one and when the provider is purged.

use std::collections::HashMap;

use bollard::container::LogOutput;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
};
use golem_vm_protocol::{KeyId, VmId};

use super::engine::{CHANGE, CallError, Engine};
use super::guest::Guest;
use super::probe::EngineTraits;
use super::recipe::Recipe;
use super::{spec, tags};
use crate::backend::{
    BackendError, Confinement, Egress, ImageDigest, InstanceId, InstanceSpec, Limits,
};

/// What the trial guest may use: numbers that nothing has by itself.
pub(super) const LIMITS: Limits =
    Limits { cpu_millis: 370, memory_mib: 48, storage_mib: 64, processes: 37, open_files: 4096 };

/// Shows the guest its own control groups and what the kernel lets it do; `guest` reads it.
const SCRIPT: &str = "\
for file in memory/memory.limit_in_bytes memory.max memory/memory.memsw.limit_in_bytes \
memory.swap.max cpu/cpu.cfs_quota_us cpu.max pids/pids.max pids.max; do
    [ ! -r /sys/fs/cgroup/$file ] || echo \"$file=$(cat /sys/fs/cgroup/$file)\"
done
echo \"uid_map=$(head -n 1 /proc/self/uid_map)\"
cat /proc/self/status /proc/self/limits";

/// Most bytes of a trial guest's output that are read.
const OUTPUT_MAX: usize = 64 * 1024;

/// The name of a trial's container in the engine's own tools.
pub(super) fn name(provider: &KeyId) -> String {
    format!("golem-{}-trial", provider.short())
}

/// The labels of a trial's container.
pub(super) fn labels(provider: &KeyId) -> HashMap<String, String> {
    HashMap::from([(spec::PROVIDER.to_owned(), provider.to_string())])
}

/// Makes a trial's container.
pub(super) async fn create(
    engine: &Engine,
    provider: &KeyId,
    body: ContainerCreateBody,
) -> Result<(), CallError> {
    let options = CreateContainerOptionsBuilder::new().name(&name(provider)).build();
    let made = engine
        .call(CHANGE, |docker| async move { docker.create_container(Some(options), body).await })
        .await;
    made.map(|_| ())
}

/// Removes a trial's container. Does nothing if there is none.
pub(super) async fn remove(engine: &Engine, provider: &KeyId) -> Result<(), CallError> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let name = name(provider);
    let removed = engine
        .call(CHANGE, |docker| async move { docker.remove_container(&name, Some(options)).await })
        .await;
    match removed {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Starts a guest as guests are, but without a network, from an image that was built here, and lets
/// it tell what it is allowed. `Ok(None)`: there is no such image yet. `Ok(Some(Err))`: it did not run.
pub(super) async fn guest(
    engine: &Engine,
    provider: &KeyId,
    traits: EngineTraits,
) -> Result<Option<Result<Guest, String>>, BackendError> {
    let what = "can't start a guest to see what it is allowed";
    let failed = |error: CallError| error.into_backend(what);
    let Some(image) = own_image(engine, provider).await.map_err(failed)? else { return Ok(None) };
    remove(engine, provider).await.map_err(failed)?;
    let wanted = InstanceSpec {
        id: InstanceId::of(VmId::from_bytes([0; 16])),
        hostname: "trial".parse().map_err(|error| BackendError::Failed(format!("{error}")))?,
        image: ImageDigest::new(image),
        limits: LIMITS,
        confinement: Confinement { egress: Egress::None },
        access: None,
        user_data: None,
    };
    let mut body =
        spec::container(&wanted, provider, spec::Network { name: "none", resolvers: &[] }, traits)?;
    body.labels = Some(labels(provider));
    body.networking_config = None;
    body.entrypoint = Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), SCRIPT.to_owned()]);
    let outcome = match create(engine, provider, body).await {
        Ok(()) => run(engine, provider).await,
        Err(error) => Err(error),
    };
    remove(engine, provider).await.map_err(failed)?;
    match outcome {
        Ok(output) => Ok(Some(Guest::read(&output))),
        Err(error @ CallError::Unavailable(_)) => Err(failed(error)),
        Err(CallError::Refused { message, .. } | CallError::Failed(message)) => {
            Ok(Some(Err(message)))
        }
    }
}

/// Starts the trial's container, and reads all that it says until it ends.
async fn run(engine: &Engine, provider: &KeyId) -> Result<String, CallError> {
    let name = name(provider);
    engine
        .call(CHANGE, |docker| {
            let name = name.clone();
            async move { docker.start_container(&name, None).await }
        })
        .await?;
    let docker = engine.client()?;
    let options = LogsOptionsBuilder::new().stdout(true).follow(true).build();
    let mut pieces = engine.pieces(docker.logs(&name, Some(options)));
    let mut output = Vec::new();
    while let Some(piece) = pieces.next().await? {
        if let LogOutput::StdOut { message } = piece {
            output.extend_from_slice(&message);
        }
        if output.len() > OUTPUT_MAX {
            return Err(CallError::Failed("it says more than it was asked".to_owned()));
        }
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// An image of this provider that was built here.
pub(super) async fn own_image(
    engine: &Engine,
    provider: &KeyId,
) -> Result<Option<String>, CallError> {
    let own: Vec<String> = Recipe::names()
        .split(", ")
        .map(|name| format!("{}:{}", tags::built_repository(name), tags::tag_of(provider)))
        .collect();
    let images = tags::labelled(engine, tags::RECIPE, false).await?;
    let found =
        images.into_iter().find(|image| image.repo_tags.iter().any(|tag| own.contains(tag)));
    Ok(found.map(|image| image.id))
}
