//! What makes the VMs: which backend and why, what it enforces, whether it contains guests.

use crate::backend::{BackendChoice, BackendKind, Capabilities, Containment, Finding, choice};
use crate::control::messages::{Check, Verdict};
use crate::doctor::{BackendFacts, Facts};

/// Findings without which no VM can be made or reached; the others are drawbacks.
const ESSENTIAL: &[&str] = &["engine", "engine's identity", "networks", "reach"];
/// The subject that is judged together with who is served.
const CONTAINMENT: &str = "containment";

pub(in crate::doctor) fn backends(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    if facts.choice == BackendChoice::Auto {
        checks.extend(automatic(facts));
    }
    let used = facts.used();
    if used.is_empty() {
        checks.extend(facts.backends.iter().map(|one| away(one, false)));
        return checks;
    }
    let any_answers = used.iter().any(|one| one.found.is_ok());
    let several = used.len() > 1;
    for one in used {
        let of_it = match &one.found {
            Ok(capabilities) => present(facts, one.kind, capabilities),
            Err(_) => vec![away(one, any_answers)],
        };
        checks.extend(of_it.into_iter().map(|check| match several {
            true => Check { subject: of_several(one.kind, &check.subject), ..check },
            false => check,
        }));
    }
    checks
}

/// What `auto` took, and why not the others. Nothing is wrong with one that was not taken.
fn automatic(facts: &Facts) -> Vec<Check> {
    let asked = facts.asked();
    let mut asked: Vec<_> =
        asked.into_iter().filter(|(kind, _)| choice::AUTO.contains(kind)).collect();
    asked.sort_by_key(|(kind, found)| choice::place(*kind, found.as_ref().ok()));
    let said = choice::reasons(&asked).into_iter().map(|(kind, taken, why)| {
        let word = if taken { "taken" } else { "not taken" };
        Check::good("auto", format!("{kind} is {word}: {why}"))
    });
    said.collect()
}

/// The subject of a check that several backends have.
fn of_several(kind: BackendKind, subject: &str) -> String {
    if subject == kind.as_str() { subject.to_owned() } else { format!("{kind}: {subject}") }
}

/// What its own check is called.
fn name_of(kind: BackendKind) -> &'static str {
    match kind {
        BackendKind::Docker => "engine",
        kind => kind.as_str(),
    }
}

fn away(one: &BackendFacts, others_answer: bool) -> Check {
    let found = one.found.as_ref().err().cloned().unwrap_or_default();
    let remedy = match one.kind {
        BackendKind::Docker => {
            "install and start the Docker Engine (Debian and Ubuntu: 'apt-get install docker.io'), make sure \
             that this user may use its socket, and run 'golem-provider doctor' again"
        }
        BackendKind::Qemu => {
            "install what is missing (Debian and Ubuntu: 'apt-get install qemu-system-x86 qemu-utils \
             slirp4netns nftables'; docs/backends.md has the others), and run 'golem-provider doctor' again"
        }
        BackendKind::Multipass => {
            "install Multipass ('snap install multipass', macOS: 'brew install --cask multipass'), make sure that \
             this user may use it, and run 'golem-provider doctor' again"
        }
        BackendKind::Memory => "nothing: this backend is for tests",
    };
    let subject = name_of(one.kind);
    if others_answer {
        Check::warning(subject, found, remedy)
    } else {
        Check::bad(subject, found, remedy)
    }
}

fn present(facts: &Facts, kind: BackendKind, capabilities: &Capabilities) -> Vec<Check> {
    let mut checks: Vec<Check> = capabilities
        .findings
        .iter()
        .filter(|finding| finding.subject != CONTAINMENT)
        .map(from_finding)
        .collect();
    let name = name_of(kind);
    if !checks.iter().any(|check| check.subject == name) {
        checks.insert(0, Check::good(name, capabilities.version.clone()));
    }
    checks.extend(acceleration(capabilities));
    checks.push(limits(capabilities));
    checks.push(containment(facts, capabilities));
    checks
}

fn acceleration(capabilities: &Capabilities) -> Option<Check> {
    // A backend may have said so itself, with more of what can be done about it.
    const SUBJECT: &str = "hardware virtualisation";
    let accel = capabilities.accel.as_ref()?;
    if capabilities.findings.iter().any(|finding| finding.subject == SUBJECT) {
        return None;
    }
    if capabilities.is_emulated() {
        return Some(Check::warning(
            SUBJECT,
            format!(
                "virtual machines are emulated, which is slow, and advertised so: {}",
                accel.why
            ),
            "use a machine whose processor and kernel offer KVM, or switch it on in the firmware or, in a virtual \
             machine, in its host",
        ));
    }
    Some(Check::good(SUBJECT, format!("{}: {}", accel.kind, accel.why)))
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
