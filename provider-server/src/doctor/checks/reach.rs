//! How the world gets here: forwarder, ports, port checkers, discovery.

use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;

use crate::control::messages::{Check, PortsStatus};
use crate::doctor::{Facts, LookedAtPorts, Peer, PortsFacts, TakenPort};
use crate::ports::display;

/// How many ports are named one by one.
const NAMED_PORTS: usize = 5;

pub(in crate::doctor) fn forwarder(facts: &Facts) -> Check {
    const SUBJECT: &str = "forwarder";
    match (&facts.forwarder.hello, &facts.forwarder.program) {
        (Err(reason), _) => Check::bad(
            SUBJECT,
            reason.clone(),
            "when no SSH session is in use, end that process and start the provider again",
        ),
        (Ok(Some(hello)), Err(reason)) => Check::warning(
            SUBJECT,
            format!("process {} runs, but could not be started again: {reason}", hello.pid),
            "install golem-forwarder beside golem-provider, or set GOLEM_PROVIDER_FORWARDER to its path",
        ),
        (Ok(Some(hello)), Ok(_)) if hello.build.is_none() => Check::warning(
            SUBJECT,
            format!(
                "version {}, which runs as process {}, is too old to be upgraded while it runs",
                printable(&hello.version, 40),
                hello.pid
            ),
            "the provider replaces it as soon as it carries no SSH session",
        ),
        (Ok(Some(hello)), Ok(_)) if facts.forwarder.successor.is_some() => Check::warning(
            SUBJECT,
            format!(
                "version {} runs as process {}, and {} is another build",
                printable(&hello.version, 40),
                hello.pid,
                facts.forwarder.successor.clone().unwrap_or_default().display()
            ),
            "it becomes that one, with all its sessions, when the provider starts again, or by \
             'golem-forwarder --data-dir DIR --upgrade'",
        ),
        (Ok(Some(hello)), Ok(program)) => Check::good(
            SUBJECT,
            format!(
                "version {} runs as process {} ({})",
                printable(&hello.version, 40),
                hello.pid,
                program.display()
            ),
        ),
        (Ok(None), Err(reason)) => Check::bad(
            SUBJECT,
            reason.clone(),
            "install golem-forwarder beside golem-provider ('cargo install golem-vm-provider' \
             installs both), or set GOLEM_PROVIDER_FORWARDER to its path",
        ),
        (Ok(None), Ok(program)) if facts.running => Check::bad(
            SUBJECT,
            format!("none answers, although the provider runs ({})", program.display()),
            "it is started again within seconds; if not, its log forwarder.log in the data directory says why",
        ),
        (Ok(None), Ok(program)) => Check::good(
            SUBJECT,
            format!("{} is there; it is started with the provider", program.display()),
        ),
    }
}

pub(in crate::doctor) fn ports(facts: &Facts) -> Vec<Check> {
    match &facts.ports {
        PortsFacts::Known(status) => known(facts, status),
        PortsFacts::Looked(looked) => looked_at(facts, looked),
    }
}

fn known(facts: &Facts, status: &PortsStatus) -> Vec<Check> {
    const SUBJECT: &str = "ports";
    let all = u32::from(status.last.saturating_sub(status.first)) + 1;
    let range = format!("{}–{}", status.first, status.last);
    let mut found = format!(
        "{range}: {} of {all} held, {} may be handed out, {} in use",
        status.bound, status.usable, status.in_use
    );
    for checker in status.checkers.iter().filter(|checker| checker.answered_at.is_some()) {
        found = format!("{found}; {}", display::checker_text(checker));
    }
    let wrong = status.problems.join("; ");
    let with_wrong = if wrong.is_empty() { found.clone() } else { format!("{found}. {wrong}") };
    let held = if status.bound == 0 {
        Check::bad(
            SUBJECT,
            with_wrong,
            "end the programs that have these ports, or set GOLEM_PROVIDER_PORT_RANGE_START and …_END",
        )
    } else if status.usable == 0 {
        Check::bad(SUBJECT, with_wrong, unusable_remedy(facts, status.verified_from_outside))
    } else if !wrong.is_empty() {
        Check::warning(
            SUBJECT,
            with_wrong,
            "'golem-provider verify-ports' looks again once that is put right",
        )
    } else {
        Check::good(SUBJECT, found)
    };
    let mut checks = vec![held];
    if !status.verified_from_outside {
        checks.extend(unverified(facts));
    }
    checks
}

fn unusable_remedy(facts: &Facts, verified: bool) -> String {
    if verified && facts.checkers.is_empty() {
        "set GOLEM_PROVIDER_PORT_CHECKERS, or start with --no-verify-ports: ports that nobody \
         verified are not handed out"
            .to_owned()
    } else {
        "open the ports in the firewall and forward them from the router to this machine, then run \
         'golem-provider verify-ports'"
            .to_owned()
    }
}

fn looked_at(facts: &Facts, looked: &LookedAtPorts) -> Vec<Check> {
    const SUBJECT: &str = "ports";
    let range = format!("{}–{}", looked.first, looked.last);
    let found = format!("{range}: {} held by the forwarder, {} free", looked.held, looked.free);
    let (api, access): (Vec<_>, Vec<_>) = looked.taken.iter().partition(|port| port.is_api);
    let mut checks = Vec::new();
    if let Some(port) = api.first() {
        checks.push(Check::bad(
            "api port",
            format!("port {} can't be had: {}", port.port, cause(port)),
            "end that program, or set GOLEM_PROVIDER_PORT",
        ));
    }
    checks.push(if looked.held + looked.free == 0 {
        Check::bad(
            SUBJECT,
            format!("{found}; {}", named(&access)),
            "end the programs that have these ports, or set GOLEM_PROVIDER_PORT_RANGE_START and …_END",
        )
    } else if access.is_empty() {
        Check::good(SUBJECT, found)
    } else {
        Check::warning(
            SUBJECT,
            format!("{found}; {}", named(&access)),
            "these are not handed out; end the programs that have them, or choose another range",
        )
    });
    if !looked.verify {
        checks.extend(unverified(facts));
    } else if facts.checkers.is_empty() {
        checks.push(Check::bad(
            "port checkers",
            "none is set, and ports that nobody verified are not handed out",
            "set GOLEM_PROVIDER_PORT_CHECKERS, or start with --no-verify-ports to be advertised as unverified",
        ));
    }
    checks
}

fn unverified(facts: &Facts) -> Option<Check> {
    let loopback_only = !facts.discovery.is_empty()
        && facts
            .discovery
            .iter()
            .all(|peer| peer.url.contains("//127.") || peer.url.contains("//localhost"));
    // On a market of one machine there is no outside.
    (!loopback_only).then(|| {
        Check::warning(
            "verification",
            "ports are not verified from outside, and the provider is advertised as unverified",
            "set GOLEM_PROVIDER_PORT_CHECKERS and start without --no-verify-ports",
        )
    })
}

fn cause(port: &TakenPort) -> String {
    match &port.by {
        Some(by) => format!("{by} has it"),
        None => port.reason.clone(),
    }
}

fn named(ports: &[&TakenPort]) -> String {
    let mut list: Vec<_> = ports
        .iter()
        .take(NAMED_PORTS)
        .map(|port| format!("{}: {}", port.port, cause(port)))
        .collect();
    if ports.len() > NAMED_PORTS {
        list.push(format!("and {} more", ports.len() - NAMED_PORTS));
    }
    list.join("; ")
}

pub(in crate::doctor) fn checkers(facts: &Facts) -> Vec<Check> {
    const SUBJECT: &str = "port checkers";
    let (well, ill): (Vec<&Peer>, Vec<&Peer>) =
        facts.checkers.iter().partition(|peer| peer.answer.is_ok());
    let mut checks: Vec<_> =
        well.iter().map(|peer| Check::good(SUBJECT, format!("{} answers", peer.url))).collect();
    for peer in ill {
        let found = unreachable(peer);
        let remedy = "check GOLEM_PROVIDER_PORT_CHECKERS and this machine's network";
        checks.push(if well.is_empty() {
            Check::bad(SUBJECT, found, remedy)
        } else {
            Check::warning(SUBJECT, found, remedy)
        });
    }
    checks
}

fn unreachable(peer: &Peer) -> String {
    match &peer.answer {
        Err(reason) if reason.contains(peer.url.as_str()) => reason.clone(),
        Err(reason) => format!("{}: {reason}", peer.url),
        Ok(_) => peer.url.clone(),
    }
}

pub(in crate::doctor) fn discovery(facts: &Facts) -> Vec<Check> {
    const SUBJECT: &str = "discovery";
    if facts.discovery.is_empty() {
        return vec![Check::warning(
            SUBJECT,
            "no discovery server is set: only requestors who know this provider's address find it",
            "set GOLEM_PROVIDER_DISCOVERY_URL, such as http://discovery.example:9001",
        )];
    }
    let any = facts.discovery.iter().any(|peer| peer.answer.is_ok());
    let check = |peer: &Peer| {
        let last = facts.advertised.iter().find(|status| status.url == peer.url);
        match (&peer.answer, last) {
            (Err(_), _) => {
                let remedy = "check GOLEM_PROVIDER_DISCOVERY_URL and this machine's network; \
                              advertising is tried again by itself, and VMs go on without it";
                if any {
                    Check::warning(SUBJECT, unreachable(peer), remedy)
                } else {
                    Check::bad(SUBJECT, unreachable(peer), remedy)
                }
            }
            (Ok(_), Some(status)) if status.problem.is_some() => Check::warning(
                SUBJECT,
                format!("{}: {}", peer.url, status.problem.as_deref().unwrap_or_default()),
                "put that right; advertising is tried again by itself",
            ),
            (Ok(_), Some(status)) => Check::good(
                SUBJECT,
                match (status.published_at, status.sequence) {
                    (Some(at), Some(sequence)) => {
                        let at = Timestamp::from_unix_seconds(at.unix_seconds());
                        format!("{} took advertisement {sequence} at {at}", peer.url)
                    }
                    _ => format!("{} answers", peer.url),
                },
            ),
            (Ok(_), None) => Check::good(SUBJECT, format!("{} answers", peer.url)),
        }
    };
    facts.discovery.iter().map(check).collect()
}
