//! Who a machine is.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::network::Addressing;

/// The user that every machine has.
pub const USER: &str = "ubuntu";

/// All that makes a machine this one and no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Changes when the machine becomes another one: cloud-init then sets all of it up anew.
    pub instance_id: String,
    /// A single label of up to 63 lower-case letters, digits and hyphens.
    pub hostname: String,
    /// systemd's machine id.
    pub machine_id: MachineId,
    /// The only SSH host key.
    pub host_key: HostKey,
    /// Who the keys are for; normally [`USER`].
    pub user: String,
    /// Who may log in: lines of `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// Its card and its addresses.
    pub network: Addressing,
}

impl Identity {
    /// The keys as a file.
    #[must_use]
    pub fn key_lines(&self) -> String {
        key_lines(&self.authorized_keys)
    }
}

/// Keys as a file: one per line.
#[must_use]
pub fn key_lines(keys: &[String]) -> String {
    keys.iter().fold(String::new(), |lines, key| lines + key.trim() + "\n")
}

/// An SSH host key, Ed25519.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// As OpenSSH writes private keys.
    pub private: String,
    /// `ssh-ed25519 AAAA…`
    pub public: String,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A machine id of systemd: 32 hexadecimal digits (machine-id(5)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

impl MachineId {
    /// A new one, as systemd makes them: a random UUID of version 4 without its hyphens.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self::from_bytes(bytes))
    }

    /// From 16 bytes of one's own, of which six bits become the UUID's version and variant.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(HEXLOWER.encode(&bytes))
    }

    /// The 32 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// With hyphens, for QEMU's `-uuid`: systemd takes a new machine's id from there.
    #[must_use]
    pub fn uuid(&self) -> String {
        let Self(id) = self;
        format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
    }
}

impl TryFrom<String> for MachineId {
    type Error = String;

    fn try_from(id: String) -> Result<Self, String> {
        let fits = id.len() == 32 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        if fits { Ok(Self(id)) } else { Err("a machine id is 32 hexadecimal digits".to_owned()) }
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.0
    }
}
