//! `kill -9` in the middle of what a provider does for a VM, on the real engine: a few of the many points
//! that `tests/crash_matrix.rs` kills at, others each time. `GOLEM_CRASHES=all` kills at all of them.

use golem_vm_end_to_end::crashes::{Chance, Rig, sample};
use golem_vm_end_to_end::{Engine, Place, Provider, ProviderOptions};

/// How many kills, unless all are wanted.
const KILLS: usize = 6;

#[test]
fn a_provider_that_is_killed_anywhere_leaves_its_engine_in_order() {
    let chance = Chance::of_this_run();
    let options = ProviderOptions::roomy().with("GOLEM_PROVIDER_SKIP_PORT_VERIFICATION", "true");
    let place = Place::new(&std::env::temp_dir());
    let mut rig = Rig::new(Provider::new("killed", &place, &Engine::shared(), "", "", &options));
    let tally = sample(&mut rig, &chance, KILLS, |scenario| {
        !scenario.needs_kept_backend && !scenario.needs_abilities
    });
    println!("kills on the engine: {tally}");
    rig.provider.purge();
}
