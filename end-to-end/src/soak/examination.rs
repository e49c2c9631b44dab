//! Everything at rest, and looked at.

use std::sync::{Arc, Mutex, PoisonError};

use super::Scene;
use super::renter::Renter;
use crate::market::Market;

/// Waits until no requestor is at anything, and nothing else; then looks whether all is as it has to
/// be. Sessions go on meanwhile.
pub(crate) fn examine(market: &mut Market, renters: &[Arc<Mutex<Renter>>], scene: &Arc<Scene>) {
    let mut renters: Vec<_> = renters
        .iter()
        .map(|renter| renter.lock().unwrap_or_else(PoisonError::into_inner))
        .collect();
    let what = |violation: String| scene.violated(format!("at rest: {violation}"));
    market.provider_at(0).unsettled().into_iter().for_each(what);
    // A command that fails from now on has no excuse.
    scene.weather.clears();
    renters.iter_mut().for_each(|renter| renter.examine(scene));
    market.provider_at(0).unsettled().into_iter().for_each(what);
    let mut report = scene.report();
    report.examinations += 1;
    eprintln!(
        "[{:>4} s] examined: {} violations so far",
        scene.began.elapsed().as_secs(),
        report.violations.len()
    );
}

/// Destroys every VM; then everything has to be free.
pub(crate) fn leave(market: &mut Market, renters: &[Arc<Mutex<Renter>>], scene: &Arc<Scene>) {
    for renter in renters {
        renter.lock().unwrap_or_else(PoisonError::into_inner).leave(scene);
    }
    let provider = market.provider_at(0);
    provider.unsettled().into_iter().for_each(|what| scene.violated(format!("at the end: {what}")));
    let reserved = provider.status()["capacity"]["reserved"].clone();
    let nothing = reserved.as_object().is_some_and(|all| all.values().all(|amount| amount == 0));
    if !nothing || !provider.containers().is_empty() {
        scene.violated(format!(
            "with every VM destroyed, {reserved} is reserved and there are {} containers",
            provider.containers().len()
        ));
    }
}
