//! What the daemon would know, in files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::settings::{Kind, Settings};

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Power {
    On,
    Off,
    Suspended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Stopped,
    Deleted,
    Starting,
    DelayedShutdown,
    Suspended,
    Unknown,
}

impl State {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Stopped => "Stopped",
            Self::Deleted => "Deleted",
            Self::Starting => "Starting",
            Self::DelayedShutdown => "Delayed Shutdown",
            Self::Suspended => "Suspended",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a snapshot holds beside its disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) cpus: u32,
    pub(crate) memory: u64,
    pub(crate) disk: u64,
}

/// One instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) cpus: u32,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes.
    pub(crate) disk: u64,
    pub(crate) user_data: String,
    /// Another one makes cloud-init do its work again.
    pub(crate) instance_id: String,
    pub(crate) power: Power,
    pub(crate) deleted: bool,
    /// Another one for each time that it is switched on.
    pub(crate) generation: u64,
    pub(crate) boots: u32,
    pub(crate) visible_at: u64,
    pub(crate) running_at: u64,
    pub(crate) ready_at: u64,
    /// When it will be stopped, if that was ordered.
    pub(crate) stops_at: Option<u64>,
    pub(crate) stays_unknown: bool,
    /// Whether the daemon suspended it when it ended, and lets it go on when it starts.
    pub(crate) resumes: bool,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
}

impl Instance {
    /// `None` while it is not listed.
    pub(crate) fn state(&self) -> Option<State> {
        let now = now();
        Some(match self.power {
            _ if now < self.visible_at => return None,
            _ if self.deleted => State::Deleted,
            Power::Off => State::Stopped,
            Power::Suspended => State::Suspended,
            Power::On if self.stays_unknown => State::Unknown,
            // Without a lease that it had before, nobody knows what a booting guest is at.
            Power::On if now < self.running_at => {
                if self.boots <= 1 && now > self.visible_at + 20 {
                    State::Unknown
                } else {
                    State::Starting
                }
            }
            Power::On if self.stops_at.is_some() => State::DelayedShutdown,
            Power::On => State::Running,
        })
    }
}

/// The directory.
pub(crate) struct World {
    pub(crate) directory: PathBuf,
}

impl World {
    pub(crate) fn open() -> Self {
        let directory = PathBuf::from(std::env::var_os("MULTIPASS_STAND_IN").unwrap());
        std::fs::create_dir_all(directory.join("instances")).unwrap();
        Self { directory }
    }

    pub(crate) fn settings(&self) -> Settings {
        let text = std::fs::read_to_string(self.directory.join("settings.json"));
        text.map_or_else(|_| Settings::default(), |text| serde_json::from_str(&text).unwrap())
    }

    pub(crate) fn change_settings<T>(&self, change: impl FnOnce(&mut Settings) -> T) -> T {
        let _lock = self.lock("state.lock");
        let mut settings = self.settings();
        let result = change(&mut settings);
        write(&self.directory.join("settings.json"), &serde_json::to_string(&settings).unwrap());
        result
    }

    /// What goes wrong in this call, if something does: it does so once less from now on.
    pub(crate) fn fault(&self, command: &str) -> Option<Kind> {
        self.settings().faults.iter().any(|fault| fault.on == command).then_some(())?;
        self.change_settings(|settings| {
            let at = settings.faults.iter().position(|fault| fault.on == command)?;
            let fault = &mut settings.faults[at];
            fault.times -= 1;
            let kind = fault.kind.clone();
            if fault.times == 0 {
                settings.faults.remove(at);
            }
            Some(kind)
        })
    }

    /// Held until it is dropped.
    pub(crate) fn lock(&self, name: &str) -> File {
        let file = File::create(self.directory.join(name)).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        file
    }

    /// The daemon's one thread: whoever keeps it busy holds this.
    pub(crate) fn main_thread(&self) -> File {
        self.lock("main-thread.lock")
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.directory.join("instances").join(name)
    }

    fn record(&self, name: &str) -> PathBuf {
        self.folder(name).join("instance.json")
    }

    pub(crate) fn get(&self, name: &str) -> Option<Instance> {
        let text = std::fs::read_to_string(self.record(name)).ok()?;
        let mut instance: Instance = serde_json::from_str(&text).unwrap();
        // It was ordered to stop by now, or has shut itself down.
        if instance.power == Power::On
            && (instance.stops_at.is_some_and(|when| now() >= when)
                || self.folder(name).join("poweroff").exists())
        {
            (instance.power, instance.stops_at) = (Power::Off, None);
        }
        Some(instance)
    }

    pub(crate) fn put(&self, instance: &Instance) {
        std::fs::create_dir_all(self.folder(&instance.name)).unwrap();
        write(&self.record(&instance.name), &serde_json::to_string(instance).unwrap());
    }

    /// Changes an instance that is there.
    pub(crate) fn change<T>(&self, name: &str, change: impl FnOnce(&mut Instance) -> T) -> T {
        let _lock = self.lock("state.lock");
        let mut instance = self.get(name).unwrap();
        let result = change(&mut instance);
        self.put(&instance);
        result
    }

    /// All that are listed.
    pub(crate) fn all(&self) -> Vec<(Instance, State)> {
        let entries = std::fs::read_dir(self.directory.join("instances")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let found = names.filter_map(|name| {
            let instance = self.get(&name)?;
            let state = instance.state()?;
            Some((instance, state))
        });
        let mut all: Vec<_> = found.collect();
        all.sort_by(|one, other| one.0.name.cmp(&other.0.name));
        all
    }

    pub(crate) fn listed(&self, name: &str) -> Option<(Instance, State)> {
        let instance = self.get(name)?;
        let state = instance.state()?;
        Some((instance, state))
    }

    /// Switches it on: from `at` on it boots.
    pub(crate) fn switch_on(&self, name: &str, at: u64) {
        let settings = self.settings();
        let _ = std::fs::remove_file(self.folder(name).join("poweroff"));
        let generation = self.change(name, |one| {
            one.power = Power::On;
            one.stops_at = None;
            one.boots += 1;
            one.generation += 1;
            one.running_at = at + settings.boot_ms;
            one.ready_at = one.running_at + settings.init_ms;
            one.generation
        });
        if settings.guests {
            self.spawn(&["--work", name, &generation.to_string()]);
        }
    }

    /// Starts this program once more, for itself.
    fn spawn(&self, arguments: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("work.log"))
            .unwrap();
        let mut command = Command::new("setsid");
        command.arg(std::env::current_exe().unwrap()).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // It goes on when this client has ended.
        drop(command.spawn().unwrap());
    }

    /// Waits until nothing of an instance runs.
    pub(crate) fn wait_for_end(&self, name: &str) {
        drop(self.lock(&format!("instances/{name}/work.lock")));
    }

    pub(crate) fn remove(&self, name: &str) {
        // Whoever looks after it sees that it is gone.
        let _ = std::fs::remove_file(self.record(name));
        if self.folder(name).exists() {
            self.wait_for_end(name);
        }
        let _ = std::fs::remove_dir_all(self.folder(name));
    }

    /// What runs is suspended, and goes on when it starts again.
    pub(crate) fn daemon_stops(&self) {
        self.change_settings(|settings| settings.down = true);
        for (instance, state) in self.all() {
            if matches!(state, State::Running | State::Starting | State::Unknown) {
                self.change(&instance.name, |one| {
                    (one.power, one.resumes) = (Power::Suspended, true)
                });
            }
        }
    }

    pub(crate) fn daemon_starts(&self) {
        let settings = self.settings();
        for (instance, _) in self.all() {
            if instance.resumes {
                self.change(&instance.name, |one| {
                    (one.power, one.resumes) = (Power::On, false);
                    one.running_at = now() + settings.boot_ms;
                    one.ready_at = one.running_at;
                });
            }
        }
        self.change_settings(|settings| settings.down = false);
    }

    /// Ends all guests, and removes what is on the host.
    pub(crate) fn end(&self) {
        let entries = std::fs::read_dir(self.directory.join("instances")).unwrap();
        for entry in entries {
            self.remove(&entry.unwrap().file_name().into_string().unwrap());
        }
        crate::guest::remove_bridge(self);
    }

    /// Leaves a mark that something was done that must not be.
    pub(crate) fn mark(&self, what: &str) {
        self.append("marks", what);
    }

    /// Writes the call down.
    pub(crate) fn note(&self, words: &[&str]) {
        self.append("calls.jsonl", &serde_json::json!(words).to_string());
    }

    /// In one piece: others may be writing to it as well.
    fn append(&self, file: &str, line: &str) {
        let path = self.directory.join(file);
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn write(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
