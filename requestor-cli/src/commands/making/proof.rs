//! What a provider has made is compared with what was asked for, its SSH is waited for, and it is logged in to: only
//! then a VM is there.

use std::time::Duration;

use golem_vm_protocol::vm::{CloneVm, CreateVmRequest, SshPublicKey, Vm, VmStatus};
use golem_vm_protocol::{ErrorCode, Problem};
use tokio::time::{Instant, sleep};

use super::super::ssh::{not_that_vm, usable_access, wrong_host_key};
use super::attempt::{Attempt, Failure, Outcome};
use super::given_up::kept;
use crate::app::App;
use crate::client::provider::{Access, CallError};
use crate::error::{CliError, Kind};
use crate::lease;
use crate::market::label;
use crate::rentals::{Rental, SshAccess, State};
use crate::ssh::keys::Use;
use crate::ssh::login::{self, LoginError};

/// How long a running VM may take until its access is open.
const ACCESS: Duration = Duration::from_secs(90);

impl Attempt<'_> {
    /// Whether what was made is what was wanted.
    pub(super) async fn fits(&self, rental: &Rental, vm: &Vm) -> Outcome<()> {
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
                return Err(self.undo(rental, error.into_cli(self.doing, &rental.provider)).await);
            }
        }
        let broken = not_as_asked(rental, vm);
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
    pub(super) async fn opened(&self, rental: &Rental, vm: &Vm) -> Outcome<SshAccess> {
        let client = self.app.client()?;
        let reference = rental.reference();
        let started = Instant::now();
        let mut pause = Duration::from_millis(50);
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
                        let told = error.into_cli(self.doing, &rental.provider);
                        self.undo_if_new(rental, told).await
                    }
                    _ => self.abandon(rental, error).await,
                });
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(500));
        }
    }

    /// Logs in: the proof that it is the right machine, and that the person's key opens it.
    pub(super) async fn logged_in(&self, rental: &Rental) -> Outcome<()> {
        let app = self.app;
        let key = self.key;
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
        let check = login::check(
            app.client()?.connector(),
            &target,
            key,
            program.as_deref(),
            interactive,
            || {
                self.laps.lap("connect");
            },
        );
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
}

/// What of a VM is not as it was asked for and agreed, in a few words each.
pub(in crate::commands) fn not_as_asked(rental: &Rental, vm: &Vm) -> Vec<String> {
    let Some(agreed) = &rental.agreed else { return Vec::new() };
    let (created, cloned) = match rental.cloned_from {
        None => (serde_json::from_str::<CreateVmRequest>(&rental.request).ok(), None),
        Some(_) => (None, serde_json::from_str::<CloneVm>(&rental.request).ok()),
    };
    let image = created.as_ref().and_then(|asked| asked.image.as_ref()?.parse().ok());
    let mut wrong = agreed.broken_by(vm, &rental.resources, image.as_ref());
    // A provider that advertises no offers was not asked which kind it makes, but this is.
    if agreed.offer.is_none()
        && let Some(wanted) = created.as_ref().and_then(|asked| asked.isolation)
        && vm.isolation != Some(wanted)
    {
        wrong.push(format!("it is not a {wanted}"));
    }
    let lease = created.and_then(|asked| asked.lease).or(cloned.and_then(|asked| asked.lease));
    wrong.extend(lease::broken(lease.as_ref(), vm.lease.as_ref(), vm.created_at.0));
    wrong
}

/// Whether the VM's own entry names no other host key than the access does.
fn one_host_key(of_vm: Option<&SshPublicKey>, of_access: &SshPublicKey) -> bool {
    of_vm.is_none_or(|key| key.without_comment() == of_access.without_comment())
}
