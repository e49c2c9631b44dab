//! `golem-forwarder`: holds the ports that lead to a provider's VMs and carries their bytes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use golem_vm_node::logging::{self, LogOptions};
use golem_vm_provider::forwarder::{
    self, DEFAULT_MAX_NEWCOMERS_PER_PORT, DEFAULT_MAX_SESSIONS, DEFAULT_MAX_SESSIONS_PER_PORT,
    EXIT_ALREADY_RUNNING, ForwarderClient, Options, Parcel, ServerError, TAKE_OVER,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Holds the ports that lead to a provider's VMs and carries their bytes.
///
/// golem-provider starts it by itself and finds it again after a restart; there is hardly a reason
/// to start it by hand. It outlives the provider, so that SSH sessions do too. After a start it
/// holds the ports that it held before, until the provider says something else.
#[derive(Debug, Parser)]
#[command(
    name = "golem-forwarder",
    version,
    after_help = "Example:\n  golem-forwarder --data-dir ~/.local/share/golem/provider\n\n\
        After an upgrade of the program, without cutting a session:\n  \
        golem-forwarder --data-dir ~/.local/share/golem/provider --upgrade\n\n\
        Signals: TERM and INT end it, with every session that it carries; HUP is ignored.\n\
        RUST_LOG sets what is logged (default info), to standard error.\n\n\
        Exit codes:\n  0  ended by a signal or by the provider\n  1  failed, see the message\n  \
        2  wrong arguments\n  3  another golem-forwarder works in this data directory"
)]
struct Arguments {
    /// The provider's data directory, where the socket, the lock and the stored routes are.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Sessions at most on all ports at once.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_SESSIONS as u32,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_sessions: u32,

    /// Sessions at most on one port at once.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_SESSIONS_PER_PORT as u32,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_sessions_per_port: u32,

    /// Sessions at most on one port at once that are younger than 35 seconds. When there are more, one of the
    /// address that has most gives way to an address that has fewer.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_NEWCOMERS_PER_PORT as u32,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_newcomers_per_port: u32,

    /// Leave the kernel's list of reserved ports (net.ipv4.ip_local_reserved_ports) alone.
    #[arg(long)]
    no_reserve_ports: bool,

    /// Leave the session and the open files of the process that starts it, as the provider wants.
    #[arg(long)]
    detach: bool,

    /// Have the golem-forwarder that runs in this data directory become this program, and end. Ports and
    /// sessions stay as they are; new connections wait for a moment.
    #[arg(long)]
    upgrade: bool,

    /// Say whether this program can take over from one that runs.
    #[arg(long, value_name = "FORMAT", hide = true)]
    can_take_over: Option<u32>,

    /// Take over from the program that ran in this process before.
    #[arg(long, value_name = "FILE", hide = true)]
    take_over: Option<i32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(format) = arguments.can_take_over {
        return match forwarder::can_take_over(format) {
            Some(yes) => {
                print!("{yes}");
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        };
    }
    // First of all, while this process has one thread and no files of its own.
    let left = arguments.take_over.and_then(|file| {
        let left = forwarder::take_over(file);
        left.inspect_err(|error| {
            eprintln!("golem-forwarder: can't take over, and starts anew: {error}");
        })
        .ok()
    });
    if arguments.detach
        && arguments.take_over.is_none()
        && let Err(error) = forwarder::detach()
    {
        eprintln!(
            "golem-forwarder: can't begin a session of its own: {error}; going on in this one"
        );
    }
    let done = if arguments.upgrade { upgrade(&arguments) } else { run(arguments, left) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("golem-forwarder: {error:#}");
            match error.downcast_ref() {
                Some(ServerError::AlreadyRunning { .. }) => {
                    ExitCode::from(u8::try_from(EXIT_ALREADY_RUNNING).unwrap_or(1))
                }
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Has the running one become this program.
fn upgrade(arguments: &Arguments) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (hello, stats) = runtime.block_on(async {
        let (client, hello) = ForwarderClient::connect(&arguments.data_dir).await?;
        anyhow::ensure!(
            hello.build.is_some(),
            "the running golem-forwarder (process {}, version {}) is too old for it: when no SSH session is in use, \
             end it with `kill {}`, and start another one",
            hello.pid,
            hello.version,
            hello.pid
        );
        let hello = client.upgrade(Some(&program)).await?;
        anyhow::Ok((hello, client.stats().await?))
    })?;
    println!(
        "golem-forwarder (process {}) is {} of version {} now, and carries {} {}.",
        hello.pid,
        program.display(),
        hello.version,
        stats.open,
        if stats.open == 1 { "session" } else { "sessions" }
    );
    Ok(())
}

/// With which arguments the next program is executed in this process.
fn own_arguments() -> Vec<OsString> {
    let mut own: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(at) = own.iter().position(|argument| argument == TAKE_OVER) {
        own.drain(at..(at + 2).min(own.len()));
    }
    own
}

fn run(arguments: Arguments, left: Option<Parcel>) -> anyhow::Result<()> {
    logging::init(&LogOptions::default())?;
    // Whatever is created is for this user only, from the moment it exists.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let mut options = Options::new(std::path::absolute(&arguments.data_dir)?);
    options.max_sessions = arguments.max_sessions as usize;
    options.max_sessions_per_port = arguments.max_sessions_per_port as usize;
    options.max_newcomers_per_port = arguments.max_newcomers_per_port as usize;
    options.arguments = Some(own_arguments());
    if arguments.no_reserve_ports {
        options.reserved_ports = None;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let on_signal = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "TERM",
                    _ = interrupt.recv() => "INT",
                    _ = hang_up.recv() => {
                        tracing::info!("signal HUP ignored");
                        continue;
                    }
                };
                tracing::info!("signal {name}: ending, with every session");
                on_signal.cancel();
            }
        });
        match left {
            Some(left) => Box::pin(forwarder::take_up(options, shutdown, left)).await?,
            None => Box::pin(forwarder::run(options, shutdown)).await?,
        }
        anyhow::Ok(())
    })
}
