//! A discovery server that lists what it is told to list, in pages if wanted.

use std::sync::{Arc, Mutex};

use golem_vm_protocol::advertisement::NEXT_CURSOR_HEADER;
use golem_vm_protocol::{ErrorCode, Problem};
use serde_json::{Value, json};

use super::http::{Answer, Server, json, serve};
use super::provider::Provider;

#[derive(Default)]
struct Listed {
    entries: Vec<Value>,
    page: Option<usize>,
    searches: usize,
    /// The next question is told to come again after so many seconds.
    busy_once: Option<u64>,
    /// Every question is refused in these words.
    refuse: Option<String>,
    /// What takes the place of an entry from the next question on.
    later: Vec<Value>,
}

pub struct Discovery {
    listed: Arc<Mutex<Listed>>,
    server: Server,
}

impl Discovery {
    pub fn new() -> Self {
        let listed = Arc::new(Mutex::new(Listed::default()));
        let state = Arc::clone(&listed);
        let server = serve(move |request| {
            let mut listed = state.lock().unwrap();
            if let Some(seconds) = listed.busy_once.take() {
                let busy = Problem::new(ErrorCode::RateLimited, "asked too often");
                let mut answer = json(429, &busy);
                if let Answer::Reply { headers, .. } = &mut answer {
                    headers.push(("retry-after".to_owned(), seconds.to_string()));
                }
                return answer;
            }
            if let Some(words) = &listed.refuse {
                return json(409, &Problem::new(ErrorCode::StateConflict, words));
            }
            let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
            if let Some(id) = path.strip_prefix("/api/v1/advertisements/") {
                let found = listed.entries.iter().rfind(|entry| entry["provider_id"] == id);
                return match found {
                    Some(entry) => json(200, entry),
                    None => {
                        json(404, &Problem::new(ErrorCode::AdvertisementNotFound, "not listed"))
                    }
                };
            }
            listed.searches += 1;
            let later = std::mem::take(&mut listed.later);
            let cursor = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("cursor="))
                .map_or(0, |cursor| cursor.parse().unwrap());
            let page = listed.page.unwrap_or(usize::MAX);
            let entries: Vec<_> = listed.entries.iter().skip(cursor).take(page).collect();
            let next = cursor + entries.len();
            let mut answer = json(200, &entries);
            for new in later {
                listed.entries.retain(|entry| entry["provider_id"] != new["provider_id"]);
                listed.entries.push(new);
            }
            if next < listed.entries.len()
                && let Answer::Reply { headers, .. } = &mut answer
            {
                headers.push((NEXT_CURSOR_HEADER.to_owned(), next.to_string()));
            }
            answer
        });
        Self { listed, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Lists a provider as it advertises itself now, in place of what was listed of it.
    pub fn list(&self, provider: &Provider) {
        self.withdraw(provider);
        self.list_value(provider.entry());
    }

    /// Lists a provider as it advertises itself now, but only after the next search.
    pub fn list_later(&self, provider: &Provider) {
        self.listed.lock().unwrap().later.push(provider.entry());
    }

    pub fn withdraw(&self, provider: &Provider) {
        let id = provider.id().to_string();
        self.listed.lock().unwrap().entries.retain(|entry| entry["provider_id"] != id);
    }

    pub fn list_value(&self, entry: Value) {
        self.listed.lock().unwrap().entries.push(entry);
    }

    pub fn list_unsigned(&self, name: &str) {
        self.list_value(json!({
            "provider_id": "0x21995069BEb0FA8324d32Ba3783387B6F13261d6", "ip_address": "127.0.0.1",
            "country": "SE", "resources": {"cpu": 2, "memory": 21, "storage": 69},
            "pricing": {"usd_per_core_month": 5.0, "usd_per_gb_ram_month": 2.0,
                        "usd_per_gb_storage_month": 0.1},
            "created_at": "2026-11-21T00:45:44.006473", "updated_at": "2026-11-21T00:45:44.001028",
            "provider_name": name,
        }));
    }

    pub fn busy_once(&self, seconds: u64) {
        self.listed.lock().unwrap().busy_once = Some(seconds);
    }

    pub fn refuse(&self, words: &str) {
        self.listed.lock().unwrap().refuse = Some(words.to_owned());
    }

    pub fn page_size(&self, size: usize) {
        self.listed.lock().unwrap().page = Some(size);
    }
}
