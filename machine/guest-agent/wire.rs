//! What the provider and the agent say to each other: frames over a virtio-serial port.
//!
//! This file is compiled twice: into the agent, and into the provider's crate. Only the standard library is used.
//!
//! A frame is `magic (4 bytes), kind (1), id (8), length (4), body`, numbers big-endian. A body is a row of fields,
//! each `tag (1), length (4), value`. The provider asks, the agent answers with the same id. The port is a stream of
//! bytes that may begin in the middle of something older, so a reader looks for the magic, and the provider takes no
//! answer but the one that carries the id it has just made up.

/// What every frame begins with. The last byte is the version of this format.
pub const MAGIC: [u8; 4] = *b"gvA\x01";

/// The longest body of a request, in bytes.
pub const MAX_REQUEST: usize = 128 * 1024;

/// The longest body of an answer, in bytes: a guest is not trusted with more of the provider's memory.
pub const MAX_ANSWER: usize = 4 * 1024;

/// The most fields in a body.
pub const MAX_FIELDS: usize = 64;

const HEADER: usize = 4 + 1 + 8 + 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who are you? Answered with [`tag::VERSION`].
    Hello = 1,
    /// Get ready to be kept as a template: answered when the guest has booted and its login is warm.
    Settle = 2,
    /// Become another machine.
    Apply = 3,
    /// Let these keys log in, and no others.
    Authorize = 4,
    /// Show a line to whoever is logged in.
    Notify = 5,
    /// Make the root file system as large as its disk.
    Grow = 6,
    /// Set the clock, after a pause.
    Clock = 7,
    /// It is done.
    Done = 0x80,
    /// It is not: [`tag::STEP`] and [`tag::WHY`].
    Failed = 0x81,
}

impl Kind {
    /// The kind with that number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::Settle,
            Self::Apply,
            Self::Authorize,
            Self::Notify,
            Self::Grow,
            Self::Clock,
            Self::Done,
            Self::Failed,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// What a field is.
pub mod tag {
    /// Random bytes for the kernel; mixed in before anything else is done. 32 to 512 bytes.
    pub const SEED: u8 = 1;
    /// The time: nanoseconds since 1970, 8 bytes big-endian.
    pub const CLOCK: u8 = 2;
    /// The host name.
    pub const HOSTNAME: u8 = 3;
    /// The machine id: 32 lower-case hexadecimal digits.
    pub const MACHINE_ID: u8 = 4;
    /// The SSH host key, as OpenSSH writes private keys.
    pub const HOST_KEY: u8 = 5;
    /// Its public half, one line.
    pub const HOST_KEY_PUBLIC: u8 = 6;
    /// Who the keys are for: the name of a user.
    pub const USER: u8 = 7;
    /// Authorised keys: one per line.
    pub const AUTHORIZED_KEYS: u8 = 8;
    /// The network now: `mac address prefix gateway resolver`, separated by spaces.
    pub const NETWORK: u8 = 9;
    /// The same of the template, to be replaced wherever it is configured.
    pub const NETWORK_BEFORE: u8 = 10;
    /// A line of text.
    pub const TEXT: u8 = 11;
    /// The agent's version.
    pub const VERSION: u8 = 12;
    /// What was being done.
    pub const STEP: u8 = 13;
    /// Why it failed.
    pub const WHY: u8 = 14;
    /// How long it took in the guest: milliseconds, 8 bytes big-endian.
    pub const MILLISECONDS: u8 = 15;
}

/// The fields of a body, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(u8, Vec<u8>)>);

impl Fields {
    /// No fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, tag: u8, value: impl Into<Vec<u8>>) -> Self {
        self.0.push((tag, value.into()));
        self
    }

    /// The first field with that tag.
    #[must_use]
    pub fn get(&self, tag: u8) -> Option<&[u8]> {
        self.0.iter().find(|field| field.0 == tag).map(|field| field.1.as_slice())
    }

    /// The same, if it is text.
    #[must_use]
    pub fn text(&self, tag: u8) -> Option<&str> {
        self.get(tag).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The same, if it is a number.
    #[must_use]
    pub fn number(&self, tag: u8) -> Option<u64> {
        self.get(tag).and_then(|value| value.try_into().ok()).map(u64::from_be_bytes)
    }

    fn parse(mut body: &[u8]) -> Option<Self> {
        let mut fields = Vec::new();
        while !body.is_empty() {
            let (head, rest) = body.split_at_checked(5)?;
            let length = u32::from_be_bytes(head[1..].try_into().ok()?);
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            if fields.len() == MAX_FIELDS {
                return None;
            }
            fields.push((head[0], value.to_vec()));
            body = rest;
        }
        Some(Self(fields))
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (tag, value) in &self.0 {
            out.push(*tag);
            out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(value);
        }
    }
}

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Chosen by who asks; the same in the answer.
    pub id: u64,
    /// What it carries.
    pub fields: Fields,
}

impl Frame {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.fields.write(&mut body);
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(&MAGIC);
        out.push(self.kind as u8);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&body);
        out
    }
}

/// Takes bytes as they come and gives frames; what is none is passed over.
///
/// It never holds more than one body and what was pushed last.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    max_body: usize,
}

impl Reader {
    /// A reader that takes bodies of up to `max_body` bytes.
    #[must_use]
    pub fn new(max_body: usize) -> Self {
        Self { buffer: Vec::new(), max_body }
    }

    /// More bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait to become a frame.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame, if all of it is there.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut at = 0;
        let found = loop {
            let rest = &self.buffer[at..];
            let Some(start) = find_magic(rest) else { break None };
            at += start;
            let rest = &self.buffer[at..];
            match Self::parse(rest, self.max_body) {
                Parsed::Frame(frame, length) => {
                    at += length;
                    break Some(frame);
                }
                Parsed::Incomplete => break None,
                // Not a frame after all: the magic was by chance, or the sender is broken.
                Parsed::Nonsense => at += 1,
            }
        };
        if found.is_none() && find_magic(&self.buffer[at..]).is_none() {
            // Only the last bytes may be the beginning of a magic.
            at = self.buffer.len() - partial_magic(&self.buffer[at..]);
        }
        self.buffer.drain(..at);
        found
    }

    fn parse(bytes: &[u8], max_body: usize) -> Parsed {
        let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
            return Parsed::Incomplete;
        };
        let mut id = [0; 8];
        id.copy_from_slice(&header[5..13]);
        let mut length = [0; 4];
        length.copy_from_slice(&header[13..]);
        let (id, length) = (u64::from_be_bytes(id), u32::from_be_bytes(length) as usize);
        let Some(kind) = Kind::of(header[4]) else { return Parsed::Nonsense };
        if length > max_body {
            return Parsed::Nonsense;
        }
        let Some(body) = rest.get(..length) else { return Parsed::Incomplete };
        match Fields::parse(body) {
            Some(fields) => Parsed::Frame(Frame { kind, id, fields }, HEADER + length),
            None => Parsed::Nonsense,
        }
    }
}

enum Parsed {
    Frame(Frame, usize),
    Incomplete,
    Nonsense,
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MAGIC.len()).position(|window| window == MAGIC)
}

/// How many of the last bytes could be the beginning of a magic.
fn partial_magic(bytes: &[u8]) -> usize {
    (1..MAGIC.len()).rev().find(|length| bytes.ends_with(&MAGIC[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let fields = Fields::new().with(tag::VERSION, "1").with(tag::CLOCK, 7_u64.to_be_bytes());
        Frame { kind: Kind::Done, id: 0x0102_0304_0506_0708, fields }
    }

    #[test]
    fn a_frame_is_read_as_it_was_written_in_pieces_of_any_size() {
        let bytes = frame().encode();
        for piece in 1..=bytes.len() {
            let mut reader = Reader::new(MAX_ANSWER);
            let mut read = Vec::new();
            for bytes in bytes.chunks(piece) {
                reader.push(bytes);
                read.extend(reader.frame());
            }
            assert_eq!(read, [frame()]);
            assert_eq!(reader.waiting(), 0);
        }
        assert_eq!(frame().fields.text(tag::VERSION), Some("1"));
        assert_eq!(frame().fields.number(tag::CLOCK), Some(7));
        assert_eq!(frame().fields.number(tag::VERSION), None);
    }

    #[test]
    fn what_is_no_frame_is_passed_over_and_not_kept() {
        let mut bytes = b"garbage gvA".to_vec();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[0xff; 13]); // An unknown kind, and a body longer than allowed.
        bytes.extend_from_slice(&frame().encode());
        let mut reader = Reader::new(MAX_ANSWER);
        reader.push(&bytes);
        assert_eq!(reader.frame(), Some(frame()));
        assert_eq!(reader.frame(), None);
        for _ in 0..1000 {
            reader.push(&[b'g'; 1000]);
            assert_eq!(reader.frame(), None);
            assert!(reader.waiting() < MAGIC.len());
        }
    }

    #[test]
    fn a_body_that_is_too_long_or_whose_fields_overrun_is_nonsense() {
        let long = Frame { fields: Fields::new().with(1, vec![0; MAX_ANSWER]), ..frame() };
        let mut reader = Reader::new(MAX_ANSWER);
        reader.push(&long.encode());
        assert_eq!(reader.frame(), None);

        let mut bytes = frame().encode();
        bytes[HEADER + 4] = 200; // The first field says it is longer than the body.
        let mut reader = Reader::new(MAX_ANSWER);
        reader.push(&bytes);
        assert_eq!(reader.frame(), None);
        assert!(reader.waiting() < MAGIC.len());

        let many = (0..=MAX_FIELDS).fold(Fields::new(), |fields, _| fields.with(1, ""));
        let mut reader = Reader::new(MAX_ANSWER);
        reader.push(&Frame { fields: many, ..frame() }.encode());
        assert_eq!(reader.frame(), None);
    }
}
