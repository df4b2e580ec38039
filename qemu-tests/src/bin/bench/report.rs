//! Figures and how they are shown: a table with peers and budgets, and tables of stages.
//!
//! In: measured figures. Out: text that reads well as it is and as Markdown. Failure: none; without a figure
//! there is no median.

use std::fmt;

/// Binary megabytes, as budgets state them.
pub const MIB: f64 = 1024.0 * 1024.0;

/// What a figure counts.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Time.
    Seconds,
    /// Size.
    Bytes,
    /// Bytes a second.
    Rate,
}

impl Unit {
    /// The figure as text.
    pub fn show(self, figure: f64) -> String {
        match self {
            Self::Seconds => format!("{figure:.3} s"),
            Self::Bytes => format!("{:.3} MiB", figure / MIB),
            Self::Rate => format!("{:.3} GB/s", figure / 1e9),
        }
    }
}

/// What a budget limits.
#[derive(Clone, Copy)]
pub enum Budget {
    /// No budget: the figure stands for itself.
    None,
    /// The ratio to the peer.
    Ratio(f64),
    /// The figure.
    Figure(f64),
}

/// One figure of ours, that of a peer if there is one, and what they are held to.
pub struct Row {
    /// What was measured.
    pub what: String,
    /// What it counts.
    pub unit: Unit,
    /// Ours.
    pub figure: f64,
    /// The peer's.
    pub peer: Option<f64>,
    /// What is allowed.
    pub budget: Budget,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|peer| self.figure / peer)
    }

    /// Whether the budget is kept; `None` without one.
    fn kept(&self) -> Option<bool> {
        match self.budget {
            Budget::None => None,
            Budget::Figure(most) => Some(self.figure <= most),
            Budget::Ratio(most) => self.ratio().map(|ratio| ratio <= most),
        }
    }

    fn cells(&self) -> Vec<String> {
        let none = || "-".to_owned();
        let budget = match self.budget {
            Budget::None => none(),
            Budget::Ratio(most) => format!("ratio {most:.2}"),
            Budget::Figure(most) => self.unit.show(most),
        };
        let verdict = self.kept().map_or("-", |kept| if kept { "ok" } else { "over" });
        vec![
            self.what.clone(),
            self.unit.show(self.figure),
            self.peer.map_or_else(none, |peer| self.unit.show(peer)),
            self.ratio().map_or_else(none, |ratio| format!("{ratio:.2}")),
            budget,
            verdict.to_owned(),
        ]
    }
}

/// A table with a title.
pub struct Table {
    /// What stands above it.
    pub title: String,
    /// The names of the columns.
    pub head: Vec<&'static str>,
    /// The cells, line by line.
    pub lines: Vec<Vec<String>>,
}

/// All that was measured.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    tables: Vec<Table>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure.
    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a table of its own, shown below the figures.
    pub fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Adds a sentence that a reader of the figures should know, shown last.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = Table {
            title: "Figures".to_owned(),
            head: vec!["what", "zstrap", "peer", "ratio", "budget", "verdict"],
            lines: self.rows.iter().map(Row::cells).collect(),
        };
        figures.fmt(out)?;
        self.tables.iter().try_for_each(|table| table.fmt(out))?;
        writeln!(out)?;
        self.notes.iter().try_for_each(|note| writeln!(out, "- {note}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<String> = self.head.iter().map(|&name| name.to_owned()).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|column| {
                let cells = std::iter::once(&head).chain(&self.lines);
                cells.filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        writeln!(out, "\n{}\n", self.title)?;
        write_line(out, &head, &widths)?;
        // Names stand to the left, figures to the right: Markdown says it with a colon.
        let rule = widths.iter().enumerate().map(|(column, width)| {
            if column == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
        });
        write_line(out, &rule.collect::<Vec<_>>(), &widths)?;
        self.lines.iter().try_for_each(|line| write_line(out, line, &widths))
    }
}

fn write_line(out: &mut fmt::Formatter<'_>, cells: &[String], widths: &[usize]) -> fmt::Result {
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        match column {
            0 => write!(out, "| {cell:<width$} |")?,
            _ => write!(out, " {cell:>width$} |")?,
        }
    }
    writeln!(out)
}

/// The middle of the figures, or between the two in the middle; `None` without any.
pub fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((sorted.get(middle - 1)? + upper) / 2.0) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(figure: f64, budget: Budget) -> Row {
        Row { what: "boot".to_owned(), unit: Unit::Seconds, figure, peer: Some(2.0), budget }
    }

    #[test]
    fn median_is_the_middle_whatever_the_order() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn verdict_compares_with_what_the_budget_limits() {
        assert_eq!(row(1.9, Budget::Ratio(1.0)).kept(), Some(true));
        assert_eq!(row(2.1, Budget::Ratio(1.0)).kept(), Some(false));
        assert_eq!(row(2.1, Budget::Figure(2.2)).kept(), Some(true));
        assert_eq!(row(2.3, Budget::Figure(2.2)).kept(), Some(false));
        assert_eq!(row(9.0, Budget::None).kept(), None);
    }

    #[test]
    fn table_is_markdown_that_stands_in_columns() {
        let mut report = Report::default();
        report.row(row(1.5, Budget::Ratio(0.5)));
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with('|')).collect();
        assert_eq!(lines[0], "| what |  zstrap |    peer | ratio |     budget | verdict |");
        assert_eq!(lines[1], "| ---- | ------: | ------: | ----: | ---------: | ------: |");
        assert_eq!(lines[2], "| boot | 1.500 s | 2.000 s |  0.75 | ratio 0.50 |    over |");
    }
}
