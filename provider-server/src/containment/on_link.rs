//! What this host is connected to.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::netlink;

/// Every network that is reached without a router.
pub(super) async fn networks() -> Result<BTreeSet<Ipv4Net>, String> {
    // With the routes of a whole internet this takes a while.
    let asked = tokio::task::spawn_blocking(netlink::on_link_networks).await;
    let found = asked.map_err(|error| error.to_string())?;
    let found = found.map_err(|error| format!("this host's networks can't be listed: {error}"))?;
    Ok(found.into_iter().collect())
}
