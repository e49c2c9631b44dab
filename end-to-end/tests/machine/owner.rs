//! Whoever owns a machine, in a process of its own: it can be an ordinary user, it can be killed, and the host that it
//! is on is a network namespace.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use golem_vm_end_to_end::Namespace;
use golem_vm_machine::network::{
    Access, Addressing, Caps, Folder, Inside, Rules, Ruleset, Uplink, counters, lower, probe,
    raise, reconnect, replace_rules,
};
use golem_vm_machine::process::{Held, Launch, ProcessIdentity, ProcessLimits, RunAs, Seen};
use serde_json::{Value, json};

/// Who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Root, whose machines have a user of their own.
    Root,
    /// An ordinary user.
    User(u32),
}

/// The id of the machine in these tests.
pub(crate) const ID: [u8; 16] = [42; 16];
/// The user of root's machines.
const MACHINE_USER: u32 = 1_900_777_001;
/// What tells the process of a test what it is.
const ROLE: &str = "GOLEM_TEST_MACHINE_OWNER";

/// An owner, told what to do over its standard input.
#[derive(Debug)]
pub(crate) struct Owner {
    child: Child,
    tell: ChildStdin,
    hear: BufReader<ChildStdout>,
    // Kept for what is left of it.
    pub directory: PathBuf,
}

impl Owner {
    /// Starts one on that host, whose files are in `directory`.
    pub(crate) fn start(host: &Namespace, who: Who, directory: &Path) -> Self {
        // As ordinary distributions have it: every user may open /dev/net/tun. And a resolver of the host's own.
        let prepare = "mount -t tmpfs none /mnt && mknod -m 0666 /mnt/tun c 10 200 \
                       && echo nameserver 192.168.77.53 > /mnt/resolv.conf \
                       && mount --bind /mnt/resolv.conf /etc/resolv.conf \
                       && { [ \"$1\" = 0 ] || mount --bind /mnt/tun /dev/net/tun; } \
                       && uid=$1 && shift && cd / && umount -l /mnt \
                       && if [ \"$uid\" = 0 ]; then exec \"$@\"; else \
                          exec setpriv --reuid $uid --regid $uid --clear-groups --inh-caps=-all \"$@\"; fi";
        let uid = match who {
            Who::Root => 0,
            Who::User(id) => id,
        };
        chown(directory, Some(uid), Some(uid)).unwrap();
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
        let program = directory.join("owner");
        if !program.exists() {
            std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        }
        let mut child = Command::new("nsenter")
            .args(["--net", "--target", &host.pid().to_string(), "--"])
            .args(["unshare", "--mount", "--", "sh", "-c", prepare, "sh", &uid.to_string()])
            .arg(&program)
            .args(["--exact", "owner::the_process", "--nocapture", "--include-ignored"])
            .env(ROLE, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, hear) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, tell, hear: BufReader::new(hear), directory: directory.to_owned() }
    }

    /// Tells it to do something, and returns what came of it.
    pub(crate) fn does(&mut self, what: &Value) -> Result<Value, String> {
        writeln!(self.tell, "{what}").unwrap();
        self.tell.flush().unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.hear.read_line(&mut line).unwrap(), 0, "the owner has ended");
            let Some(answer) = line.trim().strip_prefix("answer ") else { continue };
            let answer: Value = serde_json::from_str(answer).unwrap();
            return match answer["error"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(answer),
            };
        }
    }

    /// Starts the process that waits in the machine's namespaces.
    pub(crate) fn hold(&mut self) -> u32 {
        let answer = self.does(&json!({ "do": "hold" })).unwrap();
        u32::try_from(answer["pid"].as_u64().unwrap()).unwrap()
    }

    /// Raises the network of the machine with these rules.
    pub(crate) fn raise(&mut self, access: Access, on_link: &[&str]) -> Result<Uplink, String> {
        let answer = self.does(&json!({ "do": "raise", "access": access, "on_link": on_link }))?;
        Ok(serde_json::from_value(answer["uplink"].clone()).unwrap())
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the owner's own process does; not a test.
#[test]
#[ignore = "a process of the other tests"]
fn the_process() {
    let Some(directory) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut machine = Machine { directory, held: None, process: None };
    for line in std::io::stdin().lock().lines() {
        let told: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let answer =
            runtime.block_on(machine.does(&told)).unwrap_or_else(|error| json!({ "error": error }));
        // At the beginning of a line, whatever the test harness has said before.
        println!("\nanswer {answer}");
    }
}

struct Machine {
    directory: PathBuf,
    held: Option<Held>,
    process: Option<ProcessIdentity>,
}

impl Machine {
    fn run_as() -> RunAs {
        if rustix::process::geteuid().is_root() {
            RunAs::User { id: MACHINE_USER, group: None }
        } else {
            RunAs::Myself
        }
    }

    async fn does(&mut self, told: &Value) -> Result<Value, String> {
        let rules = Rules {
            resolvers: read(told, "resolvers"),
            allowed: read(told, "allowed"),
            caps: told.get("caps").map_or_else(Caps::default, |caps| Caps {
                bandwidth_mbit: serde_json::from_value(caps[0].clone()).unwrap(),
                new_connections: serde_json::from_value(caps[1].clone()).unwrap(),
                connections: serde_json::from_value(caps[2].clone()).unwrap(),
            }),
        };
        let access = told.get("access").cloned().unwrap_or_else(|| json!("internet"));
        let addressing = Addressing::of(&ID);
        let on_link: BTreeSet<_> = read(told, "on_link");
        let ruleset = Ruleset {
            addressing: &addressing,
            rules: &rules,
            on_link: &on_link,
            access: serde_json::from_value(access).unwrap(),
        };
        let folder = self.directory.join("machine/net");
        let inside =
            self.process.as_ref().map(|process| Inside { process, run_as: Self::run_as() });
        match told["do"].as_str().unwrap() {
            "hold" => self.hold(told).await,
            "go" => {
                let held = self.held.take().unwrap();
                held.go().await.map_err(|error| error.to_string())?;
                Ok(json!({}))
            }
            "raise" => {
                let folder = Folder { outside: &folder, inside: Path::new("/mnt/vm/net") };
                let noted = self.directory.join("noted");
                let note = |process: &ProcessIdentity| {
                    std::fs::write(&noted, serde_json::to_vec(process).unwrap())?;
                    if told["refuse"].as_bool() == Some(true) {
                        return Err(std::io::Error::other("no room"));
                    }
                    if told["die"].as_bool() == Some(true) {
                        std::process::abort();
                    }
                    Ok(())
                };
                let raised = if told["again"].as_bool() == Some(true) {
                    reconnect(inside.unwrap(), &ruleset, folder, note).await
                } else {
                    raise(inside.unwrap(), &ruleset, folder, note).await
                };
                Ok(json!({ "uplink": raised.map_err(|error| error.to_string())? }))
            }
            "replace" => {
                let replaced = replace_rules(inside.unwrap(), &ruleset).await;
                replaced.map(|()| json!({})).map_err(|error| error.to_string())
            }
            "lower" => {
                let noted = std::fs::read(self.directory.join("noted")).unwrap();
                let process: ProcessIdentity = serde_json::from_slice(&noted).unwrap();
                let lowered = lower(&process, &folder).await;
                lowered.map(|()| json!({})).map_err(|error| error.to_string())
            }
            "count" => {
                let counted = counters(self.process.as_ref().unwrap());
                let counted = counted.map_err(|error| error.to_string())?;
                Ok(json!({ "sent": counted.sent_bytes, "received": counted.received_bytes }))
            }
            "probe" => {
                let findings = probe(Self::run_as(), &self.directory.join("trial")).await;
                let shown = findings.iter().map(|one| format!("{}: {}", one.what, one.remedy));
                Ok(json!({ "findings": shown.collect::<Vec<_>>() }))
            }
            "end" => {
                drop(self.held.take());
                let process = self.process.take().unwrap();
                process.kill(std::time::Duration::from_secs(60)).await.unwrap();
                Ok(json!({}))
            }
            other => panic!("{other}"),
        }
    }

    async fn hold(&mut self, told: &Value) -> Result<Value, String> {
        let machine = self.directory.join("machine");
        for folder in ["machine", "stage"] {
            std::fs::create_dir_all(self.directory.join(folder)).unwrap();
        }
        if let RunAs::User { id, .. } = Self::run_as() {
            chown(&machine, Some(id), Some(id)).unwrap();
        }
        let program = told["program"].as_str().unwrap_or("/bin/cat");
        let launch = Launch {
            program: program.into(),
            arguments: read(told, "arguments"),
            wrapper: Vec::new(),
            run_as: Self::run_as(),
            limits: ProcessLimits {
                open_files: 1024,
                threads: 64,
                file_bytes: 1 << 20,
                address_space: None,
            },
            seen: vec![Seen { directory: machine, name: "vm".to_owned(), written: true }],
            hidden: Vec::new(),
            stage: self.directory.join("stage"),
            input: "/dev/null".into(),
            third: None,
            log: self.directory.join("log"),
            log_bytes: 1 << 20,
        };
        let held = launch.hold().await.map_err(|error| error.to_string())?;
        let process = held.identity().clone();
        let pid = process.pid;
        (self.held, self.process) = (Some(held), Some(process));
        Ok(json!({ "pid": pid }))
    }
}

/// A list in what was told, empty if it is not there.
fn read<T: std::str::FromStr<Err: std::fmt::Debug>, L: FromIterator<T>>(
    told: &Value,
    name: &str,
) -> L {
    let list = told[name].as_array().cloned().unwrap_or_default();
    list.iter().map(|one| one.as_str().unwrap().parse().unwrap()).collect()
}

/// What a machine's log says.
pub(crate) fn log(directory: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(directory.join("log")) {
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    }
    text
}
