//! Images that nobody needs any more go by themselves: what was pulled or built before under a name that leads
//! elsewhere now, and what builds left that were killed. Never one that a container uses, that is needed for a VM
//! to be, or that is not this provider's.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use golem_vm_protocol::KeyId;
use tokio::time::Instant;

use super::engine::{CallError, Engine};
use super::{base, build, tags};
use crate::backend::ImageDigest;

/// For how long an image has to be without use before its name is taken away: a pull that has just ended is
/// written down a moment later.
const UNUSED: Duration = Duration::from_secs(3600);

/// Names that only exist while something is made or tried.
const PASSING: [&str; 2] = ["golem/base:", "golem/trial:"];

/// Since when each of this provider's names has been without use.
#[derive(Debug, Default)]
pub(super) struct Unused(HashMap<String, Instant>);

impl Unused {
    /// Which of these names, each with its image, have been without use for long enough.
    fn due(
        &mut self,
        names: &[(String, String)],
        needed: &BTreeSet<ImageDigest>,
        now: Instant,
    ) -> Vec<String> {
        let is_needed = |id: &String| needed.contains(&ImageDigest::new(id.as_str()));
        let unused: BTreeSet<&String> =
            names.iter().filter(|(_, id)| !is_needed(id)).map(|(name, _)| name).collect();
        self.0.retain(|name, _| unused.contains(name));
        for name in unused {
            self.0.entry(name.clone()).or_insert(now);
        }
        let due = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= UNUSED);
        due.map(|(name, _)| name.clone()).collect()
    }
}

/// See [`crate::backend::ImageStore::tidy`]. No build of this provider may be running.
pub(super) async fn tidy(
    engine: &Engine,
    provider: &KeyId,
    unused: &mut Unused,
    needed: &BTreeSet<ImageDigest>,
) -> Result<(), CallError> {
    // That it could not be done now is no harm.
    let _ = tokio::task::spawn_blocking(base::sweep).await;
    build::sweep_own(engine, provider, needed).await?;
    let tag = format!("*:{}", tags::tag_of(provider));
    let names = tags::with_ids(engine, &format!("golem/{tag}")).await?;
    let own: Vec<_> = names
        .into_iter()
        .filter(|(name, _)| !PASSING.iter().any(|passing| name.starts_with(passing)))
        .filter(|(name, _)| !tags::own(std::slice::from_ref(name), provider).is_empty())
        .collect();
    for name in unused.due(&own, needed, Instant::now()) {
        match tags::untag(engine, &name).await {
            Ok(()) => tracing::info!(name, "an image that nothing needs any more was removed"),
            // A container uses it still.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_been_without_use_for_long_is_due() {
        let names = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect()
        };
        let needed = BTreeSet::from([ImageDigest::new("sha256:aa")]);
        let all = names(&[("golem/debian-12:x", "sha256:aa"), ("golem/pulled-1:x", "sha256:bb")]);
        let mut unused = Unused::default();
        let begun = Instant::now();
        assert!(unused.due(&all, &needed, begun).is_empty(), "not at once");
        let later = begun + UNUSED;
        let both = BTreeSet::from([ImageDigest::new("sha256:aa"), ImageDigest::new("sha256:bb")]);
        let mut needed_meanwhile = Unused::default();
        let _ = needed_meanwhile.due(&all, &needed, begun);
        let _ = needed_meanwhile.due(&all, &both, begun + UNUSED / 2);
        assert!(needed_meanwhile.due(&all, &needed, later).is_empty(), "it was needed meanwhile");
        assert_eq!(unused.due(&all, &needed, later), ["golem/pulled-1:x"]);
        assert!(unused.due(&[], &needed, later).is_empty(), "it is gone");
    }
}
