//! Tables: with lines and colours on a terminal, columns of text elsewhere.

use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};

use super::terminal::{Style, Tone, columns};

/// On a terminal with fewer columns, cells are not wrapped.
const NARROW: u16 = 60;

/// A table that is being filled.
pub(super) struct Rows {
    table: Table,
    style: Style,
}

impl Rows {
    /// An empty table with these headings.
    pub(super) fn new(headings: &[&str], style: Style) -> Self {
        let mut table = Table::new();
        table.set_header(headings.iter().map(|text| bold(text, style)).collect::<Vec<_>>());
        if style.terminal {
            table.load_style(UTF8_FULL_CONDENSED);
        } else {
            table.load_style(NOTHING);
        }
        // Wrapped cells are easier to read than wrapped rows, but not in columns of a few letters.
        match columns(std::io::stdout()).filter(|width| style.terminal && *width >= NARROW) {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if style.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        Self { table, style }
    }

    /// Adds a row: texts, each with what its colour is to say.
    pub(super) fn add<const N: usize>(&mut self, cells: [(String, Option<Tone>); N]) {
        let style = self.style;
        self.table.add_row(cells.map(|(text, tone)| cell(&text, tone, style)).to_vec());
    }

    /// The table as lines, each with its end.
    pub(super) fn render(&self) -> String {
        let lines = self.table.lines().map(|line| format!("{}\n", line.trim_end()));
        lines.collect()
    }
}

fn bold(text: &str, style: Style) -> Cell {
    cell(text, Some(Tone::Strong), style)
}

fn cell(text: &str, tone: Option<Tone>, style: Style) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Some(tone) if style.colour => match tone {
            Tone::Good => cell.fg(Color::DarkGreen),
            Tone::Warning => cell.fg(Color::DarkYellow),
            Tone::Bad => cell.fg(Color::DarkRed),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
        },
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_columns_only() {
        let mut rows = Rows::new(&["A", "LONG"], Style { terminal: false, colour: false });
        rows.add([("x".to_owned(), Some(Tone::Bad)), ("y".to_owned(), None)]);
        assert_eq!(rows.render(), " A  LONG\n x  y\n");
        let mut rows = Rows::new(&["A"], Style { terminal: true, colour: true });
        rows.add([("x".to_owned(), Some(Tone::Bad))]);
        assert!(rows.render().contains("\u{1b}["));
    }
}
