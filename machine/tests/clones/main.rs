//! Machines that are resumed from a template of a real image: they are different machines, and stay who they are.
//! Needs root, QEMU, slirp4netns, ssh, and Debian's archive once.
#![cfg(feature = "qemu")]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use golem_vm_machine::network::Addressing;
use golem_vm_machine::vm::State;
use support::{LONG, Place};

/// How many are made at once.
const CLONES: usize = 20;

/// How many of them take their first steps at a time, as the provider has them: these are work, and two processors
/// that do twenty of them together do none well.
const AT_A_TIME: usize = 4;

/// What a clone says of itself: everything that no other one may say.
const WHO: &str = "cat /etc/machine-id /var/lib/dbus/machine-id; hostname; cut -d ' ' -f 1,2 /etc/ssh/ssh_host_*_key.pub; \
                   cat /sys/class/net/eth0/address; ip -4 -o addr show eth0 | awk '{print $4}'; \
                   head -c 32 /dev/urandom | base64; sudo sha256sum /var/lib/systemd/random-seed";

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clones_at_once_are_twenty_machines_and_the_template_is_as_it_was() {
    let place = Place::new().await;
    let template = place.template().await;
    assert!(template.is_unchanged().unwrap());
    let memory = place.templates.memory(&template).await.unwrap();

    let clones: Vec<_> =
        (0..CLONES).map(|number| place.clone_of(&template, &format!("clone-{number}"))).collect();
    let turns = tokio::sync::Semaphore::new(AT_A_TIME);
    let resumed = clones.iter().map(|clone| async {
        let _turn = turns.acquire().await.unwrap();
        clone.resume(&place, &template, &memory).await
    });
    let times = futures_util::future::join_all(resumed).await;
    let slowest = times.iter().map(|resumed| resumed.applied).max().unwrap();
    println!("resumed {CLONES} at once, the slowest in {slowest:?}; one of them: {:?}", times[0]);

    // Names can be asked for from the first moment on.
    let asked = clones[0].ssh(&place, "resolvectl dns eth0; ip -4 route show default").await;
    let Addressing { resolver, gateway, .. } = &clones[0].identity.network;
    assert!(asked.contains(&format!(": {resolver}\ndefault via {gateway} dev eth0")), "{asked}");

    let mut said: Vec<Vec<String>> = Vec::new();
    for clone in &clones {
        let who = clone.ssh(&place, WHO).await;
        let lines: Vec<_> = who.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 8, "{who}");
        assert_eq!(lines[0], clone.identity.machine_id.as_str());
        assert_eq!(lines[1], lines[0]);
        assert_eq!(lines[2], clone.identity.hostname);
        assert_eq!(lines[3], clone.identity.host_key.public);
        assert_eq!(lines[4], clone.identity.network.mac.to_string());
        assert!(lines[5].starts_with(&clone.identity.network.guest.to_string()), "{who}");
        said.push(lines);
    }
    for line in (0..8).filter(|line| *line != 1) {
        let different: BTreeSet<_> = said.iter().map(|lines| &lines[line]).collect();
        assert_eq!(different.len(), CLONES, "line {line}: {said:?}");
    }
    let pss: Vec<_> = clones.iter().map(|clone| clone.pss_mib(&place)).collect();
    println!("memory of each of {CLONES} (PSS, MiB): {pss:?}, {} in all", pss.iter().sum::<u64>());
    // One of them uses all of its memory, most of which the template has never touched: its guest does something about
    // that, and the host does not.
    let _ = clones[0].try_ssh(&place, &clones[0].key, "tail /dev/zero").await;
    assert_eq!(clones[0].ssh(&place, "hostname").await.trim(), clones[0].identity.hostname);
    assert!(template.is_unchanged().unwrap());
    for clone in &clones {
        place.machines.destroy(&clone.name).await.unwrap();
    }
    assert!(template.is_unchanged().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_stays_who_it_is_over_a_reboot_and_keys_that_change_hold() {
    let place = Place::new().await;
    let template = place.template().await;
    let memory = place.templates.memory(&template).await.unwrap();
    let mut clone = place.clone_of(&template, "clone");
    clone.resume(&place, &template, &memory).await;
    // Everything but what is random.
    let who = |said: String| said.lines().take(6).map(str::to_owned).collect::<Vec<_>>();
    let before = who(clone.ssh(&place, WHO).await);

    // The disk is larger than the template's.
    assert!(place.machines.grow_file_system(&clone.name, LONG).await.unwrap());
    assert!(place.machines.notify(&clone.name, "a line").await.unwrap());
    let size = clone.ssh(&place, "df --output=size -B1M / | tail -n 1").await;
    assert!(size.trim().parse::<u64>().unwrap() > 3500, "{size}");
    // It is as it should be: nothing failed, names are found.
    let state = clone.ssh(&place, "systemctl --failed --no-legend; sudo -n true; getent hosts \"$(hostname)\" >/dev/null && echo ok").await;
    assert_eq!(state.trim(), "ok");
    // What comes some time after the resume has come, and its network is still as it was.
    let settled = "systemctl is-active systemd-timesyncd; networkctl --no-legend list eth0; resolvectl dns eth0";
    let wanted = |said: &str| said.starts_with("active\n") && said.contains("routable configured");
    let settled = clone.ssh_until(&place, settled, wanted).await;
    let resolver = format!(": {}", clone.identity.network.resolver);
    assert!(settled.contains(&resolver), "{settled}");

    // Another key takes the first one's place, now and at the next boot.
    let (old, new) = (clone.key.clone(), place.new_key("new"));
    assert!(place.machines.authorize(&clone.name, vec![new.public.clone()]).await.unwrap());
    assert!(clone.try_ssh(&place, &old, "true").await.is_err());
    clone.key = new;
    let boot = clone.ssh(&place, "cat /proc/sys/kernel/random/boot_id").await;
    let _ = clone.try_ssh(&place, &clone.key, "sudo systemctl reboot").await;
    let again =
        clone.ssh_until(&place, "cat /proc/sys/kernel/random/boot_id", |said| said != boot).await;
    assert_ne!(again, boot);
    assert_eq!(who(clone.ssh(&place, WHO).await), before);
    assert!(clone.try_ssh(&place, &old, "true").await.is_err());

    // Switched off and on: it boots from its own disk.
    place.machines.stop(&clone.name, LONG).await.unwrap();
    place.machines.start(&clone.name).await.unwrap();
    clone.ssh_until(&place, "true", |_| true).await;
    assert_eq!(who(clone.ssh(&place, WHO).await), before);
    place.machines.destroy(&clone.name).await.unwrap();
}

/// Its disk lies on the template's, and is not what the template's memory knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_resumed_machine_is_booted_from_its_own_disk() {
    let place = Place::new().await;
    let template = place.template().await;
    let memory = place.templates.memory(&template).await.unwrap();
    let clone = place.clone_of(&template, "clone");
    clone.resume(&place, &template, &memory).await;
    clone.ssh(&place, "echo mine > kept; sync").await;

    let copy = place.clone_of(&template, "copy");
    let spec = copy.spec(&place, &template);
    place.machines.ensure_copy(&clone.name, &spec).await.unwrap();
    let refused = place.machines.resume(&copy.name, &template, &memory).await.unwrap_err();
    assert!(refused.to_string().contains("is a copy of another machine's"), "{refused}");
    place.machines.start(&copy.name).await.unwrap();
    assert_eq!(copy.ssh_until(&place, "cat kept", |_| true).await.trim(), "mine");
    assert_eq!(copy.ssh(&place, "hostname").await.trim(), copy.identity.hostname);
    for name in [&copy.name, &clone.name] {
        place.machines.destroy(name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_cut_off_while_it_was_nobody_is_made_anew() {
    let place = Place::new().await;
    let template = place.template().await;
    let memory = place.templates.memory(&template).await.unwrap();
    let clone = place.clone_of(&template, "clone");
    clone.ensure(&place, &template).await;
    // Given up in the middle, as by a kill: nothing after the last await is done.
    let resuming = place.machines.resume(&clone.name, &template, &memory);
    let cut_off = tokio::time::timeout(Duration::from_millis(150), resuming).await;
    if cut_off.is_err() {
        let found = place.machines.observe(&clone.name).await.unwrap();
        assert!(matches!(found, State::Stopped(_)), "{found:?}");
        clone.resume(&place, &template, &memory).await;
    }
    assert_eq!(clone.ssh(&place, "hostname").await.trim(), clone.identity.hostname);
    place.machines.destroy(&clone.name).await.unwrap();
}
