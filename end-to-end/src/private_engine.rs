//! An engine that a test may stop, freeze or fill: in namespaces of its own, by
//! `scripts/lib/private-engine.sh`.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::engine::Engine;
use crate::market::Market;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::programs::workspace;
use crate::service::pid;

/// A Docker Engine of one test. Dropped, it ends with all its containers.
#[derive(Debug)]
pub struct PrivateEngine {
    directory: TempDir,
}

impl PrivateEngine {
    /// Starts one without images. `None`, and a line that says so, where this user may not.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::of_kind("")
    }

    /// One whose data is on a btrfs of its own, so that it gives disks a size. `None`, and a line that
    /// says so, where the kernel has none.
    #[must_use]
    pub fn on_btrfs() -> Option<Self> {
        Self::of_kind("btrfs")
    }

    /// One whose data is on a tmpfs of 1 GiB.
    #[must_use]
    pub fn on_a_small_disk() -> Option<Self> {
        Self::of_kind("small")
    }

    /// One whose guests' root is user 100000 on the host.
    #[must_use]
    pub fn with_user_namespaces() -> Option<Self> {
        Self::of_kind("userns")
    }

    fn of_kind(kind: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: an engine in namespaces of its own needs root");
            return None;
        }
        let engine = Self { directory: tempfile::tempdir().unwrap() };
        if !kind.is_empty()
            && engine.script(&format!("private_engine_is_possible {kind}")).code != 0
        {
            eprintln!("skipped: this kernel has no {kind}");
            return None;
        }
        engine.script(&format!("start_private_engine \"$1\" {kind}")).done();
        Some(engine)
    }

    /// Starts its daemon again, after it was killed.
    pub fn start_again(&self) {
        self.script("start_private_engine \"$1\"").done();
    }

    /// Copies an image from the shared engine.
    pub fn copy_image(&self, image: &str) {
        let shared = Engine::shared();
        let line =
            format!("copy_image '{}' \"$1/docker.sock\" '{image}'", shared.socket().display());
        self.script(&line).done();
    }

    /// Copies the image that every provider rents out: not built once more, the shared engine has it.
    pub fn copy_image_of_the_shared_engine(&self) {
        let shared = Market::with_one_provider();
        self.copy_image(&format!("golem/debian-12:{}", &shared.providers[0].id()[..12]));
        shared.close();
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> Engine {
        Engine::at(&self.socket())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// What `DOCKER_HOST` has to be.
    #[must_use]
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where programs reach its containers.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::new(self.directory.path())
            .in_namespace_of(self.holder())
            .with_docker_host(&self.docker_host())
    }

    /// The process that holds its namespaces.
    #[must_use]
    pub fn holder(&self) -> u32 {
        let holder = std::fs::read_to_string(self.directory.path().join("netns.pid")).unwrap();
        holder.trim().parse().unwrap()
    }

    /// The pid, as this machine has it, of a process that the engine calls `inner`.
    #[must_use]
    pub fn outer_pid(&self, inner: u32) -> u32 {
        let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            let pids: Vec<&str> = line.split_whitespace().collect();
            // Its pid one namespace below this machine's.
            let is_it = pids.get(1) == Some(&inner.to_string().as_str());
            (is_it && self.owns(pid)).then_some(pid)
        });
        found.unwrap()
    }

    /// Whether a process descends from the holder.
    fn owns(&self, pid: u32) -> bool {
        let mut pid = pid;
        while pid > 1 {
            if pid == self.holder() {
                return true;
            }
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            pid = parent.and_then(|pid| pid.trim().parse().ok()).unwrap_or(0);
        }
        false
    }

    /// Its daemon's process.
    #[must_use]
    pub fn daemon(&self) -> u32 {
        let outcome = self.script("private_engine_pid \"$1\"").done();
        outcome.stdout.trim().parse().unwrap()
    }

    /// Sends its daemon a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.daemon()), signal).unwrap();
    }

    /// Fills the disk that its data is on, to the last byte.
    pub fn fill_disk(&self) {
        // It ends when there is no room.
        let line = "dd if=/dev/zero of=\"$1/data/ballast\" bs=64k status=none 2>/dev/null; true";
        self.in_its_mounts(line);
    }

    /// Makes room again.
    pub fn empty_disk(&self) {
        self.in_its_mounts("rm -f \"$1/data/ballast\"");
    }

    fn in_its_mounts(&self, line: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder().to_string(), "--"]);
        command.args(["sh", "-c", line, "private-engine"]).arg(self.directory.path());
        Outcome::of(&mut command, b"").done();
    }

    /// Takes its socket away from everybody; what is connected goes on.
    pub fn hide_socket(&self) {
        std::fs::rename(self.socket(), self.socket().with_extension("hidden")).unwrap();
    }

    /// Puts it back.
    pub fn show_socket(&self) {
        std::fs::rename(self.socket().with_extension("hidden"), self.socket()).unwrap();
    }

    fn script(&self, line: &str) -> Outcome {
        let library = workspace().join("scripts/lib");
        let script = format!(
            "cd '{}' && . ./packages.sh && . ./engine.sh && . ./private-engine.sh && {line}",
            library.display()
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script, "private-engine"]).arg(self.directory.path());
        Outcome::of(&mut command, b"")
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        let outcome = self.script("stop_private_engine \"$1\"");
        if outcome.code != 0 {
            eprintln!("the private engine could not be stopped: {outcome}");
        }
    }
}
