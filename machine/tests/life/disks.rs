//! Snapshots, other sizes, and copies.

use golem_vm_machine::hardware::Size;
use golem_vm_machine::vm::{Ended, MachineError, State};

use crate::support::{LONG, Place};

const READ: &str = "dd if=/dev/vda bs=512 skip=5 count=1 iflag=direct 2> /dev/null | head -n 1";

fn write(what: &str) -> String {
    format!("echo {what} | dd of=/dev/vda bs=512 seek=5 conv=fsync,sync 2> /dev/null")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_taken_back_to_its_snapshots() {
    let place = Place::new().await;
    let name = place.make("back").await;
    place.machines.snapshot(&name, "empty").await.unwrap();
    let mut console = place.start(&name).await;
    console.run("mark=one").await;
    console.run(&write("one")).await;
    place.machines.snapshot(&name, "one").await.unwrap();
    place.machines.snapshot(&name, "one").await.unwrap();
    // It has gone on.
    assert_eq!(console.run("echo $mark").await, "one");
    console.run("mark=two").await;
    console.run(&write("two")).await;
    let listed = place.machines.snapshots(&name).await.unwrap();
    let names: Vec<_> =
        listed.iter().map(|one| (one.name.as_str(), one.memory_bytes > 0)).collect();
    assert_eq!(names, [("empty", false), ("one", true)]);
    let runs = place.machines.restore(&name, "one").await;
    assert!(matches!(runs, Err(MachineError::NotNow(_))), "{runs:?}");
    drop(console);
    place.machines.stop(&name, LONG).await.unwrap();
    assert_eq!(place.machines.snapshots(&name).await.unwrap(), listed);
    assert!(!place.machines.restore(&name, "none").await.unwrap());
    assert!(place.machines.restore(&name, "one").await.unwrap());
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Suspended);
    // Grown meanwhile, it stays as large.
    let size = Size { vcpus: 1, memory_mib: 128 };
    place.machines.resize(&name, size, 1000, 128 << 20).await.unwrap();
    place.machines.start(&name).await.unwrap();
    let mut console = place.console(&name).await;
    assert_eq!(console.run("echo $mark").await, "one");
    assert_eq!(console.run(READ).await, "one");
    assert_eq!(console.run("cat /sys/block/vda/size").await, (128u64 << 20 >> 9).to_string());
    place.machines.remove_snapshot(&name, "one").await.unwrap();
    place.machines.remove_snapshot(&name, "one").await.unwrap();
    drop(console);
    place.machines.stop(&name, LONG).await.unwrap();
    assert!(place.machines.restore(&name, "empty").await.unwrap());
    assert_eq!(place.machines.observe(&name).await.unwrap(), State::Stopped(Ended::Stopped));
    let mut console = place.start(&name).await;
    assert_eq!(console.run(READ).await.trim_matches('\0'), "");
    drop(console);
    place.end(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_grows_and_never_shrinks_and_is_copied_while_it_runs() {
    let place = Place::new().await;
    let (name, mut console) = place.boot("size").await;
    console.run(&write("mine")).await;
    let larger = Size { vcpus: 2, memory_mib: 192 };
    place.machines.resize(&name, larger, 2000, 96 << 20).await.unwrap();
    place.machines.resize(&name, larger, 2000, 96 << 20).await.unwrap();
    assert_eq!(console.run("cat /sys/block/vda/size").await, (96u64 << 20 >> 9).to_string());
    assert_eq!(console.run("nproc").await, "1", "from the next start on");
    let refused = place.machines.resize(&name, larger, 2000, 95 << 20).await.unwrap_err();
    assert!(refused.to_string().contains("smaller"), "{refused}");
    assert_eq!(console.run("cat /sys/block/vda/size").await, (96u64 << 20 >> 9).to_string());
    // Its copy is another machine with the same disk.
    place.machines.snapshot(&name, "kept").await.unwrap();
    let copy = "copy".parse().unwrap();
    let spec = golem_vm_machine::vm::MachineSpec { disk_bytes: 128 << 20, ..place.spec(&copy) };
    place.machines.ensure_copy(&name, &spec).await.unwrap();
    place.machines.ensure_copy(&name, &spec).await.unwrap();
    assert_eq!(console.run("echo still").await, "still");
    assert!(place.machines.snapshots(&copy).await.unwrap().is_empty());
    drop(console);
    place.machines.stop(&name, LONG).await.unwrap();
    let mut console = place.start(&copy).await;
    assert_eq!(console.run(READ).await, "mine");
    assert_eq!(console.run("cat /sys/block/vda/size").await, (128u64 << 20 >> 9).to_string());
    console.run(&write("theirs")).await;
    drop(console);
    place.machines.destroy(&copy).await.unwrap();
    let mut console = place.start(&name).await;
    assert_eq!(console.run(READ).await, "mine");
    assert_eq!(console.run("nproc").await, "2");
    drop(console);
    place.end(&name).await;
}
