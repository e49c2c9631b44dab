//! A market that is used and hurt at random, for as long as wanted.
//!
//! | module | what it does |
//! |---|---|
//! | [`plan`] | how long, with which seed |
//! | `renter` | one requestor: creates, stops, starts, destroys, logs in; knows what it should find |
//! | `held` | an SSH session that is held open, with bytes going both ways |
//! | `weather` | kills what runs, and brings it back; knows when it did |
//! | `examination` | everything at rest, and [`crate::invariants`] looked at |
//! | `report` | what is counted |
//! | `random` | numbers that follow from the seed |
//!
//! What each requestor does, and in which order things are killed, follows from the seed; how they
//! meet does not.

mod examination;
mod held;
mod plan;
mod random;
mod renter;
mod report;
mod weather;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use plan::Plan;
pub use report::Report;

use crate::market::Market;
use crate::private_engine::PrivateEngine;
use crate::provider::ProviderOptions;
use examination::examine;
use random::Random;
use renter::Renter;
use weather::{Trouble, Weather};

/// What the requestors and the weather have in common.
#[derive(Debug)]
pub(crate) struct Scene {
    began: Instant,
    /// No more is done.
    over: AtomicBool,
    weather: Weather,
    report: Mutex<Report>,
}

impl Scene {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that must not be.
    fn violated(&self, what: String) {
        let at = self.began.elapsed().as_secs();
        eprintln!("[{at:>4} s] VIOLATION: {what}");
        self.report().violations.push(format!("after {at} s: {what}"));
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// Runs one, until its time is up or `interrupted` is set. Whatever happens, nothing is left.
///
/// # Panics
/// When the market can't be set up at all.
#[must_use]
pub fn run(plan: &Plan, interrupted: &Arc<AtomicBool>) -> Report {
    // Fewer vCPUs and ports than the requestors want together: refusals are part of it.
    let options = ProviderOptions::roomy().with("GOLEM_PROVIDER_OFFER_CPU", "5");
    let set_up = match plan.shared_engine {
        true => None,
        false => Market::on_an_engine_of_its_own(&options),
    };
    let (engine, mut market) = match set_up {
        Some((engine, market)) => (Some(engine), market),
        None => (None, Market::with_providers(std::slice::from_ref(&options))),
    };
    let scene = Arc::new(Scene {
        began: Instant::now(),
        over: AtomicBool::new(false),
        weather: Weather::default(),
        report: Mutex::new(Report::new(plan.seed, engine.is_some())),
    });
    let renters: Vec<Arc<Mutex<Renter>>> = (0..plan.renters)
        .map(|number| {
            let random = Random::of(plan.seed, u64::try_from(number).unwrap() + 1);
            Arc::new(Mutex::new(Renter::new(number, market.requestor(), random)))
        })
        .collect();
    let threads: Vec<_> = renters
        .iter()
        .map(|renter| {
            let (renter, scene) = (Arc::clone(renter), Arc::clone(&scene));
            thread::spawn(move || renter::live(&renter, &scene))
        })
        .collect();

    let mut random = Random::of(plan.seed, 0);
    let mut troubles = Vec::new();
    let mut examined = Instant::now();
    while scene.began.elapsed() < plan.duration && !interrupted.load(Ordering::SeqCst) {
        pause(random.between(2_000, 8_000), plan, &scene, interrupted);
        if interrupted.load(Ordering::SeqCst) {
            break;
        }
        if troubles.is_empty() {
            troubles = Trouble::shuffled(&mut random, engine.is_some());
        }
        if let Some(trouble) = troubles.pop() {
            weather::strike(trouble, &mut market, engine.as_ref(), &mut random, &scene);
        }
        if examined.elapsed() > plan.interval {
            examine(&mut market, &renters, &scene);
            examined = Instant::now();
        }
    }
    scene.over.store(true, Ordering::SeqCst);
    for thread in threads {
        if thread.join().is_err() {
            scene.violated("a requestor's thread panicked; see above".to_owned());
        }
    }
    if !interrupted.load(Ordering::SeqCst) {
        examine(&mut market, &renters, &scene);
        examination::leave(&mut market, &renters, &scene);
    }
    drop(renters);
    close(market, engine, &scene, interrupted);
    scene.report().clone()
}

/// Gives everything up, which must leave nothing.
fn close(
    market: Market,
    engine: Option<PrivateEngine>,
    scene: &Scene,
    interrupted: &Arc<AtomicBool>,
) {
    let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| market.close()));
    if closed.is_err() && !interrupted.load(Ordering::SeqCst) {
        scene.violated("giving the provider up left something; see above".to_owned());
    }
    drop(engine);
    scene.report().lasted = scene.began.elapsed();
}

/// Waits so many milliseconds, less if time is up.
fn pause(millis: u64, plan: &Plan, scene: &Scene, interrupted: &AtomicBool) {
    let until = Instant::now() + Duration::from_millis(millis);
    while Instant::now() < until
        && scene.began.elapsed() < plan.duration
        && !interrupted.load(Ordering::SeqCst)
    {
        thread::sleep(Duration::from_millis(50));
    }
}
