//! QEMU's arguments.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    AGENT_PORT, AGENT_SOCKET, Begin, CONSOLE_LOG, CONSOLE_SOCKET, DISK_NODE, DISK_TOP_NODE, Disk,
    Format, GUEST_DIRECTORY, Hardware, LOG_DIRECTORY, Layer, MEMORY_OBJECT, Memory, Platform,
    QMP_SOCKET, SANDBOX, TRANSLATION_MIB,
};
use crate::accel::Accelerator;

/// Places on the PCI bus. Fixed, so that a device that is not there moves no other.
mod place {
    pub(super) const DISK: &str = "0x2";
    pub(super) const SEED: &str = "0x3";
    pub(super) const NIC: &str = "0x4";
    pub(super) const SERIAL: &str = "0x5";
    pub(super) const RNG: &str = "0x6";
    pub(super) const PANIC: &str = "0x7";
}

/// The arguments with which QEMU runs this machine, without the program itself.
#[must_use]
pub fn arguments(platform: &Platform, hardware: &Hardware, begin: Begin) -> Vec<String> {
    let mut all = Arguments::default();
    all.whole(platform, hardware, begin);
    all.memory(hardware);
    all.boot(platform, hardware);
    if let Some(disk) = &hardware.disk {
        all.disk(disk);
    }
    if let Some(seed) = &hardware.seed {
        all.seed(seed);
    }
    all.network(hardware);
    all.ports();
    all.others(platform, hardware);
    all.0
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }

    /// An option whose value is an object: file names may contain anything in JSON, which commas would break.
    fn object(&mut self, option: &str, value: &Value) {
        self.add(option, value.to_string());
    }

    /// What concerns the machine as a whole.
    fn whole(&mut self, platform: &Platform, hardware: &Hardware, begin: Begin) {
        let Platform { qemu, accelerator } = platform;
        self.0.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
        self.add("-name", format!("{},debug-threads=on", hardware.name));
        self.add("-uuid", &hardware.uuid);
        let options = qemu.architecture.machine_options();
        self.add("-machine", format!("{},memory-backend={MEMORY_OBJECT}{options}", qemu.machine));
        self.add(
            "-accel",
            match accelerator {
                Accelerator::Kvm => "kvm".to_owned(),
                Accelerator::Tcg => format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"),
            },
        );
        self.add("-cpu", platform.cpu());
        let vcpus = hardware.size.vcpus;
        self.add("-smp", format!("cpus={vcpus},sockets=1,cores={vcpus},threads=1"));
        self.add("-display", "none");
        self.add("-rtc", "base=utc");
        self.add("-sandbox", SANDBOX);
        // How a guest ended can still be asked when nobody was there to see it: the process stays.
        self.0.push("-no-shutdown".to_owned());
        self.add("-action", "panic=pause,reboot=reset");
        match begin {
            Begin::Boot => {}
            Begin::Incoming => self.add("-incoming", "defer"),
            Begin::Held => self.0.push("-S".to_owned()),
        }
    }

    fn memory(&mut self, hardware: &Hardware) {
        let mib = hardware.size.memory_mib;
        self.add("-m", format!("{mib}M"));
        let mut object = json!({ "id": MEMORY_OBJECT, "size": mib * 1024 * 1024 });
        match &hardware.memory {
            Memory::Private => object["qom-type"] = json!("memory-backend-ram"),
            Memory::Shared(file) | Memory::CopyOf(file) => {
                object["qom-type"] = json!("memory-backend-file");
                object["mem-path"] = json!(file);
                object["share"] = json!(matches!(hardware.memory, Memory::Shared(_)));
            }
        }
        self.object("-object", &object);
    }

    fn boot(&mut self, platform: &Platform, hardware: &Hardware) {
        if let Some(direct) = &hardware.direct_boot {
            self.add("-kernel", direct.kernel.to_string_lossy());
            self.add("-initrd", direct.initrd.to_string_lossy());
            self.add("-append", &direct.append);
        } else if let Some(firmware) = platform.qemu.architecture.firmware() {
            self.add("-bios", firmware);
        }
    }

    /// One file, and above it what makes a disk of it. Its backing file is the one that is given, or none, whatever
    /// its header says.
    fn layer(&mut self, layer: &Layer, node: &str, below: Option<&str>, written: bool) {
        let file = format!("{node}-file");
        self.object(
            "-blockdev",
            &json!({
                "driver": "file", "node-name": file, "filename": layer.file,
                "read-only": !written, "discard": "unmap",
            }),
        );
        let mut format = json!({
            "node-name": node, "file": file, "read-only": !written, "discard": "unmap",
        });
        match layer.format {
            Format::Raw => format["driver"] = json!("raw"),
            Format::Qcow2 => {
                format["driver"] = json!("qcow2");
                format["backing"] = json!(below);
                if written {
                    format["detect-zeroes"] = json!("unmap");
                }
            }
        }
        self.object("-blockdev", &format);
    }

    fn disk(&mut self, disk: &Disk) {
        let mut below: Option<String> = None;
        for (depth, layer) in disk.layers.iter().enumerate().rev() {
            let node = if depth == 0 { DISK_NODE.to_owned() } else { format!("below{depth}") };
            self.layer(layer, &node, below.as_deref(), depth == 0);
            below = Some(node);
        }
        let mut limits = json!({});
        if let Some(speed) = disk.speed {
            limits = json!({ "bps-total": speed.bytes, "iops-total": speed.requests });
        }
        let group = "disk-speed";
        self.object(
            "-object",
            &json!({ "qom-type": "throttle-group", "id": group, "limits": limits }),
        );
        self.object(
            "-blockdev",
            &json!({
                "driver": "throttle", "node-name": DISK_TOP_NODE, "throttle-group": group,
                "file": DISK_NODE, "discard": "unmap",
            }),
        );
        let device = format!(
            "virtio-blk-pci,id=disk,drive={DISK_TOP_NODE},bootindex=1,addr={},serial=disk,discard=on",
            place::DISK
        );
        self.add("-device", device);
    }

    fn seed(&mut self, file: &Path) {
        self.layer(&Layer { file: file.to_owned(), format: Format::Raw }, "seed", None, false);
        let device = format!("virtio-blk-pci,id=seed,drive=seed,addr={},serial=seed", place::SEED);
        self.add("-device", device);
    }

    fn network(&mut self, hardware: &Hardware) {
        let Some(nic) = &hardware.nic else { return };
        self.add(
            "-netdev",
            format!("tap,id=net,ifname={},script=no,downscript=no,vhost=off", nic.tap),
        );
        // No boot from the network, and no program for it.
        let device = format!(
            "virtio-net-pci,id=nic,netdev=net,mac={},romfile=,addr={}",
            nic.mac,
            place::NIC
        );
        self.add("-device", device);
    }

    /// The monitor, the serial port and the guest agent's port.
    fn ports(&mut self) {
        let socket = |name: &str| format!("{GUEST_DIRECTORY}/{name},server=on,wait=off");
        self.add("-qmp", format!("unix:{}", socket(QMP_SOCKET)));
        let log = format!("logfile={LOG_DIRECTORY}/{CONSOLE_LOG},logappend=on");
        self.add("-chardev", format!("socket,id=console,path={},{log}", socket(CONSOLE_SOCKET)));
        self.add("-serial", "chardev:console");
        self.add("-chardev", format!("socket,id=agent,path={}", socket(AGENT_SOCKET)));
        self.add(
            "-device",
            format!("virtio-serial-pci,id=ports,max_ports=2,addr={}", place::SERIAL),
        );
        self.add(
            "-device",
            format!("virtserialport,id=agent-port,bus=ports.0,chardev=agent,name={AGENT_PORT}"),
        );
    }

    fn others(&mut self, platform: &Platform, hardware: &Hardware) {
        self.add("-object", "rng-random,id=rng,filename=/dev/urandom");
        self.add("-device", format!("virtio-rng-pci,rng=rng,addr={}", place::RNG));
        self.add("-device", format!("pvpanic-pci,addr={}", place::PANIC));
        if platform.qemu.architecture.has_generation_id() {
            // A new one for each resumed machine: kernels that know of it renew their random numbers.
            self.add("-device", format!("vmgenid,guid={}", hardware.uuid));
        }
    }
}
