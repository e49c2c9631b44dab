#![allow(clippy::unwrap_used)]

use golem_vm_protocol::vm::{Isolation, VmStatus};
use golem_vm_protocol::{KeyPair, VmResources};

use super::*;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

fn provider() -> ProviderRef {
    ProviderRef {
        id: KeyPair::from_secret_bytes([5; 32]).unwrap().id(),
        name: "provider-1".into(),
        endpoints: vec![
            Endpoint::Direct { api: "127.0.0.1:7466".into(), ssh_host: "127.0.0.1".into() },
            Endpoint::Unknown,
        ],
    }
}

fn new(name: &str, key: &str) -> NewRental {
    NewRental {
        name: name.parse().unwrap(),
        provider: provider(),
        idempotency_key: key.into(),
        request: "{}".into(),
        cloned_from: None,
        resources: VmResources { cpu: 1, memory: 1, storage: 10 },
        usd_micro_month: Some(8_000_000),
        identity: Some("/home/me/.ssh/id_ed25519".into()),
        agreed: None,
    }
}

fn open() -> (tempfile::TempDir, Rentals) {
    let dir = tempfile::tempdir().unwrap();
    let rentals = Rentals::open(&dir.path().join("state.db")).unwrap();
    (dir, rentals)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn vm(name: &str, status: VmStatus) -> Vm {
    Vm {
        lease: None,
        id: VmId::from_bytes([1; 16]).to_string(),
        name: name.parse().unwrap(),
        status,
        resources: VmResources { cpu: 1, memory: 1, storage: 10 },
        ip_address: None,
        ssh_port: Some(50_800),
        created_at: at(5).naive(),
        updated_at: at(5).naive(),
        error_message: None,
        image: Some("debian-12".into()),
        image_digest: None,
        backend: Some("docker".into()),
        isolation: Some(Isolation::Container),
        accel: None,
        suspended: false,
        abilities: std::collections::BTreeSet::new(),
        egress: None,
        prices: None,
        host_key: Some(KEY.parse().unwrap()),
        ssh_user: None,
        job_id: None,
    }
}

#[test]
fn a_rental_goes_through_its_states() {
    let (_dir, rentals) = open();
    let rental = rentals.insert(&new("box", "k1"), at(10)).unwrap();
    assert_eq!((rental.state, rental.status), (State::Pending, VmStatus::Creating));
    assert_eq!(rental.reference().as_str(), "box");
    assert!(rental.may_be_in_flight(at(20)) && !rental.may_be_in_flight(at(1000)));
    assert_eq!(rental.provider.endpoints.len(), 1);

    rentals.observed(rental.row, &vm("box", VmStatus::Running), at(20)).unwrap();
    let access = SshAccess {
        host: "127.0.0.1".into(),
        port: 50_800,
        user: "ubuntu".into(),
        host_key: KEY.parse().unwrap(),
    };
    rentals.set_access(rental.row, &access).unwrap();
    rentals.set_state(rental.row, State::Active).unwrap();
    let read = rentals.by_name(&rental.name).unwrap().unwrap();
    assert_eq!(read.ssh.as_ref(), Some(&access));
    assert_eq!(read.reference().as_str(), VmId::from_bytes([1; 16]).to_string());
    assert_eq!(
        (read.state, read.status, read.status_at),
        (State::Active, VmStatus::Running, at(20))
    );

    rentals.set_state(rental.row, State::Abandoned).unwrap();
    assert!(rentals.by_name(&rental.name).unwrap().is_none());
    assert_eq!(rentals.abandoned().unwrap().len(), 1);
    rentals.remove(rental.row, at(9)).unwrap();
    assert!(rentals.abandoned().unwrap().is_empty());
}

#[test]
fn a_name_is_free_again_once_abandoned() {
    let (_dir, rentals) = open();
    let first = rentals.insert(&new("box", "k1"), at(1)).unwrap();
    let error = rentals.insert(&new("box", "k2"), at(2)).unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    rentals.set_state(first.row, State::Abandoned).unwrap();
    rentals.insert(&new("box", "k2"), at(3)).unwrap();
}

#[test]
fn a_pinned_host_key_is_never_replaced() {
    let (_dir, rentals) = open();
    let rental = rentals.insert(&new("box", "k1"), at(1)).unwrap();
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKXFREi6fU8Pb5rV0hOHZxTvyF0yqCLpdmTXyPnlxQXk";
    for key in [KEY, other] {
        let access = SshAccess {
            host: "h".into(),
            port: 1,
            user: "u".into(),
            host_key: key.parse().unwrap(),
        };
        rentals.set_access(rental.row, &access).unwrap();
    }
    let read = rentals.by_row(rental.row).unwrap().unwrap();
    assert_eq!(read.ssh.unwrap().host_key.as_str(), KEY);
}

#[test]
fn a_person_is_told_once() {
    let (_dir, rentals) = open();
    assert!(rentals.told("x").unwrap());
    assert!(!rentals.told("x").unwrap());
    assert!(rentals.told("y").unwrap());
}

#[test]
fn a_vm_that_was_not_known_is_taken_over() {
    let (_dir, rentals) = open();
    let rental = rentals.adopt(&provider(), &vm("box", VmStatus::Stopped), at(9)).unwrap();
    assert_eq!((rental.state, rental.status), (State::Active, VmStatus::Stopped));
    assert_eq!(rental.created_at, at(5));
}

#[test]
fn what_is_gone_is_remembered_by_name_and_id_for_a_while() {
    let (_dir, rentals) = open();
    let day = 86_400;
    for (key, id) in [("a", 1), ("b", 2)] {
        let rental = rentals.insert(&new("box", key), at(0)).unwrap();
        rentals.accepted(rental.row, VmId::from_bytes([id; 16]), "job").unwrap();
        rentals.remove(rental.row, at(day * u64::from(id))).unwrap();
    }
    let (old, newest) = (VmId::from_bytes([1; 16]), VmId::from_bytes([2; 16]));
    assert_eq!(rentals.gone("box").unwrap().unwrap().vm_id, newest);
    assert_eq!(rentals.gone(&old.to_string()).unwrap().unwrap().provider.id, provider().id);
    // What never came to be leaves nothing, and what went long ago is forgotten.
    let never = rentals.insert(&new("other", "c"), at(0)).unwrap();
    rentals.remove(never.row, at(day * 91 + 1)).unwrap();
    assert_eq!(rentals.gone("other").unwrap(), None);
    assert_eq!(rentals.gone(&old.to_string()).unwrap(), None);
    assert_eq!(rentals.gone("box").unwrap().unwrap().vm_id, newest);
}

#[test]
fn a_create_is_unsettled_until_it_is_known_what_became_of_it() {
    let (_dir, rentals) = open();
    let rental = rentals.insert(&new("box", "a"), at(0)).unwrap();
    assert!(rental.is_unsettled() && rental.was_never_sent());
    rentals.asking(rental.row, at(1)).unwrap();
    let asked = rentals.by_row(rental.row).unwrap().unwrap();
    assert!(asked.is_unsettled() && !asked.was_never_sent());
    rentals.silent(rental.row, at(2)).unwrap();
    rentals.settled(rental.row, at(3)).unwrap();
    let settled = rentals.by_row(rental.row).unwrap().unwrap();
    assert_eq!((settled.settled_at, settled.silent_at), (Some(at(3)), None));
    assert!(!settled.is_unsettled());
    // A right to work on it that a killed golem left is given back when it is settled.
    let held = rentals.claim("a").unwrap().unwrap();
    rentals.release_claims().unwrap();
    assert!(rentals.claim("a").unwrap().is_none(), "it is held");
    drop(held);
    assert!(rentals.claim("a").unwrap().is_some());
}
