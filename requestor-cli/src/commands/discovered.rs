//! What discovery lists, as commands use it: what can't be believed is told, with the server's
//! address, the provider, and what was done about it.

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::AdvertisementQuery;

use crate::app::App;
use crate::client::discovery::{Discovery, Extent, Search};
use crate::client::listing::{Fault, Listing};
use crate::error::Result;

/// Most faults that are told one by one.
const TOLD: usize = 5;

/// Searches, and tells what is wrong with the answer.
pub(super) async fn search(
    app: &App<'_>,
    discovery: &Discovery,
    query: &AdvertisementQuery,
    extent: Extent,
) -> Result<Search> {
    let search = app.search(discovery, query, extent).await?;
    tell(app, &search.faults, &discovery.address());
    Ok(search)
}

/// One provider's entry; `None` when it is not listed.
pub(super) async fn one(
    app: &App<'_>,
    discovery: &Discovery,
    id: &KeyId,
) -> Result<Option<Listing>> {
    let Some((listing, fault)) = app.listed(discovery, id).await? else { return Ok(None) };
    tell(app, fault.as_slice(), &discovery.address());
    Ok(Some(listing))
}

fn tell(app: &App<'_>, faults: &[Fault], discovery: &str) {
    let clock = if faults.iter().any(|fault| fault.lie.may_be_our_clock()) {
        "; is this machine's clock right?"
    } else {
        ""
    };
    let begin = format!("discovery at {discovery} lists what can't be believed");
    match faults {
        [] => {}
        [only] => app.ui.warn(&format!("{begin}: {only}{clock}")),
        several => {
            app.ui.warn(&format!("{begin} about {} providers{clock}", several.len()));
            let told = if app.ui.is_verbose() { several.len() } else { TOLD };
            for fault in several.iter().take(told) {
                app.ui.remark(&format!("  {fault}"));
            }
            if several.len() > told {
                let more = several.len() - told;
                app.ui.remark(&format!("  and {more} more; --verbose shows them"));
            }
        }
    }
}
