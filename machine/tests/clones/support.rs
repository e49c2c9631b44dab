//! An image, a template of it, and clones.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use golem_vm_machine::accel::{Accelerator, Qemu};
use golem_vm_machine::disk::DiskTool;
use golem_vm_machine::hardware::{Format, Platform, Size};
use golem_vm_machine::image::build::{Recipe, build};
use golem_vm_machine::image::{Image, ImageStore};
use golem_vm_machine::network::{Access, Addressing, Rules};
use golem_vm_machine::process::{Groups, Signal};
use golem_vm_machine::seed::{HostKey, Identity, MachineId, USER};
use golem_vm_machine::template::key::program_digest;
use golem_vm_machine::template::memory::Sealed;
use golem_vm_machine::template::{Key, Template, Templates, make, nobody};
use golem_vm_machine::vm::{Base, MachineName, MachineSpec, Machines, Network, Resumed, Settings};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::{Instant, sleep};

/// How long anything that a guest does may take: it is emulated, on a host that is busy.
pub(crate) const LONG: Duration = Duration::from_secs(900);

const SIZE: Size = Size { vcpus: 1, memory_mib: 512 };
const DISK_BYTES: u64 = 4 << 30;

/// Guests of different tests run one after the other.
static ONE: Mutex<()> = Mutex::const_new(());
/// The image is built once, and kept for later runs.
static IMAGE: OnceCell<Image> = OnceCell::const_new();

pub(crate) struct Place {
    pub(crate) machines: Machines,
    pub(crate) templates: Templates,
    directory: TempDir,
    image: Image,
    _one: MutexGuard<'static, ()>,
}

pub(crate) struct Clone {
    pub(crate) name: MachineName,
    pub(crate) identity: Identity,
    pub(crate) key: HostKey,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let one = ONE.lock().await;
        let image = IMAGE.get_or_init(image).await.clone();
        // Templates of one image are kept over the tests of one run.
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates");
        let templates = Templates::open(&kept, 4 << 30).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let machines = Machines::open(settings(directory.path().join("machines")).await).unwrap();
        Self { machines, templates, directory, image, _one: one }
    }

    /// The template of the image, made if it is not there.
    pub(crate) async fn template(&self) -> Template {
        let settings = self.machines.settings().clone();
        let program = program_digest(&settings.platform.qemu.binary).unwrap();
        let key = Key::new(&self.image.digest.to_string(), &settings.platform, &program, SIZE);
        if let Some(template) = self.templates.find(&key).unwrap() {
            return template;
        }
        let began = Instant::now();
        let nobody = nobody(self.new_key("template")).unwrap();
        let (base, none) = (base(&self.image), std::collections::BTreeSet::new());
        let template = make::make(
            &self.templates,
            &settings,
            key,
            base,
            self.image.virtual_size,
            &nobody,
            &none,
        );
        let template = template.await.unwrap();
        println!("made a template in {:?}: {} MiB", began.elapsed(), template.facts.bytes >> 20);
        template
    }

    pub(crate) fn new_key(&self, name: &str) -> HostKey {
        let path = self.directory.path().join(format!("key-{name}"));
        if !path.exists() {
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
                .arg(&path)
                .status();
            assert!(made.unwrap().success());
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let public = read(&path.with_extension("pub")).trim().to_owned();
        HostKey { private: read(&path), public }
    }

    pub(crate) fn clone_of(&self, template: &Template, name: &str) -> Clone {
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        let key = self.new_key("login");
        let identity = Identity {
            instance_id: name.to_owned(),
            hostname: name.to_owned(),
            machine_id: MachineId::from_bytes(id),
            host_key: self.new_key(name),
            user: USER.to_owned(),
            authorized_keys: vec![key.public.clone()],
            network: Addressing::of(&id),
        };
        assert_ne!(identity.network, template.facts.network);
        Clone { name: name.parse().unwrap(), identity, key }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A test that fails leaves no machine that runs.
impl Drop for Place {
    fn drop(&mut self) {
        for name in self.machines.list().unwrap_or_default() {
            let manifest = self.machines.manifest(&name).ok().flatten();
            if let Some(run) = manifest.and_then(|manifest| manifest.run) {
                for process in std::iter::once(run.process).chain(run.uplink) {
                    let _ = process.signal(Signal::KILL);
                }
            }
        }
    }
}

impl Clone {
    pub(crate) async fn ensure(&self, place: &Place, template: &Template) {
        place.machines.ensure(&self.spec(place, template)).await.unwrap();
    }

    pub(crate) fn spec(&self, place: &Place, template: &Template) -> MachineSpec {
        MachineSpec {
            name: self.name.clone(),
            uuid: self.identity.machine_id.uuid(),
            size: SIZE,
            cpu_millis: 1000,
            disk_bytes: DISK_BYTES,
            speed: None,
            base: vec![template.base(), base(&place.image)],
            identity: self.identity.clone(),
            user_data: None,
            has_agent: true,
            network: Some(Network {
                addressing: self.identity.network.clone(),
                access: Access::Internet,
            }),
            direct: None,
        }
    }

    pub(crate) async fn resume(
        &self,
        place: &Place,
        template: &Template,
        memory: &Sealed,
    ) -> Resumed {
        self.ensure(place, template).await;
        let resumed = place.machines.resume(&self.name, template, memory).await;
        resumed.unwrap().unwrap()
    }

    /// Runs a command over SSH, with the host key that the clone has to have.
    pub(crate) async fn try_ssh(
        &self,
        place: &Place,
        key: &HostKey,
        command: &str,
    ) -> Result<String, String> {
        let run = place.machines.manifest(&self.name).unwrap().unwrap().run.unwrap();
        let address = run.ssh.unwrap();
        let known = place.file(&format!("known-{}", self.name));
        std::fs::write(&known, format!("clone {}\n", self.identity.host_key.public)).unwrap();
        let private = place.file(&format!("login-{}", self.name));
        let _ = std::fs::remove_file(&private);
        std::fs::write(&private, &key.private).unwrap();
        std::fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let Output { status, stdout, stderr } = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias=clone"])
            .args(["-o", "ConnectTimeout=60", "-o", "GlobalKnownHostsFile=none"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .arg("-i")
            .arg(&private)
            .args(["-p", &address.port().to_string(), &format!("{USER}@{}", address.ip()), command])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert!(!stderr.contains("HOST IDENTIFICATION"), "another host key: {stderr}");
        if status.success() {
            Ok(String::from_utf8_lossy(&stdout).into_owned())
        } else {
            Err(format!("{status}: {stderr}"))
        }
    }

    pub(crate) async fn ssh(&self, place: &Place, command: &str) -> String {
        self.try_ssh(place, &self.key, command).await.unwrap()
    }

    /// The same, again and again until it works and says what is wanted.
    pub(crate) async fn ssh_until(
        &self,
        place: &Place,
        command: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let said = self.try_ssh(place, &self.key, command).await;
            match said {
                Ok(said) if wanted(&said) => return said,
                said => assert!(Instant::now() < deadline, "{said:?}"),
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Its part of the host's memory.
    pub(crate) fn pss_mib(&self, place: &Place) -> u64 {
        let run = place.machines.manifest(&self.name).unwrap().unwrap().run.unwrap();
        let rollup =
            std::fs::read_to_string(format!("/proc/{}/smaps_rollup", run.process.pid)).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}

fn base(image: &Image) -> Base {
    Base {
        directory: image.disk.parent().unwrap().to_owned(),
        file: image.disk.file_name().unwrap().to_str().unwrap().to_owned(),
        format: Format::Qcow2,
    }
}

/// Where tests keep the image that they boot.
async fn image() -> Image {
    let named = std::env::var_os("GOLEM_TEST_IMAGES").map(PathBuf::from);
    let directory = named.unwrap_or_else(|| std::env::temp_dir().join("golem-images"));
    let store = ImageStore::open(&directory, DiskTool::default()).unwrap();
    let has_agent = |image: &Image| image.name == "debian-12" && image.has_agent;
    if let Some(image) = store.list().unwrap().into_iter().find(has_agent) {
        return image;
    }
    let (progress, mut lines) = tokio::sync::mpsc::channel(64);
    let saying = tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            println!("{line}");
        }
    });
    let image = build(&store, &Recipe::named("debian-12").unwrap(), &progress).await.unwrap();
    drop(progress);
    saying.await.unwrap();
    image
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
