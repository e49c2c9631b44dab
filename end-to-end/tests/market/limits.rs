//! What a guest may use of its host.

use std::time::{Duration, Instant};

use golem_vm_end_to_end::{Engine, Market, Requestor, eventually};

/// A market, somebody, and the engine's name for her VM.
fn rented() -> (Market, Requestor, String) {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    let container = market.provider().containers()[0]["Id"].as_str().unwrap().to_owned();
    (market, requestor, container)
}

#[test]
fn a_memory_hog_is_stopped_at_what_was_rented() {
    let (market, requestor, container) = rented();
    let limit = Engine::shared().inspect(&container)["HostConfig"]["Memory"].as_u64().unwrap();
    assert_eq!(limit, 1 << 30, "1 GiB was rented");
    // `tail` keeps the last line, and this one never ends.
    let hog = requestor.golem(&["vm", "ssh", "box", "--", "tail /dev/zero"]);
    assert_ne!(hog.code, 0, "{hog}");
    let usage = stats(&container)["memory_stats"]["max_usage"].as_u64();
    assert!(usage.is_none_or(|most| most <= limit), "{usage:?} of {limit}");
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    market.close();
}

#[test]
fn a_fork_bomb_is_stopped_at_the_limit() {
    let (market, requestor, container) = rented();
    let limit = Engine::shared().inspect(&container)["HostConfig"]["PidsLimit"].as_u64().unwrap();
    assert!((1..=32_768).contains(&limit), "{limit} processes");
    // It detaches, so that the login ends whatever becomes of it.
    let bomb = "bomb() { bomb | bomb & }; bomb";
    requestor.in_vm("box", &format!("setsid bash -c '{bomb}' >/dev/null 2>&1 </dev/null &"));
    let mut most = 0;
    eventually("the bomb fills all that it may", || {
        most = most.max(stats(&container)["pids_stats"]["current"].as_u64().unwrap());
        most * 10 >= limit * 9
    });
    assert!(most <= limit, "{most} of {limit}");
    // Its owner gets rid of it, and has the machine again.
    requestor.golem(&["vm", "restart", "box"]).done();
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    market.close();
}

#[test]
fn a_cpu_burner_gets_what_was_rented() {
    let (market, requestor, container) = rented();
    requestor.in_vm(
        "box",
        "for n in 1 2 3 4; do setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & done",
    );
    let spent = || stats(&container)["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().unwrap();
    let (began, before) = (Instant::now(), spent());
    std::thread::sleep(Duration::from_secs(3));
    let cpus = (spent() - before) as f64 / began.elapsed().as_nanos() as f64;
    // One vCPU was rented; a period's worth of rounding, and less where the host is busy.
    assert!(cpus < 1.15, "{cpus:.2} CPUs");
    market.close();
}

/// What the engine measures. An engine that is busy answers without figures at times.
fn stats(container: &str) -> serde_json::Value {
    let mut stats = serde_json::Value::Null;
    eventually("the engine has figures", || {
        stats = Engine::shared().get(&format!("/containers/{container}/stats?stream=0&one-shot=1"));
        stats["pids_stats"]["current"].is_u64()
    });
    stats
}
