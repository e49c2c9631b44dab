//! How many searches per second the index answers, over 10 000 advertisements of usual size:
//! `cargo run --release -p golem-vm-discovery --example search_bench`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use golem_vm_discovery::registry::feed::{Row, State};
use golem_vm_discovery::registry::index::{Index, Listed};
use golem_vm_discovery::registry::search::Search;
use golem_vm_protocol::advertisement::{
    Advertisement, Endpoint, Offer, OfferedImage, Overcommit, Prices,
};
use golem_vm_protocol::document::{DocumentDigest, Envelope};
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::Isolation;
use golem_vm_protocol::{KeyPair, VmResources};

const ADVERTISEMENTS: u32 = 10_000;
const NOW: u64 = 1_800_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let now = Timestamp::from_unix_seconds(NOW);
    let mut index = Index::default();
    let started = Instant::now();
    for n in 0..ADVERTISEMENTS {
        let row = row(n, now)?;
        let listed = Listed::from_row(&row)?;
        index.apply(row.revision, row.provider_id, Some(listed));
    }
    println!("{ADVERTISEMENTS} advertisements signed and listed in {:.1?}", started.elapsed());
    let queries: [(&str, &[(&str, &str)]); 4] = [
        ("first 20 of a country", &[("country", "SE"), ("limit", "20")]),
        ("20 by size and price", &[("cpu", "8"), ("max_usd_per_month", "80"), ("limit", "20")]),
        ("nothing matches (whole index)", &[("cpu", "100")]),
        ("a page of 1000", &[]),
    ];
    for (name, query) in queries {
        let search = Search::parse(query.iter().copied())?;
        let (mut runs, started) = (0_u32, Instant::now());
        let mut bytes = 0;
        while started.elapsed() < Duration::from_secs(1) {
            bytes = black_box(index.search(&search, now).into_page()).body.len();
            runs += 1;
        }
        let each = started.elapsed() / runs;
        println!("{name}: {runs} searches/s on one core, {each:.1?} each, {bytes} bytes");
    }
    Ok(())
}

fn row(n: u32, now: Timestamp) -> Result<Row, Box<dyn std::error::Error>> {
    let mut secret = [7; 32];
    secret[..4].copy_from_slice(&n.to_be_bytes());
    let key = KeyPair::from_secret_bytes(secret)?;
    let expires_at = now.plus(Duration::from_secs(300));
    let document = Advertisement {
        lease: None,
        provider_id: key.id(),
        sequence: 1,
        issued_at: now,
        expires_at,
        name: format!("provider-{n}"),
        country: ["SE", "DE", "FR", "US", "PL"][n as usize % 5].to_owned(),
        platform: "x86_64".to_owned(),
        resources: VmResources { cpu: 1 + n % 32, memory: 4 + n % 60, storage: 10 + n % 500 },
        endpoints: vec![Endpoint::Direct {
            api: "192.0.2.1:7466".to_owned(),
            ssh_host: "192.0.2.1".to_owned(),
        }],
        offers: vec![Offer {
            backend: "docker".to_owned(),
            isolation: Isolation::Container,
            accel: None,
            images: vec![OfferedImage {
                name: "debian-12".to_owned(),
                digest: format!("sha256:{}", "0".repeat(64)),
            }],
            egress: "internet".to_owned(),
            enforced: vec!["cpu".to_owned(), "memory".to_owned(), "processes".to_owned()],
            contained: true,
        }],
        prices: Prices {
            core_month: 5_000_000,
            gb_ram_month: 2_000_000,
            gb_storage_month: 100_000,
        },
        overcommit: Overcommit::default(),
        port_check: None,
        attestations: Vec::new(),
    };
    let envelope = Envelope::seal(&document, &key)?;
    let digest = DocumentDigest::of(&envelope.payload_bytes()?);
    Ok(Row {
        revision: u64::from(n) + 1,
        provider_id: key.id().to_string(),
        signed: Some((1, digest)),
        state: State::Live,
        content: Some(serde_json::to_string(&envelope)?),
        observed_address: "192.0.2.1".to_owned(),
        created_at: now,
        updated_at: now,
        last_seen: now,
        expires_at,
    })
}
