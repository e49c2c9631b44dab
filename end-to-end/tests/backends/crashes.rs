//! `kill -9` in the middle of what a provider does for a virtual machine on QEMU: a few of the many points that
//! `tests/crash_matrix.rs` kills at, others each time. `GOLEM_CRASHES=all` kills at all of them.

use std::time::Duration;

use golem_vm_end_to_end::crashes::{Chance, Rig, sample};
use golem_vm_end_to_end::{Place, Provider};

use super::ground::{machines, wait_for_template};

/// How many kills, unless all are wanted.
const KILLS: usize = 6;
/// Longest until an emulated machine has booted.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn on_qemu() {
    let chance = Chance::of_this_run();
    let home = tempfile::tempdir().unwrap();
    let options = machines()
        .with("GOLEM_PROVIDER_OVERCOMMIT_CPU", "16")
        .with("GOLEM_PROVIDER_SKIP_PORT_VERIFICATION", "true");
    let place = Place::new(home.path());
    let provider = Provider::on_backend("killed", &place, "debian-12", "", "", &options);
    let mut rig = Rig::patient(provider, PATIENCE);
    wait_for_template(&rig.provider);
    let tally = sample(&mut rig, &chance, KILLS, |scenario| !scenario.needs_kept_backend);
    println!("kills on QEMU: {tally}");
    rig.provider.purge();
}
