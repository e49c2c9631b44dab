//! `golem vm keys`: which SSH keys may log in to a VM.

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{ChangeVmKeys, SshPublicKey, VmKey, VmKeys};
use golem_vm_protocol::{ErrorCode, route};
use serde_json::{Value, json};

use super::refresh;
use crate::app::App;
use crate::args::{KeysChangeArgs, KeysCommand, KeysRemoveArgs, NameArgs};
use crate::client::provider::CallError;
use crate::error::{CliError, Result};
use crate::rentals::Rental;
use crate::table::Columns;

pub(super) async fn run(app: &App<'_>, command: &KeysCommand) -> Result<()> {
    match command {
        KeysCommand::List(args) => list(app, args).await,
        KeysCommand::Add(args) => add(app, args).await,
        KeysCommand::Remove(args) => remove(app, args).await,
    }
}

async fn list(app: &App<'_>, args: &NameArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let keys = asked(app, &rental).await?;
    show(app, &rental, &keys).await
}

async fn add(app: &App<'_>, args: &KeysChangeArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let own_dir = app.own_key_dir()?;
    let sources = app.key_sources(&own_dir).await;
    let mut add = Vec::new();
    for path in &args.keys {
        let key = sources.public_half(path)?;
        warn_if_weak(app, &key);
        add.push(key.as_str().to_owned());
    }
    let keys = changed(app, &rental, ChangeVmKeys { add, ..ChangeVmKeys::default() }).await?;
    show(app, &rental, &keys).await
}

async fn remove(app: &App<'_>, args: &KeysRemoveArgs) -> Result<()> {
    let rental = app.find(&args.name)?;
    let own_dir = app.own_key_dir()?;
    let sources = app.key_sources(&own_dir).await;
    let there = asked(app, &rental).await?;
    let mut remove = Vec::new();
    for text in &args.keys {
        let fingerprint = match text.to_str() {
            Some(text) if text.starts_with("SHA256:") => text.to_owned(),
            _ => sources.public_half(text.as_ref())?.fingerprint(),
        };
        if !there.keys.iter().any(|key| key.fingerprint == fingerprint) {
            return Err(CliError::not_found(format!(
                "'{}' has no key {}",
                rental.name,
                printable(&fingerprint, 60)
            ))
            .hint(format!("golem vm keys list {}", rental.name)));
        }
        remove.push(fingerprint);
    }
    let own = own_key(app, &rental).await;
    let change = ChangeVmKeys { remove, force: args.force, ..ChangeVmKeys::default() };
    let keys = changed(app, &rental, change).await?;
    if let Some(own) = own
        && there.keys.iter().any(|key| is(key, &own))
        && !keys.keys.iter().any(|key| is(key, &own))
    {
        app.ui.warn(&format!(
            "this was the key that `golem vm ssh {}` logs in with from here",
            rental.name
        ));
    }
    if keys.applied {
        app.ui.note("sessions that are open stay; `golem vm restart` ends them");
    }
    show(app, &rental, &keys).await
}

/// The keys, as the provider knows them.
async fn asked(app: &App<'_>, rental: &Rental) -> Result<VmKeys> {
    let client = app.client()?;
    let vm = rental.reference();
    let answer = {
        let _progress = app.ui.progress(&format!("asking for the keys of '{}'", rental.name));
        app.reach(&rental.provider, async |provider| client.keys(provider, &vm).await).await
    };
    answer.map_err(|error| failed(app, rental, "ask for the keys of", error))
}

async fn changed(app: &App<'_>, rental: &Rental, change: ChangeVmKeys) -> Result<VmKeys> {
    let client = app.client()?;
    let target = route::vm_keys(&rental.reference());
    let answer = {
        let _progress = app.ui.progress(&format!("changing the keys of '{}'", rental.name));
        let call = async |provider: &_| client.post(provider, &target, &change).await;
        app.reach(&rental.provider, call).await
    };
    answer.map_err(|error| {
        let last = error.code() == Some(ErrorCode::LastKey);
        let told = failed(app, rental, "change the keys of", error);
        if last { told.hint("--force removes it all the same") } else { told }
    })
}

fn failed(app: &App<'_>, rental: &Rental, doing: &str, error: CallError) -> CliError {
    if error.is_no_such_vm() {
        return match refresh::gone(app, rental) {
            Ok(()) => CliError::not_found(format!("'{}' does not exist any more", rental.name)),
            Err(error) => error,
        };
    }
    error.into_cli(&format!("{doing} '{}'", rental.name), &rental.provider)
}

/// The key that this machine logs in with, if it can be told.
async fn own_key(app: &App<'_>, rental: &Rental) -> Option<SshPublicKey> {
    let own_dir = app.own_key_dir().ok()?;
    app.key_sources(&own_dir).await.public_half(rental.identity.as_ref()?).ok()
}

fn is(key: &VmKey, other: &SshPublicKey) -> bool {
    key.key.without_comment() == other.without_comment()
}

/// Says that a key is accepted and not a good one.
pub(super) fn warn_if_weak(app: &App<'_>, key: &SshPublicKey) {
    if let Some(weakness) = key.weakness() {
        app.ui.warn(&format!("the key {}: {weakness}", key.fingerprint()));
    }
}

async fn show(app: &App<'_>, rental: &Rental, keys: &VmKeys) -> Result<()> {
    let own = own_key(app, rental).await;
    let used = |key: &VmKey| own.as_ref().is_some_and(|own| is(key, own));
    if app.ui.is_json() {
        let list: Vec<Value> = keys
            .keys
            .iter()
            .map(|key| {
                json!({ "fingerprint": key.key.fingerprint(), "key": key.key, "used_here": used(key) })
            })
            .collect();
        return app.ui.json(&json!({
            "name": rental.name, "vm_id": keys.vm_id, "keys": list, "applied": keys.applied,
        }));
    }
    if keys.keys.is_empty() {
        app.ui.note(&format!("no key logs in to '{}'", rental.name));
    } else {
        let mut table = Columns::new(&["Fingerprint", "Type", "Comment", "Notes"]);
        for key in &keys.keys {
            let mut words = key.key.as_str().splitn(3, ' ');
            let kind = words.next().unwrap_or("-").to_owned();
            let comment = words.nth(1).unwrap_or("-");
            table.row(vec![
                key.key.fingerprint(),
                key.key.rsa_bits().map_or(kind.clone(), |bits| format!("{kind} {bits}")),
                printable(comment, 60),
                if used(key) { "used from here".to_owned() } else { String::new() },
            ]);
        }
        let title = format!("🔑 Keys of {} ({} total)", rental.name, keys.keys.len());
        app.ui.out(&table.render(&app.ui, &title))?;
    }
    if !keys.applied {
        app.ui.note(&format!("'{}' goes by these keys when it runs next", rental.name));
    }
    Ok(())
}
