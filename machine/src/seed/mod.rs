//! What a guest learns at its first boot.
