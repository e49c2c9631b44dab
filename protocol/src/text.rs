//! Text that came from a stranger, made safe to print on a terminal or into a log.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` as one harmless line of at most `max_chars` characters: control characters (terminal
/// escapes among them), the characters that turn the direction of writing, and invisible ones
/// become `\u{fffd}`; what is longer is cut and ends in `…`.
///
/// The set: the C0 and C1 controls, the format characters (Unicode category Cf, among them those of
/// TR 36, section 2.10, bidirectional spoofing), and what is invisible by default
/// (`Default_Ignorable_Code_Point`).
#[must_use]
pub fn printable(text: &str, max_chars: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == max_chars {
            out.push('…');
            break;
        }
        out.push(if is_harmless(c) { c } else { char::REPLACEMENT_CHARACTER });
    }
    out
}

/// Whether `text` would be printed by [`printable`] as it is.
#[must_use]
pub fn is_printable(text: &str, max_chars: usize) -> bool {
    text.chars().count() <= max_chars && text.chars().all(is_harmless)
}

/// `text` with what [`printable`] replaces replaced, but for its line ends; nothing is cut. For
/// sentences of our own into which something of a stranger's may have slipped.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| c == '\n' || is_harmless(c)) {
        return Cow::Borrowed(text);
    }
    let harmless =
        |c: char| if c == '\n' || is_harmless(c) { c } else { char::REPLACEMENT_CHARACTER };
    Cow::Owned(text.chars().map(harmless).collect())
}

/// JSON text that is safe to print and means the same: inside its strings, what [`printable`] would
/// replace is written as `\uXXXX`. (JSON itself escapes only the controls up to U+001F.)
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // Between strings there are only line ends and blanks beside the visible.
    if json.chars().all(|c| c == '\n' || is_harmless(c)) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if c == '\n' || is_harmless(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string can't fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    Cow::Owned(out)
}

fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{00ad}'                      // soft hyphen
            | '\u{034f}'                    // combining grapheme joiner
            | '\u{0600}'..='\u{0605}'       // Arabic number signs, which take in what follows
            | '\u{061c}'                    // Arabic letter mark
            | '\u{06dd}' | '\u{070f}' | '\u{0890}' | '\u{0891}' | '\u{08e2}' // the same kind
            | '\u{115f}' | '\u{1160}'       // Hangul fillers
            | '\u{17b4}' | '\u{17b5}'       // Khmer inherent vowels
            | '\u{180b}'..='\u{180f}'       // Mongolian selectors and vowel separator
            | '\u{200b}'..='\u{200f}'       // zero widths, direction marks
            | '\u{2028}'..='\u{202e}'       // line and paragraph separators, embeddings, overrides
            | '\u{2060}'..='\u{206f}'       // word joiner, isolates, deprecated formats
            | '\u{2800}'                    // braille blank
            | '\u{3164}' | '\u{ffa0}'       // Hangul fillers
            | '\u{fe00}'..='\u{fe0f}'       // variation selectors
            | '\u{feff}'                    // byte order mark
            | '\u{fff0}'..='\u{fffb}'       // interlinear annotations
            | '\u{110bd}' | '\u{110cd}'     // Kaithi number signs
            | '\u{13430}'..='\u{1343f}'     // hieroglyph formats
            | '\u{1bca0}'..='\u{1bca3}'     // shorthand formats
            | '\u{1d173}'..='\u{1d17a}'     // musical formats
            | '\u{e0000}'..='\u{e0fff}'     // tags, more variation selectors
        ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_and_direction_tricks_lose_their_power() {
        assert_eq!(printable("a\x1b[31mred\n\u{202e}x", 50), "a\u{fffd}[31mred\u{fffd}\u{fffd}x");
        assert_eq!(printable("日本 ok", 50), "日本 ok");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert!(!is_printable("a\u{9b}b", 10));
        assert!(is_printable("plain", 5));
        assert!(!is_printable("plain", 4));
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_its_power() {
        let text = "a\u{9b}31m\u{202e}b\u{e0041}\n\u{7f}\"";
        let json = serde_json::to_string_pretty(&[text, "plain"]).unwrap_or_default();
        let safe = printable_json(&json);
        assert!(safe.lines().all(|line| is_printable(line, usize::MAX)), "{safe}");
        assert_eq!(
            serde_json::from_str::<[String; 2]>(&safe).ok(),
            Some([text.into(), "plain".into()])
        );
        assert!(matches!(printable_json("[1,\n\"x\"]"), Cow::Borrowed(_)));
    }

    /// Written down apart from the code: nothing of this reaches a terminal.
    fn is_dangerous(c: char) -> bool {
        let controls = u32::from(c) < 0x20 || (0x7f..=0x9f).contains(&u32::from(c));
        let directions = "\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{061c}";
        let invisible = "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{00ad}\u{3164}\u{fe0f}\u{e0001}\u{e01ef}\u{2028}\u{2029}";
        controls || directions.contains(c) || invisible.contains(c)
    }

    /// Any text, with more than its share of what is dangerous.
    fn any_text() -> impl Strategy<Value = String> {
        let dangerous = (0..=char::MAX as u32)
            .filter_map(char::from_u32)
            .filter(|c| is_dangerous(*c))
            .collect::<Vec<_>>();
        let character = prop_oneof![any::<char>(), proptest::sample::select(dangerous), Just('x')];
        proptest::collection::vec(character, 0..80).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn nothing_dangerous_gets_through(text in any_text(), max in 0_usize..100) {
            let shown = printable(&text, max);
            prop_assert!(!shown.chars().any(is_dangerous), "{shown:?}");
            prop_assert!(shown.chars().count() <= max + 1);
            prop_assert!(is_printable(&shown, max + 1));
            prop_assert_eq!(&printable(&shown, max + 1), &shown);
            if is_printable(&text, max) {
                prop_assert_eq!(&shown, &text);
            }
            let lines = printable_lines(&text);
            prop_assert!(!lines.chars().any(|c| c != '\n' && is_dangerous(c)));
            prop_assert_eq!(lines.chars().count(), text.chars().count());
            let json = serde_json::to_string(&text).unwrap_or_default();
            let safe = printable_json(&json);
            prop_assert!(!safe.chars().any(is_dangerous), "{safe:?}");
            prop_assert_eq!(serde_json::from_str::<String>(&safe).ok(), Some(text));
        }
    }
}
