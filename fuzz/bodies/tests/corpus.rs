//! Every fuzz target on its corpus and on random inputs; see `fuzz/README.md`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use golem_vm_fuzz::session::{self, Bounds};
use golem_vm_fuzz::{directory, targets};

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Deterministic unless the environment says otherwise: the same inputs each time, and only their
/// number is bounded, not the time.
#[test]
fn every_target_holds_on_its_corpus_and_on_random_inputs() {
    let only = std::env::var("GOLEM_FUZZ_TARGET").ok();
    let bounds = Bounds {
        seed: setting("GOLEM_FUZZ_SEED", 1),
        inputs: setting("GOLEM_FUZZ_INPUTS", 1500),
        time: Duration::from_secs(setting("GOLEM_FUZZ_SECONDS", 3600)),
    };
    let mut findings = Vec::new();
    let mut all = 0;
    for (name, body) in targets() {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        match session::run(name, body, &session::corpus(name).unwrap(), bounds) {
            Ok(inputs) => {
                all += inputs;
                println!("{name}: {inputs} inputs");
            }
            Err(finding) => findings.push(finding),
        }
    }
    println!("{all} inputs, seed {}", bounds.seed);
    for finding in &findings {
        let file = std::env::temp_dir().join(format!("fuzz-finding-{}", finding.target));
        std::fs::write(&file, &finding.input).unwrap();
        eprintln!(
            "{} fails on {}, which is kept as {}: {}",
            finding.target,
            finding.origin,
            file.display(),
            String::from_utf8_lossy(&finding.input).escape_debug()
        );
    }
    assert!(findings.is_empty(), "{} targets fail, see above", findings.len());
}

fn names(folder: &str, suffix: &str) -> BTreeSet<String> {
    std::fs::read_dir(directory().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(suffix).unwrap().to_owned())
        .collect()
}

/// What libFuzzer runs is what is run here.
#[test]
fn each_target_has_a_program_for_libfuzzer_and_a_corpus() {
    let all: BTreeSet<String> = targets().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(all.len(), targets().len(), "a name is there twice");
    assert_eq!(names("corpus", ""), all);
    assert_eq!(names("fuzz_targets", ".rs"), all);
    let manifest = std::fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    for name in all {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
        let program = directory().join(format!("fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(program).unwrap();
        assert!(text.contains(&format!("golem_vm_fuzz::run(\"{name}\"")), "{name}");
    }
}
