//! What was rented from this machine: one row per attempt to create a VM.
//!
//! ```text
//!             stored before anything is sent
//!                        │
//!                        ▼           a login worked
//!   create ─────────▶ pending ──────────────────────▶ active ──▶ (row removed: destroyed, or
//!                        │                              │          the provider says it is gone)
//!                        │ whether it exists is unknown │ destroy --forget
//!                        ▼                              ▼
//!                    abandoned ──▶ (row removed once the provider has destroyed it or denies it)
//! ```
//!
//! The provider knows the truth; a row is what is needed to ask it: whom, under which idempotency
//! key, and with which exact request. Names are unique among rows that are not abandoned.
//! Several `golem` processes may work on the database at once, so each change touches only the
//! columns it is about.

mod advertised;
mod agreed;
mod claim;
mod gone;
mod rental;
mod row;
mod schema;

pub use advertised::Recall;
pub use agreed::Agreed;
pub use claim::Claim;
pub use gone::Gone;
pub use rental::{IN_FLIGHT, NewRental, ProviderRef, Rental, SshAccess, State, fresh_key};

use std::path::{Path, PathBuf};

use golem_vm_node::sqlite::{self, Durability};
use golem_vm_protocol::advertisement::Endpoint;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::Vm;
use golem_vm_protocol::{KeyId, VmId, VmName};
use rusqlite::{Connection, OptionalExtension as _, named_params};

use crate::error::{CliError, Kind, Result};

/// The database of rentals.
#[derive(Debug)]
pub struct Rentals {
    connection: Connection,
    /// Where it is noted which creates somebody is at.
    claims: PathBuf,
}

fn failed(error: &rusqlite::Error) -> CliError {
    let advice = sqlite::FailureKind::of(error).advice();
    CliError::other("can't use the list of your VMs").because(advice).because(error)
}

impl Rentals {
    /// Opens the database at `path`, and makes it if it is not there.
    ///
    /// # Errors
    /// When it can't be opened, or a newer release has written it.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| {
                CliError::other(format!("can't make {}", directory.display())).because(error)
            })?;
        }
        // An intention that a power cut forgets would be a VM that nobody knows about.
        let connection = sqlite::open(path, schema::MIGRATIONS, Durability::Full)?;
        Ok(Self { connection, claims: path.with_file_name("creating") })
    }

    /// All rentals that are not abandoned, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn all(&self) -> Result<Vec<Rental>> {
        self.select("state <> 'abandoned' ORDER BY name")
    }

    /// All abandoned ones.
    ///
    /// # Errors
    /// When the database fails.
    pub fn abandoned(&self) -> Result<Vec<Rental>> {
        self.select("state = 'abandoned' ORDER BY row")
    }

    /// The rental called `name`, if there is one that is not abandoned.
    ///
    /// # Errors
    /// When the database fails.
    pub fn by_name(&self, name: &VmName) -> Result<Option<Rental>> {
        self.connection
            .prepare_cached(&format!(
                "SELECT {} FROM rentals WHERE name = ?1 AND state <> 'abandoned'",
                row::COLUMNS
            ))
            .and_then(|mut statement| statement.query_row([name.as_str()], row::read).optional())
            .map_err(|error| failed(&error))
    }

    /// The rental in a row, in whatever state.
    ///
    /// # Errors
    /// When the database fails.
    pub fn by_row(&self, number: i64) -> Result<Option<Rental>> {
        self.connection
            .prepare_cached(&format!("SELECT {} FROM rentals WHERE row = ?1", row::COLUMNS))
            .and_then(|mut statement| statement.query_row([number], row::read).optional())
            .map_err(|error| failed(&error))
    }

    fn select(&self, condition: &str) -> Result<Vec<Rental>> {
        let sql = format!("SELECT {} FROM rentals WHERE {condition}", row::COLUMNS);
        let read = || -> rusqlite::Result<Vec<Rental>> {
            self.connection.prepare_cached(&sql)?.query_map([], row::read)?.collect()
        };
        read().map_err(|error| failed(&error))
    }

    /// Takes the right to work on the create with this idempotency key, from before it is stored until it
    /// is settled; `None` while another golem has it.
    ///
    /// # Errors
    /// When the directory of such rights can't be written.
    pub fn claim(&self, key: &str) -> Result<Option<Claim>> {
        Claim::take(&self.claims, key).map_err(|error| {
            CliError::other(format!("can't lock a file in {}", self.claims.display()))
                .because(error)
        })
    }

    /// Removes what golems left that were killed when their create was settled already.
    ///
    /// # Errors
    /// When the database fails.
    pub fn release_claims(&self) -> Result<()> {
        let left = claim::left(&self.claims);
        if left.is_empty() {
            return Ok(());
        }
        let unsettled = self.all()?;
        for key in left {
            let wanted = |rental: &Rental| rental.is_unsettled() && rental.idempotency_key == key;
            if !unsettled.iter().any(wanted) {
                drop(self.claim(&key)?);
            }
        }
        Ok(())
    }

    /// Stores an intention. When this returns it survives whatever happens next.
    ///
    /// # Errors
    /// [`Kind::Refused`] when there is a rental of that name already; when the database fails.
    pub fn insert(&self, new: &NewRental, now: Timestamp) -> Result<Rental> {
        let inserted = self.connection.execute(
            "INSERT INTO rentals (name, state, provider_id, provider_name, endpoints,
               idempotency_key, request, cloned_from, cpu, memory, storage, usd_micro_month,
               identity, agreed, status, status_at, created_at)
             VALUES (:name, 'pending', :provider_id, :provider_name, :endpoints, :key, :request, :source,
               :cpu, :memory, :storage, :price, :identity, :agreed, 'creating', :now, :now)",
            named_params! {
                ":name": new.name.as_str(),
                ":provider_id": new.provider.id.to_string(),
                ":provider_name": new.provider.name,
                ":endpoints": row::endpoints_text(&new.provider.endpoints),
                ":key": new.idempotency_key,
                ":request": new.request,
                ":source": new.cloned_from.map(|source| source.to_string()),
                ":cpu": new.resources.cpu,
                ":memory": new.resources.memory,
                ":storage": new.resources.storage,
                ":price": new.usd_micro_month.and_then(|price| i64::try_from(price).ok()),
                ":identity": new.identity.as_ref().map(|path| path.to_string_lossy().into_owned()),
                ":agreed": new.agreed.as_ref().and_then(|a| serde_json::to_string(a).ok()),
                ":now": now.unix_micros(),
            },
        );
        match inserted {
            Ok(_) => {}
            Err(error) if sqlite::FailureKind::of(&error) == sqlite::FailureKind::Constraint => {
                return Err(CliError::new(
                    Kind::Refused,
                    format!("you have a VM called '{}' already", new.name),
                ));
            }
            Err(error) => return Err(failed(&error)),
        }
        let number = self.connection.last_insert_rowid();
        self.by_row(number)?
            .ok_or_else(|| CliError::other("the list of your VMs changed meanwhile"))
    }

    /// Notes what the provider said about a VM.
    ///
    /// # Errors
    /// When the database fails.
    pub fn observed(&self, number: i64, vm: &Vm, now: Timestamp) -> Result<()> {
        self.update(
            "UPDATE rentals SET vm_id = coalesce(vm_id, :vm_id), status = :status,
               problem = :problem, status_at = :now, image = coalesce(:image, image),
               isolation = coalesce(:isolation, isolation),
               operation_id = coalesce(:operation, operation_id), lease = :lease,
               backend = coalesce(:backend, backend), accel = coalesce(:accel, accel),
               image_digest = coalesce(:digest, image_digest), suspended = :suspended,
               abilities = :abilities
             WHERE row = :row",
            named_params! {
                ":row": number,
                ":vm_id": vm.id.parse::<VmId>().ok().map(|id| id.to_string()),
                ":status": vm.status.as_str(),
                ":now": now.unix_micros(),
                ":problem": vm.error_message,
                ":image": vm.image,
                ":isolation": vm.isolation.map(|isolation| isolation.to_string()),
                ":operation": vm.job_id,
                ":lease": vm.lease.as_ref().and_then(|lease| serde_json::to_string(lease).ok()),
                ":backend": vm.backend,
                ":accel": vm.accel,
                ":digest": vm.image_digest,
                ":suspended": vm.suspended,
                ":abilities": serde_json::to_string(&vm.abilities).ok(),
            },
        )?;
        // Before it is settled the size is what was asked for, and what is made is compared with it.
        self.update(
            "UPDATE rentals SET cpu = :cpu, memory = :memory, storage = :storage,
               usd_micro_month = coalesce(:price, usd_micro_month)
             WHERE row = :row AND (state = 'active' OR settled_at IS NOT NULL)
               AND (cpu, memory, storage) <> (:cpu, :memory, :storage)",
            named_params! {
                ":row": number,
                ":cpu": vm.resources.cpu,
                ":memory": vm.resources.memory,
                ":storage": vm.resources.storage,
                ":price": vm
                    .prices
                    .and_then(|prices| i64::try_from(prices.per_month(&vm.resources)).ok()),
            },
        )
    }

    /// Notes that a create request is about to be sent: from now on it may be at work for
    /// [`IN_FLIGHT`], also if this is not the first time.
    ///
    /// # Errors
    /// When the database fails.
    pub fn asking(&self, number: i64, now: Timestamp) -> Result<()> {
        self.update(
            "UPDATE rentals SET created_at = :now, asked_at = :now WHERE row = :row AND vm_id IS NULL",
            named_params! { ":row": number, ":now": now.unix_micros() },
        )
    }

    /// Notes that the provider has taken the request.
    ///
    /// # Errors
    /// When the database fails.
    pub fn accepted(&self, number: i64, vm_id: VmId, operation_id: &str) -> Result<()> {
        self.update(
            "UPDATE rentals SET vm_id = :vm_id, operation_id = :operation WHERE row = :row",
            named_params! {
                ":row": number, ":vm_id": vm_id.to_string(), ":operation": operation_id,
            },
        )
    }

    /// Notes where to log in. The host key is pinned by the first answer: a later, different one
    /// never replaces it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set_access(&self, number: i64, access: &SshAccess) -> Result<()> {
        self.update(
            "UPDATE rentals SET ssh_host = :host, ssh_port = :port, ssh_user = :user,
               host_key = coalesce(host_key, :host_key)
             WHERE row = :row",
            named_params! {
                ":row": number,
                ":host": access.host,
                ":port": access.port,
                ":user": access.user,
                ":host_key": access.host_key.without_comment(),
            },
        )
    }

    /// Moves a rental to another state.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set_state(&self, number: i64, state: State) -> Result<()> {
        self.update(
            "UPDATE rentals SET state = :state WHERE row = :row",
            named_params! { ":row": number, ":state": row::state_text(state) },
        )
    }

    /// Notes that a create that was cut off has made its VM.
    ///
    /// # Errors
    /// When the database fails.
    pub fn settled(&self, number: i64, now: Timestamp) -> Result<()> {
        self.update(
            "UPDATE rentals SET settled_at = :now, silent_at = NULL WHERE row = :row",
            named_params! { ":row": number, ":now": now.unix_micros() },
        )
    }

    /// Notes that the provider did not say what became of a rental.
    ///
    /// # Errors
    /// When the database fails.
    pub fn silent(&self, number: i64, now: Timestamp) -> Result<()> {
        self.update(
            "UPDATE rentals SET silent_at = :now WHERE row = :row",
            named_params! { ":row": number, ":now": now.unix_micros() },
        )
    }

    /// Notes new ways to reach a provider, for all VMs that it has.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set_endpoints(&self, provider: &KeyId, endpoints: &[Endpoint]) -> Result<()> {
        self.update(
            "UPDATE rentals SET endpoints = :endpoints WHERE provider_id = :provider",
            named_params! {
                ":provider": provider.to_string(),
                ":endpoints": row::endpoints_text(endpoints),
            },
        )
    }

    /// Takes over a VM that the provider says is ours and that this machine did not know.
    ///
    /// # Errors
    /// When the database fails.
    pub fn adopt(&self, provider: &ProviderRef, vm: &Vm, now: Timestamp) -> Result<Rental> {
        let new = NewRental {
            name: vm.name.clone(),
            provider: provider.clone(),
            idempotency_key: format!("adopted-{}", vm.id),
            request: String::new(),
            cloned_from: None,
            resources: vm.resources,
            usd_micro_month: None,
            identity: None,
            agreed: None,
        };
        let rental = self.insert(&new, vm.created_at.0)?;
        self.observed(rental.row, vm, now)?;
        self.set_state(rental.row, State::Active)?;
        Ok(self.by_row(rental.row)?.unwrap_or(rental))
    }

    /// Notes that a person was told something; `true` the first time.
    ///
    /// # Errors
    /// When the database fails.
    pub fn told(&self, notice: &str) -> Result<bool> {
        self.connection
            .execute("INSERT OR IGNORE INTO notices (text) VALUES (?1)", [notice])
            .map(|changed| changed == 1)
            .map_err(|error| failed(&error))
    }

    fn update(&self, sql: &str, params: &[(&str, &dyn rusqlite::ToSql)]) -> Result<()> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map(|_| ())
            .map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests;
