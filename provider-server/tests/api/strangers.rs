//! Callers without a key, and with another one than the owner's, try every route with every method.

use golem_vm_protocol::route::{Caller, ROUTES, Service};
use serde_json::{Value, json};

use super::wire::{Got, METHODS, Sent};
use super::*;

/// A VM of somebody's, and one that never was: names and ids of the same lengths.
struct Subjects {
    vm: Vm,
    never_id: String,
}

const FOREIGN: &str = "foreign-box";
const NEVER: &str = "nowhere-box";

impl Subjects {
    async fn made(owner: &Requestor, provider: &Provider) -> Self {
        let vm = owner.create(provider, FOREIGN).await.unwrap();
        Self { vm, never_id: VmId::random().unwrap().to_string() }
    }

    /// Pairs of paths of `pattern`: what is there for its owner, and what is not there for anybody; each with
    /// what stands for the VM in it.
    fn pairs(&self, pattern: &str) -> Vec<[(String, String); 2]> {
        let job = self.vm.job_id.clone().unwrap();
        let never_job: String = job.chars().rev().collect();
        assert_ne!(job, never_job);
        let never_job = format!("op_{}", &never_job[..never_job.len() - 3]);
        let of = |parameter: &str, values: [&str; 2]| {
            let pattern = pattern.replace("{snapshot}", "first");
            values.map(|value| (pattern.replace(parameter, value), value.to_owned()))
        };
        if pattern.contains("{name}") {
            let by_name = of("{name}", [FOREIGN, NEVER]);
            let by_id = of("{name}", [&self.vm.id, &self.never_id]);
            vec![by_name, by_id]
        } else if pattern.contains("{job_id}") {
            vec![of("{job_id}", [&job, &never_job])]
        } else {
            vec![of("{}", ["{}", "{}"])]
        }
    }
}

fn patterns() -> BTreeSet<&'static str> {
    // Those of other services too: here is nothing behind them.
    ROUTES.iter().map(|route| route.pattern).collect()
}

fn served(method: &str, pattern: &str) -> Option<Caller> {
    let method = if method == "HEAD" { "GET" } else { method };
    ROUTES
        .iter()
        .find(|route| {
            route.service == Service::Provider && (route.method, route.pattern) == (method, pattern)
        })
        .map(|route| route.caller)
}

fn here(pattern: &str) -> bool {
    ROUTES.iter().any(|route| route.service == Service::Provider && route.pattern == pattern)
}

/// Everything that its owner can see of a VM.
async fn seen(owner: &Requestor, provider: &Provider, vm: &Vm) -> Vec<Value> {
    let mut seen = Vec::new();
    for path in [
        format!("/api/v1/vms/{}", vm.id),
        format!("/api/v1/vms/{FOREIGN}/access"),
        route::vm_operation(vm.job_id.as_ref().unwrap()),
        route::VMS.to_owned(),
    ] {
        seen.push(owner.get(provider, &path).await.unwrap());
    }
    seen
}

/// A path, filled in, may hold parameters that only a new route has.
fn assert_filled(path: &str) {
    let unknown = path.contains('{') && !path.contains("{provider_id}");
    assert!(!unknown, "teach this test what stands for the parameters of {path}");
}

#[tokio::test]
async fn without_a_key_one_gets_what_is_public_and_learns_nothing_else() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let owner = Requestor::new();
    let subjects = Subjects::made(&owner, &provider).await;
    let before = seen(&owner, &provider, &subjects.vm).await;
    let mut refusals: BTreeMap<String, Got> = BTreeMap::new();
    for pattern in patterns() {
        for method in METHODS {
            for (path, name) in subjects.pairs(pattern).into_iter().flatten() {
                assert_filled(&path);
                let got = Sent::unsigned(method, &path, "").to(&provider).await;
                let what = format!("{method} {path}: {got:?}");
                assert!(!got.headers.contains_key("signature"), "{what}");
                match served(method, pattern) {
                    Some(Caller::Everybody) => assert_eq!(got.status, 200, "{what}"),
                    Some(_) => {
                        assert_eq!(got.status, 401, "{what}");
                        if method != "HEAD" {
                            assert_eq!(got.code(), Some(ErrorCode::SignatureRequired), "{what}");
                        }
                        // The same words, wherever that is.
                        let got = got.without(&name);
                        let kind = if method == "HEAD" { "head" } else { "other" };
                        let first = refusals.entry(kind.to_owned()).or_insert_with(|| got.clone());
                        assert_eq!(*first, got, "{what}");
                    }
                    None if here(pattern) => assert!([400, 405].contains(&got.status), "{what}"),
                    None => assert!([400, 404].contains(&got.status), "{what}"),
                }
            }
        }
    }
    assert_eq!(seen(&owner, &provider, &subjects.vm).await, before);
    provider.end().await;
}

#[tokio::test]
async fn with_another_key_a_vm_is_one_that_never_was() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let owner = Requestor::new();
    let subjects = Subjects::made(&owner, &provider).await;
    let before = seen(&owner, &provider, &subjects.vm).await;
    let bodies = ["", "{}", "{\"ssh_key\":\"x\"}", "["];
    for pattern in patterns() {
        for method in METHODS {
            // Each time somebody else, so that nobody asks too often.
            let other = KeyPair::generate().unwrap();
            for pair in subjects.pairs(pattern) {
                for body in bodies {
                    let mut answers = Vec::new();
                    for (path, name) in &pair {
                        assert_filled(path);
                        let sent = Sent::signed(&other, &provider, method, path, body);
                        let got = sent.to(&provider).await;
                        let what = format!("{method} {path} {body}: {got:?}");
                        match served(method, pattern) {
                            Some(Caller::Everybody) => assert_eq!(got.status, 200, "{what}"),
                            Some(Caller::AnyKey) => {
                                // Its own list, which is empty; and no create without a good body.
                                assert!([200, 400, 415, 422].contains(&got.status), "{what}");
                                let empty = method == "HEAD" || got.body == "[]";
                                assert!(got.status != 200 || empty, "{what}");
                            }
                            Some(_) => assert!((400..500).contains(&got.status), "{what}"),
                            None if here(pattern) => {
                                assert!([400, 405].contains(&got.status), "{what}");
                            }
                            None => assert!([400, 404].contains(&got.status), "{what}"),
                        }
                        answers.push(got.without(name));
                    }
                    assert_eq!(answers[0], answers[1], "{method} {pair:?} {body}");
                }
            }
        }
    }
    assert_eq!(seen(&owner, &provider, &subjects.vm).await, before);
    let instance = InstanceId::of(subjects.vm.id.parse().unwrap());
    assert!(matches!(ground.backend.observe(instance).await, Ok(Observation::Running { .. })));
    assert!(ground.ports.0.lock().unwrap().contains_key(&subjects.vm.ssh_port.unwrap()));
    provider.end().await;
}

#[tokio::test]
async fn names_and_idempotency_keys_of_others_are_free_for_all() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let (owner, other) = (Requestor::new(), Requestor::new());
    let create = create_body(FOREIGN);
    let call = || Call::post(route::VMS, &create).unwrap().idempotency_key("k-1");
    let theirs = owner.call(&provider, call()).await.unwrap();
    let mine = other.call(&provider, call()).await.unwrap();
    assert_ne!(theirs["id"], mine["id"]);
    assert_ne!(theirs["ssh_port"], mine["ssh_port"]);
    assert_eq!(mine["name"], theirs["name"]);
    // Each has one, and what one does to its own the other does not see.
    other.delete(&provider, &format!("/api/v1/vms/{FOREIGN}")).await.unwrap();
    assert_eq!(other.get(&provider, route::VMS).await.unwrap(), json!([]));
    let left = owner.get(&provider, route::VMS).await.unwrap();
    assert_eq!((&left[0]["id"], &left[0]["status"]), (&theirs["id"], &json!("running")));
    provider.end().await;
}
