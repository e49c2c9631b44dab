//! The provider is told to end in the middle of a create.

use std::process::{Command, Stdio};
use std::time::Duration;

use golem_vm_end_to_end::{Market, Outcome, eventually};

#[test]
fn a_create_ends_well_or_leaves_nothing_whenever_its_provider_ends() {
    let mut market = Market::with_one_provider();
    // Before it is admitted, while it is made, while it comes up, while it is logged in to.
    for after in [20, 150, 400, 800, 1500].map(Duration::from_millis) {
        let requestor = market.requestor();
        let id = market.provider().id().to_owned();
        let create = ["vm", "create", "box", "--provider-id", &id];
        let running = Background::start(requestor.command(&create));
        std::thread::sleep(after);
        let status = market.provider().service().stop();
        assert_eq!(status.code(), Some(0), "ended after {after:?}: {status}");
        market.provider().start();
        let outcome = running.end();
        if outcome.code != 0 {
            let code = outcome.code;
            assert!([3, 4, 5, 7].contains(&code), "{outcome}");
            outcome.failed(code);
        }
        // Whatever was said: the same command ends with exactly one VM.
        market.wait_until_listed();
        if requestor.vms().iter().all(|vm| vm["status"] != "running") {
            requestor.golem(&create).done();
        }
        assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
        assert_eq!(requestor.vms().len(), 1, "ended after {after:?}");
        eventually("there is one instance", || market.instances() == 1);
        requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
        assert_eq!(market.instances(), 0);
        let status = market.provider().status();
        assert_eq!(status["capacity"]["reserved"]["memory_mib"], 0, "{status}");
        assert_eq!(status["ports"]["in_use"], 0, "{status}");
    }
    market.close();
}

/// A command that runs while something else happens.
struct Background(std::thread::JoinHandle<Outcome>);

impl Background {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        Self(std::thread::spawn(move || Outcome::of(&mut command, b"")))
    }

    fn end(self) -> Outcome {
        self.0.join().unwrap()
    }
}
