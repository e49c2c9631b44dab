//! `cargo run -p golem-vm-end-to-end --bin soak -- --minutes 30`: a market that is used and hurt at
//! random, until its time is up.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use golem_vm_end_to_end::soak::{Plan, run};

/// Runs a market of the real programs on a Docker Engine of its own (as root; otherwise on the one that
/// answers, which is then left in peace). Requestors create, stop, start, restart, extend and destroy VMs
/// and hold SSH sessions open, while provider, forwarder, discovery and engine are killed at random. Now
/// and then all is brought to rest, and what must hold is checked. Nothing is left, also after Ctrl-C.
///
/// Build the programs first: cargo build --workspace --bins --all-features
#[derive(Debug, Parser)]
#[command(
    name = "soak",
    after_help = "Exit codes: 0 everything held, 1 something did not, 130 interrupted."
)]
struct Arguments {
    /// For how long, in minutes; setting up and clearing away come on top
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Repeats what the requestors did and what was killed in a run of this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many requestors
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    requestors: u8,
    /// Seconds between two examinations at rest
    #[arg(long, value_name = "SECONDS", default_value_t = 40)]
    every: u64,
    /// Uses the engine that answers, and leaves it in peace
    #[arg(long)]
    shared_engine: bool,
    /// Prints the counts as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(u64::from(since.subsec_nanos()));
    eprintln!("seed {seed}: --seed {seed} does the same again");
    let plan = Plan {
        duration: Duration::from_secs(arguments.minutes * 60),
        seed,
        renters: arguments.requestors.into(),
        interval: Duration::from_secs(arguments.every),
        shared_engine: arguments.shared_engine,
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    if let Err(error) = listen_for_signals(&interrupted) {
        eprintln!("error: signals can't be caught: {error}");
        return ExitCode::FAILURE;
    }
    // A panic has cleared up behind itself as everything here is cleared up when it is dropped.
    let outcome = std::panic::catch_unwind(|| run(&plan, &interrupted));
    if interrupted.load(Ordering::SeqCst) {
        return ExitCode::from(130);
    }
    let Ok(report) = outcome else { return ExitCode::FAILURE };
    if arguments.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sets the flag at Ctrl-C, SIGTERM and SIGHUP.
fn listen_for_signals(flag: &Arc<AtomicBool>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    let flag = Arc::clone(flag);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                eprintln!("interrupted: clearing away");
                flag.store(true, Ordering::SeqCst);
            }
        });
    });
    Ok(())
}
