//! The documents that subcommands are given: the node's configuration and service definitions.

use std::path::Path;

use super::{Failure, say};
use crate::config::{self, Config, Feed};
use crate::service::{self, Definitions, Errors, Problem, Warning};

/// Both documents, valid and fitting each other.
#[derive(Debug)]
pub struct Inputs {
    pub config: Config,
    pub definitions: Definitions,
}

/// Everything that was found in both documents.
pub(super) struct Findings {
    pub config: Option<Config>,
    /// With the name of their file.
    pub definitions: Option<(Definitions, String)>,
    pub errors: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

/// Reads both documents and prints their warnings; all errors of both at once.
pub fn inputs(config: &Path, services: &Path) -> Result<Inputs, Failure> {
    let findings = find(config, Some(services));
    warn(&findings.warnings);
    match findings {
        Findings { config: Some(config), definitions: Some((definitions, _)), errors, .. } if errors.is_empty() => {
            Ok(Inputs { config, definitions })
        }
        findings => Err(Errors(findings.errors).into()),
    }
}

/// Reads definitions and holds them against the configuration. What is unchanged is shared with `previous`.
pub fn services(
    path: &Path,
    config: &Config,
    previous: Option<&Definitions>,
) -> Result<(Definitions, Vec<Warning>), Errors> {
    let file = path.display().to_string();
    let (definitions, warnings) = read(path, previous)?;
    config::fit(config, &definitions, &file)?;
    Ok((definitions, warnings))
}

/// Prints warnings to stderr.
pub fn warn(warnings: &[Warning]) {
    for warning in warnings {
        say(format_args!("warning: {warning}"));
    }
}

/// Reads the configuration and the definitions: those named, else those of the feed, where it is a file.
pub(super) fn find(config: &Path, services: Option<&Path>) -> Findings {
    let mut findings = Findings { config: None, definitions: None, errors: Vec::new(), warnings: Vec::new() };
    match Config::load(config) {
        Ok((config, warnings)) => {
            findings.config = Some(config);
            findings.warnings.extend(warnings);
        }
        Err(Errors(errors)) => findings.errors.extend(errors),
    }
    let of_feed = match &findings.config {
        Some(Config { feed: Feed::File { path }, .. }) => Some(path.clone()),
        _ => None,
    };
    let Some(path) = services.map(Path::to_owned).or(of_feed) else { return findings };
    match read(&path, None) {
        Ok((definitions, warnings)) => {
            let file = path.display().to_string();
            if let Some(Errors(errors)) =
                findings.config.as_ref().and_then(|config| config::fit(config, &definitions, &file).err())
            {
                findings.errors.extend(errors);
            }
            findings.definitions = Some((definitions, file));
            findings.warnings.extend(warnings);
        }
        Err(Errors(errors)) => findings.errors.extend(errors),
    }
    findings
}

/// Reads definitions by themselves; `-` is standard input.
pub fn definitions(path: &Path) -> Result<(Definitions, Vec<Warning>), Errors> {
    if path != Path::new("-") {
        return read(path, None);
    }
    const NAME: &str = "standard input";
    let document = std::io::read_to_string(std::io::stdin())
        .map_err(|error| Errors::whole(NAME, format!("cannot be read: {error}")))?;
    service::read(document, NAME, None)
}

fn read(path: &Path, previous: Option<&Definitions>) -> Result<(Definitions, Vec<Warning>), Errors> {
    let file = path.display().to_string();
    let document = std::fs::read(path).map_err(|error| Errors::whole(&file, format!("cannot be read: {error}")))?;
    service::read(document, &file, previous)
}
