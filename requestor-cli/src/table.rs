//! Tables: aligned columns, with a title and rules on a terminal and plain when piped.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::ui::Ui;

/// Narrowest terminal that a table is fitted into; what claims to be narrower is not believed.
const MIN_WIDTH: u16 = 40;

/// A table under construction.
#[derive(Debug)]
pub struct Columns {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    /// Row and column of cells that a person should look at.
    attention: Vec<(usize, usize)>,
}

impl Columns {
    /// With these headings; one that begins with `>` is aligned to the right.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            header: headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect(),
            right: headings.iter().map(|h| h.starts_with('>')).collect(),
            rows: Vec::new(),
            attention: Vec::new(),
        }
    }

    /// Adds a row. Its cells are safe to print.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Shows a cell of the last row, counted from 0, in the colour of what needs attention.
    pub fn attention(&mut self, column: usize) {
        self.attention.push((self.rows.len().saturating_sub(1), column));
    }

    /// The finished text: on a terminal under `title` between rules, else only headings and rows.
    #[must_use]
    pub fn render(&self, ui: &Ui, title: &str) -> String {
        if ui.decorates() {
            let width = crossterm::terminal::size().map_or(0, |(columns, _)| columns);
            self.decorated(title, width, ui.colors())
        } else {
            self.plain()
        }
    }

    /// Headings and rows, columns two spaces apart, nothing cut or wrapped.
    fn plain(&self) -> String {
        lines(&self.table(false)).join("\n") + "\n"
    }

    fn decorated(&self, title: &str, width: u16, color: bool) -> String {
        let mut table = self.table(color);
        if width >= MIN_WIDTH {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        let lines = lines(&table);
        let title = format!("  {title}");
        let longest = lines.iter().chain([&title]).map(|line| shown_width(line)).max().unwrap_or(0);
        let longest = if width >= MIN_WIDTH { longest.min(usize::from(width)) } else { longest };
        let rule = "─".repeat(longest);
        let mut out = vec![rule.clone(), title, rule.clone()];
        out.extend(lines);
        out.push(rule);
        out.join("\n") + "\n"
    }

    fn table(&self, color: bool) -> Table {
        let mut table = Table::new();
        table.force_no_tty().load_style(presets::NOTHING);
        let header = self.header.iter().map(|heading| {
            let cell = comfy_table::Cell::new(heading);
            if color { cell.add_attribute(comfy_table::Attribute::Bold) } else { cell }
        });
        if color {
            table.enforce_styling();
        }
        table.set_header(header.collect::<Vec<_>>());
        for (number, row) in self.rows.iter().enumerate() {
            table.add_row(row.iter().enumerate().map(|(column, text)| {
                let cell = comfy_table::Cell::new(text);
                let marked = color && self.attention.contains(&(number, column));
                if marked { cell.fg(comfy_table::Color::Yellow) } else { cell }
            }));
        }
        for (column, right) in table.column_iter_mut().zip(&self.right) {
            column.set_padding((0, 2));
            if *right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

fn lines(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// How many columns a line takes, without its styling. Icons count as two, as terminals show them.
fn shown_width(line: &str) -> usize {
    let mut width = 0;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            width += if u32::from(c) >= 0x1_f000 { 2 } else { 1 };
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Columns {
        let mut columns = Columns::new(&["Name", ">Price"]);
        columns.row(vec!["box".into(), "$8.00".into()]);
        columns.row(vec!["日本".into(), "$10.00".into()]);
        columns
    }

    #[test]
    fn piped_it_is_headings_and_rows() {
        assert_eq!(sample().plain(), "Name   Price\nbox    $8.00\n日本  $10.00\n");
    }

    #[test]
    fn on_a_terminal_it_has_a_title_between_rules() {
        let text = sample().decorated("🌍 Two", 80, false);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].chars().all(|c| c == '─'));
        assert_eq!(lines[1], "  🌍 Two");
        assert_eq!(lines[3], "Name   Price");
        assert_eq!(lines.last(), lines.first());
        assert!(!text.contains('\x1b'));
        assert!(sample().decorated("x", 80, true).contains("\x1b[1m"));
        let mut marked = sample();
        marked.attention(1);
        assert!(marked.decorated("x", 80, true).contains("\x1b[38;5;11m$10.00"));
        assert_eq!(marked.plain(), sample().plain());
    }

    #[test]
    fn a_terminal_without_a_width_gets_whole_cells() {
        assert!(sample().decorated("x", 0, false).contains("$10.00"));
    }
}
