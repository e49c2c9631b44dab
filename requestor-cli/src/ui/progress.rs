//! The live line that tells how far something is.

use std::time::Duration;

use golem_vm_protocol::text::printable_lines;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A step-by-step display; it disappears when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Without a terminal each new step is one line; the last one shown.
    shown: std::cell::RefCell<String>,
    quiet: bool,
}

impl Progress {
    pub(super) fn start(bars: &MultiProgress, live: bool, quiet: bool, first: &str) -> Self {
        let bar = live.then(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let progress = Self { bar, shown: std::cell::RefCell::default(), quiet };
        progress.step(first);
        progress
    }

    /// Says what is going on now. The same text again changes nothing.
    pub fn step(&self, text: &str) {
        let text = &*printable_lines(text);
        if *self.shown.borrow() == text {
            return;
        }
        self.shown.replace(text.to_owned());
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.quiet => {}
            None => eprintln!("{text} ..."),
        }
    }

    /// Takes the live line away for good: somebody else is about to use the terminal.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
