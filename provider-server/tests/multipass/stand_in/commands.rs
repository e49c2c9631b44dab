//! The commands.

use std::io::Read as _;
use std::process::Command;

use serde_json::json;

use crate::client::{End, plain, refused, size, value, wrong};
use crate::said;
use crate::settings::Kind;
use crate::world::{Instance, Power, Snapshot, State, World, now, pause};

const MIB: u64 = 1 << 20;
const JSON: [&str; 1] = ["--format"];

fn absent<T>(command: &str, name: &str) -> Result<T, (u8, String)> {
    refused(command, &format!("The following errors occurred:\ninstance \"{name}\" does not exist"))
}

/// The only name that was given, and what is of it.
fn one(world: &World, command: &str, names: &[&str]) -> Result<(Instance, State), (u8, String)> {
    let [name] = names else {
        return wrong(&format!(
            "this stand-in is for one name at a time, and '{command}' was told {names:?}"
        ));
    };
    match world.listed(name) {
        Some((_, State::Deleted)) if !matches!(command, "delete" | "recover" | "info") => refused(
            command,
            &format!("The following errors occurred:\ninstance \"{name}\" is deleted"),
        ),
        Some(found) => Ok(found),
        None => absent(command, name),
    }
}

pub(crate) fn version(world: &World, _: &[&str]) -> End {
    let settings = world.settings();
    let mut versions = json!({ "multipass": settings.version });
    if !settings.down && !settings.unauthenticated {
        versions["multipassd"] = json!(settings.version);
    }
    print!("{}", said::pretty(&versions));
    Ok(())
}

pub(crate) fn list(world: &World, words: &[&str], fault: Option<Kind>) -> End {
    plain(words, &["--no-ipv4"], &JSON)?;
    // It waits behind whatever keeps the daemon busy.
    drop(world.main_thread());
    let settings = world.settings();
    let addresses = !words.contains(&"--no-ipv4");
    if addresses {
        pause(settings.addresses_ms);
    }
    let all = if fault == Some(Kind::ListsNothing) { Vec::new() } else { world.all() };
    print!("{}", said::list(&settings, &all, addresses));
    Ok(())
}

pub(crate) fn info(world: &World, words: &[&str]) -> End {
    let names = plain(words, &["--no-runtime-information", "--snapshots"], &JSON)?;
    let settings = world.settings();
    if names.is_empty() && !settings.is_at_least(13) {
        return wrong("Name argument or --all is required");
    }
    drop(world.main_thread());
    let (instance, state) = one(world, "info", &names)?;
    let inside = !words.contains(&"--no-runtime-information") && !words.contains(&"--snapshots");
    if inside && state == State::Running {
        pause(settings.addresses_ms);
        if settings.no_way_in {
            return refused(
                "info",
                "ssh failed to authenticate: 'Access denied for 'publickey'. Authentication that can continue: publickey'",
            );
        }
    }
    print!("{}", said::info(&settings, &instance, state, inside, words.contains(&"--snapshots")));
    Ok(())
}

pub(crate) fn find() -> End {
    let image = |version: &str, aliases: &[&str]| json!({ "os": "Ubuntu", "release": version, "version": "20261101", "remote": "", "aliases": aliases });
    print!(
        "{}",
        said::pretty(&json!({
            "errors": [],
            "images": { "24.04": image("24.04 LTS", &["noble", "lts"]), "22.04": image("22.04 LTS", &["jammy"]) }
        }))
    );
    Ok(())
}

pub(crate) fn get(world: &World, words: &[&str]) -> End {
    let key = words.first().copied().unwrap_or_default();
    if key == "local.driver" {
        println!("{}", world.settings().driver);
        return Ok(());
    }
    let (name, what) =
        key.strip_prefix("local.").and_then(|rest| rest.split_once('.')).unwrap_or_default();
    let Some((instance, _)) = world.listed(name) else {
        return refused("get", &format!("Unrecognized settings key: '{key}'"));
    };
    match what {
        "cpus" => println!("{}", instance.cpus),
        "memory" => println!("{}", said::size(instance.memory)),
        "disk" => println!("{}", said::size(instance.disk)),
        _ => return refused("get", &format!("Unrecognized settings key: '{key}'")),
    }
    Ok(())
}

pub(crate) fn set(world: &World, words: &[&str]) -> End {
    let (key, value) = words.first().and_then(|word| word.split_once('=')).unwrap_or_default();
    let (name, what) =
        key.strip_prefix("local.").and_then(|rest| rest.split_once('.')).unwrap_or_default();
    let Some((instance, state)) = world.listed(name) else {
        return refused("set", &format!("Unrecognized settings key: '{key}'"));
    };
    if state != State::Stopped {
        return refused(
            "set",
            &format!(
                "Cannot update instance settings; instance: {name}; reason: Instance must be stopped for modification"
            ),
        );
    }
    if what == "disk" && size(value)? < instance.disk {
        return refused(
            "set",
            &format!("Invalid setting '{key}={value}': Disk can only be expanded"),
        );
    }
    match what {
        "cpus" => world.change(name, |one| one.cpus = value.parse().unwrap()),
        "memory" => {
            let bytes = size(value)?;
            world.change(name, |one| one.memory = bytes);
        }
        "disk" => {
            let bytes = size(value)?;
            world.change(name, |one| one.disk = bytes);
        }
        _ => return refused("set", &format!("Unrecognized settings key: '{key}'")),
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

pub(crate) fn launch(world: &World, words: &[&str], fault: Option<Kind>) -> End {
    let valued = ["--name", "-c", "-m", "-d", "--cloud-init", "--timeout"];
    let images = plain(words, &[], &valued)?;
    let settings = world.settings();
    let name = value(words, &["--name"]).unwrap_or("wandering-petname");
    let (memory, disk) = (
        size(value(words, &["-m"]).unwrap_or("1G"))?,
        size(value(words, &["-d"]).unwrap_or("5G"))?,
    );
    let cpus: u32 = match value(words, &["-c"]).unwrap_or("1").parse() {
        Ok(cpus) if cpus > 0 => cpus,
        _ => return wrong("Error: invalid CPU count, need a positive integer value."),
    };
    let mut user_data = String::new();
    match value(words, &["--cloud-init"]) {
        Some("-") => drop(std::io::stdin().read_to_string(&mut user_data).unwrap()),
        Some(file) => {
            return wrong(&format!(
                "Could not load cloud-init configuration: bad file: {file}\nPlease ensure that Multipass can read it."
            ));
        }
        None => {}
    }
    said::noise();
    if images.iter().any(|image| image.matches(':').count() > 1 && !image.contains("://")) {
        return wrong("Invalid remote and source image name supplied");
    }
    if !is_name(name) {
        return refused(
            "launch",
            &format!("Invalid arguments supplied\nInvalid instance name supplied: {name}"),
        );
    }
    let (least_memory, least_disk) =
        if settings.is_at_least(17) { (512, 1024) } else { (128, 512) };
    if memory < least_memory * MIB {
        return refused(
            "launch",
            &format!(
                "Invalid arguments supplied\nInvalid memory size value supplied: {}M.",
                memory / MIB
            ),
        );
    }
    if disk < least_disk * MIB {
        return refused(
            "launch",
            &format!(
                "Invalid arguments supplied\nInvalid disk size value supplied: {}M.",
                disk / MIB
            ),
        );
    }
    if !settings.kvm {
        return refused(
            "launch",
            "KVM support is not enabled on this machine.\nPlease ensure the following:\n1. The system's CPU supports virtualization.\n2. Virtualization is enabled in the system BIOS.\n3. The KVM kernel modules are loaded.",
        );
    }
    let image = images.first().copied().unwrap_or("24.04");
    match image.split_once("://") {
        Some(("file", path)) if !std::path::Path::new(path).is_file() => {
            return refused("launch", &format!("Custom image `{path}` does not exist."));
        }
        None if !["24.04", "noble", "lts", "22.04", "jammy"].contains(&image) => {
            return refused(
                "launch",
                &format!("Unable to find an image matching \"{image}\" in remote \"\"."),
            );
        }
        _ => {}
    }
    let spoilt = world.directory.join("spoilt").join(name);
    if spoilt.exists() {
        return refused(
            "launch",
            &format!("Failed to copy {image} to /vault/instances/{name}/image.qcow2"),
        );
    }
    if fault == Some(Kind::Crash) {
        std::fs::create_dir_all(&spoilt).unwrap();
        said::spin(&format!("Preparing image for {name}"));
        return refused("launch", "cannot connect to the multipass socket");
    }
    if let Some(known) = world.get(name) {
        let what = if known.state().is_some() { "already exists" } else { "is being prepared" };
        return refused("launch", &format!("instance \"{name}\" {what}"));
    }
    if fault == Some(Kind::IgnoresUserData) {
        user_data.clear();
    }
    let begun = now();
    {
        let _lock = world.lock("state.lock");
        world.put(&Instance {
            name: name.to_owned(),
            address: crate::guest::free_address(world),
            cpus,
            memory,
            disk,
            user_data,
            instance_id: name.to_owned(),
            power: Power::On,
            deleted: false,
            generation: 0,
            boots: 0,
            visible_at: begun + settings.prepare_ms,
            running_at: u64::MAX,
            ready_at: u64::MAX,
            stops_at: None,
            stays_unknown: fault == Some(Kind::StaysUnknown),
            resumes: false,
            snapshots: std::collections::BTreeMap::new(),
        });
    }
    world.switch_on(name, begun + settings.prepare_ms);
    said::spin(&format!("Preparing image for {name}"));
    if fault == Some(Kind::ClientTimeout) {
        return Err((5, "Timed out waiting for instance launch.\n".to_owned()));
    }
    if fault == Some(Kind::Dies) {
        pause(settings.prepare_ms + 30);
        world.change(name, |one| one.power = Power::Off);
        return refused(
            "launch",
            &format!(
                "The following errors occurred:\nqemu-system-x86_64: it is broken\n{name}: shutdown called while starting"
            ),
        );
    }
    said::spin(&format!("Starting {name}"));
    wait_until_up(world, "launch", name, true)?;
    if let Some(Kind::FailsAfterwards(text)) = fault {
        return refused("launch", &text);
    }
    println!("Launched: {name}");
    Ok(())
}

/// Waits until it runs, or does not any more.
fn wait_until_up(world: &World, command: &str, name: &str, is_first: bool) -> End {
    let began = now();
    loop {
        let Some(instance) = world.get(name) else { return absent(command, name) };
        let is_over = now() >= if is_first { instance.ready_at } else { instance.running_at };
        match instance.state() {
            Some(State::Running) if is_over => return Ok(()),
            Some(State::Stopped | State::Deleted | State::Suspended) => {
                return refused(
                    command,
                    &format!(
                        "The following errors occurred:\n{name}: shutdown called while starting"
                    ),
                );
            }
            // Its own limit is five minutes.
            _ if instance.stays_unknown && now() > began + 2000 => {
                return refused(
                    command,
                    &format!(
                        "The following errors occurred:\n{name}: timed out waiting for response"
                    ),
                );
            }
            _ => pause(20),
        }
        if world.settings().down {
            return refused(command, "cannot connect to the multipass socket");
        }
    }
}

pub(crate) fn start(world: &World, words: &[&str], fault: Option<Kind>) -> End {
    let names = plain(words, &[], &["--timeout"])?;
    let [name] = names.as_slice() else { return wrong("a bare start is for the primary instance") };
    let name = *name;
    said::spin(&format!("Starting {name}"));
    let missing =
        |what: &str| refused("start", &format!("instance(s) missing\nInstance '{name}' {what}\n"));
    let state = match world.listed(name) {
        None => return missing("does not exist."),
        Some((_, State::Deleted)) => {
            return missing(
                "is deleted. Use 'recover' to recover it or 'purge' to permanently delete it.",
            );
        }
        Some((_, state)) => state,
    };
    if !world.settings().kvm {
        return refused("start", "KVM support is not enabled on this machine.");
    }
    match state {
        State::Running => return Ok(()),
        State::Unknown => {
            return refused(
                "start",
                &format!(
                    "The following errors occurred:\nInstance '{name}' is already running, but in an unknown state.\nTry to stop it first."
                ),
            );
        }
        State::DelayedShutdown => {
            world.change(name, |one| one.stops_at = None);
            return Ok(());
        }
        State::Suspended => world.change(name, |one| {
            (one.power, one.resumes) = (Power::On, false);
            one.running_at = now() + 50;
            one.ready_at = one.running_at;
        }),
        State::Stopped => {
            world.change(name, |one| one.stays_unknown = fault == Some(Kind::StaysUnknown));
            world.switch_on(name, now());
        }
        State::Starting | State::Deleted => {}
    }
    match fault {
        Some(Kind::ClientTimeout) => {
            return Err((5, "Timed out waiting for instance to start.\n".to_owned()));
        }
        Some(Kind::Dies) => {
            world.change(name, |one| one.power = Power::Off);
            return refused(
                "start",
                &format!("The following errors occurred:\n{name}: shutdown called while starting"),
            );
        }
        _ => {}
    }
    wait_until_up(world, "start", name, false)
}

pub(crate) fn stop(world: &World, words: &[&str], fault: Option<Kind>) -> End {
    let settings = world.settings();
    let flags: &[&str] =
        if settings.is_at_least(14) { &["--force", "--cancel"] } else { &["--cancel"] };
    let names = plain(words, flags, &["--time"])?;
    if names.is_empty() {
        return wrong("a bare stop is for the primary instance");
    }
    let (instance, state) = one(world, "stop", &names)?;
    let name = instance.name.as_str();
    said::spin(&format!("Stopping {name}"));
    if fault == Some(Kind::Lies) {
        return Ok(());
    }
    if words.contains(&"--force") {
        switch_off(world, name);
        return Ok(());
    }
    if words.contains(&"--cancel") {
        world.change(name, |one| one.stops_at = None);
        return Ok(());
    }
    match state {
        State::Stopped => return Ok(()),
        State::Suspended if settings.is_at_least(14) => {
            return refused(
                "stop",
                &format!(
                    "Cannot shut down suspended instance {name}.\nUse --force to power it off."
                ),
            );
        }
        State::Suspended => return Ok(()),
        State::Starting | State::Unknown if settings.is_at_least(14) => {
            return refused(
                "stop",
                &format!(
                    "Cannot shut down instance {name} while starting.\nUse --force to power it off."
                ),
            );
        }
        _ => {}
    }
    shut_down(world, "stop", name)
}

/// Asks the guest to end, and keeps the daemon busy until it has, or the daemon gives up.
fn shut_down(world: &World, command: &str, name: &str) -> End {
    let settings = world.settings();
    let _busy = world.main_thread();
    if settings.deaf {
        pause(settings.stop_limit_ms);
        // Before 1.14 all is said to be well.
        return if settings.is_at_least(14) {
            refused(
                command,
                &format!(
                    "The QEMU process did not finish within {} milliseconds after being shutdown",
                    settings.stop_limit_ms
                ),
            )
        } else {
            Ok(())
        };
    }
    pause(settings.stop_ms);
    switch_off(world, name);
    Ok(())
}

fn switch_off(world: &World, name: &str) {
    world.change(name, |one| (one.power, one.stops_at, one.resumes) = (Power::Off, None, false));
    world.wait_for_end(name);
}

pub(crate) fn suspend(world: &World, words: &[&str]) -> End {
    let names = plain(words, &[], &[])?;
    let (instance, state) = one(world, "suspend", &names)?;
    said::spin(&format!("Suspending {}", instance.name));
    match state {
        State::Stopped | State::Suspended => {}
        State::Running | State::DelayedShutdown => {
            world.change(&instance.name, |one| one.power = Power::Suspended);
        }
        _ => return refused("suspend", "cannot suspend instance while starting"),
    }
    Ok(())
}

pub(crate) fn delete(world: &World, words: &[&str], fault: Option<Kind>) -> End {
    let names = plain(words, &["--purge", "-p"], &[])?;
    let purge = words.contains(&"--purge");
    let settings = world.settings();
    let [target] = names.as_slice() else { return wrong("this stand-in deletes one at a time") };
    if let Some((name, snapshot)) = target.split_once('.') {
        let (_, _) = one(world, "delete", &[name])?;
        if !purge {
            return wrong(
                "[2026-11-21T01:51:55.130] [error] [client] Caught an unhandled exception: Snapshots can only be purged (after deletion, they cannot be recovered). Unable to query client for confirmation. Please use the `--purge` flag if that is what you want.\n",
            );
        }
        if world.change(name, |one| one.snapshots.remove(snapshot)).is_none() {
            return refused(
                "delete",
                &format!("The following errors occurred:\nsnapshot \"{target}\" does not exist"),
            );
        }
        let _ = std::fs::remove_dir_all(world.folder(name).join("snapshots").join(snapshot));
        return Ok(());
    }
    let (instance, state) = one(world, "delete", &names)?;
    let name = instance.name.as_str();
    if fault == Some(Kind::Lies) {
        return Ok(());
    }
    let is_up =
        matches!(state, State::Running | State::Starting | State::Unknown | State::DelayedShutdown);
    if is_up && !(purge && settings.is_at_least(14)) {
        shut_down(world, "delete", name)?;
    }
    if purge {
        world.change(name, |one| one.power = Power::Off);
        world.remove(name);
    } else {
        world.change(name, |one| one.deleted = true);
    }
    if let Some(Kind::FailsAfterwards(text)) = fault {
        return refused("delete", &text);
    }
    Ok(())
}

pub(crate) fn recover(world: &World, words: &[&str]) -> End {
    let (instance, _) = one(world, "recover", words)?;
    world.change(&instance.name, |one| one.deleted = false);
    Ok(())
}

/// Copies a directory with everything in it.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    if !from.exists() {
        return;
    }
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

pub(crate) fn snapshot(world: &World, words: &[&str]) -> End {
    let names = plain(words, &[], &["--name", "--comment"])?;
    let (instance, state) = one(world, "snapshot", &names)?;
    said::spin("Taking snapshot");
    if state != State::Stopped {
        return refused("snapshot", "Multipass can only take snapshots of stopped instances.");
    }
    let snapshot = value(words, &["--name"]).unwrap_or("snapshot1");
    if !is_name(snapshot) {
        return refused("snapshot", &format!("Invalid snapshot name: \"{snapshot}\"."));
    }
    if instance.snapshots.contains_key(snapshot) {
        return refused(
            "snapshot",
            &format!("Snapshot already exists: {}.{snapshot}", instance.name),
        );
    }
    let folder = world.folder(&instance.name);
    copy(&folder.join("disk"), &folder.join("snapshots").join(snapshot));
    let about = Snapshot { cpus: instance.cpus, memory: instance.memory, disk: instance.disk };
    world.change(&instance.name, |one| one.snapshots.insert(snapshot.to_owned(), about));
    println!("Snapshot taken: {}.{snapshot}", instance.name);
    Ok(())
}

pub(crate) fn restore(world: &World, words: &[&str]) -> End {
    let names = plain(words, &["--destructive"], &[])?;
    let (name, snapshot) = names.first().and_then(|word| word.split_once('.')).unwrap_or_default();
    let (instance, state) = one(world, "restore", &[name])?;
    if !words.contains(&"--destructive") {
        return wrong(
            "[2026-11-21T01:51:52.810] [error] [client] Caught an unhandled exception: Unable to query client for confirmation. Use '--destructive' to automatically discard current machine state.",
        );
    }
    let Some(about) = instance.snapshots.get(snapshot).cloned() else {
        return refused(
            "restore",
            &format!("The following errors occurred:\nNo such snapshot: {name}.{snapshot}"),
        );
    };
    if state != State::Stopped {
        return refused("restore", "Multipass can only restore snapshots of stopped instances.");
    }
    let folder = world.folder(name);
    copy(&folder.join("snapshots").join(snapshot), &folder.join("disk"));
    world.change(name, |one| {
        (one.cpus, one.memory, one.disk) = (about.cpus, about.memory, about.disk)
    });
    println!("Snapshot restored: {name}.{snapshot}");
    Ok(())
}

pub(crate) fn clone(world: &World, words: &[&str]) -> End {
    let names = plain(words, &[], &["--name"])?;
    let (source, state) = one(world, "clone", &names)?;
    said::spin(&format!("Cloning {}", source.name));
    if state != State::Stopped {
        return refused("clone", "Multipass can only clone stopped instances.");
    }
    let default = format!("{}-clone1", source.name);
    let name = value(words, &["--name"]).unwrap_or(&default);
    if world.get(name).is_some() {
        return refused("clone", &format!("instance \"{name}\" already exists"));
    }
    copy(&world.folder(&source.name).join("disk"), &world.folder(name).join("disk"));
    let _lock = world.lock("state.lock");
    world.put(&Instance {
        name: name.to_owned(),
        address: crate::guest::free_address(world),
        // So that cloud-init does its work once more, with what the source was told.
        instance_id: name.to_owned(),
        boots: 0,
        snapshots: std::collections::BTreeMap::new(),
        ..source
    });
    println!("Cloned from {} to {name}", names[0]);
    Ok(())
}
