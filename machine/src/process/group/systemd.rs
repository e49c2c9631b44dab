//! Groups that systemd keeps: one scope for each machine, which ends with its last process.

use std::ffi::OsString;
use std::path::Path;

use super::GroupLimits;

/// Whether systemd runs here, and for an ordinary user, whether theirs does.
pub(super) fn runs(root: bool) -> bool {
    if !Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    let users = || {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR")?;
        Some(Path::new(&runtime).join("systemd/private").exists())
    };
    root || users().unwrap_or(false)
}

/// What starts a command in a scope; the command keeps the process's number.
pub(super) fn wrapper(user: bool, name: &str, limits: &GroupLimits) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["systemd-run".into()];
    if user {
        words.push("--user".into());
    }
    // One of an earlier start that failed would be in the way of the name.
    words.extend(["--scope", "--quiet", "--collect"].map(OsString::from));
    words.push(format!("--unit={name}").into());
    words.push("--slice=golem.slice".into());
    let percent = limits.cpu_millis.div_ceil(10);
    for property in [
        format!("MemoryMax={}", limits.memory_bytes),
        "MemorySwapMax=0".to_owned(),
        format!("CPUQuota={percent}%"),
        format!("TasksMax={}", limits.threads),
    ] {
        words.extend(["-p".into(), property.into()]);
    }
    words.push("--".into());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_all_limits() {
        let limits = GroupLimits { memory_bytes: 1000, cpu_millis: 1505, threads: 7 };
        let words: Vec<String> = wrapper(true, "golem-x", &limits)
            .into_iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        assert_eq!(words[..3], ["systemd-run", "--user", "--scope"]);
        for word in
            ["--unit=golem-x", "MemoryMax=1000", "MemorySwapMax=0", "CPUQuota=151%", "TasksMax=7"]
        {
            assert!(words.iter().any(|is| is == word), "{word}");
        }
        assert_eq!(words.last().map(String::as_str), Some("--"));
        assert!(!wrapper(false, "golem-x", &limits).contains(&"--user".into()));
    }
}
