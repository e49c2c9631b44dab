//! What runs is killed and brought back, at any moment.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Scene;
use super::random::Random;
use crate::market::Market;
use crate::private_engine::PrivateEngine;
use crate::waiting::within;

/// How long after a trouble something may still go wrong because of it: connections have deadlines,
/// and what an engine has lost is looked for every few seconds.
const AFTERMATH: Duration = Duration::from_secs(45);
/// Longest until something that was killed has been brought back.
const BACK: Duration = Duration::from_secs(120);

/// Something that happens to a market.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    ProviderKilled,
    ProviderStopped,
    ForwarderKilled,
    BothKilled,
    DiscoveryKilled,
    EngineKilled,
    EngineFrozen,
}

impl Trouble {
    /// Those that are possible, in some order: each once, and the provider's end more often. Whoever
    /// goes through them all has seen each.
    pub(crate) fn shuffled(random: &mut Random, private_engine: bool) -> Vec<Self> {
        use Trouble::{
            BothKilled, DiscoveryKilled, EngineFrozen, EngineKilled, ForwarderKilled,
            ProviderKilled, ProviderStopped,
        };
        let mut troubles = vec![ProviderKilled, ProviderKilled, ProviderKilled, ProviderKilled];
        troubles.extend([ProviderStopped, ForwarderKilled, BothKilled, DiscoveryKilled]);
        if private_engine {
            troubles.extend([EngineKilled, EngineFrozen]);
        }
        random.shuffle(&mut troubles);
        troubles
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ProviderKilled => "provider killed",
            Self::ProviderStopped => "provider stopped",
            Self::ForwarderKilled => "forwarder killed",
            Self::BothKilled => "both killed",
            Self::DiscoveryKilled => "discovery killed",
            Self::EngineKilled => "engine killed",
            Self::EngineFrozen => "engine frozen",
        }
    }

    /// Whether SSH sessions may end with it.
    const fn cuts(self) -> bool {
        matches!(self, Self::ForwarderKilled | Self::BothKilled | Self::EngineKilled)
    }

    /// Whether the provider's program ends with it.
    const fn ends_provider(self) -> bool {
        matches!(self, Self::ProviderKilled | Self::ProviderStopped | Self::BothKilled)
    }
}

#[derive(Debug, Clone, Copy)]
struct Storm {
    trouble: Trouble,
    began: Instant,
    ended: Option<Instant>,
    /// Whether nothing can be its consequence any more.
    over: bool,
}

impl Storm {
    fn can_have_disturbed(&self, since: Instant) -> bool {
        !self.over && self.ended.is_none_or(|ended| ended + AFTERMATH > since)
    }
}

/// When there was trouble.
#[derive(Debug, Default)]
pub(crate) struct Weather(Mutex<Vec<Storm>>);

impl Weather {
    fn storms<T>(&self, read: impl FnOnce(&mut Vec<Storm>) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether nothing that began at `since` can have been disturbed.
    pub(crate) fn was_calm_since(&self, since: Instant) -> bool {
        self.storms(|storms| !storms.iter().any(|storm| storm.can_have_disturbed(since)))
    }

    /// Whether something has happened since then that ends SSH sessions.
    pub(crate) fn has_cut_since(&self, since: Instant) -> bool {
        self.storms(|storms| {
            let mut cutting = storms.iter().filter(|storm| storm.trouble.cuts());
            cutting.any(|storm| storm.can_have_disturbed(since))
        })
    }

    /// How often the provider's program has ended between two moments.
    pub(crate) fn provider_ends(&self, from: Instant, to: Instant) -> u64 {
        self.storms(|storms| {
            let ends = storms.iter().filter(|storm| storm.trouble.ends_provider());
            let count = ends.filter(|storm| storm.began > from && storm.began < to).count();
            u64::try_from(count).unwrap()
        })
    }

    /// Nothing that happened before can disturb anything any more.
    pub(crate) fn clears(&self) {
        self.storms(|storms| storms.iter_mut().for_each(|storm| storm.over = true));
    }
}

/// Lets it happen, and brings back what has ended.
pub(crate) fn strike(
    trouble: Trouble,
    market: &mut Market,
    engine: Option<&PrivateEngine>,
    random: &mut Random,
    scene: &Scene,
) {
    let began = Instant::now();
    scene.weather.storms(|storms| storms.push(Storm { trouble, began, ended: None, over: false }));
    eprintln!("[{:>4} s] {}", scene.began.elapsed().as_secs(), trouble.as_str());
    let away = Duration::from_millis(random.between(0, 3_000));
    match trouble {
        Trouble::ProviderKilled => {
            market.provider().service().kill();
            thread::sleep(away);
        }
        Trouble::ProviderStopped => drop(market.provider().service().stop()),
        Trouble::ForwarderKilled => kill_forwarder(market),
        Trouble::BothKilled => {
            market.provider().service().kill();
            kill_forwarder(market);
            thread::sleep(away);
        }
        Trouble::DiscoveryKilled => {
            market.discovery.kill();
            thread::sleep(away);
            market.start_discovery_again();
        }
        Trouble::EngineKilled => {
            if let Some(engine) = engine {
                engine.signal(Signal::KILL);
                thread::sleep(away);
                engine.start_again();
            }
        }
        Trouble::EngineFrozen => {
            if let Some(engine) = engine {
                engine.signal(Signal::STOP);
                thread::sleep(away);
                engine.signal(Signal::CONT);
            }
        }
    }
    if trouble.ends_provider() {
        start_provider(market, scene);
    }
    let ended = Some(Instant::now());
    scene.weather.storms(|storms| {
        if let Some(storm) = storms.last_mut() {
            storm.ended = ended;
        }
    });
    *scene.report().troubles.entry(trouble.as_str()).or_default() += 1;
}

/// One may just be on its way up, after an earlier kill.
fn kill_forwarder(market: &mut Market) {
    let provider = market.provider();
    if within(Duration::from_secs(30), || provider.forwarder()).is_some() {
        provider.kill_forwarder();
    }
}

fn start_provider(market: &mut Market, scene: &Scene) {
    let mut said = String::new();
    let started = within(BACK, || market.provider().try_start().map_err(|error| said = error).ok());
    if started.is_none() {
        scene.violated(format!("the provider does not start again: {said}"));
    }
}
