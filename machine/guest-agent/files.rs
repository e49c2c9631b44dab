//! Files that change all together: each is written beside its place first, and then all are renamed.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Files that are written and not yet in their place. Dropped, they leave nothing.
#[derive(Debug, Default)]
pub(crate) struct Staged(Vec<(PathBuf, PathBuf)>);

impl Staged {
    /// One more file, of that mode, with its directory.
    pub(crate) fn write(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other("a file without a name"));
        };
        fs::create_dir_all(directory)?;
        let mut beside = name.to_owned();
        beside.push(".golem-new");
        let beside = directory.join(beside);
        let _ = fs::remove_file(&beside);
        self.0.push((beside.clone(), path.to_owned()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        // Without what the umask takes away.
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// All into their places.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        for (beside, path) in std::mem::take(&mut self.0) {
            fs::rename(beside, path)?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for (beside, _) in &self.0 {
            let _ = fs::remove_file(beside);
        }
    }
}

/// Makes a path of the guest one below `root`.
pub(crate) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory that goes with the test.
    pub(crate) struct Directory(pub(crate) PathBuf);

    impl Directory {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("golem-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn all_files_change_or_none_does() {
        let directory = Directory::new("staged");
        let (one, two) = (directory.0.join("a/one"), directory.0.join("two"));
        let mut staged = Staged::default();
        staged.write(&one, 0o600, b"1").expect("staged");
        staged.write(&two, 0o444, b"2").expect("staged");
        assert!(!one.exists() && !two.exists());
        drop(staged);
        assert_eq!(fs::read_dir(directory.0.join("a")).expect("read").count(), 0);

        let mut staged = Staged::default();
        staged.write(&one, 0o600, b"1").expect("staged");
        staged.write(&two, 0o444, b"2").expect("staged");
        staged.commit().expect("committed");
        assert_eq!(fs::read(&one).expect("read"), b"1");
        assert_eq!(fs::metadata(&two).expect("read").permissions().mode() & 0o777, 0o444);
    }
}
