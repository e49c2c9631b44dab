//! From a stored row to the entry that searches see.

use axum::body::Bytes;
use golem_vm_protocol::advertisement::{
    Advertisement, AdvertisementEntry, Prices, Pricing, UnsignedAdvertisement,
};
use golem_vm_protocol::document::Envelope;

use super::feed::Row;
use super::index::Listed;
use super::offered::{Kinds, ListedImage};

impl Listed {
    /// The entry of a live row. Its signature was checked when it was published.
    ///
    /// # Errors
    /// What can't be read.
    pub fn from_row(row: &Row) -> Result<Self, String> {
        let content = row.content.as_deref().ok_or("it has no content")?;
        match row.signed {
            Some(_) => signed(row, content),
            None => unsigned(row, content),
        }
    }
}

fn signed(row: &Row, content: &str) -> Result<Listed, String> {
    let envelope: Envelope = serde_json::from_str(content).map_err(|e| e.to_string())?;
    let payload = envelope.payload_bytes().map_err(|e| e.to_string())?;
    let document: Advertisement = serde_json::from_slice(&payload).map_err(|e| e.to_string())?;
    let ip_address = document
        .direct_endpoint()
        .map_or_else(|| row.observed_address.clone(), |(api, _)| host_of(api).to_owned());
    let offers = &document.offers;
    let kinds = offers.iter().fold(Kinds::default(), |all, offer| all.with(Kinds::of(offer)));
    let images = ListedImage::all(offers);
    let prices = document.prices;
    let entry = AdvertisementEntry {
        ip_address,
        country: document.country,
        resources: document.resources,
        pricing: serde_json::to_value(Pricing::from(prices)).ok(),
        provider_name: Some(document.name),
        platform: Some(document.platform),
        verified: true,
        document: Some(envelope),
        ..frame(row, document.resources)
    };
    Ok(Listed { kinds, images, ..finish(row, entry, Some(prices))? })
}

fn unsigned(row: &Row, content: &str) -> Result<Listed, String> {
    let said: UnsignedAdvertisement = serde_json::from_str(content).map_err(|e| e.to_string())?;
    let prices = said.pricing.as_ref().and_then(usd_prices);
    let entry = AdvertisementEntry {
        ip_address: said.ip_address,
        country: said.country,
        pricing: said.pricing,
        // The original's CLI can't show an entry without a name.
        provider_name: said.provider_name.or_else(|| Some(row.provider_id.clone())),
        platform: said.platform,
        ..frame(row, said.resources)
    };
    finish(row, entry, prices)
}

/// What every entry takes from its row.
fn frame(row: &Row, resources: golem_vm_protocol::VmResources) -> AdvertisementEntry {
    AdvertisementEntry {
        provider_id: row.provider_id.clone(),
        ip_address: String::new(),
        country: String::new(),
        resources,
        pricing: None,
        created_at: row.created_at.naive(),
        updated_at: row.updated_at.naive(),
        provider_name: None,
        platform: None,
        verified: false,
        last_seen: Some(row.last_seen),
        expires_at: Some(row.expires_at),
        document: None,
    }
}

fn finish(row: &Row, entry: AdvertisementEntry, prices: Option<Prices>) -> Result<Listed, String> {
    let json = serde_json::to_vec(&entry).map_err(|e| e.to_string())?;
    Ok(Listed {
        expires_at: row.expires_at,
        resources: entry.resources,
        kinds: Kinds::default(),
        images: Box::default(),
        prices,
        country: entry.country.into(),
        platform: entry.platform.map(Into::into),
        json: Bytes::from(json),
    })
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(api: &str) -> &str {
    let host = api.rsplit_once(':').map_or(api, |(host, _)| host);
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

/// An unsigned provider's prices, if it names all three in USD.
fn usd_prices(pricing: &serde_json::Value) -> Option<Prices> {
    let micro = |name: &str| {
        let usd = pricing.get(name)?.as_f64().filter(|usd| (0.0..=1e12).contains(usd))?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 10^18, checked"
        )]
        Some((usd * 1e6).round() as u64)
    };
    Some(Prices {
        core_month: micro("usd_per_core_month")?,
        gb_ram_month: micro("usd_per_gb_ram_month")?,
        gb_storage_month: micro("usd_per_gb_storage_month")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_in_every_form() {
        assert_eq!(host_of("192.0.2.1:7466"), "192.0.2.1");
        assert_eq!(host_of("[2001:db8::1]:7466"), "2001:db8::1");
        assert_eq!(host_of("vm.example:7466"), "vm.example");
    }

    #[test]
    fn prices_of_the_original_are_read_where_they_are_complete() {
        let whole = serde_json::json!({
            "usd_per_core_month": 5.0, "usd_per_gb_ram_month": 2, "usd_per_gb_storage_month": 0.1,
            "glm_per_core_month": 20.0,
        });
        let prices =
            Prices { core_month: 5_000_000, gb_ram_month: 2_000_000, gb_storage_month: 100_000 };
        assert_eq!(usd_prices(&whole), Some(prices));
        for broken in ["{}", r#"{"usd_per_core_month":-1}"#, "null", "[]"] {
            assert_eq!(serde_json::from_str(broken).ok().as_ref().and_then(usd_prices), None);
        }
    }
}
