//! The program inside our guests, and how it is spoken to.
