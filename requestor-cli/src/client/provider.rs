//! What a provider is asked and told about VMs. How that goes over the wire, and which replies are believed, is in
//! [`exchange`](super::exchange).

use std::time::Duration;

use golem_vm_protocol::advertisement::Endpoint;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{
    Operation, OperationAccepted, Vm, VmAccess, VmEvents, VmId, VmKeys, VmStats,
};
use golem_vm_protocol::{KeyPair, VmRef, route};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;

pub use super::call_error::CallError;
use super::connector::Connector;
use super::exchange::{Reply, parse};
use super::pauses::Notice;
use crate::rentals::{ProviderRef, Rental};

/// For questions.
pub const ASK: Duration = Duration::from_secs(20);
/// For what takes the provider a while: start, stop.
pub const ACT: Duration = Duration::from_secs(150);
/// For destroying, which a provider carries to its end also if nobody waits.
pub const DESTROY: Duration = Duration::from_secs(60);

/// What a create request led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It is being made.
    Accepted(OperationAccepted),
    /// It is there.
    Ready(Box<Vm>),
}

/// Where a VM's SSH answers, if it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// There.
    Ready(Box<VmAccess>),
    /// Not up yet.
    Pending,
}

/// Makes calls as one requestor.
#[derive(Debug, Clone)]
pub struct ProviderClient {
    pub(super) key: KeyPair,
    pub(super) connector: Connector,
    pub(super) notice: Notice,
}

impl ProviderClient {
    /// As the owner of `key`; what a person has to wait for is told to `notice`.
    #[must_use]
    pub const fn new(key: KeyPair, connector: Connector, notice: Notice) -> Self {
        Self { key, connector, notice }
    }

    /// The same, which tells somebody else what has to be waited for.
    #[must_use]
    pub fn with_notice(&self, notice: Notice) -> Self {
        Self { notice, ..self.clone() }
    }

    /// How streams are opened.
    #[must_use]
    pub const fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Asks for the VM of this row, anew or as a clone. What was stored is sent as it is, so that the same can be
    /// sent again.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn create(
        &self,
        provider: &ProviderRef,
        rental: &Rental,
    ) -> Result<Created, CallError> {
        let target = match rental.cloned_from {
            None => format!("{}?async=true", route::VMS),
            Some(source) => format!("{}?async=true", route::vm_clone(&source.into())),
        };
        let (body, key) = (rental.request.as_bytes(), rental.idempotency_key.as_str());
        let reply = self.call(provider, Method::POST, &target, body, Some(key), ASK * 2).await?;
        if reply.status == StatusCode::ACCEPTED {
            parse(&reply).map(Created::Accepted)
        } else {
            parse(&reply).map(|vm| Created::Ready(Box::new(vm)))
        }
    }

    /// Asks something: a GET of a path under a VM.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ask<T: DeserializeOwned>(
        &self,
        provider: &ProviderRef,
        target: &str,
    ) -> Result<T, CallError> {
        parse(&self.get(provider, target, ASK).await?)
    }

    /// How far an operation is.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn operation(
        &self,
        provider: &ProviderRef,
        id: &str,
    ) -> Result<Operation, CallError> {
        parse(&self.get(provider, &route::vm_operation(id), ASK).await?)
    }

    /// All VMs of this requestor on the provider. What a newer version calls something else is
    /// left out.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list(
        &self,
        provider: &ProviderRef,
        deadline: Duration,
    ) -> Result<Vec<Vm>, CallError> {
        let values: Vec<serde_json::Value> =
            parse(&self.get(provider, route::VMS, deadline).await?)?;
        Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
    }

    /// One VM.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn vm(&self, provider: &ProviderRef, vm: &VmRef) -> Result<Vm, CallError> {
        parse(&self.get(provider, &route::vm(vm), ASK).await?)
    }

    /// Where its SSH answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn access(&self, provider: &ProviderRef, vm: &VmRef) -> Result<Access, CallError> {
        let reply = self.get(provider, &route::vm_access(vm), ASK).await?;
        if reply.status == StatusCode::ACCEPTED {
            return Ok(Access::Pending);
        }
        parse(&reply).map(|access| Access::Ready(Box::new(access)))
    }

    /// What it uses now.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn stats(&self, provider: &ProviderRef, vm: &VmRef) -> Result<VmStats, CallError> {
        parse(&self.get(provider, &route::vm_stats(vm), ASK).await?)
    }

    /// Which SSH keys may log in to it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn keys(&self, provider: &ProviderRef, vm: &VmRef) -> Result<VmKeys, CallError> {
        parse(&self.get(provider, &route::vm_keys(vm), ASK).await?)
    }

    /// Starts, stops or restarts: a POST without a body to a path under the VM.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn change(&self, provider: &ProviderRef, target: &str) -> Result<(), CallError> {
        self.call(provider, Method::POST, target, b"", None, ACT).await.map(|_| ())
    }

    /// Has something done that takes the provider a while, by a request without a body.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn act<T: DeserializeOwned>(
        &self,
        provider: &ProviderRef,
        method: Method,
        target: &str,
    ) -> Result<T, CallError> {
        parse(&self.call(provider, method, target, b"", None, ACT).await?)
    }

    /// Destroys a VM.
    ///
    /// # Errors
    /// [`CallError`]; that there is no such VM is one of them.
    pub async fn destroy(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        deadline: Duration,
    ) -> Result<(), CallError> {
        self.call(provider, Method::DELETE, &route::vm(vm), b"", None, deadline).await.map(|_| ())
    }

    /// Gives a VM up the soft way: it is stopped, and kept until its lease's `erased_at`. `None` when the
    /// provider destroyed it at once.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn give_up(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
    ) -> Result<Option<Vm>, CallError> {
        let target = format!("{}?keep=true", route::vm(vm));
        parse(&self.call(provider, Method::DELETE, &target, b"", None, ACT).await?)
    }

    /// What happened to a VM, from the event after number `after` on, at most `limit` events.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn events(
        &self,
        provider: &ProviderRef,
        vm: &VmRef,
        after: u64,
        limit: u32,
    ) -> Result<VmEvents, CallError> {
        let target = format!("{}?after={after}&limit={limit}", route::vm_events(vm));
        parse(&self.get(provider, &target, ASK).await?)
    }

    /// Tells something about a VM: a POST of `body` to a path under it. Gives what the provider answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        provider: &ProviderRef,
        target: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::Local(error.to_string()))?;
        parse(&self.call(provider, Method::POST, target, &body, None, ASK * 4).await?)
    }

    /// The same, done once however often it is told under one key; it may take the provider a while.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn post_once<T: DeserializeOwned>(
        &self,
        provider: &ProviderRef,
        target: &str,
        body: &impl serde::Serialize,
        key: &str,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::Local(error.to_string()))?;
        parse(&self.call(provider, Method::POST, target, &body, Some(key), ACT).await?)
    }

    async fn get(
        &self,
        provider: &ProviderRef,
        target: &str,
        deadline: Duration,
    ) -> Result<Reply, CallError> {
        self.call(provider, Method::GET, target, b"", None, deadline).await
    }
}

/// The provider's word on a VM's id.
///
/// # Errors
/// [`CallError::Malformed`] when it is none.
pub fn vm_id(text: &str) -> Result<VmId, CallError> {
    text.parse().map_err(|_| {
        CallError::Malformed(format!("'{}' is not the id of a VM", printable(text, 64)))
    })
}

/// Whether two lists lead to the same places.
#[must_use]
pub fn same_endpoints(a: &[Endpoint], b: &[Endpoint]) -> bool {
    a.iter().filter(|e| **e != Endpoint::Unknown).eq(b.iter().filter(|e| **e != Endpoint::Unknown))
}
