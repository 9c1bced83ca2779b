//! The node's counters, as it shows them on `/metrics` (the Prometheus text format).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| sample(line).with_context(|| format!("metrics line {line}"))).collect::<Result<_>>().map(Self)
    }

    /// Every sample of a metric.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// A metric summed over all its labels; 0 where it does not stand.
    pub fn sum(&self, name: &str) -> u64 {
        self.of(name).map(|sample| sample.value).sum::<f64>() as u64
    }

    /// A metric summed over the samples whose label has that value.
    pub fn sum_where(&self, name: &str, label: &str, is: impl Fn(&str) -> bool) -> u64 {
        let samples = self.of(name).filter(|sample| sample.labels.get(label).is_some_and(|value| is(value)));
        samples.map(|sample| sample.value).sum::<f64>() as u64
    }

    /// Packets that a backend of a service was sent; its label may or may not name the port.
    pub fn backend_packets(&self, service: &str, address: &str) -> u64 {
        let port = format!("{address}:");
        let samples = self.of("penstock_backend_packets_total").filter(|sample| {
            let label = |name| sample.labels.get(name).map_or("", String::as_str);
            label("service") == service && (label("backend") == address || label("backend").starts_with(&port))
        });
        samples.map(|sample| sample.value).sum::<f64>() as u64
    }

    /// The version of the definitions in force.
    pub fn version(&self) -> Option<&str> {
        let mut live = self.of("penstock_definitions_version_info").filter(|sample| sample.value == 1.0);
        live.next().and_then(|sample| sample.labels.get("version")).map(String::as_str)
    }
}

/// `name{label="value",…} 1` or `name 1`, perhaps with a time stamp after it.
fn sample(line: &str) -> Result<Sample> {
    let (name, mut rest) = line.split_at(line.find(['{', ' ']).context("no value")?);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"").context("a label without a value")?;
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().context("a label without its closing quote")? {
                    (at, '"') => break at + 1,
                    (_, '\\') => match characters.next().context("a lone backslash")?.1 {
                        'n' => value.push('\n'),
                        other => value.push(other),
                    },
                    (_, other) => value.push(other),
                }
            };
            labels.insert(label.to_string(), value);
            rest = &after[end..];
        }
    }
    let Some(value) = rest.split_whitespace().next() else { bail!("no value") };
    Ok(Sample { name: name.to_string(), labels, value: value.parse()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_commas_braces_and_quotes_are_read() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1,}\\\"\",y=\"2\"} 3\na{x=\"1\",y=\"2\"} 4 1700000000\nb 5\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!((metrics.sum("a"), metrics.sum("b"), metrics.sum("c")), (7, 5, 0));
        assert_eq!(metrics.sum_where("a", "x", |x| x == "1,}\""), 3);
    }

    #[test]
    fn a_line_without_a_value_is_an_error() {
        assert!(Metrics::parse("a{x=\"1\"}").is_err());
        assert!(Metrics::parse("a{x=\"1} 2").is_err());
    }

    #[test]
    fn a_backend_is_found_with_or_without_its_port() {
        let text = r#"penstock_backend_packets_total{service="web",backend="10.1.1.2:80"} 3
penstock_backend_packets_total{service="web",backend="10.1.1.20"} 4
penstock_backend_packets_total{service="shop",backend="10.1.1.2:80"} 5"#;
        assert_eq!(Metrics::parse(text).unwrap().backend_packets("web", "10.1.1.2"), 3);
    }
}
