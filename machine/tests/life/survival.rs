//! Machines whose provider is gone, or was never seen again.

use golem_vm_machine::process::ProcessIdentity;
use golem_vm_machine::vm::{Ended, Manifest, State};

use crate::support::Place;

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_found_again_with_nothing_but_its_directory() {
    let mut place = Place::new().await;
    let (name, mut console) = place.boot("found").await;
    console.run("mark=before").await;
    drop(console);
    let pid = place.pid(&name);
    place.again().await;
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Running);
    assert_eq!(place.pid(&name), pid);
    let mut console = place.console(&name).await;
    assert_eq!(console.run("echo $mark").await, "before");
    // What it did while nobody was there is still to be seen.
    console.run("{ (sleep 1; poweroff -f) & }").await;
    drop(console);
    place.again().await;
    let state = place.becomes(&name, |state| *state != State::Running).await;
    assert_eq!(state, State::Stopped(Ended::GuestShutdown));
    place.end(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_not_the_machines_is_never_signalled() {
    let place = Place::new().await;
    let name = place.make("stranger").await;
    // What the manifest of a machine says whose pid somebody else got.
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let process = ProcessIdentity::of(stranger.id()).unwrap();
    let directory = place.directory(&name);
    let mut manifest = Manifest::load(&directory).unwrap().unwrap();
    let mut run = super::support::run_of(&place, process.clone());
    run.process.start += 1;
    manifest.run = Some(run);
    manifest.save(&directory).unwrap();
    let state = place.machines.observe(&name).await.unwrap();
    assert!(matches!(state, State::Stopped(Ended::Crashed(_))), "{state:?}");
    manifest.save(&directory).unwrap();
    place.end(&name).await;
    assert!(process.alive().unwrap(), "it was signalled");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
