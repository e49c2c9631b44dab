//! A stand-in with a directory of its own, and the backend on it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use golem_vm_protocol::vm::SshPublicKey;
use golem_vm_protocol::{KeyId, KeyPair, VmId};
use golem_vm_provider::backend::multipass::{BRIDGE, MultipassBackend, Pace};
use golem_vm_provider::backend::{
    Backend as _, Confinement, Egress, ImageDigest, InstanceId, InstanceSpec, Limits, Observation,
    SshAccess,
};
use golem_vm_provider::containment::{Firewall, Rules};
use golem_vm_provider::vm::host_key::HostKey;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Fixture {
    folder: TempDir,
    pub(crate) pace: Pace,
    pub(crate) backend: MultipassBackend,
}

/// Fast, but for what would go wrong on a busy machine.
fn pace() -> Pace {
    let poll = Duration::from_millis(20);
    Pace {
        poll,
        query: LONG,
        change: LONG,
        turn: Duration::from_secs(5),
        launch: LONG,
        patience: Duration::from_millis(300),
        settle: Duration::ZERO,
        appear: Duration::from_secs(20),
        unknown: LONG,
        verify: LONG,
    }
}

pub(crate) fn provider() -> KeyId {
    KeyPair::from_secret_bytes([3; 32]).unwrap().id()
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|_| {}, json!({}))
    }

    /// With another pace, and settings of the stand-in.
    pub(crate) fn with(change: impl FnOnce(&mut Pace), settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("world")).unwrap();
        std::fs::write(folder.path().join("world/settings.json"), settings.to_string()).unwrap();
        let mut pace = pace();
        change(&mut pace);
        let backend = connect(&folder, pace);
        Self { folder, pace, backend }
    }

    pub(crate) fn of_release(version: &str) -> Self {
        Self::with(|_| {}, json!({ "version": version }))
    }

    fn world(&self) -> PathBuf {
        self.folder.path().join("world")
    }

    /// The provider starts anew: it knows what it has written down.
    pub(crate) fn restart(&mut self) {
        self.backend = connect(&self.folder, self.pace);
    }

    /// What the provider has written down is lost.
    pub(crate) fn forget(&mut self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
        self.restart();
    }

    /// Changes settings of the stand-in.
    pub(crate) fn set(&self, change: Value) {
        let path = self.world().join("settings.json");
        let mut settings: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for (key, value) in change.as_object().unwrap() {
            settings[key] = value.clone();
        }
        std::fs::write(path.with_extension("test"), settings.to_string()).unwrap();
        std::fs::rename(path.with_extension("test"), path).unwrap();
    }

    /// Something goes wrong in that command, so often.
    pub(crate) fn fault(&self, on: &str, kind: Value, times: u32) {
        self.set(json!({ "faults": [{ "on": on, "kind": kind, "times": times }] }));
    }

    /// Somebody else's call; its standard output.
    pub(crate) fn by_hand(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_multipass-stand-in"));
        let output =
            command.args(arguments).env("MULTIPASS_STAND_IN", self.world()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of all instances.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed: Value =
            serde_json::from_str(&self.by_hand(&["list", "--format", "json", "--no-ipv4"]))
                .unwrap();
        let all = listed["list"].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What the stand-in has of an instance.
    pub(crate) fn record(&self, name: &str) -> Value {
        let path = self.world().join("instances").join(name).join("instance.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Changes what the stand-in has of an instance.
    pub(crate) fn change_record(&self, name: &str, change: Value) {
        let mut record = self.record(name);
        for (key, value) in change.as_object().unwrap() {
            record[key] = value.clone();
        }
        let path = self.world().join("instances").join(name).join("instance.json");
        std::fs::write(path, record.to_string()).unwrap();
    }

    /// A file of the stand-in's about an instance.
    pub(crate) fn told(&self, name: &str, file: &str) -> String {
        std::fs::read_to_string(self.world().join("instances").join(name).join(file)).unwrap()
    }

    /// All calls until now.
    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.world().join("calls.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How often a command was called.
    pub(crate) fn count(&self, command: &str) -> usize {
        self.calls().iter().filter(|call| call[0] == command).count()
    }

    /// Whether an instance is seen to be so, soon.
    pub(crate) async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self).await {
            assert!(began.elapsed() < LONG, "not within {LONG:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn runs(&self, id: InstanceId) -> bool {
        matches!(self.backend.observe(id).await, Ok(Observation::Running { .. }))
    }

    /// Nothing was done that must never be.
    pub(crate) fn nothing_forbidden_was_done(&self) {
        let marks = std::fs::read_to_string(self.world().join("marks")).unwrap_or_default();
        assert_eq!(marks, "");
        for call in self.calls() {
            let words: Vec<&str> = call.iter().map(String::as_str).collect();
            assert!(!words.contains(&"--all") && words[0] != "purge", "{words:?}");
            assert!(
                !words.iter().any(|word| word.contains("PRIVATE KEY")),
                "a secret among arguments"
            );
            let names: Vec<&&str> = words[1..]
                .iter()
                .filter(|word| word.parse::<String>().is_ok_and(|word| word.starts_with("golem-")))
                .collect();
            match words[0] {
                "delete" => {
                    assert_eq!(words.len(), 3, "one name at a time, and for ever: {words:?}");
                    assert_eq!((words[1], names.len()), ("--purge", 1), "{words:?}");
                }
                "start" | "stop" | "suspend" | "info" => {
                    assert_eq!(names.len(), 1, "never without a name: {words:?}")
                }
                "exec" => assert_eq!((words[1], words[3]), ("-n", "--"), "{words:?}"),
                "launch" => {
                    let at = words.iter().position(|word| *word == "--cloud-init").unwrap();
                    assert_eq!(words[at + 1], "-", "user data comes by standard input");
                }
                _ => {}
            }
        }
    }
}

fn connect(folder: &TempDir, pace: Pace) -> MultipassBackend {
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let firewall = Firewall::on_bridge(&provider(), BRIDGE, Egress::Internet, Rules::default());
    let world = folder.path().join("world").display().to_string();
    MultipassBackend::with_program(
        env!("CARGO_BIN_EXE_multipass-stand-in").as_ref(),
        &[("MULTIPASS_STAND_IN", &world)],
        provider(),
        &data,
        firewall,
        pace,
    )
    .unwrap()
}

pub(crate) fn key() -> SshPublicKey {
    HostKey::generate().unwrap().public
}

/// A VM of that number.
pub(crate) fn spec(number: u8) -> InstanceSpec {
    let host = HostKey::generate().unwrap();
    InstanceSpec {
        id: InstanceId::of(VmId::from_bytes([number; 16])),
        hostname: "box".parse().unwrap(),
        image: ImageDigest::new("multipass:24.04"),
        limits: Limits {
            cpu_millis: 2000,
            memory_mib: 1024,
            storage_mib: 8192,
            processes: 1000,
            open_files: 1000,
        },
        confinement: Confinement { egress: Egress::Internet },
        access: Some(SshAccess {
            host_key_private: host.private,
            host_key: host.public,
            authorized_keys: vec![key()],
        }),
        user_data: None,
    }
}
