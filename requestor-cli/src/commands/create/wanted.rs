//! What the person wants, checked before anything is opened or sent.

use golem_vm_protocol::advertisement::AdvertisementQuery;
use golem_vm_protocol::vm::{AcceptedOffer, CreateVmRequest, Isolation, SshPublicKey};
use golem_vm_protocol::{VmName, VmResources};

use super::super::keys::warn_if_weak;
use super::cloud_init;
use crate::app::{App, vm_name};
use crate::args::CreateArgs;
use crate::error::{CliError, Result};
use crate::market::Wish;
use crate::rentals::Rental;
use crate::ssh::keys::{LoginKey, Use};

/// A VM that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: VmName,
    pub(super) resources: VmResources,
    /// From this provider only: an id, the beginning of one, or a name.
    pub(super) provider: Option<String>,
    /// What an advertisement has to offer.
    pub(super) wish: Wish,
    /// The person's own cloud-init.
    cloud_init: Option<String>,
    /// The key that the check logs in with, and `golem vm ssh` from then on.
    pub(super) key: LoginKey,
    /// Further keys.
    more_keys: Vec<SshPublicKey>,
}

impl Wanted {
    /// Checks the name, the size and the keys.
    pub(super) async fn of(app: &App<'_>, args: &CreateArgs) -> Result<Self> {
        let name = vm_name(&args.name)?;
        let resources = VmResources { cpu: args.cpu, memory: args.memory, storage: args.storage };
        if let Some(error) = resources.size_errors("").into_iter().next() {
            return Err(
                CliError::usage(format!("'{name}' can't have that size")).because(error.detail)
            );
        }
        let own_dir = app.own_key_dir()?;
        let sources = app.key_sources(&own_dir).await;
        let (key, more_keys) = match args.ssh_key.split_first() {
            Some((first, rest)) => {
                let more: Result<Vec<_>> =
                    rest.iter().map(|path| sources.public_half(path)).collect();
                (sources.named(first)?, more?)
            }
            None => {
                let (key, remarks) = sources.default_key()?;
                for remark in remarks {
                    app.ui.note(&remark);
                }
                (key, Vec::new())
            }
        };
        for key in std::iter::once(&key.public).chain(&more_keys) {
            warn_if_weak(app, key);
        }
        if args.builtin && matches!(key.usable_by, Use::OpenSsh | Use::Passphrase) {
            return Err(CliError::usage(format!(
                "the built-in SSH client can't use the key {}",
                key.identity.display()
            ))
            .hint(format!("ssh-add {}", key.identity.display()))
            .hint("or leave out --builtin"));
        }
        let cloud_init = args.cloud_init.as_deref().map(cloud_init::read).transpose()?;
        // No container boots, and so none has any use for it.
        let isolation = args.isolation.or(cloud_init.as_ref().map(|_| Isolation::Vm));
        let wish = Wish {
            image: args.image.clone(),
            lease: args.terms.lease(),
            query: AdvertisementQuery {
                cpu: Some(resources.cpu),
                memory: Some(resources.memory),
                storage: Some(resources.storage),
                country: args.country.clone(),
                platform: args.platform.clone(),
                isolation,
                max_usd_per_month: args.max_usd_per_month,
                ..AdvertisementQuery::default()
            },
        };
        let wanted = Self {
            name,
            resources,
            provider: args.provider_id.clone(),
            wish,
            cloud_init,
            key,
            more_keys,
        };
        wanted.body(None).validate().map_err(|errors| {
            let mut error = CliError::usage(format!("'{}' can't be asked for", wanted.name));
            for wrong in errors {
                error = error.because(format!("{}: {}", wrong.pointer, wrong.detail));
            }
            error
        })?;
        Ok(wanted)
    }

    fn body(&self, offer: Option<AcceptedOffer>) -> CreateVmRequest {
        CreateVmRequest {
            lease: self.wish.lease,
            name: self.name.to_string(),
            resources: Some(self.resources),
            size: None,
            ssh_key: self.key.public.as_str().to_owned(),
            ssh_keys: self.more_keys.iter().map(|key| key.as_str().to_owned()).collect(),
            image: self.wish.image.as_ref().map(ToString::to_string),
            isolation: self.wish.query.isolation,
            cloud_init: self.cloud_init.clone(),
            stream_id: None,
            offer,
        }
    }

    /// The exact body of the request that accepts `offer`.
    pub(super) fn request(&self, offer: Option<AcceptedOffer>) -> Result<String> {
        serde_json::to_string(&self.body(offer))
            .map_err(|error| CliError::other("can't write the request as JSON").because(error))
    }

    /// Whether a rental was asked for in the same words, its provider included where one is named.
    pub(super) fn is_same_as(&self, rental: &Rental) -> bool {
        let Ok(mut asked) = serde_json::from_str::<CreateVmRequest>(&rental.request) else {
            return false;
        };
        asked.offer = None;
        let provider = self.provider.as_ref().is_none_or(|text| {
            rental.provider.id.to_string().starts_with(text.as_str())
                || rental.provider.name == *text
        });
        provider && asked == self.body(None)
    }
}
