//! Secrets stay in files of their owner's: not in logs, output, arguments or environments.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use golem_vm_end_to_end::{Engine, Market, Place, ProviderOptions};

/// All files and directories in `directory`, itself included.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let Ok(entries) = std::fs::read_dir(directory) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The spellings of the secret in a `key` file.
fn of_key_file(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let encoded = text.trim().rsplit(':').next().unwrap();
    let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).unwrap();
    assert_eq!(bytes.len(), 32);
    vec![encoded.to_owned(), BASE64.encode(&bytes), HEXLOWER.encode(&bytes)]
}

/// The lines of OpenSSH private keys in `content` that hold the secret half. (Those at the beginning
/// hold the public one.)
fn of_private_keys(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let mut secrets = Vec::new();
    for part in text.split("-----BEGIN OPENSSH PRIVATE KEY-----").skip(1) {
        let body = part.split("-----END").next().unwrap();
        let lines: Vec<&str> = body.lines().map(str::trim).filter(|line| line.len() > 40).collect();
        secrets.extend(lines.iter().skip(2).map(|line| (*line).to_owned()));
    }
    secrets
}

/// Arguments and environments of all processes, looked at again and again while `action` runs.
fn watched(action: impl FnOnce()) -> BTreeSet<Vec<u8>> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                for process in std::fs::read_dir("/proc").unwrap().flatten() {
                    for file in ["cmdline", "environ"] {
                        seen.extend(std::fs::read(process.path().join(file)).ok());
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            seen
        });
        action();
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    })
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn no_secret_is_logged_shown_or_readable_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path()).with_umask("000").with_variable("RUST_LOG", "trace");
    let mut market = Market::in_place(&place, &Engine::shared(), &[ProviderOptions::default()]);
    let requestor = market.requestor();
    let mut shown = Vec::new();
    let mut host_keys = Vec::new();
    let processes = watched(|| {
        shown.push(requestor.rent("box").to_string());
        for client in [
            &["vm", "ssh", "box", "--", "true"][..],
            &["vm", "ssh", "--builtin", "box", "--", "true"],
        ] {
            shown.push(requestor.golem(client).done().to_string());
        }
        for arguments in [
            &["vm", "list", "--json"][..],
            &["vm", "info", "box", "--json"],
            &["vm", "ssh", "box", "--json"],
            &["vm", "create", "box"],
            &["vm", "create", "other", "--ssh-key", "/nowhere"],
            &["config", "list"],
        ] {
            shown.push(requestor.golem(arguments).to_string());
        }
        for arguments in [&["status", "--json"][..], &["doctor", "--json"], &["id"]] {
            shown.push(market.provider().run(arguments).to_string());
        }
        for file in walk(&market.provider().data_dir()) {
            host_keys.extend(of_private_keys(&std::fs::read(file).unwrap_or_default()));
        }
        shown.push(requestor.golem(&["vm", "destroy", "box", "--yes"]).done().to_string());
    });

    let own = requestor.home().join(".local/share/golem/requestor");
    let data = market.provider().data_dir();
    let mut secrets = host_keys;
    assert!(!secrets.is_empty(), "the host key was not found where it is kept");
    let ssh_key = of_private_keys(&std::fs::read(own.join("ssh/id_ed25519")).unwrap());
    assert!(!ssh_key.is_empty());
    secrets.extend(ssh_key);
    let services = ["discovery", "port-checker"].map(|name| market.directory().join(name));
    for home in [&own, &data, &services[0], &services[1]] {
        secrets.extend(of_key_file(&home.join("key")));
    }

    let mut logs = 0;
    for root in [market.directory(), data.parent().unwrap(), requestor.home()] {
        for path in walk(root) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let kept_here = name == "key"
                || name == "id_ed25519"
                || name.starts_with("state.db")
                || path.parent().is_some_and(|parent| parent.ends_with("backups"));
            let Ok(content) = std::fs::read(&path) else { continue };
            if kept_here {
                continue;
            }
            logs += usize::from(name.ends_with(".log") && contains(&content, "TRACE"));
            for secret in &secrets {
                let line = content.split(|b| *b == b'\n').find(|line| contains(line, secret));
                let shown = line.map(|line| String::from_utf8_lossy(&line[..line.len().min(400)]));
                assert_eq!(shown, None, "a secret is in {}", path.display());
            }
        }
    }
    assert!(logs >= 3, "provider, discovery and port checker log at level trace, {logs} do");
    for secret in &secrets {
        for text in &shown {
            assert!(!text.contains(secret), "a secret is shown: {text}");
        }
        for words in &processes {
            let words = String::from_utf8_lossy(words);
            assert!(!words.contains(secret), "a secret is in arguments or an environment: {words}");
        }
    }

    // With a mask that takes nothing away, what is made is private all the same.
    for root in [&own, &data, &services[0], &services[1]] {
        for path in walk(root) {
            let found = std::fs::symlink_metadata(&path).unwrap();
            let public = path.extension().is_some_and(|extension| extension == "pub");
            let wanted = match (found.is_dir(), public) {
                (true, _) => 0o700,
                (false, true) => 0o644,
                (false, false) => 0o600,
            };
            assert_eq!(found.mode() & 0o777, wanted, "{}: {:o}", path.display(), found.mode());
        }
    }
    // Others can't put another directory in the place of one that was made above it.
    for path in own.ancestors().take_while(|path| *path != requestor.home()) {
        let mode = std::fs::metadata(path).unwrap().mode();
        assert_eq!(mode & 0o022, 0, "{}: {mode:o}", path.display());
    }
    market.close();
}
