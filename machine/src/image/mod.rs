//! What machines boot from: built, fetched, checked.
