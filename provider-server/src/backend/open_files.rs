//! How many files guests can have open, and what bounds it.
//!
//! Each of a guest's processes has a limit, but their number times that limit is more than a kernel
//! has (`fs.file-max`), and that one counts for the whole machine. What bounds a guest is memory: the
//! kernel takes every open file from the memory of who opened it (`SLAB_ACCOUNT` of its `filp` cache).
//! So the machine's own number has to be larger than what all memory can hold, as systemd sets it.

use crate::backend::Finding;

/// The most files that the machine may have open.
const FILE_MAX: &str = "/proc/sys/fs/file-max";
/// Bytes that an open file takes at least (`struct file` of Linux 5 and 6, rounded up by its cache).
const FILE_BYTES: u64 = 192;

/// What systemd sets, and what we raise it to.
const PLENTY: u64 = i64::MAX.unsigned_abs();

/// What there is to say; `per_process` is the limit that a guest was seen to have.
pub(super) fn judge(per_process: Option<u64>) -> Finding {
    compare(per_process, file_max(), memory())
}

/// Lets memory be what bounds guests, where this process may (as root). Says so when it does.
pub fn let_memory_bound_them() {
    let Some(before) = file_max().filter(|number| *number < memory() / FILE_BYTES) else { return };
    match std::fs::write(FILE_MAX, PLENTY.to_string()) {
        Ok(()) => {
            tracing::info!(before, "{FILE_MAX} raised, so that no VM can take all open files")
        }
        Err(error) => tracing::debug!("{FILE_MAX} stays {before}: {error}"),
    }
}

fn file_max() -> Option<u64> {
    std::fs::read_to_string(FILE_MAX).ok()?.trim().parse().ok()
}

/// Bytes of memory of this machine.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let bytes = u128::from(info.totalram) * u128::from(info.mem_unit);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn compare(per_process: Option<u64>, file_max: Option<u64>, memory: u64) -> Finding {
    const SUBJECT: &str = "open files";
    let each = per_process.map_or("?".to_owned(), |limit| limit.to_string());
    match file_max {
        Some(file_max) if file_max < memory / FILE_BYTES => Finding::bad(
            SUBJECT,
            format!(
                "{each} for each process of a guest, but {file_max} for the whole machine: one VM \
                 with many processes can take them all, and others then open none"
            ),
            format!(
                "run 'sysctl fs.file-max={PLENTY}' as root (systemd does at boot), so that a VM's memory \
                 is what bounds it; the provider does it itself when it is started as root"
            ),
        ),
        _ => Finding::good(
            SUBJECT,
            format!("{each} for each process of a guest; its memory bounds them in all"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_on_which_one_guest_can_open_all_files_is_found_out() {
        let memory = 8 << 30;
        assert!(!compare(Some(65_536), Some(800_000), memory).good);
        assert!(compare(Some(65_536), Some(i64::MAX.unsigned_abs()), memory).good);
        assert!(compare(None, None, memory).good);
    }
}
