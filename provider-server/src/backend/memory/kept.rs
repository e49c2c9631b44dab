//! The file in which a backend in memory keeps its instances over an end of the program.
//!
//! The file is to it what an engine's own state is to an engine: whoever changes it while the program runs
//! is seen at the next call, so that a test can have instances stop, vanish or appear.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use golem_vm_protocol::VmName;
use golem_vm_protocol::vm::SshPublicKey;
use serde::{Deserialize, Serialize};

use super::{Instance, Power};
use crate::backend::{Confinement, ImageDigest, InstanceId, InstanceSpec, Limits, SshAccess};

/// Its name in the provider's data directory.
pub const FILE_NAME: &str = "memory-backend.json";

/// Where the instances and images of one backend are kept.
#[derive(Debug, Clone)]
pub(super) struct Keeper {
    path: PathBuf,
    /// Which file was read or written last: each change makes a new one.
    known: Option<FileStamp>,
}

type FileStamp = (u64, i64, i64);

/// What is kept: as much as an engine keeps when its caller is killed.
pub(super) type Kept = (BTreeMap<InstanceId, Instance>, HashMap<ImageDigest, u64>);

#[derive(Serialize, Deserialize)]
struct Contents {
    instances: Vec<KeptInstance>,
    images: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct KeptInstance {
    name: String,
    hostname: VmName,
    image: ImageDigest,
    limits: Limits,
    confinement: Confinement,
    access: Option<KeptAccess>,
    #[serde(default)]
    user_data: Option<String>,
    power: Power,
    broken: Option<String>,
    #[serde(default)]
    contents: super::Contents,
}

#[derive(Serialize, Deserialize)]
struct KeptAccess {
    host_key_private: String,
    host_key: SshPublicKey,
    authorized_keys: Vec<SshPublicKey>,
}

impl Keeper {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join(FILE_NAME), known: None }
    }

    fn stamp(&self) -> io::Result<Option<FileStamp>> {
        match fs::metadata(&self.path) {
            Ok(file) => Ok(Some((file.ino(), file.mtime(), file.mtime_nsec()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is kept, if that is not what was read or written last.
    pub(super) fn news(&mut self) -> io::Result<Option<Kept>> {
        let stamp = self.stamp()?;
        if stamp == self.known {
            return Ok(None);
        }
        let kept = match stamp {
            Some(_) => self.load()?,
            None => Kept::default(),
        };
        self.known = stamp;
        Ok(Some(kept))
    }

    fn load(&self) -> io::Result<Kept> {
        let bytes = fs::read(&self.path)?;
        let damaged = |error: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} can't be understood: {error}", self.path.display()),
            )
        };
        let contents: Contents =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let mut instances = BTreeMap::new();
        for kept in contents.instances {
            let id = kept.name.parse().map_err(|_| damaged(format!("name {}", kept.name)))?;
            instances.insert(id, kept.into_instance(id));
        }
        let images = contents.images.into_iter();
        Ok((instances, images.map(|(digest, size)| (ImageDigest::new(digest), size)).collect()))
    }

    /// Keeps this, whole or not at all. A power cut may lose it: it is for tests that kill programs.
    pub(super) fn store(
        &mut self,
        instances: &BTreeMap<InstanceId, Instance>,
        images: &HashMap<ImageDigest, u64>,
    ) -> io::Result<()> {
        let instances = instances.iter().map(|(id, instance)| KeptInstance::of(*id, instance));
        let images = images.iter().map(|(digest, size)| (digest.as_str().to_owned(), *size));
        let contents = Contents { instances: instances.collect(), images: images.collect() };
        let bytes = serde_json::to_vec(&contents).map_err(io::Error::other)?;
        let fresh = self.path.with_extension("json.new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&bytes)?;
        fs::rename(&fresh, &self.path)?;
        self.known = self.stamp()?;
        Ok(())
    }
}

impl KeptInstance {
    fn of(id: InstanceId, instance: &Instance) -> Self {
        let Instance { spec, power, broken, contents } = instance.clone();
        Self {
            name: id.to_string(),
            hostname: spec.hostname,
            image: spec.image,
            limits: spec.limits,
            confinement: spec.confinement,
            access: spec.access.map(|access| KeptAccess {
                host_key_private: access.host_key_private,
                host_key: access.host_key,
                authorized_keys: access.authorized_keys,
            }),
            user_data: spec.user_data,
            power,
            broken,
            contents,
        }
    }

    fn into_instance(self, id: InstanceId) -> Instance {
        let access = self.access.map(|access| SshAccess {
            host_key_private: access.host_key_private,
            host_key: access.host_key,
            authorized_keys: access.authorized_keys,
        });
        let spec = InstanceSpec {
            id,
            hostname: self.hostname,
            image: self.image,
            limits: self.limits,
            confinement: self.confinement,
            access,
            user_data: self.user_data,
        };
        Instance { spec, power: self.power, broken: self.broken, contents: self.contents }
    }
}
