#![allow(clippy::unwrap_used, missing_docs)]
mod support;
use support::Home; use support::discovery::Discovery; use support::provider::Provider; use support::sshd::Sshd;
#[test] fn look() {
    let sshd = Sshd::start(); let d = Discovery::new();
    let p = Provider::with_sshd(1,&sshd); let q = Provider::with_sshd(2,&sshd);
    q.set(|s| {s.core_month=1_000_000; s.refuse=Some((golem_vm_protocol::ErrorCode::InsufficientCapacity,"1 vCPU is wanted, 0 are free"));});
    d.list(&p); d.list(&q);
    let h = Home::with(&d);
    let r = h.golem(&["vm","create","box"]); println!("--- piped out\n{}--- err\n{}", r.stdout, r.stderr);
    println!("--- tty\n{}", h.on_terminal(&["vm","create","box2"],"").stdout.replace('\x1b',"^["));
    println!("--- tty\n{}", h.on_terminal(&["vm","providers"],"").stdout);
    println!("--- tty\n{}", h.on_terminal(&["vm","list"],"").stdout);
    println!("--- tty\n{}", h.on_terminal(&["config","list"],"").stdout);
    p.stop();
    let r = h.golem(&["vm","create","boxx"]); println!("--- err {}\n{}", r.code, r.stderr);
    p.start(); p.set(|s| s.hang=true);
    let t=std::time::Instant::now();
    let r = h.golem(&["vm","list"]); println!("--- hang {:?}\n{}{}", t.elapsed(), r.stdout, r.stderr);
    println!("{}", h.golem(&["vm","--help"]).stdout);
    println!("{}", h.golem(&["vm","create","--help"]).stdout);
}
