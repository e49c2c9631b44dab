//! Has the parts work, until the provider is told to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use golem_vm_node::control::ControlSocket;
use golem_vm_node::data_dir::{DataDir, DataDirError};
use golem_vm_node::http::{HttpService, RateLimits, Recipients, Signing};
use golem_vm_node::ready::{self, Ready};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::assemble::Provider;
use super::backend::{AtStart, try_anew};
use super::{AppError, housekeeping};
use crate::config::Config;
use crate::control::{self, Running};
use crate::fail_point::{self, FailPoint};
use crate::http::{self, ApiState};
use crate::orphans;
use crate::ports::{ForwardedPorts, PortProofs, bind_proof_socket, display};
use crate::vm::repository::VmRepository as _;
use crate::vm::{disk_guard, idle_guard};

/// How long a purge waits for the forwarder to end.
const FORWARDER_END: Duration = Duration::from_secs(10);

impl Provider {
    pub(super) async fn serve(
        self,
        data_dir: &DataDir,
        ready_fd: Option<u32>,
    ) -> Result<(), AppError> {
        let Self { config, key, clock, token, listener, running, forwarded, address, at_start } =
            self;
        let taken_up = running.rental.vms.take_up_all().await?;
        fail_point::reached(FailPoint::RecoveryTakenUp);
        let instances = at_start.seen.as_ref().map(BTreeMap::len);
        tell_who_this_is(&config, &running, taken_up, instances);

        let rates = RateLimits::new(config.rates, http::class, Arc::clone(&clock));
        let served = data_dir.served_requests();
        let signing = Signing::new(key.clone(), Recipients::own_id(), clock);
        let signing = signing.remembering(&served).map_err(|source| DataDirError::Io {
            action: "write",
            path: served,
            source,
        })?;
        let signing = Arc::new(signing);
        let api = http::router(ApiState {
            rental: running.rental.clone(),
            info: Arc::clone(&running.info),
            allow_unsigned: config.allow_unsigned,
        });
        let limits = http::limits(config.launch_timeout);
        let (_socket, control_listener) = ControlSocket::bind(&data_dir.control_socket())?;
        let owner = HttpService::unsigned(control::router(Arc::clone(&running)), limits);

        let proofs = PortProofs::new(key.clone());
        let (_proof_socket, questions) = bind_proof_socket(data_dir.path())?;
        let api = HttpService::signed(api, limits, signing).opened_by(Arc::new(proofs.clone()));

        let mut work = JoinSet::new();
        let service = api.behind(config.trusted_proxies.clone()).limited(rates);
        work.spawn(service.serve(listener, token.clone()));
        work.spawn(proofs.serve(questions, token.clone()));
        work.spawn(owner.serve_unix(control_listener, token.clone()));
        work.spawn({
            let (forwarded, token) = (forwarded.clone(), token.clone());
            async move { forwarded.watch(token).await }
        });
        work.spawn({
            let (backend, token) = (Arc::clone(&running.backend), token.clone());
            async move {
                if let Some(guard) = backend.traffic_guard() {
                    guard.watch(token).await;
                }
            }
        });
        work.spawn(housekeeping::run(
            running.store.clone(),
            running.rental.images.clone(),
            data_dir.clone(),
            token.clone(),
        ));
        let orphans = orphans::Sweeper::new(
            Arc::clone(&running.backend),
            Arc::new(running.store.clone()),
            config.orphan_grace,
        );
        work.spawn(orphans.run(token.clone()));
        work.spawn(disk_guard::run(
            running.rental.vms.clone(),
            Arc::clone(&running.backend),
            config.disk_reserve_mib << 20,
            token.clone(),
        ));
        work.spawn(idle_guard::run(
            running.rental.vms.clone(),
            Arc::new(forwarded.clone()),
            token.clone(),
        ));
        work.spawn(display::follow(running.ports.clone(), token.clone()));

        work.spawn(Box::pin(advertise(Arc::clone(&running), at_start, token.clone())));

        if let Some(fd) = ready_fd {
            let mut ready = Ready::new("provider", key.id(), running.api);
            let host = address.current();
            ready.more.insert("public_host".to_owned(), host.into());
            ready::announce(fd, &ready)?;
        }
        while let Some(ended) = work.join_next().await {
            if let Err(error) = ended {
                tracing::error!(
                    "a part of the provider ended unexpectedly, and so it ends: {error}"
                );
                token.cancel();
            }
        }
        if running.purged.load(Ordering::SeqCst) {
            end_forwarder(&forwarded).await;
            tracing::info!("ended; nothing of this provider is left but its data directory");
        } else {
            lower_if_unused(&running).await;
            tracing::info!("ended; VMs and their SSH sessions go on");
        }
        Ok(())
    }
}

/// Finds out what can be said of this provider, and says it until `token` is cancelled. The API has to
/// listen before its port can be verified, and ports have to be verified before they are advertised; what
/// the backend was remembered to be able to do is tried before it is advertised. Nobody waits for it who
/// has a VM here already.
async fn advertise(running: Arc<Running>, at_start: AtStart, token: CancellationToken) {
    let trial = async {
        if at_start.recalled {
            try_anew(Arc::clone(&running.backend), at_start.found.clone(), token.clone()).await;
        }
    };
    tokio::select! {
        () = token.cancelled() => return,
        _ = async { tokio::join!(running.verifier.check(), trial) } => {}
    }
    let advertiser = &running.advertiser;
    advertiser.follow(running.rental.vms.changes());
    advertiser.follow(running.rental.images.changes());
    advertiser.follow(running.ports.changes());
    advertiser.follow(at_start.found.changes());
    if let Some(trouble) = running.backend.trouble() {
        advertiser.follow(trouble);
    }
    tokio::join!(running.verifier.run(token.clone()), advertiser.run(token.clone()));
}

/// Takes away what contains guests where there is no VM that it could contain.
async fn lower_if_unused(running: &Running) {
    let Some(guard) = running.backend.traffic_guard() else { return };
    if !matches!(running.store.all().await.as_deref(), Ok([])) {
        return;
    }
    if let Err(error) = guard.lower().await {
        tracing::warn!("{error}");
    }
}

async fn end_forwarder(forwarded: &ForwardedPorts) {
    match tokio::time::timeout(FORWARDER_END, forwarded.shut_down()).await {
        Ok(Ok(())) => tracing::info!("the forwarder has ended"),
        Ok(Err(error)) => tracing::warn!("ending the forwarder: {error}"),
        Err(_) => tracing::warn!("the forwarder did not end within {} s", FORWARDER_END.as_secs()),
    }
}

fn tell_who_this_is(config: &Config, running: &Running, taken_up: usize, instances: Option<usize>) {
    let conditions = &running.rental.conditions;
    let capabilities = conditions.capabilities.now();
    tracing::info!(
        id = %running.id, name = %config.name, api = %running.api, backend = %conditions.backend,
        version = capabilities.version, offered = ?conditions.offered.whole(), vms = taken_up, instances,
        "provider runs"
    );
    if let Err(reason) = conditions.open_to_strangers() {
        tracing::warn!(
            "only trusted requestors are served: {reason}. Set GOLEM_PROVIDER_TRUSTED_REQUESTORS, or \
             GOLEM_PROVIDER_ALLOW_UNCONTAINED=true to rent to strangers all the same"
        );
    } else if !conditions.contained() {
        tracing::warn!(
            "guests are not contained, and strangers are served because you allowed it; this is advertised"
        );
    }
}
