//! The instances of a provider without an engine, which are descriptions in a file.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::invariants::Instance;

/// The file.
#[derive(Debug, Clone)]
pub struct KeptBackend {
    path: PathBuf,
}

impl KeptBackend {
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join("memory-backend.json") }
    }

    /// The instances. Where their SSH is, only the provider knows.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        let kept = self.read();
        let instances = kept["instances"].as_array().into_iter().flatten();
        let described = instances.map(|instance| Instance {
            vm: vm_of(instance).to_owned(),
            running: instance["power"] == "on",
            ..Instance::default()
        });
        described.collect()
    }

    /// The SSH keys that an instance lets in.
    #[must_use]
    pub fn keys(&self, vm: &str) -> Vec<String> {
        let kept = self.read();
        let mut instances = kept["instances"].as_array().into_iter().flatten();
        let found = instances.find(|instance| vm_of(instance) == vm);
        let keys = found.and_then(|instance| instance["access"]["authorized_keys"].as_array());
        keys.into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect()
    }

    /// What an instance's disk and memory hold, and the names of its snapshots.
    #[must_use]
    pub fn contents(&self, vm: &str) -> (String, String, Vec<String>) {
        let kept = self.read();
        let mut instances = kept["instances"].as_array().into_iter().flatten();
        let found = instances.find(|instance| vm_of(instance) == vm);
        let contents = found.map(|instance| instance["contents"].clone()).unwrap_or_default();
        let text = |name: &str| contents[name].as_str().unwrap_or_default().to_owned();
        let snapshots = contents["snapshots"].as_object().into_iter().flatten();
        (text("disk"), text("memory"), snapshots.map(|(name, _)| name.clone()).collect())
    }

    /// GiB of an instance's disk.
    #[must_use]
    pub fn storage(&self, vm: &str) -> u64 {
        let kept = self.read();
        let mut instances = kept["instances"].as_array().into_iter().flatten();
        let found = instances.find(|instance| vm_of(instance) == vm);
        found.and_then(|instance| instance["limits"]["storage_mib"].as_u64()).unwrap_or(0) / 1024
    }

    /// Somebody in an instance writes that to its disk and its memory.
    pub fn write_into(&self, vm: &str, disk: &str, memory: &str) {
        self.change(vm, |instance| {
            instance["contents"]["disk"] = json!(disk);
            instance["contents"]["memory"] = json!(memory);
        });
    }

    /// An instance can't go on from the memory that is kept.
    pub fn spoil_memory(&self, vm: &str) {
        self.change(vm, |instance| instance["contents"]["memory_spoilt"] = json!(true));
    }

    /// A guest shuts itself down, and that can be told.
    pub fn shut_down(&self, vm: &str) {
        self.change(vm, |instance| {
            let off = json!({"exit_code": 0, "out_of_memory": false, "by": "guest"});
            instance["power"] = json!({ "off": off });
        });
    }

    /// An instance's first process ends.
    pub fn end(&self, vm: &str) {
        self.change(vm, |instance| {
            instance["power"] = json!({"off": {"exit_code": 0, "out_of_memory": false}});
        });
    }

    /// Somebody starts an instance.
    pub fn start(&self, vm: &str) {
        self.change(vm, |instance| instance["power"] = json!("on"));
    }

    /// An instance can't be used any more.
    pub fn spoil(&self, vm: &str) {
        self.change(vm, |instance| {
            instance["power"] = json!({"off": {"exit_code": null, "out_of_memory": false}});
            instance["broken"] = json!("it was spoilt");
        });
    }

    /// An instance is gone.
    pub fn remove(&self, vm: &str) {
        let mut kept = self.read();
        if let Some(instances) = kept["instances"].as_array_mut() {
            instances.retain(|instance| vm_of(instance) != vm);
        }
        self.write(&kept);
    }

    /// There is one more instance, like that of `vm`, that belongs to no VM.
    pub fn add_stray(&self, vm: &str) {
        // Another id in the same letters.
        let (head, rest) = vm.split_at(6);
        let (letter, tail) = rest.split_at(1);
        let stray = format!("{head}{}{tail}", if letter == "7" { "8" } else { "7" });
        let mut kept = self.read();
        let instances = kept["instances"].as_array_mut().unwrap();
        let mut copy = instances.iter().find(|instance| vm_of(instance) == vm).unwrap().clone();
        copy["name"] = json!(format!("golem-{stray}"));
        instances.push(copy);
        self.write(&kept);
    }

    fn change(&self, vm: &str, change: impl FnOnce(&mut Value)) {
        let mut kept = self.read();
        let instances = kept["instances"].as_array_mut().unwrap();
        change(instances.iter_mut().find(|instance| vm_of(instance) == vm).unwrap());
        self.write(&kept);
    }

    fn read(&self) -> Value {
        let text = std::fs::read_to_string(&self.path).unwrap_or_else(|_| "{}".to_owned());
        serde_json::from_str(&text).unwrap()
    }

    fn write(&self, kept: &Value) {
        let fresh = self.path.with_extension("test");
        std::fs::write(&fresh, kept.to_string()).unwrap();
        std::fs::rename(&fresh, &self.path).unwrap();
    }
}

fn vm_of(instance: &Value) -> &str {
    instance["name"].as_str().unwrap_or_default().trim_start_matches("golem-")
}
