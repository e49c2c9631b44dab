//! Tells discovery what is offered.
