//! The same with a real guest, its own kernel and network card: nothing plays QEMU here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use golem_vm_machine::network::{Access, Addressing};
use golem_vm_machine::process::Signal;
use golem_vm_machine::vm::{MachineName, Network};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::network::{INTERNET, ground};
use crate::support::{Console, Place};

/// Ended, whatever the test came to.
struct Machine {
    place: Place,
    name: MachineName,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let manifest = self.place.machines.manifest(&self.name).ok().flatten();
        if let Some(run) = manifest.and_then(|manifest| manifest.run) {
            for process in run.uplink.iter().chain([&run.process]) {
                let _ = process.signal(Signal::KILL);
            }
        }
    }
}

/// Which of these the guest reaches over TCP.
async fn reached(console: &mut Console, targets: &[&str]) -> Vec<String> {
    let mut reached = Vec::new();
    for target in targets {
        let said =
            console.run(&format!("nc -w 2 {target} < /dev/null 2>/dev/null | head -n 1")).await;
        if said.contains("hello") {
            reached.push((*target).to_owned());
        }
    }
    reached
}

#[test]
fn a_real_guest_reaches_the_internet_and_nothing_of_its_host() {
    let ground = ground();
    let host = golem_vm_end_to_end::Namespace::of_process(ground.host.pid());
    host.inside(move || {
        // One thread, so that all that it starts is on the host that is played.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let place = Place::new().await;
            let name: MachineName = "net-guest".parse().unwrap();
            let addressing = Addressing::of(&[77; 16]);
            let mut spec = place.spec(&name);
            spec.network =
                Some(Network { addressing: addressing.clone(), access: Access::Internet });
            place.machines.ensure(&spec).await.unwrap();
            let mut console = place.start(&name).await;
            let machine = Machine { place, name };
            let place = &machine.place;
            let Addressing { guest, gateway, prefix, mac, .. } = addressing;
            let setup = format!(
                "ip link set eth0 up; ip addr add {guest}/{prefix} dev eth0; ip route add default via {gateway}"
            );
            console.run(&setup).await;
            let card = console.run("cat /sys/class/net/eth0/address").await;
            assert_eq!(card, mac.to_string());

            let internet = format!("{INTERNET} 80");
            let gateway_port = format!("{gateway} 8080");
            let closed = [
                "198.51.100.10 25",
                "198.51.100.10 587",
                &gateway_port,
                "192.168.77.1 8080",
                "203.0.113.2 8080",
                "192.168.77.2 80",
                "169.254.169.254 80",
                "10.99.0.1 80",
            ];
            let all: Vec<&str> = [internet.as_str()].into_iter().chain(closed).collect();
            assert_eq!(reached(&mut console, &all).await, [internet.as_str()]);
            let ask = format!(
                "for one in {INTERNET} 192.168.77.2 203.0.113.2; do \
                 ping -c 1 -W 2 $one > /dev/null && echo $one; done"
            );
            assert_eq!(console.run(&ask).await, INTERNET);

            // It poses as somebody else, with another address, and with another card.
            let says = async |console: &mut Console| !reached(console, &[&internet]).await.is_empty();
            assert!(says(&mut console).await, "as itself");
            let as_card = |mac: &str| {
                format!(
                    "ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up; \
                     ip route replace default via {gateway}"
                )
            };
            console.run(&as_card("02:00:00:00:00:09")).await;
            assert!(!says(&mut console).await, "as another card");
            console.run(&as_card(&mac.to_string())).await;
            assert!(says(&mut console).await, "as itself again");
            let as_address = format!(
                "ip addr flush dev eth0; ip addr add 10.9.9.9/32 dev eth0; ip route add {gateway} dev eth0; \
                 ip route replace default via {gateway}"
            );
            console.run(&as_address).await;
            assert!(!says(&mut console).await, "with another address");
            console.run("ip addr flush dev eth0; ip route flush all").await;
            console.run(&setup).await;
            assert!(says(&mut console).await, "as itself once more");

            // SSH comes in, and not in quarantine.
            console.run("(while :; do echo hello | nc -l -p 22; done) > /dev/null 2>&1 & true").await;
            let run = place.machines.manifest(&machine.name).unwrap().unwrap().run.unwrap();
            let (entrance, uplink) = (run.ssh.unwrap(), run.uplink.unwrap());
            assert!(comes_in(entrance).await);
            // What is used for the guest counts as its own, where that is counted.
            if !place.machines.settings().groups.enforces().is_empty() {
                let group = |pid: u32| {
                    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
                    let ours = groups.lines().filter(|line| line.contains("net-guest"));
                    ours.map(str::to_owned).collect::<Vec<_>>()
                };
                assert!(!group(uplink.pid).is_empty());
                assert_eq!(group(uplink.pid), group(run.process.pid));
            }
            place.machines.set_cut_off(&machine.name, true).await.unwrap();
            assert!(!comes_in(entrance).await);
            assert_eq!(reached(&mut console, &[&internet]).await, Vec::<String>::new());
            place.machines.set_cut_off(&machine.name, false).await.unwrap();
            assert!(comes_in(entrance).await);
            assert_eq!(reached(&mut console, &[&internet]).await, [internet.as_str()]);

            place.machines.destroy(&machine.name).await.unwrap();
            assert!(!uplink.alive().unwrap(), "the uplink is there");
        });
    });
}

/// Whether somebody answers there.
/// Tried again for a while: what listens there needs a moment after each connection.
async fn comes_in(address: SocketAddr) -> bool {
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        let asked = tokio::time::timeout(Duration::from_secs(4), async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"x").await?;
            let mut said = [0; 5];
            stream.read_exact(&mut said).await.map(|_| said)
        });
        if asked.await.is_ok_and(|said| said.is_ok_and(|said| &said == b"hello")) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    false
}
