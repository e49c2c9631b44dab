//! Network namespaces that play what is around a host: its LAN, a metadata service, the internet.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::outcome::Outcome;
use crate::waiting::eventually;

/// A network namespace, held by a process of the test's own. Dropped, it is gone.
#[derive(Debug)]
pub struct Namespace {
    pid: u32,
    holder: Option<Child>,
}

/// What a server does with whoever connects.
#[derive(Debug, Clone, Copy)]
pub enum Behaviour {
    /// Says `hello`, and closes.
    Greets,
    /// Says `hello`, and keeps the connection.
    Holds,
    /// Sends zeros without end.
    Sends,
    /// Sends back what it gets.
    Echoes,
}

impl Namespace {
    /// A new one, in which only loopback is up.
    #[must_use]
    pub fn new() -> Self {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "--", "sleep", "infinity"]).stdin(Stdio::null());
        let holder = holder.spawn().unwrap();
        let pid = holder.id();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        eventually("the namespace is there", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other != own)
        });
        let namespace = Self { pid, holder: Some(holder) };
        namespace.run("ip link set lo up");
        namespace
    }

    /// That of a process.
    #[must_use]
    pub const fn of_process(pid: u32) -> Self {
        Self { pid, holder: None }
    }

    /// The process that `ip link … netns` names it by.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs a line of shell in it, which has to succeed; its output.
    pub fn run(&self, line: &str) -> String {
        self.try_run(line).done().stdout
    }

    /// Runs a line of shell in it.
    #[must_use]
    pub fn try_run(&self, line: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid.to_string(), "--", "bash", "-c", line]);
        Outcome::of(&mut command, b"")
    }

    /// Runs `work` in a thread of its own whose sockets are in this namespace, and so those of programs that it
    /// starts.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid)).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
        .join()
        .unwrap()
    }

    /// A TCP server on every address, until the test's program ends.
    pub fn serve(&self, port: u16, behaviour: Behaviour) {
        let listener =
            self.inside(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || behave(stream, behaviour));
            }
        });
    }

    /// A TCP server that takes everything and counts the bytes.
    #[must_use]
    pub fn take(&self, port: u16) -> Arc<AtomicUsize> {
        let listener =
            self.inside(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            for mut stream in listener.incoming().flatten() {
                while let Ok(read) = stream.read(&mut buffer)
                    && read > 0
                {
                    counter.fetch_add(read, Ordering::SeqCst);
                }
            }
        });
        count
    }

    /// A resolver on every address, over UDP and (greeting only) TCP, that says `answer` to every
    /// question for an IPv4 address.
    pub fn resolve(&self, answer: Ipv4Addr) {
        self.serve(53, Behaviour::Greets);
        // One socket per address, or answers would leave from another one than was asked.
        let addresses =
            self.run("ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1");
        for address in addresses.lines().map(|line| line.parse::<Ipv4Addr>().unwrap()) {
            let socket = self.inside(move || UdpSocket::bind((address, 53)).unwrap());
            std::thread::spawn(move || {
                let mut question = [0; 512];
                while let Ok((length, from)) = socket.recv_from(&mut question) {
                    let _ = socket.send_to(&reply(&question[..length], answer), from);
                }
            });
        }
    }

    /// Counts the datagrams that come to a port.
    #[must_use]
    pub fn count_datagrams(&self, port: u16) -> Arc<AtomicUsize> {
        let socket = self.inside(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        std::thread::spawn(move || {
            while socket.recv_from(&mut [0; 16]).is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        count
    }

    /// Whether an ICMP echo request to there is answered, from here.
    #[must_use]
    pub fn pings(&self, address: Ipv4Addr) -> bool {
        self.run("echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range");
        self.inside(move || {
            let socket =
                net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)).unwrap();
            let wait = Some(Duration::from_secs(2));
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait).unwrap();
            // Type 8, code 0; the kernel writes the checksum and the identifier (RFC 792, icmp(7)).
            let request = [8, 0, 0, 0, 0, 0, 0, 1];
            let to = SocketAddrV4::new(address, 0);
            net::sendto(&socket, &request, SendFlags::empty(), &to).is_ok()
                && net::recv(&socket, &mut [0; 64], RecvFlags::empty())
                    .is_ok_and(|(length, _)| length > 0)
        })
    }

    /// Whether TCP to there is answered with `hello`, from here.
    #[must_use]
    pub fn reaches(&self, address: &str, port: u16) -> bool {
        let target = format!("{address}:{port}").parse().unwrap();
        self.inside(move || {
            let Ok(mut stream) = TcpStream::connect_timeout(&target, Duration::from_secs(2)) else {
                return false;
            };
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut said = [0; 4];
            stream.read_exact(&mut said).is_ok()
        })
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

fn behave(mut stream: TcpStream, behaviour: Behaviour) {
    let mut buffer = vec![0; 64 << 10];
    let greeted = |mut stream: &TcpStream| stream.write_all(b"hello\n").is_ok();
    match behaviour {
        Behaviour::Greets => drop(greeted(&stream)),
        Behaviour::Holds => {
            greeted(&stream);
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
        Behaviour::Sends => while stream.write_all(&buffer).is_ok() {},
        Behaviour::Echoes => {
            while let Ok(read @ 1..) = stream.read(&mut buffer)
                && stream.write_all(&buffer[..read]).is_ok()
            {}
        }
    }
}

/// A DNS message (RFC 1035) that answers `question`: with one address, or with none for other kinds.
/// What is not a question comes back as it is, which shows that it has come.
fn reply(question: &[u8], answer: Ipv4Addr) -> Vec<u8> {
    let name_end = question.iter().skip(12).position(|byte| *byte == 0).map(|at| at + 13);
    let Some(end) = name_end.map(|at| at + 4).filter(|end| *end <= question.len()) else {
        return question.to_vec();
    };
    let is_address = question[end - 4..end] == [0, 1, 0, 1];
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    reply.extend(&question[12..end]);
    if is_address {
        // A pointer to the name, type A, class IN, 60 seconds, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(answer.octets());
    }
    reply
}
