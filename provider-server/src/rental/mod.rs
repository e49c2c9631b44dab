//! Renting: from a valid request to a VM on agreed terms.
//!
//! This is where the provider's conditions meet a requestor's wishes: who is served, which images
//! there are, whether the terms are those that were accepted, and how much may be promised.

mod choice;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_node::clock::Clock;
use golem_vm_node::store::StoreError;
use golem_vm_protocol::advertisement::{Advertisement, Offer, Overcommit, Prices};
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{LeaseRequest, Owner, SshPublicKey, ValidClone, ValidCreate};
use golem_vm_protocol::{KeyId, VmRef};
use sha2::{Digest as _, Sha256};

use choice::Candidate;

use crate::advertise::{self, BackendOffer, RentableImage};
use crate::backend::{BackendError, Backends, Capabilities, Containment, Egress, Present};
use crate::capacity::Amount;
use crate::images::{ImageCatalog, ImageRow};
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
    /// What makes them, the first one for those who ask for nothing else.
    pub backends: Backends,
    /// What leases are given.
    pub leases: LeasePolicy,
}

impl Conditions {
    /// Whether anybody is served, or why only trusted requestors are.
    ///
    /// # Errors
    /// Why no backend contains its guests.
    pub fn open_to_strangers(&self) -> Result<(), String> {
        let there = self.backends.there();
        if self.allow_uncontained || there.is_empty() || there.iter().any(Present::contained) {
            return Ok(());
        }
        let reasons = there.iter().filter_map(|present| match &present.found.now().containment {
            Containment::Uncontained(reason) => Some(reason.clone()),
            Containment::Contained => None,
        });
        Err(reasons.collect::<Vec<_>>().join("; "))
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
        let lease = self.conditions.leases.grant(owner, &request.lease)?;
        let terms = self.terms(owner, &request).await?;
        let bounds = self.bounds();
        let clone_of = None;
        let creation = Creation { owner, request, terms, lease, bounds, clone_of, idempotency };
        self.vms.create(creation, self.now()).await
    }

    /// Begins to make a VM whose disk begins as that of another of the same owner, or finds the operation of the
    /// same request made before. It is let in as a new one is, on today's terms.
    ///
    /// # Errors
    /// Every reason in [`VmError`] for which a VM is not rented out, or another can't be cloned.
    pub async fn clone_vm(
        &self,
        owner: Owner,
        source: VmRef,
        wanted: ValidClone,
        idempotency_key: Option<String>,
    ) -> Result<OperationRecord, VmError> {
        let idempotency = idempotency_key
            .map(|key| Idempotency { key, fingerprint: clone_fingerprint(&source, &wanted) });
        if let Some(idempotency) = idempotency.clone()
            && let Some(operation) =
                self.vms.repeated(RepeatedRequest { owner, idempotency }).await?
        {
            return Ok(operation);
        }
        let lease = self.conditions.leases.grant(owner, &wanted.lease)?;
        let source = self.vms.check_clone(owner, source).await?;
        if let Some(found) = self.vms.capabilities_of(&source)
            && let Containment::Uncontained(reason) = &found.containment
            && !self.conditions.allow_uncontained
            && !self.is_trusted(owner)
        {
            return Err(VmError::NotTrusted(reason.clone()));
        }
        let ssh_keys = if wanted.ssh_keys.is_empty() {
            source.authorized_keys.clone()
        } else {
            wanted.ssh_keys
        };
        let request = ValidCreate {
            name: wanted.name,
            resources: source.terms.resources,
            ssh_keys,
            image: Some(source.terms.image.clone()),
            image_digest: None,
            isolation: None,
            cloud_init: None,
            offer: None,
            lease: wanted.lease,
        };
        let terms = Terms {
            egress: self.conditions.egress,
            prices: self.conditions.prices,
            ..source.terms.clone()
        };
        let (bounds, clone_of) = (self.bounds(), Some(source.id));
        let creation = Creation { owner, request, terms, lease, bounds, clone_of, idempotency };
        self.vms.create(creation, self.now()).await
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            offered: self.conditions.offered,
            max_vms: self.conditions.max_vms,
            max_vms_per_requestor: self.conditions.max_vms_per_requestor,
            ports: self.ports.usable(),
        }
    }

    /// The backends that make VMs now, and the images that can be rented.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn what_there_is(
        &self,
    ) -> Result<(Vec<BackendOffer>, Vec<RentableImage>), StoreError> {
        let there = self.conditions.backends.there();
        let backends = there.iter().map(|present| BackendOffer {
            kind: present.kind(),
            capabilities: (*present.found.now()).clone(),
            egress: self.conditions.egress,
            trouble: present.trouble(),
        });
        let images = self.images.offered().await?.into_iter().map(|row| RentableImage {
            name: row.name,
            digest: row.digest.to_string(),
            backend: row.backend,
        });
        Ok((backends.collect(), images.collect()))
    }

    /// What can be made now, the first one for those who ask for nothing else, whoever is served.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offers(&self) -> Result<Vec<Offer>, StoreError> {
        let (backends, images) = self.what_there_is().await?;
        let well = backends.iter().filter(|backend| backend.trouble.is_none());
        let default = self.images.default_name();
        Ok(well.filter_map(|backend| advertise::offer(backend, &images, default)).collect())
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

    fn is_trusted(&self, owner: Owner) -> bool {
        match owner {
            Owner::Key(id) => self.conditions.trusted.contains(&id),
            Owner::Unsigned => false,
        }
    }

    /// The terms of the VM that is asked for: of the ways to make it, the first that is no worse than what was
    /// accepted.
    async fn terms(&self, owner: Owner, request: &ValidCreate) -> Result<Terms, VmError> {
        let there = self.conditions.backends.there();
        if there.is_empty() {
            let reason = "no backend of this provider can be asked now: try again in a minute";
            return Err(BackendError::Unavailable(reason.to_owned()).into());
        }
        let images = self.images.offered().await?;
        let candidate = |present: &Present| Candidate {
            kind: present.kind(),
            found: present.found.now(),
            images: images.iter().filter(|row| row.backend == present.kind()).cloned().collect(),
        };
        let candidates: Vec<_> = there.iter().map(candidate).collect();
        let serves_uncontained = self.conditions.allow_uncontained || self.is_trusted(owner);
        let ways = choice::ways(&candidates, request, serves_uncontained)?;
        let accepted = self.accepted(request).await?;
        let mut ways: Vec<_> =
            ways.into_iter().map(|(one, image)| self.terms_of(request, one, image)).collect();
        // What was seen first is what was expected.
        if let Some(accepted) = &accepted {
            ways.sort_by_key(|(terms, _)| position(accepted, terms));
        }
        let mut worst = None;
        for (terms, found) in ways {
            let overcommit = self.conditions.overcommit.cpu;
            let worse = accepted
                .as_ref()
                .and_then(|accepted| worse_than_accepted(accepted, &terms, overcommit, &found));
            match worse {
                None => return Ok(terms),
                Some(what) => worst = worst.or(Some(what)),
            }
        }
        Err(VmError::OfferChanged(worst.unwrap_or_else(|| "it is not made here now".to_owned())))
    }

    fn terms_of(
        &self,
        request: &ValidCreate,
        candidate: Candidate,
        image: ImageRow,
    ) -> (Terms, Arc<Capabilities>) {
        let terms = Terms {
            resources: request.resources,
            image: image.name,
            image_digest: image.digest,
            backend: candidate.kind,
            isolation: candidate.found.isolation,
            accel: candidate.found.accel_word().map(str::to_owned),
            egress: self.conditions.egress,
            prices: self.conditions.prices,
        };
        (terms, candidate.found)
    }

    /// The advertisement that the requestor goes by, if it named one.
    async fn accepted(&self, request: &ValidCreate) -> Result<Option<Advertisement>, VmError> {
        let Some(offer) = &request.offer else { return Ok(None) };
        let accepted = self.offers.advertised(offer).await?;
        accepted.map(Some).ok_or_else(|| {
            VmError::OfferChanged(format!(
                "this provider did not make advertisement {} with that digest, or has forgotten it",
                offer.sequence
            ))
        })
    }
}

/// Where among the accepted offers these terms stand.
fn position(accepted: &Advertisement, terms: &Terms) -> usize {
    let of_backend = |offer: &Offer| offer.backend == terms.backend.as_str();
    accepted.offers.iter().position(of_backend).unwrap_or(usize::MAX)
}

/// What the request for a clone means.
fn clone_fingerprint(source: &VmRef, wanted: &ValidClone) -> String {
    let mut hash = Sha256::new();
    let LeaseRequest { duration_seconds, on_expiry, stop_when_idle_seconds } = wanted.lease;
    let lease = format!("{duration_seconds:?}/{on_expiry:?}/{stop_when_idle_seconds:?}");
    let keys = wanted.ssh_keys.iter().map(SshPublicKey::as_str);
    for text in ["clone", source.as_str(), wanted.name.as_str(), &lease].into_iter().chain(keys) {
        hash.update(text.len().to_be_bytes());
        hash.update(text.as_bytes());
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
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
