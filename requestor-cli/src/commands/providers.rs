//! `golem vm providers`

use golem_vm_protocol::advertisement::{Advertisement, AdvertisementQuery};
use golem_vm_protocol::text::printable;
use serde_json::{Value, json};

use super::discovered;
use super::view::age;
use crate::app::{App, now};
use crate::args::ProvidersArgs;
use crate::client::discovery::Extent;
use crate::client::listing::{Fault, Listing};
use crate::error::Result;
use crate::market::{Estimate, Wish, dollars, flat_price, kinds, label, last_seen, remarks, usd};
use crate::table::Columns;

pub(super) async fn run(app: &App<'_>, args: &ProvidersArgs) -> Result<()> {
    let query = AdvertisementQuery {
        cpu: args.cpu,
        memory: args.memory,
        storage: args.storage,
        country: args.country.clone(),
        platform: args.platform.clone(),
        isolation: args.isolation,
        max_usd_per_month: args.max_usd_per_month,
        ..AdvertisementQuery::default()
    };
    let extent = match args.limit {
        Some(limit) => Extent::AtMost(limit as usize),
        None if args.all_pages => Extent::All,
        None => Extent::Page,
    };
    let discovery = app.discovery()?;
    let search = {
        let _progress = app.ui.is_verbose().then(|| app.ui.progress("asking discovery"));
        discovered::search(app, &discovery, &query, extent).await?
    };

    let wish = Wish { query, lease: None, image: args.image.clone() };
    let unsigned = search.listings.iter().filter(|l| l.document.is_none()).count();
    let mut listings: Vec<&Listing> = search
        .listings
        .iter()
        .filter(|listing| match &listing.document {
            Some(document) => is_listed(&wish, &document.content),
            None => args.unverified,
        })
        .collect();
    listings.sort_by_cached_key(|listing| (listing.document.is_none(), price(listing, &wish)));
    warn_of_attestations(app, &listings);
    if app.ui.is_json() {
        let providers: Vec<Value> = listings.iter().map(|listing| entry(listing, &wish)).collect();
        let faults: Vec<Value> = search.faults.iter().map(told).collect();
        return app.ui.json(&json!({ "providers": providers, "faults": faults }));
    }
    if listings.is_empty() {
        app.ui.note("no provider matches");
    } else {
        app.ui.out(&table(app, &listings, &wish))?;
    }
    if unsigned > 0 && !args.unverified {
        app.ui.note(&format!(
            "{unsigned} more sign nothing and can't be rented from; --unverified shows them"
        ));
    }
    if search.more {
        app.ui.note("discovery knows more; --all-pages shows them");
    }
    Ok(())
}

/// Whether a provider is shown to who asked for this. One that says nothing of what it offers is not, where
/// something is asked about that.
fn is_listed(wish: &Wish, advertisement: &Advertisement) -> bool {
    let of_a_kind = wish.query.isolation.is_some() || wish.image.is_some();
    wish.objection(advertisement).is_none() && !(of_a_kind && advertisement.offers.is_empty())
}

/// Names the providers that attach what does not count.
fn warn_of_attestations(app: &App<'_>, listings: &[&Listing]) {
    for listing in listings {
        let Some(document) = &listing.document else { continue };
        let who = label(&document.content.name, &document.content.provider_id);
        if let Some(why) = listing.vouched.ignored.first() {
            app.ui.warn(&format!("{who} attaches a word on its ports that does not count: {why}"));
        }
    }
}

/// What discovery did about a provider, for programs.
fn told(fault: &Fault) -> Value {
    json!({
        "provider_id": fault.provider,
        "fault": fault.lie.code(),
        "detail": fault.lie.to_string(),
        "left_out": !fault.lie.leaves_the_document(),
    })
}

fn price(listing: &Listing, wish: &Wish) -> u64 {
    let size = wish.query.priced_size();
    listing.document.as_ref().map_or(u64::MAX, |d| d.content.prices.per_month(&size))
}

/// The entry as it was received, with who vouches for its ports, and an estimate where the whole
/// size was asked for.
fn entry(listing: &Listing, wish: &Wish) -> Value {
    let mut entry = listing.received.clone();
    if let (Some(document), Some(object)) = (&listing.document, entry.as_object_mut()) {
        object.insert("ports".to_owned(), listing.vouched.json());
        object.insert("lease".to_owned(), json!(document.content.lease));
    }
    let query = &wish.query;
    if query.cpu.is_some() && query.memory.is_some() && query.storage.is_some() {
        let size = query.priced_size();
        let price = match &listing.document {
            Some(document) => Some(usd(document.content.prices.per_month(&size))),
            None => flat_price(&listing.entry, &size),
        };
        if let (Some(price), Some(object)) = (price, entry.as_object_mut()) {
            object.insert("estimate".to_owned(), json!(Estimate::of(price)));
        }
    }
    entry
}

fn table(app: &App<'_>, listings: &[&Listing], wish: &Wish) -> String {
    let icons = app.ui.decorates();
    let icon = |icon: &str, text: String| if icons { format!("{icon} {text}") } else { text };
    let mut table = Columns::new(&[
        "Provider ID",
        "Name",
        "Country",
        "CPU",
        "Memory",
        "Storage",
        "Isolation",
        ">USD/month",
        "Ports",
        "Seen",
        "Notes",
    ]);
    let size = wish.query.priced_size();
    let now = now();
    for listing in listings {
        let entry = &listing.entry;
        let seen = last_seen(entry).map_or_else(|| "-".to_owned(), |then| age(now, then));
        let (id, name, country, resources, isolation, price, ports, notes) = match &listing.document
        {
            Some(document) => {
                let ad = &document.content;
                (
                    ad.provider_id.short(),
                    printable(&ad.name, 24),
                    ad.country.clone(),
                    ad.resources,
                    kinds(ad),
                    dollars(usd(ad.prices.per_month(&size))),
                    listing.vouched.short(now),
                    remarks(ad).join(", "),
                )
            }
            None => (
                printable(&entry.provider_id, 12),
                printable(entry.provider_name.as_deref().unwrap_or("-"), 24),
                printable(&entry.country, 2),
                entry.resources,
                "?".to_owned(),
                flat_price(entry, &size).map_or_else(|| "?".to_owned(), dollars),
                "unverified".to_owned(),
                "NOT SIGNED, can't be rented from".to_owned(),
            ),
        };
        table.row(vec![
            id,
            name,
            icon("🌍", country),
            icon("💻", resources.cpu.to_string()),
            icon("🧠", format!("{}GB", resources.memory)),
            icon("💾", format!("{}GB", resources.storage)),
            isolation,
            price,
            ports,
            seen,
            notes,
        ]);
    }
    table.render(&app.ui, &format!("🌍 Available Providers ({} total)", listings.len()))
}
