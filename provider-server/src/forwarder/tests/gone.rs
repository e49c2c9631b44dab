//! Clients and VMs that leave by halves, or without a word.

use std::process::Command;

use tokio::time::Instant;

use super::super::keepalive::Keepalive;
use super::super::opening::Patience;
use super::*;

#[tokio::test]
async fn a_half_closed_session_ends_when_its_other_half_is_silent() {
    let silence = Duration::from_millis(300);
    let patience = Patience { half_closed: silence, ..Patience::default() };
    let forwarder = Forwarder::start_with(|options| options.patience = patience).await;
    let [port] = forwarder.offer().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    forwarder.route(port, server.local_addr().unwrap(), "box").await;
    for client_leaves in [true, false] {
        let mut client = forwarder.connect(port).await;
        let (mut vm, _) = server.accept().await.unwrap();
        let mut hello = [0; b"SSH-2.0-test\r\n".len()];
        vm.read_exact(&mut hello).await.unwrap();
        let (leaver, stayer) =
            if client_leaves { (&mut client, &mut vm) } else { (&mut vm, &mut client) };
        leaver.shutdown().await.unwrap();
        assert!(is_closed(stayer).await, "the other side is told");
        // The other half still works.
        stayer.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        leaver.read_exact(&mut more).await.unwrap();
        let began = Instant::now();
        assert!(is_closed(leaver).await);
        assert!(began.elapsed() + Duration::from_millis(50) >= silence, "{:?}", began.elapsed());
        until("nothing is left", async || forwarder.client.stats().await.unwrap().open == 0).await;
    }
    forwarder.stop().await;
}

/// Set in the process that has a network of its own.
const ALONE: &str = "GOLEM_TEST_NETWORK_OF_ITS_OWN";

/// Has the kernel lose every packet from and to a port, as if its machine were gone.
fn vanish(port: u16) {
    for end in ["sport", "dport"] {
        let rule = format!("add rule inet test input tcp {end} {port} drop");
        assert!(Command::new("nft").arg(rule).status().unwrap().success());
    }
}

/// Whether this process could have a network of its own, with rules in it.
fn network_of_its_own() -> bool {
    let tried = Command::new("unshare")
        .args(["-n", "sh", "-c", "ip link set lo up && nft add table inet test"])
        .output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// Runs a test of this program once more, in a network of its own.
fn run_alone(test: &str) {
    if !network_of_its_own() {
        eprintln!("skipped: it needs root, unshare, ip and nft");
        return;
    }
    let rules = "ip link set lo up && nft add table inet test && \
                 nft 'add chain inet test input { type filter hook input priority 0; }' && exec \"$@\"";
    let done = Command::new("unshare")
        .args(["-n", "sh", "-c", rules, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[tokio::test]
async fn who_has_vanished_is_found_and_who_is_only_silent_is_kept() {
    if std::env::var_os(ALONE).is_none() {
        return run_alone(
            "forwarder::tests::gone::who_has_vanished_is_found_and_who_is_only_silent_is_kept",
        );
    }
    let second = Duration::from_secs(1);
    let keepalive = Keepalive { after: second, every: second, times: 2 };
    let forwarder = Forwarder::start_with(|options| options.keepalive = keepalive).await;
    let [port] = forwarder.offer().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    forwarder.route(port, server.local_addr().unwrap(), "box").await;
    let open = async || {
        let client = forwarder.connect(port).await;
        let (mut vm, from) = server.accept().await.unwrap();
        let mut hello = [0; b"SSH-2.0-test\r\n".len()];
        vm.read_exact(&mut hello).await.unwrap();
        (client, vm, from)
    };
    let mut silent = open().await;
    let (client, mut vm, _) = open().await;
    let (mut other_client, other_vm, seen_from) = open().await;
    // Twice as long as it takes to find the dead.
    tokio::time::sleep(6 * second).await;
    assert_eq!(forwarder.client.stats().await.unwrap().open, 3, "they are alive");

    vanish(client.local_addr().unwrap().port());
    assert!(is_closed(&mut vm).await, "the VM of a client that is gone is told");
    // The forwarder's end of the VM's connection: what it says gets nowhere, and nothing comes back.
    vanish(seen_from.port());
    assert!(is_closed(&mut other_client).await, "and so is the client of a VM that is gone");
    until("one is left", async || forwarder.client.stats().await.unwrap().open == 1).await;
    silent.0.write_all(b"still here").await.unwrap();
    let mut still = [0; 10];
    silent.1.read_exact(&mut still).await.unwrap();
    drop((client, other_vm));
    forwarder.stop().await;
}
