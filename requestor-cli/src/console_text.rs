//! What a guest writes to its console, made safe to show: a stranger's kernel and programs write it, with colours and
//! cursor movements of their own. Only its text is left. No I/O.

use golem_vm_protocol::text::printable_lines;

/// Columns between tab stops.
const TAB: usize = 8;

/// Where in the bytes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// Behind an escape character.
    Escape,
    /// In a control sequence (ECMA-48, 5.4), which ends with a letter or the like.
    Sequence,
    /// In a string for the terminal (ECMA-48, 5.6), which ends with BEL or ESC `\`.
    Command,
    /// The same, behind an escape character.
    CommandEscape,
}

/// Makes bytes to text as they come, wherever they are cut.
#[derive(Debug)]
pub struct ConsoleText {
    state: State,
    /// The beginning of a character that has not come whole.
    pending: Vec<u8>,
    /// How many columns of the line are full.
    column: usize,
}

impl Default for ConsoleText {
    fn default() -> Self {
        Self { state: State::Text, pending: Vec::new(), column: 0 }
    }
}

impl ConsoleText {
    /// The text of the next bytes: lines that end with a line feed, and nothing that moves a cursor.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.pending);
        let mut text = String::new();
        for chunk in all.utf8_chunks() {
            chunk.valid().chars().for_each(|c| self.character(c, &mut text));
            let bad = chunk.invalid();
            let at_the_end = bad.as_ptr_range().end == all.as_ptr_range().end;
            if at_the_end && !bad.is_empty() && is_beginning(bad) {
                self.pending = bad.to_vec();
            } else if !bad.is_empty() {
                self.character(char::REPLACEMENT_CHARACTER, &mut text);
            }
        }
        printable_lines(&text).into_owned()
    }

    fn character(&mut self, c: char, text: &mut String) {
        self.state = match (self.state, c) {
            (State::Text, '\x1b') => State::Escape,
            (State::Text, '\u{9b}') => State::Sequence,
            (State::Text, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}') => State::Command,
            (State::Text, _) => {
                self.shown(c, text);
                State::Text
            }
            (State::Escape, '[') => State::Sequence,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::Command,
            // What stands between, such as the choice of a character set.
            (State::Escape, ' '..='/') => State::Escape,
            (State::Sequence, '@'..='~') => State::Text,
            (State::Sequence, ' '..='?') => State::Sequence,
            (State::Command, '\x1b') => State::CommandEscape,
            (State::Command, '\x07' | '\u{9c}') => State::Text,
            // One that does not end would take everything behind it along.
            (State::Command | State::CommandEscape | State::Sequence | State::Escape, '\n') => {
                self.shown(c, text);
                State::Text
            }
            (State::Command, _) => State::Command,
            (State::CommandEscape | State::Escape | State::Sequence, _) => State::Text,
        };
    }

    fn shown(&mut self, c: char, text: &mut String) {
        match c {
            '\n' => {
                text.push('\n');
                self.column = 0;
            }
            '\t' => {
                let blanks = TAB - self.column % TAB;
                text.extend(std::iter::repeat_n(' ', blanks));
                self.column += blanks;
            }
            // Back to the line's begin, bells, and what erases.
            '\r' | '\x07' | '\x08' | '\0' | '\x7f' => {}
            c => {
                text.push(c);
                self.column += 1;
            }
        }
    }
}

/// Whether these bytes can be the beginning of one character.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        ConsoleText::default().push(bytes)
    }

    #[test]
    fn only_the_text_is_left() {
        for (bytes, expected) in [
            (b"login: ".as_slice(), "login: "),
            (b"\x1b[0;32m  OK  \x1b[0m] Started\r\n", "  OK  ] Started\n"),
            (b"\x1b]0;title\x07a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
            (b"\x1bc\x1b(B\x1b[2J\x1b[Hx", "x"),
            (b"a\tb\n\tc", "a       b\n        c"),
            (b"\xff\x00\xc3\xa9", "\u{fffd}\u{e9}"),
            (b"\x1b]never ends\nnext", "\nnext"),
            ("\u{202e}x\u{9b}31my".as_bytes(), "\u{fffd}xy"),
        ] {
            assert_eq!(text(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn it_does_not_matter_where_the_bytes_are_cut() {
        let bytes = "\x1b[1mgrün\x1b[0m\r\n日本\t\x1b]0;x\x07ende\u{9d}y\u{9c}!".as_bytes();
        for size in 1..bytes.len() {
            let mut reader = ConsoleText::default();
            let parts: String = bytes.chunks(size).map(|part| reader.push(part)).collect();
            assert_eq!(parts, text(bytes), "{size}");
        }
    }
}
