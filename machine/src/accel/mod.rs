//! Whether hardware virtualisation works here, found by running a guest.
