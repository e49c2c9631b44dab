//! Ends everything that this provider made: VMs, instances without a VM, images, networks.

use std::sync::atomic::Ordering;

use golem_vm_protocol::vm::Actor;

use super::messages::Purged;
use super::running::Running;
use crate::backend::{BackendError, Standing};
use crate::images::ImageRegister as _;
use crate::vm::policy::Request;

/// Removes all of it, tells what could not be, and ends the program. The forwarder ends last, when
/// nothing leads anywhere any more.
pub(super) async fn purge(running: &Running) -> Purged {
    let mut purged = Purged { vms: Vec::new(), images: Vec::new(), problems: Vec::new() };
    tracing::warn!("purge: every VM, image and network of this provider is removed");
    destroy_vms(running, &mut purged).await;
    destroy_instances(running, &mut purged).await;
    remove_images(running, &mut purged).await;
    clean_up(running, &mut purged).await;
    running.purged.store(purged.problems.is_empty(), Ordering::SeqCst);
    running.shutdown.cancel();
    purged
}

async fn destroy_vms(running: &Running, purged: &mut Purged) {
    let vms = &running.rental.vms;
    let records = match vms.all().await {
        Ok(records) => records,
        Err(error) => return purged.problems.push(error.to_string()),
    };
    let requests = records
        .iter()
        .map(|record| vms.request_for(record, Request::Destroy, Actor::ProviderOwner));
    for (record, outcome) in records.iter().zip(futures_util::future::join_all(requests).await) {
        match outcome {
            Ok(_) => purged.vms.push(record.id.to_string()),
            Err(error) => purged.problems.push(format!("VM {}: {error}", record.id)),
        }
    }
}

/// Instances that carry this provider's label and have no VM.
async fn destroy_instances(running: &Running, purged: &mut Purged) {
    for present in running.backends.there() {
        let backend = present.backend;
        match backend.list().await {
            Ok(left) => {
                for id in left {
                    if let Err(error) = backend.destroy(id).await {
                        purged.problems.push(format!("instance {id}: {error}"));
                    }
                }
            }
            Err(error) => purged.problems.push(error.to_string()),
        }
    }
}

async fn clean_up(running: &Running, purged: &mut Purged) {
    for member in &*running.backends.now() {
        let cleaned = match &member.standing {
            Standing::There(present) => present.backend.clean_up().await,
            Standing::Away(reason) => Err(BackendError::Unavailable(format!(
                "the backend {} is away, so what it has of this provider is still there: {reason}",
                member.kind
            ))),
        };
        if let Err(error) = cleaned {
            purged.problems.push(error.to_string());
        }
    }
}

async fn remove_images(running: &Running, purged: &mut Purged) {
    let images = match running.store.images().await {
        Ok(images) => images,
        Err(error) => return purged.problems.push(error.to_string()),
    };
    for image in images {
        match running.rental.images.remove(&image.name, Some(image.backend)).await {
            Ok(()) => purged.images.push(image.name),
            Err(error) => purged.problems.push(format!("image {}: {error}", image.name)),
        }
    }
}
