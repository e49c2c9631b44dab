//! Measures the disks of guests; see [`crate::backend::DiskWatch`].

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bollard::models::ContainerInspectResponse;

use super::{SIZE, deleted, usage};
use crate::backend::docker::engine::CallError;
use crate::backend::docker::{DockerBackend, probe};
use crate::backend::{BackendError, DiskRoom, DiskUse, DiskWatch, InstanceId};

/// Where overlay2 keeps what differs from the image.
const UPPER: &str = "UpperDir";

#[async_trait]
impl DiskWatch for DockerBackend {
    async fn room(&self) -> Result<Option<DiskRoom>, BackendError> {
        let root = self.root.get_or_try_init(|| async {
            let info = probe::info(&self.engine).await;
            let what = "can't ask the engine where its data is";
            let info = info.map_err(|error| error.into_backend(what))?;
            Ok::<_, BackendError>(info.docker_root_dir.map(PathBuf::from))
        });
        let Some(root) = root.await?.clone() else { return Ok(None) };
        let room = tokio::task::spawn_blocking(move || room_of(&root)).await;
        Ok(room.ok().flatten())
    }

    async fn disk_use(&self, id: InstanceId, most_files: u64) -> Result<DiskUse, BackendError> {
        let what = format!("can't measure the disk of the container {id}");
        let found = self.instances().inspect(id).await;
        let container = found.map_err(|error: CallError| error.into_backend(&what))?;
        let container = container.ok_or(BackendError::NoInstance(id))?;
        let places = Places::of(&container);
        let kept_within = places.kept_within;
        let counted = tokio::task::spawn_blocking(move || places.count(most_files)).await;
        let (used, counted_all) =
            counted.map_err(|error| BackendError::Failed(format!("{what}: {error}")))?;
        if counted_all || kept_within {
            return Ok(used);
        }
        // The engine's files are out of reach from here: it counts itself, at its own pace.
        let bytes = self.meter.disk(&self.engine, id).await.ok_or_else(|| {
            BackendError::Failed(format!("{what}: the engine does not say how large it is"))
        })?;
        Ok(DiskUse { bytes, ..used })
    }
}

fn room_of(root: &Path) -> Option<DiskRoom> {
    let disk = rustix::fs::statvfs(root).ok()?;
    Some(DiskRoom {
        bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        // btrfs and the like make them as they are needed, and say 0.
        files: (disk.f_files > 0).then_some(disk.f_favail),
    })
}

/// Where a container's bytes are on this host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// Whether the engine keeps the disk within its size.
    kept_within: bool,
    upper: Option<PathBuf>,
    /// Files of the engine's that a guest can write to.
    beside: Vec<PathBuf>,
    first_process: Option<u32>,
}

impl Places {
    fn of(container: &ContainerInspectResponse) -> Self {
        let size = container
            .host_config
            .as_ref()
            .and_then(|host| host.storage_opt.as_ref()?.get(SIZE).cloned());
        let upper = container.graph_driver.as_ref().and_then(|driver| driver.data.get(UPPER));
        let beside = [&container.hosts_path, &container.hostname_path, &container.resolv_conf_path];
        let pid = container.state.as_ref().and_then(|state| state.pid);
        Self {
            kept_within: size.is_some(),
            upper: upper.map(PathBuf::from),
            beside: beside
                .into_iter()
                .flatten()
                .filter(|p| !p.is_empty())
                .map(Into::into)
                .collect(),
            first_process: pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
        }
    }

    /// What is used, and whether all of it could be counted.
    fn count(&self, most_files: u64) -> (DiskUse, bool) {
        let beside = self.beside.iter().map(|path| usage::of_file(path)).sum();
        let upper = self.upper.as_ref().filter(|_| !self.kept_within);
        let Some(Ok(used)) = upper.map(|upper| usage::count(upper, most_files)) else {
            return (DiskUse { beside, ..DiskUse::default() }, false);
        };
        let held = self.first_process.map_or(0, deleted::held);
        (DiskUse { bytes: used.bytes.saturating_add(held), beside, ..used }, true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_engine_keeps_within_its_size_is_not_counted_but_what_is_beside_is() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, vec![1; 1 << 20]).unwrap();
        let upper = folder.path().join("diff");
        std::fs::create_dir(&upper).unwrap();
        std::fs::write(upper.join("file"), vec![1; 1 << 20]).unwrap();
        let container = |options| -> ContainerInspectResponse {
            serde_json::from_value(json!({
                "HostsPath": hosts, "ResolvConfPath": "",
                "GraphDriver": { "Name": "overlay2", "Data": { "UpperDir": upper } },
                "HostConfig": { "StorageOpt": options },
            }))
            .unwrap()
        };
        let (used, all) = Places::of(&container(json!(null))).count(100);
        assert!(all && used.files == 1 && used.bytes >= 1 << 20 && used.beside >= 1 << 20);
        let (used, all) = Places::of(&container(json!({ "size": "1" }))).count(100);
        assert!(!all && used.bytes == 0 && used.beside >= 1 << 20, "{used:?}");
    }

    #[test]
    fn a_disk_that_is_not_on_this_machine_is_not_guessed() {
        assert_eq!(room_of(Path::new("/nonexistent")), None);
        assert!(room_of(Path::new("/")).is_some_and(|room| room.bytes > 0));
        let (used, all) =
            Places { upper: Some("/nonexistent".into()), ..Places::default() }.count(9);
        assert_eq!((used, all), (DiskUse::default(), false));
    }
}
