//! `golem-provider` as its owner types it: the real program, each time with a home of its own and
//! without an engine.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use golem_vm_node::client::{Call, SignedClient, Target};
use golem_vm_node::clock::SystemClock;
use golem_vm_node::data_dir::DataDir;
use golem_vm_protocol::{KeyId, KeyPair};
use golem_vm_provider::forwarder::ForwarderClient;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_golem-provider");
/// Set for every run, so that no engine of this machine is ever touched.
const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// A home directory in which the program finds nothing that the test did not put there.
struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("share/golem/provider")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_DATA_HOME", self.path().join("share"))
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("DOCKER_HOST", NO_ENGINE)
            .env("GOLEM_PROVIDER_BACKEND", "docker")
            .current_dir(self.path())
            .stdin(Stdio::null())
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran(self.command(args).output().unwrap())
    }
}

struct Ran(Output);

impl Ran {
    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.out()))
    }

    /// Ended with `code`, and with one sentence that has all of `parts`.
    fn fails(&self, code: i32, parts: &[&str]) {
        let err = self.err();
        assert_eq!(self.code(), code, "{err}{}", self.out());
        for part in parts {
            assert!(err.contains(part), "{part:?} is not in {err}");
        }
        assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{err}");
    }
}

fn check<'a>(doctor: &'a Value, subject: &str) -> &'a Value {
    let checks = doctor["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["subject"] == subject);
    found.unwrap_or_else(|| panic!("no {subject} in {doctor:#}"))
}

#[test]
fn help_says_how_to_start_and_what_the_exit_codes_mean() {
    let home = Home::new();
    let help = home.run(&["--help"]);
    assert_eq!(help.code(), 0);
    for part in ["golem-provider start", "golem-provider image build debian-12", "Exit codes:"] {
        assert!(help.out().contains(part), "{part}");
    }
    for command in [
        &["start"][..],
        &["stop"],
        &["status"],
        &["doctor"],
        &["image"],
        &["image", "build"],
        &["image", "pull"],
        &["image", "list"],
        &["image", "rm"],
        &["purge"],
        &["id"],
        &["config"],
        &["verify-ports"],
        &["events"],
    ] {
        let help = home.run(&[command, &["--help"]].concat());
        assert_eq!(help.code(), 0, "{command:?}");
        assert!(help.out().contains("golem-provider "), "{command:?} has no example");
        assert!(help.out().contains("Example"), "{command:?} has no example");
    }
    home.run(&[]).fails(2, &["Usage:"]);
    home.run(&["rent"]).fails(2, &["unrecognized subcommand"]);
    home.run(&["start", "--prot", "1"]).fails(2, &["--port"]);
    // Nothing of this made anything.
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_wrong_setting_is_named_with_its_origin() {
    let home = Home::new();
    home.run(&["start", "--port", "many"])
        .fails(2, &["GOLEM_PROVIDER_PORT=many from the command line is not a port"]);
    home.run(&["start", "--port-range", "9-8"]).fails(2, &["--port-range 9-8"]);
    home.run(&["status", "--config", "none.toml"]).fails(2, &["there is no config file none.toml"]);
    fs::write(home.path().join(".env"), "\nGOLEM_PROVIDER_COUNTRY=Sweden\n").unwrap();
    for command in ["start", "doctor", "config"] {
        home.run(&[command]).fails(
            2,
            &["GOLEM_PROVIDER_COUNTRY=Sweden from .env line 2 is not two capital letters"],
        );
    }
    // What does not depend on it works all the same.
    assert_eq!(home.run(&["id"]).code(), 0);
    home.run(&["status"]).fails(3, &[]);
}

#[test]
fn what_needs_a_running_provider_says_that_none_runs() {
    let home = Home::new();
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["stop"],
        &["verify-ports"],
        &["events", "--follow"],
    ] {
        home.run(command)
            .fails(3, &["no provider runs on", "share/golem/provider", "golem-provider start"]);
    }
    assert!(!home.data().exists(), "asking made a data directory");
}

#[test]
fn the_id_stays_the_same() {
    let home = Home::new();
    let first = home.run(&["id"]);
    assert_eq!(first.code(), 0, "{}", first.err());
    let id: KeyId = first.out().trim().parse().unwrap();
    let again = home.run(&["--json", "id"]).json();
    assert_eq!(again["provider_id"], id.to_string());
    let elsewhere = home.run(&["id", "--data-dir", "other"]);
    assert_ne!(elsewhere.out(), first.out());
    assert!(home.path().join("other/key").exists());
    // A key that others can read is refused.
    let key = home.data().join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    home.run(&["id"]).fails(1, &["other users can read the key", "chmod 600"]);
}

#[test]
fn the_version_is_said() {
    let home = Home::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(home.run(&["version"]).out(), format!("golem-provider {version}\n"));
    assert_eq!(home.run(&["version", "--json"]).json()["version"], version);
    assert_eq!(home.run(&["--version"]).out(), format!("golem-provider {version}\n"));
}

#[test]
fn every_setting_is_shown_with_its_origin() {
    let home = Home::new();
    let config = home.path().join("config/golem/provider.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "name = \"from-file\"\nmax_vms = 3\n").unwrap();
    let shown = home
        .command(&["config", "--json"])
        .env("GOLEM_PROVIDER_MAX_VMS", "4")
        .env("GOLEM_PROVIDER_MAX_VM", "5")
        .output()
        .unwrap();
    let shown = Ran(shown).json();
    let setting = |name: &str| {
        let all = shown["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["name"] == name).unwrap().clone()
    };
    assert_eq!(setting("GOLEM_PROVIDER_MAX_VMS")["value"], "4");
    assert_eq!(setting("GOLEM_PROVIDER_MAX_VMS")["origin"], "from the environment");
    assert_eq!(setting("GOLEM_PROVIDER_NAME")["value"], "from-file");
    assert_eq!(setting("GOLEM_PROVIDER_PORT")["default"], true);
    assert_eq!(shown["data_dir"], home.data().display().to_string());
    assert!(
        shown["warnings"][0].as_str().unwrap().contains("did you mean GOLEM_PROVIDER_MAX_VMS?")
    );

    let text = home.run(&["config"]).out();
    assert!(text.contains("GOLEM_PROVIDER_PORT_RANGE_START"), "{text}");
    assert!(text.contains("from \"name\" in "), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_data_directory_in_use_is_left_alone() {
    let home = Home::new();
    let data_dir = DataDir::open(&home.data()).unwrap();
    let _held = data_dir.lock().unwrap();
    let pid = format!("(pid {})", std::process::id());
    for command in [
        &["start"][..],
        &["start", "--background"],
        &["image", "list"],
        &["image", "build", "debian-12"],
    ] {
        home.run(command).fails(5, &["is in use by", &pid]);
    }
    assert!(!home.data().join("provider.log").exists(), "a refused start wrote a log");
    let doctor = home.run(&["doctor", "--json"]);
    assert_eq!(check(&doctor.json(), "provider")["verdict"], "warning");
}

#[test]
fn doctor_says_what_to_do_without_an_engine() {
    let home = Home::new();
    let doctor = home.run(&["doctor", "--json"]);
    assert_eq!(doctor.code(), 1, "{}", doctor.err());
    let doctor = doctor.json();
    assert_eq!((&doctor["running"], &doctor["verdict"]), (&false.into(), &"bad".into()));
    let engine = check(&doctor, "engine");
    assert_eq!(engine["verdict"], "bad");
    assert!(engine["found"].as_str().unwrap().contains("/nonexistent/docker.sock"), "{engine}");
    assert!(engine["remedy"].as_str().unwrap().contains("Docker Engine"), "{engine}");
    assert_eq!(check(&doctor, "images")["verdict"], "bad");
    for check in doctor["checks"].as_array().unwrap() {
        assert_eq!(check["verdict"] == "good", check["remedy"].is_null(), "{check}");
    }
    assert!(!home.data().join("state.db").exists(), "looking made a database");

    let text = home.run(&["doctor"]).out();
    assert!(text.contains("✘ engine") && text.contains("→ "), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn without_an_engine_nothing_is_begun() {
    let home = Home::new();
    let parts = &["/nonexistent/docker.sock"];
    home.run(&["start", "--host", "127.0.0.1", "--port", "0", "--no-verify-ports"]).fails(4, parts);
    home.run(&["start", "--background", "--host", "127.0.0.1", "--port", "0", "--no-verify-ports"])
        .fails(4, parts);
    home.run(&["image", "build", "debian-12"]).fails(4, parts);
    home.run(&["image", "rm", "../x"]).fails(2, &["can't be an image's name"]);
    home.run(&["image", "rm", "debian-12"]).fails(1, &["no image named debian-12"]);
    home.run(&["image", "build", "Ä"]).fails(2, &["can't be an image's name"]);
    let list = home.run(&["image", "list", "--json"]);
    assert_eq!(list.json()["images"], Value::Array(Vec::new()), "{}", list.err());
    assert!(home.run(&["image", "list"]).out().contains("image build debian-12"));
    home.run(&["purge", "--yes"]).fails(4, parts);
}

#[test]
fn purge_asks_and_finds_nothing_where_nothing_is() {
    let home = Home::new();
    let nothing = home.run(&["purge", "--yes"]);
    assert_eq!(nothing.code(), 0, "{}", nothing.err());
    assert!(nothing.out().contains("There is no provider in"), "{}", nothing.out());
    assert!(!home.data().exists());
    home.run(&["id"]);
    home.run(&["purge"]).fails(2, &["add --yes"]);
}

/// A provider whose VMs exist in its memory only, and its forwarder, which end with the test.
struct Provider<'a> {
    home: &'a Home,
    child: Option<Child>,
    ready: Value,
}

/// Three ports that nobody has just now, below the range that the system hands out by itself, and
/// others for each `slot`.
fn free_ports(slot: u16) -> (u16, u16) {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut first = 20_000 + slot * 6000 + u16::try_from(std::process::id() % 1900).unwrap() * 3;
    while !(first..first + 3).all(free) {
        first += 3;
    }
    (first, first + 2)
}

const MEMORY: [&str; 8] = [
    "--backend",
    "memory",
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    "--no-verify-ports",
    "--allow-uncontained",
];

impl<'a> Provider<'a> {
    fn start(home: &'a Home, range: &str) -> Self {
        let forwarder = env!("CARGO_BIN_EXE_golem-forwarder");
        let args =
            [&["start", "--json", "--port-range", range, "--forwarder", forwarder], &MEMORY[..]];
        let mut child = home
            .command(&args.concat())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(home.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{error}: {}", fs::read_to_string(home.path().join("stderr")).unwrap())
        });
        Self { home, child: Some(child), ready }
    }

    /// Waits for an end that was asked for.
    fn ended(&mut self) -> i32 {
        let status = self.child.take().unwrap().wait().unwrap();
        status.code().unwrap()
    }
}

impl Drop for Provider<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        end_forwarder(self.home);
    }
}

fn end_forwarder(home: &Home) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if let Ok((client, _)) = ForwarderClient::connect(&home.data()).await {
            let _ = client.shutdown().await;
        }
    });
}

#[test]
fn a_running_provider_is_asked_over_its_socket() {
    let home = Home::new();
    let (first, last) = free_ports(0);
    let mut provider = Provider::start(&home, &format!("{first}-{last}"));
    let id = home.run(&["id"]).out().trim().to_owned();
    assert_eq!(provider.ready["id"], id.as_str());

    let status = home.run(&["status", "--json"]).json();
    assert_eq!(status["provider_id"], id.as_str());
    assert_eq!(status["api"], provider.ready["http"]);
    assert_eq!((&status["ports"]["first"], &status["ports"]["usable"]), (&first.into(), &3.into()));
    let text = home.run(&["status"]).out();
    assert!(text.contains(&id) && text.contains("No VMs are rented."), "{text}");

    let built = home.run(&["image", "build", "bookworm", "--json"]);
    assert_eq!(built.code(), 0, "{}", built.err());
    assert!(built.err().contains("building debian-12"), "{}", built.err());
    assert_eq!(built.json()["offered"], true);
    let pulled = home.run(&["image", "pull", "registry.example/base:1"]);
    assert!(pulled.out().contains("GOLEM_PROVIDER_IMAGES"), "{}", pulled.out());
    let listed = home.run(&["image", "list"]).out();
    assert!(listed.contains("debian-12") && listed.contains("base-1"), "{listed}");
    assert_eq!(home.run(&["image", "rm", "base-1"]).code(), 0);
    home.run(&["image", "rm", "base-1"]).fails(1, &["no image named base-1"]);
    assert_eq!(home.run(&["verify-ports", "--json"]).json()["usable"], 3);

    let doctor = home.run(&["doctor", "--json"]).json();
    assert_eq!(doctor["running"], true);
    assert_eq!(check(&doctor, "images")["verdict"], "good");
    assert_eq!(check(&doctor, "forwarder")["verdict"], "good");

    home.run(&["start", "--background"]).fails(5, &["is in use by"]);
    let stopped = home.run(&["stop"]);
    assert_eq!(stopped.code(), 0, "{}", stopped.err());
    assert_eq!(provider.ended(), 0);
    home.run(&["status"]).fails(3, &[]);

    // What is left is there without it, and can be worked on.
    let offline = |args: &[&str]| {
        Ran(home.command(args).env("GOLEM_PROVIDER_BACKEND", "memory").output().unwrap())
    };
    let built = offline(&["image", "build", "noble"]);
    assert!(built.out().contains("The image ubuntu-24.04 is ready"), "{}", built.err());
    assert!(built.err().contains("building ubuntu-24.04"), "{}", built.err());
    let listed = offline(&["image", "list", "--json"]).json();
    assert_eq!(listed["images"].as_array().unwrap().len(), 2);
    let doctor = offline(&["doctor", "--json"]).json();
    assert_eq!(doctor["running"], false);
    assert!(check(&doctor, "forwarder")["found"].as_str().unwrap().contains("runs as process"));
    let purged = offline(&["purge", "--yes", "--json"]);
    assert_eq!(purged.code(), 0, "{}", purged.err());
    assert_eq!(purged.json()["images"].as_array().unwrap().len(), 2);
    let doctor = offline(&["doctor", "--json"]).json();
    assert!(check(&doctor, "forwarder")["found"].as_str().unwrap().contains("started with"));
}

/// Asks the provider as a requestor does.
async fn asked(provider: &Provider<'_>, key: &KeyPair, call: Call<'_>) -> Value {
    let client = SignedClient::new(key.clone(), std::sync::Arc::new(SystemClock)).unwrap();
    let base = format!("http://{}", provider.ready["http"].as_str().unwrap());
    let target = Target::key(&base, provider.ready["id"].as_str().unwrap().parse().unwrap());
    client.call(&target.unwrap(), &call).await.unwrap().reply.json().unwrap()
}

#[test]
fn what_happened_is_shown_by_a_running_provider_and_without_one() {
    let home = Home::new();
    let (first, last) = free_ports(2);
    let mut provider = Provider::start(&home, &format!("{first}-{last}"));
    assert_eq!(home.run(&["image", "build", "debian-12"]).code(), 0);
    assert_eq!(home.run(&["events"]).out(), "Nothing is written down.\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let key = KeyPair::generate().unwrap();
    let create = serde_json::json!({
        "name": "box",
        "size": "small",
        "ssh_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW",
        "lease": {"duration_seconds": 7200},
    });
    let create = Call::post("/api/v1/vms", &create).unwrap();
    runtime.block_on(asked(&provider, &key, create));

    let told = home.run(&["events", "--json"]).json();
    let stages = |told: &Value| -> Vec<String> {
        let events = told["events"].as_array().unwrap().iter();
        let states = events.filter(|told| told["event"]["kind"] == "state");
        states.map(|told| told["event"]["to"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stages(&told), ["creating", "running"]);
    assert_eq!(told["events"][0]["owner"], key.id().to_string());
    let text = home.run(&["events", "box"]).out();
    let owner = &key.id().to_string()[..12];
    assert!(text.contains("creating → running") && text.contains(owner), "{text}");
    assert_eq!(home.run(&["events", "other"]).out(), "Nothing is written down.\n");
    home.run(&["events", "B A D"]).fails(1, &["neither the id nor the name"]);
    home.run(&["events", "--limit", "0"]).fails(2, &["--limit"]);
    assert_eq!(
        home.run(&["events", "--limit", "1", "--json"]).json()["events"][0]["event"]["to"],
        "running"
    );
    let status = home.run(&["status"]).out();
    assert!(status.contains("LEASE") && status.contains("ends in 1 h"), "{status}");

    let mut follower = home
        .command(&["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut until = |stage: &str| loop {
        let line = lines.next().expect("it has ended").unwrap();
        if serde_json::from_str::<Value>(&line).unwrap()["event"]["to"] == stage {
            break;
        }
    };
    until("running");
    let destroy = Call::new(http::Method::DELETE, "/api/v1/vms/box");
    runtime.block_on(asked(&provider, &key, destroy));
    until("destroyed");
    assert_eq!(home.run(&["stop"]).code(), 0);
    assert_eq!(provider.ended(), 0);
    assert_eq!(follower.wait().unwrap().code(), Some(3));

    let told = home.run(&["events", "box", "--json"]).json();
    assert_eq!(stages(&told), ["creating", "running", "destroying", "destroyed"]);
    home.run(&["events", "B A D"]).fails(1, &["neither the id nor the name"]);
}

#[test]
fn in_the_background_it_lives_on_until_it_is_purged() {
    let home = Home::new();
    let (first, last) = free_ports(1);
    let range = format!("{first}-{last}");
    let forwarder = env!("CARGO_BIN_EXE_golem-forwarder");
    let args =
        [&["start", "--background", "--port-range", &range, "--forwarder", forwarder], &MEMORY[..]];
    let started = home.run(&args.concat());
    assert_eq!(started.code(), 0, "{}", started.err());
    assert!(started.out().contains("The provider runs (process "), "{}", started.out());
    let status = home.run(&["status", "--json"]).json();
    assert!(started.out().contains(status["api"].as_str().unwrap()), "{}", started.out());
    let log = home.data().join("provider.log");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);

    let purged = home.run(&["purge", "--yes", "--json"]);
    assert_eq!(purged.code(), 0, "{}", purged.err());
    assert_eq!(purged.json()["problems"], Value::Array(Vec::new()));
    home.run(&["status"]).fails(3, &[]);
    let pid = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    for _ in 0..500 {
        if rustix::process::test_kill_process(pid).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(
        runtime.block_on(ForwarderClient::connect(&home.data())).is_err(),
        "the forwarder runs"
    );
}
