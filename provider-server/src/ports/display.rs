//! Shows the owner which ports are held, which ones the world can reach, and what to do about the
//! others: live on a terminal, as log lines elsewhere.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::PortBoard;
use super::report::{
    CheckerReport, External, Local, PortReport, PortsReport, Verification, ranges,
};

/// How often the waiting line moves.
const TICK: Duration = Duration::from_millis(250);
/// For how long the ports may take before they are shown as they are then.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the lines may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text only.
    Plain,
    /// Colours and symbols.
    Terminal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    Partly,
    Bad,
    Open,
}

/// The report as lines: ports, checkers, and what to do.
#[must_use]
pub fn lines(report: &PortsReport, style: Style) -> Vec<String> {
    let mut lines = port_lines(report, style);
    if !report.checkers.is_empty() {
        lines.push("  Checked by".to_owned());
        lines.extend(report.checkers.iter().map(|checker| checker_line(checker, style)));
    }
    lines.extend(advice_lines(report, style));
    lines
}

fn port_lines(report: &PortsReport, style: Style) -> Vec<String> {
    let held = report.held();
    let all = report.access.len();
    let ports: Vec<u16> = report.access.iter().map(|port| port.port).collect();
    let local_mark = if report.access.iter().all(|port| port.local == Local::Unknown) {
        Mark::Open
    } else {
        mark(held, all)
    };
    let external = match report.verification {
        Verification::Off => (Mark::Open, "not verified, as set".to_owned()),
        Verification::NoCheckers => (Mark::Bad, "nobody to ask".to_owned()),
        Verification::Waiting | Verification::Checking => (Mark::Open, "being checked".to_owned()),
        Verification::Unanswered => (Mark::Bad, "no port checker answered".to_owned()),
        Verification::Done => {
            (mark(report.reached(), held), format!("{} of {held} proven", report.reached()))
        }
    };
    // Colours take up room in the text and none on the screen.
    let width = if style == Style::Terminal { 18 + "\x1b[32m\x1b[0m".len() } else { 24 };
    let row = |name: &str, ports: &str, local: (Mark, String), external: &(Mark, String)| {
        format!(
            "  {name:<14}{ports:<14}local {:<width$}   external {}",
            marked(local.0, &local.1, style),
            marked(external.0, &external.1, style)
        )
    };
    let title = if style == Style::Terminal { "🔌 Ports" } else { "Ports" };
    vec![
        title.to_owned(),
        row(
            "Provider",
            &report.api.port.to_string(),
            match report.api.local {
                Local::Unknown => (Mark::Open, "not known yet".to_owned()),
                Local::Held => (Mark::Good, "listening".to_owned()),
                _ => (Mark::Bad, "does not answer".to_owned()),
            },
            &api_external(&report.api, &external),
        ),
        row("VM access", &ranges(&ports), (local_mark, format!("{held} of {all} held")), &external),
    ]
}

/// As for the access ports while nothing is known, then for this one port.
fn api_external(api: &PortReport, access: &(Mark, String)) -> (Mark, String) {
    match &api.external {
        External::NotChecked => access.clone(),
        External::Reached { .. } => (Mark::Good, "proven".to_owned()),
        External::TooFew { by, needed } => {
            (Mark::Partly, format!("proven to {} of {needed}", by.len()))
        }
        External::NotReached { .. } => (Mark::Bad, "not reached".to_owned()),
    }
}

/// What one checker found, in one line without marks.
#[must_use]
pub fn checker_text(checker: &CheckerReport) -> String {
    let id = checker.id.map(|id| format!(" ({}…)", id.short())).unwrap_or_default();
    let until = checker.attested_until.map(clock_time).unwrap_or_default();
    let (reached, asked) = (checker.reached, checker.asked);
    format!("{}{id}: {reached} of {asked} ports proven{until}", printable(&checker.url, 100))
}

fn checker_line(checker: &CheckerReport, style: Style) -> String {
    let (mark, text) = if checker.asking {
        (Mark::Open, "being asked".to_owned())
    } else if let Some(error) = &checker.error {
        (Mark::Bad, printable(error, 300))
    } else if checker.answered_at.is_some() {
        let at = checker.dialled.as_deref().map(|a| format!(" at {a}")).unwrap_or_default();
        let (reached, asked) = (checker.reached, checker.asked);
        let until = checker.attested_until.map(clock_time).unwrap_or_default();
        (
            self::mark(reached as usize, asked as usize),
            format!("{reached} of {asked} ports proven{at}{until}"),
        )
    } else {
        (Mark::Open, "not asked yet".to_owned())
    };
    let id = checker.id.map(|id| format!(" ({}…)", id.short())).unwrap_or_default();
    format!("    {}{id}: {}", printable(&checker.url, 100), marked(mark, &text, style))
}

/// Until when an attestation is good, to the minute.
fn clock_time(until: Timestamp) -> String {
    let text = until.to_string();
    let time = text.split_once('T').and_then(|(_, time)| time.get(..5)).unwrap_or(&text);
    format!(", attested until {time} UTC")
}

fn advice_lines(report: &PortsReport, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    // A checker's error stands on its own line already.
    let shown = |found: &str| report.checkers.iter().any(|c| c.error.as_deref() == Some(found));
    for problem in report.problems().into_iter().filter(|problem| !shown(&problem.found)) {
        lines.push(format!("  {}", marked(Mark::Bad, &printable(&problem.found, 1000), style)));
        lines.push(format!("      → {}", problem.remedy));
    }
    lines
}

const fn mark(good: usize, all: usize) -> Mark {
    if good == 0 {
        Mark::Bad
    } else if good < all {
        Mark::Partly
    } else {
        Mark::Good
    }
}

fn marked(mark: Mark, text: &str, style: Style) -> String {
    let (symbol, word, colour) = match mark {
        Mark::Good => ("✔", "ok:", 32),
        Mark::Partly => ("◐", "partly:", 33),
        Mark::Bad => ("✖", "problem:", 31),
        Mark::Open => ("…", "", 36),
    };
    match style {
        Style::Terminal => format!("\x1b[{colour}m{symbol}\x1b[0m {text}"),
        Style::Plain if word.is_empty() => text.to_owned(),
        Style::Plain => format!("{word} {text}"),
    }
}

/// Shows how the verification goes, from the start to its first end, on standard output when that
/// is a terminal, else in the log. Returns then, at `shutdown`, or after a minute and a half.
pub async fn follow(board: PortBoard, shutdown: CancellationToken) {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        // A terminal that can't be written to any more is nobody's.
        let _ = follow_live(&board, &shutdown, &mut io::stdout(), TICK).await;
        return;
    }
    until_settled(&board, &shutdown).await;
    let report = board.report();
    tracing::info!(
        held = report.held(),
        reached = report.reached(),
        usable = report.usable(),
        api_reached = report.api.is_reached(),
        "access ports"
    );
    for problem in report.problems() {
        tracing::warn!("{}: {}", problem.found, problem.remedy);
    }
}

/// Whether there is nothing left to wait for.
fn settled(report: &PortsReport) -> bool {
    let checked = match report.verification {
        Verification::Off | Verification::NoCheckers => report.api.local != Local::Unknown,
        Verification::Unanswered | Verification::Done => true,
        Verification::Waiting | Verification::Checking => false,
    };
    checked || report.forwarder_error.is_some()
}

async fn until_settled(board: &PortBoard, shutdown: &CancellationToken) {
    let mut changes = board.changes();
    let until = Instant::now() + PATIENCE;
    while !settled(&board.report()) {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep_until(until) => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// One line moves while checkers are asked; each checker's own line comes when it has answered.
/// Only that one line is ever overwritten, so that log lines in between are not.
pub(super) async fn follow_live(
    board: &PortBoard,
    shutdown: &CancellationToken,
    out: &mut (impl Write + Send),
    tick: Duration,
) -> io::Result<()> {
    const CLEAR: &str = "\r\x1b[2K";
    let started = Instant::now();
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = board.changes();
    let mut told: Vec<String> = Vec::new();
    let mut frame = 0;
    loop {
        let report = board.report();
        for checker in report
            .checkers
            .iter()
            .filter(|c| !c.asking && (c.answered_at.is_some() || c.error.is_some()))
        {
            if !told.contains(&checker.url) {
                writeln!(out, "{CLEAR}{}", checker_line(checker, Style::Terminal))?;
                told.push(checker.url.clone());
            }
        }
        let over = shutdown.is_cancelled() || started.elapsed() >= PATIENCE;
        if settled(&report) || over {
            write!(out, "{CLEAR}")?;
            // The checkers have their lines above, unless they were late.
            let late = report.checkers.iter().filter(|checker| !told.contains(&checker.url));
            let mut rest = port_lines(&report, Style::Terminal);
            rest.extend(late.map(|checker| checker_line(checker, Style::Terminal)));
            rest.extend(advice_lines(&report, Style::Terminal));
            for line in rest {
                writeln!(out, "{line}")?;
            }
            return out.flush();
        }
        let spinner = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
        write!(
            out,
            "{CLEAR}  {} checking {} ports, {} of {} held here, {} of {} checkers answered, {} s",
            spinner[frame % spinner.len()],
            report.access.len() + 1,
            report.held(),
            report.access.len(),
            told.len(),
            report.checkers.len(),
            started.elapsed().as_secs()
        )?;
        out.flush()?;
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = ticks.tick() => frame += 1,
            _ = changes.changed() => {}
        }
    }
}
