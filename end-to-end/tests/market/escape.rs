//! What root in a VM can and can't do.

use golem_vm_end_to_end::{
    Engine, Market, Outcome, PrivateEngine, ProviderOptions, Requestor, eventually,
};
use serde_json::json;

/// Commands that an ordinary server is used with; each as `ubuntu`, each has to work.
const WORKS: &[(&str, &str)] = &[
    (
        "apt with a package that has a service",
        "sudo apt-get -qq update && sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends nginx-light",
    ),
    ("its service runs", "sudo service nginx restart && curl -sf http://127.0.0.1/ >/dev/null"),
    ("it can be ended", "sudo pkill -x nginx"),
    ("sudo", "test $(sudo id -u) = 0"),
    ("su", "sudo su - nobody -s /bin/sh -c 'test $(id -un) = nobody'"),
    (
        "useradd, chpasswd, userdel",
        "sudo useradd -m guest && echo guest:pw | sudo chpasswd && sudo userdel -r guest",
    ),
    ("chown", "touch f && sudo chown nobody:nogroup f && test $(stat -c %U f) = nobody"),
    (
        "a setgid bit for a group that one is not in",
        "sudo install -d -o ubuntu -g games d && sudo chmod 2775 d && test $(stat -c %a d) = 2775",
    ),
    ("a setuid program", "sudo install -m 4755 /bin/true t && test $(stat -c %a t) = 4755"),
    (
        "low ports",
        "sudo timeout 5 perl -MSocket -e 'socket(S,PF_INET,SOCK_STREAM,0); bind(S,sockaddr_in(81,INADDR_ANY)) or die'",
    ),
    ("ping of itself", "ping -c 1 -W 5 127.0.0.1"),
    ("another user's process", "sudo -u nobody sleep 60 & sleep 0.5; sudo pkill -u nobody sleep"),
    (
        "a file in every top directory",
        "for d in /etc /opt /root /srv /usr /var /run /tmp; do sudo touch $d/x && sudo rm $d/x || exit 1; done",
    ),
];

/// What has to be refused to root. Each is a shell line that fails if it is refused.
const REFUSED: &[(&str, &str)] = &[
    (
        "raise its memory limit",
        "cd /sys/fs/cgroup && for f in memory/memory.limit_in_bytes memory.max; do [ -e $f ] && echo 8589934592 >$f && exit 0; done; exit 1",
    ),
    (
        "write any file of a control group",
        "find /sys/fs/cgroup -type f '(' -fstype cgroup -o -fstype cgroup2 ')' | while read -r f; do cat $f >/tmp/v 2>/dev/null && cat /tmp/v >$f 2>/dev/null && echo $f && break; done | grep .",
    ),
    (
        "make a control group",
        "mkdir $(find /sys/fs/cgroup -type d '(' -fstype cgroup -o -fstype cgroup2 ')' | head -n 1)/sub",
    ),
    ("mount something", "mount -t tmpfs none /mnt"),
    ("mount something over the network or a disk", "mount /dev/vda /mnt || mount /dev/sda1 /mnt"),
    ("bind a directory elsewhere", "mount --bind /etc /mnt"),
    ("make a user namespace", "unshare --user true"),
    ("make a mount namespace", "unshare --mount true"),
    ("enter its own first process's namespaces", "nsenter --target 1 --mount true"),
    ("load a module", "perl -e '$r = syscall(313, 0, \"\", 0); exit($! == 1 || $! == 38 ? 1 : 0)'"),
    ("read the kernel's log", "dmesg"),
    ("reach sysrq", "echo h >/proc/sysrq-trigger"),
    (
        "change a setting of the kernel",
        "echo 1 >/proc/sys/kernel/sysrq || echo x >/proc/sys/kernel/core_pattern",
    ),
    ("change its network's settings", "ip link add x type dummy || ip link set eth0 mtu 1000"),
    ("open a raw socket", "perl -MSocket -e 'socket(S, PF_INET, SOCK_RAW, 1) or exit 1'"),
    ("open a packet socket", "perl -e 'socket(S, 17, 3, 768) or exit 1'"),
    ("make a device", "mknod /tmp/disk b 254 0"),
    ("read memory", "head -c 1 /dev/mem || head -c 1 /dev/kmem"),
    ("read the kernel's core", "head -c 4096 /proc/kcore | grep -q ."),
    (
        "see a process of the host",
        "ls -d /proc/[0-9]* | xargs -I{} cat {}/comm 2>/dev/null | grep -E '^(dockerd|containerd|golem-provider|golem-forwarder)$'",
    ),
    (
        "reach the engine",
        "ls /var/run/docker.sock /run/docker.sock /run/containerd/containerd.sock 2>/dev/null | grep .",
    ),
    ("set the clock", "date -s '2001-01-01'"),
    (
        "reboot the host",
        "perl -e '$r = syscall(169, 0xfee1dead, 672274793, 0x01234567); exit($r == 0 ? 0 : 1)'",
    ),
    ("give a program a capability", "cp /bin/true /tmp/c && setcap cap_net_raw+ep /tmp/c"),
    ("use bpf", "perl -e '$r = syscall(321, 0, 0, 0); exit($! == 1 || $! == 38 ? 1 : 0)'"),
    ("use the kernel's key rings", "perl -e '$r = syscall(250, 0, -3, 1); exit($r < 0 ? 1 : 0)'"),
    (
        "open a file by its handle",
        "perl -e '$r = syscall(304, 0, 0, 0); exit($! == 1 || $! == 38 ? 1 : 0)'",
    ),
    (
        "write to what the host shows of itself",
        "find /sys -xdev -type f -writable 2>/dev/null | while read -r f; do : >>\"$f\" && echo \"$f\" && break; done 2>/dev/null | grep .",
    ),
];

/// What of it works with all capabilities and without a system call filter, and harms nobody: so the
/// lines above do what they say, and fail for the right reason.
const CONTROLS: &[&str] = &[
    "mount something",
    "bind a directory elsewhere",
    "make a user namespace",
    "make a mount namespace",
    "enter its own first process's namespaces",
    "read the kernel's log",
    "open a raw socket",
    "open a packet socket",
    "make a device",
    "give a program a capability",
];

/// A script that tries each line, and says what came of it.
fn script(table: &[(&str, &str)]) -> String {
    let mut script = String::new();
    // The numbers of system calls are this architecture's.
    let known = |line: &str| cfg!(target_arch = "x86_64") || !line.contains("syscall(");
    for (what, line) in table.iter().filter(|(_, line)| known(line)) {
        let (what, line) = (what.replace('\'', ""), line.replace('\'', r"'\''"));
        script.push_str(&format!(
            "if timeout 120 bash -c '{line}' >/tmp/out.$$ 2>&1 </dev/null; then echo 'done: {what}'; \
             else echo 'refused: {what}:' $(tail -n 2 /tmp/out.$$); fi\n"
        ));
    }
    script + "rm -f /tmp/out.$$\n"
}

/// The lines of a script's output that do not begin with `expected`.
fn unexpected(output: &str, expected: &str) -> Vec<String> {
    assert!(output.lines().count() > 5, "{output}");
    let wrong = output.lines().filter(|line| !line.starts_with(expected));
    wrong.map(str::to_owned).collect()
}

fn in_box(requestor: &Requestor, shell: &str, script: &str) -> String {
    let mut command = requestor.command(&["vm", "ssh", "box", "--", shell]);
    Outcome::of(&mut command, script.as_bytes()).done().stdout
}

fn all_works(requestor: &Requestor, table: &[(&str, &str)]) {
    let wrong = unexpected(&in_box(requestor, "bash", &script(table)), "done: ");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn all_is_refused(requestor: &Requestor) {
    let wrong = unexpected(&in_box(requestor, "sudo bash", &script(REFUSED)), "refused: ");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_vm_is_an_ordinary_server_and_no_way_to_the_host() {
    let mut market = Market::with_providers(&[ProviderOptions::roomy()]);
    let requestor = market.requestor();
    requestor.rent("box");
    all_is_refused(&requestor);
    let controls: Vec<_> =
        REFUSED.iter().filter(|(what, _)| CONTROLS.contains(what)).copied().collect();
    assert_eq!(controls.len(), CONTROLS.len());
    let wrong = unexpected(&with_all_rights(market.provider().id(), &script(&controls)), "done: ");
    assert!(wrong.is_empty(), "these fail whoever tries them: {wrong:#?}");
    all_works(&requestor, WORKS);
    market.close();
}

/// Capabilities with which the controls work. (An engine in a container can't give all that there are.)
const RIGHTS: [&str; 6] = ["SYS_ADMIN", "SYSLOG", "NET_RAW", "MKNOD", "SETFCAP", "SYS_PTRACE"];

/// Runs a script as root in a container that has these capabilities and may make all system calls.
fn with_all_rights(provider: &str, script: &str) -> String {
    let engine = Engine::shared();
    let name = format!("golem-{}-control", &provider[..12]);
    let body = json!({
        "Image": format!("golem/debian-12:{}", &provider[..12]),
        "Entrypoint": ["/bin/bash", "-c", script],
        "Labels": { "golem.provider": provider },
        "HostConfig": {
            "CapAdd": RIGHTS, "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "NetworkMode": "none", "LogConfig": { "Type": "json-file" },
        },
    });
    engine.json("POST", &format!("/containers/create?name={name}"), &body);
    engine.json("POST", &format!("/containers/{name}/start"), &json!(null));
    eventually("the control has ended", || engine.inspect(&name)["State"]["Running"] == false);
    let (_, log) = engine.call("GET", &format!("/containers/{name}/logs?stdout=1"), "", b"");
    engine.json("DELETE", &format!("/containers/{name}?force=1&v=1"), &json!(null));
    // Each piece has a head of eight bytes.
    let lines = log.split(|byte| *byte == b'\n').filter(|line| line.len() > 8);
    lines.map(|line| String::from_utf8_lossy(&line[8..]).into_owned() + "\n").collect()
}

/// A market of one provider on an engine of that kind.
fn market_on(private: &PrivateEngine) -> Market {
    // Not built once more: the engine that all tests share has it.
    let shared = Market::with_providers(&[ProviderOptions::roomy()]);
    private.copy_image(&format!("golem/debian-12:{}", &shared.providers[0].id()[..12]));
    shared.close();
    Market::in_place(&private.place(), &private.engine(), &[ProviderOptions::roomy()])
}

#[test]
fn root_in_a_vm_is_nobody_on_the_host_where_the_engine_maps_users() {
    let Some(private) = PrivateEngine::with_user_namespaces() else { return };
    let mut market = market_on(&private);
    let requestor = market.requestor();
    requestor.rent("box");
    assert_eq!(requestor.in_vm("box", "sudo id -u"), "0\n");
    all_is_refused(&requestor);
    // This engine has no internet to install from, and engines don't open ping to mapped users.
    let works: Vec<_> =
        WORKS[3..].iter().filter(|(what, _)| !what.starts_with("ping")).copied().collect();
    all_works(&requestor, &works);
    let container = market.provider().containers()[0]["Id"].as_str().unwrap().to_owned();
    // The engine counts processes as its own namespace does: they are looked for by their container.
    let user = host_user_of(&container);
    assert!(user >= 100_000, "a VM's root is user {user} on the host");
    let doctor = market.provider().run(&["doctor", "--json"]).done().json();
    let checks = doctor["checks"].as_array().unwrap().clone();
    let check = checks.iter().find(|check| check["subject"] == "user namespaces").unwrap();
    assert_eq!(check["verdict"], "good", "{check}");
    market.close();
}

/// As which user the first process of a container runs, as this host sees it.
fn host_user_of(container: &str) -> u32 {
    let users = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
        let groups = std::fs::read_to_string(process.path().join("cgroup")).ok()?;
        let status = std::fs::read_to_string(process.path().join("status")).ok()?;
        let first = status.lines().find(|line| line.starts_with("NSpid:"))?.ends_with("\t1");
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        (first && groups.contains(container))
            .then(|| user.split_whitespace().next().unwrap().parse().unwrap())
    });
    users.min().expect("no process of that container")
}

#[test]
fn a_disk_has_its_size_where_the_engine_gives_it_one() {
    let Some(private) = PrivateEngine::on_btrfs() else { return };
    let mut market = market_on(&private);
    let requestor = market.requestor();
    let listed = requestor.golem(&["vm", "providers", "--json"]).done();
    assert!(listed.stdout.contains("\"storage\""), "not advertised as enforced: {listed}");
    requestor.rent("box");
    // What is rented is there, the image not counted in; and no more.
    requestor.in_vm("box", "sudo fallocate -l 9900M /var/tmp/rented && sync");
    let more = requestor.golem(&["vm", "ssh", "box", "--", "sudo fallocate -l 400M /var/tmp/more"]);
    assert_ne!(more.code, 0, "more than was rented could be written");
    assert!(more.stderr.contains("quota"), "{more}");
    // It is a full disk and nothing worse: it can be emptied, also after a restart.
    requestor.golem(&["vm", "restart", "box"]).done();
    requestor.in_vm(
        "box",
        // What is freed counts as free when the host's file system has written that down.
        "sudo rm -f /var/tmp/rented /var/tmp/more; sync; for _ in $(seq 60); do \
         sudo fallocate -l 400M /var/tmp/more && exit 0; sleep 1; done; exit 1",
    );
    assert_eq!(requestor.vm("box")["status"], "running");
    let container = market.provider().containers()[0]["Id"].as_str().unwrap().to_owned();
    let size = private.engine().inspect(&container)["HostConfig"]["StorageOpt"]["size"].clone();
    assert!(size.as_str().unwrap().parse::<u64>().unwrap() > 10 << 30, "{size}");
    market.close();
}
