//! What images are built on: made from the distribution's packages with mmdebstrap where it is
//! installed, else fetched from a registry.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use super::engine::{CallError, Engine};
use super::progress::Progress;
use super::proxy;
use super::pull::{self, Reference};
use super::recipe::{Keys, Recipe};
use super::tags::BASE_REPOSITORY;
use crate::backend::BackendError;

const MMDEBSTRAP: &str = "mmdebstrap";

/// How long mmdebstrap may take. (22 s on two cores beside a fast mirror.)
const BOOTSTRAP_DEADLINE: Duration = Duration::from_secs(45 * 60);

/// How long mmdebstrap gets to clean up after itself when it is interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(10);

/// How many of mmdebstrap's complaints are quoted when it fails: the first name the cause.
const QUOTED_COMPLAINTS: usize = 2;

/// Bytes read at a time from mmdebstrap's archive.
const CHUNK: usize = 256 << 10;

const WORKSHOP_PREFIX: &str = "golem-base-";

/// Makes or fetches the base, and gives it the name `golem/base:<tag>`.
pub(super) async fn obtain(
    engine: &Engine,
    recipe: &Recipe,
    tag: &str,
    progress: &Progress,
) -> Result<(), BackendError> {
    Workshop::sweep();
    let made = bootstrap(engine, recipe, tag, progress).await;
    let no_bootstrap = match made {
        Ok(()) => return Ok(()),
        Err(BackendError::Unavailable(text)) => return Err(BackendError::Unavailable(text)),
        Err(error) => error,
    };
    progress.say(&format!("{no_bootstrap}; trying the registry instead")).await;
    let fetched = match Reference::parse(recipe.registry) {
        Ok(reference) => {
            pull::pull(engine, &reference, |_| BASE_REPOSITORY.to_owned(), tag, progress).await
        }
        Err(error) => Err(CallError::Failed(error)),
    };
    match fetched {
        Ok(_) => Ok(()),
        Err(CallError::Unavailable(text)) => Err(BackendError::Unavailable(text)),
        Err(CallError::Refused { message, .. } | CallError::Failed(message)) => {
            Err(BackendError::Failed(format!(
                "there is no base for {} to be had. From packages: {no_bootstrap}. From the \
                 registry: {}: {message}. Install mmdebstrap ('apt-get install mmdebstrap'), see \
                 that the distribution's mirror or the registry can be reached, and build again",
                recipe.name, recipe.registry
            )))
        }
    }
}

/// Removes the folders of builds that were killed.
pub(super) fn sweep() {
    Workshop::sweep();
}

async fn bootstrap(
    engine: &Engine,
    recipe: &Recipe,
    tag: &str,
    progress: &Progress,
) -> Result<(), BackendError> {
    if !is_installed(MMDEBSTRAP) {
        return Err(BackendError::Failed("mmdebstrap is not installed".to_owned()));
    }
    let failed =
        |error: std::io::Error| BackendError::Failed(format!("mmdebstrap can't be run: {error}"));
    let mut workshop = Workshop::open().map_err(failed)?;
    let (mut child, stdout) = workshop.begin(recipe).await.map_err(failed)?;
    progress.say(&format!("making the base of {} with mmdebstrap", recipe.name)).await;

    let mut complaints = Vec::new();
    let stderr = child.stderr.take();
    let (chunks, mut archive) = mpsc::channel(4);
    let work = async {
        let listen = listen(stderr, &mut complaints, progress);
        let (status, (), imported) = tokio::join!(
            carry(&mut child, stdout, chunks),
            listen,
            import(engine, &mut archive, tag)
        );
        (status, imported)
    };
    let Ok((status, imported)) = tokio::time::timeout(BOOTSTRAP_DEADLINE, work).await else {
        return Err(BackendError::Failed(format!(
            "mmdebstrap was not done after {} minutes",
            BOOTSTRAP_DEADLINE.as_secs() / 60
        )));
    };
    workshop.done();
    let imported = imported.map_err(|error| error.into_backend("can't import the base"));
    match status {
        // The engine's refusal is why mmdebstrap found nobody to write to.
        _ if matches!(imported, Err(BackendError::Unavailable(_))) => imported,
        Ok(()) => imported,
        Err(error) => {
            let said = complaints.join("; ");
            Err(BackendError::Failed(format!("mmdebstrap failed ({error}): {said}")))
        }
    }
}

/// Carries the archive from mmdebstrap to whoever takes it, and then mmdebstrap's verdict.
async fn carry(
    child: &mut Child,
    mut stdout: ChildStdout,
    chunks: mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = stdout.read_buf(&mut chunk).await?;
        if read == 0 || chunks.send(Ok(Bytes::from(chunk))).await.is_err() {
            break;
        }
    }
    drop(stdout);
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    // Or else the engine would take half an archive for a whole one.
    let _ = chunks.send(Err(std::io::Error::other("mmdebstrap failed"))).await;
    Err(std::io::Error::other(status.to_string()))
}

async fn listen(
    stderr: Option<tokio::process::ChildStderr>,
    complaints: &mut Vec<String>,
    progress: &Progress,
) {
    let Some(stderr) = stderr else { return };
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = golem_vm_protocol::text::printable(String::from_utf8_lossy(&line).trim(), 300);
        progress.say(&line).await;
        if complaints.len() < QUOTED_COMPLAINTS
            && let Some(complaint) = line.strip_prefix("E: ")
        {
            complaints.push(complaint.to_owned());
        }
    }
}

/// Imports the archive once its first bytes are there: until then the engine is not kept waiting.
async fn import(
    engine: &Engine,
    archive: &mut mpsc::Receiver<std::io::Result<Bytes>>,
    tag: &str,
) -> Result<(), CallError> {
    let (sender, mut receiver) = mpsc::channel(1);
    let first = match archive.recv().await {
        Some(Ok(first)) => first,
        _ => return Err(CallError::Failed("it was not made".to_owned())),
    };
    let pass_on = async {
        let mut next = Some(Ok(first));
        while let Some(chunk) = next {
            if sender.send(chunk).await.is_err() {
                break;
            }
            next = archive.recv().await;
        }
        archive.close();
        drop(sender);
    };
    let body = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let options =
        CreateImageOptionsBuilder::new().from_src("-").repo(BASE_REPOSITORY).tag(tag).build();
    let upload = async {
        let docker = engine.client()?;
        let body = Some(bollard::body_try_stream(body));
        let mut pieces = engine.pieces(docker.create_image(Some(options), body, None));
        while pieces.next().await?.is_some() {}
        Ok(())
    };
    let (imported, ()) = tokio::join!(upload, pass_on);
    imported
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The folder in which one mmdebstrap works, and the end of both.
struct Workshop {
    folder: PathBuf,
    /// Locked for as long as the folder is in use.
    _lock: File,
    group: Option<Pid>,
}

impl Workshop {
    fn open() -> std::io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let random = HEXLOWER.encode(&random);
        let name = format!("{WORKSHOP_PREFIX}{}-{random}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        let lock = File::open(&folder)?;
        lock.lock()?;
        Ok(Self { folder, _lock: lock, group: None })
    }

    /// Starts mmdebstrap in a process group of its own, so that all of it can be ended.
    async fn begin(&mut self, recipe: &Recipe) -> std::io::Result<(Child, ChildStdout)> {
        let keys = match recipe.keys {
            Keys::OnHost { path, package } if !Path::new(path).exists() => {
                return Err(std::io::Error::other(format!(
                    "{path} is not there (install the package {package})"
                )));
            }
            Keys::OnHost { path, .. } => PathBuf::from(path),
            Keys::Embedded(text) => {
                let path = self.folder.join("archive-keys.asc");
                std::fs::write(&path, text)?;
                path
            }
        };
        let mut command = Command::new(MMDEBSTRAP);
        command
            .args(recipe.bootstrap_options(|folder| Path::new(folder).is_dir()))
            .arg(format!("--keyring={}", keys.display()))
            .args([recipe.suite, "-", "-"])
            .envs(proxy::variables().await)
            .env("TMPDIR", &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        self.group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(mut stdin) = child.stdin.take() {
            let sources = recipe.sources_for(std::env::consts::ARCH);
            stdin.write_all(sources.as_bytes()).await?;
        }
        let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no output"))?;
        Ok((child, stdout))
    }

    /// mmdebstrap has ended.
    fn done(&mut self) {
        self.group = None;
    }

    /// Removes what killed processes of this user left behind: folders that are named after a process
    /// that is gone, and that nobody holds the lock of. (Where `/tmp` is shared between containers, a
    /// process of that number may be alive and out of our sight.)
    fn sweep() {
        let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let process = name
                .to_str()
                .and_then(|name| name.strip_prefix(WORKSHOP_PREFIX)?.split('-').next())
                .and_then(|pid| pid.parse::<u32>().ok());
            let is_orphan = process.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            let is_ours = entry.metadata().is_ok_and(|metadata| {
                use std::os::unix::fs::MetadataExt;
                metadata.is_dir() && metadata.uid() == rustix::process::getuid().as_raw()
            });
            if is_orphan
                && is_ours
                && File::open(entry.path()).is_ok_and(|lock| lock.try_lock().is_ok())
            {
                remove(&entry.path());
            }
        }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.folder);
        let Some(group) = self.group else {
            remove(&folder);
            return;
        };
        let _ = kill_process_group(group, Signal::TERM);
        // Not a task: the runtime may be ending.
        std::thread::spawn(move || {
            let begun = std::time::Instant::now();
            while test_kill_process_group(group).is_ok() && begun.elapsed() < INTERRUPT_GRACE {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = kill_process_group(group, Signal::KILL);
            remove(&folder);
        });
    }
}

/// Removes a workshop's folder, unless something is still mounted in it: that would be the host's.
fn remove(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if mounts.contains(&format!("{}/", folder.display())) {
        tracing::warn!(folder = %folder.display(), "something is mounted in it; not removed");
        return;
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_workshop_vanishes_with_its_guard() {
        let workshop = Workshop::open().unwrap();
        let folder = workshop.folder.clone();
        std::fs::write(folder.join("x"), "").unwrap();
        drop(workshop);
        assert!(!folder.exists());
    }

    #[test]
    fn only_orphaned_workshops_are_swept() {
        let temp = std::env::temp_dir();
        // Above the kernel's largest process id (2^22).
        let orphan = temp.join(format!("{WORKSHOP_PREFIX}4194999-{}", std::process::id()));
        std::fs::create_dir_all(&orphan).unwrap();
        let mine = Workshop::open().unwrap();
        Workshop::sweep();
        assert!(!orphan.exists());
        assert!(mine.folder.exists());
    }

    #[test]
    fn programs_are_looked_for_where_the_shell_does() {
        assert!(is_installed("sh"));
        assert!(!is_installed("no-such-program-anywhere"));
    }
}
