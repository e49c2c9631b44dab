//! Very many sessions at once. How much they cost: `benches/forwarder_sessions.rs`.

use super::super::limits;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_sessions_work_among_very_many() {
    let most = 1500;
    let forwarder = Forwarder::start_with(|options| {
        options.max_sessions_per_port = most;
        options.max_newcomers_per_port = most;
    })
    .await;
    // All four ends of each session are this process's.
    let fit = usize::try_from(limits::raise_open_files()).unwrap().saturating_sub(600) / 4;
    let [port] = forwarder.offer().await;
    forwarder.route(port, named_server("vm").await, "box").await;
    let mut sessions = Vec::new();
    for _ in 0..fit.min(most - 1) {
        let mut session = BufReader::new(forwarder.connect(port).await);
        assert_eq!(line(&mut session).await, "vm");
        sessions.push(session);
    }
    let open = forwarder.client.stats().await.unwrap().open;
    assert_eq!(open, sessions.len() as u64);
    let mut new = BufReader::new(forwarder.connect(port).await);
    assert_eq!(line(&mut new).await, "vm");
    assert!(echoes(&mut new, "new").await);
    for session in &mut sessions {
        assert!(echoes(session, "old").await);
    }
    drop((sessions, new));
    until("all are gone", async || forwarder.client.stats().await.unwrap().open == 0).await;
    forwarder.stop().await;
}
