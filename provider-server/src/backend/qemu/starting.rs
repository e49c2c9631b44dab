//! Starting a machine: it is resumed from a template, or boots. Whoever waits for its first start is told which.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use golem_vm_machine::accel::Accelerator;
use golem_vm_machine::image::Image;
use golem_vm_machine::vm::{Ended, MachineName, State};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{QemuBackend, spec};
use crate::backend::{BackendError, InstanceId, InstanceSpec, ProgressSender, Started};

/// A boot that takes longer is not measured: nobody would wait for it.
const LONGEST_BOOT: Duration = Duration::from_secs(600);
/// How often is looked whether a machine has booted.
const LOOK: Duration = Duration::from_millis(250);

/// Why a machine boots that is started for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Its template could not be resumed.
    NotResumed,
    /// It has cloud-init of its requestor's own.
    CloudInit,
    /// Nothing in its image would give a resumed machine its identity.
    NoAgent,
    /// Its disk is a copy of another machine's.
    Copy,
    /// There are no templates here.
    NoneKept,
    /// There is no template of its size.
    NoTemplate,
}

impl Why {
    const fn words(self) -> &'static str {
        match self {
            Self::NotResumed => "its template could not be resumed",
            Self::CloudInit => "so that its cloud-init is run",
            Self::NoAgent => "its image has no templates",
            Self::Copy => "its disk is a copy",
            Self::NoneKept => "this provider keeps no templates",
            Self::NoTemplate => "no template of this size yet",
        }
    }
}

/// What is said of a boot.
fn booting(why: Why, accelerator: Accelerator) -> String {
    let long = match accelerator {
        Accelerator::Tcg => "; emulated: this takes a minute or two",
        Accelerator::Kvm => "",
    };
    format!("booting ({}{long})", why.words())
}

impl QemuBackend {
    /// Starts a machine, whatever it was; says what is done where somebody waits for its first start.
    pub(super) async fn begin(
        &self,
        id: InstanceId,
        first: Option<(&InstanceSpec, &ProgressSender)>,
    ) -> Result<Started, BackendError> {
        self.consoles.end(id);
        let name = spec::name(id)?;
        let has_template = self.resuming.has_template(&name, &self.machines);
        let say = async |words: String| {
            if let Some((_, progress)) = first {
                // Whoever does not listen any more need not know.
                let _ = progress.send(words).await;
            }
        };
        if has_template {
            say("resuming a template".to_owned()).await;
        }
        if let Some(started) = self.resuming.start(&name, &self.machines).await {
            return Ok(started);
        }
        let (is_first, began) = (self.boots_first(&name).await, Instant::now());
        if let Some((spec, _)) = first.filter(|_| is_first) {
            let accelerator = self.machines.settings().platform.accelerator;
            say(booting(self.why_it_boots(&name, spec, has_template), accelerator)).await;
        }
        self.machines.start(&name).await.map_err(|error| self.explained(id, error))?;
        if is_first {
            self.measure_boot(&name, began);
        }
        Ok(Started::Boots)
    }

    fn why_it_boots(&self, name: &MachineName, spec: &InstanceSpec, has_template: bool) -> Why {
        // One that can't be read boots as any other.
        let manifest = self.machines.manifest(name).ok().flatten();
        if has_template {
            Why::NotResumed
        } else if spec.user_data.is_some() {
            Why::CloudInit
        } else if manifest.as_ref().is_some_and(|manifest| manifest.copied) {
            Why::Copy
        } else if manifest.is_some_and(|manifest| !manifest.has_agent) {
            Why::NoAgent
        } else if self.owner.templates_mib == 0 {
            Why::NoneKept
        } else {
            Why::NoTemplate
        }
    }

    /// Whether a start of that machine is its first one, from power-on.
    async fn boots_first(&self, name: &MachineName) -> bool {
        matches!(self.machines.observe(name).await, Ok(State::Stopped(Ended::Never)))
    }

    /// Writes down how long the machine takes to answer that was started then, if nobody knows yet how long its image
    /// takes to boot here.
    fn measure_boot(&self, name: &MachineName, began: Instant) {
        let Ok(Some(manifest)) = self.machines.manifest(name) else { return };
        // One on top of something else than an image is resumed, or another one's copy.
        let [base] = manifest.base.as_slice() else { return };
        let hex = base.directory.file_name().map(|name| name.to_string_lossy().into_owned());
        let Ok(digest) = format!("sha256:{}", hex.unwrap_or_default()).parse() else { return };
        let measured = self.images.get(&digest);
        let unknown = matches!(measured, Ok(Some(Image { boot_millis: None, .. })));
        let Some(ssh) = manifest.run.and_then(|run| run.ssh).filter(|_| unknown) else { return };
        let images = self.images.clone();
        tokio::spawn(async move {
            if timeout(LONGEST_BOOT, answers(ssh)).await.is_ok() {
                let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                if let Err(error) = images.note_boot(&digest, millis) {
                    tracing::warn!(%digest, %error, "an image's boot time can't be written down");
                }
            }
        });
    }
}

/// Waits for an SSH server to say who it is.
async fn answers(ssh: SocketAddr) {
    loop {
        let asked = timeout(Duration::from_secs(5), async {
            let mut beginning = [0; 4];
            let mut stream = TcpStream::connect(ssh).await?;
            stream.read_exact(&mut beginning).await?;
            Ok::<_, std::io::Error>(beginning)
        });
        if matches!(asked.await, Ok(Ok(beginning)) if beginning == *b"SSH-") {
            return;
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_boot_is_told_why_and_how_long() {
        assert_eq!(
            booting(Why::NoTemplate, Accelerator::Tcg),
            "booting (no template of this size yet; emulated: this takes a minute or two)"
        );
        assert_eq!(
            booting(Why::CloudInit, Accelerator::Kvm),
            "booting (so that its cloud-init is run)"
        );
        // golem shows no more of it.
        for why in [
            Why::NotResumed,
            Why::CloudInit,
            Why::NoAgent,
            Why::Copy,
            Why::NoneKept,
            Why::NoTemplate,
        ] {
            assert!(booting(why, Accelerator::Tcg).len() <= 100, "{why:?}");
        }
    }
}
