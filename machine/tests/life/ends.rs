//! How machines end by themselves.

use golem_vm_machine::process::Signal;
use golem_vm_machine::vm::{Ended, State};

use crate::support::Place;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_switches_itself_off_is_stopped() {
    let place = Place::new().await;
    let (name, mut console) = place.boot("off").await;
    console.send("poweroff -f").await;
    let state = place.becomes(&name, |state| *state != State::Running).await;
    assert_eq!(state, State::Stopped(Ended::GuestShutdown));
    assert_eq!(place.pid(&name), None, "its memory is given back");
    place.end(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_restarts_goes_on_in_the_same_process() {
    let place = Place::new().await;
    let (name, mut console) = place.boot("again").await;
    let pid = place.pid(&name);
    console.send("reboot -f").await;
    console.wait("GUEST UP").await;
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Running);
    assert_eq!(place.pid(&name), pid);
    place.end(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_kernel_gives_up_is_told_from_one_that_stops() {
    let place = Place::new().await;
    let (name, mut console) = place.boot("panic").await;
    console.send("echo c > /proc/sysrq-trigger").await;
    let state = place.becomes(&name, |state| *state != State::Running).await;
    assert_eq!(state, State::Stopped(Ended::GuestPanicked));
    place.end(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_is_killed_is_a_crash_and_the_machine_starts_again() {
    let place = Place::new().await;
    let (name, _console) = place.boot("crash").await;
    let run = place.machines.manifest(&name).unwrap().unwrap().run.unwrap();
    assert!(run.process.signal(Signal::KILL).unwrap());
    let state = place.becomes(&name, |state| *state != State::Running).await;
    assert!(matches!(state, State::Stopped(Ended::Crashed(_))), "{state:?}");
    // Its sockets are still there, and in nobody's way.
    place.start(&name).await;
    place.end(&name).await;
}
