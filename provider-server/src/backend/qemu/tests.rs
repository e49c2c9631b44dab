//! An instance's life on a real QEMU, in a real network. Needs root, and an image that is built where there is none.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use golem_vm_machine::image::Source;
use golem_vm_machine::network::Caps;
use golem_vm_protocol::VmId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::*;
use crate::backend::{Confinement, Egress, ImageDigest, Limits, SshAccess};

/// How long a guest may take to boot: emulated, on a host that is busy.
const BOOT: Duration = Duration::from_secs(900);

/// Where tests keep the image that they boot.
fn images() -> PathBuf {
    let named = std::env::var_os("GOLEM_TEST_IMAGES").map(PathBuf::from);
    named.unwrap_or_else(|| std::env::temp_dir().join("golem-images"))
}

async fn backend(directory: &Path) -> QemuBackend {
    let rules = Rules { resolvers: Vec::new(), allowed: Vec::new(), caps: Caps::default() };
    let owner = Owner { rules, disk_reserve_mib: 1024, templates_mib: 4096 };
    let mut backend = QemuBackend::connect(directory, owner).await.unwrap();
    backend.images = Images::open(&images(), DiskTool::default()).unwrap();
    backend
}

async fn image(backend: &QemuBackend) -> ImageDigest {
    let built =
        |source: &Source| matches!(source, Source::Built { recipe, .. } if recipe == "debian-12");
    if let Some(image) =
        backend.images.list().unwrap().into_iter().find(|image| built(&image.source))
    {
        return ImageDigest::new(image.digest.to_string());
    }
    let (progress, mut lines) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            println!("{line}");
        }
    });
    backend.build("debian-12", progress).await.unwrap()
}

fn spec(directory: &Path, image: ImageDigest) -> InstanceSpec {
    for name in ["host", "user"] {
        let file = directory.join(name);
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(&file)
            .status();
        assert!(made.unwrap().success());
    }
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    InstanceSpec {
        id: InstanceId::of(VmId::random().unwrap()),
        hostname: "rented-1".parse().unwrap(),
        image,
        limits: Limits {
            cpu_millis: 1000,
            memory_mib: 512,
            storage_mib: 4096,
            processes: 512,
            open_files: 1024,
        },
        confinement: Confinement { egress: Egress::Internet },
        access: Some(SshAccess {
            host_key_private: read("host"),
            host_key: read("host.pub").trim().parse().unwrap(),
            authorized_keys: vec![read("user.pub").trim().parse().unwrap()],
        }),
        user_data: None,
    }
}

/// Waits until its SSH server says who it is.
async fn banner(ssh: std::net::SocketAddr) -> Duration {
    let begun = Instant::now();
    loop {
        let mut beginning = [0; 4];
        let asked = timeout(Duration::from_secs(10), async {
            let mut stream = TcpStream::connect(ssh).await?;
            stream.read_exact(&mut beginning).await
        });
        if matches!(asked.await, Ok(Ok(_))) && &beginning == b"SSH-" {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < BOOT, "no SSH server at {ssh}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Runs a command in the guest, whose host key has to be the one that was made for it.
async fn ssh(directory: &Path, at: std::net::SocketAddr, command: &str) -> String {
    let known = directory.join("known_hosts");
    let key = std::fs::read_to_string(directory.join("host.pub")).unwrap();
    std::fs::write(&known, format!("[{}]:{} {key}", at.ip(), at.port())).unwrap();
    // While it boots for the first time, cloud-init restarts the SSH server.
    let begun = Instant::now();
    loop {
        let output = tokio::process::Command::new("ssh")
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"])
            .args(["-o", "IdentitiesOnly=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .arg("-i")
            .arg(directory.join("user"))
            .args(["-p", &at.port().to_string()])
            .arg(format!("ubuntu@{}", at.ip()))
            .arg(command)
            .kill_on_drop(true)
            .output();
        let output = timeout(BOOT, output).await.unwrap().unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap().trim().to_owned();
        }
        assert!(begun.elapsed() < BOOT, "{command}: {output:?}");
        println!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
        sleep(Duration::from_secs(1)).await;
    }
}

fn running(seen: &Observation) -> std::net::SocketAddr {
    let Observation::Running { ssh } = seen else { panic!("it does not run: {seen:?}") };
    *ssh
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lives_on_a_real_qemu() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let made = backend(path).await;
    let capabilities = made.probe().await.unwrap();
    println!("{capabilities:#?}");
    assert_eq!(made.recall().await.unwrap(), Some(capabilities));
    made.raise(std::collections::BTreeSet::new()).await.unwrap();
    let spec = spec(path, image(&made).await);
    let id = spec.id;
    assert_eq!(made.observe(id).await.unwrap(), Observation::Absent);
    made.ensure(&spec).await.unwrap();
    made.ensure(&spec).await.unwrap();
    assert!(matches!(made.observe(id).await.unwrap(), Observation::Stopped { .. }));
    made.start(id).await.unwrap();
    let at = running(&made.observe(id).await.unwrap());
    println!("banner after {:?}", banner(at).await);
    let begun = Instant::now();
    assert_eq!(ssh(path, at, "hostname; whoami; nproc").await, "rented-1\nubuntu\n1");
    println!("first login took {:?}", begun.elapsed());
    let size = ssh(path, at, "df -BM --output=size / | tail -n 1").await;
    let mib: u64 = size.trim_end_matches('M').parse().unwrap();
    assert!(mib > 3500, "the disk is as large as it was rented: {mib} MiB");
    assert_eq!(ssh(path, at, "sudo -n id -u; echo kept > keep; sync").await, "0");
    let usage = made.metering().unwrap().usage(id).await.unwrap();
    println!("{usage:?}");
    assert!(usage.memory_used_bytes > 50 << 20 && usage.network_received_bytes > 0);
    // Another run of the provider finds it, and it goes on.
    let found = backend(path).await;
    assert_eq!(running(&found.observe(id).await.unwrap()), at);
    assert_eq!(ssh(path, at, "cat keep").await, "kept");
    // Who may log in changes at once.
    let more = spec.access.as_ref().unwrap().authorized_keys[0].clone();
    found.authorize(id, &[more]).await.unwrap();
    assert_eq!(ssh(path, at, "cat keep").await, "kept");
    // Its console is heard and spoken to.
    let console = found.console().unwrap();
    assert!(!console.log(id).await.unwrap().data.is_empty());
    let mut attached = console.attach(id).await.unwrap();
    attached.write_all(b"\n").await.unwrap();
    // To disk and back, in the same minute.
    ssh(path, at, "nohup sleep 100000 > /dev/null 2>&1 & echo $! > pid; sync").await;
    let begun = Instant::now();
    Suspend::suspend(&found, id).await.unwrap();
    println!("suspended after {:?}", begun.elapsed());
    assert_eq!(found.observe(id).await.unwrap(), Observation::Suspended);
    let begun = Instant::now();
    found.start(id).await.unwrap();
    println!("resumed after {:?}", begun.elapsed());
    let at = running(&found.observe(id).await.unwrap());
    banner(at).await;
    assert_eq!(ssh(path, at, "cat /proc/$(cat pid)/comm").await, "sleep");
    // Off by its power button, and on again.
    let begun = Instant::now();
    found.stop(id, Duration::from_secs(120)).await.unwrap();
    println!("stopped after {:?}", begun.elapsed());
    assert!(matches!(found.observe(id).await.unwrap(), Observation::Stopped { .. }));
    found.start(id).await.unwrap();
    let at = running(&found.observe(id).await.unwrap());
    println!("second banner after {:?}", banner(at).await);
    assert_eq!(ssh(path, at, "cat keep").await, "kept");
    let run = found.machines.manifest(&spec::name(id).unwrap()).unwrap().unwrap().run.unwrap();
    found.destroy(id).await.unwrap();
    found.destroy(id).await.unwrap();
    assert_eq!(found.observe(id).await.unwrap(), Observation::Absent);
    assert!(Backend::list(&found).await.unwrap().is_empty());
    assert!(!run.process.alive().unwrap() && !run.uplink.unwrap().alive().unwrap());
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let made = backend(directory.path()).await;
    let mut spec = spec(directory.path(), image(&made).await);
    spec.limits.storage_mib = 1 << 30;
    let refused = made.ensure(&spec).await.unwrap_err().to_string();
    assert!(refused.contains("does not fit"), "{refused}");
    spec.limits.storage_mib = 1;
    let refused = made.ensure(&spec).await.unwrap_err().to_string();
    assert!(refused.contains("needs a disk"), "{refused}");
    spec.image = ImageDigest::new("sha256:none");
    assert!(matches!(made.ensure(&spec).await, Err(BackendError::ImageMissing(_))));
    assert!(Backend::list(&made).await.unwrap().is_empty());
}
