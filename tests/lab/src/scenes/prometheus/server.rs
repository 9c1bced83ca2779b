//! Prometheus itself, beside the node, by the files of `conf/prometheus`.

use std::rc::Rc;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::node::METRICS;
use crate::process::{Process, output};

pub const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/prometheus");

const LISTEN: &str = "127.0.0.1:9090";

pub struct Prometheus {
    host: Rc<Namespace>,
    process: Process,
}

/// A rule as Prometheus has it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub name: String,
    pub query: String,
    pub is_alert: bool,
    /// Of an alert: "inactive", "pending" or "firing".
    pub state: String,
    pub health: String,
    /// When it was asked last; years ago where it never was.
    pub last_evaluation: String,
}

/// The names of the rules that are written.
pub fn written_rules() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(format!("{CONFIGURATION}/rules.yml"))?;
    let name = |line: &str| {
        let rule = line.trim().strip_prefix("- ")?;
        rule.strip_prefix("alert: ").or_else(|| rule.strip_prefix("record: ")).map(str::to_owned)
    };
    Ok(text.lines().filter_map(name).collect())
}

impl Prometheus {
    /// By the example, but for whom it scrapes and how often.
    pub fn start(lab: &Lab) -> Result<Self> {
        let directory = lab.directory().join("prometheus");
        std::fs::create_dir_all(&directory)?;
        std::fs::copy(format!("{CONFIGURATION}/rules.yml"), directory.join("rules.yml"))?;
        let mut text = std::fs::read_to_string(format!("{CONFIGURATION}/scrape.yml"))?;
        let own = format!("\"{METRICS}\"");
        for (example, here) in [
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("\"10.0.0.1:9341\", \"10.0.0.2:9341\"", &own),
        ] {
            if !text.contains(example) {
                bail!("scrape.yml has no {example}");
            }
            text = text.replace(example, here);
        }
        let configuration = directory.join("prometheus.yml");
        std::fs::write(&configuration, text)?;
        let host = lab.node.namespace.clone();
        let mut command = host.helper("prometheus");
        command.arg(format!("--config.file={}", configuration.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address={LISTEN}"));
        let process = Process::start(&mut command, &directory.join("prometheus.log"))?;
        Ok(Self { host, process })
    }

    /// The values that an expression gives, those left out that are no number.
    pub fn query(&self, expression: &str) -> Result<Vec<f64>> {
        let answer = self.get("query", Some(expression)).with_context(|| expression.to_owned())?;
        let values: Vec<&Value> = match answer["resultType"].as_str() {
            Some("scalar") => vec![&answer["result"]],
            Some("vector") => answer["result"].as_array().into_iter().flatten().map(|one| &one["value"]).collect(),
            other => bail!("{expression}: a result of type {other:?}"),
        };
        let values: Result<Vec<f64>> = values
            .into_iter()
            .map(|value| Ok(value[1].as_str().context("a value is a string")?.parse::<f64>()?))
            .collect();
        Ok(values?.into_iter().filter(|value| !value.is_nan()).collect())
    }

    /// The first of them.
    pub fn one(&self, expression: &str) -> Result<Option<f64>> {
        Ok(self.query(expression)?.first().copied())
    }

    /// All rules that it has loaded.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        let answer = self.get("rules", None)?;
        let groups = answer["groups"].as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let rule = |rule: &Value| {
            let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
            let is_alert = rule["type"] == "alerting";
            let (name, query, state, health) = (text("name"), text("query"), text("state"), text("health"));
            Rule { name, query, is_alert, state, health, last_evaluation: text("lastEvaluation") }
        };
        Ok(rules.map(rule).collect())
    }

    pub fn tail(&self) -> String {
        self.process.tail()
    }

    fn get(&self, what: &str, query: Option<&str>) -> Result<Value> {
        let mut curl = self.host.command("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "5", "--get"]);
        if let Some(query) = query {
            curl.arg("--data-urlencode").arg(format!("query={query}"));
        }
        let said = output(curl.arg(format!("http://{LISTEN}/api/v1/{what}")))?;
        let answer: Value = serde_json::from_str(&said).context("Prometheus' answer")?;
        Ok(answer["data"].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_that_is_written_is_known_by_name() -> Result<()> {
        let text = std::fs::read_to_string(format!("{CONFIGURATION}/rules.yml"))?;
        assert_eq!(written_rules()?.len(), text.matches("expr:").count());
        Ok(())
    }
}
