//! What the commands work with. Everything is opened when it is first needed, and not before.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use golem_vm_node::data_dir::DataDir;
use golem_vm_node::key_file;
use golem_vm_node::settings::closest;
use golem_vm_protocol::advertisement::AdvertisementQuery;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{KeyId, KeyPair, VmId, VmName};

use crate::client::connector::Connector;
use crate::client::discovery::{Discovery, Extent, Search};
use crate::client::listing::{Fault, Lie, Listing};
use crate::client::provider::{CallError, ProviderClient, same_endpoints};
use crate::config::Config;
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::market::Vouched;
use crate::rentals::{ProviderRef, Recall, Rental, Rentals};
use crate::ssh::keys::KeySources;
use crate::ssh::{Target, builtin, known_hosts};
use crate::ui::Ui;

/// How long a provider is waited for before a person is told so.
const PATIENCE: Duration = Duration::from_secs(2);

/// The program while one command runs.
#[derive(Debug)]
pub struct App<'a> {
    /// What a person sees.
    pub ui: Ui,
    /// The settings.
    pub config: Config,
    /// The surroundings.
    pub environment: &'a Environment,
    base: OnceCell<DataDir>,
    rentals: OnceCell<Rentals>,
    client: OnceCell<ProviderClient>,
}

impl<'a> App<'a> {
    /// Nothing is opened yet.
    #[must_use]
    pub const fn new(ui: Ui, config: Config, environment: &'a Environment) -> Self {
        Self {
            ui,
            config,
            environment,
            base: OnceCell::new(),
            rentals: OnceCell::new(),
            client: OnceCell::new(),
        }
    }

    /// The directory of key, state and known hosts.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn base(&self) -> Result<&DataDir> {
        get_or_try(&self.base, || self.config.base_dir())
    }

    /// The list of rentals.
    ///
    /// # Errors
    /// When its database can't be opened.
    pub fn rentals(&self) -> Result<&Rentals> {
        get_or_try(&self.rentals, || Rentals::open(&self.config.db_path(self.base()?.path())?))
    }

    /// The person's key; made on first use.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub fn key(&self) -> Result<KeyPair> {
        Ok(key_file::load_or_create(&self.base()?.key_path())?)
    }

    /// Calls to providers, signed with the person's key.
    ///
    /// # Errors
    /// When there is no key.
    pub fn client(&self) -> Result<&ProviderClient> {
        get_or_try(&self.client, || {
            Ok(ProviderClient::new(self.key()?, Connector::default(), self.ui.notice()))
        })
    }

    /// The discovery server.
    ///
    /// # Errors
    /// When none is set.
    pub fn discovery(&self) -> Result<Discovery> {
        Discovery::new(self.config.discovery_url()?, self.ui.notice())
    }

    /// The file of pinned host keys.
    ///
    /// # Errors
    /// When the base directory can't be made.
    pub fn known_hosts_path(&self) -> Result<PathBuf> {
        Ok(self.base()?.path().join("known_hosts"))
    }

    /// Makes the file of pinned host keys say what the list of rentals says.
    ///
    /// # Errors
    /// When either can't be read or written.
    pub fn sync_known_hosts(&self) -> Result<()> {
        known_hosts::sync(&self.known_hosts_path()?, &self.rentals()?.all()?)
    }

    /// Where keys are looked for, and what can be done with them.
    ///
    /// # Errors
    /// When the settings can't be read.
    pub async fn key_sources<'k>(&self, own_dir: &'k std::path::Path) -> KeySources<'k> {
        KeySources {
            ssh_dir: self.environment.home().map(|home| home.join(".ssh")),
            own_dir,
            agent: builtin::agent::keys().await,
            has_openssh: self.openssh().is_some(),
            can_ask: self.ui.can_ask(),
        }
    }

    /// Where golem keeps keys that it makes.
    ///
    /// # Errors
    /// When the settings can't be read.
    pub fn own_key_dir(&self) -> Result<PathBuf> {
        self.config.ssh_key_dir(self.base()?.path())
    }

    /// The system's OpenSSH client.
    #[must_use]
    pub fn openssh(&self) -> Option<PathBuf> {
        self.environment.program("ssh")
    }

    /// The rental that a person means by a name or an id.
    ///
    /// # Errors
    /// When there is none; the message suggests one that is spelled alike.
    pub fn find(&self, text: &str) -> Result<Rental> {
        let all = self.rentals()?.all()?;
        let id = text.parse::<VmId>().ok();
        let found = all
            .iter()
            .find(|rental| rental.name.as_str() == text || (id.is_some() && rental.vm_id == id));
        if let Some(rental) = found {
            return Ok(rental.clone());
        }
        let error = CliError::not_found(format!("you have no VM called '{}'", printable(text, 80)));
        let names: Vec<&str> = all.iter().map(|rental| rental.name.as_str()).collect();
        Err(match closest(text, &names) {
            Some(name) => error.hint(format!("did you mean '{name}'?")),
            None if names.is_empty() => error.hint("golem vm create NAME"),
            None => error.hint("golem vm list"),
        })
    }

    /// Makes a call to a provider; if it can't be reached where it was, once more where discovery
    /// says it is now.
    ///
    /// # Errors
    /// What the call gave.
    pub async fn reach<T>(
        &self,
        provider: &ProviderRef,
        call: impl AsyncFn(&ProviderRef) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let work = async {
            match call(provider).await {
                Err(error @ (CallError::Unreachable(_) | CallError::NotTheProvider(_))) => {
                    match self.moved(provider).await {
                        Some(moved) => call(&moved).await,
                        None => Err(error),
                    }
                }
                other => other,
            }
        };
        let mut work = std::pin::pin!(work);
        match tokio::time::timeout(PATIENCE, &mut work).await {
            Ok(answer) => answer,
            Err(_) => {
                let label = crate::market::label(&provider.name, &provider.id);
                self.ui.note(&format!("waiting for {label} to answer ..."));
                work.await
            }
        }
    }

    /// Searches discovery. What is older than what was seen before is left out.
    ///
    /// # Errors
    /// As [`Discovery::search`]; when the memory can't be read.
    pub async fn search(
        &self,
        discovery: &Discovery,
        query: &AdvertisementQuery,
        extent: Extent,
    ) -> Result<Search> {
        let mut search = discovery.search(query, extent).await?;
        let lies = self.lies_about_age(&search.listings)?;
        let mut lies = lies.into_iter();
        search.listings.retain(|_| match lies.next().flatten() {
            Some(fault) => {
                search.faults.push(fault);
                false
            }
            None => true,
        });
        self.judge_ports(&mut search.listings)?;
        Ok(search)
    }

    /// One provider's entry, and what is wrong with it although its document is good; `None` when
    /// discovery lists none.
    ///
    /// # Errors
    /// As [`Discovery::provider`], also for an advertisement that is older than one seen before.
    pub async fn listed(
        &self,
        discovery: &Discovery,
        id: &KeyId,
    ) -> Result<Option<(Listing, Option<Fault>)>> {
        let Some((mut listing, fault)) = discovery.provider(id).await? else { return Ok(None) };
        self.judge_ports(std::slice::from_mut(&mut listing))?;
        match self.lies_about_age(std::slice::from_ref(&listing))?.pop().flatten() {
            Some(lie) => Err(discovery.caught(&[lie])),
            None => Ok(Some((listing, fault))),
        }
    }

    /// Finds out who vouches for each listed provider's ports.
    fn judge_ports(&self, listings: &mut [Listing]) -> Result<()> {
        let (trusted, now) = (self.config.trusted_checkers()?, now());
        for listing in listings {
            if let Some(document) = &listing.document {
                listing.vouched = Vouched::of(&document.content, &trusted, now);
            }
        }
        Ok(())
    }

    /// For each listing, whether it is older than what was seen before.
    fn lies_about_age(&self, listings: &[Listing]) -> Result<Vec<Option<Fault>>> {
        let signed: Vec<_> = listings
            .iter()
            .filter_map(|listing| listing.document.as_ref())
            .map(|document| (document.signer, document.content.sequence, document.digest))
            .collect();
        let recalls =
            if signed.is_empty() { Vec::new() } else { self.rentals()?.recall(&signed, now())? };
        let mut judged = signed.iter().zip(recalls);
        let lie = |listing: &Listing| {
            listing.document.as_ref()?;
            let ((id, sequence, _), recall) = judged.next()?;
            let lie = match recall {
                Recall::Newest => return None,
                Recall::Older(known) => Lie::Stale { sequence: *sequence, known },
                Recall::Another => Lie::Forked(*sequence),
            };
            Some(Fault::of(id, lie))
        };
        Ok(listings.iter().map(lie).collect())
    }

    /// Where a provider is now, if that is somewhere else than before.
    async fn moved(&self, provider: &ProviderRef) -> Option<ProviderRef> {
        let discovery = self.discovery().ok()?;
        let (listing, _) = self.listed(&discovery, &provider.id).await.ok()??;
        let endpoints = listing.document?.content.endpoints;
        if same_endpoints(&endpoints, &provider.endpoints) {
            return None;
        }
        let rentals = self.rentals().ok()?;
        rentals.set_endpoints(&provider.id, &endpoints).ok()?;
        let label = crate::market::label(&provider.name, &provider.id);
        self.ui.detail(&format!("{label} has moved to another address"));
        Some(ProviderRef { endpoints, ..provider.clone() })
    }

    /// How to log in to a rental, if that is known.
    #[must_use]
    pub fn target<'t>(rental: &'t Rental, known_hosts: &'t std::path::Path) -> Option<Target<'t>> {
        Some(Target {
            vm: rental.vm_id?,
            access: rental.ssh.as_ref()?,
            identity: rental.identity.as_deref(),
            known_hosts,
        })
    }
}

fn get_or_try<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}

/// The time of day.
#[must_use]
pub fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// Reads a VM's name.
///
/// # Errors
/// The rule for names.
pub fn vm_name(text: &str) -> Result<VmName> {
    text.parse().map_err(|error| {
        CliError::usage(format!("'{}' can't be the name of a VM", printable(text, 80)))
            .because(error)
    })
}
