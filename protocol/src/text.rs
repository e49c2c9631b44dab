//! Text that came from a stranger, made safe to print on a terminal or into a log.

/// `text` as one harmless line of at most `max_chars` characters: control characters (terminal
/// escapes among them), the characters that turn the direction of writing, and invisible ones
/// become `\u{fffd}`; what is longer is cut and ends in `…`.
///
/// The set follows Unicode TR 36, section 2.10 (bidirectional spoofing), and the C0 and C1 controls.
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

fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{061c}'                      // Arabic letter mark
            | '\u{00ad}'                    // soft hyphen
            | '\u{180e}'                    // Mongolian vowel separator
            | '\u{200b}'..='\u{200f}'       // zero widths, direction marks
            | '\u{2028}'..='\u{202e}'       // line and paragraph separators, embeddings, overrides
            | '\u{2060}'..='\u{206f}'       // word joiner, isolates, deprecated formats
            | '\u{feff}'                    // byte order mark
            | '\u{fff9}'..='\u{fffb}'       // interlinear annotations
            | '\u{e0000}'..='\u{e007f}'     // tags
        ))
}

#[cfg(test)]
mod tests {
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
}
