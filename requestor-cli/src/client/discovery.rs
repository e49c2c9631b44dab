//! What discovery lists. Discovery is not trusted with more than leaving something out: each
//! entry's signed document is checked here, and what fails is dropped and told.

use std::time::Duration;

use futures_util::StreamExt as _;
use golem_vm_protocol::advertisement::{
    Advertisement, AdvertisementEntry, AdvertisementQuery, NEXT_CURSOR_HEADER,
};
use golem_vm_protocol::document::Verified;
use golem_vm_protocol::problem::Problem;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{KeyId, route};
use reqwest::{StatusCode, Url};
use serde_json::Value;

use crate::error::{CliError, Kind, Result};

/// Largest page that is read, in bytes.
const MAX_PAGE: usize = 32 << 20;
/// Most pages that are followed.
const MAX_PAGES: usize = 1000;

/// One entry of the list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// As it was received.
    pub received: Value,
    /// Its flat fields. Of a signed entry nothing here is relied on but `last_seen`.
    pub entry: AdvertisementEntry,
    /// The provider's own words; `None` for a provider that signs nothing.
    pub document: Option<Verified<Advertisement>>,
}

/// What a search gave.
#[derive(Debug, Default)]
pub struct Search {
    /// The entries that may be believed, in discovery's order.
    pub listings: Vec<Listing>,
    /// Why others were dropped.
    pub dropped: Vec<String>,
    /// Whether discovery has more.
    pub more: bool,
}

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What discovery gives in one answer.
    Page,
    /// So many entries.
    AtMost(usize),
    /// All.
    All,
}

/// Asks one discovery server.
#[derive(Debug, Clone)]
pub struct Discovery {
    base: Url,
    http: reqwest::Client,
}

impl Discovery {
    /// The server at `base`. Opens no connection yet.
    ///
    /// # Errors
    /// When the HTTP client can't be set up.
    pub fn new(base: Url) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .user_agent(concat!("golem/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::other("can't set up HTTP").because(error))?;
        Ok(Self { base, http })
    }

    /// Searches.
    ///
    /// # Errors
    /// When discovery can't be reached or does not answer with a list.
    pub async fn search(&self, query: &AdvertisementQuery, extent: Extent) -> Result<Search> {
        let mut search = Search::default();
        let mut query = query.clone();
        if let Extent::AtMost(limit) = extent {
            query.limit = u32::try_from(limit).ok();
        }
        for _ in 0..MAX_PAGES {
            let (values, cursor) = self.page(&query).await?;
            let now = now();
            for value in values {
                match listing(value, now) {
                    Ok(listing) => keep_newest(&mut search.listings, listing),
                    Err(fault) => search.dropped.push(fault),
                }
            }
            let enough = match extent {
                Extent::Page => true,
                Extent::AtMost(limit) => search.listings.len() >= limit,
                Extent::All => false,
            };
            search.more = cursor.is_some();
            if cursor.is_none() || enough {
                break;
            }
            query.cursor = cursor;
        }
        if let Extent::AtMost(limit) = extent {
            search.more |= search.listings.len() > limit;
            search.listings.truncate(limit);
        }
        Ok(search)
    }

    /// One provider's entry; `None` when discovery lists none.
    ///
    /// # Errors
    /// As [`Discovery::search`]; [`Kind::Security`] when what it lists can't be believed.
    pub async fn provider(&self, id: &KeyId) -> Result<Option<Listing>> {
        let url = self.url(&route::advertisement(id))?;
        let reply = self.http.get(url).send().await.map_err(|error| self.unreachable(&error))?;
        if reply.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let value = serde_json::from_slice(&self.body(reply).await?)
            .map_err(|error| self.nonsense(&error))?;
        let listing = listing(value, now()).map_err(|fault| self.fault(&fault))?;
        match &listing.document {
            Some(document) if document.content.provider_id == *id => Ok(Some(listing)),
            _ => Err(self.fault(&format!("asked for {}, it gave another provider", id.short()))),
        }
    }

    /// The address, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    async fn page(&self, query: &AdvertisementQuery) -> Result<(Vec<Value>, Option<String>)> {
        let url = self.url(route::ADVERTISEMENTS)?;
        let reply =
            self.http.get(url).query(query).send().await.map_err(|e| self.unreachable(&e))?;
        let cursor = reply
            .headers()
            .get(NEXT_CURSOR_HEADER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = self.body(reply).await?;
        let values = serde_json::from_slice(&body).map_err(|error| self.nonsense(&error))?;
        Ok((values, cursor))
    }

    async fn body(&self, reply: reqwest::Response) -> Result<Vec<u8>> {
        let status = reply.status();
        let mut stream = reply.bytes_stream();
        let mut body = Vec::new();
        while let Some(chunk) = stream.next().await {
            body.extend_from_slice(&chunk.map_err(|error| self.unreachable(&error))?);
            if body.len() > MAX_PAGE {
                return Err(self.nonsense(&format!("more than {MAX_PAGE} bytes")));
            }
        }
        if status.is_success() {
            return Ok(body);
        }
        let reason = serde_json::from_slice::<Problem>(&body)
            .map_or_else(|_| format!("HTTP {}", status.as_u16()), |p| printable(&p.detail, 300));
        let kind = if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
            Kind::Refused
        } else {
            Kind::Unreachable
        };
        Err(CliError::new(kind, format!("discovery at {} gave no list", self.address()))
            .because(reason))
    }

    fn url(&self, path: &str) -> Result<Url> {
        self.base
            .join(path)
            .map_err(|error| CliError::other("can't form an address").because(error))
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let (kind, reason) = if error.is_timeout() {
            (Kind::Unreachable, "it did not answer in time".to_owned())
        } else {
            (Kind::Unreachable, printable(&innermost(error), 300))
        };
        CliError::new(kind, format!("discovery at {} can't be reached", self.address()))
            .because(reason)
            .hint("see whether the address is right: golem config get discovery-url")
            .hint("your VMs go on without it: golem vm list, golem vm ssh NAME")
    }

    fn nonsense(&self, error: &dyn std::fmt::Display) -> CliError {
        CliError::new(
            Kind::Unreachable,
            format!("what answers at {} does not speak as a discovery server", self.address()),
        )
        .because(printable(&error.to_string(), 200))
        .hint("see whether the address is right: golem config get discovery-url")
    }

    fn fault(&self, fault: &str) -> CliError {
        CliError::new(
            Kind::Security,
            format!("discovery at {} lists what can't be believed", self.address()),
        )
        .because(fault)
    }
}

/// Reads and checks one entry; the error says which provider's and what is wrong.
fn listing(received: Value, now: Timestamp) -> Result<Listing, String> {
    let claimed = received.get("provider_id").and_then(Value::as_str).unwrap_or("?");
    let who = printable(claimed, 16);
    let entry: AdvertisementEntry = serde_json::from_value(received.clone())
        .map_err(|error| format!("{who}: {}", printable(&error.to_string(), 160)))?;
    let document = match &entry.document {
        None if entry.verified || entry.provider_id.parse::<KeyId>().is_ok() => {
            return Err(format!("{who}: said to be signed, but the signed document is missing"));
        }
        None => None,
        Some(envelope) => {
            let document =
                envelope.open::<Advertisement>().map_err(|error| format!("{who}: {error}"))?;
            Advertisement::check(&document, now)
                .map_err(|error| format!("{who}: {}", printable(&error.to_string(), 200)))?;
            if entry.provider_id != document.signer.to_string() {
                return Err(format!("{who}: the signed document is another provider's"));
            }
            Some(document)
        }
    };
    Ok(Listing { received, entry, document })
}

/// Adds a listing; of two of one provider the one with the higher sequence stays.
fn keep_newest(listings: &mut Vec<Listing>, new: Listing) {
    let sequence = |listing: &Listing| listing.document.as_ref().map(|d| d.content.sequence);
    match listings.iter_mut().find(|old| old.entry.provider_id == new.entry.provider_id) {
        Some(old) if sequence(&new) > sequence(old) => *old = new,
        Some(_) => {}
        None => listings.push(new),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;
    use golem_vm_protocol::document::Envelope;
    use serde_json::json;

    use super::*;

    fn entry(sequence: u64) -> Value {
        let key = KeyPair::from_secret_bytes([9; 32]).unwrap();
        let advertisement: Advertisement = serde_json::from_value(json!({
            "provider_id": key.id(), "sequence": sequence,
            "issued_at": "2026-11-21T10:00:00Z", "expires_at": "2026-11-21T10:05:00Z",
            "name": "p", "country": "SE", "platform": "x86_64",
            "resources": {"cpu": 4, "memory": 8, "storage": 40},
            "endpoints": [], "offers": [],
            "prices": {"core_month": 5, "gb_ram_month": 2, "gb_storage_month": 1},
        }))
        .unwrap();
        json!({
            "provider_id": key.id(), "ip_address": "127.0.0.1", "country": "SE",
            "resources": {"cpu": 4, "memory": 8, "storage": 40}, "pricing": null,
            "created_at": "2026-11-21T10:00:00.000000", "updated_at": "2026-11-21T10:00:00.000000",
            "verified": true, "document": Envelope::seal(&advertisement, &key).unwrap(),
        })
    }

    fn moment() -> Timestamp {
        "2026-11-21T10:01:00Z".parse().unwrap()
    }

    #[test]
    fn a_signed_entry_is_believed_and_an_altered_one_is_not() {
        assert!(listing(entry(1), moment()).unwrap().document.is_some());
        let late = "2026-11-21T11:00:00Z".parse().unwrap();
        assert!(listing(entry(1), late).unwrap_err().contains("expired"));

        let mut altered = entry(1);
        altered["document"]["payload"] = json!("e30");
        assert!(listing(altered, moment()).unwrap_err().contains("signature"));

        let mut stripped = entry(1);
        stripped.as_object_mut().unwrap().remove("document");
        assert!(listing(stripped.clone(), moment()).unwrap_err().contains("missing"));
        stripped["verified"] = json!(false);
        assert!(listing(stripped.clone(), moment()).is_err(), "an unsigned id is no key");
        stripped["provider_id"] = json!("0x21\u{1b}[31m");
        assert!(listing(stripped, moment()).unwrap().document.is_none());

        let mut renamed = entry(1);
        renamed["provider_id"] = json!("0x2199");
        assert!(listing(renamed, moment()).unwrap_err().contains("another provider's"));
        assert!(listing(json!(3), moment()).is_err());
    }

    #[test]
    fn of_two_entries_of_one_provider_the_newer_stays() {
        let mut listings = Vec::new();
        for sequence in [2, 3, 1] {
            keep_newest(&mut listings, listing(entry(sequence), moment()).unwrap());
        }
        assert_eq!(listings.len(), 1);
        assert_eq!(listings[0].document.as_ref().unwrap().content.sequence, 3);
    }
}
