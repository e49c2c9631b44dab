use super::*;

fn platform(architecture: Architecture, accelerator: Accelerator) -> Platform {
    Platform {
        qemu: Qemu {
            binary: "/usr/bin/qemu".into(),
            version: "7.2.22".to_owned(),
            architecture,
            machine: format!("{}-7.2", architecture.machine()),
        },
        accelerator,
    }
}

fn hardware() -> Hardware {
    let layer = |file: &str| Layer { file: file.into(), format: Format::Qcow2 };
    Hardware {
        name: "golem-vm_1".to_owned(),
        uuid: "00000000-0000-4000-8000-000000000001".to_owned(),
        size: Size { vcpus: 2, memory_mib: 512 },
        memory: Memory::Private,
        disk: Some(Disk {
            layers: vec![layer("/mnt/vm/disk.qcow2"), layer("/mnt/image/disk.qcow2")],
            speed: Some(DiskSpeed { bytes: 100, requests: 10 }),
        }),
        seed: Some("/mnt/vm/seed.iso".into()),
        nic: Some(Nic { tap: "tap1".to_owned(), mac: "52:54:00:00:00:01".to_owned() }),
        direct_boot: None,
    }
}

/// The value that follows `option`, for each time it is there.
fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
    let pairs = arguments.windows(2).filter(|pair| pair[0] == option);
    pairs.map(|pair| pair[1].as_str()).collect()
}

#[test]
fn architectures_differ_where_the_table_says_and_nowhere_else() {
    let rows = [
        (
            Architecture::X86_64,
            "q35-7.2,memory-backend=ram,vmport=off,smm=off,graphics=off",
            "max,la57=off",
            None,
            true,
        ),
        (
            Architecture::Aarch64,
            "virt-7.2,memory-backend=ram,gic-version=max,its=on",
            "max,pauth-impdef=on",
            Some("/usr/share/AAVMF/AAVMF_CODE.fd"),
            false,
        ),
    ];
    let mut same: Option<Vec<String>> = None;
    for (architecture, machine, cpu, firmware, generation) in rows {
        let made = arguments(&platform(architecture, Accelerator::Tcg), &hardware(), Begin::Boot);
        assert_eq!(values(&made, "-machine"), [machine]);
        assert_eq!(values(&made, "-cpu"), [cpu]);
        assert_eq!(values(&made, "-bios").first().copied(), firmware);
        assert_eq!(made.iter().any(|value| value.starts_with("vmgenid")), generation);
        let with_kvm =
            arguments(&platform(architecture, Accelerator::Kvm), &hardware(), Begin::Boot);
        assert_eq!(values(&with_kvm, "-cpu"), ["host"]);
        assert_eq!(values(&with_kvm, "-accel"), ["kvm"]);
        let mut rest = made;
        for option in ["-machine", "-cpu", "-bios"] {
            if let Some(at) = rest.iter().position(|value| value == option) {
                rest.drain(at..at + 2);
            }
        }
        if let Some(at) = rest.iter().position(|value| value.starts_with("vmgenid")) {
            rest.drain(at - 1..=at);
        }
        assert_eq!(*same.get_or_insert_with(|| rest.clone()), rest);
    }
}

#[test]
fn nothing_is_there_that_was_not_asked_for_and_all_is_denied() {
    let made =
        arguments(&platform(Architecture::X86_64, Accelerator::Tcg), &hardware(), Begin::Boot);
    for word in ["-nodefaults", "-no-user-config", "-no-shutdown"] {
        assert!(made.iter().any(|argument| argument == word), "{word}");
    }
    assert_eq!(values(&made, "-sandbox"), [SANDBOX]);
    assert_eq!(values(&made, "-display"), ["none"]);
    assert_eq!(values(&made, "-accel"), ["tcg,thread=multi,tb-size=64"]);
    let kinds: Vec<&str> = values(&made, "-device")
        .into_iter()
        .map(|device| device.split_once(',').map_or(device, |(kind, _)| kind))
        .collect();
    let expected = [
        "virtio-blk-pci",
        "virtio-blk-pci",
        "virtio-net-pci",
        "virtio-serial-pci",
        "virtserialport",
        "virtio-rng-pci",
        "pvpanic-pci",
        "vmgenid",
    ];
    assert_eq!(kinds, expected);
    assert!(!made.iter().any(|argument| argument == "-daemonize" || argument == "-runas"));
}

#[test]
fn what_a_disk_is_made_of_is_said_and_never_read_from_a_header() {
    let made =
        arguments(&platform(Architecture::X86_64, Accelerator::Tcg), &hardware(), Begin::Boot);
    let nodes: Vec<serde_json::Value> = values(&made, "-blockdev")
        .into_iter()
        .map(|text| serde_json::from_str(text).unwrap_or_default())
        .collect();
    let node = |name: &str| nodes.iter().find(|node| node["node-name"] == name).cloned();
    let image = node("below1").unwrap_or_default();
    // There, and null: without it, QEMU would open what the header names.
    assert_eq!(image.get("backing"), Some(&serde_json::Value::Null));
    assert_eq!(image["read-only"], true);
    let disk = node("disk").unwrap_or_default();
    assert_eq!(disk["backing"], "below1");
    assert_eq!(disk["read-only"], false);
    assert_eq!(node("below1-file").unwrap_or_default()["read-only"], true);
    assert_eq!(node("seed").unwrap_or_default()["read-only"], true);
    assert_eq!(node(DISK_TOP_NODE).unwrap_or_default()["file"], "disk");
}

#[test]
fn memory_is_always_the_same_object() {
    let platform = platform(Architecture::X86_64, Accelerator::Tcg);
    let object = |memory: Memory| {
        let made = arguments(&platform, &Hardware { memory, ..hardware() }, Begin::Incoming);
        assert_eq!(values(&made, "-incoming"), ["defer"]);
        let first = values(&made, "-object").first().copied().unwrap_or_default().to_owned();
        serde_json::from_str::<serde_json::Value>(&first).unwrap_or_default()
    };
    for (memory, kind, share) in [
        (Memory::Private, "memory-backend-ram", None),
        (Memory::Shared("/mnt/vm/a,b".into()), "memory-backend-file", Some(true)),
        (Memory::CopyOf("/mnt/t/ram".into()), "memory-backend-file", Some(false)),
    ] {
        let object = object(memory);
        assert_eq!(object["id"], MEMORY_OBJECT);
        assert_eq!(object["size"], 512 << 20);
        assert_eq!(object["qom-type"], kind);
        assert_eq!(object.get("share").and_then(serde_json::Value::as_bool), share);
    }
}

#[test]
fn a_device_that_is_missing_moves_no_other() {
    let platform = platform(Architecture::X86_64, Accelerator::Tcg);
    let full = arguments(&platform, &hardware(), Begin::Boot);
    let bare = Hardware { seed: None, nic: None, ..hardware() };
    let bare = arguments(&platform, &bare, Begin::Held);
    assert!(bare.iter().any(|argument| argument == "-S"));
    for device in values(&bare, "-device") {
        assert!(values(&full, "-device").contains(&device), "{device}");
    }
}
