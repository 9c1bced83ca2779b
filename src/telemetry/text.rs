//! Prometheus' text format, version 0.0.4, written.

use std::fmt::{self, Display, Write};

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As the format says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Names and values of labels.
pub type Labels<'a> = [(&'static str, &'a dyn Display)];

/// The samples of one metric. Its head is written with the first of them, so a metric without any leaves nothing.
pub struct Series<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    has_head: bool,
}

impl<'a> Series<'a> {
    /// Behind what `text` holds.
    pub fn new(text: &'a mut String, name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { text, name, kind, help, has_head: false }
    }

    pub fn add(&mut self, labels: &Labels<'_>, value: impl Display) {
        self.line("", labels, value);
    }

    /// A histogram: so many in each part, the last of which is beyond the last bound; and the sum of all.
    pub fn histogram(&mut self, labels: &Labels<'_>, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut below = 0;
        for (place, count) in counts.iter().enumerate() {
            below += count;
            let bound: &dyn Display = bounds.get(place).map_or(&"+Inf", |bound| bound);
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            self.line("_bucket", &labels, below);
        }
        self.line("_sum", labels, sum);
        self.line("_count", labels, below);
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, value: impl Display) {
        if !self.has_head {
            self.has_head = true;
            let (name, kind) = (self.name, self.kind.name());
            put(self.text, format_args!("# HELP {name} {}\n# TYPE {name} {kind}\n", self.help));
        }
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (place, (label, value)) in labels.iter().enumerate() {
            self.text.push(if place == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            put(&mut Escaped(self.text), format_args!("{value}"));
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        put(self.text, format_args!(" {value}\n"));
    }
}

/// A string takes everything.
fn put(to: &mut impl Write, what: fmt::Arguments<'_>) {
    let _ = to.write_fmt(what);
}

/// A label's value, in which quotes, backslashes and line ends are escaped.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(['"', '\\', '\n']) {
            self.0.push_str(text);
            return Ok(());
        }
        for letter in text.chars() {
            match letter {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_its_head_once_and_none_without_samples() {
        let mut text = String::new();
        Series::new(&mut text, "nothing", Kind::Gauge, "Nothing.");
        let mut series = Series::new(&mut text, "a_total", Kind::Counter, "Some.");
        series.add(&[], 3);
        series.add(&[("x", &"a\"b\\c\nd"), ("y", &7)], 0.5);
        let wanted =
            "# HELP a_total Some.\n# TYPE a_total counter\na_total 3\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"7\"} 0.5\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut text = String::new();
        Series::new(&mut text, "h", Kind::Histogram, "H.").histogram(&[("k", &"v")], &[0.1, 1.0], &[2, 0, 3], 9.5);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                r#"h_bucket{k="v",le="0.1"} 2"#,
                r#"h_bucket{k="v",le="1"} 2"#,
                r#"h_bucket{k="v",le="+Inf"} 5"#,
                r#"h_sum{k="v"} 9.5"#,
                r#"h_count{k="v"} 5"#,
            ]
        );
    }
}
