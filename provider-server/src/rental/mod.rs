//! Renting: from a valid request to a VM on agreed terms.
//!
//! This is where the provider's conditions meet a requestor's wishes: who is served, which images
//! there are, whether the terms are those that were accepted, and how much may be promised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_node::clock::Clock;
use golem_vm_protocol::advertisement::{Overcommit, Prices};
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Ability, Isolation, LeaseRequest, Owner, ValidCreate};
use golem_vm_protocol::{KeyId, VmRef};
use sha2::{Digest as _, Sha256};

use crate::backend::{BackendKind, Containment, Egress, Found};
use crate::capacity::Amount;
use crate::images::ImageCatalog;
use crate::vm::admission::{Bounds, Idempotency, RepeatedRequest};
use crate::vm::lease::LeasePolicy;
use crate::vm::manager::Creation;
use crate::vm::offer_book::{OfferBook, worse_than_accepted};
use crate::vm::record::Terms;
use crate::vm::{AccessPorts, OperationRecord, VmError, VmManager, VmRecord};

/// The provider's conditions.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// What is offered in all.
    pub offered: Amount,
    /// Most VMs at a time.
    pub max_vms: u32,
    /// Most VMs at a time of one requestor.
    pub max_vms_per_requestor: Option<u32>,
    /// Prices per month.
    pub prices: Prices,
    /// How much more than the host has is promised.
    pub overcommit: Overcommit,
    /// Requestors who are served in any case.
    pub trusted: BTreeSet<KeyId>,
    /// Whether strangers are served although guests are not contained.
    pub allow_uncontained: bool,
    /// Where new VMs' traffic may go.
    pub egress: Egress,
    /// Which backend makes new VMs.
    pub backend: BackendKind,
    /// What that backend can do.
    pub capabilities: Found,
    /// What leases are given.
    pub leases: LeasePolicy,
}

impl Conditions {
    /// Whether anybody is served, or why only trusted requestors are.
    ///
    /// # Errors
    /// Why guests are not contained.
    pub fn open_to_strangers(&self) -> Result<(), String> {
        match &self.capabilities.now().containment {
            Containment::Uncontained(reason) if !self.allow_uncontained => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// Whether guests are contained.
    #[must_use]
    pub fn contained(&self) -> bool {
        self.capabilities.now().containment == Containment::Contained
    }
}

/// Rents out VMs.
#[derive(Clone)]
pub struct Rental {
    /// What new VMs are subject to.
    pub conditions: Arc<Conditions>,
    /// The VMs.
    pub vms: VmManager,
    /// What they boot from.
    pub images: ImageCatalog,
    /// What leads to them.
    pub ports: Arc<dyn AccessPorts>,
    /// What was advertised.
    pub offers: Arc<dyn OfferBook>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Rental {
    /// Begins to make a VM, or finds the operation of the same request made before.
    ///
    /// # Errors
    /// Every reason in [`VmError`] for which a VM is not rented out. Nothing is left then.
    pub async fn create(
        &self,
        owner: Owner,
        request: ValidCreate,
        idempotency_key: Option<String>,
    ) -> Result<OperationRecord, VmError> {
        let idempotency =
            idempotency_key.map(|key| Idempotency { key, fingerprint: fingerprint(&request) });
        if let Some(idempotency) = idempotency.clone()
            && let Some(operation) =
                self.vms.repeated(RepeatedRequest { owner, idempotency }).await?
        {
            return Ok(operation);
        }
        self.check_trust(owner)?;
        let lease = self.conditions.leases.grant(owner, &request.lease)?;
        let terms = self.terms(&request).await?;
        self.check_offer(&request, &terms).await?;
        let bounds = Bounds {
            offered: self.conditions.offered,
            max_vms: self.conditions.max_vms,
            max_vms_per_requestor: self.conditions.max_vms_per_requestor,
            ports: self.ports.usable(),
        };
        let creation = Creation { owner, request, terms, lease, bounds, idempotency };
        self.vms.create(creation, self.now()).await
    }

    /// Makes a lease end at `until`, by the wall clock as it is now, if it ends earlier.
    ///
    /// # Errors
    /// [`VmError::LeaseTooLong`], and those of [`VmManager::extend`].
    pub async fn extend(
        &self,
        owner: Owner,
        vm: VmRef,
        until: Timestamp,
    ) -> Result<VmRecord, VmError> {
        let (now, wall) = self.vms.this_moment(self.now());
        let from_now = self.conditions.leases.within(until.since(wall))?;
        self.vms.extend(owner, vm, now.plus(from_now)).await
    }

    /// Has a VM back that is only kept.
    ///
    /// # Errors
    /// [`VmError::LeaseTooLong`], and those of [`VmManager::undelete`].
    pub async fn undelete(
        &self,
        owner: Owner,
        vm: VmRef,
        lasting: Option<Duration>,
    ) -> Result<VmRecord, VmError> {
        let lasting = self.conditions.leases.again(lasting)?;
        self.vms.undelete(owner, vm, lasting, self.conditions.offered).await
    }

    /// A VM's lease as its owner sees it.
    #[must_use]
    pub fn lease_of(&self, record: &VmRecord) -> golem_vm_protocol::vm::Lease {
        let (now, wall) = self.vms.this_moment(self.now());
        record.lease.to_wire(&record.state, now, wall)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(i64::try_from(self.clock.now_micros()).unwrap_or(i64::MAX))
    }

    fn check_trust(&self, owner: Owner) -> Result<(), VmError> {
        let trusted = match owner {
            Owner::Key(id) => self.conditions.trusted.contains(&id),
            Owner::Unsigned => false,
        };
        match self.conditions.open_to_strangers() {
            Err(reason) if !trusted => Err(VmError::NotTrusted(reason)),
            _ => Ok(()),
        }
    }

    async fn terms(&self, request: &ValidCreate) -> Result<Terms, VmError> {
        self.check_demands(request)?;
        let image = self.images.resolve(request.image.as_deref()).await?;
        if let Some(demanded) = request.image_digest
            && demanded.to_string() != image.digest.as_str()
        {
            return Err(VmError::ImageNotOffered {
                asked: format!("{}@{demanded}", image.name),
                offered: format!("{}@{}", image.name, image.digest),
            });
        }
        Ok(Terms {
            resources: request.resources,
            image: image.name,
            image_digest: image.digest,
            backend: self.conditions.backend,
            isolation: self.conditions.capabilities.now().isolation,
            egress: self.conditions.egress,
            prices: self.conditions.prices,
        })
    }

    /// Whether the backend can make what is asked for.
    fn check_demands(&self, request: &ValidCreate) -> Result<(), VmError> {
        let capabilities = self.conditions.capabilities.now();
        let what = match request.isolation {
            Some(isolation) if isolation != capabilities.isolation => match isolation {
                Isolation::Vm => "make virtual machines, only containers",
                _ => "make containers, only virtual machines",
            },
            _ if request.cloud_init.is_none()
                || capabilities.abilities.contains(&Ability::CloudInit) =>
            {
                return Ok(());
            }
            _ => "boot with cloud-init of your own",
        };
        let (name, backend) = (request.name.to_string(), self.conditions.backend);
        Err(VmError::NotSupported { name, backend, what })
    }

    async fn check_offer(&self, request: &ValidCreate, terms: &Terms) -> Result<(), VmError> {
        let Some(offer) = &request.offer else { return Ok(()) };
        let Some(accepted) = self.offers.advertised(offer).await? else {
            return Err(VmError::OfferChanged(format!(
                "this provider did not make advertisement {} with that digest, or has forgotten it",
                offer.sequence
            )));
        };
        // A provider that serves only those it trusts advertises no offers, only its prices.
        if accepted.offers.is_empty() && !terms.prices.any_higher_than(&accepted.prices) {
            return Ok(());
        }
        let worse = worse_than_accepted(
            &accepted,
            terms,
            self.conditions.overcommit.cpu,
            &self.conditions.capabilities.now().enforced,
            self.conditions.contained(),
        );
        worse.map_or(Ok(()), |what| Err(VmError::OfferChanged(what)))
    }
}

/// What a request means, whatever its spelling: the terms it accepts are not part of it, so that
/// a client may repeat it after it looked at a newer advertisement.
fn fingerprint(request: &ValidCreate) -> String {
    let mut hash = Sha256::new();
    let size = request.resources;
    let mut part = |text: &str| {
        hash.update(text.len().to_be_bytes());
        hash.update(text.as_bytes());
    };
    part(request.name.as_str());
    part(&format!("{}/{}/{}", size.cpu, size.memory, size.storage));
    part(request.image.as_deref().unwrap_or_default());
    for key in &request.ssh_keys {
        part(key.as_str());
    }
    // Earlier releases knew no leases: their requests mean what they meant.
    if request.lease != LeaseRequest::default() {
        let LeaseRequest { duration_seconds, on_expiry, stop_when_idle_seconds } = request.lease;
        let number = |seconds: Option<u64>| seconds.map(|s| s.to_string()).unwrap_or_default();
        part(&number(duration_seconds));
        part(on_expiry.unwrap_or_default().as_str());
        part(&number(stop_when_idle_seconds));
    }
    // Nor these: each is told apart from the others by its first word.
    for (what, text) in [
        ("image-digest", request.image_digest.map(|digest| digest.to_string())),
        ("isolation", request.isolation.map(|isolation| isolation.to_string())),
        ("cloud-init", request.cloud_init.clone()),
    ] {
        if let Some(text) = text {
            part(what);
            part(&text);
        }
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
}
