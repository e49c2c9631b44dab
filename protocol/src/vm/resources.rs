//! Sizes of VMs. GB on the wire means GiB.

use serde::{Deserialize, Deserializer, Serialize};

use crate::problem::FieldError;

/// vCPU counts that can be rented (the original's list).
pub const CPU_SIZES: [u32; 5] = [1, 2, 4, 8, 16];
/// Memory sizes in GiB that can be rented (the original's list).
pub const MEMORY_SIZES_GB: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Smallest disk in GiB.
pub const MIN_STORAGE_GB: u32 = 10;
/// Largest disk in GiB: 64 TiB.
const MAX_STORAGE_GB: u32 = 65_536;

/// How big a VM is, or how much a provider has: vCPUs, GiB of memory, GiB of disk.
///
/// Read from JSON as leniently as the original does: `4`, `"4"` and `4.0` are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmResources {
    /// Virtual CPUs.
    #[serde(deserialize_with = "lenient_u32")]
    pub cpu: u32,
    /// Memory in GiB.
    #[serde(deserialize_with = "lenient_u32")]
    pub memory: u32,
    /// Disk in GiB.
    #[serde(deserialize_with = "lenient_u32")]
    pub storage: u32,
}

impl VmResources {
    /// Whether this much is left in `self` for `wanted`.
    #[must_use]
    pub const fn covers(&self, wanted: &Self) -> bool {
        self.cpu >= wanted.cpu && self.memory >= wanted.memory && self.storage >= wanted.storage
    }

    /// What is wrong with this as the size of a VM; `pointer` is the JSON pointer of the object.
    #[must_use]
    pub fn size_errors(&self, pointer: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !CPU_SIZES.contains(&self.cpu) {
            errors.push(FieldError::new(
                format!("{pointer}/cpu"),
                format!("{} vCPUs are not offered; choose one of {CPU_SIZES:?}", self.cpu),
            ));
        }
        if !MEMORY_SIZES_GB.contains(&self.memory) {
            errors.push(FieldError::new(
                format!("{pointer}/memory"),
                format!(
                    "{} GB of memory are not offered; choose one of {MEMORY_SIZES_GB:?}",
                    self.memory
                ),
            ));
        }
        if !(MIN_STORAGE_GB..=MAX_STORAGE_GB).contains(&self.storage) {
            errors.push(FieldError::new(
                format!("{pointer}/storage"),
                format!(
                    "{} GB of disk are not offered; choose {MIN_STORAGE_GB} to {MAX_STORAGE_GB}",
                    self.storage
                ),
            ));
        }
        errors
    }
}

/// The original's named sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmSize {
    /// 1 vCPU, 1 GiB, 10 GiB.
    Small,
    /// 2 vCPUs, 4 GiB, 20 GiB.
    Medium,
    /// 4 vCPUs, 8 GiB, 40 GiB.
    Large,
    /// 8 vCPUs, 16 GiB, 80 GiB.
    Xlarge,
}

impl VmSize {
    /// The size in numbers.
    #[must_use]
    pub const fn resources(self) -> VmResources {
        match self {
            Self::Small => VmResources { cpu: 1, memory: 1, storage: 10 },
            Self::Medium => VmResources { cpu: 2, memory: 4, storage: 20 },
            Self::Large => VmResources { cpu: 4, memory: 8, storage: 40 },
            Self::Xlarge => VmResources { cpu: 8, memory: 16, storage: 80 },
        }
    }
}

/// Resources whose numbers are whole: somebody who asks for half a vCPU more must not get less.
pub(super) fn whole<'de, D>(deserializer: D) -> Result<Option<VmResources>, D::Error>
where
    D: Deserializer<'de>,
{
    let Some(value) = Option::<serde_json::Value>::deserialize(deserializer)? else {
        return Ok(None);
    };
    for name in ["cpu", "memory", "storage"] {
        if value.get(name).and_then(serde_json::Value::as_f64).is_some_and(|n| n.fract() != 0.0) {
            return Err(serde::de::Error::custom(format!(
                "resources/{name} has to be a whole number"
            )));
        }
    }
    serde_json::from_value(value).map(Some).map_err(serde::de::Error::custom)
}

/// The same where a size has to be there.
pub(super) fn whole_size<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<VmResources, D::Error> {
    whole(deserializer)?.ok_or_else(|| serde::de::Error::custom("resources is null"))
}

/// An integer, an integer as text, or a number whose fraction is dropped, as pydantic v1 reads it.
fn lenient_u32<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Integer(u64),
        Float(f64),
        Text(String),
    }
    let too_large = || serde::de::Error::custom("the number has to be from 0 to 4294967295");
    match Number::deserialize(deserializer)? {
        Number::Integer(number) => u32::try_from(number).map_err(|_| too_large()),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked"
        )]
        Number::Float(number) if (0.0..=f64::from(u32::MAX)).contains(&number) => Ok(number as u32),
        Number::Float(_) => Err(too_large()),
        Number::Text(text) => text
            .trim()
            .parse()
            .map_err(|_| serde::de::Error::custom("value is not a valid integer")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_read_as_the_original_reads_them() {
        let read = |json: &str| serde_json::from_str::<VmResources>(json);
        let four = VmResources { cpu: 4, memory: 1, storage: 10 };
        assert_eq!(read(r#"{"cpu":"4","memory":1.9,"storage":10}"#).unwrap(), four);
        for bad in [r#""x""#, "-1", "1e30", "null", "99999999999"] {
            assert!(read(&format!(r#"{{"cpu":{bad},"memory":1,"storage":10}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_that_are_not_offered_say_which_are() {
        assert!(VmSize::Medium.resources().size_errors("/resources").is_empty());
        let errors = VmResources { cpu: 3, memory: 0, storage: 9 }.size_errors("/resources");
        assert_eq!(errors.len(), 3);
        assert_eq!(errors[0].pointer, "/resources/cpu");
        assert!(errors[0].detail.contains("[1, 2, 4, 8, 16]"));
    }
}
