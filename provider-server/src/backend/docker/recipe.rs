//! What images are made of: the files in `image/`, embedded, and where their bases come from.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Raise this when a change here makes other images from the same files.
const VERSION: &str = "1";

/// A file of the build context.
struct File {
    name: &'static str,
    executable: bool,
    text: &'static str,
}

macro_rules! file {
    ($name:literal, $executable:literal) => {
        File {
            name: $name,
            executable: $executable,
            text: include_str!(concat!("../../../image/", $name)),
        }
    };
}

/// The build context: the Dockerfile and what it copies.
const FILES: [File; 9] = [
    file!("Dockerfile", false),
    file!("motd", false),
    file!("policy-rc.d", true),
    file!("runlevel", true),
    file!("sshd.conf", false),
    file!("start-stop-daemon", true),
    file!("systemctl", true),
    file!("vm-init", true),
    file!("vm-power", true),
];

/// Where the keys are that a distribution's packages are signed with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keys {
    /// In a file of the host, from a package of that name.
    OnHost {
        /// The file.
        path: &'static str,
        /// The package.
        package: &'static str,
    },
    /// In this text.
    Embedded(&'static str),
}

/// How an image is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    /// Its name, as in `image build NAME`.
    pub(super) name: &'static str,
    /// The distribution's name for this release.
    pub(super) suite: &'static str,
    /// sources.list, which stays in the image.
    sources: &'static str,
    /// The distribution's keys.
    pub(super) keys: Keys,
    /// The packages that the base begins with.
    include: &'static str,
    /// Folder of mmdebstrap's own hooks that goes with them.
    hooks: Option<&'static str>,
    /// The same base in the registry.
    pub(super) registry: &'static str,
}

const RECIPES: [Recipe; 2] = [
    Recipe {
        name: "debian-12",
        suite: "bookworm",
        sources: "\
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://security.debian.org/debian-security bookworm-security main
",
        keys: Keys::OnHost {
            path: "/usr/share/keyrings/debian-archive-keyring.gpg",
            package: "debian-archive-keyring",
        },
        // Spares it usrmerge, and with that all of Perl.
        include: "apt,ca-certificates,usr-is-merged",
        hooks: Some("/usr/share/mmdebstrap/hooks/merged-usr"),
        registry: "docker.io/library/debian:12",
    },
    Recipe {
        name: "ubuntu-24.04",
        suite: "noble",
        sources: "\
deb http://archive.ubuntu.com/ubuntu noble main universe
deb http://archive.ubuntu.com/ubuntu noble-updates main universe
deb http://security.ubuntu.com/ubuntu noble-security main universe
",
        keys: Keys::Embedded(include_str!("../../../image/ubuntu-archive-2018.asc")),
        // minbase of Ubuntu comes without apt.
        include: "apt,ca-certificates",
        hooks: None,
        registry: "docker.io/library/ubuntu:24.04",
    },
];

/// mmdebstrap's options that all recipes have. Without the hook the provider's own resolver and
/// host name would be in every machine.
const BOOTSTRAP_OPTIONS: [&str; 8] = [
    "--variant=minbase",
    "--format=tar",
    "--aptopt=Acquire::Languages \"none\"",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--customize-hook=: >\"$1/etc/resolv.conf\"; : >\"$1/etc/hostname\"",
];

/// Where Ubuntu keeps its packages, and where those for other than PCs.
const UBUNTU_MIRRORS: [&str; 2] =
    ["http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu"];
const UBUNTU_PORTS: &str = "http://ports.ubuntu.com/ubuntu-ports";

impl Recipe {
    /// The recipe for the image of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        RECIPES.into_iter().find(|recipe| recipe.name == name)
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        RECIPES.map(|recipe| recipe.name).join(", ")
    }

    /// mmdebstrap's options besides the keys. `exists` says whether a folder does.
    pub(super) fn bootstrap_options(&self, exists: impl Fn(&str) -> bool) -> Vec<String> {
        let mut options: Vec<String> = BOOTSTRAP_OPTIONS.map(str::to_owned).to_vec();
        match self.hooks {
            Some(hooks) if !exists(hooks) => {
                options.push("--include=apt,ca-certificates".to_owned());
            }
            hooks => {
                options.push(format!("--include={}", self.include));
                options.extend(hooks.map(|hooks| format!("--hook-dir={hooks}")));
            }
        }
        options
    }

    /// What mmdebstrap reads as sources.list on a machine of this kind (as Rust names it).
    pub(super) fn sources_for(&self, architecture: &str) -> String {
        if matches!(architecture, "x86_64" | "x86") {
            return self.sources.to_owned();
        }
        UBUNTU_MIRRORS
            .iter()
            .fold(self.sources.to_owned(), |text, mirror| text.replace(mirror, UBUNTU_PORTS))
    }

    /// A fingerprint of all that the image is made from, except for the packages' versions.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text);
        };
        let base = [VERSION, self.name, self.suite, self.sources, self.include, self.registry];
        base.into_iter().chain(BOOTSTRAP_OPTIONS).for_each(&mut add);
        for file in &FILES {
            add(file.name);
            add(if file.executable { "x" } else { "-" });
            add(file.text);
        }
        HEXLOWER.encode(&hash.finalize())
    }

    /// The build context as a tar archive. `label` (`key=value`) is put on every layer of the build, so
    /// that what an interrupted build leaves behind can be told from anybody else's.
    ///
    /// # Errors
    /// None in practice: it is written to memory.
    pub(super) fn context(label: &str) -> std::io::Result<Bytes> {
        let mut tar = Builder::new(Vec::new());
        for file in &FILES {
            let text = if file.name == "Dockerfile" {
                file.text.replacen(FROM, &format!("{FROM}LABEL {label}\n"), 1)
            } else {
                file.text.to_owned()
            };
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if file.executable { 0o755 } else { 0o644 });
            header.set_size(u64::try_from(text.len()).map_err(std::io::Error::other)?);
            // Always the same time, so that the engine's cache knows the files again.
            header.set_mtime(0);
            tar.append_data(&mut header, file.name, text.as_bytes())?;
        }
        tar.into_inner().map(Bytes::from)
    }
}

/// The Dockerfile's line after which the base is in place.
const FROM: &str = "FROM ${BASE}\n";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;

    use super::*;

    #[test]
    fn everything_that_the_dockerfile_copies_is_embedded() {
        let dockerfile = FILES[0].text;
        let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
        let mut copied: Vec<_> =
            copies.flat_map(|line| line.split(' ').filter(|word| !word.starts_with('/'))).collect();
        copied.sort_unstable();
        let embedded: Vec<_> = FILES.iter().skip(1).map(|file| file.name).collect();
        assert_eq!(copied, embedded);
        assert!(dockerfile.contains("ARG BASE"));
    }

    #[test]
    fn the_context_is_a_tar_with_the_label_in_its_dockerfile() {
        let context = Recipe::context("golem.build=me").unwrap();
        let mut tar = tar::Archive::new(context.as_ref());
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name == "Dockerfile" {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert!(text.contains("\nFROM ${BASE}\nLABEL golem.build=me\n"));
            }
            names.push(name);
        }
        assert_eq!(names, FILES.map(|file| file.name));
    }

    #[test]
    fn bases_are_made_as_the_host_allows() {
        let debian = Recipe::named("debian-12").unwrap();
        assert!(debian.bootstrap_options(|_| true).iter().any(|one| one.ends_with("merged-usr")));
        let options = debian.bootstrap_options(|_| false);
        assert_eq!(options.last().unwrap(), "--include=apt,ca-certificates");
        let ubuntu = Recipe::named("ubuntu-24.04").unwrap();
        assert!(ubuntu.sources_for("x86_64").contains("http://archive.ubuntu.com/ubuntu noble "));
        let ports = ubuntu.sources_for("aarch64");
        assert_eq!(ports.matches(UBUNTU_PORTS).count(), 3);
        assert_eq!(debian.sources_for("aarch64"), debian.sources);
    }

    #[test]
    fn recipes_are_known_by_name_and_told_apart() {
        let fingerprints = RECIPES.map(|recipe| recipe.fingerprint());
        assert_ne!(fingerprints[0], fingerprints[1]);
        assert_eq!(Recipe::named("debian-12").unwrap().fingerprint(), fingerprints[0]);
        assert!(Recipe::named("arch").is_none());
        assert_eq!(Recipe::names(), "debian-12, ubuntu-24.04");
    }
}
