//! SSH keys of a VM that exists.

use std::time::Duration;

use golem_vm_node::client::{Call, ClientError};
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::VmKeys;
use golem_vm_provider::backend::memory::{Fault, Method};
use golem_vm_provider::backend::{BackendError, InstanceId};
use serde_json::{Value, json};

use super::{Ground, Provider, Requestor, code};

const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUCmvB5fe1b3xQdrT0dDqAdFVkdUTsHVVbgWGTYzaob ann@attic";

impl Requestor {
    /// The VM's keys after this change, or as they are.
    async fn keys(
        &self,
        provider: &Provider,
        change: Option<Value>,
    ) -> Result<VmKeys, ClientError> {
        let path = "/api/v1/vms/box/keys";
        let answer = match change {
            Some(change) => self.call(provider, Call::post(path, &change).unwrap()).await?,
            None => self.get(provider, path).await?,
        };
        Ok(serde_json::from_value(answer).unwrap())
    }
}

#[tokio::test]
async fn keys_come_and_go_for_the_owner_alone() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let (me, other) = (Requestor::new(), Requestor::new());
    let vm = me.create(&provider, "box").await.unwrap();
    let keys = me.keys(&provider, None).await.unwrap();
    assert_eq!((keys.keys.len(), keys.applied), (1, true));
    let add = || Some(json!({ "add": [OTHER_KEY] }));

    let both = me.keys(&provider, add()).await.unwrap();
    assert_eq!((both.keys.len(), both.applied), (2, true));
    let instance = InstanceId::of(vm.id.parse().unwrap());
    let applied = || ground.backend.spec(instance).unwrap().access.unwrap().authorized_keys;
    assert_eq!(applied().len(), 2);

    // To anybody else there is no such VM.
    for change in [None, add()] {
        let error = other.keys(&provider, change).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::VmNotFound);
    }
    assert_eq!(applied().len(), 2);

    let first = keys.keys[0].fingerprint.clone();
    let one = me.keys(&provider, Some(json!({ "remove": [first] }))).await.unwrap();
    assert_eq!((one.keys.len(), applied().len()), (1, 1));
    let last = json!({ "remove": [one.keys[0].fingerprint] });
    let error = me.keys(&provider, Some(last)).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::LastKey);
    for wrong in [json!({}), json!({"add": ["nope"]}), json!({"remove": ["x"]})] {
        let error = me.keys(&provider, Some(wrong)).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::ValidationFailed);
    }
    let none = json!({ "remove": [one.keys[0].fingerprint], "force": true });
    assert!(me.keys(&provider, Some(none)).await.unwrap().keys.is_empty());
    assert!(applied().is_empty());
    provider.end().await;
}

#[tokio::test]
async fn keys_that_could_not_be_applied_are_applied_later() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let vm = me.create(&provider, "box").await.unwrap();
    let instance = InstanceId::of(vm.id.parse().unwrap());
    let applied = || ground.backend.spec(instance).unwrap().access.unwrap().authorized_keys;
    let away = BackendError::Unavailable("the engine is away".into());
    ground.backend.script(Method::Authorize, Fault::Fail(away));
    let add = || Some(json!({ "add": [OTHER_KEY] }));
    let error = me.keys(&provider, add()).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::BackendUnavailable);
    let keys = me.keys(&provider, None).await.unwrap();
    assert_eq!((keys.keys.len(), keys.applied, applied().len()), (2, false, 1), "written down");
    // The next start of the program finds what was meant.
    provider.end().await;
    let provider = ground.provider(|_| {}).await;
    let begun = std::time::Instant::now();
    while !me.keys(&provider, None).await.unwrap().applied {
        assert!(begun.elapsed() < Duration::from_secs(20), "never applied");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(applied().len(), 2);

    // A stopped VM goes by them when it starts.
    me.post(&provider, "/api/v1/vms/box/stop").await.unwrap();
    let gone = json!({ "remove": [keys.keys[0].fingerprint] });
    let keys = me.keys(&provider, Some(gone)).await.unwrap();
    assert_eq!((keys.keys.len(), keys.applied, applied().len()), (1, false, 2));
    me.post(&provider, "/api/v1/vms/box/start").await.unwrap();
    assert_eq!(applied().len(), 1);
    assert!(me.keys(&provider, None).await.unwrap().applied);
    provider.end().await;
}
