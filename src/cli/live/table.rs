//! Columns for people: aligned, coloured only on a terminal that wants it.

use std::io::{self, IsTerminal, Write};

/// How a cell is to stand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// A row's cells.
pub type Row = Vec<(String, Tone)>;

/// A plain cell.
pub fn cell(text: impl ToString) -> (String, Tone) {
    (text.to_string(), Tone::Plain)
}

/// A state of a backend, as it is seen from afar.
pub fn state(name: &str) -> (String, Tone) {
    let tone = match name {
        "active" | "up" => Tone::Good,
        "draining" => Tone::Doubtful,
        "down" => Tone::Bad,
        _ => Tone::Plain,
    };
    (name.to_owned(), tone)
}

/// Prints rows under their headings; columns whose heading ends in a space stand to the right, as numbers do.
pub fn print(headings: &[&str], rows: &[Row]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{}", text(headings, rows, is_coloured()))?;
    out.flush()
}

/// Whether stdout is a terminal, and nobody minds (<https://no-color.org>).
pub fn is_coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn text(headings: &[&str], rows: &[Row], is_coloured: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
        cells.chain([headings[column].trim_end().chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let headings_row: Row = headings.iter().map(|heading| cell(heading.trim_end())).collect();
    let mut printed = String::new();
    for row in [&headings_row].into_iter().chain(rows) {
        let mut line = String::new();
        for (column, (text, tone)) in row.iter().enumerate() {
            let space = " ".repeat(widths[column].saturating_sub(text.chars().count()));
            let text = paint(text, *tone, is_coloured);
            let is_number = headings[column].ends_with(' ');
            line += &if is_number { space + &text } else { text + &space };
            line += "  ";
        }
        printed += line.trim_end();
        printed += "\n";
    }
    printed
}

/// `text` in a tone's colour.
pub fn paint(text: &str, tone: Tone, is_coloured: bool) -> String {
    let code = match tone {
        _ if !is_coloured => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Good => 32,
        Tone::Doubtful => 33,
        Tone::Bad => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A number with a blank between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let rows = [vec![cell("web"), cell(5), state("up")], vec![cell("a-long-name"), cell(12345), state("down")]];
        let expected = "NAME         COUNT  STATE\nweb              5  up\na-long-name  12345  down\n";
        assert_eq!(text(&["NAME", "COUNT ", "STATE"], &rows, false), expected);
        assert!(text(&["NAME", "COUNT ", "STATE"], &rows, true).contains("\x1b[31mdown\x1b[0m"));
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }
}
