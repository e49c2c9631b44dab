//! The Docker backend against the real engine. Everything made here carries a provider id of its
//! own, and is removed also when a test fails. Needs an engine, OpenSSH's client, and once (for the
//! first build of the image) mmdebstrap with the distribution's mirror, or a registry.
//!
//! Run with `cargo test -p golem-vm-provider --features engine --test docker_backend`.

#![allow(clippy::unwrap_used)]

mod fixture;
mod notices;
mod registry;

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptionsBuilder, TagImageOptionsBuilder};
use fixture::{Provider, Vm, progress, ready};
use golem_vm_provider::backend::docker::DockerBackend;
use golem_vm_provider::backend::docker::endpoint::Surroundings;
use golem_vm_provider::backend::{
    Backend, BackendError, Containment, Egress, EndedBy, ImageDigest, ImageStore, Metering,
    Observation, WantedImage,
};
use golem_vm_provider::containment::{Firewall, Rules};
use registry::Registry;

const GRACE: Duration = Duration::from_secs(10);

/// One test, because its parts share the image, which takes half a minute to make.
#[tokio::test(flavor = "multi_thread")]
async fn rented_machines_on_the_real_engine() {
    let provider = Provider::new();
    a_build_that_is_given_up_leaves_nothing(&provider).await;
    let image = building_twice_makes_one_image(&provider).await;
    a_vm_lives_and_dies(&provider, &image).await;
    half_made_containers_are_repaired(&provider, &image).await;
    a_removed_network_comes_back(&provider, &image).await;
    without_egress_only_ssh_works(&provider, &image).await;
    limits_hold(&provider, &image).await;
    notices::those_who_are_logged_in_see_a_line(&provider, &image).await;
    other_providers_are_left_alone(&provider, &image).await;
    what_killed_builds_left_goes_by_itself(&provider, &image).await;
    nothing_is_left(&provider, &image).await;
}

/// And nothing else: not what is needed, nor what is another provider's.
async fn what_killed_builds_left_goes_by_itself(provider: &Provider, image: &ImageDigest) {
    let docker = provider.docker();
    let other = Provider::new();
    for owner in [provider, &other] {
        let tag = format!("{}-0123abcd", owner.id.short());
        let options = TagImageOptionsBuilder::new().repo("golem/base").tag(&tag).build();
        docker.tag_image(image.as_str(), Some(options)).await.unwrap();
    }
    provider.backend.images().tidy(&BTreeSet::new()).await.unwrap();
    let tag = format!("image golem/debian-12:{}", provider.id.short());
    let mut images = provider.belongings().await;
    images.retain(|thing| thing.starts_with("image "));
    assert_eq!(images, [tag], "it may just have been made");
    let base = format!("image golem/base:{}-0123abcd", other.id.short());
    assert_eq!(other.belongings().await, [base], "it is another provider's");
    other.backend.images().tidy(&BTreeSet::new()).await.unwrap();
    assert!(other.belongings().await.is_empty());
}

/// Unless the image is there already, made by somebody else on the same engine.
async fn a_build_that_is_given_up_leaves_nothing(provider: &Provider) {
    let (sender, mut lines) = tokio::sync::mpsc::channel(1);
    let mut build = Box::pin(provider.backend.images().build("debian-12", sender));
    let mut begun = false;
    while !begun {
        tokio::select! {
            built = &mut build => {
                provider.backend.images().remove("debian-12", &built.unwrap()).await.unwrap();
                begun = true;
            }
            line = lines.recv() => begun = line.is_some_and(|line| line.contains("mmdebstrap")),
        }
    }
    drop(build);
    let workshop = format!("golem-base-{}-", std::process::id());
    let begun = Instant::now();
    loop {
        let folders = std::fs::read_dir(std::env::temp_dir()).unwrap();
        let mut names = folders.map(|folder| folder.unwrap().file_name());
        let works = names.any(|name| name.to_string_lossy().starts_with(&workshop));
        if !works && provider.belongings().await.is_empty() {
            break;
        }
        assert!(begun.elapsed() < GRACE * 2, "{:?}", provider.belongings().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn building_twice_makes_one_image(provider: &Provider) -> ImageDigest {
    let images = provider.backend.images();
    let first = images.build("debian-12", progress()).await.unwrap();
    let begun = Instant::now();
    let second = images.build("debian-12", progress()).await.unwrap();
    assert_eq!(first, second);
    assert!(begun.elapsed() < Duration::from_secs(5), "the second build did the work again");
    assert!(images.size(&first).await.unwrap().unwrap() > 50 << 20);
    let unknown = images.build("arch", progress()).await.unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "there is no recipe for the image 'arch'; there is one for: debian-12, ubuntu-24.04"
    );
    let tag = format!("image golem/debian-12:{}", provider.id.short());
    assert_eq!(provider.belongings().await, [tag], "bases and the like are gone");
    first
}

async fn a_vm_lives_and_dies(provider: &Provider, image: &ImageDigest) {
    let backend = &provider.backend;
    let vm = Vm::new(image);
    let id = vm.id();
    assert_eq!(backend.observe(id).await, Ok(Observation::Absent));
    assert_eq!(backend.start(id).await, Err(BackendError::NoInstance(id)));
    assert_eq!(backend.stop(id, GRACE).await, Err(BackendError::NoInstance(id)));

    backend.ensure(&vm.spec).await.unwrap();
    backend.ensure(&vm.spec).await.unwrap();
    let fresh =
        Observation::Stopped { exit_code: None, out_of_memory: false, by: EndedBy::Unknown };
    assert_eq!(backend.observe(id).await, Ok(fresh));
    assert_eq!(backend.list().await, Ok(vec![id]));

    backend.start(id).await.unwrap();
    backend.start(id).await.unwrap();
    backend.ensure(&vm.spec).await.unwrap();
    let ssh = ready(backend, id).await;
    assert_eq!(vm.run(ssh, "id -un; hostname; sudo -n id -u"), "ubuntu\nweb-1\n0");
    assert!(vm.ssh(ssh, "root", "true").status.success(), "root logs in by key");
    let machine = vm.run(ssh, "cat /etc/machine-id");
    assert_eq!(machine.len(), 32);
    vm.run(ssh, "echo kept > note; sync");
    let usage = backend.metering().unwrap().usage(id).await.unwrap();
    assert_eq!(usage.memory_limit_bytes, 256 << 20);
    assert!(usage.memory_used_bytes > 0 && usage.processes >= 3, "{usage:?}");
    assert!(usage.network_received_bytes > 0 && usage.disk_used_bytes.is_some(), "{usage:?}");

    backend.stop(id, GRACE).await.unwrap();
    backend.stop(id, GRACE).await.unwrap();
    let ended =
        Observation::Stopped { exit_code: Some(0), out_of_memory: false, by: EndedBy::Unknown };
    assert_eq!(backend.observe(id).await, Ok(ended));
    backend.ensure(&vm.spec).await.unwrap();
    backend.start(id).await.unwrap();
    let ssh = ready(backend, id).await;
    assert_eq!(vm.run(ssh, "cat note /etc/machine-id"), format!("kept\n{machine}"));

    let docker = provider.docker();
    docker.pause_container(&id.to_string()).await.unwrap();
    let paused = backend.observe(id).await.unwrap();
    assert!(matches!(paused, Observation::Broken { .. }), "{paused:?}");
    backend.start(id).await.unwrap();
    ready(backend, id).await;

    backend.destroy(id).await.unwrap();
    backend.destroy(id).await.unwrap();
    assert_eq!(backend.observe(id).await, Ok(Observation::Absent));
    assert_eq!(backend.list().await, Ok(vec![]));

    let mut lost = Vm::new(&ImageDigest::new(format!("sha256:{}", "0".repeat(64))));
    let missing = BackendError::ImageMissing(lost.spec.image.to_string());
    assert_eq!(backend.ensure(&lost.spec).await, Err(missing));
    lost.spec.limits.memory_mib = 1;
    assert!(matches!(backend.ensure(&lost.spec).await, Err(BackendError::Failed(_))));
    assert_eq!(backend.list().await, Ok(vec![]));
}

/// What a crash leaves between the creation of the container and its first start.
async fn half_made_containers_are_repaired(provider: &Provider, image: &ImageDigest) {
    let backend = &provider.backend;
    let docker = provider.docker();
    let vm = Vm::new(image);
    let name = vm.id().to_string();
    backend.ensure(&vm.spec).await.unwrap();
    let whole = docker.inspect_container(&name, None).await.unwrap();
    let labels = whole.config.unwrap().labels;
    let network = whole.host_config.unwrap().network_mode;

    for (started, label) in [(false, None), (true, None), (false, Some("other"))] {
        backend.destroy(vm.id()).await.unwrap();
        let mut labels = labels.clone();
        if let Some(label) = label {
            labels.as_mut().unwrap().insert("golem.spec".to_owned(), label.to_owned());
        }
        let body = ContainerCreateBody {
            image: Some(image.to_string()),
            labels,
            host_config: Some(bollard::models::HostConfig {
                network_mode: network.clone(),
                ..bollard::models::HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        docker.create_container(Some(options), body).await.unwrap();
        if started {
            backend.start(vm.id()).await.unwrap();
            let ended = Observation::Stopped {
                exit_code: Some(78),
                out_of_memory: false,
                by: EndedBy::Unknown,
            };
            let begun = Instant::now();
            while backend.observe(vm.id()).await.unwrap() != ended {
                assert!(begun.elapsed() < GRACE, "it runs without a host key");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        backend.ensure(&vm.spec).await.unwrap();
        backend.start(vm.id()).await.unwrap();
        let ssh = ready(backend, vm.id()).await;
        vm.run(ssh, "true");
    }
    backend.destroy(vm.id()).await.unwrap();
}

async fn a_removed_network_comes_back(provider: &Provider, image: &ImageDigest) {
    let backend = &provider.backend;
    let vm = Vm::new(image);
    backend.ensure(&vm.spec).await.unwrap();
    backend.start(vm.id()).await.unwrap();
    ready(backend, vm.id()).await;
    backend.stop(vm.id(), GRACE).await.unwrap();
    let networks = provider.belongings().await;
    let network = networks.iter().find_map(|thing| thing.strip_prefix("network ")).unwrap();
    provider.docker().remove_network(network).await.unwrap();
    backend.start(vm.id()).await.unwrap();
    let ssh = ready(backend, vm.id()).await;
    vm.run(ssh, "true");
    backend.destroy(vm.id()).await.unwrap();
}

async fn without_egress_only_ssh_works(provider: &Provider, image: &ImageDigest) {
    let backend = &provider.backend;
    let mut vm = Vm::new(image);
    vm.spec.confinement.egress = Egress::None;
    backend.ensure(&vm.spec).await.unwrap();
    backend.start(vm.id()).await.unwrap();
    let ssh = ready(backend, vm.id()).await;
    let mirror = ("deb.debian.org", 80).to_socket_addrs().unwrap().next().unwrap().ip();
    let connect = format!("timeout 3 bash -c '</dev/tcp/{mirror}/80'");
    let refused = vm.ssh(ssh, "ubuntu", &connect);
    assert!(!refused.status.success(), "{mirror} was reached");
    backend.destroy(vm.id()).await.unwrap();

    let vm = Vm::new(image);
    backend.ensure(&vm.spec).await.unwrap();
    backend.start(vm.id()).await.unwrap();
    let ssh = ready(backend, vm.id()).await;
    vm.run(ssh, &connect);
    vm.run(ssh, "sudo apt-get -qq update");
    backend.destroy(vm.id()).await.unwrap();
}

async fn limits_hold(provider: &Provider, image: &ImageDigest) {
    let backend = &provider.backend;
    let meter = backend.metering().unwrap();
    let vm = Vm::new(image);
    backend.ensure(&vm.spec).await.unwrap();
    backend.start(vm.id()).await.unwrap();
    let ssh = ready(backend, vm.id()).await;

    // Half a core was rented; two burners would take two.
    vm.run(ssh, "for i in 1 2; do (while :; do :; done) >/dev/null 2>&1 & done");
    let mut percent = Vec::new();
    for _ in 0..3 {
        percent.push(meter.usage(vm.id()).await.unwrap().cpu_percent);
    }
    let mean = percent.iter().sum::<f64>() / 3.0;
    assert!((10.0..65.0).contains(&mean), "{percent:?}");
    vm.run(ssh, "pkill -f '[w]hile :'");

    // A line without an end, which tail wants to keep whole.
    let hog = vm.ssh(ssh, "ubuntu", "tail /dev/zero");
    assert!(!hog.status.success());
    assert_eq!(vm.run(ssh, "echo alive"), "alive", "the machine outlives its hog");

    vm.ssh(ssh, "ubuntu", "(b() { b | b & }; b) >/dev/null 2>&1 &");
    let begun = Instant::now();
    loop {
        let usage = meter.usage(vm.id()).await.unwrap();
        assert!(usage.processes <= 128, "{usage:?}");
        if usage.processes > 120 {
            break;
        }
        assert!(begun.elapsed() < GRACE, "the bomb did not go off: {usage:?}");
    }
    let begun = Instant::now();
    backend.stop(vm.id(), GRACE).await.unwrap();
    assert!(begun.elapsed() < GRACE * 3);
    backend.start(vm.id()).await.unwrap();
    let ssh = ready(backend, vm.id()).await;
    assert_eq!(vm.run(ssh, "echo alive"), "alive");
    backend.destroy(vm.id()).await.unwrap();
}

async fn other_providers_are_left_alone(provider: &Provider, image: &ImageDigest) {
    let other = Provider::new();
    let shared = other.backend.images().build("debian-12", progress()).await.unwrap();
    assert_eq!(shared, *image, "the same recipe is the same image");
    let vm = Vm::new(image);
    provider.backend.ensure(&vm.spec).await.unwrap();
    assert_eq!(other.backend.list().await, Ok(vec![]));
    assert_eq!(other.backend.observe(vm.id()).await, Ok(Observation::Absent));
    other.backend.destroy(vm.id()).await.unwrap();
    assert!(matches!(other.backend.ensure(&vm.spec).await, Err(BackendError::Failed(_))));
    other.backend.images().remove("debian-12", image).await.unwrap();
    other.backend.images().remove("debian-12", image).await.unwrap();
    other.backend.clean_up().await.unwrap();
    assert_eq!(other.belongings().await, Vec::<String>::new());
    assert_eq!(provider.backend.list().await, Ok(vec![vm.id()]));
    assert!(provider.backend.images().size(image).await.unwrap().is_some());
    provider.backend.destroy(vm.id()).await.unwrap();
}

async fn nothing_is_left(provider: &Provider, image: &ImageDigest) {
    provider.backend.images().remove("debian-12", image).await.unwrap();
    provider.backend.clean_up().await.unwrap();
    provider.backend.clean_up().await.unwrap();
    assert_eq!(provider.belongings().await, Vec::<String>::new());
}

#[tokio::test]
async fn probing_leaves_nothing_behind() {
    let provider = Provider::new();
    let capabilities = provider.backend.probe().await.unwrap();
    for limit in ["cpu", "memory", "processes"] {
        assert!(capabilities.enforced.iter().any(|name| name == limit), "{capabilities:#?}");
    }
    assert!(!capabilities.enforced.iter().any(|name| name == "storage"));
    let contained = capabilities.containment == Containment::Contained;
    assert_eq!(contained, rustix::process::geteuid().is_root(), "{:?}", capabilities.containment);
    assert_eq!(capabilities.enforced.iter().any(|name| name == "bandwidth"), contained);
    assert!(capabilities.findings.iter().all(|finding| !finding.detail.is_empty()));
    assert_eq!(provider.belongings().await, Vec::<String>::new());
}

#[tokio::test]
async fn calls_at_once_make_one_network() {
    let provider = Provider::new();
    let firewall = Firewall::new(&provider.id, Rules::default());
    let second =
        DockerBackend::connect(provider.id, &Surroundings::of_this_process(), firewall).unwrap();
    let absent = ImageDigest::new(format!("sha256:{}", "0".repeat(64)));
    let (one, two) = (Vm::new(&absent), Vm::new(&absent));
    // Both fail for the want of an image, but make the network first.
    let _ = tokio::join!(provider.backend.ensure(&one.spec), second.ensure(&two.spec));
    let belongings = provider.belongings().await;
    assert_eq!(belongings.len(), 1, "{belongings:?}");
    assert!(belongings[0].starts_with("network "));
    provider.backend.clean_up().await.unwrap();
    assert_eq!(provider.belongings().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_from_registries_by_tag_and_by_digest() {
    let provider = Provider::new();
    let registry = Registry::start(&provider.id.to_string());
    let images = provider.backend.images();
    let name = format!("{}/test/tiny", registry.address);
    for reference in [format!("{name}:v1"), format!("{name}@{}", registry.manifest)] {
        let digest = images.pull(&WantedImage::of(&reference), progress()).await.unwrap();
        assert_eq!(digest.as_str(), registry.image);
        assert!(images.size(&digest).await.unwrap().is_some());
        let again = images.pull(&WantedImage::of(&reference), progress()).await.unwrap();
        assert_eq!(again, digest);
        images.remove("tiny", &digest).await.unwrap();
        images.remove("tiny", &digest).await.unwrap();
        assert_eq!(images.size(&digest).await, Ok(None), "its layers are gone as well");
    }
    // What is written to a volume would have no limit.
    let volumes = serde_json::json!({ "Volumes": { "/data": {} } });
    let with_volumes = Registry::with_settings(&format!("{}-volumes", provider.id), &volumes);
    let reference = format!("{}/test/tiny:v1", with_volumes.address);
    let refused = images.pull(&WantedImage::of(&reference), progress()).await.unwrap_err();
    assert!(refused.to_string().contains("declares volumes (/data)"), "{refused}");
    let digest = ImageDigest::new(with_volumes.image.clone());
    assert_eq!(images.size(&digest).await, Ok(None), "and is not kept");

    let absent =
        images.pull(&WantedImage::of(&format!("{name}:v2")), progress()).await.unwrap_err();
    assert!(absent.to_string().starts_with("can't pull the image 127.0.0.1:"), "{absent}");
    let nobody = images.pull(&WantedImage::of("127.0.0.1:1/x/y:v1"), progress()).await.unwrap_err();
    assert!(matches!(nobody, BackendError::Failed(_)), "{nobody}");
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_unavailable_and_nothing_is_absent() {
    let provider = golem_vm_protocol::KeyPair::generate().unwrap().id();
    let around = Surroundings {
        docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
        ..Surroundings::default()
    };
    let firewall = Firewall::new(&provider, Rules::default());
    let backend = DockerBackend::connect(provider, &around, firewall).unwrap();
    let vm = Vm::new(&ImageDigest::new("sha256:0"));
    let expected = "the Docker Engine does not answer on unix:///nonexistent/docker.sock: there is \
                    no such socket. Is it running?";
    let errors = [
        backend.probe().await.unwrap_err(),
        backend.ensure(&vm.spec).await.unwrap_err(),
        backend.start(vm.id()).await.unwrap_err(),
        backend.stop(vm.id(), GRACE).await.unwrap_err(),
        backend.destroy(vm.id()).await.unwrap_err(),
        backend.observe(vm.id()).await.unwrap_err(),
        backend.list().await.unwrap_err(),
        backend.clean_up().await.unwrap_err(),
        backend.usage(vm.id()).await.unwrap_err(),
        backend.build("debian-12", progress()).await.unwrap_err(),
        backend.pull(&WantedImage::of("x:y"), progress()).await.unwrap_err(),
        backend.size(&vm.spec.image).await.unwrap_err(),
        backend.remove("x", &vm.spec.image).await.unwrap_err(),
    ];
    for error in errors {
        let BackendError::Unavailable(text) = error else { panic!("{error:?}") };
        assert!(text.starts_with(expected), "{text}");
    }
}
