//! A machine's network namespace, and what may leave it.
