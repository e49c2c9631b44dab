#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Qmp, QmpError};
use crate::process::{Peer, ProcessIdentity};

/// A monitor that answers each line with what `answer` makes of the command's name and id.
fn monitor(directory: &Path, answer: impl Fn(&str, u64) -> String + Send + 'static) {
    let listener = UnixListener::bind(directory.join("qmp.sock")).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = talk(stream, answer).await;
    });
}

async fn talk(stream: UnixStream, answer: impl Fn(&str, u64) -> String) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    write.write_all(b"{\"QMP\": {}}\r\n").await?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let asked: Value = serde_json::from_str(&line).unwrap();
        let name = asked["execute"].as_str().unwrap();
        let text = match name {
            "qmp_capabilities" => "{\"return\": {}, \"id\": 0}".to_owned(),
            _ => answer(name, asked["id"].as_u64().unwrap()),
        };
        write.write_all(format!("{text}\r\n").as_bytes()).await?;
    }
    Ok(())
}

async fn connected(directory: &Path) -> Qmp {
    let me = ProcessIdentity::of(std::process::id()).unwrap();
    Qmp::connect(&Peer::new(directory, "qmp.sock", &me)).await.unwrap()
}

#[tokio::test]
async fn commands_are_answered_and_events_told() {
    let directory = tempfile::tempdir().unwrap();
    monitor(directory.path(), |name, id| match name {
        "query-status" => format!(
            "{{\"event\": \"STOP\", \"data\": {{\"x\": 1}}}}\r\n{{\"return\": {{\"status\": \"paused\"}}, \"id\": {id}}}"
        ),
        _ => format!(
            "{{\"id\": {id}, \"error\": {{\"class\": \"GenericError\", \"desc\": \"not now\"}}}}"
        ),
    });
    let qmp = connected(directory.path()).await;
    let mut events = qmp.events();
    assert_eq!(qmp.status().await.unwrap(), "paused");
    let event = events.recv().await.unwrap();
    assert_eq!((event.name.as_str(), event.data), ("STOP", json!({"x": 1})));
    let refused = qmp.execute("cont", Value::Null).await.unwrap_err();
    assert_eq!(refused.to_string(), "QEMU refused 'cont': not now");
}

#[tokio::test]
async fn a_monitor_that_goes_away_is_told_from_one_that_is_silent() {
    let directory = tempfile::tempdir().unwrap();
    monitor(directory.path(), |name, id| match name {
        // No answer to what was asked.
        "silent" => format!("{{\"return\": {{}}, \"id\": {}}}", id + 100),
        _ => "this is no monitor's line".to_owned(),
    });
    let qmp = connected(directory.path()).await;
    let silent = qmp.execute_within("silent", Value::Null, Duration::from_millis(50)).await;
    assert!(matches!(silent, Err(QmpError::Silent("silent", _))));
    assert!(matches!(qmp.execute("quit", Value::Null).await, Err(QmpError::Gone("quit"))));
    assert!(matches!(qmp.execute("quit", Value::Null).await, Err(QmpError::Gone("quit"))));
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_does_not_greet_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    // Somebody else has it: the connection is made and nothing is ever said.
    let _listener = UnixListener::bind(directory.path().join("qmp.sock")).unwrap();
    let me = ProcessIdentity::of(std::process::id()).unwrap();
    let refused = Qmp::connect(&Peer::new(directory.path(), "qmp.sock", &me)).await.unwrap_err();
    assert!(matches!(refused, QmpError::Unreachable(..)), "{refused}");
}

#[tokio::test]
async fn a_line_without_an_end_is_not_read_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    monitor(directory.path(), |_, _| "x".repeat(2 * super::message::LONGEST_LINE));
    let qmp = connected(directory.path()).await;
    assert!(matches!(qmp.execute("stop", Value::Null).await, Err(QmpError::Gone("stop"))));
}
