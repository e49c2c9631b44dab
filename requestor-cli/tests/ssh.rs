//! `golem vm ssh` against a real sshd, with OpenSSH and with the built-in client.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::Write as _;
use std::process::Stdio;

use support::discovery::Discovery;
use support::provider::Provider;
use support::sshd::Sshd;
use support::{Home, Ran};

struct Rented {
    sshd: Sshd,
    provider: Provider,
    discovery: Discovery,
    home: Home,
}

fn rented() -> Rented {
    let sshd = Sshd::start();
    let discovery = Discovery::new();
    let provider = Provider::with_sshd(1, &sshd);
    discovery.list(&provider);
    let home = Home::with(&discovery);
    home.golem(&["vm", "create", "box"]).exits(0);
    Rented { sshd, provider, discovery, home }
}

/// Both clients.
const CLIENTS: [&[&str]; 2] = [&[], &["--builtin"]];

fn ssh<'a>(client: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [&["vm", "ssh"], client, &["box"], rest].concat()
}

#[test]
fn output_and_exit_codes_pass_through() {
    let rented = rented();
    for client in CLIENTS {
        let ran =
            rented.home.golem(&ssh(client, &["--", "echo out; echo err >&2; exit 42"])).exits(42);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"), "{client:?}");
        // Words are joined as OpenSSH joins them, and flags belong to the command.
        let ran = rented.home.golem(&ssh(client, &["printf", "%s-%s", "a", "--json"])).exits(0);
        assert_eq!(ran.stdout, "a---json");
        // By a signal.
        for signal in ["TERM", "KILL"] {
            rented.home.golem(&ssh(client, &["--", &format!("kill -{signal} $$")])).exits(255);
        }
        // The command's own 255 is no failure of the connection.
        let ran = rented.home.golem(&ssh(client, &["--", "exit 255"])).exits(255);
        assert_eq!(ran.stderr, "");
    }
}

#[test]
fn bytes_pass_through_exactly_both_ways() {
    let rented = rented();
    // More than all windows and buffers on the way, and every value of a byte.
    let data: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for client in CLIENTS {
        let mut command = rented.home.command(&ssh(client, &["--", "cat"]));
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sent = data.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == data, "{client:?}: {} bytes", output.stdout.len());
    }
}

#[test]
fn a_shell_reads_commands_from_a_pipe() {
    let rented = rented();
    for client in CLIENTS {
        let mut command = rented.home.command(&ssh(client, &[]));
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"echo hello\nexit 7\n").unwrap();
        let ran = Ran::of(child.wait_with_output().unwrap()).exits(7);
        assert!(ran.stdout.contains("hello\n"), "{client:?}: {}", ran.stdout);
    }
}

#[test]
fn a_terminal_has_its_size_and_is_put_back() {
    let rented = rented();
    for client in CLIENTS {
        let ran = rented.home.on_terminal(&ssh(client, &[]), "stty size; tty\nexit 5\n").exits(5);
        assert!(
            ran.stdout.contains("40 160") && ran.stdout.contains("/dev/pts/"),
            "{}",
            ran.stdout
        );
    }
    // What `stty` says behind a session in the same terminal: raw mode would be -icanon.
    let golem = env!("CARGO_BIN_EXE_golem");
    let line = format!("{golem} vm ssh --builtin -t box -- true; stty -a");
    let shown = rented.home.in_terminal(&line, "").stdout;
    assert!(shown.contains(" icanon") && shown.contains(" echo "), "{shown}");
    // Also when it is ended from outside.
    let line = format!(
        "timeout --foreground -s TERM 2 {golem} vm ssh --builtin -t box -- sleep 60; stty -a"
    );
    let shown = rented.home.in_terminal(&line, "").stdout;
    assert!(shown.contains(" icanon") && shown.contains(" echo "), "{shown}");
}

#[test]
fn another_host_key_is_refused_by_both_clients_and_explained() {
    let mut rented = rented();
    rented.sshd.swap_host_key();
    for client in CLIENTS {
        let ran = rented.home.golem(&ssh(client, &["--", "echo in"])).exits(6);
        assert_eq!(ran.stdout, "");
        assert!(
            ran.stderr.contains("what answers at the address of 'box' is not that VM"),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("or somebody is in between"), "{}", ran.stderr);
    }
    // The printed command refuses too.
    let command = rented.home.golem(&["vm", "ssh", "box", "--json"]).json();
    let line = format!("{} echo in", command["ssh"]["command"].as_str().unwrap());
    let shell = std::process::Command::new("sh")
        .args(["-c", &line])
        .env("HOME", rented.home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!((shell.status.code(), shell.stdout.len()), (Some(255), 0));
    assert!(String::from_utf8_lossy(&shell.stderr).contains("Host key verification failed"));
}

#[test]
fn a_machine_that_is_off_is_255_with_the_next_step() {
    let mut rented = rented();
    rented.sshd.stop();
    for client in CLIENTS {
        rented.home.golem(&ssh(client, &["--", "true"])).exits(255).says("golem vm info box");
    }
}

#[test]
fn no_provider_is_asked_where_the_vm_is() {
    let rented = rented();
    rented.provider.stop();
    for client in CLIENTS {
        rented.home.golem(&ssh(client, &["--", "true"])).exits(0);
    }
}

#[test]
fn a_lost_list_of_host_keys_is_made_again() {
    let rented = rented();
    let known_hosts = rented.home.base().join("known_hosts");
    let before = std::fs::read_to_string(&known_hosts).unwrap();
    assert!(before.contains(&rented.provider.vm_ids()[0]), "{before}");
    std::fs::write(&known_hosts, "vm_x ssh-ed25519 AAAA\n").unwrap();
    rented.home.golem(&ssh(&[], &["--", "true"])).exits(0);
    assert_eq!(std::fs::read_to_string(&known_hosts).unwrap(), before);
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(std::fs::metadata(&known_hosts).unwrap().mode() & 0o777, 0o600);
    rented.home.golem(&["vm", "destroy", "box", "--yes"]).exits(0);
    assert!(!std::fs::read_to_string(&known_hosts).unwrap().contains("vm_"));
}

#[test]
fn a_vm_from_a_lost_list_is_found_again_and_can_be_used() {
    let rented = rented();
    rented.home.golem(&["vm", "create", "other"]).exits(0);
    // Only one of the two rows survives, so the provider is still known.
    let db = rusqlite::Connection::open(rented.home.base().join("state.db")).unwrap();
    assert_eq!(db.execute("DELETE FROM rentals WHERE name = 'other'", []).unwrap(), 1);
    drop(db);
    rented.home.golem(&["vm", "list"]).exits(0).says("'other' at provider-1");
    // Its keys are the last ones that were installed in the one sshd behind both.
    rented.home.golem(&["vm", "ssh", "--builtin", "other", "--", "exit 9"]).exits(9);
    rented.home.golem(&["vm", "ssh", "other", "--", "exit 8"]).exits(8);
}

#[test]
fn a_block_for_ssh_config_works_with_openssh() {
    let rented = rented();
    let block = rented.home.golem(&["vm", "ssh-config", "box"]).exits(0).stdout;
    let file = rented.home.path().join("c");
    std::fs::write(&file, block).unwrap();
    let ran = std::process::Command::new("ssh")
        .arg("-F")
        .arg(&file)
        .args(["box", "echo by-config"])
        .env("HOME", rented.home.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "by-config\n");
}

#[test]
fn a_key_in_the_agent_serves_both_clients() {
    let rented = rented();
    let key = rented.home.ssh_key("rsa");
    let socket = rented.home.path().join("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let add = |arguments: &[&str]| {
        let mut command = std::process::Command::new("ssh-add");
        command.args(arguments).env("SSH_AUTH_SOCK", &socket).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
    };
    add(&[key.to_str().unwrap()]);
    // Only the agent has it now.
    std::fs::remove_file(&key).unwrap();
    std::fs::remove_file(key.with_extension("pub")).unwrap();
    let with_agent = |arguments: &[&str]| {
        let mut command = rented.home.command(arguments);
        Ran::of(command.env("SSH_AUTH_SOCK", &socket).output().unwrap())
    };
    with_agent(&["vm", "create", "agent-box"]).exits(0);
    for client in CLIENTS {
        let all = [&["vm", "ssh"], client, &["agent-box", "--", "exit 4"]].concat();
        with_agent(&all).exits(4);
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    let _ = &rented.discovery;
}

#[test]
fn the_agent_is_forwarded_only_when_asked_for() {
    let rented = rented();
    let socket = rented.home.path().join("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let with_agent = |arguments: &[&str]| {
        let mut command = rented.home.command(arguments);
        Ran::of(command.env("SSH_AUTH_SOCK", &socket).output().unwrap())
    };
    let show = "echo agent:$SSH_AUTH_SOCK; ssh-add -l";
    for client in CLIENTS {
        let ran = with_agent(&ssh(client, &["--", show]));
        assert!(ran.stdout.starts_with("agent:\n"), "{client:?}: {}", ran.stdout);
        let asked = [&["vm", "ssh", "-A"], client, &["box", "--", show]].concat();
        let ran = with_agent(&asked).exits(1);
        assert!(ran.stdout.contains("The agent has no identities"), "{client:?}: {ran:?}");
    }
    // Nor by way of a person's own settings for all hosts.
    let block = rented.home.golem(&["vm", "ssh-config", "box"]).exits(0).stdout;
    let file = rented.home.path().join("c");
    let trace = rented.home.path().join("trace");
    let settings = format!(
        "{block}\nHost *\n  ForwardAgent yes\n  ForwardX11 yes\n  PermitLocalCommand yes\n  \
         LocalCommand touch {}\n",
        trace.display()
    );
    std::fs::write(&file, settings).unwrap();
    let ran = std::process::Command::new("ssh")
        .arg("-F")
        .arg(&file)
        .args(["box", "echo agent:$SSH_AUTH_SOCK display:$DISPLAY"])
        .env("HOME", rented.home.path())
        .env("SSH_AUTH_SOCK", &socket)
        .env("DISPLAY", ":1")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "agent: display:\n");
    assert!(!trace.exists(), "nothing ran on this machine");
    agent.kill().unwrap();
    agent.wait().unwrap();
    let without = ["vm", "ssh", "-A", "--builtin", "box", "--", "true"];
    rented.home.golem(&without).exits(2).says("there is no SSH agent to forward");
}
