//! One requestor, who knows what there should be.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Scene;
use super::held::Held;
use super::random::Random;
use crate::outcome::Outcome;
use crate::requestor::Requestor;
use crate::waiting::within;

/// Most VMs of one requestor at a time.
const MACHINES: usize = 3;
/// Longest that something may take to come right once all is at rest.
const RIGHT: Duration = Duration::from_secs(60);

/// How long a short lease lasts, and how much longer it gets when it is extended.
const LEASE: Duration = Duration::from_secs(40);
const EXTENSION: Duration = Duration::from_secs(60);
/// How long before its end nothing more is asked of a VM, and how long after it has to be enforced.
const BEFORE_END: Duration = Duration::from_secs(5);
const AFTER_END: Duration = Duration::from_secs(15);

/// What a VM should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Should {
    Run,
    Stand,
    /// Only kept: its lease has ended, or it was given up softly.
    Wait,
    /// Its lease is about to end, or has ended. `unsure` as below, whether it was kept or gone before.
    End {
        unsure: bool,
    },
    /// A request about it has failed in trouble: whatever it is now, it must not have been lost
    /// unless it was to be destroyed or had not been made.
    Unsure {
        may_be_gone: bool,
    },
}

/// The end of a short lease: somewhere between two moments, since nobody knows when exactly the
/// provider began to count.
#[derive(Debug, Clone, Copy)]
struct Term {
    earliest: Instant,
    latest: Instant,
    /// Whether the VM is destroyed then, and not kept.
    destroys: bool,
}

/// A VM as its requestor knows it.
#[derive(Debug)]
struct Machine {
    name: String,
    should: Should,
    /// When it ends, unless that is days away.
    term: Option<Term>,
    /// Whether the file is in it by which its disk is known again.
    marked: bool,
    held: Option<Held>,
}

/// A requestor.
#[derive(Debug)]
pub(crate) struct Renter {
    requestor: Requestor,
    random: Random,
    machines: Vec<Machine>,
    number: usize,
    names: u32,
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Create,
    Start,
    Stop,
    Restart,
    Destroy,
    Extend,
    Keep,
    Undelete,
    Use,
    Hold,
    LetGo,
    List,
}

/// How a command ended, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    Refused,
    InTrouble,
}

/// Does something now and then, until it is over.
pub(crate) fn live(renter: &Mutex<Renter>, scene: &Arc<Scene>) {
    while !scene.is_over() {
        let pause = {
            let mut renter = renter.lock().unwrap_or_else(PoisonError::into_inner);
            renter.act(scene);
            renter.random.between(100, 2_000)
        };
        // Outside of the lock: now everything can be brought to rest.
        thread::sleep(Duration::from_millis(pause));
    }
}

impl Renter {
    pub(crate) fn new(number: usize, requestor: Requestor, random: Random) -> Self {
        Self { requestor, random, machines: Vec::new(), number, names: 0 }
    }

    fn act(&mut self, scene: &Arc<Scene>) {
        self.machines.iter_mut().for_each(|machine| {
            if machine.held.as_ref().is_some_and(|held| !held.is_open()) {
                machine.held = None;
            }
        });
        self.mind_the_time();
        let room = u64::from(self.machines.len() < MACHINES);
        let some = u64::from(!self.machines.is_empty());
        let deed = self.random.weighed(&[
            (room * 6, Deed::Create),
            (some * 3, Deed::Start),
            (some * 2, Deed::Stop),
            (some, Deed::Restart),
            (some * 2, Deed::Destroy),
            (some * 2, Deed::Extend),
            (some, Deed::Keep),
            (some * 2, Deed::Undelete),
            (some * 4, Deed::Use),
            (some * 4, Deed::Hold),
            (some, Deed::LetGo),
            (2, Deed::List),
        ]);
        if let Deed::Create = deed {
            return self.create(scene);
        }
        if let Deed::List = deed {
            self.command(scene, "list", &["vm", "list", "--json"]);
            return;
        }
        let at = self.random.between(0, self.machines.len() as u64);
        let at = usize::try_from(at).unwrap();
        // It may end at any moment: whatever is asked of it may come too late.
        if matches!(self.machines[at].should, Should::End { .. }) {
            return;
        }
        match deed {
            Deed::Start => self.power(at, "start", Should::Run, scene),
            Deed::Stop => self.power(at, "stop", Should::Stand, scene),
            Deed::Restart => self.power(at, "restart", Should::Run, scene),
            Deed::Destroy => self.destroy(at, scene),
            Deed::Extend => self.extend(at, scene),
            Deed::Keep => self.keep(at, scene),
            Deed::Undelete => self.undelete(at, scene),
            Deed::Use => self.use_it(at, scene),
            Deed::Hold => {
                let machine = &mut self.machines[at];
                if machine.should == Should::Run && machine.held.is_none() {
                    let end = machine.term.map(|term| term.earliest - BEFORE_END);
                    machine.held = Some(Held::open(&self.requestor, &machine.name, end, scene));
                }
            }
            Deed::LetGo => self.machines[at].held = None,
            Deed::Create | Deed::List => {}
        }
    }

    /// Runs a command, counts how it ended, and says so if it should not have.
    fn command(&self, scene: &Scene, what: &'static str, arguments: &[&str]) -> Ended {
        let began = Instant::now();
        judged(scene, what, &self.requestor.golem(arguments), began)
    }

    fn create(&mut self, scene: &Arc<Scene>) {
        self.names += 1;
        let name = format!("box-{}-{}", self.number, self.names);
        let mut arguments = vec!["vm", "create", &name, "--timeout", "100"];
        let lease = format!("{}s", LEASE.as_secs());
        let expiry = self.random.weighed(&[(4, None), (1, Some("stop")), (1, Some("destroy"))]);
        if let Some(expiry) = expiry {
            arguments.extend(["--for", &lease, "--on-expiry", expiry]);
        }
        let began = Instant::now();
        let ended = self.command(scene, "create", &arguments);
        let term = expiry.map(|expiry| Term {
            earliest: began + LEASE,
            // Where nothing was heard of it, it may begin yet.
            latest: Instant::now() + if ended == Ended::Well { LEASE } else { LEASE + RIGHT },
            destroys: expiry == "destroy",
        });
        let should = match ended {
            Ended::Well => Should::Run,
            Ended::Refused => return,
            Ended::InTrouble => Should::Unsure { may_be_gone: true },
        };
        self.machines.push(Machine { name, should, term, marked: false, held: None });
        if ended == Ended::Well {
            self.use_it(self.machines.len() - 1, scene);
        }
    }

    fn power(&mut self, at: usize, what: &'static str, should: Should, scene: &Arc<Scene>) {
        let machine = &mut self.machines[at];
        if what != "start"
            && let Some(held) = machine.held.take()
        {
            held.may_end();
        }
        let sure = matches!(machine.should, Should::Run | Should::Stand);
        let may_be_gone = matches!(machine.should, Should::Unsure { may_be_gone: true });
        if machine.should == Should::Wait {
            return;
        }
        let name = machine.name.clone();
        let ended = self.command(scene, what, &["vm", what, &name]);
        self.machines[at].should = match ended {
            // One that is only kept is stopped too.
            Ended::Well if sure || should == Should::Run => should,
            Ended::Well => Should::Unsure { may_be_gone: false },
            Ended::Refused | Ended::InTrouble => Should::Unsure { may_be_gone },
        };
        if ended == Ended::Refused && sure {
            scene.violated(format!("in calm weather '{what}' of {name} was refused"));
        }
    }

    fn destroy(&mut self, at: usize, scene: &Arc<Scene>) {
        self.machines[at].held = None;
        let name = self.machines[at].name.clone();
        match self.command(scene, "destroy", &["vm", "destroy", &name, "--yes"]) {
            Ended::Well => drop(self.machines.remove(at)),
            _ => self.machines[at].should = Should::Unsure { may_be_gone: true },
        }
    }

    fn extend(&mut self, at: usize, scene: &Arc<Scene>) {
        let machine = &self.machines[at];
        if !matches!(machine.should, Should::Run | Should::Stand) {
            return;
        }
        let (name, span) = (machine.name.clone(), format!("{}s", EXTENSION.as_secs()));
        let ended = self.command(scene, "extend", &["vm", "extend", &name, "--for", &span]);
        if let Some(term) = &mut self.machines[at].term {
            if ended == Ended::Well {
                term.earliest += EXTENSION;
            }
            term.latest += EXTENSION;
        }
    }

    /// Gives it up softly.
    fn keep(&mut self, at: usize, scene: &Arc<Scene>) {
        let machine = &mut self.machines[at];
        if !matches!(machine.should, Should::Run | Should::Stand) {
            return;
        }
        machine.held = None;
        let name = machine.name.clone();
        let ended = self.command(scene, "keep", &["vm", "destroy", &name, "--keep", "--yes"]);
        let machine = &mut self.machines[at];
        machine.should = match ended {
            Ended::Well => Should::Wait,
            _ => Should::Unsure { may_be_gone: machine.term.is_some_and(|term| term.destroys) },
        };
        if ended == Ended::Well {
            machine.term = None;
        }
    }

    /// Has one back that was only kept, if there is room for it.
    fn undelete(&mut self, at: usize, scene: &Arc<Scene>) {
        if self.machines[at].should != Should::Wait {
            return;
        }
        let name = self.machines[at].name.clone();
        let ended = self.command(scene, "undelete", &["vm", "undelete", &name]);
        self.machines[at].should = match ended {
            Ended::Well => Should::Stand,
            Ended::Refused => Should::Wait,
            Ended::InTrouble => Should::Unsure { may_be_gone: false },
        };
    }

    /// Expects nothing more of VMs whose lease is about to end.
    fn mind_the_time(&mut self) {
        for machine in &mut self.machines {
            if machine.term.is_some_and(|term| term.earliest < Instant::now() + BEFORE_END) {
                let unsure =
                    matches!(machine.should, Should::Unsure { .. } | Should::End { unsure: true });
                machine.should = Should::End { unsure };
                machine.held = None;
            }
        }
    }

    /// Logs in, and sees that the disk is the one that it was.
    fn use_it(&mut self, at: usize, scene: &Arc<Scene>) {
        let machine = &self.machines[at];
        if machine.should != Should::Run {
            return;
        }
        let name = machine.name.clone();
        let line = match machine.marked {
            true => "cat mark".to_owned(),
            false => format!("echo {name} >mark && sync mark && cat mark"),
        };
        let began = Instant::now();
        let outcome = self.requestor.golem(&["vm", "ssh", &name, "--quiet", "--", &line]);
        if judged(scene, "log in", &outcome, began) == Ended::Well {
            self.machines[at].marked = true;
            if outcome.stdout.trim() != name {
                scene.violated(format!("{name} is another VM than before: {outcome}"));
            }
        }
    }

    /// Compares what there is with what there should be, now that all is at rest.
    pub(crate) fn examine(&mut self, scene: &Arc<Scene>) {
        let mut wrong = Vec::new();
        let right = within(RIGHT, || {
            wrong = self.compare();
            wrong.is_empty().then_some(())
        });
        if right.is_none() {
            wrong.into_iter().for_each(|what| scene.violated(what));
        }
        for at in 0..self.machines.len() {
            self.mind_the_time();
            self.use_it(at, scene);
        }
    }

    /// What is not as it should be. What nobody could be sure of is taken as it is found.
    fn compare(&mut self) -> Vec<String> {
        self.mind_the_time();
        let listed = self.requestor.golem(&["vm", "list", "--json"]);
        if listed.code != 0 {
            return vec![format!("at rest: {listed}")];
        }
        let listed = listed.json();
        let found: Vec<(String, String)> = listed["vms"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|vm| {
                let text = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
                let kept = !vm["lease"]["ended_at"].is_null();
                let status = text("status");
                (text("name"), if kept { format!("{status} and kept") } else { status })
            })
            .collect();
        let mut wrong = Vec::new();
        for (name, status) in &found {
            if !self.machines.iter().any(|machine| machine.name == *name) {
                wrong.push(format!("{name} is {status}, and was destroyed or never asked for"));
            }
        }
        let requestor = &self.requestor;
        self.machines.retain_mut(|machine| {
            let status = found.iter().find(|(name, _)| *name == machine.name);
            let status = status.map(|(_, status)| status.as_str());
            let name = &machine.name;
            const KEPT: &str = "stopped and kept";
            if let (Should::End { unsure }, Some(term)) = (machine.should, machine.term) {
                match (status, term.destroys) {
                    (None, destroys) if destroys || unsure => return false,
                    (Some(KEPT), destroys) if !destroys || unsure => {
                        (machine.should, machine.term) = (Should::Wait, None);
                    }
                    (Some("running" | "stopped"), _)
                        if Instant::now() < term.latest + AFTER_END => {}
                    _ => wrong
                        .push(format!("{name}, whose lease has ended, is {status:?}: {term:?}")),
                }
                return true;
            }
            match (machine.should, status) {
                (Should::Run, Some("running")) | (Should::Stand, Some("stopped")) => {}
                (Should::Wait, Some(KEPT)) => {}
                (Should::Unsure { .. }, Some(KEPT)) => {
                    (machine.should, machine.term) = (Should::Wait, None);
                }
                (Should::Unsure { may_be_gone: true }, None) => return false,
                (Should::Unsure { .. }, Some("running")) => machine.should = Should::Run,
                (Should::Unsure { .. }, Some("stopped")) => machine.should = Should::Stand,
                // It says what can be done about it; this must help.
                (Should::Unsure { .. }, Some("error")) => {
                    wrong.push(format!("{name} is in error, and 'start' did not help"));
                    drop(requestor.golem(&["vm", "start", name]));
                }
                (should, status) => {
                    wrong.push(format!("{name} should be {should:?}, and is {status:?}"));
                }
            }
            true
        });
        wrong
    }

    /// Destroys all its VMs.
    pub(crate) fn leave(&mut self, scene: &Arc<Scene>) {
        while let Some(machine) = self.machines.last_mut() {
            machine.held = None;
            let name = machine.name.clone();
            let outcome = self.requestor.golem(&["vm", "destroy", &name, "--yes"]);
            // One whose lease has just ended may be gone already.
            if outcome.code != 0 && !matches!(machine.should, Should::End { .. }) {
                scene.violated(format!("at the end: {outcome}"));
            }
            self.machines.pop();
        }
    }
}

/// Counts how a command ended that was begun then, and says so if it should not have.
fn judged(scene: &Scene, what: &'static str, outcome: &Outcome, began: Instant) -> Ended {
    let ended = match outcome.code {
        0 => Ended::Well,
        _ if !scene.weather.was_calm_since(began) => Ended::InTrouble,
        // Refused, or nobody has room.
        3 | 5 => Ended::Refused,
        _ => {
            scene.violated(format!("in calm weather: {outcome}"));
            Ended::InTrouble
        }
    };
    if outcome.stderr.contains("panicked") {
        scene.violated(format!("a program panicked: {outcome}"));
    }
    let mut report = scene.report();
    let tally = report.operations.entry(what).or_default();
    match ended {
        Ended::Well => tally.done += 1,
        Ended::Refused => tally.refused += 1,
        Ended::InTrouble => tally.disturbed += 1,
    }
    ended
}
