//! A table drawn for a person: borders, numbers to the right with all their digits, text cut where the terminal ends, and a last line that
//! says what is missing from the picture.

use std::fmt::Write;
use std::time::Duration;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How a table is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStyle {
    /// Columns of the terminal; `None` draws as wide as the data is.
    pub width: Option<usize>,
    /// May escape sequences be used (dim NULL, bold header)?
    pub color: bool,
    /// Most rows drawn; the rest is left unread and the last line says so.
    pub rows_max: usize,
    /// One line per column instead of one per row.
    pub expanded: bool,
    /// Say how long it took.
    pub timing: bool,
    /// Draw a result that can be one as a picture, not as a table.
    pub plots: bool,
}

impl Default for TableStyle {
    fn default() -> TableStyle {
        TableStyle { width: None, color: false, rows_max: ROWS_DRAWN_MAX, expanded: false, timing: true, plots: false }
    }
}

/// Most rows of a drawn table unless told otherwise: more than a person reads, few enough to hold.
pub const ROWS_DRAWN_MAX: usize = 10_000;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Rows written.
    pub rows: u64,
    /// False where the table was cut at `rows_max`.
    pub complete: bool,
}

/// Text of a cell; `None` is NULL.
pub type Cell = Option<String>;

/// Head of a drawn column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Numbers stand to the right and are never cut.
    pub numeric: bool,
}

/// Narrowest that a text column is made before columns are left out.
const TEXT_MIN: usize = 10;

/// Draws rows as one picture, expanded or not, with the line below it.
pub fn table(columns: &[Column], rows: &[Vec<Cell>], style: &TableStyle, written: &Written, took: Option<Duration>) -> String {
    if style.expanded {
        return expanded(columns, rows, style) + &footer(columns.len(), columns.len(), written, took, style);
    }
    let layout = Layout::new(columns, rows, style.width);
    let mut out = String::new();
    layout.rule(&mut out, ['┌', '┬', '┐']);
    layout.line(&mut out, |i| bold(&layout.fit(i, &columns[i].name, false), style));
    layout.rule(&mut out, ['├', '┼', '┤']);
    for row in rows {
        layout.line(&mut out, |i| match &row[i] {
            Some(text) => layout.fit(i, text, columns[i].numeric),
            None => dim(&layout.fit(i, "NULL", columns[i].numeric), style),
        });
    }
    layout.rule(&mut out, ['└', '┴', '┘']);
    out + &footer(layout.shown(), columns.len(), written, took, style)
}

/// Which columns are drawn, and how wide.
struct Layout {
    /// Width of every column; `None` is left out.
    widths: Vec<Option<usize>>,
}

impl Layout {
    fn new(columns: &[Column], rows: &[Vec<Cell>], terminal: Option<usize>) -> Layout {
        let natural = |i: usize| {
            let cells = rows.iter().map(|row| row[i].as_ref().map_or(4, |text| text.width())).max().unwrap_or(0);
            cells.max(columns[i].name.width()).max(1)
        };
        let mut widths: Vec<Option<usize>> = (0..columns.len()).map(|i| Some(natural(i))).collect();
        let Some(terminal) = terminal else { return Layout { widths } };
        shrink_text(&mut widths, columns, terminal);
        leave_out(&mut widths, terminal);
        Layout { widths }
    }

    fn shown(&self) -> usize {
        self.widths.iter().flatten().count()
    }

    /// Position of the gap: before this column some are left out.
    fn gap(&self) -> Option<usize> {
        let first = self.widths.iter().position(Option::is_none)?;
        self.widths[first..].iter().position(Option::is_some).map(|more| first + more).or(Some(self.widths.len()))
    }

    fn rule(&self, out: &mut String, [left, middle, right]: [char; 3]) {
        out.push(left);
        let parts: Vec<String> = self.parts(|i| "─".repeat(self.widths[i].unwrap_or(0) + 2), "───");
        out.push_str(&parts.join(&middle.to_string()));
        out.push(right);
        out.push('\n');
    }

    fn line(&self, out: &mut String, cell: impl Fn(usize) -> String) {
        let parts = self.parts(|i| format!(" {} ", cell(i)), " … ");
        writeln!(out, "│{}│", parts.join("│")).expect("writing to a String cannot fail");
    }

    fn parts(&self, part: impl Fn(usize) -> String, gap: &str) -> Vec<String> {
        let gap_at = self.gap();
        let mut parts = Vec::new();
        for i in 0..=self.widths.len() {
            if gap_at == Some(i) {
                parts.push(gap.to_string());
            }
            if self.widths.get(i).is_some_and(Option::is_some) {
                parts.push(part(i));
            }
        }
        parts
    }

    /// The text in its column's width.
    fn fit(&self, column: usize, text: &str, to_the_right: bool) -> String {
        let width = self.widths[column].unwrap_or(0);
        let text = cut(text, width);
        let blank = " ".repeat(width.saturating_sub(text.width()));
        if to_the_right { blank + &text } else { text + &blank }
    }
}

/// Borders and blanks included.
fn total(widths: &[Option<usize>]) -> usize {
    let gap = if widths.iter().any(Option::is_none) { 4 } else { 0 };
    1 + gap + widths.iter().flatten().map(|width| width + 3).sum::<usize>()
}

/// Takes from the widest text column until the table fits or no text column can give more.
fn shrink_text(widths: &mut [Option<usize>], columns: &[Column], terminal: usize) {
    let floor = |i: usize| TEXT_MIN.max(columns[i].name.width());
    loop {
        let excess = total(widths).saturating_sub(terminal);
        let width = |i: &usize| widths[*i].unwrap_or(0);
        let giving = (0..widths.len()).filter(|i| !columns[*i].numeric && width(i) > floor(*i)).max_by_key(width);
        let (Some(i), true) = (giving, excess > 0) else { return };
        let next = (0..widths.len()).filter(|j| *j != i && !columns[*j].numeric).map(|j| width(&j)).max().unwrap_or(0);
        let step = (width(&i) - floor(i)).min(excess).min(width(&i).saturating_sub(next).max(1));
        widths[i] = Some(width(&i) - step);
    }
}

/// Leaves out columns from the middle until the table fits; the first one always stays.
fn leave_out(widths: &mut [Option<usize>], terminal: usize) {
    while total(widths) > terminal {
        let left: Vec<usize> = (0..widths.len()).filter(|i| widths[*i].is_some()).collect();
        if left.len() < 2 {
            return;
        }
        // One gap: what goes next is beside what is gone already.
        let gone = widths.iter().position(Option::is_none);
        let next = match gone {
            None => left[(left.len() / 2).max(1)],
            Some(gap) => {
                let before = left.iter().copied().filter(|i| *i < gap).collect::<Vec<_>>();
                let after = left.iter().copied().filter(|i| *i > gap).collect::<Vec<_>>();
                if after.len() >= before.len() || before.len() < 2 { after.first().copied() } else { before.last().copied() }
                    .unwrap_or(left[left.len() - 1])
            }
        };
        widths[next] = None;
    }
}

/// The text in at most `width` columns of a terminal; `…` stands for what is cut.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_string();
    }
    let mut out = String::new();
    let mut used = 1;
    for character in text.chars() {
        used += character.width().unwrap_or(0);
        if used > width {
            break;
        }
        out.push(character);
    }
    out.push('…');
    out
}

/// Text as one line of at most `longest` characters: control characters are shown, not obeyed.
pub(crate) fn one_line(text: &str, longest: usize) -> String {
    let mut out = String::new();
    for (i, character) in text.chars().enumerate() {
        if i == longest {
            out.push('…');
            break;
        }
        match character.is_control() {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}

fn expanded(columns: &[Column], rows: &[Vec<Cell>], style: &TableStyle) -> String {
    let widest = columns.iter().map(|column| column.name.width()).max().unwrap_or(0);
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        writeln!(out, "── row {} ──", number + 1).expect("writing to a String cannot fail");
        for (column, cell) in columns.iter().zip(row) {
            let blank = " ".repeat(widest - column.name.width());
            let text = cell.clone().unwrap_or_else(|| dim("NULL", style));
            writeln!(out, "{}{blank} │ {text}", bold(&column.name, style)).expect("writing to a String cannot fail");
        }
    }
    out
}

fn footer(shown: usize, columns: usize, written: &Written, took: Option<Duration>, style: &TableStyle) -> String {
    let mut parts = vec![match (written.rows, written.complete) {
        (1, true) => "1 row".to_string(),
        (n, true) => format!("{n} rows"),
        (n, false) => format!("the first {n} rows of more (all of them: --format csv, json or arrow)"),
    }];
    if shown < columns {
        parts.push(format!("{shown} of {columns} columns shown (all: name fewer, \\x in the shell, or --format csv)"));
    }
    parts.extend(took.map(seconds));
    dim(&parts.join(" · "), style) + "\n"
}

fn dim(text: &str, style: &TableStyle) -> String {
    if style.color { format!("\x1b[2m{text}\x1b[0m") } else { text.to_string() }
}

fn bold(text: &str, style: &TableStyle) -> String {
    if style.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_string() }
}

/// `1.234 s`, `12 ms`.
fn seconds(took: Duration) -> String {
    match took.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.3} s", took.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(name: &str, numeric: bool) -> Column {
        Column { name: name.into(), numeric }
    }

    fn style(width: Option<usize>) -> TableStyle {
        TableStyle { width, ..TableStyle::default() }
    }

    fn all(rows: u64) -> Written {
        Written { rows, complete: true }
    }

    fn row(cells: &[Option<&str>]) -> Vec<Cell> {
        cells.iter().map(|cell| cell.map(str::to_string)).collect()
    }

    #[test]
    fn numbers_stand_to_the_right_and_null_is_not_empty_text() {
        let columns = [column("symbol", false), column("price", true), column("note", false)];
        let rows = [row(&[Some("GPU1V6"), Some("2.810000000"), None]), row(&[Some("模型"), None, Some("")])];
        let drawn = table(&columns, &rows, &style(None), &all(2), Some(Duration::from_millis(12)));
        let expected = "\
┌────────┬─────────────┬──────┐
│ symbol │ price       │ note │
├────────┼─────────────┼──────┤
│ GPU1V6 │ 2.810000000 │ NULL │
│ 模型   │        NULL │      │
└────────┴─────────────┴──────┘
2 rows · 12 ms
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_text_but_never_a_number() {
        let columns = [column("a", false), column("n", true), column("b", false)];
        let rows = [row(&[Some("abcdefghijklmnopqrstuvwxyz"), Some("12345678901234567890"), Some("short")])];
        let drawn = table(&columns, &rows, &style(Some(50)), &all(1), None);
        let expected = "\
┌─────────────────┬──────────────────────┬───────┐
│ a               │ n                    │ b     │
├─────────────────┼──────────────────────┼───────┤
│ abcdefghijklmn… │ 12345678901234567890 │ short │
└─────────────────┴──────────────────────┴───────┘
1 row
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn columns_that_do_not_fit_are_left_out_and_said_to_be() {
        let columns: Vec<Column> = (0..8).map(|i| column(&format!("column_{i}"), true)).collect();
        let rows = [row(&[Some("1"); 8])];
        let drawn = table(&columns, &rows, &style(Some(44)), &all(1), None);
        let expected = "\
┌──────────┬──────────┬───┬──────────┐
│ column_0 │ column_1 │ … │ column_7 │
├──────────┼──────────┼───┼──────────┤
│        1 │        1 │ … │        1 │
└──────────┴──────────┴───┴──────────┘
1 row · 3 of 8 columns shown (all: name fewer, \\x in the shell, or --format csv)
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn expanded_rows_show_every_column_on_a_line() {
        let columns = [column("symbol", false), column("n", true)];
        let rows = [row(&[Some("GPU1V6"), None]), row(&[Some("B"), Some("7")])];
        let drawn = table(&columns, &rows, &TableStyle { expanded: true, ..style(Some(20)) }, &all(2), None);
        assert_eq!(drawn, "── row 1 ──\nsymbol │ GPU1V6\nn      │ NULL\n── row 2 ──\nsymbol │ B\nn      │ 7\n2 rows\n");
    }

    #[test]
    fn a_table_cut_short_says_so() {
        let drawn = table(&[column("n", true)], &[row(&[Some("1")])], &style(None), &Written { rows: 1, complete: false }, None);
        assert!(drawn.ends_with("the first 1 rows of more (all of them: --format csv, json or arrow)\n"), "{drawn}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(one_line("a\nb\t\u{1b}[31m", 80), "a\\nb\\t\\u{1b}[31m");
        assert_eq!(one_line("abcdef", 3), "abc…");
    }

    proptest! {
        #[test]
        fn every_line_fits_the_terminal(
            names in prop::collection::vec("[a-z_]{1,20}", 1..30),
            cells in prop::collection::vec(prop::option::of("\\PC{0,60}"), 30),
            width in 40usize..200,
        ) {
            let columns: Vec<Column> = names.iter().map(|name| column(name, false)).collect();
            let cells: Vec<Cell> = cells.into_iter().map(|cell| cell.map(|text| one_line(&text, 50))).collect();
            let rows = [cells[..columns.len()].to_vec()];
            let drawn = table(&columns, &rows, &style(Some(width)), &all(1), None);
            for line in drawn.lines().take_while(|line| !line.starts_with("1 row")) {
                prop_assert!(line.width() <= width, "{} > {width}: {line}", line.width());
            }
        }
    }
}
