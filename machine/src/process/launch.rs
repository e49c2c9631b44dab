//! Starting a process that outlives this one, held back until it is told to go on.
//!
//! Between the two, whoever starts it writes down which process it is, limits it, and gives it a network. If this
//! program ends before it says "go", the process ends by itself, and nothing is left.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};
use tokio::time::timeout;

use super::{ProcessIdentity, Signal};

/// What prepares the mount namespace.
const LAUNCH: &str = include_str!("launch.sh");
/// What waits in all namespaces, and becomes the program.
const WAIT: &str = include_str!("wait.sh");

/// What opens a file as descriptor 3.
const OPEN: &str = r#"exec 3<>"$1"; shift; exec "$@""#;

/// How long the preparations may take, on a host that is busy. Usual are 30 ms.
const PREPARED: Duration = Duration::from_secs(60);

/// As whom a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAs {
    /// As a user of its own: this program is root.
    User {
        /// The user's and its group's id, which nobody else has.
        id: u32,
        /// One more group, for a device.
        group: Option<u32>,
    },
    /// As the user that this program is, in a user namespace of its own, without any right in it.
    Myself,
}

/// Limits that every kernel enforces, for any user (setrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Open files.
    pub open_files: u64,
    /// Processes and threads of its user; only where it has one of its own.
    pub threads: u64,
    /// Bytes of any file that it writes.
    pub file_bytes: u64,
    /// Bytes of address space; `None` where memory is bounded better.
    pub address_space: Option<u64>,
}

/// A directory of the host that the program sees as `/mnt/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The directory on the host.
    pub directory: PathBuf,
    /// Its name below `/mnt`.
    pub name: String,
    /// Whether it may write to it.
    pub written: bool,
}

/// What is started, and how it is confined.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program, and its arguments.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What comes before everything else: the words of a service manager that keeps a group for it. Empty for none.
    pub wrapper: Vec<OsString>,
    /// As whom it runs.
    pub run_as: RunAs,
    /// Its limits.
    pub limits: ProcessLimits,
    /// What it sees below `/mnt`.
    pub seen: Vec<Seen>,
    /// Directories that are empty for it.
    pub hidden: Vec<PathBuf>,
    /// An empty directory for the preparations; stays empty on the host.
    pub stage: PathBuf,
    /// What it reads as its standard input, as it sees it.
    pub input: PathBuf,
    /// A file of this program's that it has open as descriptor 3, to read and to write. It is opened before anything
    /// else is done, so this may be a descriptor's name in `/proc`.
    pub third: Option<PathBuf>,
    /// Where what it prints is added.
    pub log: PathBuf,
    /// Bytes of the file system at `/mnt/log`, in memory.
    pub log_bytes: u64,
}

/// A process that is there, with its namespaces, and waits. Dropping this ends it.
#[derive(Debug)]
pub struct Held {
    identity: ProcessIdentity,
    go: ChildStdin,
}

impl Launch {
    /// Starts the process up to where it waits.
    ///
    /// # Errors
    /// When it can't be started or prepared; with what it said. Nothing is left then.
    pub async fn hold(&self) -> io::Result<Held> {
        let log = append(&self.log)?;
        let begun = log.metadata()?.len();
        let words = self.words();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(session())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it has no pid"))?;
        let identity = ProcessIdentity::of(pid)?;
        let (Some(go), Some(mut said)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no pipes"));
        };
        // Whoever started a process is who has to notice its end; it goes on when this program does not.
        tokio::spawn(async move { child.wait().await });
        let mut ready = Vec::new();
        let prepared = timeout(PREPARED, async {
            while !ready.ends_with(b"ready\n") {
                if said.read_buf(&mut ready).await? == 0 {
                    return Ok(false);
                }
            }
            Ok::<_, io::Error>(true)
        });
        match prepared.await {
            Ok(Ok(true)) => Ok(Held { identity, go }),
            Ok(Ok(false)) => {
                // Its pipe is closed, so it ends or has ended.
                identity.ended(PREPARED).await?;
                Err(io::Error::other(format!(
                    "preparing its namespaces failed: {}",
                    last_words(&self.log, begun)
                )))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                identity.signal(Signal::KILL)?;
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its namespaces were not ready in 60 s",
                ))
            }
        }
    }

    /// The whole command.
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["setsid".into()];
        words.extend(self.wrapper.iter().cloned());
        if let Some(third) = &self.third {
            words.extend(["sh", "-c", OPEN, "golem-open"].map(OsString::from));
            words.push(third.clone().into());
        }
        words.extend(["unshare", "--mount"].map(OsString::from));
        if self.run_as == RunAs::Myself {
            words.extend(["--net", "--user", "--map-root-user"].map(OsString::from));
        }
        words.extend(["--", "sh", "-c", LAUNCH, "golem-launch"].map(OsString::from));
        words.push(self.stage.clone().into());
        words.push(self.log_bytes.to_string().into());
        words.push(match self.run_as {
            RunAs::User { id, .. } => id.to_string().into(),
            RunAs::Myself => "-".into(),
        });
        words.push(if self.third.is_some() { "3" } else { "-" }.into());
        for seen in &self.seen {
            words.push(if seen.written { "rw" } else { "ro" }.into());
            words.push(seen.directory.clone().into());
            words.push(seen.name.clone().into());
        }
        for hidden in &self.hidden {
            words.extend(["hide".into(), hidden.clone().into()]);
        }
        words.push("--".into());
        words.extend(self.as_user().into_iter().map(OsString::from));
        words.extend(["sh", "-c", WAIT, "golem-wait"].map(OsString::from));
        words.push(self.input.clone().into());
        words.extend(self.without_rights().into_iter().map(OsString::from));
        words.push(self.program.clone().into());
        words.extend(self.arguments.iter().map(OsString::from));
        words
    }

    /// What goes on as a user of its own, in a user namespace and a network namespace that are this user's: so
    /// what has to be done in them can be done by this user too, and root, who may do everything everywhere, is
    /// needed for nothing. One right is taken along to make them, because many systems allow it to root only.
    fn as_user(&self) -> Vec<String> {
        let RunAs::User { id, group } = self.run_as else { return Vec::new() };
        let groups = group.map_or("--clear-groups".to_owned(), |group| format!("--groups={group}"));
        let mut words =
            vec!["setpriv".to_owned(), format!("--reuid={id}"), format!("--regid={id}")];
        words.push(groups);
        for caps in ["inh-caps", "ambient-caps", "bounding-set"] {
            words.push(format!("--{caps}=-all,+sys_admin"));
        }
        let unshare = ["--", "unshare", "--user", "--map-root-user", "--net", "--"];
        words.extend(unshare.map(str::to_owned));
        words
    }

    /// What gives up all rights, also those that it has in its own namespaces only: whoever breaks out of the program
    /// can't lift the rules of its network either.
    fn without_rights(&self) -> Vec<String> {
        let ProcessLimits { open_files, threads, file_bytes, address_space } = self.limits;
        let mut words = vec!["prlimit".to_owned(), "--core=0".to_owned()];
        words.push(format!("--nofile={open_files}"));
        words.push(format!("--fsize={file_bytes}"));
        if let Some(bytes) = address_space {
            words.push(format!("--as={bytes}"));
        }
        if let RunAs::User { .. } = self.run_as {
            words.push(format!("--nproc={threads}"));
        }
        words.extend(["--", "setpriv", "--no-new-privs"].map(str::to_owned));
        words.extend(["--bounding-set=-all", "--inh-caps=-all", "--"].map(str::to_owned));
        words
    }
}

impl Held {
    /// Which process it is; it stays the same when it goes on.
    #[must_use]
    pub const fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Lets it go on: it becomes the program.
    ///
    /// # Errors
    /// When it has ended meanwhile.
    pub async fn go(mut self) -> io::Result<ProcessIdentity> {
        self.go.write_all(b"go\n").await?;
        self.go.flush().await?;
        Ok(self.identity)
    }
}

/// What a service manager of the user's is found by.
fn session() -> impl Iterator<Item = (&'static str, OsString)> {
    ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "HOME"]
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

/// What was added to a log since it had `begun` bytes: the last lines of it.
pub(crate) fn last_words(log: &Path, begun: u64) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    const MOST: u64 = 2000;
    let read = || {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(begun.max(end.saturating_sub(MOST))))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).trim().replace('\n', "; "))
    };
    read().ok().filter(|said| !said.is_empty()).unwrap_or_else(|| "it said nothing".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn launch(directory: &Path, run_as: RunAs, script: &str) -> Launch {
        for name in ["stage", "machine", "images", "hidden"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        Launch {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            wrapper: Vec::new(),
            run_as,
            limits: ProcessLimits {
                open_files: 64,
                threads: 16,
                file_bytes: 1 << 20,
                address_space: None,
            },
            seen: vec![
                Seen { directory: directory.join("machine"), name: "vm".to_owned(), written: true },
                Seen {
                    directory: directory.join("images"),
                    name: "image".to_owned(),
                    written: false,
                },
            ],
            hidden: vec![directory.join("hidden")],
            stage: directory.join("stage"),
            input: "/dev/null".into(),
            third: None,
            log: directory.join("log"),
            log_bytes: 1 << 20,
        }
    }

    #[test]
    fn all_rights_are_given_up_before_the_program_begins() {
        let directory = tempfile::tempdir().unwrap();
        let as_user = launch(directory.path(), RunAs::User { id: 7, group: Some(9) }, "");
        let expected = "prlimit --core=0 --nofile=64 --fsize=1048576 --nproc=16 -- setpriv --no-new-privs \
                        --bounding-set=-all --inh-caps=-all --";
        assert_eq!(as_user.without_rights().join(" "), expected);
        let expected = "setpriv --reuid=7 --regid=7 --groups=9 --inh-caps=-all,+sys_admin \
                        --ambient-caps=-all,+sys_admin --bounding-set=-all,+sys_admin -- \
                        unshare --user --map-root-user --net --";
        assert_eq!(as_user.as_user().join(" "), expected);
        let myself = launch(directory.path(), RunAs::Myself, "").words();
        let words: Vec<_> = myself.iter().map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            words[..6],
            ["setsid", "unshare", "--mount", "--net", "--user", "--map-root-user"]
        );
        assert!(!words.iter().any(|word| word.starts_with("--reuid")));
    }

    #[cfg(feature = "qemu")]
    mod with_root {
        use std::os::unix::fs::{PermissionsExt, chown};

        use super::*;

        const LONG: Duration = Duration::from_secs(60);
        const USER: RunAs = RunAs::User { id: 1_900_000_001, group: None };

        #[tokio::test]
        async fn nothing_is_left_of_one_that_was_never_told_to_go() {
            let directory = tempfile::tempdir().unwrap();
            let held = launch(directory.path(), USER, "echo > /mnt/vm/ran").hold().await.unwrap();
            let identity = held.identity().clone();
            assert!(identity.alive().unwrap());
            drop(held);
            assert!(identity.ended(LONG).await.unwrap());
            assert!(!directory.path().join("machine/ran").exists());
            assert_eq!(std::fs::read_dir(directory.path().join("stage")).unwrap().count(), 0);
        }

        #[tokio::test]
        async fn a_process_sees_what_is_its_own_and_has_no_rights() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path();
            let script = "cd /mnt/vm; cat /proc/self/status > status; cat /proc/self/uid_map > uids; cat /proc/self/mountinfo > mounts; \
                          (echo x > /mnt/image/x) 2> /dev/null && echo writable > image; \
                          (ls /hidden_here) 2> /dev/null; cat /mnt/image/file > read; ls -d /mnt/* > mnt; \
                          readlink /proc/self/ns/net > net; ps -o sid= -p $$ > session; echo x > /mnt/log/y; ls -l /dev/net > tun; \
                          echo done > done.new; mv done.new done";
            let launch = launch(path, USER, script);
            chown(path.join("machine"), Some(1_900_000_001), None).unwrap();
            std::fs::write(path.join("images/file"), "content").unwrap();
            std::fs::set_permissions(path.join("images/file"), PermissionsExt::from_mode(0o444))
                .unwrap();
            let held = launch.hold().await.unwrap();
            let identity = held.identity().clone();
            assert_eq!(held.go().await.unwrap(), identity);
            assert!(identity.ended(LONG).await.unwrap());
            let read =
                |name: &str| std::fs::read_to_string(path.join("machine").join(name)).unwrap();
            assert_eq!(read("done"), "done\n", "{}", last_words(&launch.log, 0));
            let status = read("status");
            // Who is root in its namespace is this user outside of it.
            assert!(read("uids").split_whitespace().eq(["0", "1900000001", "1"]));
            for line in [
                "Uid:\t0\t0\t0\t0",
                "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000",
                "CapPrm:\t0000000000000000",
                "CapInh:\t0000000000000000",
                "NoNewPrivs:\t1",
            ] {
                assert!(status.lines().any(|is| is == line), "{line} not in {status}");
            }
            assert!(!path.join("machine/image").exists(), "it could write to the images");
            assert_eq!(read("read"), "content");
            assert_eq!(read("mnt"), "/mnt/image\n/mnt/log\n/mnt/tun\n/mnt/vm\n");
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            assert_ne!(read("net").trim(), own.to_string_lossy());
            let hidden = path.join("hidden").to_string_lossy().into_owned();
            assert!(read("mounts").lines().any(|line| line.contains(&hidden)));
            assert_eq!(read("session").trim(), identity.pid.to_string(), "a session of its own");
        }

        #[tokio::test]
        async fn what_went_wrong_is_said() {
            let directory = tempfile::tempdir().unwrap();
            let mut launch = launch(directory.path(), USER, "");
            launch.seen[1].directory = "/nowhere/at/all".into();
            let error = launch.hold().await.unwrap_err().to_string();
            assert!(error.contains("/nowhere/at/all"), "{error}");
        }
    }
}
