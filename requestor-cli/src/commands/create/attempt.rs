//! One attempt to get the VM from one provider.

use std::convert::Infallible;
use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{OperationStatus, SshPublicKey, Vm, VmStatus};
use golem_vm_protocol::{ErrorCode, Problem};
use tokio::time::{Instant, sleep};

use super::super::ssh::{not_that_vm, usable_access, wrong_host_key};
use super::super::unwanted;
use super::listening::Listening;
use super::wanted::Wanted;
use crate::app::{App, now};
use crate::client::provider::{Access, CallError, Created, vm_id};
use crate::error::{CliError, Kind};
use crate::fail_point::{FailPoint, reached};
use crate::lease;
use crate::market::label;
use crate::rentals::{Rental, SshAccess, State};
use crate::ssh::keys::Use;
use crate::ssh::login::{self, LoginError};
use crate::ui::Progress;

/// How long a provider that falls silent is waited for.
const SILENCE: Duration = Duration::from_secs(20);
/// How often a provider is asked how far it is that tells so by itself.
const TOLD: Duration = Duration::from_secs(3);
/// How long destroying what is not wanted may take before it is left for later.
const UNDO: Duration = Duration::from_secs(20);
/// How long a running VM may take until its access is open.
const ACCESS: Duration = Duration::from_secs(90);

/// Why an attempt gave no VM.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no VM, or it will be destroyed: another provider may make it.
    Next(CliError),
    /// There is no VM: the provider's terms are others by now.
    OfferChanged(CliError),
    /// Another provider would not help, or the VM exists and is kept.
    Final(CliError),
}

type Outcome<T> = std::result::Result<T, Failure>;

impl From<CliError> for Failure {
    /// What fails on this machine fails with every provider.
    fn from(error: CliError) -> Self {
        Self::Final(error)
    }
}

/// What an attempt works with.
pub(super) struct Attempt<'a> {
    pub(super) app: &'a App<'a>,
    pub(super) wanted: &'a Wanted,
    pub(super) progress: &'a Progress,
    /// Whether it goes on with one that was cut off.
    pub(super) resumed: bool,
}

impl Attempt<'_> {
    /// From the stored intention to a VM that was logged in to.
    pub(super) async fn run(&self, rental: Rental) -> Outcome<Rental> {
        let answer = self.ask(&rental).await?;
        reached(FailPoint::Answered);
        let vm = match answer {
            Created::Accepted(accepted) => {
                let id = vm_id(&accepted.vm_id);
                let id = match id {
                    Ok(id) => id,
                    Err(error) => return Err(self.abandon(&rental, error).await),
                };
                self.app.rentals()?.accepted(rental.row, id, &accepted.job_id)?;
                reached(FailPoint::Accepted);
                let rental = self.reread(&rental)?;
                self.made(&rental, &accepted.job_id).await?
            }
            Created::Ready(vm) => *vm,
        };
        reached(FailPoint::Made);
        self.app.rentals()?.observed(rental.row, &vm, now())?;
        reached(FailPoint::Observed);
        let rental = self.reread(&rental)?;
        self.fits(&rental, &vm).await?;
        let access = self.opened(&rental, &vm).await?;
        reached(FailPoint::Opened);
        self.app.rentals()?.set_access(rental.row, &access)?;
        self.app.sync_known_hosts()?;
        reached(FailPoint::AccessNoted);
        let rental = self.reread(&rental)?;
        self.logged_in(&rental).await?;
        reached(FailPoint::LoggedIn);
        self.app.rentals()?.set_state(rental.row, State::Active)?;
        reached(FailPoint::Active);
        Ok(self.reread(&rental)?)
    }

    /// Sends the request, again under the same key while it is unknown what became of it.
    async fn ask(&self, rental: &Rental) -> Outcome<Created> {
        let client = self.app.client()?;
        let at = label(&rental.provider.name, &rental.provider.id);
        self.progress.step(&format!("asking {at}"));
        let started = Instant::now();
        // What a create that was cut off has sent is not known either.
        let mut may_exist = self.resumed;
        let mut pause = Duration::from_millis(500);
        loop {
            self.app.rentals()?.asking(rental.row, now())?;
            reached(FailPoint::Asking);
            let answer = self
                .app
                .reach(&rental.provider, async |provider| {
                    client.create(provider, &rental.request, &rental.idempotency_key).await
                })
                .await;
            let error = match answer {
                Ok(created) => return Ok(created),
                Err(error) => error,
            };
            may_exist |= error.is_ambiguous() || error.code().is_some_and(CallError::leaves_open);
            let again = error.is_worth_a_retry()
                && (may_exist || !matches!(error, CallError::Unreachable(_)))
                && started.elapsed() < SILENCE;
            if again {
                self.app.ui.detail(&format!("{at}: {error}; asking again"));
                self.progress.step(&format!("asking {at} again"));
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
                continue;
            }
            return Err(match &error {
                CallError::Refused(problem) if !CallError::leaves_open(problem.code) => {
                    self.refused(rental, problem, &error).await?
                }
                _ if may_exist => self.abandon(rental, error).await,
                _ => {
                    self.app.rentals()?.remove(rental.row, now())?;
                    self.next(rental, error)
                }
            });
        }
    }

    /// The provider says no, and so has no VM.
    async fn refused(
        &self,
        rental: &Rental,
        problem: &Problem,
        error: &CallError,
    ) -> Outcome<Failure> {
        reached(FailPoint::Refused);
        self.app.rentals()?.remove(rental.row, now())?;
        reached(FailPoint::Forgotten);
        let told = error.clone().into_cli(&self.doing(), &rental.provider);
        Ok(match problem.code {
            ErrorCode::OfferChanged => Failure::OfferChanged(told),
            ErrorCode::NameTaken => Failure::Final(
                told.hint("choose another name")
                    .hint("or see what goes by this one: golem vm list"),
            ),
            ErrorCode::ValidationFailed | ErrorCode::IdempotencyMismatch => Failure::Final(told),
            ErrorCode::ImageNotOffered => {
                Failure::Next(told.hint("leave out --image to take the provider's default"))
            }
            _ => Failure::Next(told),
        })
    }

    /// Waits until the provider's operation has ended, and gives the VM that it made. What the provider tells
    /// meanwhile is shown as it comes.
    async fn made(&self, rental: &Rental, operation: &str) -> Outcome<Vm> {
        let listening = Listening::new();
        let listen = async {
            listening.run(self.app, rental, self.progress).await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            outcome = self.followed(rental, operation, &listening) => outcome,
            never = listen => match never {},
        }
    }

    async fn followed(
        &self,
        rental: &Rental,
        operation: &str,
        listening: &Listening,
    ) -> Outcome<Vm> {
        let client = self.app.client()?;
        let at = label(&rental.provider.name, &rental.provider.id);
        let mut heard = Instant::now();
        let mut pause = Duration::from_millis(250);
        loop {
            let answer = self
                .app
                .reach(&rental.provider, async |provider| {
                    client.operation(provider, operation).await
                })
                .await;
            match answer {
                Ok(operation) => {
                    heard = Instant::now();
                    reached(FailPoint::Followed);
                    match operation.status {
                        OperationStatus::Ready => return self.ready(rental).await,
                        OperationStatus::Failed => {
                            let code = operation.code.unwrap_or(ErrorCode::CreateFailed);
                            let why =
                                operation.error.unwrap_or_else(|| "it gave no reason".to_owned());
                            let problem = Problem::new(code, why);
                            let error = CallError::Refused(Box::new(problem.clone()));
                            return Err(self.refused(rental, &problem, &error).await?);
                        }
                        OperationStatus::Creating | OperationStatus::Unknown
                            if listening.tells() => {}
                        OperationStatus::Creating | OperationStatus::Unknown => {
                            let phase = operation.phase.as_deref().unwrap_or("making the VM");
                            self.progress.step(&format!("{at}: {}", printable(phase, 100)));
                        }
                    }
                }
                // The VM itself knows as well.
                Err(error) if error.code() == Some(ErrorCode::OperationNotFound) => {
                    return self.ready(rental).await;
                }
                Err(error @ CallError::Malformed(_)) => {
                    return Err(self.abandon(rental, error).await);
                }
                Err(error) if heard.elapsed() >= SILENCE => {
                    return Err(self.abandon(rental, error).await);
                }
                Err(error) => {
                    self.app.ui.detail(&format!("{at}: {error}; asking again"));
                    self.progress.step(&format!("{at} does not answer; waiting"));
                }
            }
            let wait = if listening.is_live() { TOLD } else { pause };
            tokio::select! {
                () = sleep(wait) => {}
                () = listening.news() => {}
            }
            pause = (pause * 3 / 2).min(Duration::from_secs(2));
        }
    }

    async fn ready(&self, rental: &Rental) -> Outcome<Vm> {
        let client = self.app.client()?;
        let vm = rental.reference();
        let started = Instant::now();
        loop {
            let answer = self
                .app
                .reach(&rental.provider, async |provider| client.vm(provider, &vm).await)
                .await;
            match answer {
                Ok(vm) if vm.status == VmStatus::Creating && started.elapsed() < ACCESS => {}
                Ok(vm) => return Ok(vm),
                Err(error) if error.is_no_such_vm() => {
                    self.app.rentals()?.remove(rental.row, now())?;
                    return Err(self.next(rental, error));
                }
                Err(error) if error.is_worth_a_retry() && started.elapsed() < SILENCE => {}
                Err(error) => return Err(self.abandon(rental, error).await),
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whether what was made is what was wanted.
    async fn fits(&self, rental: &Rental, vm: &Vm) -> Outcome<()> {
        match vm.status {
            VmStatus::Running | VmStatus::Creating | VmStatus::Unknown => {}
            VmStatus::Stopped | VmStatus::Stopping => {
                self.app.rentals()?.set_state(rental.row, State::Active)?;
                return Err(Failure::Final(
                    CliError::new(
                        Kind::Refused,
                        format!("'{}' exists, and is {}", vm.name, vm.status),
                    )
                    .hint(format!("golem vm start {}", vm.name)),
                ));
            }
            VmStatus::Error | VmStatus::Deleted | _ => {
                let why = vm.error_message.as_deref().unwrap_or("it gave no reason");
                let error =
                    CallError::Refused(Box::new(Problem::new(ErrorCode::CreateFailed, why)));
                return Err(self
                    .undo(rental, error.into_cli(&self.doing(), &rental.provider))
                    .await);
            }
        }
        let Some(agreed) = &rental.agreed else { return Ok(()) };
        let image = self.wanted.wish.image.as_ref();
        let mut broken = agreed.broken_by(vm, &self.wanted.resources, image);
        let lease = self.wanted.wish.lease.as_ref();
        broken.extend(lease::broken(lease, vm.lease.as_ref(), vm.created_at.0));
        // A provider that advertises no offers was not asked which kind it makes, but this is.
        if agreed.offer.is_none()
            && let Some(wanted) = self.wanted.wish.query.isolation
            && vm.isolation != Some(wanted)
        {
            broken.push(format!("it is not a {wanted}"));
        }
        if broken.is_empty() {
            return Ok(());
        }
        let error = CliError::new(
            Kind::Security,
            format!(
                "{} made another VM than it advertised; it is given back",
                label(&rental.provider.name, &rental.provider.id)
            ),
        );
        let error = broken.into_iter().fold(error, CliError::because);
        Err(self.undo(rental, error).await)
    }

    /// Waits until the VM's SSH port is open, and gives where it is.
    async fn opened(&self, rental: &Rental, vm: &Vm) -> Outcome<SshAccess> {
        let client = self.app.client()?;
        let reference = rental.reference();
        let started = Instant::now();
        self.progress.step("opening SSH access");
        loop {
            let answer = self
                .app
                .reach(&rental.provider, async |provider| client.access(provider, &reference).await)
                .await;
            let error = match answer {
                Ok(Access::Ready(access)) => {
                    let usable = usable_access(rental, &access);
                    match usable {
                        Ok(access) if one_host_key(vm.host_key.as_ref(), &access.host_key) => {
                            return Ok(access);
                        }
                        Ok(_) => {
                            CallError::Malformed("it names two different host keys".to_owned())
                        }
                        Err(error) => error,
                    }
                }
                Ok(Access::Pending) => CallError::TimedOut(ACCESS),
                Err(error) => error,
            };
            let again = error.is_worth_a_retry() && started.elapsed() < ACCESS;
            if !again {
                return Err(match error {
                    CallError::Malformed(_) | CallError::OtherHostKey { .. } => {
                        let told = error.into_cli(&self.doing(), &rental.provider);
                        self.undo_if_new(rental, told).await
                    }
                    _ => self.abandon(rental, error).await,
                });
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Logs in: the proof that it is the right machine, and that the person's key opens it.
    async fn logged_in(&self, rental: &Rental) -> Outcome<()> {
        let app = self.app;
        let key = &self.wanted.key;
        self.progress.step("logging in");
        let known_hosts = app.known_hosts_path()?;
        let Some(target) = App::target(rental, &known_hosts) else {
            return Err(Failure::Final(CliError::other(
                "the provider did not say where to log in",
            )));
        };
        let program = app.openssh();
        let interactive = key.usable_by == Use::Passphrase && app.ui.can_ask();
        if interactive {
            self.progress.clear();
        }
        let check =
            login::check(app.client()?.connector(), &target, key, program.as_deref(), interactive);
        let address = format!("{}:{}", target.access.host, target.access.port);
        match check.await {
            Ok(()) => Ok(()),
            Err(LoginError::WrongHostKey(error)) => Err(match self.may_give_back() {
                true => self.undo(rental, not_that_vm(rental, &error)).await,
                false => Failure::Final(wrong_host_key(rental, &error)),
            }),
            Err(LoginError::NotLetIn(why)) => Err(Failure::Final(kept(
                rental,
                CliError::other(format!(
                    "'{}' was made, but logging in as {} at {address} with {} failed",
                    rental.name,
                    target.access.user,
                    key.identity.display()
                ))
                .because(why),
            ))),
            Err(LoginError::Unreachable(error)) => {
                let told = CliError::new(
                    Kind::Unreachable,
                    format!(
                        "'{}' was made, but its SSH at {address} can't be reached",
                        rental.name
                    ),
                )
                .because(error);
                Err(match self.may_give_back() {
                    true => self.undo(rental, told).await,
                    false => Failure::Final(kept(rental, told)),
                })
            }
        }
    }

    /// Gives up on this provider without knowing what it has: that is found out, and destroyed, as
    /// soon as it answers.
    async fn abandon(&self, rental: &Rental, error: CallError) -> Failure {
        if let Err(error) = self.leave(rental) {
            return Failure::Final(error);
        }
        // It may have been one bad answer only.
        let _ = unwanted::reap_one(self.app, rental, Duration::from_secs(5)).await;
        let told = error.into_cli(&self.doing(), &rental.provider);
        self.app.ui.detail("should the VM exist there, it is destroyed when that provider answers");
        Failure::Next(told)
    }

    /// Whether a VM that can't be logged in to may be given back without asking: not where the
    /// person wanted this very provider, and not where the create was cut off before, for then
    /// somebody may have used the VM since.
    fn may_give_back(&self) -> bool {
        !self.resumed && self.wanted.provider.is_none()
    }

    /// Destroys a VM that was made just now and is not good; keeps one that was there before.
    async fn undo_if_new(&self, rental: &Rental, why: CliError) -> Failure {
        match self.resumed {
            true => Failure::Final(kept(rental, why)),
            false => self.undo(rental, why).await,
        }
    }

    /// Destroys a VM that exists and is not good, now or when the provider answers.
    async fn undo(&self, rental: &Rental, why: CliError) -> Failure {
        if let Err(error) = self.leave(rental) {
            return Failure::Final(error);
        }
        self.progress.step("giving it back");
        if let Err(error) = unwanted::reap_one(self.app, rental, UNDO).await {
            self.app.ui.warn(&format!(
                "'{}' at {} could not be destroyed yet ({error}); the next `golem vm` command tries again",
                rental.name,
                label(&rental.provider.name, &rental.provider.id)
            ));
        }
        Failure::Next(why)
    }

    fn leave(&self, rental: &Rental) -> Result<(), CliError> {
        unwanted::give_up(self.app, rental)
    }

    fn next(&self, rental: &Rental, error: CallError) -> Failure {
        Failure::Next(error.into_cli(&self.doing(), &rental.provider))
    }

    fn doing(&self) -> String {
        format!("create '{}'", self.wanted.name)
    }

    fn reread(&self, rental: &Rental) -> Result<Rental, CliError> {
        self.app.rentals()?.by_row(rental.row)?.ok_or_else(|| {
            CliError::other(format!("'{}' was destroyed by another golem meanwhile", rental.name))
        })
    }
}

/// A failure that leaves the VM rented.
fn kept(rental: &Rental, error: CliError) -> CliError {
    error
        .hint(format!("the VM is rented and kept; try again: golem vm ssh {}", rental.name))
        .hint(format!("or give it back: golem vm destroy {}", rental.name))
}

/// Whether the VM's own entry names no other host key than the access does.
fn one_host_key(of_vm: Option<&SshPublicKey>, of_access: &SshPublicKey) -> bool {
    of_vm.is_none_or(|key| key.without_comment() == of_access.without_comment())
}
