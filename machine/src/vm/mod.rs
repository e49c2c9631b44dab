//! One machine on disk and in memory, from its making to its end.
