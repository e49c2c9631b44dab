//! Started, stopped, suspended, removed.

use std::time::{Duration, Instant};

use golem_vm_machine::vm::{Ended, State};

use crate::support::{LONG, Place};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_from_its_making_to_its_end() {
    let place = Place::new().await;
    let name = place.make("life").await;
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Stopped(Ended::Never));
    let begun = Instant::now();
    let mut console = place.start(&name).await;
    println!("up after {:?}", begun.elapsed());
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Running);
    // Done again, it changes nothing.
    let pid = place.pid(&name);
    place.machines.start(&name).await.unwrap();
    place.machines.ensure(&place.spec(&name)).await.unwrap();
    assert_eq!(place.pid(&name), pid);
    // What it is made of.
    assert_eq!(console.run("nproc").await, "1");
    let disk = console.run("cat /sys/block/vda/size").await;
    assert_eq!(disk, (64 << 20 >> 9).to_string(), "sectors that were asked for");
    assert_eq!(console.run("cat /sys/block/vdb/ro").await, "1", "the seed is only read");
    console.run("echo kept | dd of=/dev/vda bs=512 seek=9 conv=fsync 2> /dev/null").await;
    // It runs without any right, in a group that bounds it.
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.unwrap())).unwrap();
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.lines().any(|is| is == line), "{line} not in {status}");
    }
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.unwrap())).unwrap();
    assert!(groups.contains("golem-life"), "{groups}");
    // Its power button.
    let begun = Instant::now();
    place.machines.stop(&name, LONG).await.unwrap();
    assert!(begun.elapsed() < LONG);
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Stopped(Ended::Stopped));
    let log =
        String::from_utf8_lossy(&place.machines.console_log(&name).await.unwrap()).into_owned();
    assert!(log.contains("GUEST UP") && log.contains("BUTTON"), "{log}");
    // What it wrote is there at the next start.
    let mut console = place.start(&name).await;
    assert_eq!(
        console.run("dd if=/dev/vda bs=512 skip=9 count=1 2> /dev/null | head -n 1").await,
        "kept"
    );
    // One that does not listen to its power button is switched off.
    console.run("killall -STOP head").await;
    place.machines.stop(&name, Duration::from_millis(300)).await.unwrap();
    place.end(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_machine_goes_on_where_it_was() {
    let place = Place::new().await;
    let (name, mut console) = place.boot("rest").await;
    console.run("mark=$$-in-memory").await;
    console.run("echo disk | dd of=/dev/vda bs=512 seek=3 conv=fsync 2> /dev/null").await;
    let begun = Instant::now();
    place.machines.suspend(&name).await.unwrap();
    println!("suspended after {:?}", begun.elapsed());
    assert_eq!(place.pid(&name), None);
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Suspended);
    place.machines.suspend(&name).await.unwrap();
    let begun = Instant::now();
    place.machines.start(&name).await.unwrap();
    println!("resumed after {:?}", begun.elapsed());
    let mut console = place.console(&name).await;
    assert_eq!(console.run("echo $mark").await, "1-in-memory");
    assert_eq!(
        console.run("dd if=/dev/vda bs=512 skip=3 count=1 2> /dev/null | head -n 1").await,
        "disk"
    );
    // Given up, it boots.
    place.machines.suspend(&name).await.unwrap();
    place.machines.stop(&name, LONG).await.unwrap();
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Suspended);
    place.machines.forget(&name).await.unwrap();
    place.machines.forget(&name).await.unwrap();
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Stopped(Ended::Stopped));
    let mut console = place.start(&name).await;
    assert_eq!(console.run("echo mark=$mark").await, "mark=");
    place.end(&name).await;
}
