//! The events and what came of each, as a table.

use std::time::Duration;

use super::shares::Fit;
use super::trial::Excused;
use crate::crowd::{Trouble, Window};

/// What came of one event.
pub struct Row {
    pub title: String,
    /// Long-lived connections at its end.
    pub open: usize,
    pub closed: u64,
    pub broken: usize,
    /// Broken or failed, and not held against the node.
    pub excused: usize,
    pub moved: usize,
    pub short: u64,
    pub failed: usize,
    pub late: u64,
    pub slowest: Duration,
    pub fit: Fit,
}

impl Row {
    pub fn of(title: &str, window: &Window, excused: &Excused, fit: Fit) -> Self {
        let counts = |trouble: &&Trouble| !excused.holds(trouble);
        let broken = window.broken.iter().filter(counts).count();
        let failed = window.failed.iter().filter(counts).count();
        Self {
            title: title.to_owned(),
            open: window.connections(),
            closed: window.closed,
            broken,
            excused: window.broken.len() + window.failed.len() - broken - failed,
            moved: window.moved.len(),
            short: window.short,
            failed,
            late: window.late,
            slowest: window.slowest,
            fit,
        }
    }
}

const HEAD: [&str; 2] = [
    "                                              long-lived                  either     short              longest  by weight",
    "event                                     open  closed  broken   moved  excused     all  failed    late     wait   flows       p",
];

/// All of them.
pub fn table(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let Row { title, open, closed, broken, excused, moved, short, failed, late, slowest, fit } = row;
        let (milliseconds, flows, p) = (slowest.as_millis(), fit.flows, fit.p());
        format!(
            "\n{title:<38}{open:>8}{closed:>8}{broken:>8}{moved:>8}{excused:>9}\
             {short:>8}{failed:>8}{late:>8}{milliseconds:>6} ms{flows:>8}{p:>8}"
        )
    };
    HEAD.join("\n") + &rows.iter().map(line).collect::<String>()
}
