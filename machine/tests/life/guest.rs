//! A small guest that boots in a second or two: Debian's kernel, busybox, and an `init` that takes commands on the
//! serial port. Built from the distribution's packages, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules that it loads, in order.
const MODULES: [&str; 14] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci",
    "block/virtio_blk",
    "../net/core/failover",
    "net/net_failover",
    "net/virtio_net",
    "char/virtio_console",
    "misc/pvpanic/pvpanic",
    "misc/pvpanic/pvpanic-pci",
    "acpi/button",
    "input/evdev",
];

const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
stty -echo
for event in /sys/class/input/event*; do
    [ "$(cat $event/device/name)" != "Power Button" ] || button=/dev/input/${event##*/}
done
( head -c 1 $button > /dev/null; echo BUTTON; sync; poweroff -f ) < /dev/null &
echo "GUEST UP"
while read -r line; do eval "$line"; done
poweroff -f
"#;

/// The directory with `vmlinuz` and `initrd`.
pub(crate) fn boot() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small-guest-2");
    if directory.join("initrd").exists() {
        return directory;
    }
    let work = tempfile::tempdir().unwrap();
    let kernel =
        output(Command::new("sh").arg("-c").arg(
            "apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }'",
        ));
    let packages = [kernel.trim(), "busybox-static"];
    output(Command::new("apt-get").args(["download", "-q"]).args(packages).current_dir(&work));
    for package in fs::read_dir(&work).unwrap().flatten() {
        let root = work.path().join("root");
        output(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(root));
    }
    let root = work.path().join("root");
    let release = kernel.trim().trim_start_matches("linux-image-");
    let drivers = root.join(format!("lib/modules/{release}/kernel/drivers"));
    let mut archive = Archive::default();
    for directory in ["bin", "modules"] {
        archive.add(directory, 0o040_755, &[]);
    }
    archive.add("init", 0o100_755, INIT.as_bytes());
    archive.add("bin/busybox", 0o100_755, &fs::read(root.join("bin/busybox")).unwrap());
    let mut order = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap();
        let content = fs::read(drivers.join(format!("{module}.ko"))).unwrap();
        archive.add(&format!("modules/{name}.ko"), 0o100_644, &content);
        order.push_str(&format!("{name}\n"));
    }
    archive.add("modules/order", 0o100_644, order.as_bytes());
    fs::create_dir_all(&directory).unwrap();
    fs::copy(root.join(format!("boot/vmlinuz-{release}")), directory.join("vmlinuz")).unwrap();
    fs::write(directory.join("initrd.new"), archive.end()).unwrap();
    fs::rename(directory.join("initrd.new"), directory.join("initrd")).unwrap();
    output(Command::new("chmod").args(["-R", "a+rX"]).arg(&directory));
    directory
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A first file system (the kernel's `buffer-format.rst`: cpio, "newc").
#[derive(Default)]
struct Archive(Vec<u8>, u32);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.1 += 1;
        let fields = [
            self.1,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len()).unwrap(),
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1).unwrap(),
            0,
        ];
        self.0.extend(b"070701");
        for field in fields {
            self.0.extend(format!("{field:08x}").bytes());
        }
        self.0.extend(name.bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.0
    }
}
