//! Compiles the guest agent, statically linked, so that it is inside this crate and `cargo install` needs nothing else.
//!
//! The agent uses the standard library only. It is compiled by the same compiler as everything else, without a network.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=guest-agent");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let out = PathBuf::from(variable("OUT_DIR")).join("guest-agent");
    let version =
        format!("{}-{:016x}", text("CARGO_PKG_VERSION"), fingerprint(Path::new("guest-agent")));
    println!("cargo::rustc-env=GOLEM_GUEST_AGENT_VERSION={version}");
    // Guests are Linux; where the provider is not, there is no QEMU backend and no agent.
    if text("CARGO_CFG_TARGET_OS") != "linux" || env::var_os("DOCS_RS").is_some() {
        return write(&out, b"");
    }
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .env("GOLEM_GUEST_AGENT_VERSION", &version)
        .args(["--crate-name", "golem_guest_agent", "--crate-type", "bin", "--edition", "2024"])
        .args(["--cap-lints", "allow", "-C", "target-feature=+crt-static"])
        .args(["-C", "opt-level=z", "-C", "lto=fat", "-C", "codegen-units=1"])
        .args(["-C", "panic=abort", "-C", "strip=symbols"])
        .args(["--target".into(), variable("TARGET")])
        .args(["-o".into(), out.clone().into_os_string()])
        .arg("guest-agent/main.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("linker=");
        option.push(linker);
        rustc.args(["-C".into(), option]);
    }
    let result = match rustc.output() {
        Ok(result) => result,
        Err(error) => fail(&format!("the compiler can't be started for the guest agent: {error}")),
    };
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        if ["find -lc", "library -lc", "find -lgcc_eh", "library -lgcc_eh"]
            .iter()
            .any(|missing| said.contains(missing))
        {
            fail(
                "the guest agent can't be linked statically, because the static C library is missing: \
                 install libc6-dev (Debian, Ubuntu) or glibc-static (Fedora), and build again",
            );
        }
        fail(&format!("the guest agent can't be compiled: {}", said.trim().replace('\n', " | ")));
    }
}

/// A number that changes with any of the agent's files (FNV-1a).
fn fingerprint(directory: &Path) -> u64 {
    let mut paths: Vec<_> = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => fail(&format!("{} can't be read: {error}", directory.display())),
    };
    paths.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in paths {
        for byte in fs::read(path).unwrap_or_default() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

fn write(path: &Path, content: &[u8]) {
    if let Err(error) = fs::write(path, content) {
        fail(&format!("{} can't be written: {error}", path.display()));
    }
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("{name} is not set: cargo sets it")))
}

fn text(name: &str) -> String {
    variable(name).to_string_lossy().into_owned()
}

fn fail(what: &str) -> ! {
    println!("cargo::error={what}");
    exit(1)
}
