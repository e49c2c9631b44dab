//! A session on a stable compiler: every input of a target's corpus, then inputs made from them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::mutation::{Random, mutated};
use crate::{Body, directory};

/// How long a session goes on with one target, whichever ends first.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// What the random inputs follow from.
    pub seed: u64,
    /// Most random inputs.
    pub inputs: u64,
    /// Longest time.
    pub time: Duration,
}

/// An input on which a target panicked. What it said is on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// Where it comes from: a file, or the number of a random input.
    pub origin: String,
}

/// The corpus of a target: `fuzz/corpus/<target>`, in order of the files' names.
///
/// # Errors
/// When it can't be read, or has no file.
pub fn corpus(target: &str) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let place = directory().join("corpus").join(target);
    let failed = |error: std::io::Error| format!("{}: {error}", place.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&place).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let content = std::fs::read(&path).map_err(failed)?;
        files.push((path, content));
    }
    files.sort();
    if files.is_empty() { Err(format!("{} has no file", place.display())) } else { Ok(files) }
}

/// Runs one target, and says how many inputs it had.
///
/// # Errors
/// The first input on which it panicked.
pub fn run(
    target: &'static str,
    body: Body,
    corpus: &[(PathBuf, Vec<u8>)],
    bounds: Bounds,
) -> Result<u64, Finding> {
    let tried = |input: Vec<u8>, origin: &dyn Fn() -> String| match std::panic::catch_unwind(|| {
        body(&input)
    }) {
        Ok(()) => Ok(()),
        Err(_) => Err(Finding { target, input, origin: origin() }),
    };
    let mut done = 0;
    for (path, content) in corpus {
        tried(content.clone(), &|| path.display().to_string())?;
        done += 1;
    }
    let seeds: Vec<Vec<u8>> = corpus.iter().map(|(_, content)| content.clone()).collect();
    let mut random = Random::new(bounds.seed);
    let began = Instant::now();
    for number in 0..bounds.inputs {
        if began.elapsed() > bounds.time {
            break;
        }
        let input = mutated(&seeds, &mut random);
        tried(input, &|| format!("random input {number} of seed {}", bounds.seed))?;
        done += 1;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_panics_is_found_with_its_input() {
        let body: Body = |input| assert!(!input.contains(&b'"'));
        let corpus = [(PathBuf::from("a"), b"harmless".to_vec())];
        let bounds = Bounds { seed: 1, inputs: 10_000, time: Duration::from_secs(60) };
        let finding = run("t", body, &corpus, bounds).err();
        assert!(finding.is_some_and(|finding| finding.input.contains(&b'"')));
        let harmless: Body = |_| {};
        assert_eq!(run("t", harmless, &corpus, bounds), Ok(10_001));
    }
}
