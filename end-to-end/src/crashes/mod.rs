//! Kills a provider at its fail points, in the middle of everything that it does for a VM, and looks at
//! what is left of it then.
//!
//! A [`Scenario`] is played once without a kill, which shows the points that it passes; then once for each
//! of them with a kill there: [`play`]. The provider is started again, what was asked for is asked again as
//! `golem` does, and in the end everything has to be as if nothing had happened, and
//! [`crate::invariants`] hold. [`Tally`] counts.

mod chance;
mod rig;
mod scenario;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use chance::{Chance, SEED};
pub use rig::Rig;
use rig::{Step, Trouble};
use scenario::Case;
pub use scenario::{SCENARIOS, Scenario};

use crate::waiting::within;

/// How long a kill is waited for after what was asked for is done. Only what other work of the provider
/// passes can be missing by then.
const LINGER: Duration = Duration::from_millis(1500);

/// Where to kill: the point, and at the how many-th time that it is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kill {
    /// The point's name.
    pub point: String,
    /// From 1.
    pub nth: usize,
}

impl std::fmt::Display for Kill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.point, self.nth)
    }
}

/// What came of playing a scenario.
#[derive(Debug, Default)]
pub struct Played {
    /// The kills that took place.
    pub killed: Vec<Kill>,
    /// The points that were passed until the first kill, or until the end.
    pub passed: Vec<String>,
    /// Those passed after it.
    pub passed_then: Vec<String>,
    /// What does not hold in the end, in sentences.
    pub wrong: Vec<String>,
}

impl Played {
    /// A kill for each time that a point was passed.
    #[must_use]
    pub fn kills(&self) -> Vec<Kill> {
        counted(&self.passed)
    }

    /// The same for what was passed after the first kill.
    #[must_use]
    pub fn kills_then(&self) -> Vec<Kill> {
        counted(&self.passed_then)
    }
}

fn counted(passed: &[String]) -> Vec<Kill> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let mut kills = Vec::new();
    for point in passed {
        let nth = times.entry(point).or_default();
        *nth += 1;
        kills.push(Kill { point: point.clone(), nth: *nth });
    }
    kills
}

/// What was done in all.
#[derive(Debug, Default)]
pub struct Tally {
    /// The points at which it was killed.
    pub points: BTreeSet<String>,
    /// How often it was killed.
    pub kills: usize,
    /// Kills that were planned at a point that was not reached so often this time.
    pub missed: usize,
    /// What did not hold, in sentences.
    pub wrong: Vec<String>,
}

impl Tally {
    /// Counts what came of a scenario in which this was planned.
    pub fn count(&mut self, planned: usize, played: Played) {
        self.kills += played.killed.len();
        self.missed += planned.saturating_sub(played.killed.len());
        self.points.extend(played.killed.into_iter().map(|kill| kill.point));
        self.wrong.extend(played.wrong);
    }

    /// The same of another's.
    pub fn add(&mut self, other: Self) {
        self.points.extend(other.points);
        self.kills += other.kills;
        self.missed += other.missed;
        self.wrong.extend(other.wrong);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (points, kills, missed) = (self.points.len(), self.kills, self.missed);
        write!(f, "points {points}, kills {kills} (missed {missed}), leaks {}", self.wrong.len())
    }
}

/// Kills at a few of the many points, others each time, on a backend on which a kill costs seconds: `count` of the
/// scenarios that are wanted, and one kill in each, or everywhere with `GOLEM_CRASHES=all`.
///
/// # Panics
/// When something is wrong after a kill, or without one.
pub fn sample(
    rig: &mut Rig,
    chance: &Chance,
    count: usize,
    wanted: fn(&Scenario) -> bool,
) -> Tally {
    let all = std::env::var("GOLEM_CRASHES").is_ok_and(|wanted| wanted == "all");
    let (count, each) = if all { (usize::MAX, usize::MAX) } else { (count, 1) };
    let scenarios = SCENARIOS.iter().filter(|one| one.settings.is_empty() && wanted(one));
    let mut tally = Tally::default();
    for scenario in chance.of("scenarios").sample(scenarios.collect(), count) {
        let mut chance = chance.of(scenario.name);
        let shown = play(rig, scenario, &[], &mut chance);
        assert!(shown.wrong.is_empty(), "{}", shown.wrong.join("\n"));
        for kill in chance.sample(shown.kills(), each) {
            tally.count(1, play(rig, scenario, &[kill], &mut chance));
            assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
        }
    }
    tally
}

/// Plays a scenario with these kills, one after the other (none: without). `chance` decides whether what
/// was asked for is asked again at once, or when all has come to rest.
pub fn play(rig: &mut Rig, scenario: &Scenario, kills: &[Kill], chance: &mut Chance) -> Played {
    let mut played = Played::default();
    let mut case = Case::new(rig.next_name(scenario.prefix));
    let told: Vec<String> = kills.iter().map(ToString::to_string).collect();
    let told = format!("{} killed at [{}]", scenario.name, told.join(", "));
    match the_case(rig, scenario, kills, chance, &mut case, &mut played) {
        Ok(()) => {}
        Err(trouble) => played.wrong.push(format!("{trouble:?}")),
    }
    rig.points.disarm();
    for wrong in &mut played.wrong {
        *wrong = format!("{told}, {}: {wrong}", case.name);
    }
    played
}

fn the_case(
    rig: &mut Rig,
    scenario: &Scenario,
    kills: &[Kill],
    chance: &mut Chance,
    case: &mut Case,
    played: &mut Played,
) -> Step {
    (scenario.prepare)(rig, case)?;
    if !scenario.passes {
        rig.at_rest("before any kill")?;
    }
    let begin = rig.points.reached().len();
    let mut first_end = None;
    let mut left = kills.iter();
    let mut armed = arm(rig, left.next());
    loop {
        match (scenario.act)(rig, case).and_then(|()| linger(rig, armed)) {
            Ok(()) => break,
            Err(Trouble::Ended) => {}
            Err(trouble) => return Err(trouble),
        }
        loop {
            let Some(kill) = armed.filter(|_| rig.has_ended()) else {
                return Err(Trouble::Wrong("it gave no answer, and was not killed".to_owned()));
            };
            played.killed.push(kill.clone());
            first_end.get_or_insert_with(|| rig.points.reached().len());
            armed = arm(rig, left.next());
            match rig.start() {
                Ok(()) => break,
                Err(Trouble::Ended) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        // With the client's next try or without it, all comes right.
        if armed.is_none() && scenario.rests_alone && chance.coin() {
            rig.at_rest("after the kill, before the client's next try")?;
        }
    }
    arm(rig, None);
    rig.arrives(&case.name, scenario.end)?;
    rig.at_rest("in the end")?;
    (scenario.check)(rig, case).map_err(Trouble::Wrong)?;
    rig.has_one(&case.name, case.vm.as_deref(), scenario.end)?;
    rig.books_add_up()?;
    let reached = rig.points.reached();
    let (before, then) = reached.split_at(first_end.unwrap_or(reached.len()));
    played.passed = before[begin..].to_vec();
    played.passed_then = then.to_vec();
    rig.tidy(&case.name)
}

fn arm<'a>(rig: &Rig, kill: Option<&'a Kill>) -> Option<&'a Kill> {
    match kill {
        Some(kill) => rig.points.arm(&kill.point, kill.nth),
        None => rig.points.disarm(),
    }
    kill
}

/// Waits for a kill that comes after what was asked for is done, if one is to come.
fn linger(rig: &mut Rig, armed: Option<&Kill>) -> Step {
    let ended = armed.and_then(|_| within(LINGER, || rig.is_over().then_some(())));
    if ended.is_some() { Err(Trouble::Ended) } else { Ok(()) }
}
