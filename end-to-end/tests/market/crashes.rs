//! `kill -9` in the middle of what a provider does for a VM, on the real engine: a few of the many points
//! that `tests/crash_matrix.rs` kills at, others each time. `GOLEM_CRASHES=all` kills at all of them.

use golem_vm_end_to_end::crashes::{Chance, Kill, Rig, SCENARIOS, Scenario, Tally, play};
use golem_vm_end_to_end::{Engine, Place, Provider, ProviderOptions};

/// How many kills, unless all are wanted.
const KILLS: usize = 6;

#[test]
fn a_provider_that_is_killed_anywhere_leaves_its_engine_in_order() {
    let chance = Chance::of_this_run();
    let all = std::env::var("GOLEM_CRASHES").is_ok_and(|wanted| wanted == "all");
    let mut tally = Tally::default();
    let scenarios = SCENARIOS
        .iter()
        .filter(|scenario| !scenario.needs_kept_backend && scenario.settings.is_empty());
    let count = if all { usize::MAX } else { KILLS };
    let options = ProviderOptions::roomy().with("GOLEM_PROVIDER_SKIP_PORT_VERIFICATION", "true");
    let place = Place::new(&std::env::temp_dir());
    let mut rig = Rig::new(Provider::new("killed", &place, &Engine::shared(), "", "", &options));
    for scenario in chance.of("scenarios").sample(scenarios.collect(), count) {
        let mut chance = chance.of(scenario.name);
        for kill in kills(&mut rig, scenario, &mut chance, if all { usize::MAX } else { 1 }) {
            let played = play(&mut rig, scenario, &[kill], &mut chance);
            tally.count(1, played);
            assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
        }
    }
    println!("kills on the engine: {tally}");
    rig.provider.purge();
}

/// Where to kill: some of the moments that the scenario passes.
fn kills(rig: &mut Rig, scenario: &Scenario, chance: &mut Chance, count: usize) -> Vec<Kill> {
    let shown = play(rig, scenario, &[], chance);
    assert!(shown.wrong.is_empty(), "{}", shown.wrong.join("\n"));
    chance.sample(shown.kills(), count)
}
