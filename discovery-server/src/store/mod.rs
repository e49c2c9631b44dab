//! Where advertisements are kept: SQLite, or memory for tests.

mod memory;
mod room;
mod row;
mod schema;
mod sqlite;

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

#[cfg(test)]
mod tests;
