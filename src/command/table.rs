//! Tables in kubectl's manner: columns apart by spaces, never wrapped, coloured where the terminal can.

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

/// Between two columns.
const GAP: usize = 2;

/// How a word is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// As any other.
    #[default]
    Plain,
    /// A heading, or what is going on.
    Strong,
    /// As it should be.
    Good,
    /// Somebody should look at it.
    Warning,
    /// Somebody must act.
    Bad,
}

/// A word in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Tone {
    /// A word in this tone. The escape sequences are removed where they are not wanted, by [`anstream`].
    pub(super) fn paint(self, text: &str) -> String {
        let style = match self {
            Self::Plain => return text.to_owned(),
            Self::Strong => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        };
        format!("{style}{text}{style:#}")
    }

    /// A word of a table in this tone.
    pub(super) fn cell(self, text: impl Into<String>) -> Cell {
        Cell { text: printable(text.into()), tone: self }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Tone::Plain.cell(text)
    }
}

/// What a certificate or a kubeconfig says may come from anybody: control characters, which a terminal would obey, are shown as escapes.
pub(super) fn printable(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A table with a header. Only the text is coloured, never the space around it: without colours the same table remains.
pub(super) fn table<const N: usize, C: Into<Cell>>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [C; N]>,
) -> String {
    table_within(None, &[], header, rows)
}

/// The same for a terminal with so many columns: the columns that `give_way` names are left out, one after the other, until it fits.
/// What then still does not fit is the terminal's to wrap; nothing is cut.
pub(super) fn table_within<const N: usize, C: Into<Cell>>(
    available: Option<usize>,
    give_way: &[&str],
    header: [&str; N],
    rows: impl IntoIterator<Item = [C; N]>,
) -> String {
    let rows: Vec<[Cell; N]> = rows.into_iter().map(|row| row.map(Into::into)).collect();
    let mut widths = header.map(UnicodeWidthStr::width);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
        }
    }
    let mut widths = widths.map(Some);
    for leaving in give_way {
        let needed: usize = widths.iter().flatten().map(|width| width + GAP).sum();
        if available.is_none_or(|available| needed <= available + GAP) {
            break;
        }
        for (width, title) in widths.iter_mut().zip(header) {
            width.take_if(|_| title == *leaving);
        }
    }
    let header = header.map(|title| Tone::Strong.cell(title));
    std::iter::once(&header).chain(&rows).map(|row| line(row, &widths)).collect()
}

/// A column without a width is left out.
fn line(row: &[Cell], widths: &[Option<usize>]) -> String {
    let mut line = String::new();
    // Spaces that are due before the next text: none stand at the end of a line.
    let mut due = 0;
    let shown = row.iter().zip(widths).filter_map(|(cell, width)| Some((cell, (*width)?)));
    for (Cell { text, tone }, width) in shown {
        if !text.is_empty() {
            line.extend(std::iter::repeat_n(' ', due));
            line.push_str(&tone.paint(text));
            due = 0;
        }
        due += width - text.width() + GAP;
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_word_and_nothing_trails() {
        let rows =
            [["a".to_owned(), String::new(), "x".to_owned()], ["网格".to_owned(), "b".to_owned(), String::new()]];
        let text = anstream::adapter::strip_str(&table(["NAME", "B", "C"], rows)).to_string();
        assert_eq!(text, "NAME  B  C\na        x\n网格  b\n");
    }

    #[test]
    fn columns_give_way_in_their_order_until_the_terminal_is_wide_enough() {
        let within = |available| {
            let rows = [["one".to_owned(), "two".to_owned(), "three".to_owned()]];
            let text = table_within(available, &["C", "A"], ["A", "B", "C"], rows);
            anstream::adapter::strip_str(&text).to_string()
        };
        let whole = "A    B    C\none  two  three\n";
        let cases = [
            (None, whole),
            (Some(15), whole),
            (Some(14), "A    B\none  two\n"),
            (Some(8), "A    B\none  two\n"),
            (Some(7), "B\ntwo\n"),
            (Some(1), "B\ntwo\n"),
        ];
        for (available, expected) in cases {
            assert_eq!(within(available), expected, "{available:?}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        let rows = [["CN=\u{1b}[2J\u{1b}]0;x\u{7}".to_owned(), "user/a\nb\u{9b}".to_owned()]];
        let text = anstream::adapter::strip_str(&table(["SUBJECT", "POSITION"], rows)).to_string();
        assert_eq!(text.lines().nth(1), Some("CN=\\u{1b}[2J\\u{1b}]0;x\\u{7}  user/a\\nb\\u{9b}"), "{text:?}");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn colours_change_no_place() {
        let plain = [[Tone::Plain.cell("bad"), Tone::Plain.cell("end")]];
        let painted = [[Tone::Bad.cell("bad"), Tone::Good.cell("end")]];
        let (plain, painted) = (table(["STATE", "ENDS"], plain), table(["STATE", "ENDS"], painted));
        assert!(painted.contains("\u{1b}[") && painted != plain);
        let strip = |text: &str| anstream::adapter::strip_str(text).to_string();
        assert_eq!(strip(&painted), strip(&plain));
    }
}
