//! Whether the books agree with themselves, and with what there is.

use golem_vm_protocol::time::in_words;

use crate::backend::{BackendKind, InstanceId};
use crate::control::messages::Check;
use crate::doctor::{Facts, InstanceFacts};

/// So many of a list are named.
const NAMED: usize = 3;

pub(in crate::doctor) fn ledger(facts: &Facts) -> Option<Check> {
    const SUBJECT: &str = "ledger";
    let books = facts.books.as_ref()?;
    let problems = books.audit();
    if problems.is_empty() {
        let held = books.vms.iter().filter(|vm| vm.is_held).count();
        let vms = if held == 1 { "the one VM adds" } else { &format!("the {held} VMs add") };
        return Some(Check::good(
            SUBJECT,
            format!(
                "{vms} up to what is reserved ({}), each with its port",
                books.reserved.words()
            ),
        ));
    }
    Some(Check::bad(
        SUBJECT,
        some_of(&problems),
        "something else has changed the database: stop the provider, keep a copy of its data directory, and \
         put back the newest backup; see docs/troubleshooting.md, \"the database\"",
    ))
}

pub(in crate::doctor) fn instances(facts: &Facts) -> Vec<Check> {
    let several = facts.used().len() > 1;
    let of_each = facts.instances.iter().filter_map(|(kind, found)| {
        let check = of_backend(facts, *kind, found)?;
        let subject = if several { format!("{kind}: {}", check.subject) } else { check.subject };
        Some(Check { subject, ..check })
    });
    of_each.collect()
}

/// How to be rid of an instance by hand.
fn by_hand(kind: BackendKind, instance: InstanceId) -> String {
    match kind {
        BackendKind::Docker => format!("'docker rm --force --volumes {instance}'"),
        BackendKind::Multipass => format!("'multipass delete --purge {instance}'"),
        BackendKind::Qemu | BackendKind::Memory => {
            "start the provider with GOLEM_PROVIDER_ORPHAN_GRACE=0s".to_owned()
        }
    }
}

fn of_backend(
    facts: &Facts,
    kind: BackendKind,
    found: &Result<InstanceFacts, String>,
) -> Option<Check> {
    const SUBJECT: &str = "instances";
    let found = match found {
        Ok(found) => found,
        // That is said by its own check.
        Err(_) if !facts.answers(kind) => return None,
        Err(reason) => {
            return Some(Check::warning(
                SUBJECT,
                format!("the instances could not be compared with the VMs: {reason}"),
                "put that right, and run 'golem-provider doctor' again",
            ));
        }
    };
    let InstanceFacts { count, orphans, missing, grace } = found;
    if let Some((first, _)) = orphans.first() {
        let names: Vec<String> = orphans
            .iter()
            .map(|(instance, known_for)| match known_for {
                Some(span) => format!("{instance} (noticed {} ago)", in_words(span.as_secs())),
                None => instance.to_string(),
            })
            .collect();
        let remedy = format!(
            "if the database was lost or is an old one, stop the provider and put the right one back: an \
             instance without a VM is removed {} after it was noticed (GOLEM_PROVIDER_ORPHAN_GRACE). To be \
             rid of it now: {}",
            in_words(grace.as_secs()),
            by_hand(kind, *first),
        );
        return Some(Check::warning(
            SUBJECT,
            format!(
                "carrying this provider's label, and belonging to no VM in its database: {}",
                some_of(&names)
            ),
            remedy,
        ));
    }
    if !missing.is_empty() {
        return Some(Check::warning(
            SUBJECT,
            format!("gone from the backend {kind}, with their disks: {}", some_of(missing)),
            match kind {
                BackendKind::Docker => {
                    "if they are on another engine, start the provider with that one (DOCKER_HOST); otherwise \
                     their owners see that they are gone and can only destroy them"
                }
                _ => "their owners see that they are gone and can only destroy them",
            },
        ));
    }
    Some(Check::good(
        SUBJECT,
        match count {
            0 => "there are none, and no VM needs one".to_owned(),
            1 => "the one there is belongs to a VM".to_owned(),
            count => format!("all {count} belong to VMs"),
        },
    ))
}

/// The first few, and how many more there are.
fn some_of(all: &[String]) -> String {
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}
