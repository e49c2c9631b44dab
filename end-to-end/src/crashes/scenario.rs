//! What is being done when a provider is killed.

use std::time::{Duration, SystemTime};

use golem_vm_protocol::route;
use golem_vm_protocol::time::Timestamp;
use serde_json::json;

use super::rig::{End, KEY, Rig, Step, Trouble, route_of};
use crate::kept_backend::KeptBackend;

/// A second key, for changing them.
const ANOTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxl1mKcJxXzUQhGn3kwH1sBjv5vUBCk7oL1mNqkU2Vs";

/// Something that is done to one VM, in a way that can be repeated.
pub struct Scenario {
    /// What it is called in messages.
    pub name: &'static str,
    /// Settings that its provider needs.
    pub settings: &'static [(&'static str, &'static str)],
    /// Whether it does things to instances that only a backend in a file lets happen.
    pub needs_kept_backend: bool,
    /// Whether its backend has to have abilities that not every backend has.
    pub needs_abilities: bool,
    /// How its VM's name begins; see the provider's backend in memory for what names do there.
    pub(super) prefix: &'static str,
    /// Whether it goes on by itself from where it begins, so that nothing is waited for there.
    pub(super) passes: bool,
    /// Brings the VM to where it begins.
    pub(super) prepare: fn(&mut Rig, &mut Case) -> Step,
    /// Does it, or does it again after it was cut short.
    pub(super) act: fn(&mut Rig, &mut Case) -> Step,
    /// Whether all comes to rest without the client's next try, too.
    pub(super) rests_alone: bool,
    /// Where the VM is in the end.
    pub(super) end: End,
    /// What else has to be so in the end.
    pub(super) check: fn(&Rig, &Case) -> Result<(), String>,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One time that a scenario is played.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// The id of its VM, once there is one.
    pub(super) vm: Option<String>,
    /// Whether what can't be repeated was done.
    begun: bool,
    /// Until when its owner wants it.
    until: Option<Timestamp>,
}

impl Case {
    pub(super) const fn new(name: String) -> Self {
        Self { name, vm: None, begun: false, until: None }
    }

    fn vm(&self) -> &str {
        self.vm.as_deref().unwrap_or_default()
    }

    fn path(&self, route: &str) -> String {
        route.replace("{name}", &self.name)
    }

    fn snapshot_path(&self, route: &str) -> String {
        self.path(route).replace("{snapshot}", SNAPSHOT)
    }
}

const fn plain(name: &'static str, end: End) -> Scenario {
    Scenario {
        name,
        settings: &[],
        needs_kept_backend: false,
        needs_abilities: false,
        prefix: "box",
        passes: false,
        prepare: running,
        act: |_, _| Ok(()),
        rests_alone: true,
        end,
        check: |_, _| Ok(()),
    }
}

/// What a snapshot is called.
const SNAPSHOT: &str = "first";

const NO_GRACE: &[(&str, &str)] = &[("GOLEM_PROVIDER_LEASE_GRACE", "0s")];
const SHORT_GRACE: &[(&str, &str)] = &[("GOLEM_PROVIDER_LEASE_GRACE", "1s")];
/// Long enough to have begun before it ends.
const LEASE: Duration = Duration::from_secs(2);

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { prepare: |_, _| Ok(()), act: create, ..plain("create", End::Running) },
    Scenario { prepare: stopped, act: start, ..plain("start", End::Running) },
    Scenario { act: stop, ..plain("stop", End::Stopped) },
    Scenario { act: restart, ..plain("restart", End::Running) },
    Scenario { act: destroy, ..plain("destroy", End::Gone) },
    Scenario { prepare: stopped, act: destroy, ..plain("destroy-stopped", End::Gone) },
    Scenario { act: change_keys, check: has_another_key, ..plain("keys", End::Running) },
    Scenario {
        prepare: stopped,
        act: |rig, case| {
            change_keys(rig, case)?;
            start(rig, case)
        },
        check: has_another_key,
        ..plain("keys-and-start", End::Running)
    },
    Scenario {
        prefix: "doomed",
        prepare: |_, _| Ok(()),
        act: create_in_vain,
        needs_kept_backend: true,
        ..plain("create-that-fails", End::Error)
    },
    Scenario {
        prefix: "deaf",
        prepare: |_, _| Ok(()),
        act: create_and_destroy,
        rests_alone: false,
        needs_kept_backend: true,
        ..plain("destroy-while-creating", End::Gone)
    },
    Scenario {
        prepare: |rig, case| {
            stopped(rig, case)?;
            let backend = rig.provider.kept_backend();
            backend.ok_or_else(no_kept_backend)?.spoil(case.vm());
            rig.arrives(&case.name, End::Error)
        },
        act: |rig, case| rig.ask("POST", &case.path(route::VM_START), None, &[502]),
        needs_kept_backend: true,
        ..plain("start-that-fails", End::Error)
    },
    Scenario { act: extend, check: lasts_until_then, ..plain("extend", End::Running) },
    Scenario { act: keep, ..plain("keep", End::Retained) },
    Scenario { prepare: stopped, act: keep, ..plain("keep-stopped", End::Retained) },
    Scenario {
        prepare: |rig, case| {
            running(rig, case)?;
            keep(rig, case)
        },
        act: |rig, case| {
            let body = Some(json!({"duration_seconds": 86_400}));
            rig.ask("POST", &case.path(route::VM_UNDELETE), body, &[200])
        },
        ..plain("undelete", End::Stopped)
    },
    Scenario { settings: NO_GRACE, act: keep_until_gone, ..plain("keep-without-grace", End::Gone) },
    Scenario { settings: SHORT_GRACE, act: keep_until_gone, ..plain("grace-ends", End::Gone) },
    Scenario {
        prepare: |rig, case| leased(rig, case, "stop"),
        passes: true,
        act: |rig, case| rig.arrives(&case.name, End::Retained),
        ..plain("lease-ends", End::Retained)
    },
    Scenario {
        prepare: |rig, case| leased(rig, case, "destroy"),
        passes: true,
        act: |rig, case| rig.arrives(&case.name, End::Gone),
        ..plain("lease-ends-with-destroy", End::Gone)
    },
    Scenario {
        prepare: |rig, case| {
            leased(rig, case, "stop")?;
            rig.kill();
            // It ends while nobody runs.
            std::thread::sleep(LEASE);
            Ok(())
        },
        passes: true,
        act: |rig, case| {
            if rig.is_over() {
                rig.start()?;
            }
            rig.arrives(&case.name, End::Retained)
        },
        ..plain("lease-ended-meanwhile", End::Retained)
    },
    Scenario {
        prepare: |rig, case| {
            running(rig, case)?;
            keep(rig, case)
        },
        act: |rig, case| behind_its_back(rig, case, KeptBackend::start, End::Retained),
        needs_kept_backend: true,
        ..plain("kept-and-started-by-the-host", End::Retained)
    },
    Scenario {
        act: |rig, case| behind_its_back(rig, case, KeptBackend::end, End::Running),
        needs_kept_backend: true,
        ..plain("stopped-by-the-host", End::Running)
    },
    Scenario {
        prepare: stopped,
        act: |rig, case| behind_its_back(rig, case, KeptBackend::start, End::Running),
        needs_kept_backend: true,
        ..plain("started-by-the-host", End::Running)
    },
    Scenario {
        act: |rig, case| behind_its_back(rig, case, KeptBackend::remove, End::Error),
        needs_kept_backend: true,
        ..plain("instance-gone", End::Error)
    },
    Scenario {
        act: |rig, case| behind_its_back(rig, case, KeptBackend::spoil, End::Error),
        needs_kept_backend: true,
        ..plain("instance-broken", End::Error)
    },
    Scenario {
        settings: &[("GOLEM_PROVIDER_ORPHAN_GRACE", "0s")],
        // That it is gone in the end is seen as with everything that has no owner.
        act: |rig, case| behind_its_back(rig, case, KeptBackend::add_stray, End::Running),
        needs_kept_backend: true,
        ..plain("instance-without-a-vm", End::Running)
    },
    Scenario {
        act: |rig, case| before_its_eyes(rig, case, KeptBackend::end),
        needs_kept_backend: true,
        ..plain("guest-shuts-down", End::RunningOrStopped)
    },
    Scenario {
        act: |rig, case| behind_its_back(rig, case, KeptBackend::shut_down, End::Stopped),
        needs_kept_backend: true,
        ..plain("guest-has-shut-down-meanwhile", End::Stopped)
    },
    Scenario {
        prepare: running_with_contents,
        act: suspend,
        check: has_all_contents,
        ..able("suspend", End::Stopped)
    },
    Scenario {
        prepare: suspended,
        act: |rig, case| rig.ask("POST", &case.path(route::VM_RESUME), None, &[200]),
        check: has_all_contents,
        ..able("resume", End::Running)
    },
    Scenario {
        prepare: |rig, case| {
            suspended(rig, case)?;
            let backend = rig.provider.kept_backend();
            backend.ok_or_else(no_kept_backend)?.spoil_memory(case.vm());
            Ok(())
        },
        act: start,
        needs_kept_backend: true,
        ..able("resume-without-memory", End::Running)
    },
    Scenario { prepare: suspended, act: keep, ..able("keep-suspended", End::Retained) },
    Scenario { prepare: suspended, act: destroy, ..able("destroy-suspended", End::Gone) },
    Scenario {
        prepare: running_with_contents,
        act: snapshot,
        check: has_its_snapshot,
        ..able("snapshot", End::Running)
    },
    Scenario {
        prepare: snapshotted,
        act: |rig, case| {
            rig.ask("DELETE", &case.snapshot_path(route::VM_SNAPSHOT), None, &[200, 404])
        },
        check: |rig, case| has_snapshots(rig, case, &[]),
        ..able("remove-snapshot", End::Running)
    },
    Scenario {
        prepare: |rig, case| {
            snapshotted(rig, case)?;
            write_into(rig, case, "another disk", "another memory");
            Ok(())
        },
        act: restore,
        check: |rig, case| {
            has_all_contents(rig, case)?;
            has_its_snapshot(rig, case)
        },
        ..able("restore", End::Running)
    },
    Scenario {
        prepare: |rig, case| {
            stopped(rig, case)?;
            write_into(rig, case, DISK, "");
            snapshot(rig, case)?;
            write_into(rig, case, "another disk", "");
            Ok(())
        },
        act: restore,
        check: |rig, case| has_contents(rig, case, DISK, ""),
        ..able("restore-stopped", End::Stopped)
    },
    Scenario { act: resize, check: has_its_size, ..able("resize", End::Running) },
    Scenario {
        prepare: stopped,
        act: resize,
        check: has_its_size,
        ..able("resize-stopped", End::Stopped)
    },
    Scenario {
        prepare: |rig, _| {
            let there = rig.vm(SOURCE).map_err(Trouble::from)?.status == 200;
            if !there {
                rig.create(&rig.renter, SOURCE, json!({}), SOURCE)?;
            }
            Ok(())
        },
        act: |rig, case| rig.clone_of(SOURCE, &case.name, &format!("key-of-{}", case.name)),
        ..able("clone", End::Running)
    },
];

/// What is on a disk, and in a memory.
const DISK: &str = "what was written";
const MEMORY: &str = "what was going on";
/// GB of disk after a resize.
const LARGER: u64 = 12;
/// The VM that others are clones of.
const SOURCE: &str = "source";

fn write_into(rig: &Rig, case: &Case, disk: &str, memory: &str) {
    if let Some(backend) = rig.provider.kept_backend() {
        backend.write_into(case.vm(), disk, memory);
    }
}

fn running_with_contents(rig: &mut Rig, case: &mut Case) -> Step {
    running(rig, case)?;
    write_into(rig, case, DISK, MEMORY);
    Ok(())
}

fn suspended(rig: &mut Rig, case: &mut Case) -> Step {
    running_with_contents(rig, case)?;
    suspend(rig, case)
}

fn snapshotted(rig: &mut Rig, case: &mut Case) -> Step {
    running_with_contents(rig, case)?;
    snapshot(rig, case)
}

fn suspend(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("POST", &case.path(route::VM_SUSPEND), None, &[200])
}

fn snapshot(rig: &mut Rig, case: &mut Case) -> Step {
    let (body, key) = (json!({"name": SNAPSHOT}), format!("snapshot-of-{}", case.name));
    rig.ask_once("POST", &case.path(route::VM_SNAPSHOTS), Some(body), &[200], Some(&key))
}

fn restore(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("POST", &case.snapshot_path(route::VM_SNAPSHOT_RESTORE), None, &[200])
}

fn resize(rig: &mut Rig, case: &mut Case) -> Step {
    let body = json!({"resources": {"cpu": 1, "memory": 1, "storage": LARGER}});
    rig.ask("POST", &case.path(route::VM_RESIZE), Some(body), &[200])
}

fn has_all_contents(rig: &Rig, case: &Case) -> Result<(), String> {
    has_contents(rig, case, DISK, MEMORY)
}

fn has_contents(rig: &Rig, case: &Case, disk: &str, memory: &str) -> Result<(), String> {
    let Some(backend) = rig.provider.kept_backend() else { return Ok(()) };
    let (has, remembers, _) = backend.contents(case.vm());
    if (has.as_str(), remembers.as_str()) == (disk, memory) {
        return Ok(());
    }
    Err(format!("its disk has '{has}' and its memory '{remembers}', not '{disk}' and '{memory}'"))
}

fn has_its_snapshot(rig: &Rig, case: &Case) -> Result<(), String> {
    has_snapshots(rig, case, &[SNAPSHOT])
}

fn has_snapshots(rig: &Rig, case: &Case, expected: &[&str]) -> Result<(), String> {
    let books = rig.provider.evidence_beside().books;
    let known = books.snapshots.into_iter().filter(|(vm, _)| vm == case.vm()).map(|(_, name)| name);
    let known: Vec<_> = known.collect();
    let kept = rig.provider.kept_backend().map(|backend| backend.contents(case.vm()).2);
    if known == expected && kept.as_ref().is_none_or(|kept| kept == expected) {
        return Ok(());
    }
    Err(format!("it has the snapshots {known:?} and in the backend {kept:?}, not {expected:?}"))
}

fn has_its_size(rig: &Rig, case: &Case) -> Result<(), String> {
    let told = rig.vm(&case.name).map_err(|broken| broken.0)?.body["resources"]["storage"].as_u64();
    let has = rig.provider.kept_backend().map(|backend| backend.storage(case.vm()));
    if told == Some(LARGER) && has.is_none_or(|has| has == LARGER) {
        return Ok(());
    }
    Err(format!("it is told to have {told:?} GB and has {has:?}, not {LARGER}"))
}

/// What a backend can that is able to do more than every backend.
const fn able(name: &'static str, end: End) -> Scenario {
    Scenario { needs_abilities: true, ..plain(name, end) }
}

fn running(rig: &mut Rig, case: &mut Case) -> Step {
    create(rig, case)?;
    case.vm = Some(rig.vm(&case.name)?.body["id"].as_str().unwrap_or_default().to_owned());
    Ok(())
}

fn stopped(rig: &mut Rig, case: &mut Case) -> Step {
    running(rig, case)?;
    stop(rig, case)
}

fn leased(rig: &mut Rig, case: &mut Case, on_expiry: &str) -> Step {
    let lease = json!({"duration_seconds": LEASE.as_secs(), "on_expiry": on_expiry});
    rig.create(&rig.renter, &case.name, lease, &format!("key-of-{}", case.name))?;
    case.vm = rig.vm(&case.name)?.body["id"].as_str().map(str::to_owned);
    Ok(())
}

fn keep(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("DELETE", &format!("{}?keep=true", route_of(&case.name)), None, &[200])
}

/// When the second try comes, it may be gone.
fn keep_until_gone(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("DELETE", &format!("{}?keep=true", route_of(&case.name)), None, &[200, 404])?;
    rig.arrives(&case.name, End::Gone)
}

/// Names the same moment each time.
fn extend(rig: &mut Rig, case: &mut Case) -> Step {
    let month = Duration::from_secs(30 * 86_400);
    let until = *case.until.get_or_insert_with(|| Timestamp::from(SystemTime::now()).plus(month));
    let body = json!({"expires_at": until.to_string()});
    rig.ask("POST", &case.path(route::VM_EXTEND), Some(body), &[200])
}

fn lasts_until_then(rig: &Rig, case: &Case) -> Result<(), String> {
    let body = rig.vm(&case.name).map_err(|broken| broken.0)?.body;
    let told = body["lease"]["expires_at"].as_str().and_then(|text| text.parse().ok());
    let (Some(told), Some(wanted)) = (told, case.until) else {
        return Err(format!("no end of the lease in {body}"));
    };
    // The clock of leases and the wall clock are read one after the other.
    let off = wanted.since(told).max(told.since(wanted));
    if off < Duration::from_secs(5) {
        return Ok(());
    }
    Err(format!("it was extended until {wanted}, and its lease ends at {told}"))
}

fn create(rig: &mut Rig, case: &mut Case) -> Step {
    rig.create(&rig.renter, &case.name, json!({}), &format!("key-of-{}", case.name))
}

/// Its instance can't be started: that is told, and nothing is left of it but the reason.
fn create_in_vain(rig: &mut Rig, case: &mut Case) -> Step {
    match create(rig, case) {
        Err(Trouble::Failed(_)) => Ok(()),
        Ok(()) => Err(Trouble::Wrong("a creation that has to fail did not".to_owned())),
        other => other,
    }
}

/// It never comes up, and is destroyed while that is waited for.
fn create_and_destroy(rig: &mut Rig, case: &mut Case) -> Step {
    if !case.begun {
        rig.begin_to_create(&case.name, &format!("key-of-{}", case.name))?;
        case.begun = true;
    }
    destroy(rig, case)
}

fn start(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("POST", &case.path(route::VM_START), None, &[200])
}

fn stop(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("POST", &case.path(route::VM_STOP), None, &[200])
}

fn restart(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("POST", &case.path(route::VM_RESTART), None, &[200])
}

/// One that is gone already is what `golem vm destroy` wants, too.
fn destroy(rig: &mut Rig, case: &mut Case) -> Step {
    rig.ask("DELETE", &route_of(&case.name), None, &[200, 404])
}

fn change_keys(rig: &mut Rig, case: &mut Case) -> Step {
    let body = json!({"add": [ANOTHER_KEY]});
    rig.ask("POST", &case.path(route::VM_KEYS), Some(body), &[200])
}

fn has_another_key(rig: &Rig, case: &Case) -> Result<(), String> {
    let Some(backend) = rig.provider.kept_backend() else { return Ok(()) };
    let keys = backend.keys(case.vm());
    let all = [KEY, ANOTHER_KEY].iter().all(|key| keys.iter().any(|has| has == key));
    if all { Ok(()) } else { Err(format!("the instance lets in {keys:?}")) }
}

/// Something happens to the instance while no provider runs; the next one finds it.
fn behind_its_back(
    rig: &mut Rig,
    case: &mut Case,
    happens: fn(&KeptBackend, &str),
    end: End,
) -> Step {
    if !case.begun {
        case.begun = true;
        rig.kill();
        let backend = rig.provider.kept_backend();
        happens(&backend.ok_or_else(no_kept_backend)?, case.vm());
        rig.start()?;
    }
    rig.arrives(&case.name, end)
}

/// The instance ends, and the provider that runs finds it. Who finds it only after a kill can't know who has
/// ended it, and starts it again.
fn before_its_eyes(rig: &mut Rig, case: &mut Case, happens: fn(&KeptBackend, &str)) -> Step {
    if case.begun {
        return Ok(());
    }
    case.begun = true;
    let backend = rig.provider.kept_backend();
    happens(&backend.ok_or_else(no_kept_backend)?, case.vm());
    rig.arrives(&case.name, End::Stopped)
}

fn no_kept_backend() -> Trouble {
    Trouble::Wrong("this scenario needs a backend in a file".to_owned())
}
