//! The wall clock jumps back and forward by a day, while everything runs and over a restart. It is played by
//! libfaketime; time since the boot goes on as it does.

use std::path::{Path, PathBuf};

use golem_vm_end_to_end::{Engine, Market, Place, ProviderOptions, Requestor, Session, eventually};

use super::is_healthy;

/// A clock that the test sets.
struct FalseClock {
    directory: tempfile::TempDir,
    library: PathBuf,
}

impl FalseClock {
    /// `None`, and a line that says so, where the package `faketime` is not installed.
    fn new() -> Option<Self> {
        let found = std::fs::read_dir("/usr/lib").unwrap().flatten().find_map(|entry| {
            let library = entry.path().join("faketime/libfaketimeMT.so.1");
            library.exists().then_some(library)
        });
        let Some(library) = found else {
            eprintln!("skipped: libfaketime is not installed");
            return None;
        };
        let clock = Self { directory: tempfile::tempdir().unwrap(), library };
        clock.is_off_by("+0");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// Seconds, with a sign.
    fn is_off_by(&self, offset: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, format!("{offset}\n")).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn variables(&self) -> [(&'static str, String); 5] {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }
}

/// The VM goes on, and those whose clock agrees with the provider's go on with it.
fn goes_on(market: &Market, requestor: &Requestor, session: &mut Session, what: &str) {
    session.echoes(what);
    is_healthy(market);
    eventually(what, || requestor.vm("box")["stale"] == false);
    assert_eq!(requestor.vm("box")["status"], "running", "{what}");
    // A start may try something out in a container of its own.
    eventually("there is one instance", || market.instances() == 1);
    // Nobody has to wait for what was published by the other clock to end.
    market.wait_until_listed();
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n", "{what}");
}

#[test]
fn everybody_s_clock_jumps() {
    let Some(clock) = FalseClock::new() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut place = Place::new(home.path());
    for (name, value) in clock.variables() {
        place = place.with_variable(name, &value);
    }
    let mut market = Market::in_place(&place, &Engine::shared(), &[ProviderOptions::default()]);
    let requestor = market.requestor();
    // Shorter than the clock jumps.
    requestor.golem(&["vm", "create", "box", "--for", "12h"]).done();
    let mut session = requestor.session("box", &[]);
    for (offset, what) in [
        ("-86400", "back by a day"),
        ("+0", "forward by a day"),
        ("+86400", "forward by another day"),
        ("+0", "back again"),
    ] {
        clock.is_off_by(offset);
        goes_on(&market, &requestor, &mut session, what);
    }
    for (offset, what) in [
        ("-86400", "back over a restart"),
        ("+86400", "forward over a restart"),
        ("+0", "right again over a restart"),
    ] {
        market.provider().service().kill();
        clock.is_off_by(offset);
        market.provider().start();
        goes_on(&market, &requestor, &mut session, what);
    }
    market.close();
}

#[test]
fn the_provider_s_clock_alone_is_wrong() {
    let Some(clock) = FalseClock::new() else { return };
    let mut options = ProviderOptions::default();
    for (name, value) in clock.variables() {
        options = options.with(name, &value);
    }
    let mut market = Market::with_providers(&[options]);
    let requestor = market.requestor();
    requestor.golem(&["vm", "create", "box", "--for", "12h"]).done();
    let mut session = requestor.session("box", &[]);
    for (offset, how) in [("-86400", "ahead of"), ("+86400", "behind")] {
        clock.is_off_by(offset);
        session.echoes(offset);
        is_healthy(&market);
        let refused = requestor.golem(&["vm", "stop", "box"]);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(refused.stderr.contains("clock") && refused.stderr.contains(how), "{refused}");
        assert_eq!(requestor.vm("box")["stale"], true);
        assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
        assert_eq!(market.instances(), 1);
        clock.is_off_by("+0");
        goes_on(&market, &requestor, &mut session, "right again");
    }
    market.provider().service().stop();
    market.provider().start();
    goes_on(&market, &requestor, &mut session, "started again");
    market.close();
}
