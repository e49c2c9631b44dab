//! A real OpenSSH server on a port of its own.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Sshd {
    pub port: u16,
    /// Its host key, as one line.
    pub host_key: String,
    /// The only user that can log in: the one that runs the tests.
    pub user: String,
    /// Who may: a file to write keys into.
    pub authorized: PathBuf,
    dir: tempfile::TempDir,
    child: Child,
}

fn keygen(path: &Path) -> String {
    let _ = std::fs::remove_file(path);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "host", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
    let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    public.trim().to_owned()
}

impl Sshd {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host_key = keygen(&dir.path().join("host"));
        let authorized = dir.path().join("authorized");
        std::fs::write(&authorized, "").unwrap();
        // Where it drops its privileges; it is there where sshd runs as a service.
        let _ = std::fs::create_dir_all("/run/sshd");
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap().trim().to_owned();
        // Somebody else may take a port between its choice and sshd's start: then another one.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            write_config(dir.path(), port);
            let mut child = spawn(dir.path());
            if answers(port, &mut child) {
                return Self { port, host_key, user, authorized, dir, child };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("sshd does not start: {:?}", std::fs::read_to_string(dir.path().join("log")));
    }

    /// Another machine takes its place: same port, other host key.
    pub fn swap_host_key(&mut self) {
        self.stop();
        self.host_key = keygen(&self.dir.path().join("host"));
        let again = || {
            let mut child = spawn(self.dir.path());
            answers(self.port, &mut child).then_some(child)
        };
        self.child = (0..5).find_map(|_| again()).expect("sshd starts again on its port");
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config(dir: &Path, port: u16) {
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nPidFile none\nUsePAM no\n\
         AuthorizedKeysFile {0}/authorized\nStrictModes no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPrintMotd no\n\
         MaxStartups 100\n",
        dir.display()
    );
    std::fs::write(dir.join("config"), config).unwrap();
}

/// Whether this sshd, and not another program, answers at the port.
fn answers(port: u16, child: &mut Child) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut greeting = [0; 4];
            return stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-";
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn spawn(dir: &Path) -> Child {
    Command::new("/usr/sbin/sshd")
        .args(["-D", "-f"])
        .arg(dir.join("config"))
        .arg("-E")
        .arg(dir.join("log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tests need OpenSSH's server: apt-get install openssh-server")
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}
