//! Bodies of the fuzz targets for what the engine and its files say; see `fuzz/README.md`.

use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerInspectResponse, ContainerStatsResponse, ContainerSummary, SystemInfo,
};
use golem_vm_protocol::fuzzing::Target;
use golem_vm_protocol::text::is_printable;

use super::endpoint::{Endpoint, Files, Surroundings};
use super::guest::{self, Guest};
use super::{metering, network, observation, probe, progress, proxy, pull, tags};
use crate::backend::Observation;

/// Every target of this module: its name and its body.
pub const TARGETS: &[Target] = &[
    ("engine_container", container),
    ("engine_stats", stats),
    ("engine_info", info),
    ("trial_guest", trial_guest),
    ("engine_words", words),
    ("engine_endpoint", endpoint),
    ("image_reference", reference),
    ("route_table", route_table),
];

/// Whatever the engine says of a container, it amounts to something that can be shown.
fn container(data: &[u8]) {
    if let Ok(container) = serde_json::from_slice::<ContainerInspectResponse>(data) {
        showable(&observation::inspected(&container).0);
    }
    if let Ok(container) = serde_json::from_slice::<ContainerSummary>(data)
        && let Some((_, (observation, _))) = observation::listed(&container)
    {
        showable(&observation);
    }
}

fn showable(observation: &Observation) {
    match observation {
        Observation::Broken { reason } => assert!(is_printable(reason, 300), "{reason:?}"),
        Observation::Running { ssh } => assert!(!ssh.ip().to_string().is_empty()),
        _ => {}
    }
}

/// Figures are figures, whatever the engine counts.
fn stats(data: &[u8]) {
    let Ok(stats) = serde_json::from_slice::<ContainerStatsResponse>(data) else { return };
    let usage = metering::used(&stats);
    assert!(usage.cpu_percent.is_finite() && usage.cpu_percent >= 0.0, "{}", usage.cpu_percent);
}

/// What `doctor` shows of an engine is harmless.
fn info(data: &[u8]) {
    let Ok(info) = serde_json::from_slice::<SystemInfo>(data) else { return };
    let (enforced, mut findings) = guest::judge(&info, None);
    assert!(enforced.iter().all(|word| is_printable(word, 32)));
    findings.extend(probe::warnings(&info));
    for finding in findings {
        assert!(is_printable(&finding.detail, 1000), "{:?}", finding.detail);
    }
}

/// What a trial guest prints: nothing is taken for enforced that it does not show.
fn trial_guest(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let seen = Guest::read(&text);
    if let Err(reason) = &seen {
        assert!(is_printable(reason, 300), "{reason:?}");
    }
    let shows_nothing =
        !text.contains("max=") && !text.contains("_us=") && !text.contains("bytes=");
    let (enforced, findings) = guest::judge(&SystemInfo::default(), Some(&seen));
    assert!(!shows_nothing || enforced.is_empty(), "{enforced:?}");
    for finding in findings {
        assert!(is_printable(&finding.detail, 1000), "{:?}", finding.detail);
    }
}

/// What programs print that are started, or the engine while it builds.
fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        let plain = progress::without_colours(line);
        assert!(plain.len() <= line.len());
    }
    if let Some(proxy) = proxy::proxy_in(&text) {
        assert!(!proxy.contains('\'') && !proxy.is_empty());
    }
    let name = tags::pulled_repository(&text);
    assert!(name.starts_with("golem/pulled-"));
}

/// The files of the `docker` command, by which an engine is found.
struct OneFile<'t>(&'t str);

impl Files for OneFile<'_> {
    fn read(&self, _: &Path) -> Option<String> {
        Some(self.0.to_owned())
    }

    fn exists(&self, path: &Path) -> bool {
        path.ends_with("docker.sock")
    }
}

fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for around in [
        Surroundings { docker_host: Some(text.to_owned()), ..Surroundings::default() },
        Surroundings { home: Some(PathBuf::from("/home/a")), ..Surroundings::default() },
        Surroundings {
            docker_config: Some(PathBuf::from("/c")),
            docker_context: Some("lab".to_owned()),
            ..Surroundings::default()
        },
    ] {
        let _ = Endpoint::choose(&around, &OneFile(text));
    }
}

/// A reference that is taken is one, and as text it is read as the same.
fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(reference) = pull::Reference::parse(text) else { return };
    let written = reference.as_text();
    assert!(is_printable(&written, 500) && !written.contains(' '), "{written:?}");
    assert_eq!(pull::Reference::parse(&written).as_ref(), Ok(&reference), "{written}");
}

fn route_table(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let networks = network::routed_networks(text);
    assert!(networks.len() <= text.lines().count());
    assert!(networks.iter().all(|(_, mask)| *mask != 0));
}
