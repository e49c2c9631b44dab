//! A request, and what is answered.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::files::Staged;
use crate::grow;
use crate::identity::{Failure, Identity, Keys, is_user};
use crate::kernel;
use crate::run::Run;
use crate::settle;
use crate::wire::{Fields, Frame, Kind, tag};

/// Part of what a template is known by: a template made with another agent is not used.
pub(crate) const VERSION: &str = match option_env!("GOLEM_GUEST_AGENT_VERSION") {
    Some(version) => version,
    None => "0",
};

/// The longest line that is shown to who is logged in, in characters.
const MAX_LINE: usize = 500;

/// The machine that the agent is in.
#[derive(Debug)]
pub(crate) struct Guest {
    root: PathBuf,
}

impl Guest {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Does what is asked for. The second half is to be done later, after the answer.
    pub(crate) fn answer(&self, request: &Frame) -> (Frame, Vec<Run>) {
        let began = Instant::now();
        let (kind, fields, afterwards) = match self.perform(request.kind, &request.fields) {
            Ok(afterwards) => (Kind::Done, Fields::new().with(tag::VERSION, VERSION), afterwards),
            Err((step, why)) => {
                let why: String = why.chars().take(MAX_LINE).collect();
                (Kind::Failed, Fields::new().with(tag::STEP, step).with(tag::WHY, why), Vec::new())
            }
        };
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let fields = fields.with(tag::MILLISECONDS, took.to_be_bytes());
        (Frame { kind, id: request.id, fields }, afterwards)
    }

    fn perform(&self, kind: Kind, fields: &Fields) -> Result<Vec<Run>, Failure> {
        let missing = |what| (what, "is missing, or is not one".to_owned());
        let nothing = |()| Vec::new();
        match kind {
            Kind::Hello => Ok(Vec::new()),
            Kind::Settle => {
                let user = fields.text(tag::USER).filter(|user| is_user(user));
                let user = user.ok_or_else(|| missing("user"))?;
                settle::settle(&self.root, user).map(nothing).map_err(|why| ("settle", why))
            }
            Kind::Apply => Identity::parse(fields)?.apply(&self.root),
            Kind::Authorize => {
                let keys = Keys::parse(fields)?;
                let mut staged = Staged::default();
                keys.stage(&self.root, &mut staged)
                    .and_then(|()| staged.commit())
                    .map(nothing)
                    .map_err(|error| ("authorized keys", error.to_string()))
            }
            Kind::Notify => {
                let line = fields.text(tag::TEXT).ok_or_else(|| missing("line"))?;
                let line: String =
                    line.chars().filter(|c| !c.is_control()).take(MAX_LINE).collect();
                let wall = Run::new("wall", &[]).input(format!("{line}\n"));
                wall.run().map(nothing).map_err(|why| ("notify", why))
            }
            Kind::Grow => grow::grow().map(nothing).map_err(|why| ("grow", why)),
            Kind::Clock => {
                let time = fields.number(tag::CLOCK).ok_or_else(|| missing("clock"))?;
                kernel::set_clock(time).map(nothing).map_err(|error| ("clock", error.to_string()))
            }
            Kind::Done | Kind::Failed => Err(("request", "is an answer".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::tests::Directory;

    fn asked(kind: Kind, fields: Fields) -> Frame {
        Frame { kind, id: 9, fields }
    }

    #[test]
    fn keys_are_replaced_and_failures_are_told_with_their_step() {
        let root = Directory::new("answer");
        let guest = Guest::new(&root.0);
        let hello = guest.answer(&asked(Kind::Hello, Fields::new())).0;
        assert_eq!(
            (hello.kind, hello.id, hello.fields.text(tag::VERSION)),
            (Kind::Done, 9, Some(VERSION))
        );

        let keys =
            Fields::new().with(tag::USER, "ubuntu").with(tag::AUTHORIZED_KEYS, "ssh-ed25519 A\n");
        assert_eq!(guest.answer(&asked(Kind::Authorize, keys)).0.kind, Kind::Done);
        let file = root.0.join("etc/ssh/golem_authorized_keys/ubuntu");
        assert_eq!(fs::read_to_string(&file).expect("read"), "ssh-ed25519 A\n");
        let none = Fields::new().with(tag::USER, "ubuntu").with(tag::AUTHORIZED_KEYS, "");
        assert_eq!(guest.answer(&asked(Kind::Authorize, none)).0.kind, Kind::Done);
        assert_eq!(fs::read_to_string(&file).expect("read"), "");

        let failed = guest.answer(&asked(Kind::Apply, Fields::new())).0;
        assert_eq!((failed.kind, failed.fields.text(tag::STEP)), (Kind::Failed, Some("seed")));
        assert_eq!(guest.answer(&asked(Kind::Done, Fields::new())).0.kind, Kind::Failed);
    }
}
