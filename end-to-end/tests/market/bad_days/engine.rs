//! The engine hangs, is killed, stops in order or can't be reached, also in the middle of what it was told.

use std::path::Path;
use std::time::Duration;

use golem_vm_end_to_end::{
    Market, Outcome, PrivateEngine, ProviderOptions, Requestor, Session, eventually, signal,
};
use rustix::process::Signal;

use super::{answers, is_healthy};

/// Long enough for every command that is on its way to have reached the engine.
const AWAY: Duration = Duration::from_secs(3);

struct Rented {
    market: Market,
    requestor: Requestor,
    /// A session in the VM `box`, which nobody touches.
    session: Session,
    engine: PrivateEngine,
}

fn rented() -> Option<Rented> {
    let (engine, market) = Market::on_an_engine_of_its_own(&ProviderOptions::roomy())?;
    let requestor = market.requestor();
    for name in ["box", "runs", "stopped", "going"] {
        requestor.rent(name);
    }
    requestor.golem(&["vm", "stop", "stopped"]).done();
    requestor.in_vm("box", "echo kept >file");
    let mut session = requestor.session("box", &[]);
    session.echoes("before");
    Some(Rented { market, requestor, session, engine })
}

impl Rented {
    fn status(&self, name: &str) -> Option<String> {
        let vms = self.requestor.vms();
        let vm = vms.iter().find(|vm| vm["name"] == name)?;
        Some(vm["status"].as_str().unwrap().to_owned())
    }

    /// All that can be asked of it at once, with the engine as it is; what happens meanwhile is `meanwhile`.
    fn in_the_middle(&mut self, meanwhile: impl FnOnce(&mut Market, &mut Session)) -> Vec<Outcome> {
        let commands: [&[&str]; 4] = [
            &["vm", "create", "new"],
            &["vm", "stop", "runs"],
            &["vm", "start", "stopped"],
            &["vm", "destroy", "going", "--yes"],
        ];
        let Self { market, requestor, session, .. } = self;
        let requestor = &*requestor;
        std::thread::scope(|scope| {
            let running = commands.map(|command| scope.spawn(|| requestor.golem(command)));
            meanwhile(market, session);
            running.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    /// Every VM is as the engine has it, the one that nobody touched runs, and nothing is left over.
    fn is_in_order(&self) -> bool {
        let vms = self.requestor.vms();
        let containers = self.market.providers[0].containers();
        vms.len() == containers.len()
            && vms.iter().all(|vm| {
                let name = format!("/golem-{}", vm["vm_id"].as_str().unwrap_or_default());
                let found = containers.iter().find(|one| one["Names"][0] == name.as_str());
                let state = found.map(|one| one["State"].as_str().unwrap_or_default());
                let wanted = match vm["status"].as_str() {
                    Some("running") => "running",
                    Some("stopped") => "exited",
                    _ => return false,
                };
                vm["stale"] == false && state == Some(wanted)
            })
            && self.requestor.golem(&["vm", "ssh", "box", "--", "cat file"]).stdout == "kept\n"
    }
}

#[test]
fn one_that_hangs_or_is_killed_in_the_middle_of_everything() {
    let Some(mut rented) = rented() else { return };

    // Hung for a while: nobody's VM is taken for gone, the API answers, and all is done afterwards.
    rented.engine.signal(Signal::STOP);
    let pid = rented.engine.daemon();
    let outcomes = rented.in_the_middle(|market, session| {
        let stranger = market.requestor();
        std::thread::sleep(AWAY);
        session.echoes("hung");
        assert!(stranger.vms().is_empty());
        is_healthy(market);
        signal(pid, Signal::CONT);
    });
    for outcome in outcomes {
        outcome.done();
    }
    eventually("all is in order", || rented.is_in_order());
    let status = |rented: &Rented, name: &str| rented.status(name);
    assert_eq!(status(&rented, "new").as_deref(), Some("running"));
    assert_eq!(status(&rented, "runs").as_deref(), Some("stopped"));
    assert_eq!(status(&rented, "stopped").as_deref(), Some("running"));
    assert_eq!(status(&rented, "going"), None);
    rented.session.echoes("after the hang");

    // Killed in the middle of as much.
    for command in [
        &["vm", "start", "runs"][..],
        &["vm", "stop", "stopped"],
        &["vm", "destroy", "new", "--yes"],
    ] {
        rented.requestor.golem(command).done();
    }
    rented.requestor.rent("going");
    let outcomes = rented.in_the_middle(|market, _| {
        std::thread::sleep(Duration::from_millis(300));
        signal(pid, Signal::KILL);
        is_healthy(market);
    });
    for outcome in outcomes {
        // Done in time, or told in one sentence.
        if outcome.code != 0 {
            let code = outcome.code;
            outcome.failed(code);
        }
    }
    answers(&rented.market, &rented.requestor, "box");
    rented.engine.start_again();
    eventually("what was being destroyed is destroyed", || {
        // Whoever was told that it could not be asked for now asks again.
        rented.requestor.golem(&["vm", "list"]).code == 0 && rented.status("going").is_none()
    });
    eventually("all is in order", || rented.is_in_order());
    rented.requestor.golem(&["vm", "create", "newer"]).done();
    eventually("all is in order", || rented.is_in_order());
    let Rented { market, engine, .. } = rented;
    market.close();
    drop(engine);
}

#[test]
fn one_that_stops_in_order_or_whose_socket_goes() {
    let Some(mut rented) = rented() else { return };
    let id = rented.market.provider().id().to_owned();
    let create = ["vm", "create", "new", "--provider-id", &id];

    // Its socket is gone, and its containers go on.
    rented.engine.hide_socket();
    rented.session.echoes("no socket");
    answers(&rented.market, &rented.requestor, "box");
    rented.requestor.golem(&create).failed(4).says(&["Docker Engine", "docker.sock"]);
    rented.requestor.golem(&["vm", "stop", "runs"]).failed(4).says(&["Docker Engine"]);
    let destroyed = rented.requestor.golem(&["vm", "destroy", "going", "--yes"]);
    assert_eq!(rented.requestor.in_vm("box", "cat file"), "kept\n");
    assert_eq!(rented.status("runs").as_deref(), Some("running"), "no answer is no reason");
    assert_eq!(rented.status("stopped").as_deref(), Some("stopped"));
    rented.engine.show_socket();
    eventually("what was being destroyed is destroyed", || rented.market.instances() == 3);
    if destroyed.code != 0 {
        rented.requestor.golem(&["vm", "list"]).done();
    }
    eventually("all is in order", || rented.is_in_order());
    assert_eq!(rented.status("going"), None);
    rented.session.echoes("the socket is back");

    // Stopped in order, its containers with it, and started again.
    let daemon = rented.engine.daemon();
    signal(daemon, Signal::TERM);
    assert!(rented.session.has_ended(), "the VM did not end with its engine");
    eventually("the engine is gone", || !Path::new(&format!("/proc/{daemon}")).exists());
    answers(&rented.market, &rented.requestor, "box");
    let other = ["vm", "create", "other", "--provider-id", &id];
    rented.requestor.golem(&other).failed(4).says(&["Docker Engine"]);
    rented.engine.start_again();
    // By itself: nobody says start.
    eventually("all is in order", || rented.is_in_order());
    let statuses = ["box", "runs", "stopped"].map(|name| rented.status(name).unwrap());
    assert_eq!(statuses, ["running", "running", "stopped"]);
    rented.market.wait_until_listed();
    rented.requestor.golem(&create).done();
    let Rented { market, engine, .. } = rented;
    market.close();
    drop(engine);
}
