#![allow(clippy::unwrap_used)]

use golem_vm_protocol::VmId;

use super::images::IMAGE_SIZE;
use super::*;
use crate::backend::{Confinement, Egress, Limits};

fn spec(number: u8) -> InstanceSpec {
    InstanceSpec {
        id: InstanceId::of(VmId::from_bytes([number; 16])),
        hostname: "web".parse().unwrap(),
        image: digest_of("debian-12"),
        limits: Limits {
            cpu_millis: 1000,
            memory_mib: 1024,
            storage_mib: 10240,
            processes: 512,
            open_files: 1024,
        },
        confinement: Confinement { egress: Egress::Internet },
        access: None,
        user_data: None,
    }
}

#[tokio::test]
async fn the_life_of_an_instance() {
    let backend = MemoryBackend::new();
    let ssh = "127.0.0.1:4711".parse().unwrap();
    backend.set_ssh(ssh);
    let spec = spec(1);
    let missing = backend.ensure(&spec).await.unwrap_err();
    assert_eq!(missing, BackendError::ImageMissing(spec.image.to_string()));
    backend.add_image(spec.image.clone(), 1);
    backend.ensure(&spec).await.unwrap();
    backend.ensure(&spec).await.unwrap();
    backend.start(spec.id).await.unwrap();
    assert_eq!(backend.observe(spec.id).await, Ok(Observation::Running { ssh }));
    assert_eq!(Backend::list(&backend).await, Ok(vec![spec.id]));
    backend.set_stopped(spec.id, 137, true);
    let stopped =
        Observation::Stopped { exit_code: Some(137), out_of_memory: true, by: EndedBy::Unknown };
    assert_eq!(backend.observe(spec.id).await, Ok(stopped));
    backend.destroy(spec.id).await.unwrap();
    backend.destroy(spec.id).await.unwrap();
    assert_eq!(backend.observe(spec.id).await, Ok(Observation::Absent));
    assert_eq!(backend.start(spec.id).await, Err(BackendError::NoInstance(spec.id)));
}

#[tokio::test]
async fn it_does_as_scripted() {
    let backend = MemoryBackend::new();
    let spec = spec(1);
    backend.add_image(spec.image.clone(), 1);
    let lost = BackendError::Unavailable("no answer".to_owned());
    backend.script(Method::Ensure, Fault::Fail(lost.clone()));
    backend.script(Method::Ensure, Fault::FailAfterwards(lost.clone()));
    assert_eq!(backend.ensure(&spec).await, Err(lost.clone()));
    assert_eq!(Backend::list(&backend).await, Ok(vec![]));
    assert_eq!(backend.ensure(&spec).await, Err(lost));
    assert_eq!(Backend::list(&backend).await, Ok(vec![spec.id]));
    assert_eq!(backend.calls(Method::Ensure), 2);
    backend.script(Method::Start, Fault::Hang);
    let hung = tokio::time::timeout(Duration::from_millis(10), backend.start(spec.id)).await;
    assert!(hung.is_err());
    backend.set_unavailable(Some("gone fishing"));
    assert!(Backend::list(&backend).await.is_err());
    backend.set_unavailable(None);
    backend.start(spec.id).await.unwrap();
}

#[tokio::test]
async fn what_is_kept_outlives_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let first = MemoryBackend::kept(directory.path()).await.unwrap();
    let spec = spec(1);
    let (progress, _lines) = tokio::sync::mpsc::channel(8);
    assert_eq!(first.build("debian-12", progress).await, Ok(spec.image.clone()));
    first.ensure(&spec).await.unwrap();
    first.start(spec.id).await.unwrap();

    let second = MemoryBackend::kept(directory.path()).await.unwrap();
    let Ok(Observation::Running { ssh }) = second.observe(spec.id).await else {
        panic!("it does not run");
    };
    assert_ne!(first.observe(spec.id).await, Ok(Observation::Running { ssh }));
    assert_eq!(second.spec(spec.id), Some(spec.clone()));
    assert_eq!(second.size(&spec.image).await, Ok(Some(IMAGE_SIZE)));
    second.stop(spec.id, Duration::ZERO).await.unwrap();

    let third = MemoryBackend::kept(directory.path()).await.unwrap();
    let seen = third.survey().await.unwrap();
    assert!(matches!(seen.get(&spec.id), Some(Observation::Stopped { .. })), "{seen:?}");
    // Another's change is seen, as it is of an engine.
    assert!(matches!(first.observe(spec.id).await, Ok(Observation::Stopped { .. })));
    third.destroy(spec.id).await.unwrap();
    let fourth = MemoryBackend::kept(directory.path()).await.unwrap();
    assert_eq!(Backend::list(&fourth).await, Ok(vec![]));
}

#[tokio::test]
async fn what_can_not_be_kept_was_not_done() {
    let directory = tempfile::tempdir().unwrap();
    let backend = MemoryBackend::kept(directory.path()).await.unwrap();
    let spec = spec(1);
    backend.add_image(spec.image.clone(), 1);
    drop(directory);
    assert!(matches!(backend.ensure(&spec).await, Err(BackendError::Failed(_))));
    assert_eq!(Backend::list(&backend).await, Ok(vec![]));
}
