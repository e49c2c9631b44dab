//! Snapshots inside a disk on which no machine runs. Of a running one they are made over QMP.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::DiskError;
use super::program::{Bounds, DiskTool, as_qcow2};

/// The name of a snapshot inside a disk: 1 to 64 of `a-z`, `A-Z`, `0-9`, `.`, `_`, `-`, beginning with a letter.
/// (A number could be taken for a snapshot's id.)
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotTag(String);

impl SnapshotTag {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotTag {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let good = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(legal);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            let shown = text.chars().take(80).filter(|c| !c.is_control()).collect();
            Err(DiskError::BadTag(shown))
        }
    }
}

impl TryFrom<String> for SnapshotTag {
    type Error = DiskError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SnapshotTag> for String {
    fn from(tag: SnapshotTag) -> Self {
        tag.0
    }
}

impl fmt::Display for SnapshotTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A snapshot inside a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSnapshot {
    /// Its name.
    pub tag: SnapshotTag,
    /// When it was made, in seconds since 1970, by the host's clock.
    pub created: u64,
    /// Bytes of the machine's memory and devices that it holds; 0 of a machine that did not run.
    pub memory_bytes: u64,
}

/// What `qemu-img info --output=json` says of a snapshot.
#[derive(Deserialize)]
struct Said {
    name: String,
    #[serde(rename = "vm-state-size")]
    memory_bytes: u64,
    #[serde(rename = "date-sec")]
    created: u64,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    snapshots: Vec<Said>,
}

/// Reads the answer of `qemu-img info`; snapshots with names that we never give are left out.
pub(super) fn read_info(json: &str) -> Result<Vec<DiskSnapshot>, serde_json::Error> {
    let info: Info = serde_json::from_str(json)?;
    let ours = |said: Said| {
        let tag = said.name.parse().ok()?;
        Some(DiskSnapshot { tag, created: said.created, memory_bytes: said.memory_bytes })
    };
    Ok(info.snapshots.into_iter().filter_map(ours).collect())
}

impl DiskTool {
    /// The snapshots inside a disk, the oldest first.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn snapshots(&self, disk: &Path) -> Result<Vec<DiskSnapshot>, DiskError> {
        const WHAT: &str = "list the snapshots of";
        if self.inspect(disk)?.snapshots == 0 {
            return Ok(Vec::new());
        }
        let said = self.run(WHAT, disk, Bounds::SHORT, |c| {
            c.args(["info", "--output=json", "--image-opts"]).arg(as_qcow2(disk));
        });
        let mut found = read_info(&said.await?).map_err(|error| DiskError::Tool {
            what: WHAT,
            path: disk.to_owned(),
            said: format!("it answers with what can't be read: {error}"),
        })?;
        found.sort_by_key(|snapshot| snapshot.created);
        Ok(found)
    }

    /// Makes a snapshot. Does nothing if there is one of that name.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn create_snapshot(&self, disk: &Path, tag: &SnapshotTag) -> Result<(), DiskError> {
        if self.has(disk, tag).await? {
            return Ok(());
        }
        self.snapshot("make a snapshot of", "-c", disk, tag).await
    }

    /// Makes the disk's content what it was. A disk that has grown since stays as large as it is.
    ///
    /// # Errors
    /// [`DiskError::NoSnapshot`], any [`DiskError`].
    pub async fn apply_snapshot(&self, disk: &Path, tag: &SnapshotTag) -> Result<(), DiskError> {
        if !self.has(disk, tag).await? {
            return Err(DiskError::NoSnapshot { path: disk.to_owned(), tag: tag.clone() });
        }
        let size = self.inspect(disk)?.virtual_size;
        self.snapshot("restore a snapshot of", "-a", disk, tag).await?;
        // The snapshot has brought its own size back.
        self.grow(disk, size).await
    }

    /// Removes a snapshot. Does nothing if there is none of that name.
    ///
    /// # Errors
    /// [`DiskError`].
    pub async fn delete_snapshot(&self, disk: &Path, tag: &SnapshotTag) -> Result<(), DiskError> {
        if !self.has(disk, tag).await? {
            return Ok(());
        }
        self.snapshot("remove a snapshot of", "-d", disk, tag).await
    }

    async fn has(&self, disk: &Path, tag: &SnapshotTag) -> Result<bool, DiskError> {
        Ok(self.snapshots(disk).await?.iter().any(|snapshot| snapshot.tag == *tag))
    }

    async fn snapshot(
        &self,
        what: &'static str,
        action: &str,
        disk: &Path,
        tag: &SnapshotTag,
    ) -> Result<(), DiskError> {
        let done = self.run(what, disk, Bounds::SHORT, |c| {
            c.args(["snapshot", "-q", action, tag.as_str(), "--image-opts"]).arg(as_qcow2(disk));
        });
        done.await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tag_is_no_number_and_no_option() {
        for good in ["a", "golem-suspend", "s1.2_3", &"x".repeat(64)] {
            assert_eq!(good.parse::<SnapshotTag>().unwrap().as_str(), good);
        }
        for bad in ["", "1", "-d", "a b", "a,b", "ä", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<SnapshotTag>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_tools_answer_is_read() {
        let json = r#"{"virtual-size": 1, "snapshots": [
            {"icount": 0, "vm-clock-nsec": 0, "name": "one", "date-sec": 5, "date-nsec": 0,
             "vm-clock-sec": 0, "id": "1", "vm-state-size": 7},
            {"name": "not ours", "date-sec": 5, "id": "2", "vm-state-size": 0}]}"#;
        let read = read_info(json).unwrap();
        let tag = "one".parse().unwrap();
        assert_eq!(read, [DiskSnapshot { tag, created: 5, memory_bytes: 7 }]);
        assert_eq!(read_info("{}").unwrap(), []);
        assert!(read_info("nothing").is_err());
    }
}
