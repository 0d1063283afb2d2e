//! Columns: kubectl's table of `get`, and Go's tabwriter as `describe` uses it.

/// Narrowest column, and the blanks after the widest cell: kubectl's table printer.
const WIDTH_MIN: usize = 6;
const PADDING: usize = 3;

/// Lines of a table. It remembers its widths, so that the lines of a watch stand under the first ones.
#[derive(Debug, Default)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    pub fn new() -> Table {
        Table::default()
    }

    /// Whether nothing has been written yet.
    pub fn is_new(&self) -> bool {
        self.widths.is_empty()
    }

    /// Adds these rows' text to `out`.
    pub fn write(&mut self, rows: &[Vec<String>], out: &mut String) {
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                if self.widths.len() <= column {
                    self.widths.push(WIDTH_MIN);
                }
                self.widths[column] = self.widths[column].max(width(cell) + PADDING);
            }
        }
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if column + 1 < row.len() {
                    out.extend(std::iter::repeat_n(' ', self.widths[column] - width(cell)));
                }
            }
            out.push('\n');
        }
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// Text with tabs after its cells, aligned as Go's tabwriter does with padding 2: a column is a run of adjacent lines
/// that have a cell there, and what stands after a line's last tab belongs to no column.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut out = String::with_capacity(text.len() * 2);
    align_lines(&lines, &mut Vec::new(), &mut out);
    // `split` gives one line more than there are newlines.
    out.pop();
    out
}

fn align_lines(lines: &[Vec<&str>], widths: &mut Vec<usize>, out: &mut String) {
    const TAB_PADDING: usize = 2;
    let column = widths.len();
    let has_cell = |line: &Vec<&str>| column + 1 < line.len();
    let mut at = 0;
    while at < lines.len() {
        if !has_cell(&lines[at]) {
            write_line(&lines[at], widths, out);
            at += 1;
            continue;
        }
        let end = lines[at..].iter().position(|line| !has_cell(line)).map_or(lines.len(), |length| at + length);
        let block = &lines[at..end];
        widths.push(block.iter().map(|line| width(line[column]) + TAB_PADDING).max().unwrap_or_default());
        align_lines(block, widths, out);
        widths.pop();
        at = end;
    }
}

fn write_line(line: &[&str], widths: &[usize], out: &mut String) {
    for (column, cell) in line.iter().enumerate() {
        out.push_str(cell);
        if column + 1 < line.len() {
            out.extend(std::iter::repeat_n(' ', widths[column].saturating_sub(width(cell))));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn a_table_is_padded_as_kubectl_does_and_keeps_its_widths() {
        let mut table = Table::new();
        let mut out = String::new();
        table.write(&[row(&["NAME", "READY", "A"]), row(&["web-1", "1/1", "5s"])], &mut out);
        assert_eq!(out, "NAME    READY   A\nweb-1   1/1     5s\n");
        out.clear();
        table.write(&[row(&["x", "0/1", "6s"])], &mut out);
        assert_eq!(out, "x       0/1     6s\n");
    }

    #[test]
    fn runs_of_adjacent_lines_are_aligned_by_themselves() {
        assert_eq!(align("Name:\tweb\nNamespace:\td\n"), "Name:       web\nNamespace:  d\n");
        assert_eq!(align("A:\tx\nBreak:\nLonger:\ty\n"), "A:  x\nBreak:\nLonger:  y\n");
        assert_eq!(align("  Type\tStatus\n  Ready \tTrue \n"), "  Type    Status\n  Ready   True \n");
        assert_eq!(align("K:\ta\n\tb\n"), "K:  a\n    b\n");
    }
}
