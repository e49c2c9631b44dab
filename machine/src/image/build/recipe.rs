//! What goes into the images that are built here.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::identity::Uuid;
use super::{Addition, Content};

/// Bytes of a built image's disk. Rented disks are at least as large.
pub(super) const DISK_BYTES: u64 = 2 << 30;

/// An image that is made from a distribution's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Its name (`debian-12`).
    pub name: &'static str,
    /// The distribution's own word for its release.
    pub(super) suite: &'static str,
    /// Where packages come from: one-line entries of sources.list.
    pub(super) sources: &'static [&'static str],
    /// The keys that their lists are signed with, where Debian has no package of them.
    pub(super) keys: Option<&'static [u8]>,
    /// `InRelease` files of these, whose dates say how old the packages are at most.
    pub(super) releases: &'static [&'static str],
    /// The distribution's kernel for virtual machines, and what is called differently.
    packages: &'static [&'static str],
    /// The host name of a machine that was given none.
    hostname: &'static str,
}

/// What both distributions call the same: what a server that one logs in to has.
const PACKAGES: &[&str] = &[
    // What makes it boot, and the system that is booted.
    "init",
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "systemd-timesyncd",
    "libpam-systemd",
    "dbus",
    "udev",
    "kmod",
    "initramfs-tools",
    "zstd",
    "grub-pc-bin",
    "grub2-common",
    "e2fsprogs",
    // Its identity, its network, the way in.
    "cloud-init",
    "cloud-guest-utils",
    "fdisk",
    "netplan.io",
    "netbase",
    "openssh-server",
    "sudo",
    "ca-certificates",
    "locales",
    "tzdata",
    // What people reach for.
    "apt-utils",
    "bash-completion",
    "bzip2",
    "cron",
    "curl",
    "dmidecode",
    "file",
    "htop",
    "iproute2",
    "iputils-ping",
    "less",
    "logrotate",
    "lsb-release",
    "lsof",
    "man-db",
    "nano",
    "pciutils",
    "procps",
    "psmisc",
    "rsync",
    "vim-tiny",
    "wget",
    "xz-utils",
];

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "debian-12",
        suite: "bookworm",
        sources: &[
            "deb http://deb.debian.org/debian bookworm main",
            "deb http://deb.debian.org/debian bookworm-updates main",
            "deb http://deb.debian.org/debian-security bookworm-security main",
        ],
        keys: None,
        releases: &[
            "http://deb.debian.org/debian/dists/bookworm/InRelease",
            "http://deb.debian.org/debian/dists/bookworm-updates/InRelease",
            "http://deb.debian.org/debian-security/dists/bookworm-security/InRelease",
        ],
        packages: &["linux-image-cloud-amd64"],
        hostname: "debian",
    },
    Recipe {
        name: "ubuntu-24.04",
        suite: "noble",
        sources: &[
            "deb http://archive.ubuntu.com/ubuntu noble main universe",
            "deb http://archive.ubuntu.com/ubuntu noble-updates main universe",
            "deb http://archive.ubuntu.com/ubuntu noble-security main universe",
        ],
        keys: Some(UBUNTU_ARCHIVE_KEY),
        releases: &[
            "http://archive.ubuntu.com/ubuntu/dists/noble/InRelease",
            "http://archive.ubuntu.com/ubuntu/dists/noble-updates/InRelease",
            "http://archive.ubuntu.com/ubuntu/dists/noble-security/InRelease",
        ],
        packages: &["apt", "linux-image-virtual", "ubuntu-keyring"],
        hostname: "ubuntu",
    },
];

/// Ubuntu's archive key, with which its lists of packages are signed: `F6ECB3762474EDA9D21B7022871920D1991BC93C`.
const UBUNTU_ARCHIVE_KEY: &[u8] = include_bytes!("../keys/ubuntu-archive.gpg");

/// Modules that a machine of ours needs before it has its root file system. A ramdisk with all that any computer could
/// need takes an emulated machine two seconds longer.
const MODULES: &str = "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\next4\n";

/// The directory beside the modules' own that programs of the distribution read lists of modules from.
const MODULES_FILE: &str = "/usr/share/initramfs-tools/modules.d/golem";

impl Recipe {
    /// The recipe of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        RECIPES.iter().find(|recipe| recipe.name == name).copied()
    }

    /// The names of all recipes.
    #[must_use]
    pub fn names() -> String {
        RECIPES.iter().map(|recipe| recipe.name).collect::<Vec<_>>().join(", ")
    }

    /// The packages as mmdebstrap wants them.
    pub(super) fn packages(&self) -> String {
        self.packages.iter().chain(PACKAGES).copied().collect::<Vec<_>>().join(",")
    }

    /// The identifier of a part (`root`, `disk`, …) of the image that is built with this date.
    pub(super) fn uuid(&self, part: &str, epoch: u64) -> Uuid {
        Uuid::of(&format!("golem image {} {part} {epoch}", self.name))
    }

    /// The hash of what an image is made of beside the packages' own content.
    pub(super) fn inputs(&self, root: &Uuid, additions: &[Addition]) -> String {
        let mut hasher = Sha256::new();
        for text in
            [self.packages(), self.sources.join("\n"), Self::early_hook(), self.late_hook(root)]
        {
            hasher.update(Sha256::digest(text));
        }
        for addition in additions {
            hasher.update(Sha256::digest(&addition.path));
            hasher.update(addition.mode.to_be_bytes());
            hasher.update(match &addition.content {
                Content::File(bytes) => Sha256::digest(bytes),
                Content::Link(target) => Sha256::digest(target),
            });
        }
        HEXLOWER.encode(&hasher.finalize())
    }

    /// What is done as soon as there is a shell in it, before the kernel comes. `$1` is its root directory.
    pub(super) fn early_hook() -> String {
        let modules = MODULES.trim_end().replace('\n', "\\n");
        format!(
            "set -eu\n\
             mkdir -p \"$1/etc/initramfs-tools/conf.d\" \"$1$(dirname {MODULES_FILE})\"\n\
             echo MODULES=list > \"$1/etc/initramfs-tools/conf.d/golem\"\n\
             printf '{modules}\\n' > \"$1{MODULES_FILE}\"\n"
        )
    }

    /// What is done when all packages are there. `$1` is its root directory.
    pub(super) fn late_hook(&self, root: &Uuid) -> String {
        LATE_HOOK.replace("@ROOT@", &root.to_string())
    }

    /// Files of every image that is built here.
    pub(super) fn additions(&self, root: &Uuid) -> Vec<Addition> {
        let file = |path: &str, text: String| Addition {
            path: path.to_owned(),
            mode: 0o644,
            content: Content::File(text.into_bytes()),
        };
        vec![
            file(
                "/etc/fstab",
                format!("UUID={root} / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n"),
            ),
            file("/etc/hostname", format!("{}\n", self.hostname)),
            file("/etc/hosts", HOSTS.to_owned()),
            file("/etc/default/grub", GRUB_DEFAULTS.replace("@NAME@", self.name)),
            file("/etc/default/locale", "LANG=C.UTF-8\n".to_owned()),
            file("/etc/cloud/cloud.cfg.d/90_golem.cfg", CLOUD_CONFIG.to_owned()),
            file("/etc/systemd/resolved.conf.d/golem.conf", RESOLVED_CONFIG.to_owned()),
        ]
    }
}

const HOSTS: &str = "127.0.0.1 localhost\n\
                     ::1 localhost ip6-localhost ip6-loopback\n\
                     ff02::1 ip6-allnodes\n\
                     ff02::2 ip6-allrouters\n";

/// For `update-grub`, which a new kernel calls.
const GRUB_DEFAULTS: &str = "GRUB_DEFAULT=0\n\
                             GRUB_TIMEOUT=0\n\
                             GRUB_DISTRIBUTOR=\"@NAME@\"\n\
                             GRUB_CMDLINE_LINUX_DEFAULT=\"\"\n\
                             GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n\
                             GRUB_TERMINAL=\"console serial\"\n\
                             GRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n\
                             GRUB_DISABLE_OS_PROBER=true\n";

/// One seed of two: a list of one is taken without looking for others.
const CLOUD_CONFIG: &str = "# There is a disk with the label cidata, or nothing.\n\
                            datasource_list: [NoCloud, None]\n\
                            datasource:\n  NoCloud:\n    fs_label: cidata\n\
                            # Packages come from the distribution's own list.\n\
                            apt:\n  preserve_sources_list: true\n";

/// Names of neighbours, whom a machine here never has: nobody is asked, and no port is open for such questions.
const RESOLVED_CONFIG: &str = "[Resolve]\nLLMNR=no\nMulticastDNS=no\n";

/// GRUB as `grub-install` would leave it, but for the sectors outside of file systems, which are written with the
/// partition table; and a menu until a new kernel has `update-grub` make its own. Then what must not be the same in
/// two machines, and what differs from build to build, goes. A single quote can't be in here.
const LATE_HOOK: &str = r#"set -eu
root=$1
modules=/usr/lib/grub/i386-pc
grub=$root/boot/grub
mkdir -p "$grub/i386-pc" "$grub/fonts"
cp "$root$modules"/*.mod "$root$modules"/*.lst "$grub/i386-pc/"
cp "$root$modules/boot.img" "$grub/i386-pc/"
[ ! -e "$root/usr/share/grub/unicode.pf2" ] || cp "$root/usr/share/grub/unicode.pf2" "$grub/fonts/"
chroot "$root" grub-mkimage -O i386-pc -p "(,gpt1)/boot/grub" -o /boot/grub/i386-pc/core.img \
    biosdisk part_gpt ext2 normal configfile linux search search_fs_uuid echo test
chroot "$root" grub-editenv /boot/grub/grubenv create
kernel=$(basename "$(ls -v "$root"/boot/vmlinuz-* | tail -n 1)")
cat > "$grub/grub.cfg" <<MENU
set timeout=0
search --no-floppy --fs-uuid --set=root @ROOT@
linux /boot/$kernel root=UUID=@ROOT@ ro console=tty0 console=ttyS0,115200
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
MENU
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service ssh.socket; do
    chroot "$root" systemctl disable "$unit" 2>/dev/null || true
done
chroot "$root" systemctl enable ssh.service 2>/dev/null
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/.resolv.conf.systemd-resolved.bak "$root"/var/lib/systemd/random-seed
rm -f "$root"/var/lib/dbus/machine-id "$root"/etc/ssl/certs/*.dpkg-tmp
rm -rf "$root"/var/lib/cloud/* "$root"/var/cache/man/* "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
ln -sfn ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
"#;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_recipe_is_found_by_its_name() {
        assert_eq!(Recipe::names(), "debian-12, ubuntu-24.04");
        assert_eq!(Recipe::named("debian-12").unwrap().suite, "bookworm");
        assert_eq!(Recipe::named("../etc"), None);
    }

    #[test]
    fn the_same_file_system_is_mounted_and_booted() {
        let recipe = Recipe::named("debian-12").unwrap();
        let root = recipe.uuid("root", 5);
        let additions = recipe.additions(&root);
        let fstab = additions.iter().find(|addition| addition.path == "/etc/fstab").unwrap();
        let Content::File(text) = &fstab.content else { panic!("no file") };
        assert!(String::from_utf8_lossy(text).starts_with(&format!("UUID={root} / ext4 ")));
        assert_eq!(recipe.late_hook(&root).matches(&root.to_string()).count(), 2);
    }
}
