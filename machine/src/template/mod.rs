//! Running machines kept to be resumed.
