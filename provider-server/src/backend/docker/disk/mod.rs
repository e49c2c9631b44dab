//! The size of a guest's disk: by which means it is one.
//!
//! Either the engine's storage driver refuses a guest more than it rents (btrfs, XFS with project
//! quotas, ZFS): `quota` finds out by trying. Or nobody does; then it is not claimed, the disks are
//! watched (`usage`, `deleted`), and a VM that goes past its size is stopped by the provider.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, ImageInspect, SystemInfo};
use golem_vm_protocol::text::printable;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, Finding};

mod deleted;
mod quota;
mod usage;
mod watch;

pub(super) use quota::{remove, try_quota};

/// The storage option that gives a container's disk a size.
const SIZE: &str = "size";

/// What came of trying whether the engine gives disks a size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tried {
    /// It refused to write more.
    Enforced {
        /// Whether the image's own files count as well.
        counts_image: bool,
    },
    /// It does not, and why.
    Not(String),
}

impl Tried {
    /// Whether disks have their size by the engine.
    pub(super) const fn is_enforced(&self) -> bool {
        matches!(self, Self::Enforced { .. })
    }

    /// Gives the disk of a container to be its size, where the engine does that.
    ///
    /// # Errors
    /// When the size is out of range.
    pub(super) fn limit(
        &self,
        body: &mut ContainerCreateBody,
        storage_mib: u64,
        image: &ImageInspect,
    ) -> Result<(), BackendError> {
        let Self::Enforced { counts_image } = self else { return Ok(()) };
        let image_bytes = image.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        let bytes = storage_mib
            .checked_mul(1 << 20)
            .and_then(|bytes| bytes.checked_add(if *counts_image { image_bytes } else { 0 }))
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .ok_or_else(|| BackendError::Failed("the disk's size is out of range".to_owned()))?;
        let host = body.host_config.get_or_insert_default();
        host.storage_opt = Some(HashMap::from([(SIZE.to_owned(), bytes.to_string())]));
        Ok(())
    }

    /// For doctor.
    pub(super) fn finding(&self, info: &SystemInfo) -> Finding {
        const SUBJECT: &str = "disk size";
        let driver = printable(info.driver.as_deref().unwrap_or("?"), 30);
        match self {
            Self::Enforced { .. } => Finding::good(
                SUBJECT,
                format!("the engine's storage driver {driver} refuses a guest more than it rents"),
            ),
            Self::Not(reason) => Finding::bad(
                SUBJECT,
                format!(
                    "not enforced by the engine's storage driver {driver} ({reason}), and not claimed: \
                     disks are watched, and a VM that uses more than it rents is stopped"
                ),
                "put the engine's data (\"data-root\" in /etc/docker/daemon.json) on XFS mounted with the \
                 option pquota, or on btrfs, and restart the engine; images have to be built again then",
            ),
        }
    }
}

/// Why an image can't be used, if it can't: a volume that it declares is made for each of its
/// containers anew, beside the container's disk and past its size.
pub(super) fn image_is_refused(image: &ImageInspect) -> Option<String> {
    let volumes = image.config.as_ref()?.volumes.as_ref().filter(|volumes| !volumes.is_empty())?;
    Some(format!(
        "it declares volumes ({}), and what is written to them would be outside of the VM's disk and its \
         limit: use one that is built without VOLUME",
        printable(&volumes.join(", "), 200)
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bollard::models::ImageConfig;

    use super::*;

    fn size(tried: &Tried, storage_mib: u64) -> Option<String> {
        let image = ImageInspect { size: Some(1000), ..ImageInspect::default() };
        let mut body = ContainerCreateBody::default();
        tried.limit(&mut body, storage_mib, &image).unwrap();
        body.host_config?.storage_opt?.remove("size")
    }

    #[test]
    fn a_disk_has_the_size_that_is_rented_and_the_image_is_on_top() {
        let enforced = |counts_image| Tried::Enforced { counts_image };
        assert_eq!(size(&enforced(false), 10).as_deref(), Some("10485760"));
        assert_eq!(size(&enforced(true), 10).as_deref(), Some("10486760"));
        assert_eq!(size(&Tried::Not("no".to_owned()), 10), None);
        let mut body = ContainerCreateBody::default();
        assert!(enforced(true).limit(&mut body, u64::MAX, &ImageInspect::default()).is_err());
    }

    #[test]
    fn images_with_volumes_are_refused() {
        let image = |volumes: &[&str]| ImageInspect {
            config: Some(ImageConfig {
                volumes: Some(volumes.iter().map(ToString::to_string).collect()),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        };
        assert!(image_is_refused(&image(&["/data"])).unwrap().contains("/data"));
        assert_eq!(image_is_refused(&image(&[])), None);
        assert_eq!(image_is_refused(&ImageInspect::default()), None);
    }
}
