//! What a machine is made of, and QEMU's arguments for it.
