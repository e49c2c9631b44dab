//! `golem-provider image`: through the running provider, or on its state while none runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::text::printable;
use serde_json::json;
use tokio::sync::mpsc;

use super::exit_code::{self, Coded};
use super::lines::LiveLines;
use super::offline::Offline;
use super::place::PlaceArgs;
use super::remote::Remote;
use super::status::image_table;
use super::terminal::{Style, print, print_json};
use crate::backend::BackendKind;
use crate::control::messages::{
    self, BuildImage, ImportImage, JobOutcome, JobProgress, JobStarted, PullImage,
};
use crate::images::{ImageError, ImageInfo, ImageName, ImageRow};

pub(super) const EXAMPLES: &str = "\
These work whether or not the provider runs. What was built can be rented; what was pulled can be
once it is named in GOLEM_PROVIDER_IMAGES.

Examples:
  golem-provider image build debian-12
  golem-provider image build ubuntu-24.04 --backend qemu
  golem-provider image pull registry.example/team/base:1.2 --name base --backend docker
  golem-provider image pull ubuntu-24.04 --backend qemu
  golem-provider image import disk.qcow2 --name mine --backend qemu
  golem-provider image list
  golem-provider image verify debian-12 --backend qemu
  golem-provider image rm base";

const PULL_HELP: &str = "\
What is fetched for qemu is checked before it is used: official images by the distribution's list of
checksums, whose signature is verified; others by the checksum that you give. A fetch that broke off
goes on where it ended when the same command is given again.

Examples:
  golem-provider image pull registry.example/team/base:1.2 --name base
  golem-provider image pull ubuntu-24.04 --backend qemu
  golem-provider image pull https://example.org/disk.qcow2 --sha256 2c26…e7ae --name mine --backend qemu";

/// How often a job is asked how far it is.
const POLL: Duration = Duration::from_millis(250);
/// How long a short request may take.
const SHORT: Duration = Duration::from_secs(60);
/// How many lines of progress may wait to be shown.
const QUEUE: usize = 256;

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Build debian-12 or ubuntu-24.04 from the distribution's packages
    #[command(
        after_help = "Examples:\n  golem-provider image build debian-12\n  golem-provider image build noble"
    )]
    Build {
        /// debian-12, ubuntu-24.04, or another name of these
        #[arg(value_name = "NAME", default_value = "debian-12")]
        name: String,
        /// For which backend [default: the provider's first]
        #[arg(long, value_name = "BACKEND")]
        backend: Option<BackendKind>,
    },
    /// Fetch an image: from a registry (docker), or an official cloud image or a disk file (qemu)
    #[command(after_help = PULL_HELP)]
    Pull {
        /// registry/name:tag, registry/name@sha256:…, debian-12, ubuntu-24.04, or https://…
        #[arg(value_name = "REF")]
        reference: String,
        /// The file has to have this SHA-256 (qemu): then no signed list is asked
        #[arg(long, value_name = "HEX", conflicts_with = "sha512")]
        sha256: Option<String>,
        /// The same with SHA-512
        #[arg(long, value_name = "HEX")]
        sha512: Option<String>,
        /// What to call it here [default: the last part of REF]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// For which backend [default: the provider's first]
        #[arg(long, value_name = "BACKEND")]
        backend: Option<BackendKind>,
    },
    /// Take a disk file (qcow2 or raw) as an image (qemu)
    #[command(
        after_help = "Example:\n  golem-provider image import disk.qcow2 --name mine --backend qemu"
    )]
    Import {
        /// A qcow2 file, or the raw content of a disk that boots by BIOS
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What to call it here [default: the file's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// For which backend [default: the provider's first]
        #[arg(long, value_name = "BACKEND")]
        backend: Option<BackendKind>,
    },
    /// Read an image again from its first byte to its last, and compare it with its digest (qemu)
    #[command(after_help = "Example:\n  golem-provider image verify debian-12 --backend qemu")]
    Verify {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Of which backend, where several have one of that name
        #[arg(long, value_name = "BACKEND")]
        backend: Option<BackendKind>,
    },
    /// Show the images, and which of them can be rented
    #[command(visible_alias = "ls", after_help = "Example:\n  golem-provider image list --json")]
    List,
    /// Give an image up, and its templates; VMs that were made from it go on
    #[command(
        visible_alias = "remove",
        after_help = "Of qemu none is given up whose VMs are still there: their disks lie on it.\n\n\
                      Example:\n  golem-provider image rm base"
    )]
    Rm {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Of which backend, where several have one of that name
        #[arg(long, value_name = "BACKEND")]
        backend: Option<BackendKind>,
    },
}

/// The two ways to get something done.
enum Way {
    Running(Remote),
    Offline(Box<Offline>),
}

impl Way {
    async fn find(place: &PlaceArgs) -> anyhow::Result<Self> {
        Ok(match Remote::find(place).await? {
            Some(remote) => Self::Running(remote),
            None => Self::Offline(Box::new(Offline::open(place).await?)),
        })
    }

    async fn images(&self) -> anyhow::Result<Vec<ImageInfo>> {
        Ok(match self {
            Self::Running(remote) => remote.get_within(messages::IMAGES, SHORT).await?,
            Self::Offline(offline) => offline.images.list().await?,
        })
    }

    async fn close(self) {
        if let Self::Offline(offline) = self {
            offline.close().await;
        }
    }
}

pub(super) async fn run(place: &PlaceArgs, command: &ImageCommand) -> anyhow::Result<ExitCode> {
    let way = Way::find(place).await?;
    let done = carry_out(place, command, &way).await;
    way.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn carry_out(place: &PlaceArgs, command: &ImageCommand, way: &Way) -> anyhow::Result<()> {
    match command {
        ImageCommand::List => list(place, &way.images().await?),
        ImageCommand::Rm { name, backend } => remove(place, way, name, *backend).await,
        ImageCommand::Build { .. }
        | ImageCommand::Pull { .. }
        | ImageCommand::Import { .. }
        | ImageCommand::Verify { .. } => {
            check_digits(command)?;
            let mut lines = LiveLines::new();
            let made = match way {
                Way::Running(remote) => make_there(remote, command, &mut lines).await,
                Way::Offline(offline) => make_here(offline, command, &mut lines).await,
            };
            lines.end(made.is_err());
            let row = made?;
            let is_it =
                |info: &ImageInfo| info.row.name == row.name && info.row.backend == row.backend;
            let info = way.images().await?.into_iter().find(is_it);
            told(place, command, &row, info.as_ref())
        }
    }
}

fn list(place: &PlaceArgs, images: &[ImageInfo]) -> anyhow::Result<()> {
    if place.json {
        return print_json(&json!({"images": images}));
    }
    if images.is_empty() {
        print("There are no images: 'golem-provider image build debian-12' makes one.\n");
    } else {
        print(&image_table(images, Style::of_stdout()));
    }
    Ok(())
}

async fn remove(
    place: &PlaceArgs,
    way: &Way,
    name: &str,
    backend: Option<BackendKind>,
) -> anyhow::Result<()> {
    // A name goes into a path: what can't be one is refused before it is sent anywhere.
    let canonical = crate::images::canonical(name);
    let parsed: crate::images::ImageName = canonical
        .parse()
        .map_err(|error: crate::images::ImageNameError| Coded::usage(error.to_string()))?;
    match way {
        Way::Running(remote) => {
            let mut path = messages::IMAGE.replace("{name}", parsed.as_str());
            if let Some(kind) = backend {
                path.push_str(&format!("?backend={kind}"));
            }
            remote.delete(&path, SHORT).await?;
        }
        Way::Offline(offline) => offline.images.remove(parsed.as_str(), backend).await?,
    }
    if place.json {
        return print_json(&json!({"removed": parsed.as_str()}));
    }
    print(&format!("The image {parsed} is given up; VMs that were made from it go on.\n"));
    Ok(())
}

/// What is no checksum is refused before anything is asked.
fn check_digits(command: &ImageCommand) -> anyhow::Result<()> {
    let ImageCommand::Pull { sha256, sha512, .. } = command else { return Ok(()) };
    for (option, given, digits) in [("--sha256", sha256, 64), ("--sha512", sha512, 128)] {
        let Some(text) = given else { continue };
        if text.len() != digits || !text.chars().all(|c| c.is_ascii_hexdigit()) {
            let shown = printable(text, 140);
            let problem =
                format!("{option} takes {digits} hexadecimal digits, and '{shown}' is not that");
            return Err(Coded::usage(problem).into());
        }
    }
    Ok(())
}

fn told(
    place: &PlaceArgs,
    command: &ImageCommand,
    row: &ImageRow,
    info: Option<&ImageInfo>,
) -> anyhow::Result<()> {
    let offered = info.is_some_and(|info| info.offered);
    if place.json {
        let size = info.and_then(|info| info.details.size_bytes);
        return print_json(&json!({"image": row, "size_bytes": size, "offered": offered}));
    }
    if matches!(command, ImageCommand::Verify { .. }) {
        print(&format!("The image {} is what it was ({}).\n", row.name, row.digest));
        return Ok(());
    }
    let next = if offered {
        "It can be rented.".to_owned()
    } else {
        format!(
            "It can be rented once GOLEM_PROVIDER_IMAGES names it: add {} there and start the \
             provider again.",
            row.name
        )
    };
    print(&format!("The image {} is ready ({}). {next}\n", row.name, row.digest));
    Ok(())
}

/// Has the running provider make an image.
async fn make_there(
    remote: &Remote,
    command: &ImageCommand,
    lines: &mut LiveLines,
) -> anyhow::Result<ImageRow> {
    let JobStarted { job } = match command {
        ImageCommand::Pull { reference, name, sha256, sha512, backend } => {
            let (reference, name) = (reference.clone(), name.clone());
            let checksum = sha256.clone().or_else(|| sha512.clone());
            let body = PullImage { reference, name, checksum, backend: *backend };
            remote.post(messages::PULL_IMAGE, &body, SHORT).await?
        }
        ImageCommand::Import { file, name, backend } => {
            let body = ImportImage { file: whole(file)?, name: name.clone(), backend: *backend };
            remote.post(messages::IMPORT_IMAGE, &body, SHORT).await?
        }
        ImageCommand::Verify { name, backend } => {
            let parsed: ImageName =
                crate::images::canonical(name).parse().map_err(ImageError::Name)?;
            let mut path = messages::VERIFY_IMAGE.replace("{name}", parsed.as_str());
            if let Some(kind) = backend {
                path.push_str(&format!("?backend={kind}"));
            }
            remote.post(&path, &(), SHORT).await?
        }
        ImageCommand::Build { name, backend } => {
            let body = BuildImage { name: name.clone(), backend: *backend };
            remote.post(messages::BUILD_IMAGE, &body, SHORT).await?
        }
        ImageCommand::List | ImageCommand::Rm { .. } => bail!("nothing to make"),
    };
    let path = messages::JOB.replace("{id}", &job.to_string());
    tokio::select! {
        made = follow(remote, &path, lines) => made,
        _ = tokio::signal::ctrl_c() => {
            remote.delete(&path, SHORT).await.context("interrupted, and it could not be cancelled")?;
            bail!("interrupted; it was cancelled")
        }
    }
}

/// The file's whole path: the provider is somewhere else.
fn whole(file: &Path) -> anyhow::Result<PathBuf> {
    let found = file.canonicalize();
    found.map_err(|error| Coded::usage(format!("can't read {}: {error}", file.display())).into())
}

async fn follow(remote: &Remote, path: &str, lines: &mut LiveLines) -> anyhow::Result<ImageRow> {
    let mut next = 0;
    loop {
        let progress: JobProgress = remote
            .get(&format!("{path}?from={next}"))
            .await
            .context("the provider can't be asked how far it is any more")?;
        next = progress.next;
        for line in &progress.lines {
            lines.show(line);
        }
        match progress.outcome {
            None => tokio::time::sleep(POLL).await,
            Some(JobOutcome::Done(row)) => return Ok(row),
            Some(JobOutcome::Failed(problem)) => {
                let code = match problem.code {
                    ErrorCode::BackendUnavailable => exit_code::NO_BACKEND,
                    ErrorCode::ValidationFailed => exit_code::USAGE,
                    _ => exit_code::FAILURE,
                };
                return Err(Coded { code, message: printable(&problem.detail, 4000) }.into());
            }
        }
    }
}

/// Makes an image in this process.
async fn make_here(
    offline: &Offline,
    command: &ImageCommand,
    lines: &mut LiveLines,
) -> anyhow::Result<ImageRow> {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let images = &offline.images;
    let making = async {
        match command {
            ImageCommand::Pull { reference, name, sha256, sha512, backend } => {
                let backend = offline.backend_for_images(*backend).await?;
                let checksum = sha256.clone().or_else(|| sha512.clone());
                Ok(images.pull(reference, checksum, name.as_deref(), backend, sender).await?)
            }
            ImageCommand::Import { file, name, backend } => {
                let backend = offline.backend_for_images(*backend).await?;
                Ok(images.import(&whole(file)?, name.as_deref(), backend, sender).await?)
            }
            ImageCommand::Verify { name, backend } => Ok(images.verify(name, *backend).await?),
            ImageCommand::Build { name, backend } => {
                // Before anything is asked or tried for it.
                let _: ImageName =
                    crate::images::canonical(name).parse().map_err(ImageError::Name)?;
                let backend = offline.backend_for_images(*backend).await?;
                Ok(images.build(name, backend, sender).await?)
            }
            ImageCommand::List | ImageCommand::Rm { .. } => bail!("nothing to make"),
        }
    };
    // One listener for all rounds: Ctrl-C is heard while a line is being shown, too.
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(making, interrupted);
    let made = loop {
        tokio::select! {
            // In this order, so that lines are shown before the end that they led to.
            biased;
            _ = &mut interrupted => bail!("interrupted; what was half made is removed by the next build"),
            Some(line) = receiver.recv() => lines.show(&line),
            made = &mut making => break made,
        }
    };
    while let Ok(line) = receiver.try_recv() {
        lines.show(&line);
    }
    made
}
