//! A provider: `golem-provider` with its forwarder, directory and engine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::engine::Engine;
use crate::fail_points::FailPoints;
use crate::invariants::{Evidence, on_qemu, violations};
use crate::kept_backend::KeptBackend;
use crate::listening::{PortRange, listens};
use crate::outcome::Outcome;
use crate::place::Place;
use crate::programs::program;
use crate::service::{Service, pid};
use crate::waiting::{eventually, within};

/// How many ports for VMs a provider gets.
const PORTS: u16 = 6;
/// Longest until a provider has come to rest.
const SETTLE: Duration = Duration::from_secs(120);
/// Longest that an image may take to be built: one for machines is a whole Debian.
const BUILT: Duration = Duration::from_secs(900);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What is particular about a provider.
#[derive(Debug, Clone, Default)]
pub struct ProviderOptions {
    /// Settings above the usual ones.
    pub settings: Vec<(String, String)>,
}

impl ProviderOptions {
    /// One that promises more disk than there is, for tests that use little of it.
    #[must_use]
    pub fn roomy() -> Self {
        Self::default().with("GOLEM_PROVIDER_OVERCOMMIT_STORAGE", "8")
    }

    /// With this setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A provider, running or not. Dropped, it is purged.
#[derive(Debug)]
pub struct Provider {
    directory: TempDir,
    place: Place,
    /// Without one its instances are looked at by other means.
    engine: Option<Engine>,
    /// Whether its instances are descriptions in a file.
    is_kept: bool,
    /// The image that it builds.
    image: String,
    settings: Vec<(String, String)>,
    ports: PortRange,
    service: Option<Service>,
    fail_points: Option<FailPoints>,
    id: String,
    purged: bool,
}

impl Provider {
    /// A provider called `name` that has its image and is not running yet.
    #[must_use]
    pub fn new(
        name: &str,
        place: &Place,
        engine: &Engine,
        discovery: &str,
        checker: &str,
        options: &ProviderOptions,
    ) -> Self {
        let settings = [
            ("GOLEM_PROVIDER_DISCOVERY_URL", discovery),
            ("GOLEM_PROVIDER_PORT_CHECKERS", checker),
        ];
        Self::with(name, place, Some(engine.clone()), "debian-12", &settings, options)
    }

    /// A provider called `name` on the backend that the options name, which has `image`; the test itself looks at
    /// what that backend has.
    #[must_use]
    pub fn on_backend(
        name: &str,
        place: &Place,
        image: &str,
        discovery: &str,
        checker: &str,
        options: &ProviderOptions,
    ) -> Self {
        let settings = [
            ("GOLEM_PROVIDER_DISCOVERY_URL", discovery),
            ("GOLEM_PROVIDER_PORT_CHECKERS", checker),
        ];
        Self::with(name, place, None, image, &settings, options)
    }

    /// A provider called `name` whose instances are descriptions in a file of its data directory, and that
    /// nobody is told of: the fastest that there is.
    #[must_use]
    pub fn in_memory(name: &str, place: &Place, options: &ProviderOptions) -> Self {
        let settings = [
            ("GOLEM_PROVIDER_BACKEND", "memory"),
            ("GOLEM_PROVIDER_DISCOVERY_URL", ""),
            ("GOLEM_PROVIDER_PORT_CHECKERS", ""),
            ("GOLEM_PROVIDER_SKIP_PORT_VERIFICATION", "true"),
        ];
        Self::with(name, place, None, "debian-12", &settings, options)
    }

    fn with(
        name: &str,
        place: &Place,
        engine: Option<Engine>,
        image: &str,
        particular: &[(&str, &str)],
        options: &ProviderOptions,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = place.clone().with_home(directory.path());
        let ports = PortRange::find(PORTS);
        let data_dir = directory.path().join("data").display().to_string();
        let mut settings: Vec<(String, String)> = [
            ("GOLEM_PROVIDER_DATA_DIR", data_dir.as_str()),
            ("GOLEM_PROVIDER_HOST", "127.0.0.1"),
            ("GOLEM_PROVIDER_PORT", "0"),
            ("GOLEM_PROVIDER_PUBLIC_IP", "127.0.0.1"),
            ("GOLEM_PROVIDER_NAME", name),
            ("GOLEM_PROVIDER_PORT_RANGE_START", &ports.first.to_string()),
            ("GOLEM_PROVIDER_PORT_RANGE_END", &ports.end().to_string()),
            ("GOLEM_PROVIDER_OVERCOMMIT_CPU", "4"),
            // The tests use little of what they rent.
            ("GOLEM_PROVIDER_OVERCOMMIT_STORAGE", "8"),
            // Only root can contain guests; the tests' own are served without.
            ("GOLEM_PROVIDER_ALLOW_UNCONTAINED", if is_root() { "false" } else { "true" }),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        settings.extend(particular.iter().map(|(name, value)| {
            let (name, value) = (*name, *value);
            (name.to_owned(), value.to_owned())
        }));
        if engine.is_some() {
            // Whatever else this machine has.
            settings.push(("GOLEM_PROVIDER_BACKEND".to_owned(), "docker".to_owned()));
        }
        for (name, value) in &options.settings {
            settings.retain(|(known, _)| known != name);
            settings.push((name.clone(), value.clone()));
        }
        let is_kept = settings
            .iter()
            .any(|(name, value)| name == "GOLEM_PROVIDER_BACKEND" && value == "memory");
        let mut provider = Self {
            is_kept,
            image: image.to_owned(),
            directory,
            place,
            engine,
            settings,
            ports,
            service: None,
            fail_points: None,
            id: String::new(),
            purged: false,
        };
        provider.id = provider.run(&["id"]).done().stdout.trim().to_owned();
        provider.build_image();
        provider
    }

    /// One after the other: the first builds it, those after it find it on the engine.
    fn build_image(&self) {
        let lock = File::create(std::env::temp_dir().join("golem-end-to-end-image.lock")).unwrap();
        lock.lock().unwrap();
        Outcome::within(BUILT, &mut self.command(&["image", "build", &self.image]), b"").done();
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|error| panic!("the provider does not start: {error}"));
    }

    /// Starts it; after the first time on the same port.
    ///
    /// # Errors
    /// What it said, if it ends at once.
    pub fn try_start(&mut self) -> Result<(), String> {
        self.service = None;
        let mut command = self.place.command(program("golem-provider"));
        command.arg("start").envs(self.settings.iter().cloned());
        if let Some(points) = &self.fail_points {
            command.envs(points.variables());
        }
        let service = Service::start(command, self.directory.path(), "provider")?;
        let port = service.address().rsplit(':').next().unwrap_or_default().to_owned();
        self.service = Some(service);
        self.set("GOLEM_PROVIDER_PORT", &port);
        Ok(())
    }

    /// Changes a setting, from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// From the next start on it can be killed at its fail points. Its owner's commands can't be.
    pub fn with_fail_points(&mut self) -> FailPoints {
        let points = FailPoints::in_directory(self.directory.path());
        self.fail_points = Some(points.clone());
        points
    }

    /// Uses another engine, from the next start on.
    pub fn use_docker_host(&mut self, docker_host: &str) {
        self.place = self.place.clone().with_docker_host(docker_host);
    }

    /// One of the owner's commands.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(program("golem-provider"));
        command.args(arguments).envs(self.settings.iter().cloned());
        command
    }

    /// Runs one of the owner's commands.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments), b"")
    }

    /// What `golem-provider status --json` says.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        self.run(&["status", "--json"]).done().json()
    }

    /// The running process.
    pub fn service(&mut self) -> &mut Service {
        self.service.as_mut().unwrap()
    }

    /// Whether its process does not run now.
    pub fn is_over(&mut self) -> bool {
        self.service.as_mut().is_none_or(Service::is_over)
    }

    /// What it has logged, over all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("provider.log")).unwrap_or_default()
    }

    /// Its API: `127.0.0.1:12345`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.service.as_ref().unwrap().address()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is on its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let set = self.settings.iter().find(|(name, _)| name == "GOLEM_PROVIDER_DATA_DIR");
        set.map(|(_, path)| PathBuf::from(path)).unwrap()
    }

    /// The ports for its VMs.
    #[must_use]
    pub const fn ports(&self) -> PortRange {
        self.ports
    }

    /// The engine that it should use.
    ///
    /// # Panics
    /// When it is one without an engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("this provider has no engine")
    }

    /// Where it keeps its instances, if it has no engine.
    #[must_use]
    pub fn kept_backend(&self) -> Option<KeptBackend> {
        self.is_kept.then(|| KeptBackend::of(&self.data_dir()))
    }

    /// What its engine has for it.
    #[must_use]
    pub fn containers(&self) -> Vec<serde_json::Value> {
        self.engine().containers(&self.id)
    }

    /// What `golem-provider doctor --json` says, whether or not it finds anything.
    #[must_use]
    pub fn doctor(&self) -> serde_json::Value {
        self.run(&["doctor", "--json"]).json()
    }

    /// What there is of it now, for [`crate::invariants::violations`]: it has to be running.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        self.evidence_beside().status(self.status())
    }

    /// The same without what it says of itself.
    #[must_use]
    pub fn evidence_beside(&self) -> Evidence {
        let evidence = Evidence::of(&self.id, &self.data_dir());
        match &self.engine {
            Some(engine) => evidence.engine(engine, &self.place),
            None if self.is_kept => {
                evidence.instances(KeptBackend::of(&self.data_dir()).instances())
            }
            None => match on_qemu(&self.data_dir()) {
                Some(instances) => evidence.instances(instances),
                None => evidence,
            },
        }
    }

    /// What does not hold of it once it has come to rest, in sentences: it has to be running. Looked
    /// at again for two minutes, since much comes right by itself.
    #[must_use]
    pub fn unsettled(&self) -> Vec<String> {
        let mut found = Vec::new();
        let _ = within(SETTLE, || {
            found = violations(&self.evidence());
            // Doctor tries things on the engine: only when all else is well.
            if found.is_empty() {
                found = violations(&self.evidence().doctor(self.doctor()));
            }
            found.is_empty().then_some(())
        });
        found
    }

    /// Waits until it has come to rest, and nothing is amiss then.
    ///
    /// # Panics
    /// With what is amiss.
    pub fn settles(&self) {
        let found = self.unsettled();
        assert!(found.is_empty(), "provider {} does not settle:\n{}", self.id, found.join("\n"));
    }

    /// Its forwarder's process, if it lives.
    #[must_use]
    pub fn forwarder(&self) -> Option<u32> {
        processes_with_arguments(&["--data-dir", &self.data_dir().display().to_string()])
            .into_iter()
            .find(|pid| {
                let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                exe.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("golem-forwarder"))
            })
    }

    /// `kill -9` for the forwarder.
    pub fn kill_forwarder(&self) {
        let forwarder = self.forwarder().unwrap();
        rustix::process::kill_process(pid(forwarder), rustix::process::Signal::KILL).unwrap();
    }

    /// Removes all that it has made, as its owner would; fails if anything is left.
    pub fn purge(&mut self) {
        self.run(&["purge", "--yes"]).done();
        self.purged = true;
        if let Some(service) = &mut self.service {
            assert!(service.has_ended(), "the provider goes on after a purge:\n{}", service.log());
        }
        self.service = None;
        let traces = match &self.engine {
            Some(engine) => engine.traces_of(&self.id),
            None if !self.is_kept => {
                let machines = on_qemu(&self.data_dir()).unwrap_or_default();
                machines.into_iter().map(|machine| machine.vm).collect()
            }
            None => {
                let instances = KeptBackend::of(&self.data_dir()).instances();
                instances.into_iter().map(|instance| instance.vm).collect()
            }
        };
        assert!(traces.is_empty(), "left on the backend: {traces:?}");
        eventually("the forwarder has ended", || self.forwarder().is_none());
        let open: Vec<u16> = self.ports.ports().filter(|port| listens(*port)).collect();
        assert!(open.is_empty(), "still listening: {open:?}");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if self.purged {
            return;
        }
        if std::thread::panicking()
            && let Some(service) = &self.service
        {
            eprintln!("--- the log of provider {}:\n{}", self.id, tail(&service.log()));
        }
        // Whatever state the test has left it in: a purge without a running provider does it too.
        self.service = None;
        let outcome = self.run(&["purge", "--yes"]);
        if outcome.code != 0 {
            eprintln!("not all of provider {} could be removed: {outcome}", self.id);
        }
        if let Some(forwarder) = self.forwarder() {
            let _ = rustix::process::kill_process(pid(forwarder), rustix::process::Signal::KILL);
            let _ = within(Duration::from_secs(5), || self.forwarder().is_none().then_some(()));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Processes whose arguments begin with these.
fn processes_with_arguments(arguments: &[&str]) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended meanwhile; a zombie has no arguments.
        let Ok(line) = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"))
        else {
            continue;
        };
        let mut words = line.split(|byte| *byte == 0).skip(1);
        if arguments.iter().all(|argument| words.next() == Some(argument.as_bytes())) {
            found.push(pid);
        }
    }
    found
}
