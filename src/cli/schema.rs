//! `penstock schema`: what documents may say, and what counters mean.

use std::io::{self, Write};

use serde_json::json;

use super::{Failure, print_json};
use crate::config::keys::CONFIG;
use crate::counters::{Reason, VERDICTS};
use crate::service::keys::DEFINITIONS;
use crate::service::shape;

/// Print the JSON Schema of a document, or what the counters mean
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What it describes
    #[arg(value_enum)]
    pub of: Of,
    /// Print the counters as one JSON document too (schemas always are)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Of {
    /// The JSON Schema (draft 2020-12) of service definitions
    Services,
    /// The JSON Schema of the node's configuration, which is written in TOML
    Config,
    /// Every verdict, drop reason and metric, with its meaning
    Counters,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match (args.of, args.json) {
        (Of::Services, _) => print_json(&services())?,
        (Of::Config, _) => print_json(&config())?,
        (Of::Counters, true) => print_json(&counters())?,
        (Of::Counters, false) => print_counters()?,
    }
    Ok(())
}

pub fn services() -> serde_json::Value {
    shape::schema("Penstock: service definitions", DEFINITIONS)
}

pub fn config() -> serde_json::Value {
    shape::schema("Penstock: the node's configuration, penstock.toml", CONFIG)
}

/// Name, kind and meaning of every metric; none where the binary was built without its control side.
fn metrics() -> Vec<(&'static str, String, &'static str)> {
    #[cfg(feature = "control")]
    let metrics = crate::telemetry::listed().map(|(name, kind, help)| (name, format!("{kind:?}").to_lowercase(), help));
    #[cfg(not(feature = "control"))]
    let metrics = std::iter::empty();
    metrics.collect()
}

fn counters() -> serde_json::Value {
    let verdicts: Vec<_> = VERDICTS.iter().map(|(name, meaning)| json!({"name": name, "meaning": meaning})).collect();
    let reasons: Vec<_> =
        Reason::ALL.iter().map(|reason| json!({"name": reason.name(), "meaning": reason.help()})).collect();
    let metrics: Vec<_> =
        metrics().iter().map(|(name, kind, meaning)| json!({"name": name, "kind": kind, "meaning": meaning})).collect();
    json!({"verdicts": verdicts, "reasons": reasons, "metrics": metrics})
}

fn print_counters() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "What becomes of a frame; received is the sum of these:")?;
    let width = VERDICTS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, meaning) in VERDICTS {
        writeln!(out, "  {name:width$}  {meaning}")?;
    }
    writeln!(out, "\nWhy a frame was dropped, in the order in which refusals are tested:")?;
    let width = Reason::ALL.iter().map(|reason| reason.name().len()).max().unwrap_or(0);
    for reason in Reason::ALL {
        writeln!(out, "  {:width$}  {}", reason.name(), reason.help())?;
    }
    let metrics = metrics();
    if !metrics.is_empty() {
        writeln!(out, "\nWhat /metrics tells:")?;
    }
    let width = metrics.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (name, kind, meaning) in metrics {
        writeln!(out, "  {name:width$}  {kind:9}  {meaning}")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::problem::{Path, Report};
    use crate::service::shape::{Key, Shape};
    use crate::service::tree::{self, Value};

    /// What the reader says of keys and values by themselves.
    fn errors(tree: &Value<'_>, keys: &'static [Key]) -> Vec<String> {
        let mut report = Report::new("d");
        shape::check(tree, &Shape::Object(keys), &Path::default(), &mut report);
        report.errors.iter().map(ToString::to_string).collect()
    }

    /// The schema may let pass what a pattern cannot say; it may never refuse what the reader takes.
    fn agree(schema: &jsonschema::Validator, document: &serde_json::Value, errors: &[String]) {
        let cannot_say = [
            "is not a prime",
            "is not an IPv4",
            "stands twice",
            "is not a duration from",
            "a range of ports",
            "is not a URL",
        ];
        let sayable = errors.iter().any(|error| !cannot_say.iter().any(|text| error.contains(text)));
        match schema.is_valid(document) {
            true => assert!(!sayable, "the schema takes {document}, the reader says {errors:?}"),
            false => assert!(!errors.is_empty(), "the schema refuses {document}"),
        }
    }

    fn validator(schema: &serde_json::Value) -> jsonschema::Validator {
        jsonschema::draft202012::new(schema).expect("a good schema")
    }

    #[test]
    fn the_schema_of_services_and_the_reader_agree() {
        let schema = validator(&services());
        for document in crate::service::tests::documents() {
            let Ok(tree) = tree::json(&document, "d") else { continue };
            let Ok(plain) = serde_json::from_slice(&document) else { continue };
            agree(&schema, &plain, &errors(&tree, DEFINITIONS));
        }
    }

    #[test]
    fn the_schema_of_the_configuration_and_the_reader_agree() {
        let schema = validator(&config());
        for document in crate::config::tests::documents() {
            let Ok(tree) = tree::toml(document.as_bytes(), "d") else { continue };
            let plain = toml::from_str(&document).expect("TOML");
            agree(&schema, &plain, &errors(&tree, CONFIG));
        }
    }

    #[test]
    fn the_schemas_are_schemas() {
        for schema in [services(), config()] {
            assert!(jsonschema::meta::is_valid(&schema));
        }
    }
}
