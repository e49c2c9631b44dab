//! Lines on the terminals of those who are logged in.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use golem_vm_provider::backend::{Backend as _, BackendError, ImageDigest, Observation};

use crate::fixture::{Provider, Vm, ready};

const PATIENCE: Duration = Duration::from_secs(60);

/// A login on a terminal, and the lines that it shows.
struct Session {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Session {
    fn open(vm: &Vm, address: std::net::SocketAddr, command: &str) -> Self {
        let mut child = vm
            .ssh_command(address, "ubuntu", &["-tt"], command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line.trim().to_owned());
            }
        });
        Self { child, lines }
    }

    fn expect(&self, wanted: &str) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line == wanted => return,
                Ok(_) => {}
                Err(error) => panic!("{wanted:?} was not shown: {error}"),
            }
        }
        panic!("{wanted:?} was not shown");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn those_who_are_logged_in_see_a_line(provider: &Provider, image: &ImageDigest) {
    let backend = &provider.backend;
    let vm = Vm::new(image);
    let id = vm.id();
    let notifier = backend.notifier().unwrap();
    assert_eq!(notifier.notify(id, "early").await, Err(BackendError::NoInstance(id)));
    backend.ensure(&vm.spec).await.unwrap();
    assert!(notifier.notify(id, "it does not run").await.is_err());
    backend.start(id).await.unwrap();
    let ssh = ready(backend, id).await;
    notifier.notify(id, "nobody is there").await.unwrap();

    let wait = "echo ready; sleep 600";
    let sessions = [Session::open(&vm, ssh, wait), Session::open(&vm, ssh, wait)];
    for session in &sessions {
        session.expect("ready");
    }
    tell(provider, &vm, "it ends at 12:00 \u{1b}[31m$(reboot) 'quoted'\nin two lines").await;
    for session in &sessions {
        session.expect("it ends at 12:00 \u{fffd}[31m$(reboot) 'quoted'\u{fffd}in two lines");
    }
    drop(sessions);

    // A guest that keeps what it is told with is told nothing more, and costs no more than that.
    let script = "printf '#!/usr/bin/perl\\nsleep 3600 while 1;\\n' > /tmp/sh; chmod 755 /tmp/sh; \
                  sudo cp /tmp/sh /bin/sh.new; sudo mv /bin/sh.new /bin/sh";
    vm.run(ssh, script);
    tell(provider, &vm, "into the void").await;
    let begun = Instant::now();
    let refused = notifier.notify(id, "more of it").await;
    assert!(begun.elapsed() < PATIENCE);
    assert!(
        matches!(&refused, Err(BackendError::Failed(why)) if why.contains("still at the last"))
    );
    assert!(matches!(backend.observe(id).await, Ok(Observation::Running { .. })));
    backend.destroy(id).await.unwrap();
}

/// Tells, once the guest is done with the line before.
async fn tell(provider: &Provider, vm: &Vm, line: &str) {
    let begun = Instant::now();
    loop {
        match provider.backend.notifier().unwrap().notify(vm.id(), line).await {
            Ok(()) => return,
            Err(BackendError::Failed(why)) if why.contains("still at the last") => {}
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < PATIENCE, "the last line is not done");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
