//! What discovery lists. Each entry is checked in [`listing`](super::listing); what fails is left
//! out and told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use golem_vm_protocol::advertisement::{AdvertisementQuery, NEXT_CURSOR_HEADER};
use golem_vm_protocol::problem::Problem;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{KeyId, route};
use reqwest::header::RETRY_AFTER;
use reqwest::{StatusCode, Url};
use serde_json::Value;

use super::listing::{self, Fault, Lie, Listing};
use super::pauses::{Notice, Pauses};
use crate::error::{CliError, Kind, Result};

/// Largest page that is read, in bytes.
const MAX_PAGE: usize = 32 << 20;
/// Most pages that are followed.
const MAX_PAGES: usize = 1000;
/// Most that is read in one search, over all its pages, in bytes.
const MAX_SEARCH: usize = 128 << 20;

/// Most faults that one failure names.
const TOLD: usize = 5;

/// What a search gave.
#[derive(Debug, Default)]
pub struct Search {
    /// The entries that may be believed, in discovery's order.
    pub listings: Vec<Listing>,
    /// What can't be believed of what it gave. Entries about which this is so were left out, but
    /// where [`Lie::leaves_the_document`](super::listing::Lie::leaves_the_document).
    pub faults: Vec<Fault>,
    /// Whether discovery has more.
    pub more: bool,
    /// Where each provider stands in `listings`.
    places: HashMap<String, usize>,
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

/// Longest for one question, pauses that discovery asks for included.
const DEADLINE: Duration = Duration::from_secs(40);

/// Asks one discovery server.
#[derive(Debug, Clone)]
pub struct Discovery {
    base: Url,
    http: reqwest::Client,
    notice: Notice,
}

impl Discovery {
    /// The server at `base`. Opens no connection yet; what a person has to wait for is told to `notice`.
    ///
    /// # Errors
    /// When the HTTP client can't be set up.
    pub fn new(base: Url, notice: Notice) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .user_agent(concat!("golem/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::other("can't set up HTTP").because(error))?;
        Ok(Self { base, http, notice })
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
        let mut read = 0;
        for _ in 0..MAX_PAGES {
            let (values, cursor, size) = self.page(&query).await?;
            read += size;
            search.take_in(values, now());
            let enough = match extent {
                Extent::Page => true,
                Extent::AtMost(limit) => search.listings.len() >= limit,
                Extent::All => false,
            };
            search.more = cursor.is_some();
            if cursor.is_none() || enough || read >= MAX_SEARCH || cursor == query.cursor {
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

    /// One provider's entry, and what is wrong with it although its document is good; `None` when
    /// discovery lists none.
    ///
    /// # Errors
    /// As [`Discovery::search`]; [`Kind::Security`] when what it lists can't be believed.
    pub async fn provider(&self, id: &KeyId) -> Result<Option<(Listing, Option<Fault>)>> {
        let url = self.url(&route::advertisement(id))?;
        let reply = self.ask(self.http.get(url)).await?;
        if reply.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let value = serde_json::from_slice(&self.body(reply).await?)
            .map_err(|error| self.nonsense(&error))?;
        let (listing, fault) =
            listing::read(value, now()).map_err(|fault| self.caught(&[fault]))?;
        match &listing.document {
            Some(document) if document.content.provider_id == *id => Ok(Some((listing, fault))),
            Some(document) => {
                Err(self.caught(&[Fault::of(id, Lie::Swapped(document.content.provider_id))]))
            }
            None => Err(self.caught(&[Fault::of(id, Lie::Unsigned)])),
        }
    }

    /// The address, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// One page's entries, where the next one begins, and how long the answer was in bytes.
    async fn page(
        &self,
        query: &AdvertisementQuery,
    ) -> Result<(Vec<Value>, Option<String>, usize)> {
        let url = self.url(route::ADVERTISEMENTS)?;
        let reply = self.ask(self.http.get(url).query(query)).await?;
        let cursor = reply
            .headers()
            .get(NEXT_CURSOR_HEADER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = self.body(reply).await?;
        let values = serde_json::from_slice(&body).map_err(|error| self.nonsense(&error))?;
        Ok((values, cursor, body.len()))
    }

    /// One answer. A server that asks for a pause gets it.
    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let began = Instant::now();
        let mut pauses = Pauses::new(DEADLINE);
        loop {
            let again = request.try_clone();
            let again = again.ok_or_else(|| CliError::other("a request can't be repeated"))?;
            let reply = again.send().await.map_err(|error| self.unreachable(&error))?;
            let Some(wait) =
                asks_to_wait(&reply).and_then(|wait| pauses.allow(wait, began.elapsed()))
            else {
                return Ok(reply);
            };
            let seconds = wait.as_secs();
            self.notice.tell(&format!(
                "discovery at {} asks not to be asked so often: waiting {seconds} s",
                self.address()
            ));
            tokio::time::sleep(wait).await;
        }
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

    /// The failure of a command that would have needed what `faults` are about.
    #[must_use]
    pub fn caught(&self, faults: &[Fault]) -> CliError {
        let mut error = CliError::new(
            Kind::Security,
            format!("discovery at {} lists what can't be believed", self.address()),
        );
        for fault in faults.iter().take(TOLD) {
            error = error.because(fault);
        }
        if faults.len() > TOLD {
            error = error.because(format!("and {} more", faults.len() - TOLD));
        }
        if faults.iter().any(|fault| fault.lie.may_be_our_clock()) {
            error = error.hint("is this machine's clock right?");
        }
        error.hint("ask another discovery server: --discovery-url URL")
    }
}

impl Search {
    /// Takes in one answer. Of two entries of one provider the one with the higher sequence stays;
    /// between two pages a provider may have advertised itself anew, within one it stands twice
    /// only if discovery is wrong.
    fn take_in(&mut self, values: Vec<Value>, now: Timestamp) {
        let before = self.listings.len();
        for value in values {
            let new = match listing::read(value, now) {
                Ok((listing, fault)) => {
                    self.faults.extend(fault);
                    listing
                }
                Err(fault) => {
                    self.faults.push(fault);
                    continue;
                }
            };
            let id = &new.entry.provider_id;
            let known = self.places.get(id).copied();
            let Some((at, old)) = known.and_then(|at| Some((at, self.listings.get_mut(at)?)))
            else {
                self.places.insert(id.clone(), self.listings.len());
                self.listings.push(new);
                continue;
            };
            if at >= before {
                let counts = old.sequence().max(new.sequence()).unwrap_or_default();
                self.faults.push(Fault { provider: printable(id, 64), lie: Lie::Twice(counts) });
            }
            if new.sequence() > old.sequence() {
                *old = new;
            }
        }
    }
}

fn asks_to_wait(reply: &reqwest::Response) -> Option<Duration> {
    if reply.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = reply.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
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
    use super::super::listing::tests::{entry, moment};
    use super::*;

    #[test]
    fn of_two_entries_of_one_provider_the_newer_stays() {
        let mut search = Search::default();
        search.take_in(vec![entry(2), entry(3), entry(1)], moment());
        let sequences: Vec<_> = search.listings.iter().map(Listing::sequence).collect();
        assert_eq!(sequences, [Some(3)]);
        let lies: Vec<_> = search.faults.iter().map(|fault| fault.lie.clone()).collect();
        assert_eq!(lies, [Lie::Twice(3), Lie::Twice(3)]);
    }

    #[test]
    fn between_two_pages_a_provider_may_advertise_itself_anew() {
        let mut search = Search::default();
        search.take_in(vec![entry(2)], moment());
        search.take_in(vec![entry(3)], moment());
        assert_eq!(search.listings.len(), 1);
        assert_eq!(search.listings[0].sequence(), Some(3));
        assert!(search.faults.is_empty());
    }
}
