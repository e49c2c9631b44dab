//! `exec`: commands inside a guest.

use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::client::{End, refused};
use crate::commands;
use crate::said;
use crate::world::{Instance, State, World, now, pause};

pub(crate) fn exec(world: &World, words: &[&str]) -> End {
    let words = words.strip_prefix(&["-n"]).unwrap_or(words);
    let Some((name, rest)) = words.split_first() else { return refused("exec", "no name") };
    let command = rest.strip_prefix(&["--"]).unwrap_or(rest);
    let state = match world.listed(name) {
        None => {
            return refused(
                "exec",
                &format!("The following errors occurred:\ninstance \"{name}\" does not exist"),
            );
        }
        Some((_, state)) => state,
    };
    match state {
        State::Deleted => {
            return refused(
                "exec",
                &format!("The following errors occurred:\ninstance \"{name}\" is deleted"),
            );
        }
        State::Unknown => return refused("exec", "Cannot retrieve credentials in unknown state"),
        State::Running | State::DelayedShutdown => {}
        // It starts what does not run, and says so among what the command says.
        State::Stopped | State::Suspended | State::Starting => {
            world.mark("exec has started an instance");
            said::spin(&format!("Starting {name}"));
            commands::start(world, &[name], None)?;
        }
    }
    let (instance, _) = world.listed(name).unwrap();
    let settings = world.settings();
    if settings.no_way_in {
        return refused(
            "exec",
            &format!("ssh connection failed: 'Timeout connecting to {}'", instance.address),
        );
    }
    if settings.guests {
        in_guest(world, &instance, command)
    } else {
        as_if(world, &instance, command)
    }
}

/// What a guest would answer to the provider.
fn as_if(world: &World, instance: &Instance, command: &[&str]) -> End {
    let folder = world.folder(&instance.name);
    let script = match command {
        ["cat", path] if path.ends_with("ssh_host_ed25519_key.pub") => {
            let own = folder.join("host_key.pub");
            match std::fs::read_to_string(own) {
                Ok(key) => print!("{key}"),
                Err(_) => println!("{}", host_key(&instance.user_data, "ed25519_public")),
            }
            return Ok(());
        }
        ["sudo", "-n", "sh", "-c", script] => (*script).to_owned(),
        ["sudo", "-n", "sh", "-s"] => String::new(),
        _ => return Err((127, "not found\n".to_owned())),
    };
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    if script.contains("poweroff") {
        let settings = world.settings();
        if !settings.deaf {
            world.change(&instance.name, |one| one.stops_at = Some(now() + settings.stop_ms));
        }
    } else if script.contains("golem_authorized_keys") {
        std::fs::write(folder.join("keys"), &input).unwrap();
    } else if input.contains("END_OF_KEY") {
        let public = input.lines().find_map(|line| line.strip_prefix("echo 'ssh-ed25519 "));
        let public = public.unwrap().split('\'').next().unwrap();
        std::fs::write(folder.join("host_key.pub"), format!("ssh-ed25519 {public}\n")).unwrap();
    } else {
        std::fs::write(folder.join("said"), &input).unwrap();
    }
    println!("golem-done");
    Ok(())
}

/// What user data says of the host key; nothing when it says nothing.
pub(crate) fn host_key(user_data: &str, half: &str) -> String {
    let key = &crate::guest::parsed(user_data)["ssh_keys"][half];
    key.as_str().unwrap_or("ssh-ed25519 AAAAnone").to_owned()
}

/// Runs it there, as the user with all rights that a guest has.
fn in_guest(world: &World, instance: &Instance, command: &[&str]) -> End {
    let began = now();
    let pid = loop {
        match std::fs::read_to_string(world.folder(&instance.name).join("guest.pid")) {
            Ok(pid) => break pid,
            Err(_) if now() < began + 5000 => pause(20),
            Err(_) => {
                return refused(
                    "exec",
                    &format!("ssh connection failed: 'Timeout connecting to {}'", instance.address),
                );
            }
        }
    };
    let mut inside = Command::new("nsenter");
    inside.args(["--net", "--mount", "--uts", "--pid", "--target", pid.trim(), "--"]);
    inside.args([
        "env",
        "-i",
        "HOME=/home/ubuntu",
        "USER=ubuntu",
        "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    ]);
    inside.args(["sh", "-c", "cd /home/ubuntu && exec \"$@\"", "sh"]);
    inside.args(command).stdin(Stdio::inherit());
    match inside.status().unwrap().code() {
        Some(0) => Ok(()),
        code => Err((u8::try_from(code.unwrap_or(255)).unwrap_or(255), String::new())),
    }
}
