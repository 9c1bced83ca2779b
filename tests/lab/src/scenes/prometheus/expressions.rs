//! Expressions of PromQL: those of the dashboard, and what an alert looks at.

use anyhow::{Context, Result};
use serde_json::Value;

const DASHBOARD: &str = include_str!("../../../../../conf/grafana/penstock.json");

/// What Grafana puts in place of each variable where "All" is chosen; the window is one that holds several scrapes.
const VARIABLES: [(&str, &str); 3] = [("$node", ".*"), ("$service", ".*"), ("$__rate_interval", "1m")];

pub struct Dashboard(Value);

impl Dashboard {
    pub fn read() -> Result<Self> {
        Ok(Self(serde_json::from_str(DASHBOARD).context("conf/grafana/penstock.json")?))
    }

    /// Every expression with the title of its panel, as Grafana would ask; and one for each variable.
    pub fn expressions(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for panel in self.0["panels"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap_or_default();
            let targets = panel["targets"].as_array().into_iter().flatten();
            let expressions = targets.filter_map(|target| target["expr"].as_str());
            found.extend(expressions.map(|expression| (title.to_owned(), filled_in(expression))));
        }
        // What happens is marked where an expression has a result: mostly it has none.
        for annotation in self.0["annotations"]["list"].as_array().into_iter().flatten() {
            if let Some(expression) = annotation["expr"].as_str() {
                found.push((format!("annotation {}", annotation["name"]), without_threshold(&filled_in(expression))));
            }
        }
        for variable in self.0["templating"]["list"].as_array().into_iter().flatten() {
            let query = variable["query"]["query"].as_str().and_then(|query| query.strip_prefix("label_values("));
            if let Some((series, label)) = query.and_then(|query| query.strip_suffix(')')?.rsplit_once(", ")) {
                let title = format!("variable {}", variable["name"]);
                // Those that have no such label do not count.
                let (name, matchers) = series.split_once('{').unwrap_or((series, "}"));
                let comma = if matchers == "}" { "" } else { ", " };
                found.push((title, filled_in(&format!("{name}{{{label}!=\"\"{comma}{matchers}"))));
            }
        }
        found
    }
}

fn filled_in(expression: &str) -> String {
    VARIABLES.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// An alert's expression, with 0 or 1 for each series that it looks at instead of those alone that meet its threshold.
pub fn without_threshold(expression: &str) -> String {
    let (mut text, mut rest, mut depth) = (String::new(), expression, 0);
    while let Some(first) = rest.chars().next() {
        // Strings, and the operators of matchers between braces, are no comparisons.
        let taken = match first {
            '"' => 2 + rest[1..].find('"').unwrap_or(rest.len().saturating_sub(2)),
            '=' | '!' | '<' | '>' if depth == 0 => 1 + usize::from(rest[1..].starts_with('=')),
            other => other.len_utf8(),
        };
        depth += i32::from(first == '{') - i32::from(first == '}');
        let (token, after) = rest.split_at(taken);
        text += token;
        if depth == 0 && matches!(token, "==" | "!=" | ">=" | "<=" | ">" | "<") {
            text += " bool";
        }
        rest = after;
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_comparison_is_made_to_answer_for_every_series() {
        for (alert, always) in [
            ("up{job=\"a\"} == 0", "up{job=\"a\"} == bool 0"),
            ("a{x!=\"=>\",y=~\"b\"} / b >= 0.1", "a{x!=\"=>\",y=~\"b\"} / b >= bool 0.1"),
            ("(time() - a > 9) and on (b) c != 1", "(time() - a > bool 9) and on (b) c != bool 1"),
        ] {
            assert_eq!(without_threshold(alert), always);
        }
    }

    #[test]
    fn the_dashboard_is_asked_as_grafana_would() -> Result<()> {
        let all = Dashboard::read()?.expressions();
        if let Some((title, expression)) = all.iter().find(|(_, expression)| expression.contains('$')) {
            bail!("{title}: {expression} has a variable that is not known here");
        }
        let variables: Vec<_> = all.iter().filter(|(title, _)| title.starts_with("variable ")).collect();
        assert_eq!(variables[0].1, "penstock_build_info{instance!=\"\"}");
        assert_eq!(variables[1].1, "penstock_service_packets_total{service!=\"\", instance=~\".*\"}");
        Ok(())
    }
}
