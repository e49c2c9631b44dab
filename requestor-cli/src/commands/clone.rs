//! `golem vm clone`: a new VM with another one's disk, on the same provider. It is made as any other is
//! ([`super::making`]): noted before anything is sent, settled by the next command if it is cut off, and there only
//! after a login with its own host key.

use std::cell::Cell;

use golem_vm_protocol::advertisement::{Offer, OfferedImage};
use golem_vm_protocol::vm::{CloneVm, SshPublicKey, Vm};
use golem_vm_protocol::{VmId, VmName};

use super::failed::explained;
use super::keys::warn_if_weak;
use super::making::{self, Attempt, Failure, Laps};
use super::{discovered, info, refresh, settle};
use crate::app::{App, vm_name};
use crate::args::CloneArgs;
use crate::client::provider::vm_id;
use crate::error::{CliError, Kind, Result};
use crate::fail_point::{FailPoint, reached};
use crate::market::{dollars, label, usd};
use crate::rentals::{Agreed, NewRental, Rental, fresh_key};
use crate::ssh::keys::LoginKey;

pub(super) async fn run(app: &App<'_>, args: &CloneArgs) -> Result<()> {
    let current = Cell::new(None);
    let laps = Laps::start();
    let work = cloned(app, args, &current, &laps);
    let rental =
        making::guarded(app, &args.new, args.terms.timeout, &current, Box::pin(work)).await?;
    let title = format!("✅ '{}' is ready, a clone of '{}'", rental.name, args.name);
    info::show(app, &refresh::Seen { rental, stale: None }, &title, Some(&laps))
}

async fn cloned(
    app: &App<'_>,
    args: &CloneArgs,
    current: &Cell<Option<i64>>,
    laps: &Laps,
) -> Result<Rental> {
    let name = vm_name(&args.new)?;
    let source = app.find(&args.name)?;
    let (key, sent) = keys(app, args, &source).await?;
    let doing = format!("clone '{}' as '{name}'", source.name);
    let wanted = request(args, &name, &sent)?;
    let progress = app.ui.progress(&format!("cloning '{}'", source.name));
    settle::all(app, Some(&name), false).await?;
    let attempt = |resumed| Attempt {
        app,
        progress: &progress,
        doing: &doing,
        laps,
        key: &key,
        resumed,
        elsewhere: false,
    };
    let is_same = |rental: &Rental| rental.cloned_from == source.vm_id && rental.request == wanted;
    let (rental, _claim) = match making::unfinished(app, &name, is_same).await? {
        Some((rental, claim)) => {
            current.set(Some(rental.row));
            app.ui.note(&format!("going on with the clone '{name}' that was cut off"));
            return ended(attempt(true).run(rental).await.map(|rental| (rental, claim)));
        }
        None => {
            reached(FailPoint::Chosen);
            let new = intention(app, &source, name, wanted, &key, &doing).await?;
            laps.lap("search");
            making::intend(app, &new)?
        }
    };
    current.set(Some(rental.row));
    let made = attempt(false).run(rental).await;
    if matches!(made, Err(Failure::Next(_) | Failure::OfferChanged(_))) {
        current.set(None);
    }
    ended(made.map(|rental| (rental, _claim)))
}

fn ended<T>(made: std::result::Result<(Rental, T), Failure>) -> Result<Rental> {
    match made {
        Ok((rental, _)) => Ok(rental),
        Err(Failure::Next(error) | Failure::OfferChanged(error) | Failure::Final(error)) => {
            Err(error)
        }
    }
}

/// The key to log in with, and those that are sent: none, where the clone has those of its source.
async fn keys(
    app: &App<'_>,
    args: &CloneArgs,
    source: &Rental,
) -> Result<(LoginKey, Vec<SshPublicKey>)> {
    let own_dir = app.own_key_dir()?;
    let sources = app.key_sources(&own_dir).await;
    let Some((first, rest)) = args.ssh_key.split_first() else {
        let key = match &source.identity {
            Some(identity) => sources.named(identity)?,
            None => sources.default_key()?.0,
        };
        return Ok((key, Vec::new()));
    };
    let key = sources.named(first)?;
    let mut sent = vec![key.public.clone()];
    for path in rest {
        sent.push(sources.public_half(path)?);
    }
    for key in &sent {
        warn_if_weak(app, key);
    }
    Ok((key, sent))
}

/// The exact body of the request.
fn request(args: &CloneArgs, name: &VmName, keys: &[SshPublicKey]) -> Result<String> {
    let mut keys = keys.iter().map(|key| key.as_str().to_owned());
    let body = CloneVm {
        name: name.to_string(),
        ssh_key: keys.next().unwrap_or_default(),
        ssh_keys: keys.collect(),
        lease: args.terms.lease(),
    };
    body.validate().map_err(|errors| {
        let error = CliError::usage(format!("'{name}' can't be asked for"));
        errors.into_iter().fold(error, |error, wrong| {
            error.because(format!("{}: {}", wrong.pointer, wrong.detail))
        })
    })?;
    serde_json::to_string(&body)
        .map_err(|error| CliError::other("can't write the request as JSON").because(error))
}

/// The clone's row: what its source is now, at today's prices.
async fn intention(
    app: &App<'_>,
    source: &Rental,
    name: VmName,
    request: String,
    key: &LoginKey,
    doing: &str,
) -> Result<NewRental> {
    let client = app.client()?;
    let reference = source.reference();
    let answer =
        app.reach(&source.provider, async |provider| client.vm(provider, &reference).await).await;
    let vm = match answer {
        Ok(vm) => vm,
        Err(error) => return Err(explained(app, source, doing, error).await),
    };
    let source = refresh::noted(app, source, &vm)?;
    if source.suspended {
        return Err(CliError::new(Kind::Refused, format!("can't {doing}"))
            .because("it is suspended, and memory is not cloned")
            .hint(format!("let it go on first: golem vm resume {}", source.name)));
    }
    let id: VmId = vm_id(&vm.id).map_err(|error| error.into_cli(doing, &source.provider))?;
    let agreed = agreed(app, &source, &vm).await;
    let price = agreed.as_ref().map(|agreed| agreed.prices.per_month(&vm.resources));
    if let Some(price) = price {
        app.ui.note(&format!(
            "renting from {}: {} per month",
            label(&source.provider.name, &source.provider.id),
            dollars(usd(price))
        ));
    }
    Ok(NewRental {
        name,
        provider: source.provider,
        idempotency_key: fresh_key()?,
        request,
        cloned_from: Some(id),
        resources: vm.resources,
        usd_micro_month: price,
        identity: Some(key.identity.clone()),
        agreed,
    })
}

/// What a clone is promised to be: as its source, at the prices that the provider advertises today. Where discovery
/// can't be asked, at those of its source. `None` of a provider of an older release.
async fn agreed(app: &App<'_>, source: &Rental, vm: &Vm) -> Option<Agreed> {
    let today = async {
        let discovery = app.discovery().ok()?;
        let listing = discovered::one(app, &discovery, &source.provider.id).await.ok()??;
        Some(listing.document?.content.prices)
    };
    let prices = match today.await {
        Some(prices) => prices,
        None => vm.prices?,
    };
    let (Some(isolation), Some(egress)) = (vm.isolation, &vm.egress) else {
        return Some(Agreed { prices, offer: None });
    };
    let images = match (&vm.image, &vm.image_digest) {
        (Some(name), Some(digest)) => {
            vec![OfferedImage { name: name.clone(), digest: digest.clone() }]
        }
        _ => Vec::new(),
    };
    let offer = Offer {
        backend: vm.backend.clone().unwrap_or_default(),
        isolation,
        accel: vm.accel.clone(),
        images,
        egress: egress.clone(),
        enforced: Vec::new(),
        contained: false,
    };
    Some(Agreed { prices, offer: Some(offer) })
}
