//! A guest: processes in namespaces of their own, with an address on a bridge, directories that stay, and sshd.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::inside::host_key;
use crate::world::{Instance, Power, World, now, pause};

/// Makes the guest's world, and becomes its sshd. `$1` its directory, `$2` its host name, `$3` address, `$4` gateway.
const BOOT: &str = r#"
set -eu
disk=$1/disk
hostname "$2"
for place in etc home var; do
    mkdir -p "/$place"
    mount --bind "$disk/$place" "/$place"
done
mount --bind "$1/shims" /usr/local/bin
mount --bind "$1" "$1"
mount -o remount,bind,ro / 2>/dev/null || true
mount -t tmpfs guest /run
mount -t tmpfs guest /root
mkdir -p /run/sshd
mount -t proc guest /proc
mount --bind "$1/meminfo" /proc/meminfo
ip link set lo up
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip link set eth0 up
ip addr add "$3/24" dev eth0
ip route add default via "$4"
cd /
sh /var/lib/bootcmd || true
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e
"#;

/// What a guest has instead of what would be about its host.
const SHIMS: [(&str, &str); 9] = [
    ("sudo", "while [ \"${1#-}\" != \"${1-}\" ]; do shift; done\nexec env GOLEM_ROOT=1 \"$@\""),
    ("whoami", "[ -n \"${GOLEM_ROOT-}\" ] && echo root || echo ubuntu"),
    ("poweroff", "exec touch DIRECTORY/poweroff"),
    ("reboot", "exec touch DIRECTORY/reboot"),
    ("systemctl", "case $1 in poweroff) exec touch DIRECTORY/poweroff ;; esac\nexit 0"),
    (
        "systemd-machine-id-setup",
        "od -An -N16 -tx1 /dev/urandom | tr -d ' \\n' >/etc/machine-id; echo >>/etc/machine-id",
    ),
    ("hostnamectl", "[ \"$1\" = set-hostname ] && exec hostname \"$2\""),
    ("nproc", "cat DIRECTORY/cpus"),
    (
        "df",
        "echo 'Filesystem 1M-blocks Used Available Use% Mounted on'; echo \"/dev/vda1 $(cat DIRECTORY/disk_mib) 500 1000 33% /\"",
    ),
];

/// The data in user data. It is YAML on one line, in the form of JSON but for words without quotes.
pub(crate) fn parsed(user_data: &str) -> serde_json::Value {
    let body: String =
        user_data.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let mut json = String::new();
    let mut rest = body.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                json.push(c);
                while let Some(inner) = rest.next() {
                    json.push(inner);
                    match inner {
                        '\\' => json.extend(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '}' | '[' | ']' | ',' | ':' => json.push(c),
            c if c.is_whitespace() => json.push(c),
            first => {
                let mut word = first.to_string();
                while let Some(next) = rest.next_if(|next| !matches!(next, ',' | ']' | '}')) {
                    word.push(next);
                }
                let is_plain = serde_json::from_str::<serde_json::Value>(&word).is_ok();
                json.push_str(&if is_plain { word } else { format!("\"{}\"", word.trim()) });
            }
        }
    }
    serde_json::from_str(&json).unwrap_or_default()
}

/// An address that no other instance has; the bridge's own ends in 1.
pub(crate) fn free_address(world: &World) -> String {
    let entries = fs::read_dir(world.directory.join("instances")).unwrap();
    let taken: BTreeSet<String> = entries
        .filter_map(|entry| Some(world.get(entry.unwrap().file_name().to_str()?)?.address))
        .collect();
    let mut all = (5..250).map(|last| format!("{}.{last}", network(world)));
    all.find(|one| !taken.contains(one)).unwrap()
}

/// The first three numbers of its network: another one for each directory.
fn network(world: &World) -> String {
    let text = world.directory.display().to_string();
    let hash = text.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("10.{}.{}", 100 + hash % 100, (hash >> 8) % 250)
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn make_bridge(world: &World) {
    let bridge = world.settings().bridge;
    let _lock = world.lock("bridge.lock");
    if !run("ip", &["link", "show", &bridge]) {
        assert!(run("ip", &["link", "add", &bridge, "type", "bridge"]));
    }
    let address = format!("{}.1/24", network(world));
    let _ = run("ip", &["addr", "replace", &address, "dev", &bridge]);
    assert!(run("ip", &["link", "set", &bridge, "up"]));
    fs::write(world.directory.join("bridge"), &bridge).unwrap();
}

pub(crate) fn remove_bridge(world: &World) {
    // One of another name may be a real Multipass's.
    if let Ok(bridge) = fs::read_to_string(world.directory.join("bridge"))
        && bridge.starts_with("mps")
    {
        let _ = run("ip", &["link", "del", &bridge]);
    }
}

/// Looks after one instance from one start to its end.
pub(crate) fn work(world: &World, name: &str, generation: u64) {
    // Nobody else looks after it, and it is known when it has ended.
    let _lock = world.lock(&format!("instances/{name}/work.lock"));
    let current = || world.get(name).filter(|one| one.generation == generation);
    let Some(instance) = current() else { return };
    // Boots as long as it was said.
    while now() + 50 < instance.running_at {
        if current().is_none_or(|one| one.power == Power::Off) {
            return;
        }
        pause(10);
    }
    make_bridge(world);
    let mut child = boot(world, &instance);
    let mut is_frozen = false;
    loop {
        let folder = world.folder(name);
        if folder.join("reboot").exists() {
            let _ = fs::remove_file(folder.join("reboot"));
            end(&mut child);
            child = boot(world, &instance);
        }
        let power = current().map_or(Power::Off, |one| one.power);
        if power == Power::Off || child.try_wait().unwrap().is_some() {
            break;
        }
        if (power == Power::Suspended) != is_frozen {
            is_frozen = power == Power::Suspended;
            signal_all(&child, if is_frozen { "-STOP" } else { "-CONT" });
        }
        pause(20);
    }
    if is_frozen {
        signal_all(&child, "-CONT");
    }
    end(&mut child);
    let _ = fs::remove_file(world.folder(name).join("guest.pid"));
    if let Some(instance) = current() {
        world.change(&instance.name, |one| one.power = Power::Off);
    }
}

/// The process that all others of the guest end with.
fn inner(child: &Child) -> Option<String> {
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let children = fs::read_to_string(children).ok()?;
    children.split_whitespace().next().map(str::to_owned)
}

fn end(child: &mut Child) {
    if let Some(inner) = inner(child) {
        let _ = run("kill", &["-KILL", &inner]);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Signals all processes of the guest.
fn signal_all(child: &Child, signal: &str) {
    let Some(inner) = inner(child) else { return };
    let Ok(own) = fs::read_link(format!("/proc/{inner}/ns/pid")) else { return };
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .filter(|name| name.parse::<u32>().is_ok())
            .map(str::to_owned)
        else {
            continue;
        };
        if fs::read_link(entry.path().join("ns/pid")).is_ok_and(|other| other == own) {
            let _ = run("kill", &[signal, &pid]);
        }
    }
}

fn boot(world: &World, instance: &Instance) -> Child {
    let folder = world.folder(&instance.name);
    let disk = folder.join("disk");
    if !disk.exists() {
        install(&disk);
    }
    first_boot(&disk, instance);
    let shims = folder.join("shims");
    fs::create_dir_all(&shims).unwrap();
    for (name, script) in SHIMS {
        let script = script.replace("DIRECTORY", &folder.display().to_string());
        put(&shims.join(name), &format!("#!/bin/sh\n{script}\n"), 0o755);
    }
    put(&folder.join("cpus"), &format!("{}\n", instance.cpus), 0o644);
    put(&folder.join("disk_mib"), &format!("{}\n", instance.disk >> 20), 0o644);
    put(
        &folder.join("meminfo"),
        &format!("MemTotal: {} kB\n", instance.memory / 1024 / 100 * 94),
        0o644,
    );
    let hostname = fs::read_to_string(disk.join("etc/hostname")).unwrap();
    let gateway = format!("{}.1", network(world));
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--mount",
        "--uts",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
        "--",
    ]);
    command.args(["/bin/sh", "-c", BOOT, "guest"]).arg(&folder);
    command.args([hostname.trim(), &instance.address, &gateway]).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    // Its network, once it has one of its own.
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let began = now();
    let pid = loop {
        let other = inner(&child);
        if let Some(pid) = other
            && fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other != own)
        {
            break pid;
        }
        assert!(
            now() < began + 10_000 && child.try_wait().unwrap().is_none(),
            "the guest does not come up"
        );
        pause(5);
    };
    let last = instance.address.rsplit('.').next().unwrap();
    let outside = format!(
        "mp{}-{last}",
        world
            .directory
            .display()
            .to_string()
            .bytes()
            .fold(7_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte))
            % 10_000_000
    );
    let _ = run("ip", &["link", "del", &outside]);
    let mac =
        format!("52:54:00:00:{:02x}:{:02x}", instance.generation % 2, last.parse::<u8>().unwrap());
    let mac = mac.replace("00:01:", "00:00:");
    assert!(run(
        "ip",
        &[
            "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "address", &mac,
            "netns", &pid
        ]
    ));
    assert!(run("ip", &["link", "set", &outside, "master", &world.settings().bridge, "up"]));
    put(&folder.join("guest.pid"), &pid, 0o644);
    child
}

fn put(path: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What an image has: this host's own `/etc` with a user and an sshd of its own.
fn install(disk: &Path) {
    for place in ["home/ubuntu", "var/lib/systemd", "var/lib/dbus", "var/tmp", "var/log"] {
        fs::create_dir_all(disk.join(place)).unwrap();
    }
    assert!(run("cp", &["-a", "/etc", &disk.join("etc").display().to_string()]));
    let etc = disk.join("etc");
    // All that it may do is its own, so its user may as well have all rights.
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let sshd = if passwd.contains("\nsshd:") {
        ""
    } else {
        "sshd:x:22:65534::/run/sshd:/usr/sbin/nologin\n"
    };
    put(
        &etc.join("passwd"),
        &format!("ubuntu:x:0:0::/home/ubuntu:/bin/bash\n{passwd}{sshd}"),
        0o644,
    );
    put(
        &etc.join("shadow"),
        "ubuntu:*:19000:0:99999:7:::\nroot:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n",
        0o600,
    );
    let _ = fs::remove_dir_all(etc.join("ssh"));
    put(
        &etc.join("ssh/sshd_config"),
        "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM no\nPrintMotd no\nAcceptEnv LANG LC_*\nSubsystem sftp internal-sftp\n",
        0o644,
    );
    fs::create_dir_all(etc.join("ssh/sshd_config.d")).unwrap();
    put(&etc.join("machine-id"), "", 0o444);
}

/// What cloud-init does, once for each instance id.
fn first_boot(disk: &Path, instance: &Instance) {
    let mark = disk.join("var/lib/cloud-instance");
    if fs::read_to_string(&mark).is_ok_and(|done| done == instance.instance_id) {
        return;
    }
    let data = parsed(&instance.user_data);
    if !disk.join("etc/cloud/cloud.cfg.d/99-golem-clone.cfg").exists() {
        put(&disk.join("etc/hostname"), data["hostname"].as_str().unwrap_or(&instance.name), 0o644);
    }
    if data["ssh_keys"].is_object() {
        put(
            &disk.join("etc/ssh/ssh_host_ed25519_key"),
            &host_key(&instance.user_data, "ed25519_private"),
            0o600,
        );
        put(
            &disk.join("etc/ssh/ssh_host_ed25519_key.pub"),
            &format!("{}\n", host_key(&instance.user_data, "ed25519_public")),
            0o644,
        );
    } else {
        let key = disk.join("etc/ssh/ssh_host_ed25519_key").display().to_string();
        let _ = run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    }
    let mut script = String::new();
    for command in data["bootcmd"].as_array().into_iter().flatten() {
        let words: Vec<String> = match command.as_array() {
            Some(words) => {
                let text = |word: &serde_json::Value| {
                    word.as_str().unwrap_or_default().replace('\'', "'\\''")
                };
                words.iter().map(|word| format!("'{}'", text(word))).collect()
            }
            None => vec![command.as_str().unwrap_or_default().to_owned()],
        };
        script.push_str(&format!("{}\n", words.join(" ")));
    }
    put(&disk.join("var/lib/bootcmd"), &script, 0o700);
    for file in data["write_files"].as_array().into_iter().flatten() {
        let path = file["path"].as_str().unwrap().trim_start_matches('/');
        let mode = file["permissions"]
            .as_str()
            .map_or(0o644, |text| u32::from_str_radix(text, 8).unwrap());
        put(&disk.join(path), file["content"].as_str().unwrap(), mode);
    }
    if fs::read_to_string(disk.join("etc/machine-id")).unwrap_or_default().trim().is_empty() {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().replace('-', "");
        let _ = fs::remove_file(disk.join("etc/machine-id"));
        put(&disk.join("etc/machine-id"), &id, 0o444);
    }
    put(&mark, &instance.instance_id, 0o644);
}
