//! Which engine is meant, and why.
//!
//! The order is the Docker CLI's: `DOCKER_HOST`, else the context that `DOCKER_CONTEXT` or the
//! CLI's `config.json` names, else the sockets where engines are usually found (the system's, a
//! rootless engine's, Docker Desktop's). The choice is made once per process: an engine that is
//! down must not make us look for our instances on another one.

use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The system's engine.
const SYSTEM_SOCKET: &str = "/var/run/docker.sock";

/// Port of an engine's plain TCP listener, where an address names none.
const TCP_PORT: u16 = 2375;

/// The parts of the environment that say which engine is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub docker_context: Option<String>,
    /// `DOCKER_CONFIG`: the Docker CLI's directory, `~/.docker` when unset.
    pub docker_config: Option<PathBuf>,
    /// `DOCKER_TLS_VERIFY`.
    pub docker_tls_verify: Option<String>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process. Variables that are set to nothing count as unset.
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let path = |name| text(name).map(PathBuf::from);
        Self {
            docker_host: text("DOCKER_HOST"),
            docker_context: text("DOCKER_CONTEXT"),
            docker_config: path("DOCKER_CONFIG"),
            docker_tls_verify: text("DOCKER_TLS_VERIFY"),
            home: path("HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
        }
    }
}

/// What [`Endpoint::choose`] looks at on the disk.
pub trait Files {
    /// The text of a file, or `None` where it can't be read.
    fn read(&self, path: &Path) -> Option<String>;
    /// Whether there is something at this path.
    fn exists(&self, path: &Path) -> bool;
}

/// The real disk.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// How an engine is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`, without encryption.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// The chosen engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How it is reached.
    pub address: Address,
    /// Why this one, as the end of a sentence: `DOCKER_HOST names it`.
    pub reason: String,
}

/// Why no engine can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// An address over a transport that isn't spoken here.
    #[error(
        "{origin} names the engine '{address}', and {scheme} is not supported: use a Unix socket \
         (unix:///path/to/docker.sock) or plain TCP (tcp://host:port)"
    )]
    Scheme {
        /// Who named it.
        origin: String,
        /// The address.
        address: String,
        /// Its transport.
        scheme: &'static str,
    },
    /// An address that is none.
    #[error(
        "{origin} names the engine '{address}', which is not an address: use \
         unix:///path/to/docker.sock or tcp://host:port"
    )]
    Malformed {
        /// Who named it.
        origin: String,
        /// The text.
        address: String,
    },
    /// A context that isn't there.
    #[error(
        "{origin} names the Docker context '{name}', but {} can't be read or names no engine: \
         create it with 'docker context create', or set DOCKER_HOST",
        path.display()
    )]
    NoContext {
        /// Who named it.
        origin: String,
        /// The context.
        name: String,
        /// Where it should be.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
struct CliConfig {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

#[derive(Deserialize)]
struct ContextMeta {
    #[serde(rename = "Endpoints")]
    endpoints: std::collections::HashMap<String, ContextEndpoint>,
}

#[derive(Deserialize)]
struct ContextEndpoint {
    #[serde(rename = "Host")]
    host: Option<String>,
}

impl Endpoint {
    /// Chooses the engine.
    ///
    /// # Errors
    /// When what the environment names is not an engine that can be spoken to from here.
    pub fn choose(around: &Surroundings, files: &dyn Files) -> Result<Self, EndpointError> {
        if let Some(host) = &around.docker_host {
            return Self::named(host, "DOCKER_HOST", around.docker_tls_verify.is_some());
        }
        let config = around
            .docker_config
            .clone()
            .or_else(|| around.home.as_ref().map(|home| home.join(".docker")));
        if let Some(config) = &config
            && let Some((name, origin)) = current_context(around, config, files)
        {
            return Self::of_context(&name, &origin, config, files);
        }
        Ok(Self::found(around, files))
    }

    fn named(host: &str, origin: &str, tls: bool) -> Result<Self, EndpointError> {
        let malformed =
            || EndpointError::Malformed { origin: origin.to_owned(), address: host.to_owned() };
        let unsupported = |scheme| EndpointError::Scheme {
            origin: origin.to_owned(),
            address: host.to_owned(),
            scheme,
        };
        let (scheme, rest) = host.split_once("://").ok_or_else(malformed)?;
        let address = match scheme {
            "unix" if rest.starts_with('/') => Address::Unix(PathBuf::from(rest)),
            "tcp" | "http" if tls => return Err(unsupported("TLS")),
            "tcp" | "http" => {
                let authority = rest.trim_end_matches('/');
                if authority.is_empty() || authority.contains(['/', '@', ' ']) {
                    return Err(malformed());
                }
                let has_port =
                    authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                Address::Tcp(if has_port {
                    authority.to_owned()
                } else {
                    format!("{authority}:{TCP_PORT}")
                })
            }
            "ssh" => return Err(unsupported("SSH")),
            "https" => return Err(unsupported("TLS")),
            "npipe" => return Err(unsupported("a Windows pipe")),
            "fd" => return Err(unsupported("a passed descriptor")),
            _ => return Err(malformed()),
        };
        Ok(Self { address, reason: format!("{origin} names it") })
    }

    fn of_context(
        name: &str,
        origin: &str,
        config: &Path,
        files: &dyn Files,
    ) -> Result<Self, EndpointError> {
        let folder = HEXLOWER.encode(&Sha256::digest(name));
        let path = config.join("contexts/meta").join(&folder).join("meta.json");
        let host = files
            .read(&path)
            .and_then(|text| serde_json::from_str::<ContextMeta>(&text).ok())
            .and_then(|mut meta| meta.endpoints.remove("docker"))
            .and_then(|endpoint| endpoint.host);
        let Some(host) = host else {
            let (origin, name) = (origin.to_owned(), name.to_owned());
            return Err(EndpointError::NoContext { origin, name, path });
        };
        let tls = files.exists(&config.join("contexts/tls").join(folder));
        Self::named(&host, &format!("the Docker context '{name}' ({origin})"), tls)
    }

    fn found(around: &Surroundings, files: &dyn Files) -> Self {
        let mut candidates = vec![(PathBuf::from(SYSTEM_SOCKET), "the system's engine")];
        if let Some(runtime) = &around.runtime_dir {
            candidates.push((runtime.join("docker.sock"), "a rootless engine"));
        }
        if let Some(home) = &around.home {
            candidates.push((home.join(".docker/run/docker.sock"), "Docker Desktop's engine"));
            candidates.push((home.join(".docker/desktop/docker.sock"), "Docker Desktop's engine"));
        }
        let found = candidates.into_iter().find(|(socket, _)| files.exists(socket));
        match found {
            Some((socket, whose)) => Self {
                address: Address::Unix(socket),
                reason: format!("DOCKER_HOST and contexts name none, and this is {whose}"),
            },
            None => Self {
                address: Address::Unix(PathBuf::from(SYSTEM_SOCKET)),
                reason:
                    "DOCKER_HOST and contexts name none, and no other engine's socket was found"
                        .to_owned(),
            },
        }
    }
}

/// The context in use, and who says so. `default` stands for "none".
fn current_context(
    around: &Surroundings,
    config: &Path,
    files: &dyn Files,
) -> Option<(String, String)> {
    let (name, origin) = match &around.docker_context {
        Some(name) => (name.clone(), "DOCKER_CONTEXT".to_owned()),
        None => {
            let path = config.join("config.json");
            let text = files.read(&path)?;
            let name = serde_json::from_str::<CliConfig>(&text).ok()?.current_context?;
            (name, path.display().to_string())
        }
    };
    (!name.is_empty() && name != "default").then_some((name, origin))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Fake(HashMap<PathBuf, String>);

    impl Fake {
        fn with(mut self, path: &str, text: &str) -> Self {
            self.0.insert(PathBuf::from(path), text.to_owned());
            self
        }
    }

    impl Files for Fake {
        fn read(&self, path: &Path) -> Option<String> {
            self.0.get(path).cloned()
        }

        fn exists(&self, path: &Path) -> bool {
            self.0.keys().any(|file| file.starts_with(path))
        }
    }

    fn lab_folder() -> String {
        HEXLOWER.encode(&Sha256::digest("lab"))
    }

    fn home() -> Surroundings {
        Surroundings {
            home: Some("/home/ann".into()),
            runtime_dir: Some("/run/user/1000".into()),
            ..Surroundings::default()
        }
    }

    fn chosen(around: &Surroundings, files: &Fake) -> String {
        match Endpoint::choose(around, files) {
            Ok(endpoint) => format!("{} because {}", endpoint.address, endpoint.reason),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn docker_host_comes_first() {
        let files = Fake::default().with(SYSTEM_SOCKET, "");
        let table = [
            ("unix:///run/other.sock", "unix:///run/other.sock because DOCKER_HOST names it"),
            ("tcp://10.0.0.1:4000", "tcp://10.0.0.1:4000 because DOCKER_HOST names it"),
            ("tcp://engine/", "tcp://engine:2375 because DOCKER_HOST names it"),
            ("tcp://[::1]:2375", "tcp://[::1]:2375 because DOCKER_HOST names it"),
            (
                "ssh://ann@box",
                "DOCKER_HOST names the engine 'ssh://ann@box', and SSH is not supported: use a \
                 Unix socket (unix:///path/to/docker.sock) or plain TCP (tcp://host:port)",
            ),
            (
                "/run/docker.sock",
                "DOCKER_HOST names the engine '/run/docker.sock', which is not an address: use \
                 unix:///path/to/docker.sock or tcp://host:port",
            ),
        ];
        for (host, expected) in table {
            let around = Surroundings {
                docker_host: Some(host.to_owned()),
                docker_context: Some("lab".to_owned()),
                ..home()
            };
            assert_eq!(chosen(&around, &files), expected);
        }
        for bad in ["unix://relative", "tcp://", "gopher://x", "unix:"] {
            let around = Surroundings { docker_host: Some(bad.to_owned()), ..home() };
            let error = Endpoint::choose(&around, &files).unwrap_err();
            assert!(matches!(error, EndpointError::Malformed { .. }), "{bad}");
        }
    }

    #[test]
    fn encrypted_tcp_is_refused_and_not_spoken_to_in_the_clear() {
        let around = Surroundings {
            docker_host: Some("tcp://10.0.0.1:2376".to_owned()),
            docker_tls_verify: Some("1".to_owned()),
            ..home()
        };
        assert!(chosen(&around, &Fake::default()).contains("TLS is not supported"));
        let meta = format!("/home/ann/.docker/contexts/meta/{}/meta.json", lab_folder());
        let key = format!("/home/ann/.docker/contexts/tls/{}/docker/key.pem", lab_folder());
        let files = Fake::default()
            .with(&meta, r#"{"Endpoints":{"docker":{"Host":"tcp://10.0.0.1:2376"}}}"#)
            .with(&key, "");
        let around = Surroundings { docker_context: Some("lab".to_owned()), ..home() };
        assert!(chosen(&around, &files).contains("TLS is not supported"));
    }

    #[test]
    fn contexts_are_read_as_the_cli_reads_them() {
        let meta = format!("/home/ann/.docker/contexts/meta/{}/meta.json", lab_folder());
        let text = r#"{"Name":"lab","Endpoints":{"docker":{"Host":"unix:///run/lab.sock"}}}"#;
        let files = Fake::default()
            .with("/home/ann/.docker/config.json", r#"{"auths":{},"currentContext":"lab"}"#)
            .with(&meta, text)
            .with(SYSTEM_SOCKET, "");
        assert_eq!(
            chosen(&home(), &files),
            "unix:///run/lab.sock because the Docker context 'lab' \
             (/home/ann/.docker/config.json) names it"
        );
        let default = Surroundings { docker_context: Some("default".to_owned()), ..home() };
        assert!(chosen(&default, &files).starts_with("unix:///var/run/docker.sock because"));
        let other = Surroundings { docker_context: Some("gone".to_owned()), ..home() };
        let error = chosen(&other, &files);
        assert!(error.starts_with("DOCKER_CONTEXT names the Docker context 'gone'"), "{error}");
        let elsewhere = Surroundings { docker_config: Some("/etc/dk".into()), ..home() };
        assert!(chosen(&elsewhere, &files).starts_with("unix:///var/run/docker.sock because"));
    }

    #[test]
    fn sockets_are_tried_in_order() {
        let table = [
            (vec![], "unix:///var/run/docker.sock", "no other engine's socket was found"),
            (
                vec!["/var/run/docker.sock", "/run/user/1000/docker.sock"],
                "unix:///var/run/docker.sock",
                "the system's engine",
            ),
            (
                vec!["/run/user/1000/docker.sock", "/home/ann/.docker/run/docker.sock"],
                "unix:///run/user/1000/docker.sock",
                "a rootless engine",
            ),
            (
                vec!["/home/ann/.docker/desktop/docker.sock"],
                "unix:///home/ann/.docker/desktop/docker.sock",
                "Docker Desktop's engine",
            ),
        ];
        for (sockets, address, reason) in table {
            let files = sockets.into_iter().fold(Fake::default(), |files, at| files.with(at, ""));
            let endpoint = Endpoint::choose(&home(), &files).unwrap();
            assert_eq!(endpoint.address.to_string(), address);
            assert!(endpoint.reason.contains(reason), "{}", endpoint.reason);
        }
    }
}
