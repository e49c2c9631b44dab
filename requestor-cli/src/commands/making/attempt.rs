//! One attempt to get the VM from one provider.

use std::convert::Infallible;
use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{OperationStatus, Vm, VmStatus};
use golem_vm_protocol::{ErrorCode, Problem};
use tokio::time::{Instant, sleep};

use super::laps::Laps;
use super::listening::Listening;
use crate::app::{App, now};
use crate::client::provider::{CallError, Created, vm_id};
use crate::error::CliError;
use crate::fail_point::{FailPoint, reached};
use crate::market::{self, label};
use crate::rentals::{Rental, State};
use crate::ssh::keys::LoginKey;
use crate::ui::Progress;

/// How long a provider that falls silent is waited for.
const SILENCE: Duration = Duration::from_secs(20);
/// How often a provider is asked how far it is that tells so by itself.
const TOLD: Duration = Duration::from_secs(3);
/// From when on it is said why an emulated VM takes so long.
const SLOW: Duration = Duration::from_secs(5);
/// How long a VM that is said to be made may take until it is there.
const THERE: Duration = Duration::from_secs(90);

/// Why an attempt gave no VM.
#[derive(Debug)]
pub(in crate::commands) enum Failure {
    /// There is no VM, or it will be destroyed: another provider may make it.
    Next(CliError),
    /// There is no VM: the provider's terms are others by now.
    OfferChanged(CliError),
    /// Another provider would not help, or the VM exists and is kept.
    Final(CliError),
}

pub(super) type Outcome<T> = std::result::Result<T, Failure>;

impl From<CliError> for Failure {
    /// What fails on this machine fails with every provider.
    fn from(error: CliError) -> Self {
        Self::Final(error)
    }
}

/// What an attempt works with. What the VM is to be like is in its row.
pub(in crate::commands) struct Attempt<'a> {
    pub(in crate::commands) app: &'a App<'a>,
    pub(in crate::commands) progress: &'a Progress,
    /// What is being done: completes "can't …".
    pub(in crate::commands) doing: &'a str,
    /// How long each part takes.
    pub(in crate::commands) laps: &'a Laps,
    /// The key to log in with.
    pub(in crate::commands) key: &'a LoginKey,
    /// Whether it goes on with one that was cut off.
    pub(in crate::commands) resumed: bool,
    /// Whether another provider would do as well.
    pub(in crate::commands) elsewhere: bool,
}

impl Attempt<'_> {
    /// From the stored intention to a VM that was logged in to.
    pub(in crate::commands) async fn run(&self, rental: Rental) -> Outcome<Rental> {
        let answer = self.ask(&rental).await?;
        self.laps.lap("ask");
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
        self.laps.lap("make");
        reached(FailPoint::Made);
        self.app.rentals()?.observed(rental.row, &vm, now())?;
        reached(FailPoint::Observed);
        let rental = self.reread(&rental)?;
        self.fits(&rental, &vm).await?;
        let access = self.opened(&rental, &vm).await?;
        self.laps.lap("open");
        reached(FailPoint::Opened);
        self.app.rentals()?.set_access(rental.row, &access)?;
        self.app.sync_known_hosts()?;
        reached(FailPoint::AccessNoted);
        let rental = self.reread(&rental)?;
        self.logged_in(&rental).await?;
        self.laps.lap("log_in");
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
                .reach(&rental.provider, async |provider| client.create(provider, rental).await)
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
        let told = error.clone().into_cli(self.doing, &rental.provider);
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
        let (began, mut heard) = (Instant::now(), Instant::now());
        let mut pause = Duration::from_millis(100);
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
                        OperationStatus::Creating | OperationStatus::Unknown => {
                            let phase = operation.phase.as_deref().unwrap_or("making the VM");
                            let phase = printable(phase, 100);
                            let is_slow = is_emulated(rental) && began.elapsed() >= SLOW;
                            // Providers that say so themselves know why, too.
                            if is_slow && !phase.contains("emulated") {
                                self.progress.step(&format!(
                                    "{at}: {phase}; it is emulated, so this can take a minute"
                                ));
                            } else if !listening.tells() {
                                self.progress.step(&format!("{at}: {phase}"));
                            }
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

    /// The VM that the provider says is made.
    async fn ready(&self, rental: &Rental) -> Outcome<Vm> {
        let client = self.app.client()?;
        let vm = rental.reference();
        let started = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let answer = self
                .app
                .reach(&rental.provider, async |provider| client.vm(provider, &vm).await)
                .await;
            match answer {
                Ok(vm) if vm.status == VmStatus::Creating && started.elapsed() < THERE => {}
                Ok(vm) => return Ok(vm),
                Err(error) if error.is_no_such_vm() => {
                    self.app.rentals()?.remove(rental.row, now())?;
                    return Err(self.next(rental, error));
                }
                Err(error) if error.is_worth_a_retry() && started.elapsed() < SILENCE => {}
                Err(error) => return Err(self.abandon(rental, error).await),
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(500));
        }
    }

    fn reread(&self, rental: &Rental) -> Result<Rental, CliError> {
        self.app.rentals()?.by_row(rental.row)?.ok_or_else(|| {
            CliError::other(format!("'{}' was destroyed by another golem meanwhile", rental.name))
        })
    }
}

/// Whether a VM is promised to be no more than emulated.
fn is_emulated(rental: &Rental) -> bool {
    let agreed = rental.agreed.as_ref();
    agreed.and_then(|agreed| agreed.offer.as_ref()).is_some_and(market::is_emulated)
}
