//! `golem-provider doctor`: asks the running provider, or looks for itself.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_node::clock::{Clock, SystemClock};
use golem_vm_node::data_dir::DataDirError;
use golem_vm_node::key_file;
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::text::printable;
use serde_json::json;

use super::exit_code;
use super::offline::open_store;
use super::place::PlaceArgs;
use super::remote::Remote;
use super::terminal::{Style, Tone, print, print_json};
use crate::app;
use crate::control::messages::{self, Check, Verdict};
use crate::doctor::{self, Subject};

pub(super) const EXAMPLES: &str = "\
It changes nothing. While the provider runs it is asked; otherwise its lock is taken meanwhile.

Examples:
  golem-provider doctor
  golem-provider doctor --json

Exit codes: 0 nothing keeps it from renting out, 1 something does, 2 a setting is not understood.";

/// How long the running provider may take to examine everything.
const DEADLINE: Duration = Duration::from_secs(120);
/// Longest text that is shown, in characters.
const LONGEST: usize = 2000;

pub(super) async fn run(place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::find(place).await?;
    let running = remote.is_some();
    let checks: Vec<Check> = match remote {
        Some(remote) => remote.get_within(messages::DOCTOR, DEADLINE).await?,
        None => look(place).await?,
    };
    let verdict = doctor::verdict(&checks);
    if place.json {
        print_json(&json!({"running": running, "verdict": verdict, "checks": checks}))?;
    } else {
        print(&text(&checks, running, Style::of_stdout()));
    }
    Ok(match verdict {
        Verdict::Bad => ExitCode::from(exit_code::FAILURE),
        Verdict::Good | Verdict::Warning => ExitCode::SUCCESS,
    })
}

/// Examines this machine without a running provider.
async fn look(place: &PlaceArgs) -> anyhow::Result<Vec<Check>> {
    let (config, data_dir) = place.open()?;
    let (lock, held_by) = match data_dir.lock() {
        Ok(lock) => (Some(lock), None),
        Err(error @ DataDirError::InUse { .. }) => (None, Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    // The database is opened only where there is one, and nobody else has it.
    let there = lock.is_some() && data_dir.state_db().exists();
    let (store, damaged) = match there.then(|| open_store(&data_dir)).transpose() {
        Ok(store) => (store, None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    // A key that can't be used is found by its own check; the engine can be asked without one.
    let key = match key_file::load(&data_dir.key_path()) {
        Ok(Some(key)) => key,
        Ok(None) | Err(_) => KeyPair::generate()?,
    };
    let backends = app::connect_all(&config, &key, &data_dir, store.as_ref()).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let facts = doctor::gather(Subject {
        config: &config,
        data_dir: &data_dir,
        backends,
        store: store.clone(),
        running: None,
        clock,
    })
    .await;
    if let Some(store) = store {
        store.close().await;
    }
    let mut checks = Vec::new();
    if let Some(found) = held_by {
        let remedy = "if that is the provider, it is starting or ending: try again in a moment";
        checks.push(Check::warning("provider", found, remedy));
    }
    if let Some(found) = damaged {
        let remedy = "see docs/troubleshooting.md, \"the database\"";
        checks.push(Check::bad("database", found, remedy));
    }
    checks.extend(doctor::examine(&facts));
    Ok(checks)
}

fn text(checks: &[Check], running: bool, style: Style) -> String {
    let mut out = String::new();
    let longest = checks.iter().map(|check| check.subject.chars().count()).max().unwrap_or(0);
    let indent = " ".repeat(longest + 4);
    for check in checks {
        let (mark, tone) = match check.verdict {
            Verdict::Good => ("✔", Tone::Good),
            Verdict::Warning => ("!", Tone::Warning),
            Verdict::Bad => ("✘", Tone::Bad),
        };
        let subject = format!("{:<longest$}", printable(&check.subject, 40));
        out.push_str(&format!(
            "{} {}  {}\n",
            style.paint(tone, mark),
            style.paint(Tone::Strong, &subject),
            printable(&check.found, LONGEST)
        ));
        if let Some(remedy) = &check.remedy {
            out.push_str(&format!("{indent}→ {}\n", printable(remedy, LONGEST)));
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (bad, warnings) = (count(Verdict::Bad), count(Verdict::Warning));
    out.push('\n');
    out.push_str(&match (bad, warnings, running) {
        (0, 0, true) => "All is well.\n".to_owned(),
        (0, 0, false) => "All is well; 'golem-provider start' starts it.\n".to_owned(),
        (0, _, _) => format!("It can rent out, with the drawbacks marked ! ({warnings}).\n"),
        _ => format!("What is marked ✘ ({bad}) keeps it from renting out.\n"),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_shown_with_their_remedies() {
        let checks =
            [Check::good("clock", "right"), Check::bad("engine", "down\u{1b}", "start it")];
        let shown = text(&checks, false, Style { terminal: false, colour: false });
        assert_eq!(
            shown,
            "✔ clock   right\n✘ engine  down\u{fffd}\n          → start it\n\nWhat is marked ✘ (1) keeps it from renting out.\n"
        );
    }
}
