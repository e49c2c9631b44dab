//! From whom: the provider that was named, or those that match, best first.

use golem_vm_node::settings::closest;

use golem_vm_protocol::advertisement::AdvertisementQuery;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::in_words;
use golem_vm_protocol::{KeyId, KeyPrefix};

use super::super::discovered;
use super::wanted::Wanted;
use crate::app::App;
use crate::client::discovery::{Discovery, Extent};
use crate::client::listing::{Fault, Listing};
use crate::error::{CliError, Kind, Result};
use crate::market::{Candidate, Reason, dollars, meant, ranked, usd};

/// Most listings that are looked at.
const EXTENT: Extent = Extent::AtMost(5_000);
/// Most providers that an explanation names.
const SHOWN: usize = 5;

/// The providers to try, best first; never empty.
pub(super) async fn candidates(
    app: &App<'_>,
    discovery: &Discovery,
    wanted: &Wanted,
) -> Result<Vec<(Candidate, Reason)>> {
    let found = match &wanted.provider {
        Some(text) => vec![named(app, discovery, wanted, text).await?],
        None => matching(app, discovery, wanted).await?,
    };
    Ok(ranked(found, &wanted.resources, &wanted.wish))
}

async fn matching(app: &App<'_>, discovery: &Discovery, wanted: &Wanted) -> Result<Vec<Candidate>> {
    let search = discovered::search(app, discovery, &wanted.wish.query, EXTENT).await?;
    let found: Vec<Candidate> = search
        .listings
        .iter()
        .filter_map(Candidate::of)
        .filter(|candidate| wanted.wish.objection(&candidate.advertisement).is_none())
        // Those that serve only requestors they trust are for who names them.
        .filter(|candidate| !candidate.advertisement.offers.is_empty())
        .collect();
    if found.is_empty() {
        return Err(no_match(app, discovery, wanted).await?);
    }
    Ok(found)
}

/// Why nobody matches, by those who come near.
async fn no_match(app: &App<'_>, discovery: &Discovery, wanted: &Wanted) -> Result<CliError> {
    let everybody = app.search(discovery, &AdvertisementQuery::default(), EXTENT).await?;
    if everybody.listings.is_empty() && !everybody.faults.is_empty() {
        return Ok(discovery.caught(&everybody.faults));
    }
    let candidates: Vec<Candidate> = everybody.listings.iter().filter_map(Candidate::of).collect();
    let size = &wanted.resources;
    let mut error = CliError::not_found(format!(
        "no provider matches ({} vCPU, {} GB memory, {} GB disk{})",
        size.cpu,
        size.memory,
        size.storage,
        more_wishes(wanted)
    ));
    if candidates.is_empty() {
        return Ok(error
            .because(format!(
                "discovery at {} lists no provider{} at the moment: all are full or down, or there are none",
                discovery.address(),
                if everybody.listings.is_empty() { "" } else { " that signs what it offers" }
            ))
            .hint("try again in a minute, or ask another discovery: golem config set discovery-url URL"));
    }
    for candidate in candidates.iter().take(SHOWN) {
        let objection = wanted.wish.objection(&candidate.advertisement).unwrap_or_else(|| {
            if candidate.advertisement.offers.is_empty() {
                "serves only requestors it trusts".to_owned()
            } else {
                "has come up this moment; try again".to_owned()
            }
        });
        error = error.because(format!("{} {objection}", candidate.label()));
    }
    if candidates.len() > SHOWN {
        error = error.because(format!("and {} more", candidates.len() - SHOWN));
    }
    let longest = wanted.wish.longest_lease(candidates.iter().map(|c| &c.advertisement));
    if let Some(longest) = longest {
        error = error.hint(format!(
            "the longest lease of those that match otherwise is {}: --for {}",
            in_words(longest),
            span(longest)
        ));
    }
    Ok(error.hint("see who offers what: golem vm providers").hint("and ask for less"))
}

fn more_wishes(wanted: &Wanted) -> String {
    let query = &wanted.wish.query;
    let mut text = String::new();
    if let Some(country) = &query.country {
        text.push_str(&format!(", in {country}"));
    }
    if let Some(platform) = &query.platform {
        text.push_str(&format!(", {}", printable(platform, 32)));
    }
    if let Some(isolation) = query.isolation {
        text.push_str(&format!(", isolation {isolation}"));
    }
    if let Some(image) = &wanted.wish.image {
        text.push_str(&format!(", image {}", printable(image.as_str(), 128)));
    }
    if let Some(price) = query.max_usd_per_month {
        text.push_str(&format!(", at most {} per month", dollars(price)));
    }
    if let Some(seconds) = wanted.wish.lease.and_then(|lease| lease.duration_seconds) {
        text.push_str(&format!(", for {}", in_words(seconds)));
    }
    text
}

/// Seconds as `--for` takes them, in the largest unit that tells them exactly.
fn span(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(size, _)| seconds.is_multiple_of(*size));
    let (size, unit) = unit.unwrap_or((1, 's'));
    format!("{}{unit}", seconds / size)
}

/// The one provider that the person named.
async fn named(
    app: &App<'_>,
    discovery: &Discovery,
    wanted: &Wanted,
    text: &str,
) -> Result<Candidate> {
    let shown = printable(text, 60);
    let listing = if let Ok(id) = text.parse::<KeyId>() {
        discovered::one(app, discovery, &id).await?.ok_or_else(|| not_listed(discovery, &shown))?
    } else {
        let search =
            discovered::search(app, discovery, &AdvertisementQuery::default(), EXTENT).await?;
        let found = meant(&search.listings, text);
        let lies = lies_about(&search.faults, text);
        match found.as_slice() {
            [] if !lies.is_empty() => return Err(discovery.caught(&lies)),
            [] => return Err(suggested(not_listed(discovery, &shown), &search.listings, text)),
            [only] => (*only).clone(),
            several => which(app, several, &shown)?,
        }
    };
    let Some(candidate) = Candidate::of(&listing) else {
        return Err(CliError::new(
            Kind::Refused,
            format!("provider '{shown}' signs nothing, so a VM of its could be anybody's"),
        )
        .hint("choose one that signs: golem vm providers"));
    };
    match wanted.wish.objection(&candidate.advertisement) {
        None => Ok(candidate),
        Some(objection) => {
            Err(CliError::new(Kind::Refused, format!("provider {} {objection}", candidate.label()))
                .hint("ask for less, or choose another one: golem vm providers"))
        }
    }
}

/// What discovery did about the provider that goes by `text`, the beginning of its id.
fn lies_about(faults: &[Fault], text: &str) -> Vec<Fault> {
    let Ok(prefix) = text.parse::<KeyPrefix>() else { return Vec::new() };
    let meant = |fault: &&Fault| fault.provider.parse().is_ok_and(|id: KeyId| prefix.matches(&id));
    faults.iter().filter(meant).cloned().collect()
}

fn not_listed(discovery: &Discovery, shown: &str) -> CliError {
    CliError::not_found(format!("discovery at {} lists no provider '{shown}'", discovery.address()))
        .because("it has nothing free, is down, or was never there")
}

fn suggested(error: CliError, listings: &[Listing], text: &str) -> CliError {
    let names: Vec<&str> = listings
        .iter()
        .filter_map(|listing| listing.document.as_ref())
        .map(|document| document.content.name.as_str())
        .collect();
    match closest(text, &names) {
        Some(near) => error.hint(format!("did you mean '{}'?", printable(near, 64))),
        None => error.hint("golem vm providers"),
    }
}

/// Several go by that name: a person is asked, a program is told their ids.
fn which(app: &App<'_>, several: &[&Listing], shown: &str) -> Result<Listing> {
    let lines: Vec<String> = several
        .iter()
        .map(|listing| match Candidate::of(listing) {
            Some(candidate) => format!(
                "{}  {}, {}, {} vCPU free, {} per vCPU and month",
                candidate.id,
                printable(&candidate.advertisement.name, 64),
                candidate.advertisement.country,
                candidate.advertisement.resources.cpu,
                dollars(usd(candidate.advertisement.prices.core_month)),
            ),
            None => format!("{}  (signs nothing)", printable(&listing.entry.provider_id, 60)),
        })
        .collect();
    if app.ui.can_ask() {
        app.ui.note(&format!("{} providers go by '{shown}':", several.len()));
        for (number, line) in lines.iter().enumerate() {
            app.ui.note(&format!("  {}. {line}", number + 1));
        }
        if let Some(chosen) = app.ui.choose("Which one?", several.len())
            && let Some(listing) = several.get(chosen)
        {
            return Ok((*listing).clone());
        }
    }
    let mut error = CliError::usage(format!(
        "{} providers go by '{shown}'; say which with --provider-id ID",
        several.len()
    ));
    for line in lines {
        error = error.because(line);
    }
    Err(error)
}
