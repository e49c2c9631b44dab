//! What can be advertised now, or why nothing can: pure.

use std::time::Duration;

use golem_vm_protocol::advertisement::{
    Advertisement, Endpoint, Offer, OfferedImage, Overcommit, PortCheckClaim, Prices,
};
use golem_vm_protocol::attestation::same_host;
use golem_vm_protocol::document::{Envelope, MAX_PAYLOAD_BYTES};
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::LeaseTerms;
use golem_vm_protocol::{KeyId, VmResources};

use crate::backend::{BackendKind, Capabilities, Containment, Egress};
use crate::capacity::{Amount, worth_advertising};
use crate::config::{Config, Minimum};
use crate::ports::{PortsSummary, Verification};

/// Most images of one offer; see [`Advertisement::check`].
const MAX_IMAGES: usize = 32;
/// Most offers.
const MAX_OFFERS: usize = 8;
/// Most attestations; see [`Advertisement::check`].
const MAX_ATTESTATIONS: usize = 8;
/// Least time for which a document is good.
const MIN_VALIDITY: Duration = Duration::from_secs(300);
/// Time for a refresh that is late.
const LATENESS: Duration = Duration::from_secs(60);

/// What the owner set, as far as it is advertised or decides about it.
#[derive(Debug, Clone, PartialEq)]
pub struct TermsSettings {
    /// Who advertises.
    pub provider_id: KeyId,
    /// The provider's label.
    pub name: String,
    /// Two capital letters.
    pub country: String,
    /// The machine's architecture.
    pub platform: String,
    /// Prices per month.
    pub prices: Prices,
    /// How much more is promised than there is.
    pub overcommit: Overcommit,
    /// What leases are given.
    pub lease: LeaseTerms,
    /// The least that has to be free.
    pub minimum: Minimum,
    /// Whether guests that are not contained are offered to everybody.
    pub allow_uncontained: bool,
    /// Whether there are requestors who are served in any case, and so have to find the provider.
    pub trusts_somebody: bool,
    /// What stands first among the images.
    pub default_image: String,
}

impl TermsSettings {
    /// Those of `config`.
    #[must_use]
    pub fn new(config: &Config, provider_id: KeyId) -> Self {
        Self {
            provider_id,
            name: config.name.clone(),
            country: config.country.clone(),
            platform: std::env::consts::ARCH.to_owned(),
            prices: config.prices,
            overcommit: Overcommit {
                cpu: config.offer.overcommit_cpu,
                storage: config.offer.overcommit_storage,
            },
            lease: config.leases.terms(),
            minimum: config.minimum,
            allow_uncontained: config.allow_uncontained,
            trusts_somebody: !config.trusted_requestors.is_empty(),
            default_image: config.default_image.clone(),
        }
    }
}

/// A backend that can make VMs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendOffer {
    /// Which.
    pub kind: BackendKind,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Where its guests' traffic may go.
    pub egress: Egress,
    /// Why nothing can be made on it at the moment, where that is so.
    pub trouble: Option<String>,
}

/// An image that can be rented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RentableImage {
    /// Its name.
    pub name: String,
    /// Its digest, as the backend knows it.
    pub digest: String,
    /// Whose it is.
    pub backend: BackendKind,
}

/// How things are at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What is free.
    pub free: Amount,
    /// What makes VMs.
    pub backends: Vec<BackendOffer>,
    /// What they boot from.
    pub images: Vec<RentableImage>,
    /// How many more VMs there may be.
    pub vms_left: u32,
    /// The public host, once known.
    pub address: Option<String>,
    /// The API's port.
    pub api_port: u16,
    /// The ports.
    pub ports: PortsSummary,
}

/// Why nothing is advertised, in words that say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NothingToOffer {
    /// No backend can make VMs: none is the one that has the VMs.
    #[error("{0}")]
    Backend(String),
    /// As many VMs as are allowed.
    #[error("there are as many VMs as GOLEM_PROVIDER_MAX_VMS allows")]
    MaxVms,
    /// Too little is free.
    #[error(
        "only {} vCPUs, {} GB of memory and {} GB of disk are free, less than GOLEM_PROVIDER_MIN_* asks for ({}, {}, {})",
        free.cpu, free.memory, free.storage, minimum.cpu, minimum.memory_gb, minimum.storage_gb
    )]
    TooLittle {
        /// What is free, in whole units.
        free: VmResources,
        /// The least.
        minimum: Minimum,
    },
    /// There is nothing to boot from.
    #[error("there is no image that can be rented: run 'golem-provider image build debian-12'")]
    NoImages,
    /// Guests are not contained.
    #[error(
        "guests can't be contained ({0}), so strangers are not served: see 'golem-provider doctor', list requestors \
         in GOLEM_PROVIDER_TRUSTED_REQUESTORS, or accept the risk with GOLEM_PROVIDER_ALLOW_UNCONTAINED=true"
    )]
    Uncontained(String),
    /// The public address is not known.
    #[error(
        "the public address is not known yet: no port checker or discovery server has said it; set GOLEM_PROVIDER_PUBLIC_IP if that lasts"
    )]
    NoAddress,
    /// No port could be given to a VM.
    #[error("no access port can be given to a new VM: {0}")]
    NoPorts(&'static str),
    /// The world can't reach the API.
    #[error(
        "no port checker can reach the API on port {0}: open or forward that TCP port, or start with --no-verify-ports"
    )]
    ApiUnreachable(u16),
}

/// What is advertised, without what changes from one document to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct AdvertisedTerms {
    /// What is free, in whole units.
    pub resources: VmResources,
    /// How to reach the provider.
    pub endpoints: Vec<Endpoint>,
    /// What everybody can rent.
    pub offers: Vec<Offer>,
    /// What a port checker found.
    pub port_check: Option<PortCheckClaim>,
    /// What port checkers signed about that host.
    pub attestations: Vec<Envelope>,
}

/// What can be advertised.
///
/// # Errors
/// Why nothing can.
pub fn terms(
    settings: &TermsSettings,
    snapshot: &Snapshot,
) -> Result<AdvertisedTerms, NothingToOffer> {
    let resources = snapshot.free.whole();
    let well = || snapshot.backends.iter().filter(|backend| backend.trouble.is_none());
    if well().next().is_none() {
        let troubles = snapshot.backends.iter().filter_map(|backend| backend.trouble.clone());
        return Err(NothingToOffer::Backend(troubles.collect::<Vec<_>>().join("; ")));
    }
    if snapshot.vms_left == 0 {
        return Err(NothingToOffer::MaxVms);
    }
    if !worth_advertising(snapshot.free, settings.minimum) {
        return Err(NothingToOffer::TooLittle { free: resources, minimum: settings.minimum });
    }
    let rentable: Vec<Offer> =
        well().filter_map(|one| offer(one, &snapshot.images, &settings.default_image)).collect();
    if rentable.is_empty() {
        return Err(NothingToOffer::NoImages);
    }
    let mut offers = rentable;
    offers.retain(|offer| offer.contained || settings.allow_uncontained);
    offers.truncate(MAX_OFFERS);
    if offers.is_empty() && !settings.trusts_somebody {
        return Err(NothingToOffer::Uncontained(reason(&snapshot.backends)));
    }
    if snapshot.ports.free == 0 {
        return Err(NothingToOffer::NoPorts(match snapshot.ports.verification {
            Verification::Off => "all that are held are in use; free some, or widen the port range",
            Verification::NoCheckers => {
                "nobody verifies them; set GOLEM_PROVIDER_PORT_CHECKERS, or start with --no-verify-ports"
            }
            Verification::Unanswered => {
                "no port checker could be asked; see 'golem-provider doctor'"
            }
            Verification::Waiting | Verification::Checking => "they are not verified yet",
            Verification::Done => {
                "all that can be reached are in use; see 'golem-provider doctor' for the others"
            }
        }));
    }
    if !snapshot.ports.api_reachable {
        return Err(NothingToOffer::ApiUnreachable(snapshot.api_port));
    }
    let host = snapshot.address.clone().ok_or(NothingToOffer::NoAddress)?;
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let api = format!("{bracketed}:{}", snapshot.api_port);
    // Those about another address that this host has would be taken for foreign ones.
    let attested = snapshot.ports.attestations.iter().filter(|(said, _)| same_host(said, &host));
    let attestations = attested.map(|(_, envelope)| envelope.clone()).take(MAX_ATTESTATIONS);
    let attestations = attestations.collect();
    Ok(AdvertisedTerms {
        attestations,
        resources,
        endpoints: vec![Endpoint::Direct { api, ssh_host: host }],
        offers,
        port_check: snapshot.ports.claim.clone(),
    })
}

/// What a backend offers; `None` when it has nothing to boot from.
#[must_use]
pub fn offer(
    backend: &BackendOffer,
    images: &[RentableImage],
    default_image: &str,
) -> Option<Offer> {
    let mut images: Vec<_> = images.iter().filter(|image| image.backend == backend.kind).collect();
    // The first one is what a requestor gets who names none.
    images.sort_by_key(|image| image.name != default_image);
    let images: Vec<_> = images
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| OfferedImage { name: image.name.clone(), digest: image.digest.clone() })
        .collect();
    (!images.is_empty()).then(|| Offer {
        backend: backend.kind.as_str().to_owned(),
        isolation: backend.capabilities.isolation,
        accel: backend.capabilities.accel_word().map(str::to_owned),
        images,
        egress: match backend.egress {
            Egress::Internet => "internet",
            Egress::None => "none",
        }
        .to_owned(),
        enforced: backend.capabilities.enforced.clone(),
        contained: backend.capabilities.containment == Containment::Contained,
    })
}

fn reason(backends: &[BackendOffer]) -> String {
    let reasons = backends.iter().filter_map(|backend| match &backend.capabilities.containment {
        Containment::Contained => None,
        Containment::Uncontained(reason) => Some(reason.as_str()),
    });
    reasons.collect::<Vec<_>>().join("; ")
}

/// For how long a document is good that is refreshed every `interval`.
#[must_use]
pub(super) fn validity(interval: Duration) -> Duration {
    MIN_VALIDITY.max(interval + LATENESS)
}

impl AdvertisedTerms {
    /// The document. What does not fit into one leaves out attestations but one, then images
    /// from the end of the longest list.
    #[must_use]
    pub fn advertisement(
        &self,
        settings: &TermsSettings,
        sequence: u64,
        now: Timestamp,
        valid_for: Duration,
    ) -> Advertisement {
        let mut advertisement = Advertisement {
            lease: Some(settings.lease),
            provider_id: settings.provider_id,
            sequence,
            issued_at: now,
            expires_at: now.plus(valid_for),
            name: settings.name.clone(),
            country: settings.country.clone(),
            platform: settings.platform.clone(),
            resources: self.resources,
            endpoints: self.endpoints.clone(),
            offers: self.offers.clone(),
            prices: settings.prices,
            overcommit: settings.overcommit,
            port_check: self.port_check.clone(),
            attestations: self.attestations.clone(),
        };
        let too_large = |advertisement: &Advertisement| {
            serde_json::to_vec(advertisement).is_ok_and(|bytes| bytes.len() > MAX_PAYLOAD_BYTES)
        };
        while too_large(&advertisement) {
            // One checker's word is enough to go by; more of them give way before images do.
            if advertisement.attestations.len() > 1 {
                advertisement.attestations.pop();
                continue;
            }
            let longest = advertisement.offers.iter_mut().max_by_key(|offer| offer.images.len());
            match longest {
                Some(offer) if offer.images.len() > 1 => offer.images.pop(),
                _ => break,
            };
        }
        advertisement
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;
    use golem_vm_protocol::vm::Isolation;

    use super::super::tests::{key, settings, snapshot};
    use super::*;

    fn uncontained() -> Snapshot {
        let mut snapshot = snapshot();
        snapshot.backends[0].capabilities.containment =
            Containment::Uncontained("no firewall".into());
        snapshot
    }

    fn why(settings: &TermsSettings, snapshot: &Snapshot) -> NothingToOffer {
        terms(settings, snapshot).unwrap_err()
    }

    #[test]
    fn what_is_free_is_offered_in_whole_units() {
        let terms = terms(&settings(), &snapshot()).unwrap();
        assert_eq!(terms.resources, VmResources { cpu: 3, memory: 6, storage: 50 });
        let Endpoint::Direct { api, ssh_host } = &terms.endpoints[0] else { panic!() };
        assert_eq!((api.as_str(), ssh_host.as_str()), ("203.0.113.5:7466", "203.0.113.5"));
        let offer = &terms.offers[0];
        assert_eq!((offer.isolation, offer.contained), (Isolation::Container, true));
        let names: Vec<_> = offer.images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["debian-12", "alpine"], "the default is the first");
        let six = Snapshot { address: Some("2001:db8::1".into()), ..snapshot() };
        let terms = super::terms(&settings(), &six).unwrap();
        let Endpoint::Direct { api, ssh_host } = &terms.endpoints[0] else { panic!() };
        assert_eq!((api.as_str(), ssh_host.as_str()), ("[2001:db8::1]:7466", "2001:db8::1"));
    }

    #[test]
    fn what_checkers_signed_about_the_advertised_host_goes_along_and_gives_way_last_but_one() {
        let key = key();
        let note = Envelope::seal(&snapshot_document(), &key).unwrap();
        let mut attested = snapshot();
        attested.ports.attestations = ["203.0.113.5", "203.0.113.6", "::ffff:203.0.113.5"]
            .map(|host| (host.to_owned(), note.clone()))
            .into();
        let terms = terms(&settings(), &attested).unwrap();
        assert_eq!(terms.attestations.len(), 2, "not the one about another address");
        let now = Timestamp::from_unix_seconds(1_000);
        let many = AdvertisedTerms { attestations: vec![note; 100], ..terms };
        let document = many.advertisement(&settings(), 7, now, validity(Duration::from_secs(240)));
        assert!(Envelope::seal(&document, &key).is_ok());
        assert!((1..100).contains(&document.attestations.len()));
        assert_eq!(document.offers[0].images.len(), 2, "no image gave way");
    }

    /// Any document will do: what is in it does not matter here.
    fn snapshot_document() -> Advertisement {
        let now = Timestamp::from_unix_seconds(1_000);
        let terms = terms(&settings(), &snapshot()).unwrap();
        terms.advertisement(&settings(), 7, now, validity(Duration::from_secs(240)))
    }

    #[test]
    fn each_reason_for_nothing_is_told() {
        let settings = settings();
        let none = Snapshot { free: Amount::default(), ..snapshot() };
        assert!(matches!(why(&settings, &none), NothingToOffer::TooLittle { .. }));
        assert_eq!(why(&settings, &Snapshot { vms_left: 0, ..snapshot() }), NothingToOffer::MaxVms);
        let bare = Snapshot { images: Vec::new(), ..snapshot() };
        assert_eq!(why(&settings, &bare), NothingToOffer::NoImages);
        let nowhere = Snapshot { address: None, ..snapshot() };
        assert_eq!(why(&settings, &nowhere), NothingToOffer::NoAddress);
        let mut closed = snapshot();
        closed.ports.api_reachable = false;
        assert_eq!(why(&settings, &closed), NothingToOffer::ApiUnreachable(7466));
        closed.ports.free = 0;
        closed.ports.verification = Verification::NoCheckers;
        let text = why(&settings, &closed).to_string();
        assert!(
            text.contains("GOLEM_PROVIDER_PORT_CHECKERS") && text.contains("--no-verify-ports")
        );
    }

    #[test]
    fn guests_that_are_not_contained_are_offered_to_strangers_only_if_that_is_allowed() {
        let reason = why(&settings(), &uncontained());
        assert_eq!(reason, NothingToOffer::Uncontained("no firewall".into()));
        let trusting = TermsSettings { trusts_somebody: true, ..settings() };
        assert_eq!(terms(&trusting, &uncontained()).unwrap().offers, []);
        let daring = TermsSettings { allow_uncontained: true, ..settings() };
        let terms = terms(&daring, &uncontained()).unwrap();
        assert!(!terms.offers[0].contained);
    }

    #[test]
    fn the_document_is_valid_and_fits() {
        let mut many = snapshot();
        many.images = (0..40)
            .map(|i| RentableImage {
                name: format!("{i:0>127}"),
                digest: format!("sha256:{i:064}"),
                backend: BackendKind::Memory,
            })
            .collect();
        let terms = terms(&settings(), &many).unwrap();
        assert_eq!(terms.offers[0].images.len(), MAX_IMAGES);
        let now = Timestamp::from_unix_seconds(1_000);
        let document = terms.advertisement(&settings(), 7, now, validity(Duration::from_secs(240)));
        let key: KeyPair = key();
        let verified = Envelope::seal(&document, &key).unwrap().open::<Advertisement>().unwrap();
        Advertisement::check(&verified, now).unwrap();
        assert!(verified.content.offers[0].images.len() > 20);
        assert_eq!(document.expires_at, now.plus(Duration::from_secs(300)));
        assert_eq!(validity(Duration::from_secs(600)), Duration::from_secs(660));
    }
}
