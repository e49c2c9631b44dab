//! The `.env` format: `NAME=value` lines, `#` comments, an optional `export`, quotes.

/// One assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) value: String,
    /// From 1.
    pub(super) line: usize,
}

/// A whole file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) entries: Vec<Entry>,
    /// Lines that are no assignment; a `.env` belongs to other programs too, so they are no error.
    pub(super) unreadable: Vec<usize>,
}

/// Reads `.env` text. Values in double quotes know `\n`, `\t`, `\"` and `\\`; in single quotes
/// nothing is special; outside quotes ` #` begins a comment. Nothing is expanded.
pub(super) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let assignment = trimmed.strip_prefix("export ").unwrap_or(trimmed).split_once('=');
        match assignment
            .and_then(|(name, value)| Some((valid_name(name.trim())?, unquote(value.trim())?)))
        {
            Some((name, value)) => parsed.entries.push(Entry { name, value, line: index + 1 }),
            None => parsed.unreadable.push(index + 1),
        }
    }
    parsed
}

fn valid_name(name: &str) -> Option<String> {
    let legal = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    legal.then(|| name.to_owned())
}

fn unquote(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        let (inside, after) = rest.split_once('\'')?;
        return only_comment(after).then(|| inside.to_owned());
    }
    let Some(rest) = value.strip_prefix('"') else {
        let end = value.find(" #").or_else(|| value.find("\t#")).unwrap_or(value.len());
        let bare = if value.starts_with('#') { "" } else { &value[..end] };
        return Some(bare.trim_end().to_owned());
    };
    let mut out = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return only_comment(&rest[at + 1..]).then_some(out),
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            other => out.push(other),
        }
    }
    None
}

fn only_comment(rest: &str) -> bool {
    let rest = rest.trim_start();
    rest.is_empty() || rest.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms_are_read() {
        let parsed = parse(
            "# comment\n\nA=1\nexport B = two # why\nC=\"x # y\\n\\\"\" # z\nD='$HOME \\n'\nE=\nF=a#b\nG=#c\n",
        );
        let pairs: Vec<_> =
            parsed.entries.iter().map(|e| (e.name.as_str(), e.value.as_str(), e.line)).collect();
        assert_eq!(
            pairs,
            [
                ("A", "1", 3),
                ("B", "two", 4),
                ("C", "x # y\n\"", 5),
                ("D", "$HOME \\n", 6),
                ("E", "", 7),
                ("F", "a#b", 8),
                ("G", "", 9),
            ]
        );
        assert!(parsed.unreadable.is_empty());
    }

    #[test]
    fn other_lines_are_noted_and_skipped() {
        let parsed = parse("hello\n1A=2\nB=\"open\nC='x'y\nD=ok\r\n");
        assert_eq!(parsed.unreadable, [1, 2, 3, 4]);
        assert_eq!(parsed.entries.len(), 1);
        assert_eq!(parsed.entries[0].value, "ok");
    }
}
