//! Disk files: inspected, made, grown.
