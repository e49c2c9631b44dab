//! The person's terminal while every key is another machine's.

use std::io;

/// A terminal in raw mode; back to what it was when dropped, in whatever way that happens.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Switches the terminal of standard input.
    ///
    /// # Errors
    /// When it is none.
    pub fn enter() -> io::Result<Self> {
        crossterm::terminal::enable_raw_mode().map(|()| Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
    }
}
