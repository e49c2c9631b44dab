//! The SQL of images: which ones were built or pulled here.

use async_trait::async_trait;
use golem_vm_node::store::StoreError;
use golem_vm_protocol::time::Timestamp;
use rusqlite::params;

use super::ProviderStore;
use super::columns::damaged;
use crate::backend::{BackendKind, ImageDigest};
use crate::images::{ImageRegister, ImageRow};

#[async_trait]
impl ImageRegister for ProviderStore {
    async fn put_image(
        &self,
        name: String,
        digest: ImageDigest,
        backend: BackendKind,
        built: bool,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.store
            .write("image.put", move |db| {
                db.execute(
                    "INSERT OR REPLACE INTO image (name, digest, backend, source, created_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        name,
                        digest.as_str(),
                        backend.as_str(),
                        if built { "built" } else { "pulled" },
                        now.unix_micros()
                    ],
                )?;
                Ok(())
            })
            .await
    }

    async fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.store
            .read("image.list", |db| {
                let mut statement = db.prepare_cached(
                    "SELECT name, digest, backend, source, created_at FROM image ORDER BY name, backend",
                )?;
                let rows = statement.query_map([], |row| {
                    let backend: String = row.get(2)?;
                    Ok(ImageRow {
                        name: row.get(0)?,
                        digest: ImageDigest::new(row.get::<_, String>(1)?),
                        backend: backend.parse().map_err(|error: String| damaged(2, error))?,
                        built: row.get::<_, String>(3)? == "built",
                        created_at: Timestamp::from_unix_micros(row.get(4)?),
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn forget_image(&self, name: String, backend: BackendKind) -> Result<bool, StoreError> {
        self.store
            .write("image.forget", move |db| {
                let of = params![name, backend.as_str()];
                Ok(db.execute("DELETE FROM image WHERE name = ?1 AND backend = ?2", of)? > 0)
            })
            .await
    }
}
