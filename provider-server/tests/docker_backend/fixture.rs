//! A provider of the test's own on the real engine, and the removal of all that it made.

use std::collections::HashMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use golem_vm_protocol::{KeyId, KeyPair, VmId};
use golem_vm_provider::backend::docker::DockerBackend;
use golem_vm_provider::backend::docker::endpoint::{Address, Surroundings};
use golem_vm_provider::backend::{
    Backend, Confinement, Egress, ImageDigest, InstanceId, InstanceSpec, Limits, Observation,
    SshAccess,
};
use golem_vm_provider::containment::{Firewall, Rules};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};

/// How long something that takes a moment may take at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// A provider that nobody else has, with its backend. Whatever carries its id is removed with it.
pub(crate) struct Provider {
    pub(crate) id: KeyId,
    pub(crate) backend: DockerBackend,
}

impl Provider {
    pub(crate) fn new() -> Self {
        let id = KeyPair::generate().unwrap().id();
        let firewall = Firewall::new(&id, Rules::default());
        let backend =
            DockerBackend::connect(id, &Surroundings::of_this_process(), firewall).unwrap();
        Self { id, backend }
    }

    /// The engine, past the backend.
    pub(crate) fn docker(&self) -> Docker {
        match &self.backend.endpoint().address {
            Address::Unix(path) => Docker::connect_with_unix(
                &path.to_string_lossy(),
                120,
                bollard::API_DEFAULT_VERSION,
            ),
            Address::Tcp(authority) => {
                Docker::connect_with_http(authority, 120, bollard::API_DEFAULT_VERSION)
            }
        }
        .unwrap()
    }

    /// All that is on the engine with this provider's id in a label or a name.
    pub(crate) async fn belongings(&self) -> Vec<String> {
        let docker = self.docker();
        let label = HashMap::from([("label", vec![format!("golem.provider={}", self.id)])]);
        let mut found = Vec::new();
        let options = ListContainersOptionsBuilder::new().all(true).filters(&label).build();
        for container in docker.list_containers(Some(options)).await.unwrap() {
            found.push(format!("container {}", container.id.unwrap()));
        }
        let options = ListNetworksOptionsBuilder::new().filters(&label).build();
        for network in docker.list_networks(Some(options)).await.unwrap() {
            found.push(format!("network {}", network.id.unwrap()));
        }
        let options = ListImagesOptionsBuilder::new().build();
        for image in docker.list_images(Some(options)).await.unwrap() {
            let own = image.repo_tags.into_iter().filter(|tag| tag.contains(&self.id.short()));
            found.extend(own.map(|tag| format!("image {tag}")));
        }
        found
    }

    async fn remove_all(&self) {
        let docker = self.docker();
        for thing in self.belongings().await {
            let Some((kind, id)) = thing.split_once(' ') else { continue };
            let removed = match kind {
                "container" => {
                    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                    docker.remove_container(id, Some(options)).await
                }
                "network" => docker.remove_network(id).await,
                _ => {
                    let options = RemoveImageOptionsBuilder::new().force(true).build();
                    docker.remove_image(id, Some(options), None).await.map(|_| ())
                }
            };
            if let Err(error) = removed {
                eprintln!("{thing} stays: {error}");
            }
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // On a thread of its own, because a runtime can't be entered twice.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(self.remove_all());
            });
        });
    }
}

/// A VM to be, with the keys of both sides.
pub(crate) struct Vm {
    pub(crate) spec: InstanceSpec,
    folder: tempfile::TempDir,
}

impl Vm {
    pub(crate) fn new(image: &ImageDigest) -> Self {
        let id = VmId::random().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (host_key, login_key) = (key(), key());
        let path = folder.path().join("id");
        std::fs::write(&path, login_key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let public = |key: &PrivateKey| key.public_key().to_openssh().unwrap();
        std::fs::write(folder.path().join("known_hosts"), format!("{id} {}\n", public(&host_key)))
            .unwrap();
        let spec = InstanceSpec {
            id: InstanceId::of(id),
            hostname: "web-1".parse().unwrap(),
            image: image.clone(),
            limits: Limits {
                cpu_millis: 500,
                memory_mib: 256,
                storage_mib: 10240,
                processes: 128,
                open_files: 4096,
            },
            confinement: Confinement { egress: Egress::Internet },
            access: Some(SshAccess {
                host_key_private: host_key.to_openssh(LineEnding::LF).unwrap().to_string(),
                host_key: public(&host_key).parse().unwrap(),
                authorized_keys: vec![public(&login_key).parse().unwrap()],
            }),
            user_data: None,
        };
        Self { spec, folder }
    }

    pub(crate) const fn id(&self) -> InstanceId {
        self.spec.id
    }

    /// Runs a command in the VM over OpenSSH, which insists on the host key.
    pub(crate) fn ssh(&self, address: SocketAddr, user: &str, command: &str) -> Output {
        self.ssh_command(address, user, &[], command).output().unwrap()
    }

    /// OpenSSH, ready to run a command in the VM.
    pub(crate) fn ssh_command(
        &self,
        address: SocketAddr,
        user: &str,
        options: &[&str],
        command: &str,
    ) -> Command {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=20"])
            .arg("-o")
            .arg(format!("HostKeyAlias={}", self.spec.id.vm()))
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", path("known_hosts").display()))
            .arg("-i")
            .arg(path("id"))
            .args(["-p", &address.port().to_string()])
            .args(options)
            .arg(format!("{user}@{}", address.ip()))
            .arg(command);
        ssh
    }

    /// The same as `ubuntu`; must succeed. Returns what it printed, trimmed.
    pub(crate) fn run(&self, address: SocketAddr, command: &str) -> String {
        let output = self.ssh(address, "ubuntu", command);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {}: {error}", output.status);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn key() -> PrivateKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    PrivateKey::from(Ed25519Keypair::from_seed(&seed))
}

/// The address of a running instance, once its sshd answers.
pub(crate) async fn ready(backend: &dyn Backend, id: InstanceId) -> SocketAddr {
    let begun = Instant::now();
    loop {
        let seen = backend.observe(id).await.unwrap();
        let Observation::Running { ssh } = seen else { panic!("{id} does not run: {seen:?}") };
        let mut banner = [0; 4];
        let answered = TcpStream::connect_timeout(&ssh, PATIENCE).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_exact(&mut banner)
        });
        if answered.is_ok() && &banner == b"SSH-" {
            return ssh;
        }
        assert!(begun.elapsed() < PATIENCE, "no sshd on {ssh}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A place for progress that nobody reads but the test's own output.
pub(crate) fn progress() -> tokio::sync::mpsc::Sender<String> {
    let (sender, mut lines) = tokio::sync::mpsc::channel::<String>(64);
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            println!("    {line}");
        }
    });
    sender
}
