//! A directory of machines, and a conversation with one of them.

use std::path::PathBuf;
use std::time::Duration;

use golem_vm_machine::accel::{Accelerator, Qemu};
use golem_vm_machine::disk::DiskTool;
use golem_vm_machine::hardware::{Format, Platform, Size};
use golem_vm_machine::network::Rules;
use golem_vm_machine::process::{Groups, Signal};
use golem_vm_machine::seed::HostKey;
use golem_vm_machine::template::nobody;
use golem_vm_machine::vm::{
    Base, Direct, MachineName, MachineSpec, Machines, Manifest, Settings, State,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};

/// How long anything that a guest does may take: it is emulated, on a host that is busy.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Guests run one after the other: each takes a processor.
static ONE: Mutex<()> = Mutex::const_new(());

pub(crate) struct Place {
    pub(crate) machines: Machines,
    directory: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let one = ONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let machines = Machines::open(settings(directory.path().join("machines")).await).unwrap();
        Self { machines, directory, _one: one }
    }

    /// The machines as another run of the program finds them.
    pub(crate) async fn again(&mut self) {
        let settings = settings(self.directory.path().join("machines")).await;
        self.machines = Machines::open(settings).unwrap();
    }

    pub(crate) fn directory(&self, name: &MachineName) -> PathBuf {
        self.directory.path().join("machines").join(name.as_str())
    }

    /// A machine that is made and not started.
    pub(crate) async fn make(&self, name: &str) -> MachineName {
        let name: MachineName = name.parse().unwrap();
        self.machines.ensure(&self.spec(&name)).await.unwrap();
        name
    }

    pub(crate) fn spec(&self, name: &MachineName) -> MachineSpec {
        let image = self.directory.path().join("image");
        std::fs::create_dir_all(&image).unwrap();
        std::fs::File::create(image.join("disk.raw")).unwrap().set_len(32 << 20).unwrap();
        MachineSpec {
            name: name.clone(),
            uuid: "6d8c1d8e-5c1f-4a57-9d0b-0f6c3a1b2c3d".to_owned(),
            size: Size { vcpus: 1, memory_mib: 128 },
            cpu_millis: 1000,
            disk_bytes: 64 << 20,
            speed: None,
            base: vec![Base { directory: image, file: "disk.raw".to_owned(), format: Format::Raw }],
            identity: nobody(HostKey { private: "none".to_owned(), public: "none".to_owned() })
                .unwrap(),
            user_data: None,
            has_agent: false,
            network: None,
            direct: Some(Direct {
                directory: guest::boot(),
                append: "console=ttyS0 quiet panic=0".to_owned(),
            }),
        }
    }

    /// A machine that has booted, and its console.
    pub(crate) async fn boot(&self, name: &str) -> (MachineName, Console) {
        let name = self.make(name).await;
        let console = self.start(&name).await;
        (name, console)
    }

    pub(crate) async fn start(&self, name: &MachineName) -> Console {
        self.machines.start(name).await.unwrap();
        let mut console = self.console(name).await;
        console.wait("GUEST UP").await;
        console
    }

    pub(crate) async fn console(&self, name: &MachineName) -> Console {
        Console { stream: self.machines.console(name).await.unwrap(), heard: String::new() }
    }

    pub(crate) fn pid(&self, name: &MachineName) -> Option<u32> {
        self.machines.manifest(name).unwrap()?.run.map(|run| run.process.pid)
    }

    /// Waits until the machine is seen as that.
    pub(crate) async fn becomes(
        &self,
        name: &MachineName,
        wanted: impl Fn(&State) -> bool,
    ) -> State {
        let deadline = Instant::now() + LONG;
        loop {
            let state = self.machines.observe(name).await.unwrap();
            if wanted(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{name} is still {state:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Removes the machine, and looks that nothing is left of it.
    pub(crate) async fn end(self, name: &MachineName) {
        let run = self.machines.manifest(name).unwrap().and_then(|manifest| manifest.run);
        self.machines.destroy(name).await.unwrap();
        self.machines.destroy(name).await.unwrap();
        assert!(!self.directory(name).exists());
        assert_eq!(self.machines.observe(name).await.unwrap(), State::Absent);
        if let Some(run) = run {
            assert!(!run.process.alive().unwrap());
        }
        for controller in ["memory", "cpu", "pids"] {
            let group = format!("/sys/fs/cgroup/{controller}/golem/golem-{name}");
            assert!(!PathBuf::from(group).exists(), "{controller}");
        }
    }
}

/// A test that failed leaves no machine running.
impl Drop for Place {
    fn drop(&mut self) {
        let root = self.directory.path().join("machines");
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let manifest = Manifest::load(&entry.path()).ok().flatten();
            if let Some(run) = manifest.and_then(|manifest| manifest.run) {
                let _ = run.process.signal(Signal::KILL);
            }
        }
    }
}

async fn settings(root: PathBuf) -> Settings {
    let qemu = Qemu::find().await.unwrap();
    Settings {
        root,
        platform: Platform { qemu, accelerator: Accelerator::Tcg },
        groups: Groups::find(),
        disks: DiskTool::default(),
        hidden: Vec::new(),
        rules: Rules::default(),
    }
}

use crate::guest;

/// A guest's serial port.
pub(crate) struct Console {
    stream: UnixStream,
    heard: String,
}

impl Console {
    /// Waits until the guest says that; what it said up to there.
    pub(crate) async fn wait(&mut self, text: &str) -> String {
        let waited = timeout(LONG, async {
            loop {
                if let Some(at) = self.heard.find(text) {
                    let rest = self.heard.split_off(at + text.len());
                    return std::mem::replace(&mut self.heard, rest);
                }
                let mut bytes = [0; 4096];
                let read = self.stream.read(&mut bytes).await.unwrap();
                assert!(read > 0, "the console ended; heard: {}", self.heard);
                self.heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        waited.await.unwrap_or_else(|_| panic!("no '{text}'"))
    }

    /// Has the guest run a line of shell.
    pub(crate) async fn send(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Runs a line of shell and returns what it printed.
    pub(crate) async fn run(&mut self, line: &str) -> String {
        self.send(&format!("echo BE\"\"GIN; {line}; echo EN\"\"D")).await;
        self.wait("BEGIN").await;
        let said = self.wait("END").await;
        said.trim_end_matches("END").replace('\r', "").trim().to_owned()
    }
}

/// A run of that process.
pub(crate) fn run_of(
    place: &Place,
    process: golem_vm_machine::process::ProcessIdentity,
) -> golem_vm_machine::vm::Run {
    golem_vm_machine::vm::Run {
        process,
        begun: true,
        size: Size { vcpus: 1, memory_mib: 128 },
        platform: place.machines.settings().platform.clone(),
        group: None,
        uplink: None,
        ssh: None,
    }
}
