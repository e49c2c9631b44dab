//! `kill -9` at every step of everything that a provider does for a VM.
//!
//! On a backend that is a file, so that a kill costs a fraction of a second; `tests/market/crashes.rs`
//! does the same to some of them on a real engine.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Instant;

use golem_vm_end_to_end::crashes::{Chance, Kill, Played, Rig, SCENARIOS, Scenario, Tally, play};
use golem_vm_end_to_end::{FailPoints, Place, Provider, ProviderOptions};

/// Providers that are killed side by side: much of the time they wait for the disk.
const WORKERS: usize = 8;
/// How many pairs of kills are tried, of the thousands that there are.
const PAIRS: usize = 60;
/// So much is wrong that the rest would say no more.
const ENOUGH: usize = 8;

struct Job {
    scenario: &'static Scenario,
    kills: Vec<Kill>,
}

#[test]
fn whatever_is_killed_whenever_nothing_is_lost_and_nothing_leaks() {
    let began = Instant::now();
    let chance = Chance::of_this_run();
    let all: BTreeSet<String> = FailPoints::all().into_iter().collect();

    let without = SCENARIOS.iter().map(|scenario| Job { scenario, kills: Vec::new() });
    let shown = work(without.collect(), &chance);
    let mut tally = Tally::default();
    let mut jobs = Vec::new();
    for (job, played) in shown {
        for kill in played.kills() {
            jobs.push(Job { scenario: job.scenario, kills: vec![kill] });
        }
        tally.count(0, played);
    }
    assert_eq!(tally.wrong, [] as [String; 0], "without any kill");

    let jobs = chance.of("order").sample(jobs, usize::MAX);
    let mut pairs = Vec::new();
    for (job, played) in work(jobs, &chance) {
        if !played.killed.is_empty() {
            for second in played.kills_then() {
                pairs.push(Job {
                    scenario: job.scenario,
                    kills: vec![job.kills[0].clone(), second],
                });
            }
        }
        tally.count(1, played);
    }
    println!("one kill each: {tally}, {} s", began.elapsed().as_secs());
    let never: Vec<_> = all.difference(&tally.points).cloned().collect();

    let mut doubles = Tally::default();
    for (_, played) in work(chance.of("pairs").sample(pairs, PAIRS), &chance) {
        doubles.count(2, played);
    }
    println!("two kills each: {doubles}");
    tally.add(doubles);
    println!("crash matrix: {tally}, of {} points, {} s", all.len(), began.elapsed().as_secs());
    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n\n"));
    assert!(never.is_empty(), "nothing was killed at these points: {never:?}");
}

/// Plays them all, on several providers at a time.
fn work(jobs: Vec<Job>, chance: &Chance) -> Vec<(Job, Played)> {
    let done = Mutex::new(Vec::new());
    let jobs = Mutex::new(VecDeque::from(jobs));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (jobs, done) = (&jobs, &done);
            scope.spawn(move || {
                let mut rigs = Rigs::default();
                loop {
                    let Some(job) = jobs.lock().unwrap().pop_front() else { return };
                    let mut chance = chance.of(&format!("{:?} {:?}", job.scenario, job.kills));
                    let rig = rigs.of(worker, job.scenario);
                    let mut played = play(rig, job.scenario, &job.kills, &mut chance);
                    if !played.wrong.is_empty() {
                        let log = rig.provider.log();
                        let lines: Vec<_> = log.lines().rev().take(30).collect();
                        let log = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
                        played
                            .wrong
                            .iter_mut()
                            .for_each(|wrong| *wrong = format!("{wrong}\n{log}"));
                        // What is wrong there is not this scenario's alone.
                        rigs.give_up(job.scenario);
                    }
                    let mut done = done.lock().unwrap();
                    done.push((job, played));
                    let wrong =
                        done.iter().filter(|(_, played): &&(Job, Played)| !played.wrong.is_empty());
                    if wrong.count() >= ENOUGH {
                        jobs.lock().unwrap().clear();
                    }
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// A worker's providers, one for each kind of settings.
#[derive(Default)]
struct Rigs(Vec<(&'static [(&'static str, &'static str)], Rig)>);

impl Rigs {
    fn of(&mut self, worker: usize, scenario: &Scenario) -> &mut Rig {
        let at = match self.0.iter().position(|(settings, _)| *settings == scenario.settings) {
            Some(at) => at,
            None => {
                let none = [
                    // Snapshots and clones take room.
                    ("GOLEM_PROVIDER_OVERCOMMIT_CPU", "16"),
                    ("GOLEM_PROVIDER_CREATES_PER_MINUTE", "0"),
                    ("GOLEM_PROVIDER_WRITES_PER_MINUTE", "0"),
                    ("GOLEM_PROVIDER_READS_PER_MINUTE", "0"),
                ];
                let settings = scenario.settings.iter().chain(&none);
                let options = settings
                    .fold(ProviderOptions::roomy(), |all, (name, value)| all.with(name, value));
                let place = Place::new(&std::env::temp_dir());
                let name = format!("killed-{worker}");
                let rig = Rig::new(Provider::in_memory(&name, &place, &options));
                self.0.push((scenario.settings, rig));
                self.0.len() - 1
            }
        };
        &mut self.0[at].1
    }

    fn give_up(&mut self, scenario: &Scenario) {
        self.0.retain(|(settings, _)| *settings != scenario.settings);
    }
}
