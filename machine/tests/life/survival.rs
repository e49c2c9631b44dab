//! Machines whose provider is gone, or was never seen again.

use std::net::SocketAddr;
use std::time::Duration;

use golem_vm_machine::network::{Access, Addressing};
use golem_vm_machine::process::ProcessIdentity;
use golem_vm_machine::vm::{Ended, MachineName, MachineSpec, Manifest, Network, State};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{LONG, Place};

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

/// Its guest answers on port 22 with a greeting, as an SSH server does.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_uplink_died_gets_another_one_at_the_same_address() {
    let mut place = Place::new().await;
    let name: MachineName = "uplink".parse().unwrap();
    let addressing = Addressing::of(&[9; 16]);
    let network = Network { addressing: addressing.clone(), access: Access::Internet };
    let spec = MachineSpec { network: Some(network), ..place.spec(&name) };
    place.machines.ensure(&spec).await.unwrap();
    let mut console = place.start(&name).await;
    let Addressing { guest, gateway, prefix, .. } = &addressing;
    console
        .run(&format!(
            "ip address add {guest}/{prefix} dev eth0; ip link set eth0 up; ip route add default via {gateway}; \
             {{ while true; do nc -l -p 22 -e echo hello; done & }}"
        ))
        .await;
    let run = || place.machines.manifest(&name).unwrap().unwrap().run.unwrap();
    let first = run();
    greets(first.ssh.unwrap()).await;
    first.uplink.as_ref().unwrap().kill(LONG).await.unwrap();
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Running);
    let second = run();
    assert_ne!(second.uplink, first.uplink);
    assert_eq!((&second.process, second.ssh), (&first.process, first.ssh));
    greets(second.ssh.unwrap()).await;
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Running);
    assert_eq!(run().uplink, second.uplink, "one that is there stays");

    // The same by another run of the program, which did not start it.
    second.uplink.as_ref().unwrap().kill(LONG).await.unwrap();
    place.again().await;
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Running);
    let third = place.machines.manifest(&name).unwrap().unwrap().run.unwrap();
    assert_ne!(third.uplink, second.uplink);
    greets(third.ssh.unwrap()).await;
    place.end(&name).await;
    assert!(!third.uplink.unwrap().alive().unwrap());
}

/// Waits until a guest says hello at that address.
async fn greets(address: SocketAddr) {
    let deadline = Instant::now() + LONG;
    loop {
        let asked = timeout(Duration::from_secs(5), async {
            let mut said = [0; 5];
            TcpStream::connect(address).await?.read_exact(&mut said).await?;
            Ok::<_, std::io::Error>(said)
        });
        match asked.await {
            Ok(Ok(said)) => return assert_eq!(&said, b"hello"),
            other => assert!(Instant::now() < deadline, "{address}: {other:?}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
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
