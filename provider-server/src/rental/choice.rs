//! Which backend makes a VM, and from which image: from what was asked for. Pure.

use std::sync::Arc;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{Ability, Isolation, ValidCreate};

use crate::backend::{BackendKind, Capabilities, Containment};
use crate::images::{ImageRow, canonical};
use crate::vm::VmError;

/// A backend that makes VMs now, with what they can boot from; the default image first.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) kind: BackendKind,
    pub(super) found: Arc<Capabilities>,
    pub(super) images: Vec<ImageRow>,
}

/// The ways in which the VM that is asked for can be made: the provider's order, each with its image. A
/// container is never among those for who asked for a virtual machine.
///
/// `serves_uncontained` says whether this requestor is served where guests are not contained.
///
/// # Errors
/// Why it can't be made: the first thing asked for that no backend has.
pub(super) fn ways(
    candidates: &[Candidate],
    request: &ValidCreate,
    serves_uncontained: bool,
) -> Result<Vec<(Candidate, ImageRow)>, VmError> {
    let refuse = |kind: BackendKind, what: &'static str| VmError::NotSupported {
        name: request.name.to_string(),
        backend: kind,
        what,
    };
    let of_isolation: Vec<&Candidate> = candidates
        .iter()
        .filter(|one| request.isolation.is_none_or(|wanted| one.found.isolation == wanted))
        .collect();
    if of_isolation.is_empty()
        && let Some(first) = candidates.first()
    {
        return Err(refuse(
            first.kind,
            match request.isolation {
                Some(Isolation::Vm) => "make virtual machines, only containers",
                _ => "make containers, only virtual machines",
            },
        ));
    }
    let mut served = of_isolation;
    let mut reasons = Vec::new();
    served.retain(|one| match &one.found.containment {
        Containment::Uncontained(reason) if !serves_uncontained => {
            reasons.push(reason.clone());
            false
        }
        _ => true,
    });
    if served.is_empty() && !reasons.is_empty() {
        return Err(VmError::NotTrusted(reasons.join("; ")));
    }
    let mut able = served.clone();
    able.retain(|one| {
        request.cloud_init.is_none() || one.found.abilities.contains(&Ability::CloudInit)
    });
    if able.is_empty()
        && let Some(first) = served.first()
    {
        return Err(refuse(first.kind, "boot with cloud-init of your own"));
    }
    let with_image = able.iter().filter_map(|one| Some(((*one).clone(), image(one, request)?)));
    let ways: Vec<_> = with_image.collect();
    if ways.is_empty() {
        return Err(not_offered(&able, request));
    }
    Ok(ways)
}

/// The image of a backend that is meant; its default where none is named.
fn image(candidate: &Candidate, request: &ValidCreate) -> Option<ImageRow> {
    let Some(asked) = &request.image else { return candidate.images.first().cloned() };
    let (name, digest) = (canonical(asked), request.image_digest.map(|digest| digest.to_string()));
    let is_meant = |row: &&ImageRow| {
        row.name == name && digest.as_deref().is_none_or(|digest| digest == row.digest.as_str())
    };
    candidate.images.iter().find(is_meant).cloned()
}

fn not_offered(candidates: &[&Candidate], request: &ValidCreate) -> VmError {
    let rows = candidates.iter().flat_map(|one| &one.images);
    let name = request.image.as_deref().map(canonical);
    let mut offered: Vec<String> = match (&request.image_digest, &name) {
        // The digests of what has that name, if anything has it.
        (Some(_), Some(name)) if rows.clone().any(|row| row.name == *name) => rows
            .filter(|row| row.name == *name)
            .map(|row| format!("{}@{}", row.name, row.digest))
            .collect(),
        _ => rows.map(|row| row.name.clone()).collect(),
    };
    offered.sort_unstable();
    offered.dedup();
    let asked = match (&request.image, request.image_digest) {
        (Some(name), Some(digest)) => format!("{name}@{digest}"),
        (Some(name), None) => name.clone(),
        (None, _) => "of the provider's choice".to_owned(),
    };
    VmError::ImageNotOffered {
        asked: printable(&asked, 256),
        offered: if offered.is_empty() { "none".to_owned() } else { offered.join(", ") },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::time::Timestamp;
    use golem_vm_protocol::vm::CreateVmRequest;

    use super::*;
    use crate::backend::ImageDigest;
    use crate::backend::memory::MemoryBackend;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

    fn digest(number: u8) -> String {
        format!("sha256:{}", format!("{number:02x}").repeat(32))
    }

    fn candidate(kind: BackendKind, isolation: Isolation, images: &[(&str, u8)]) -> Candidate {
        let mut found = MemoryBackend::new().capabilities();
        found.isolation = isolation;
        let row = |(name, number): &(&str, u8)| ImageRow {
            name: (*name).to_owned(),
            digest: ImageDigest::new(digest(*number)),
            backend: kind,
            built: true,
            created_at: Timestamp::from_unix_seconds(1),
        };
        Candidate { kind, found: Arc::new(found), images: images.iter().map(row).collect() }
    }

    fn both() -> Vec<Candidate> {
        vec![
            candidate(BackendKind::Docker, Isolation::Container, &[("debian-12", 1), ("web", 2)]),
            candidate(BackendKind::Qemu, Isolation::Vm, &[("debian-12", 3)]),
        ]
    }

    fn request(more: &str) -> ValidCreate {
        let json = format!(r#"{{"name":"box","size":"small","ssh_key":"{KEY}"{more}}}"#);
        serde_json::from_str::<CreateVmRequest>(&json).unwrap().validate().unwrap()
    }

    fn chosen(more: &str) -> Vec<(BackendKind, String)> {
        let ways = ways(&both(), &request(more), false).unwrap();
        ways.into_iter().map(|(one, image)| (one.kind, image.digest.to_string())).collect()
    }

    fn refused(candidates: &[Candidate], more: &str) -> String {
        ways(candidates, &request(more), false).unwrap_err().to_string()
    }

    #[test]
    fn what_is_asked_for_decides_and_else_the_order() {
        use BackendKind::{Docker, Qemu};
        assert_eq!(chosen(""), [(Docker, digest(1)), (Qemu, digest(3))]);
        assert_eq!(chosen(r#","isolation":"vm""#), [(Qemu, digest(3))]);
        assert_eq!(chosen(r#","isolation":"container","image":"web""#), [(Docker, digest(2))]);
        assert_eq!(chosen(r#","image":"bookworm""#).len(), 2);
        let exact = |number| format!(r#","image":"debian-12@{}""#, digest(number));
        assert_eq!(chosen(&exact(3)), [(Qemu, digest(3))]);
        assert_eq!(chosen(&exact(1)), [(Docker, digest(1))]);
    }

    #[test]
    fn a_container_is_never_given_for_a_vm() {
        let only = &both()[..1];
        let reason = refused(only, r#","isolation":"vm""#);
        assert!(reason.contains("docker") && reason.contains("only containers"), "{reason}");
        let reason = refused(&both(), r#","isolation":"vm","image":"web""#);
        assert!(reason.contains("'web'") && reason.contains("offered: debian-12"), "{reason}");
        assert!(refused(&both()[1..], r#","isolation":"container""#).contains("only virtual"));
    }

    #[test]
    fn another_digest_is_another_image_and_those_that_there_are_are_named() {
        let reason = refused(&both(), &format!(r#","image":"debian-12@{}""#, digest(9)));
        for part in [digest(9), digest(1), digest(3)] {
            assert!(reason.contains(&part), "{reason}");
        }
        assert!(!reason.contains(&digest(2)), "{reason}");
    }

    #[test]
    fn who_is_not_trusted_gets_only_what_is_contained() {
        let mut candidates = both();
        let mut open = (*candidates[0].found).clone();
        open.containment = Containment::Uncontained("no nft".to_owned());
        candidates[0].found = Arc::new(open);
        let served = ways(&candidates, &request(""), false).unwrap();
        assert_eq!(served.len(), 1);
        assert_eq!(served[0].0.kind, BackendKind::Qemu);
        assert_eq!(ways(&candidates, &request(""), true).unwrap().len(), 2);
        assert!(refused(&candidates[..1], "").contains("no nft"));
        assert!(matches!(
            ways(&candidates, &request(r#","isolation":"container""#), false),
            Err(VmError::NotTrusted(_))
        ));
    }

    #[test]
    fn a_provider_without_images_has_none_to_offer() {
        let bare = [candidate(BackendKind::Docker, Isolation::Container, &[])];
        assert!(refused(&bare, "").contains("offered: none"));
    }
}
