//! What this host is connected to, and when that changes.

mod netlink;

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

pub use netlink::Changes;

/// Every network of this process's network namespace that is reached without a router, and every address
/// that the host takes for its own. With the routes of a whole internet this takes a while.
///
/// # Errors
/// When the kernel does not list them.
pub async fn networks() -> Result<BTreeSet<Ipv4Net>, String> {
    let asked = tokio::task::spawn_blocking(netlink::on_link_networks).await;
    let found = asked.map_err(|error| error.to_string())?;
    let found = found.map_err(|error| format!("this host's networks can't be listed: {error}"))?;
    Ok(found.into_iter().collect())
}

/// The networks in which the interface of that number has an address, the first one first.
///
/// # Errors
/// When the kernel does not list them.
pub async fn networks_of(interface: u32) -> Result<Vec<Ipv4Net>, String> {
    let asked = tokio::task::spawn_blocking(move || netlink::networks_of(interface)).await;
    let found = asked.map_err(|error| error.to_string())?;
    found.map_err(|error| format!("an interface's networks can't be listed: {error}"))
}
