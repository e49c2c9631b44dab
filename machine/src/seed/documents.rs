//! The files of a seed.

use data_encoding::BASE64;
use serde_json::json;

use super::identity::{Identity, USER};
use super::user_data::{Node, UserData};
use super::{AUTHORIZED_KEYS, LABEL};

/// What every boot runs, before sshd starts: cloud-init's own modules set keys at a machine's first boot only.
const BOOT: &str = include_str!("boot.sh");

/// All files: name and content.
pub(super) fn all(
    identity: &Identity,
    user_data: Option<&UserData>,
    random: &[u8],
) -> Vec<(&'static str, Vec<u8>)> {
    let document = |document: &Node| format!("{}\n", document.to_yaml()).into_bytes();
    let user = user_data
        .map_or_else(|| ours(identity, random), |theirs| theirs.merged(ours(identity, random)));
    vec![
        ("meta-data", document(&meta_data(identity))),
        ("network-config", document(&network_config(identity))),
        ("user-data", [b"#cloud-config\n".to_vec(), document(&user)].concat()),
        // Not used by us. Where it is missing, cloud-init complains in its log.
        ("vendor-data", b"#cloud-config\n{}\n".to_vec()),
        (AUTHORIZED_KEYS, identity.key_lines().into_bytes()),
        ("boot.sh", boot(identity).into_bytes()),
    ]
}

fn meta_data(identity: &Identity) -> Node {
    json!({ "instance-id": identity.instance_id, "local-hostname": identity.hostname }).into()
}

/// Version 2 of cloud-init's network configuration. The card is found by its address, whatever the kernel calls it.
fn network_config(identity: &Identity) -> Node {
    let network = &identity.network;
    json!({
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": { "macaddress": network.mac.to_string() },
                "set-name": "eth0",
                "dhcp4": false,
                "dhcp6": false,
                "accept-ra": false,
                // No IPv6 leads out of a machine's network.
                "link-local": [],
                "addresses": [format!("{}/{}", network.guest, network.prefix)],
                "routes": [{ "to": "0.0.0.0/0", "via": network.gateway.to_string() }],
                "nameservers": { "addresses": [network.resolver.to_string()] },
            },
        },
    })
    .into()
}

/// The cloud-config that every machine has.
fn ours(identity: &Identity, random: &[u8]) -> Node {
    let mount = format!(
        "m=/run/golem-seed; mkdir -p -m 0700 $m && mount -r -t iso9660 \"$(blkid -L {LABEL})\" $m \
         && {{ sh $m/boot.sh; umount $m; }}"
    );
    json!({
        "users": [{
            "name": identity.user,
            "gecos": "",
            "groups": ["adm", "sudo"],
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": true,
        }],
        "hostname": identity.hostname,
        "preserve_hostname": false,
        "manage_etc_hosts": true,
        "disable_root": true,
        "ssh_pwauth": false,
        "ssh_deletekeys": true,
        "ssh_genkeytypes": [],
        // Its public half is derived from it: one that is given here can be read by root only afterwards.
        "ssh_keys": { "ed25519_private": identity.host_key.private },
        "ssh": { "emit_keys_to_console": false },
        "growpart": { "mode": "auto", "devices": ["/"], "ignore_growroot_disabled": true },
        "resize_rootfs": true,
        "random_seed": { "file": "/dev/urandom", "encoding": "base64", "data": BASE64.encode(random) },
        "bootcmd": [["sh", "-c", mount]],
    })
    .into()
}

fn boot(identity: &Identity) -> String {
    debug_assert!(!identity.user.contains('\''), "a name of {USER}'s kind");
    BOOT.replace("@USER@", &identity.user).replace("@MACHINE_ID@", identity.machine_id.as_str())
}
