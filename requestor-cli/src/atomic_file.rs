//! Files that change as a whole or not at all, whatever happens meanwhile.

use std::io::Write as _;
use std::path::Path;

/// Writes a file as a whole or not at all. `mode` is its Unix mode; without one, that of the file
/// that was there, or what the umask says.
pub(crate) fn replace(path: &Path, content: &[u8], mode: Option<u32>) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if let Some(mode) = mode {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    }
    #[cfg(not(unix))]
    let _ = mode;
    let written = (|| {
        let mut file = options.open(&temporary)?;
        if mode.is_none()
            && let Ok(old) = std::fs::metadata(path)
        {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
