//! What makes the VMs: the engine, what it enforces, whether it contains guests, the images.

use crate::backend::{Capabilities, Containment, Finding};
use crate::control::messages::{Check, Verdict};
use crate::doctor::Facts;
use crate::images::ImageInfo;

/// Findings without which no VM can be made or reached; the others are drawbacks.
const ESSENTIAL: &[&str] = &["engine", "engine's identity", "networks", "reach"];
/// The subject that is judged together with who is served.
const CONTAINMENT: &str = "containment";

pub(in crate::doctor) fn backend(facts: &Facts) -> Vec<Check> {
    let capabilities = match &facts.backend {
        Ok(capabilities) => capabilities,
        Err(reason) => {
            let remedy = "install and start the Docker Engine (Debian and Ubuntu: 'apt-get install \
                          docker.io'), make sure that this user may use its socket, and run \
                          'golem-provider doctor' again";
            return vec![Check::bad("engine", reason.clone(), remedy)];
        }
    };
    let mut checks: Vec<Check> = capabilities
        .findings
        .iter()
        .filter(|finding| finding.subject != CONTAINMENT)
        .map(from_finding)
        .collect();
    if !checks.iter().any(|check| check.subject == "engine") {
        checks.insert(0, Check::good("engine", capabilities.version.clone()));
    }
    checks.push(limits(capabilities));
    checks.push(containment(facts, capabilities));
    checks
}

fn from_finding(finding: &Finding) -> Check {
    let verdict = match finding {
        Finding { good: true, .. } => Verdict::Good,
        Finding { subject, .. } if ESSENTIAL.contains(&subject.as_str()) => Verdict::Bad,
        _ => Verdict::Warning,
    };
    Check {
        subject: finding.subject.clone(),
        verdict,
        found: finding.detail.clone(),
        remedy: finding.remedy.clone(),
    }
}

fn limits(capabilities: &Capabilities) -> Check {
    let enforced = &capabilities.enforced;
    let missing: Vec<_> = ["cpu", "memory", "processes"]
        .into_iter()
        .filter(|limit| !enforced.iter().any(|have| have == limit))
        .collect();
    let list = if enforced.is_empty() { "none".to_owned() } else { enforced.join(", ") };
    if missing.is_empty() {
        return Check::good("limits", format!("enforced: {list}"));
    }
    Check::warning(
        "limits",
        format!("enforced: {list}; not enforced, and advertised so: {}", missing.join(", ")),
        "one VM can take these from all the others: rent out to requestors you trust only, until \
         the kernel and the engine enforce them",
    )
}

fn containment(facts: &Facts, capabilities: &Capabilities) -> Check {
    let Containment::Uncontained(reason) = &capabilities.containment else {
        return Check::good(CONTAINMENT, "guests are kept from this host and its network");
    };
    let trust = facts.trust;
    if trust.allow_uncontained {
        return Check::warning(
            CONTAINMENT,
            format!(
                "{reason}. Strangers are served all the same, because \
                 GOLEM_PROVIDER_ALLOW_UNCONTAINED is true; this is advertised"
            ),
            "keep nothing on this machine and its network that a guest must not reach, or unset \
             GOLEM_PROVIDER_ALLOW_UNCONTAINED",
        );
    }
    if trust.trusted > 0 {
        let who = if trust.trusted == 1 {
            "the one requestor".to_owned()
        } else {
            format!("the {} requestors", trust.trusted)
        };
        return Check::warning(
            CONTAINMENT,
            format!(
                "{reason}. So only {who} in GOLEM_PROVIDER_TRUSTED_REQUESTORS can rent, and no \
                 offers are advertised"
            ),
            "nothing, if that is what you want; GOLEM_PROVIDER_ALLOW_UNCONTAINED=true serves \
             strangers too, where this host and its network are expendable",
        );
    }
    Check::bad(
        CONTAINMENT,
        format!(
            "{reason}. So only trusted requestors are served, and GOLEM_PROVIDER_TRUSTED_REQUESTORS \
             names none: nobody can rent here"
        ),
        "set GOLEM_PROVIDER_TRUSTED_REQUESTORS to the ids of those you trust ('golem id' shows \
         one's own), or GOLEM_PROVIDER_ALLOW_UNCONTAINED=true where this host and its network are \
         expendable",
    )
}

pub(in crate::doctor) fn images(facts: &Facts) -> Check {
    const SUBJECT: &str = "images";
    let images = match &facts.images {
        Ok(images) => images,
        Err(reason) => {
            return Check::warning(
                SUBJECT,
                format!("the images could not be listed: {reason}"),
                "put that right, and run 'golem-provider doctor' again",
            );
        }
    };
    let offered: Vec<&ImageInfo> = images.iter().filter(|image| image.offered).collect();
    if offered.is_empty() {
        let (found, remedy) = if images.is_empty() {
            ("there is no image, so nothing can be rented".to_owned(), build_remedy(facts))
        } else {
            let names: Vec<_> = images.iter().map(|image| image.row.name.as_str()).collect();
            (
                format!("none of the images ({}) can be rented", names.join(", ")),
                "name those that may be in GOLEM_PROVIDER_IMAGES, or unset it to rent out all that \
                 were built here"
                    .to_owned(),
            )
        };
        return Check::bad(SUBJECT, found, remedy);
    }
    // Without an engine every image looks lost; that is said once, by the engine's check.
    if facts.backend.is_ok()
        && let Some(lost) = offered.iter().find(|image| image.size_bytes.is_none())
    {
        let name = &lost.row.name;
        let again = if lost.row.built {
            format!("'golem-provider image build {name}'")
        } else {
            format!("'golem-provider image rm {name}' and 'golem-provider image pull'")
        };
        return Check::bad(
            SUBJECT,
            format!("the image {name} is no longer on the engine"),
            format!("make it again with {again}"),
        );
    }
    let names: Vec<_> = offered.iter().map(|image| image.row.name.as_str()).collect();
    let list = names.join(", ");
    let default = crate::images::canonical(&facts.default_image);
    if names.contains(&default.as_str()) {
        return Check::good(SUBJECT, format!("for rent: {list}; {default} by default"));
    }
    Check::warning(
        SUBJECT,
        format!("for rent: {list}; the default image {default} is not among them"),
        format!(
            "build it ('golem-provider image build {default}'), or set GOLEM_PROVIDER_DEFAULT_IMAGE"
        ),
    )
}

fn build_remedy(facts: &Facts) -> String {
    let name = crate::images::canonical(&facts.default_image);
    let known = matches!(name.as_str(), "debian-12" | "ubuntu-24.04");
    let name = if known { name.as_str() } else { "debian-12" };
    format!("run 'golem-provider image build {name}'")
}
