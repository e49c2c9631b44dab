//! A provider that is killed, somebody who rents there, and another's VM that all of it must not touch.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use golem_vm_protocol::route;
use serde_json::{Value, json};

use crate::fail_points::FailPoints;
use crate::invariants::violations;
use crate::provider::Provider;
use crate::signed_http::{Answer, Broken, Renter};
use crate::waiting::within;

/// Longest until something that works has come to its end.
const DEADLINE: Duration = Duration::from_secs(60);
/// A key that nobody logs in with.
pub(super) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";

/// Why a step did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The provider ended meanwhile.
    Ended,
    /// A creation failed, and the provider says why.
    Failed(String),
    /// It went wrong, and how.
    Wrong(String),
}

impl From<Broken> for Trouble {
    fn from(_: Broken) -> Self {
        Self::Ended
    }
}

/// What a step came to.
pub(super) type Step = Result<(), Trouble>;

/// Where a VM is to be in the end, as its owner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Running,
    Stopped,
    /// Stopped, and only kept.
    Retained,
    /// Both are right: nobody can tell whether the guest or the host has ended it.
    RunningOrStopped,
    Error,
    Gone,
}

/// The provider, and those around it.
#[derive(Debug)]
pub struct Rig {
    /// The provider.
    pub provider: Provider,
    pub(super) points: FailPoints,
    pub(super) renter: Renter,
    /// Another's VM.
    bystander: Option<(Renter, Value)>,
    vms: usize,
    /// Longest until something that works has come to its end.
    patience: Duration,
}

impl Rig {
    /// With a provider that does not run yet.
    #[must_use]
    pub fn new(provider: Provider) -> Self {
        Self::patient(provider, DEADLINE)
    }

    /// The same where a VM takes long to come up: an emulated one, say.
    #[must_use]
    pub fn patient(mut provider: Provider, patience: Duration) -> Self {
        let points = provider.with_fail_points();
        points.disarm();
        provider.start();
        let renter = Renter::default();
        let mut rig = Self { provider, points, renter, bystander: None, vms: 0, patience };
        let neighbour = Renter::default();
        let vm = rig.create(&neighbour, "bystander", json!({}), "bystander");
        vm.unwrap_or_else(|trouble| panic!("a VM before any kill: {trouble:?}"));
        let seen = neighbour.ask(&rig.provider, "GET", &route_of("bystander"), None, None);
        rig.bystander = Some((neighbour, seen.unwrap().body));
        rig
    }

    /// A name that no VM had here.
    pub(super) fn next_name(&mut self, prefix: &str) -> String {
        self.vms += 1;
        format!("{prefix}-{}", self.vms)
    }

    /// Asks for a VM and waits until its operation is over, as `golem` does.
    pub(super) fn create(&self, renter: &Renter, name: &str, lease: Value, key: &str) -> Step {
        let operation = self.accepted(renter, name, lease, key)?;
        self.followed(renter, name, &operation)
    }

    /// Waits until a creation is over.
    fn followed(&self, renter: &Renter, name: &str, operation: &str) -> Step {
        let target = route::VM_OPERATION.replace("{job_id}", operation);
        self.until(&format!("the creation of {name}"), || {
            let answer = renter.ask(&self.provider, "GET", &target, None, None)?;
            match answer.body["status"].as_str() {
                Some("creating") => Ok(false),
                Some("ready") => Ok(true),
                Some("failed") => Err(Trouble::Failed(answer.body["error"].to_string())),
                _ => Err(Trouble::Wrong(format!("a creation came to {answer:?}"))),
            }
        })
    }

    /// Asks for a VM with the disk of another one, and waits until its operation is over.
    pub(super) fn clone_of(&self, source: &str, name: &str, key: &str) -> Step {
        let target = format!("{}?async=true", route::VM_CLONE.replace("{name}", source));
        let body = json!({"name": name});
        let answer = self.renter.ask(&self.provider, "POST", &target, Some(&body), Some(key))?;
        let operation = answer.body["job_id"].as_str().map(str::to_owned);
        let operation = operation
            .ok_or_else(|| Trouble::Wrong(format!("a clone was answered with {answer:?}")))?;
        self.followed(&self.renter, name, &operation)
    }

    /// Asks for a VM, and does not wait for it.
    pub(super) fn begin_to_create(&self, name: &str, key: &str) -> Step {
        self.accepted(&self.renter, name, json!({}), key).map(|_| ())
    }

    /// The operation that a create was answered with.
    fn accepted(
        &self,
        renter: &Renter,
        name: &str,
        lease: Value,
        key: &str,
    ) -> Result<String, Trouble> {
        let mut body = json!({
            "name": name,
            "resources": {"cpu": 1, "memory": 1, "storage": 10},
            "ssh_key": KEY,
        });
        if lease != json!({}) {
            body["lease"] = lease;
        }
        let target = format!("{}?async=true", route::VMS);
        let answer = renter.ask(&self.provider, "POST", &target, Some(&body), Some(key))?;
        let operation = answer.body["job_id"].as_str().map(str::to_owned);
        operation.ok_or_else(|| Trouble::Wrong(format!("a create was answered with {answer:?}")))
    }

    /// Asks for something about a VM; `accepted` are the statuses that are an end that is well.
    pub(super) fn ask(
        &self,
        method: &str,
        target: &str,
        body: Option<Value>,
        accepted: &[u16],
    ) -> Step {
        self.ask_once(method, target, body, accepted, None)
    }

    /// The same with an idempotency key.
    pub(super) fn ask_once(
        &self,
        method: &str,
        target: &str,
        body: Option<Value>,
        accepted: &[u16],
        key: Option<&str>,
    ) -> Step {
        let answer = self.renter.ask(&self.provider, method, target, body.as_ref(), key)?;
        if accepted.contains(&answer.status) {
            return Ok(());
        }
        Err(Trouble::Wrong(format!("{method} {target} was answered with {answer:?}")))
    }

    /// A VM as its owner sees it.
    pub(super) fn vm(&self, name: &str) -> Result<Answer, Broken> {
        self.renter.ask(&self.provider, "GET", &route_of(name), None, None)
    }

    /// Whether a VM is where it is to be.
    pub(super) fn is_at(&self, name: &str, end: End) -> Result<bool, Broken> {
        let Answer { status, body } = self.vm(name)?;
        let kept = !body["lease"]["ended_at"].is_null();
        Ok(match end {
            End::Gone => status == 404,
            End::Running => body["status"] == "running",
            End::Stopped => body["status"] == "stopped" && !kept,
            End::Retained => body["status"] == "stopped" && kept,
            End::RunningOrStopped => body["status"] == "running" || body["status"] == "stopped",
            End::Error => body["status"] == "error",
        })
    }

    /// Waits until a VM is where it is to be.
    pub(super) fn arrives(&self, name: &str, end: End) -> Step {
        self.until(&format!("{name} is {end:?}"), || Ok(self.is_at(name, end)?))
    }

    fn until(&self, what: &str, mut is_true: impl FnMut() -> Result<bool, Trouble>) -> Step {
        let mut last = None;
        let waited = within(self.patience, || match is_true() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(trouble) => {
                last = Some(trouble.clone());
                Some(Err(trouble))
            }
        });
        waited.unwrap_or_else(|| {
            Err(Trouble::Wrong(format!("not within {} s: {what}", self.patience.as_secs())))
        })
    }

    /// `kill -9`, at rest.
    pub(super) fn kill(&mut self) {
        self.provider.service().kill();
    }

    /// Starts it; [`Trouble::Ended`] if it is killed before it serves.
    pub(super) fn start(&mut self) -> Step {
        self.provider.try_start().map_err(|said| {
            if said.contains("signal: 9") { Trouble::Ended } else { Trouble::Wrong(said) }
        })
    }

    /// Whether its process is gone; waits for that.
    pub(super) fn has_ended(&mut self) -> bool {
        self.provider.is_over() || self.provider.service().has_ended()
    }

    /// Whether its process is gone now.
    pub(super) fn is_over(&mut self) -> bool {
        self.provider.is_over()
    }

    /// Waits until nothing is in flight and nothing is amiss.
    pub(super) fn at_rest(&self, when: &str) -> Step {
        let mut found = Vec::new();
        let mut before = None;
        let settled = within(self.patience, || {
            let evidence = self.provider.evidence_beside();
            found = violations(&evidence);
            // What is looked at one after the other may be of different moments: seen twice it is true.
            let books = found.is_empty().then_some(evidence.books);
            let same = books.is_some() && books == before;
            before = books;
            same.then_some(())
        });
        found.extend(settled.map_or_else(Vec::new, |()| self.unreachable()));
        no(found).map_err(|found| Trouble::Wrong(format!("{when}: {found}")))
    }

    /// What the provider says of itself fits, and others' VMs are as they were.
    pub(super) fn books_add_up(&self) -> Step {
        let mut found = Vec::new();
        let _ = within(self.patience, || {
            found = violations(&self.provider.evidence());
            found.is_empty().then_some(())
        });
        found.extend(self.bystander_touched());
        no(found).map_err(Trouble::Wrong)
    }

    /// There is one VM of that name (or none, where it is to be gone), and it is the one that there was.
    pub(super) fn has_one(&self, name: &str, id: Option<&str>, end: End) -> Step {
        let books = self.provider.evidence_beside().books;
        let rows: Vec<_> = books.vms.iter().filter(|row| row.name == name).collect();
        let right = match (end, rows.as_slice()) {
            (End::Gone, []) => true,
            (End::Gone, _) => false,
            (_, [row]) => id.is_none_or(|id| id == row.id),
            (_, _) => false,
        };
        if right {
            return Ok(());
        }
        Err(Trouble::Wrong(format!(
            "there was VM {id:?}, it was to be {end:?}, and there is {rows:?}"
        )))
    }

    /// Takes the VM away, if it is there.
    pub(super) fn tidy(&self, name: &str) -> Step {
        self.ask("DELETE", &route_of(name), None, &[200, 404])?;
        self.arrives(name, End::Gone)
    }

    /// Each running VM's port leads to a server that greets as an SSH server does.
    fn unreachable(&self) -> Vec<String> {
        let mut deaf = Vec::new();
        // The first connection may meet the moment in which its route is told, or its lease ends.
        let _ = within(Duration::from_secs(20), || {
            let books = self.provider.evidence_beside().books;
            let running = books.vms.iter().filter(|row| row.state == "running");
            deaf = running
                .filter_map(|row| books.ports.iter().find(|(_, vm, _)| *vm == row.id))
                .filter(|(port, _, _)| !greets(*port))
                .map(|(port, vm, _)| format!("no SSH server behind port {port} of {vm}"))
                .collect();
            deaf.is_empty().then_some(())
        });
        deaf
    }

    fn bystander_touched(&self) -> Option<String> {
        let (owner, before) = self.bystander.as_ref()?;
        let now = match owner.ask(&self.provider, "GET", &route_of("bystander"), None, None) {
            Ok(answer) => answer.body,
            Err(broken) => return Some(format!("another's VM can't be asked about: {broken:?}")),
        };
        ["id", "status", "ssh_port", "host_key", "resources"]
            .iter()
            .find(|field| now[**field] != before[**field])
            .map(|field| format!("another's VM had {field} {}, and now {now}", before[*field]))
    }
}

fn no(found: Vec<String>) -> Result<(), String> {
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"SSH-"
}

/// The path of a VM.
pub(super) fn route_of(name: &str) -> String {
    route::VM.replace("{name}", name)
}
