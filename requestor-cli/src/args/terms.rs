//! For how long a new VM is asked for, whichever way it comes to be.

use clap::Args as ClapArgs;
use golem_vm_protocol::time::{in_words, seconds_of};
use golem_vm_protocol::vm::{
    LeaseRequest, MAX_IDLE_SECONDS, MAX_LEASE_SECONDS, MIN_IDLE_SECONDS, MIN_LEASE_SECONDS,
    OnExpiry,
};

/// What `golem vm create` and `golem vm clone` ask for alike.
#[derive(Debug, Clone, ClapArgs)]
pub struct TermsArgs {
    /// For so long, from when it runs: 90m, 2h, 7d; without it, the provider's default
    #[arg(long = "for", value_name = "SPAN", value_parser = lease_span)]
    pub lease: Option<u64>,
    /// What happens when the lease ends: stop (and keep it for a while) or destroy (at once)
    #[arg(long, value_name = "WHAT")]
    pub on_expiry: Option<OnExpiry>,
    /// Stop it when nobody used SSH and nothing ran in it for so long: 30m, 2h
    #[arg(long, value_name = "SPAN", value_parser = idle_span)]
    pub stop_when_idle: Option<u64>,
    /// Give up after so many seconds, and leave nothing behind
    #[arg(long, value_name = "SECONDS", default_value_t = 900,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

impl TermsArgs {
    /// The lease that is asked for; none if all of it is left to the provider.
    pub fn lease(&self) -> Option<LeaseRequest> {
        let lease = LeaseRequest {
            duration_seconds: self.lease,
            on_expiry: self.on_expiry,
            stop_when_idle_seconds: self.stop_when_idle,
        };
        (lease != LeaseRequest::default()).then_some(lease)
    }
}

pub(super) fn lease_span(text: &str) -> Result<u64, String> {
    span(text, MIN_LEASE_SECONDS, MAX_LEASE_SECONDS)
}

fn idle_span(text: &str) -> Result<u64, String> {
    span(text, MIN_IDLE_SECONDS, MAX_IDLE_SECONDS)
}

/// Seconds of a span within these bounds.
fn span(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let seconds = seconds_of(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("it is from {} to {}", in_words(least), in_words(most)))
    }
}
