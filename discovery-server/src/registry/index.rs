//! The live advertisements in memory, ready to be sent.

use std::collections::BTreeMap;
use std::ops::Bound;

use axum::body::Bytes;
use golem_vm_protocol::VmResources;
use golem_vm_protocol::advertisement::Prices;
use golem_vm_protocol::time::Timestamp;

use super::offered::{Kinds, ListedImage};
use super::search::{Cursor, MAX_PAGE_BYTES, Page, Search};

/// One entry: what searches look at, and its JSON.
///
/// The numbers lie in the tree's own nodes, so that a search that passes over an entry follows no
/// pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// From when on it is not listed.
    pub expires_at: Timestamp,
    /// What is free.
    pub resources: VmResources,
    /// What kinds of VM it offers; of an unsigned provider nothing is known.
    pub kinds: Kinds,
    /// What it costs, where that can be told.
    pub prices: Option<Prices>,
    /// Its country.
    pub country: Box<str>,
    /// The machine's architecture, where it was said.
    pub platform: Option<Box<str>>,
    /// What it offers to boot from.
    pub images: Box<[ListedImage]>,
    /// The entry as it goes over the wire.
    pub json: Bytes,
}

/// All live entries in the order of their ids, and how far the feed was read.
#[derive(Debug, Default)]
pub struct Index {
    entries: BTreeMap<Box<str>, Listed>,
    revision: u64,
}

/// What a search found: the parts of a body, not put together yet, so that the index is free again.
#[derive(Debug, Default)]
pub struct Found {
    parts: Vec<Bytes>,
    next: Option<Cursor>,
}

impl Index {
    /// How far the feed was read.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes one change of the feed: the provider's entry now, or `None` when it has none.
    pub fn apply(&mut self, revision: u64, provider_id: String, listed: Option<Listed>) {
        self.revision = self.revision.max(revision);
        match listed {
            Some(listed) => drop(self.entries.insert(provider_id.into(), listed)),
            None => drop(self.entries.remove(provider_id.as_str())),
        }
    }

    /// One live entry.
    #[must_use]
    pub fn get(&self, provider_id: &str, now: Timestamp) -> Option<Bytes> {
        let listed = self.entries.get(provider_id).filter(|listed| listed.expires_at > now)?;
        Some(listed.json.clone())
    }

    /// When the next entry expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.entries.values().map(|listed| listed.expires_at).min()
    }

    /// The live entries that match, from behind the cursor, up to the limit of count or size.
    #[must_use]
    pub fn search(&self, search: &Search, now: Timestamp) -> Found {
        let start = search.after.as_ref().map_or(Bound::Unbounded, |c| Bound::Excluded(c.id()));
        let mut found = Found::default();
        let mut bytes = 0;
        let mut last = None;
        let matching = self
            .entries
            .range::<str, _>((start, Bound::Unbounded))
            .filter(|(_, listed)| listed.expires_at > now && search.filter.matches(listed));
        for (id, listed) in matching {
            if found.parts.len() >= search.limit || bytes > MAX_PAGE_BYTES {
                found.next = last.map(Cursor::after);
                break;
            }
            bytes += listed.json.len();
            found.parts.push(listed.json.clone());
            last = Some(id);
        }
        found
    }
}

impl Found {
    /// Puts the body together.
    #[must_use]
    pub fn into_page(self) -> Page {
        let size = self.parts.iter().map(|part| part.len() + 1).sum::<usize>() + 2;
        let mut body = Vec::with_capacity(size);
        body.push(b'[');
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(part);
        }
        body.push(b']');
        Page { body: body.into(), count: self.parts.len(), next: self.next }
    }
}
