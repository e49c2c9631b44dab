//! Has the parts work, until the provider is told to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use golem_vm_node::control::ControlSocket;
use golem_vm_node::data_dir::{DataDir, DataDirError};
use golem_vm_node::http::{HttpService, RateLimits, Recipients, Signing};
use golem_vm_node::ready::{self, Ready};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::assemble::Provider;
use super::backend::{Arrived, try_anew};
use super::backends::{Way, is_used};
use super::{AppError, housekeeping};
use crate::backend::{Backend, BackendKind, Present, Standing};
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
/// How often a backend that is away is asked.
const ASK_AGAIN: Duration = Duration::from_secs(15);

impl Provider {
    pub(super) async fn serve(
        self,
        data_dir: &DataDir,
        ready_fd: Option<u32>,
    ) -> Result<(), AppError> {
        let Self { config, key, clock, token, listener, running, forwarded, address, arrived } =
            self;
        let taken_up = running.rental.vms.take_up_all().await?;
        fail_point::reached(FailPoint::RecoveryTakenUp);
        tell_who_this_is(&config, &running, taken_up);
        for one in &arrived {
            tell_of(one);
        }

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
        work.spawn(housekeeping::run(
            running.store.clone(),
            running.rental.images.clone(),
            data_dir.clone(),
            token.clone(),
        ));
        for one in &arrived {
            let (running, backend) = (Arc::clone(&running), Arc::clone(&one.present.backend));
            work.spawn(look_after(running, backend, token.clone()));
        }
        for member in &*running.backends.now() {
            if matches!(member.standing, Standing::Away(_)) && is_used(&config, member.kind) {
                let running = Arc::clone(&running);
                work.spawn(Box::pin(await_backend(running, member.kind, token.clone())));
            }
        }
        work.spawn(idle_guard::run(
            running.rental.vms.clone(),
            Arc::new(forwarded.clone()),
            token.clone(),
        ));
        work.spawn(display::follow(running.ports.clone(), token.clone()));

        work.spawn(Box::pin(advertise(Arc::clone(&running), arrived, token.clone())));

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
            for present in running.backends.there() {
                present.backend.rest().await;
            }
            tracing::info!("ended; VMs and their SSH sessions go on");
        }
        Ok(())
    }
}

/// Finds out what can be said of this provider, and says it until `token` is cancelled. The API has to
/// listen before its port can be verified, and ports have to be verified before they are advertised; what
/// the backend was remembered to be able to do is tried before it is advertised. Nobody waits for it who
/// has a VM here already.
async fn advertise(running: Arc<Running>, arrived: Vec<Arrived>, token: CancellationToken) {
    let recalled = arrived.iter().filter(|one| one.recalled);
    let trial = join_all(recalled.map(|one| try_anew(one.present.clone(), token.clone())));
    tokio::select! {
        () = token.cancelled() => return,
        _ = async { tokio::join!(running.verifier.check(), trial) } => {}
    }
    let advertiser = &running.advertiser;
    advertiser.follow(running.rental.vms.changes());
    advertiser.follow(running.rental.images.changes());
    advertiser.follow(running.ports.changes());
    advertiser.follow(running.backends.changes());
    for one in &arrived {
        follow(&running, &one.present);
    }
    tokio::join!(running.verifier.run(token.clone()), advertiser.run(token.clone()));
}

/// Takes away what contains a backend's guests where there is no VM that it could contain.
async fn lower_if_unused(running: &Running) {
    let Ok(records) = running.store.all().await else { return };
    for present in running.backends.there() {
        let Some(guard) = present.backend.traffic_guard() else { continue };
        if records.iter().any(|record| record.terms.backend == present.kind()) {
            continue;
        }
        if let Err(error) = guard.lower().await {
            tracing::warn!("{error}");
        }
    }
}

async fn end_forwarder(forwarded: &ForwardedPorts) {
    match tokio::time::timeout(FORWARDER_END, forwarded.shut_down()).await {
        Ok(Ok(())) => tracing::info!("the forwarder has ended"),
        Ok(Err(error)) => tracing::warn!("ending the forwarder: {error}"),
        Err(_) => tracing::warn!("the forwarder did not end within {} s", FORWARDER_END.as_secs()),
    }
}

fn tell_who_this_is(config: &Config, running: &Running, taken_up: usize) {
    let conditions = &running.rental.conditions;
    tracing::info!(
        id = %running.id, name = %config.name, api = %running.api,
        offered = ?conditions.offered.whole(), vms = taken_up, "provider runs"
    );
    if let Err(reason) = conditions.open_to_strangers() {
        tracing::warn!(
            "only trusted requestors are served: {reason}. Set GOLEM_PROVIDER_TRUSTED_REQUESTORS, or \
             GOLEM_PROVIDER_ALLOW_UNCONTAINED=true to rent to strangers all the same"
        );
    }
    for present in conditions.backends.there().iter().filter(|present| !present.contained()) {
        if conditions.allow_uncontained {
            tracing::warn!(
                kind = %present.kind(),
                "guests are not contained, and strangers are served because you allowed it; this is advertised"
            );
        }
    }
}

/// Tells what a backend that makes VMs from now on can do.
fn tell_of(arrived: &Arrived) {
    let found = arrived.present.found.now();
    tracing::info!(
        kind = %arrived.present.kind(), version = found.version, isolation = %found.isolation,
        accel = found.accel_word(), instances = arrived.seen.as_ref().map(BTreeMap::len),
        "this backend makes VMs"
    );
    if let Some(accel) = found.accel.as_ref().filter(|_| found.is_emulated()) {
        tracing::warn!(
            kind = %arrived.present.kind(),
            "virtual machines are emulated here, which is slow, and advertised so: {}", accel.why
        );
    }
}

/// Has the advertisement follow what becomes of a backend.
fn follow(running: &Running, present: &Present) {
    running.advertiser.follow(present.found.changes());
    if let Some(trouble) = present.backend.trouble() {
        running.advertiser.follow(trouble);
    }
}

/// Looks after what one backend makes, until `token` is cancelled.
async fn look_after(running: Arc<Running>, backend: Arc<dyn Backend>, token: CancellationToken) {
    let (config, store) = (&running.config, Arc::new(running.store.clone()));
    let orphans = orphans::Sweeper::new(Arc::clone(&backend), store, config.orphan_grace);
    let vms = running.rental.vms.clone();
    let reserve = config.disk_reserve_mib << 20;
    let guarding = async {
        if let Some(guard) = backend.traffic_guard() {
            guard.watch(token.clone()).await;
        }
    };
    tokio::join!(
        guarding,
        orphans.run(token.clone()),
        disk_guard::run(vms, Arc::clone(&backend), reserve, token.clone())
    );
}

/// Asks a backend that is away every now and then, and takes up its VMs once it answers.
async fn await_backend(running: Arc<Running>, kind: BackendKind, token: CancellationToken) {
    let (config, store) = (&running.config, &running.store);
    let way = Way { config, key: &running.key, data_dir: &running.data_dir, store };
    let mut timer = interval(ASK_AGAIN);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer.reset();
    let arrived = loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = timer.tick() => {}
        }
        let opened = tokio::select! {
            () = token.cancelled() => return,
            opened = way.open(kind) => opened,
        };
        match opened {
            Ok(arrived) => break arrived,
            Err(error) => running.backends.still_away(kind, error.to_string()),
        }
    };
    running.backends.arrived(&arrived.present);
    tell_of(&arrived);
    follow(&running, &arrived.present);
    let backend = Arc::clone(&arrived.present.backend);
    match running.rental.vms.take_up_of(Arc::clone(&backend)).await {
        Ok(vms) => tracing::info!(%kind, vms, "its VMs are looked after again"),
        Err(error) => tracing::error!(%kind, "its VMs can't be taken up: {error}"),
    }
    let trial = async {
        if arrived.recalled {
            try_anew(arrived.present, token.clone()).await;
        }
    };
    tokio::join!(trial, look_after(Arc::clone(&running), backend, token.clone()));
}
