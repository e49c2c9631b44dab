//! The program itself: flags, the ready line, the lock, and its end.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use golem_vm_node::client::{Call, SignedClient};
use golem_vm_node::clock::SystemClock;
use golem_vm_protocol::KeyId;

use crate::market::key;

/// The program with nothing of the tester's own surroundings.
fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_golem-discovery"));
    command.env_clear().env("HOME", home).current_dir(home);
    command
}

/// Kills what a failed test leaves behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn it_says_where_it_listens_locks_its_directory_and_ends_when_told() {
    let home = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = program(home.path());
        command
            .args(["start", "--port", "0", "--data-dir", "state"])
            .env("DISCOVERY_HOST", "127.0.0.1");
        command
    };
    let mut first = start();
    first.args(["--ready-fd", "1"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut first = Running(first.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(first.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["service"], "discovery");
    ready["id"].as_str().unwrap().parse::<KeyId>().unwrap();
    let url = format!("http://{}", ready["http"].as_str().unwrap());

    let client = SignedClient::new(key(1), std::sync::Arc::new(SystemClock)).unwrap();
    client.call_unsigned(&url, &Call::get("/health")).await.unwrap().ok().unwrap();
    assert!(home.path().join("state/state.db").exists());

    let second = start().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("in use by another process (pid {})", first.0.id())), "{said}");

    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", first.0.id())]).status();
    assert!(kill.unwrap().success());
    assert_eq!(first.0.wait().unwrap().code(), Some(0));
}

#[test]
fn what_it_can_not_use_is_said_in_one_sentence() {
    let home = tempfile::tempdir().unwrap();
    let output = program(home.path()).args(["start", "--port", "70000"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: GOLEM_DISCOVERY_PORT=70000 from the command line"), "{said}");
    let output = program(home.path()).args(["start", "--prot", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_config_file_that_can_not_be_used_is_wrong_usage() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("broken.toml"), "port = = 1\n").unwrap();
    for file in ["broken.toml", "missing.toml"] {
        let output = program(home.path()).args(["start", "--config", file]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(file), "{said}");
    }
}

#[test]
fn help_says_how_to_start() {
    let home = tempfile::tempdir().unwrap();
    let output = program(home.path()).arg("--help").output().unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("golem-discovery start --host 127.0.0.1")
    );
}
